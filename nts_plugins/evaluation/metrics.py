# SPDX-License-Identifier: Apache-2.0
"""How close a picture is to a photograph. Pure functions of [H, W, 3] pictures in [0, 1], no gradient."""

from typing import Any, Optional

import torch
from torch import Tensor

from nts_plugins import compat

SMALLEST_FOR_LPIPS = 32
"""Pixels on a side below which the backbones' strides leave nothing to compare."""


@torch.no_grad()
def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibel, scalar; higher is better. Equal pictures get 100 dB, a finite number."""
    error = (prediction - target).flatten()
    return -10.0 * torch.log10((torch.dot(error, error) / max(1, len(error))).clamp_min_(1e-10))


@torch.no_grad()
def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), scalar at most 1; 11 x 11 Gaussian window, valid positions only."""
    from nts_plugins import losses  # brings the kernels, which recipes must not

    return losses.ssim(prediction, target)


@torch.no_grad()
def ssim_inside(prediction: Tensor, target: Tensor, mask: Tensor) -> float:
    """The same of the windows whose centres lie in a mask [H, W, 1] bool; of all windows where none does."""
    from nts_plugins import losses  # brings the kernels, which recipes must not

    similarities = losses.ssim_map(prediction.clamp(0.0, 1.0), target)
    rim = (mask.shape[0] - similarities.shape[0]) // 2
    inside = mask[rim : rim + similarities.shape[0], rim : rim + similarities.shape[1], 0]
    counted = similarities[inside] if bool(inside.any()) else similarities
    return float(counted.mean()) if counted.numel() else 1.0


class Lpips:
    """Learned perceptual distance (Zhang et al. 2018), lower is better; built when it is first asked for.

    nerfstudio's models download the network when they are constructed, even for the viewer. This one looks for the
    file first, and where there is none it says so once and returns None, without waiting for a network.

    Args:
        net: backbone, "alex" (what nerfstudio reports), "vgg" (what most papers report) or "squeeze".
    """

    def __init__(self, net: str = "alex") -> None:
        self.net = net
        self._metric: Any = None
        self._missing = False

    @torch.no_grad()
    def __call__(self, prediction: Tensor, target: Tensor) -> Optional[Tensor]:
        """Scalar distance of two [H, W, 3] pictures; None where the backbone's weights are not on this machine, or the
        pictures are smaller than its strides."""
        if self._missing or not self._ready():
            return None
        if min(prediction.shape[:2]) < SMALLEST_FOR_LPIPS:
            return None
        images = [picture.clamp(0.0, 1.0).permute(2, 0, 1)[None] for picture in (prediction, target)]
        value = self._metric.to(prediction.device)(*images)
        self._metric.reset()
        return value

    def _ready(self) -> bool:
        if self._metric is not None:
            return True
        file, url = compat.lpips_backbone(self.net)
        problem = f"are not on this machine. Put the file ({url}) into {file.parent}"
        if file.is_file():
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            try:
                network: Any = self.net
                self._metric = LearnedPerceptualImagePatchSimilarity(net_type=network, normalize=True)
                return True
            except Exception as error:
                problem = f"cannot be read ({type(error).__name__}). Replace {file} by {url}"
        from nerfstudio.utils.rich_utils import CONSOLE

        CONSOLE.print(f"[yellow]LPIPS is left out: its backbone's weights, {file.name}, {problem}.[/yellow]")
        self._missing = True
        return False
