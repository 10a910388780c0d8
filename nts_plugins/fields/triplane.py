# SPDX-License-Identifier: Apache-2.0
"""Features of every point of a cube, kept on three planes (Chan et al. 2022, EG3D)."""

import torch
from torch import Tensor, nn
from torch.nn import Parameter


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
        # Channels last: what is read of a texel lies side by side.
        self.features = Parameter(deviation * torch.randn(3, resolution, resolution, channels))

    @property
    def width(self) -> int:
        """Features of a point."""
        return 3 * self.features.shape[-1]

    def forward(self, points: Tensor) -> Tensor:
        """[M, width] at points [M, 3] in [-1, 1]^3. Differentiable with respect to features and points."""
        from nts_plugins.fields._fused import read_planes  # brings the kernels, which recipes must not

        return read_planes(self.features, points)
