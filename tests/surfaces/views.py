# SPDX-License-Identifier: Apache-2.0
"""Views of planes whose depth is known."""

import math
from typing import Tuple

import torch
from torch import Tensor

from nts_plugins.surfaces.depth_views import DepthView

SIZE = (30, 40)
"""Height and width."""
K = torch.tensor([[35.0, 0.0, 19.5], [0.0, 34.0, 15.25], [0.0, 0.0, 1.0]])


def viewmat_at(position: "list[float]", turned: float = 0.0) -> Tensor:
    """World to camera of a camera somewhere, looking along z, turned around the vertical axis (y)."""
    viewmat = torch.eye(4)
    viewmat[0, 0] = viewmat[2, 2] = math.cos(turned)
    viewmat[0, 2], viewmat[2, 0] = -math.sin(turned), math.sin(turned)
    viewmat[:3, 3] = -viewmat[:3, :3] @ torch.tensor(position)
    return viewmat


def of_plane(viewmat: Tensor, normal: "list[float]", offset: float, size: Tuple[int, int] = SIZE) -> DepthView:
    """A view of the plane normal . x = offset, whose depth is solved for each pixel by hand."""
    rows, columns = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    rays = torch.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], torch.ones_like(rows)], dim=-1)
    world = rays @ viewmat[:3, :3]
    position = -viewmat[:3, :3].T @ viewmat[:3, 3]
    across = torch.tensor(normal)
    return DepthView((offset - position @ across) / (world @ across), viewmat, K)
