# SPDX-License-Identifier: Apache-2.0
"""Which places in two pictures of a scene show the same, and how much that says of their latents.

Latent Radiance Fields (Zhou, Liu, Luo, Huang, ICLR 2025, arXiv 2502.09613), stage I. The paper takes matches from
structure from motion. Here they come from depth, as trained splats of any method draw it: then every latent has one,
and not only those at corners of things.
"""

from dataclasses import dataclass
from typing import List

import torch
from torch import Tensor

from nts_plugins.surfaces.depth_views import DepthView

CLOSE = 0.02
"""Relative difference up to which two views' depths are of the same place."""


@dataclass(frozen=True)
class PosedPicture(DepthView):
    """A photograph with its camera, and how far away things are."""

    picture: Tensor
    """[H, W, 3] uint8."""


def pose_distances(viewmats: Tensor) -> Tensor:
    """[V, V] how far apart cameras are: ``||P_i^-1 P_j - I||_F`` of their poses P, camera to world.

    0 for the same pose, symmetric. The paper's weights come from this "absolute pose error" (its authors, in answers);
    lengths are in units of the median distance of two cameras, which is ours.

    Args:
        viewmats: [V, 4, 4] world to camera, rigid.
    """
    viewmats = viewmats.double()
    relative = viewmats[:, None] @ torch.linalg.inv(viewmats)[None]
    lengths = relative[..., :3, 3].norm(dim=-1)
    apart = lengths[lengths > 1e-6 * lengths.max()]
    unit = apart.median() if len(apart) else lengths.new_ones(())
    turned = relative[..., :3, :3] - torch.eye(3, dtype=torch.float64)
    return (turned.square().sum(dim=(-2, -1)) + (lengths / unit).square()).sqrt().float()


def pair_weights(distances: Tensor) -> Tensor:
    """1 / (1 + distance): latents of views that are far apart may differ more. The paper does not say how it goes from
    distances to weights; this is ours."""
    return 1.0 / (1.0 + distances)


def neighbours(distances: Tensor, count: int) -> List[List[int]]:
    """For each view the ``count`` nearest others, nearest first.

    Args:
        distances: [V, V] of :func:`pose_distances`.
    """
    order = (distances + torch.diag(distances.new_full((len(distances),), float("inf")))).argsort(dim=1)
    return [row[: min(count, len(distances) - 1)] for row in order.tolist()]
