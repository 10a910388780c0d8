# SPDX-License-Identifier: Apache-2.0
"""Scenes of any size, carried into the cube that fields cover."""

from typing import Literal, Sequence

import torch
from torch import Tensor, nn

RegionKind = Literal["box", "unbounded"]


class Region(nn.Module):
    """Where a field has its detail. Kept in checkpoints, since a trained field means nothing elsewhere.

    Args:
        kind: "box": the cube around the centre fills the field, and what lies outside goes to its nearest side.
            "unbounded": the ball around the centre fills half of the field, and everything outside has its place in the
            other half, the farther the denser (Barron et al. 2022, Mip-NeRF 360, equation 10).
        center: scene units.
        radius: of the ball, or half the side of the cube, scene units.
    """

    center: Tensor
    radius: Tensor

    def __init__(
        self, kind: RegionKind = "unbounded", center: Sequence[float] = (0.0, 0.0, 0.0), radius: float = 1.0
    ) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("center", torch.tensor(center, dtype=torch.float32))
        self.register_buffer("radius", torch.tensor(radius, dtype=torch.float32))

    def forward(self, points: Tensor) -> Tensor:
        """Points [..., 3] of the scene as points in [-1, 1]^3. Differentiable."""
        near = (points - self.center.to(points)) / self.radius.to(points)
        if self.kind == "box":
            return near.clamp(-1.0, 1.0)
        distance = near.norm(dim=-1, keepdim=True).clamp_min(1.0)
        return 0.5 * (2.0 - 1.0 / distance) * near / distance
