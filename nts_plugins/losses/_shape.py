# SPDX-License-Identifier: Apache-2.0
"""Losses on the shape of splats."""

import torch
from torch import Tensor


def needle_loss(log_scales: Tensor, ratio: float) -> Tensor:
    """Mean excess of longest over shortest axis beyond a ratio, times 0.1 (PhysGaussian, Xie et al. 2024). [N, 3]."""
    spread = torch.exp(log_scales.amax(dim=-1) - log_scales.amin(dim=-1))
    return 0.1 * (spread - ratio).clamp_min(0.0).mean()
