# SPDX-License-Identifier: Apache-2.0
"""Features of every point of a cube, kept on three planes (Chan et al. 2022, EG3D)."""

import torch
from torch import Tensor, nn
from torch.nn import Parameter

PLANES = ((0, 1), (1, 2), (2, 0))
"""The axes of each plane: xy, yz, zx."""


class TriPlanes(nn.Module):
    """Three planes of features, read bilinearly where a point projects to, one after the other.

    Args:
        channels: of each plane.
        resolution: texels along a side. The first and the last lie at -1 and 1.
        deviation: of the normal distribution that features begin with.
    """

    features: Tensor

    def __init__(self, channels: int = 16, resolution: int = 192, deviation: float = 1e-3) -> None:
        super().__init__()
        self.features = Parameter(deviation * torch.randn(3, channels, resolution, resolution))

    @property
    def width(self) -> int:
        """Features of a point."""
        return 3 * self.features.shape[1]

    def forward(self, points: Tensor) -> Tensor:
        """[M, width] at points [M, 3] in [-1, 1]^3. Differentiable with respect to features and points."""
        places = torch.stack([points[:, axes] for axes in PLANES])[:, None]  # [3, 1, M, 2]
        found = nn.functional.grid_sample(self.features, places, align_corners=True)  # [3, channels, 1, M]
        return found[:, :, 0].flatten(0, 1).T
