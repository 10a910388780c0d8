# SPDX-License-Identifier: Apache-2.0
"""Feature pyramids of two networks that find depth in several views, as maps of features:

* PatchmatchNet (Wang et al., "PatchmatchNet: Learned Multi-View Patchmatch Stereo", CVPR 2021, arXiv 2012.01411,
  section 3.1);
* IterMVS (Wang et al., "IterMVS: Iterative Probability Estimation for Efficient Multi-View Stereo", CVPR 2022, arXiv
  2112.05126, section 3.1).

Both halve a picture three times, and add to each level what the coarser ones say, resized bilinearly (Lin et al.,
"Feature Pyramid Networks", CVPR 2017). They are written from the papers and from the names and shapes of the published
weights (MIT). What neither tells was decided by the statistics that weights keep of their training pictures, and by how
often vectors of one place are nearest neighbours in two views: PatchmatchNet takes colours in [0, 1], IterMVS in
[-1, 1].

A map has a vector for every 4 x 4 pixels, of the three levels side by side, each at unit length: stereo compares
vectors of one level only, so that their lengths have nothing to do with each other, and one would hide the others.
"""

from abc import ABC, abstractmethod
from typing import List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nts_plugins.encoders.base import DenseEncoder
from nts_plugins.encoders.deformable import sampled
from nts_plugins.encoders.patch_maps import AS_THEY_ARE, SIGNED
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.encoders.small_networks import NetworkMap, file_of, filled

COARSEST = 8
"""Pixels between two vectors of the coarsest level."""
CELL = 4
"""Pixels of a vector of the map, in rows and columns."""
STRIDES = (8, 4, 2)
"""Pixels between two vectors of each level, in the order in which networks give them."""


class _ConvBn(nn.Module):
    def __init__(self, before: int, after: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
        self.bn = nn.BatchNorm2d(after)

    def forward(self, values: Tensor) -> Tensor:
        return self.bn(self.conv(values))


class _Residual(nn.Module):
    """Two convolutions beside their input, which has a convolution of its own where the size changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _ConvBn(before, after, stride=stride), _ConvBn(after, after)
        self.downsample = _ConvBn(before, after, stride=stride) if stride > 1 else nn.Identity()

    def forward(self, values: Tensor) -> Tensor:
        return F.relu(self.downsample(values) + self.conv2(F.relu(self.conv1(values))))


def _larger(values: Tensor) -> Tensor:
    return F.interpolate(values, scale_factor=2.0, mode="bilinear", align_corners=False)


class _Pyramid(nn.Module, ABC):
    """Pictures to three levels, and to one map of them."""

    @abstractmethod
    def levels(self, pictures: Tensor) -> List[Tensor]:
        """[B, 3, H, W], with sides that are multiples of 8, to [B, C, H / s, W / s] for each s of STRIDES."""

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, C, H / 4, W / 4], the sum of the levels' channels.

        Convolutions that halve a picture look at its pixels 0, s, 2 s and so on, while the vectors of a map lie in the
        middle of their cells; levels are read there, between their own vectors. One more of these, of a border that
        repeats the last pixels, lies beyond either end.
        """
        cells = [side // CELL for side in pictures.shape[2:]]
        centres = [(torch.arange(number, device=pictures.device) + 0.5) * CELL - 0.5 for number in cells]
        rows, columns = (each.expand(len(pictures), -1, -1) for each in torch.meshgrid(*centres, indexing="ij"))
        levels = self.levels(F.pad(pictures, (0, COARSEST) * 2, mode="replicate"))
        parts = [
            F.normalize(sampled(level, rows / stride, columns / stride), dim=1)
            for level, stride in zip(levels, STRIDES, strict=True)
        ]
        return torch.cat(parts, dim=1)


class PatchmatchPyramid(_Pyramid):
    """Eleven convolutions; those of 5 x 5 pixels halve the picture. Vectors have 64 + 32 + 16 numbers."""

    COLOURS = AS_THEY_ARE

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64)
        for number in range(11):
            size, stride = (5, 2) if number in (2, 5, 8) else (3, 1)
            self.add_module(f"conv{number}", _ConvBn(widths[number], widths[number + 1], size, stride))
        self.inner1, self.inner2 = nn.Conv2d(32, 64, 1), nn.Conv2d(16, 64, 1)
        self.output1, self.output2, self.output3 = (nn.Conv2d(64, each, 1, bias=False) for each in (64, 32, 16))

    def levels(self, pictures: Tensor) -> List[Tensor]:
        values, seen = pictures, []
        for number in range(11):
            values = F.relu(self.get_submodule(f"conv{number}")(values))
            seen.append(values)
        middle = _larger(values) + self.inner1(seen[7])
        return [self.output1(values), self.output2(middle), self.output3(_larger(middle) + self.inner2(seen[4]))]


class IterPyramid(_Pyramid):
    """A convolution and three layers of two residual blocks, each of which halves the picture. Vectors have 48 + 32 +
    16 numbers."""

    COLOURS = SIGNED

    def __init__(self) -> None:
        super().__init__()
        widths, top = (8, 16, 32, 48), 48
        self.conv1 = _ConvBn(3, widths[0])
        for number, (before, after) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            layer = nn.Sequential(_Residual(before, after, 2), _Residual(after, after, 1))
            self.add_module(f"layer{number}", layer)
            self.add_module(f"inner{number}", nn.Conv2d(after, top, 1))
            self.add_module(f"output{number}", nn.Conv2d(top, after, 3, padding=1))

    def levels(self, pictures: Tensor) -> List[Tensor]:
        values, seen = F.relu(self.conv1(pictures)), []
        for number in (1, 2, 3):
            values = self.get_submodule(f"layer{number}")(values)
            seen.append(values)
        total = self.get_submodule("inner3")(values)
        found = [self.get_submodule("output3")(total)]
        for number in (2, 1):
            total = _larger(total) + self.get_submodule(f"inner{number}")(seen[number - 1])
            found.append(self.get_submodule(f"output{number}")(total))
        return found


_OWNER = "https://github.com/FangjinhuaWang"
_PUBLISHED = {
    "patchmatchnet": (
        PatchmatchPyramid,
        f"{_OWNER}/PatchmatchNet/raw/main/checkpoints/params_000007.ckpt",
        "module.feature.",
    ),
    "itermvs": (IterPyramid, f"{_OWNER}/IterMVS/raw/main/checkpoints/dtu/model_000015.ckpt", "module.feature_net."),
}
"""Name to network, where its weights are, and what their names begin with there."""


def load(settings: DenseSettings, device: torch.device, option: str) -> DenseEncoder:
    """``patchmatchnet`` and ``itermvs``.

    Raises:
        InputError: where the weights are not to be had, or are others'.
    """
    network, url, prefix = _PUBLISHED[settings.name]
    filled_one = filled(network(), file_of(settings, url, option), prefix)
    return NetworkMap(filled_one, settings, device, network.COLOURS, CELL, COARSEST)
