# SPDX-License-Identifier: Apache-2.0
"""Features of every point of a cube at every moment, kept on six planes."""

from typing import Dict

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from nts_plugins.fields.triplane import TriPlanes


class SpaceTimePlanes(nn.Module):
    """Six planes of features: xy, yz, zx, and each axis with time.

    Source: Fridovich-Keil et al. 2023 (K-Planes), section 3, and Cao and Johnson 2023 (HexPlane). There, a point's
    features are read from the six planes and multiplied. Here the planes are first multiplied at the texels of xy, yz
    and zx, each with the two time planes of its axes: at one moment the field is a tri-plane, and a picture, which has
    one moment, reads 3 instead of 6 planes a point. The two differ in what lies between texels. The three planes are
    put side by side, as in EG3D, and not multiplied.

    Args:
        channels: of each plane.
        resolution: texels along an axis of space.
        moments: texels along time.
    """

    time: Tensor

    def __init__(self, channels: int = 16, resolution: int = 64, moments: int = 32) -> None:
        super().__init__()
        self.space = TriPlanes(channels, resolution, deviation=0.1)
        # Of each axis: features at a moment and a place. As 1 they change nothing (K-Planes, section 3.3).
        self.time = Parameter(torch.ones(3, moments, resolution, channels))

    @property
    def width(self) -> int:
        """Features of a point."""
        return self.space.width

    def at(self, time: float) -> Tensor:
        """[3, R, R, channels] tri-plane of one moment, in [0, 1]. Differentiable with respect to the planes."""
        last = self.time.shape[1] - 1
        place = min(max(time, 0.0), 1.0) * last
        low = min(int(place), max(last - 1, 0))
        lines = torch.lerp(self.time[:, low], self.time[:, min(low + 1, last)], place - low)  # [3, R, channels]
        # Rows of a plane lie along its second axis.
        return self.space.features * lines[:, None] * lines.roll(-1, dims=0)[:, :, None]

    def forward(self, points: Tensor, time: float) -> Tensor:
        """[M, width] at points [M, 3] in [-1, 1]^3 and a time in [0, 1]. Differentiable like :meth:`at`."""
        from nts_plugins.fields._fused import read_planes  # brings the kernels, which recipes must not

        return read_planes(self.at(time), points)

    def roughness(self) -> Dict[str, Tensor]:
        """What regularisers of such fields punish, each a scalar and differentiable.

        Returns:
            space: mean square of differences between neighbouring texels, along axes of space (total variation,
                K-Planes, equation 5).
            time: mean square of second differences along time (equation 6).
            change: mean distance of the time planes from 1, where the field stands still (equation 7).
        """
        space, time = self.space.features, self.time
        variation = space.diff(dim=1).square().mean() + space.diff(dim=2).square().mean()
        bend = time.diff(n=2, dim=1).square().mean() if time.shape[1] > 2 else time.new_zeros(())
        return {
            "space": variation + time.diff(dim=2).square().mean(),
            "time": bend,
            "change": (time - 1).abs().mean(),
        }
