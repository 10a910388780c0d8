# SPDX-License-Identifier: Apache-2.0
"""Regions with features: masks of one model, each shown alone to another (LangSplat, Qin et al. 2024, section 3.1)."""

from dataclasses import dataclass, field
from typing import List, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.encoders.base import LEVELS, ImageEncoder, MaskGenerator, Regions
from nts_plugins.encoders.masks import CleanUp, kept, painted
from nts_plugins.encoders.settings import OpenClipSettings, SamSettings, at_least, name_of_regions


@dataclass
class MaskedRegions:
    """Shows each mask of a generator alone, before black, to an encoder of pictures."""

    generator: MaskGenerator
    encoder: ImageEncoder
    tallest: int = 1080
    """Pictures of more rows are made smaller first, as LangSplat's program does."""
    rules: CleanUp = field(default_factory=CleanUp)

    @property
    def name(self) -> str:
        """Of all that the regions and their features depend on."""
        return name_of_regions(self.encoder.name, self.generator.name, self.tallest)

    @property
    def width(self) -> int:
        return self.encoder.width

    def encode(self, picture: Tensor) -> Regions:
        """[H, W, 3] colours in [0, 1] to regions of at most ``tallest`` rows, on the CPU."""
        picture = smaller(picture.cpu(), self.tallest)
        ids, features, first = [], [], 0
        for level in self.generator.masks(picture):
            masks = level.masks[kept(level.masks, level.scores, self.rules)]
            ids.append(painted(masks, first))
            features.append(self.encoder.encode_pictures(shown_alone(picture, masks, self.encoder.picture_size)).cpu())
            first += len(masks)
        return Regions(torch.stack(ids), torch.cat(features), LEVELS)


def masked_regions(
    sam: SamSettings, clip: OpenClipSettings, tallest: int, device: Union[str, torch.device], options: str = "--"
) -> MaskedRegions:
    """Segment Anything's regions with open_clip's features, both models loaded. ``options`` is how the names of those
    begin that an error may name.

    Raises:
        InputError: where a model or its weights are not to be had, or there is no picture of so many rows.
    """
    from nts_plugins.encoders import clip as clips
    from nts_plugins.encoders import sam as sams

    device = torch.device(device)
    # A name that nobody knows must not be noticed after minutes of loading the other model.
    at_least(f"{options}tallest", tallest, 1)
    sams.check(sam)
    clips.check(clip)
    generator = sams.Sam.load(sam, device, f"{options}sam.weights")
    return MaskedRegions(generator, clips.OpenClip.load(clip, device, f"{options}clip.weights"), tallest)


def smaller(picture: Tensor, tallest: int) -> Tensor:
    """[H, W, 3] with at most so many rows, the pixels averaged."""
    height, width = picture.shape[:2]
    if height <= tallest:
        return picture
    size = (tallest, max(1, round(width * tallest / height)))
    return resized(picture, size)


def shown_alone(picture: Tensor, masks: Tensor, side: int) -> Tensor:
    """What a mask shows, before black, in the middle of the smallest square around it.

    Args:
        picture: [H, W, 3].
        masks: [n, H, W] bool, none of them empty.
        side: of the resulting squares, in pixels.

    Returns:
        [n, 3, side, side].
    """
    shown: List[Tensor] = []
    for mask in masks:
        rows, columns = torch.nonzero(mask.any(dim=1))[:, 0], torch.nonzero(mask.any(dim=0))[:, 0]
        box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        alone = picture[box] * mask[box][..., None]
        height, width = alone.shape[:2]
        longest = max(height, width)
        left, top = (longest - width) // 2, (longest - height) // 2
        square = F.pad(alone, (0, 0, left, longest - width - left, top, longest - height - top))
        shown.append(resized(square, (side, side)).permute(2, 0, 1))
    return torch.stack(shown) if shown else torch.zeros(0, 3, side, side)


def resized(picture: Tensor, size: "tuple[int, int]") -> Tensor:
    """[H, W, 3] to [h, w, 3], bilinear, pixels averaged where there are fewer afterwards."""
    channels = picture.permute(2, 0, 1)[None]
    return F.interpolate(channels, size=size, mode="bilinear", antialias=True, align_corners=False)[0].permute(1, 2, 0)
