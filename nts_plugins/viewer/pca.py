# SPDX-License-Identifier: Apache-2.0
"""Many-channel features as colours that stay the same from frame to frame."""

import torch
from torch import Tensor, nn


class PcaColors(nn.Module):
    """Projects features onto their three main directions, with a projection that is stored and not refitted.

    nerfstudio's viewer fits a PCA to each frame, so colours flicker, and it fails on a picture of zeros. This one is
    fitted to the splats' features now and then, keeps the signs of its axes, and is saved in checkpoints.

    Args:
        channels: of a feature.
    """

    mean: Tensor
    axes: Tensor
    spread: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("axes", torch.zeros(channels, 3))
        self.register_buffer("spread", torch.ones(3))

    @torch.no_grad()
    def fit(self, features: Tensor, limit: int = 20_000) -> None:
        """Fit the projection to [N, D] features; to an even choice of ``limit`` of them where there are more."""
        features = features.detach().float()[:: max(1, len(features) // limit)]
        if len(features) < 4 or not bool(torch.isfinite(features).all()):
            return
        mean = features.mean(dim=0)
        centred = features - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(features))
        count = min(3, len(values))
        axes = torch.zeros_like(self.axes)
        axes[:, :count] = vectors[:, -count:].flip(1)
        # An eigenvector's sign means nothing: keep the one that is closer to the axis before.
        flip = (axes * self.axes).sum(dim=0) < 0
        self.axes.copy_(torch.where(flip, -axes, axes))
        self.mean.copy_(mean)
        self.spread[:count] = values[-count:].flip(0).clamp_min(1e-12).sqrt()

    def forward(self, features: Tensor) -> Tensor:
        """[..., D] features to [..., 3] colours in [0, 1]; two standard deviations fill it. Grey before a fit."""
        projected = (features - self.mean) @ self.axes
        return (0.5 + projected / (4.0 * self.spread)).clamp(0.0, 1.0)
