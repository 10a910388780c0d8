# SPDX-License-Identifier: Apache-2.0
"""ALIKED (Zhao et al., "ALIKED: A Lighter Keypoint and Descriptor Extraction Network via Deformable Transformation",
IEEE TIM 2023, arXiv 2304.03608) as a map of features.

Written from the paper and from the names and shapes of the published weights (BSD-3). What neither tells was decided
by the statistics that the weights keep of their training pictures, which photographs repeat in this wiring only, and by
how often descriptors of one place are nearest neighbours in two views:

* activations are SELU, and colours enter as they are, in [0, 1];
* maps of the four blocks are resized with their corner pixels aligned, which matches a little better. Towards the
  border of a picture, what the deepest block says is therefore up to 16 pixels from where it is said to be;
* of the numbers that say where the descriptor looks, the first half is across and the second half is down.

The part that finds keypoints is left out. Its four layers of weights are not read.
"""

from typing import Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nts_plugins.encoders.base import DenseEncoder
from nts_plugins.encoders.deformable import deformable_convolution, sampled
from nts_plugins.encoders.patch_maps import AS_THEY_ARE
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.encoders.small_networks import NetworkMap, file_of, filled

SOURCE = "https://github.com/Shiaoming/ALIKED/raw/main/models"
"""Where the weights are."""
WIDTHS = {"n16": (16, 32, 64, 128), "t16": (8, 16, 32, 64)}
"""Channels of the four blocks of a model (table I of the paper), the last of which is as wide as a descriptor."""
MULTIPLE = 32
"""Pixels of a picture in one of the deepest block's."""
CELL = 4
"""Pixels of a vector, in rows and columns. One for every pixel would be sixteen times as many and match 0.02 better."""


class _Deformable(nn.Module):
    """A convolution that decides for itself where it looks (section III-A)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.offset_conv = nn.Conv2d(before, 2 * 9, 3, padding=1)
        self.regular_conv = nn.Conv2d(before, after, 3, padding=1, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        return deformable_convolution(values, self.offset_conv(values), self.regular_conv.weight, padding=1)


class _Block(nn.Module):
    """Two convolutions, beside their input but for the first block."""

    def __init__(self, before: int, after: int, residual: bool, deformable: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            _Deformable(each, after) if deformable else nn.Conv2d(each, after, 3, padding=1, bias=False)
            for each in (before, after)
        )
        self.bn1, self.bn2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.downsample: Optional[nn.Conv2d] = nn.Conv2d(before, after, 1) if residual else None

    def forward(self, values: Tensor) -> Tensor:
        result = self.bn2(self.conv2(F.selu(self.bn1(self.conv1(values)))))
        return F.selu(result if self.downsample is None else result + self.downsample(values))


class _Descriptor(nn.Module):
    """The sparse deformable descriptor head (section III-C): a weighted sum of what it finds at places around a
    keypoint, which it chooses by the features there. Here the keypoints are the centres of all cells."""

    def __init__(self, width: int, places: int) -> None:
        super().__init__()
        self.agg_weights = nn.Parameter(torch.zeros(places, width, width))
        self.offset_conv = nn.Sequential(
            nn.Conv2d(width, 2 * places, 3, padding=1), nn.SELU(), nn.Conv2d(2 * places, 2 * places, 1)
        )
        self.sf_conv = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] of unit length to [B, C, H / CELL, W / CELL]."""
        across, down = F.avg_pool2d(self.offset_conv(features), CELL).chunk(2, dim=1)
        rows, columns = ((torch.arange(n, device=features.device) + 0.5) * CELL - 0.5 for n in across.shape[2:])
        total = features.new_zeros(len(features), self.agg_weights.shape[2], *across.shape[2:])
        for place, weight in enumerate(self.agg_weights):
            found = sampled(features, rows[:, None] + down[:, place], columns + across[:, place])
            total = total + torch.einsum("cd,bchw->bdhw", weight, F.selu(self.sf_conv(found)))
        return total


class Aliked(nn.Module):
    """Pictures [B, 3, H, W] in [0, 1], with sides that are multiples of 32, to vectors [B, C, H / 4, W / 4] of unit
    length.

    Args:
        widths: see :data:`WIDTHS`.
        describes: whether vectors are those of the descriptor head, which looks at 16 places up to tens of pixels away,
            or the aggregated features that it and the finder of keypoints read (section III-B), averaged over 4 x 4
            pixels.
    """

    def __init__(self, widths: Sequence[int], describes: bool = False) -> None:
        super().__init__()
        width, inputs = widths[-1], (3, *widths)
        for number, after in enumerate(widths):
            block = _Block(inputs[number], after, residual=number > 0, deformable=number > 1)
            self.add_module(f"block{number + 1}", block)
            self.add_module(f"conv{number + 1}", nn.Conv2d(after, width // 4, 1, bias=False))
        self.desc_head = _Descriptor(width, 16)
        self.describes = describes

    def features(self, pictures: Tensor) -> Tensor:
        """[B, C, H, W] of unit length, of every pixel: all blocks' maps, side by side."""
        parts, values = [], pictures
        for number, smaller in enumerate((1, 2, 4, 4), start=1):
            values = self.get_submodule(f"block{number}")(F.avg_pool2d(values, smaller))
            part = F.selu(self.get_submodule(f"conv{number}")(values))
            parts.append(F.interpolate(part, pictures.shape[2:], mode="bilinear", align_corners=True))
        return F.normalize(torch.cat(parts, dim=1), dim=1)

    def forward(self, pictures: Tensor) -> Tensor:
        features = self.features(pictures)
        return F.normalize(self.desc_head(features) if self.describes else F.avg_pool2d(features, CELL), dim=1)


def load(settings: DenseSettings, device: torch.device, option: str) -> DenseEncoder:
    """``aliked_n16`` and ``aliked_t16``, the features that all of ALIKED reads; with ``_sddh``, its descriptors.

    Raises:
        InputError: where the weights are not to be had, or are others'.
    """
    model, _, head = settings.name.removeprefix("aliked_").partition("_")
    path = file_of(settings, f"{SOURCE}/aliked-{model}.pth", option)
    network = filled(Aliked(WIDTHS[model], head == "sddh"), path, without="score_head.")
    return NetworkMap(network, settings, device, AS_THEY_ARE, CELL, MULTIPLE)
