# SPDX-License-Identifier: Apache-2.0
"""Losses on the shape of splats."""

import torch
from torch import Tensor


def needle_loss(log_scales: Tensor, ratio: float) -> Tensor:
    """Mean excess of longest over shortest axis beyond a ratio, times 0.1 (PhysGaussian, Xie et al. 2024). [N, 3]."""
    spread = torch.exp(log_scales.amax(dim=-1) - log_scales.amin(dim=-1))
    return 0.1 * (spread - ratio).clamp_min(0.0).mean()


def flattening_loss(log_scales: Tensor) -> Tensor:
    """Mean ratio of the smallest to the middle axis, 0 for discs. [N, 3].

    NeuSG (Chen et al. 2023) and PGSR (Chen et al. 2024) take the smallest axis itself, which counts large splats more
    and depends on the unit of the scene. No gradient reaches the middle axis: splats get thinner and not wider.
    """
    smallest, middle, _ = log_scales.sort(dim=-1).values.unbind(dim=-1)
    return torch.exp(smallest - middle.detach()).mean()
