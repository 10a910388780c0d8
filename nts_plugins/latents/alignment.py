# SPDX-License-Identifier: Apache-2.0
"""A decoder that makes pictures of latents as splats draw them.

Latent Radiance Fields (Zhou, Liu, Luo, Huang, ICLR 2025, arXiv 2502.09613), stage III: splatted latents of many scenes,
from cameras that the splats were trained on and from others, and

    l_train |D(Z_train) - I_train|_1 + l_novel |D(Z_novel) - I_novel|_1

over the decoder D. Both weights are 1 here; the paper does not say them. Within one scene the method aligns while it
trains (:mod:`nts_plugins.models.latent`), on all pictures evenly, new views or not.
"""

import random
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence

import torch
from torch import Tensor

from nts_plugins.encoders.latents import LatentCodec
from nts_plugins.errors import InputError
from nts_plugins.latents.settings import AlignmentSettings
from nts_plugins.latents.training import CodecTraining


@dataclass(frozen=True)
class LatentPicture:
    """What splats draw for a camera, and the photograph that it took."""

    latents: Tensor
    """[D, h, w] as the codec has them."""
    picture: Tensor
    """[H, W, 3] uint8, as large as the decoded latents or a little smaller."""
    novel: bool
    """Whether splats were trained without it."""
    mask: Optional[Tensor] = None
    """[H, W, 1] bool, which pixels count; None where all do."""


class DecoderAlignment(CodecTraining):
    """The training of a codec's decoder.

    Args:
        codec: changed in place, but for its encoder.
        pictures: of all scenes.
        settings: rates and steps.

    Raises:
        InputError: where no picture is a new view, or latents are of another codec.
    """

    def __init__(self, codec: LatentCodec, pictures: Sequence[LatentPicture], settings: AlignmentSettings) -> None:
        self._groups: List[List[LatentPicture]] = [
            [each for each in pictures if each.novel == novel] for novel in (0, 1)
        ]
        if not all(self._groups):
            raise InputError(
                "Splats were trained on all pictures, and nothing tells how their latents look elsewhere. Train them "
                "with --pipeline.model.novel-every 8, or let held-out pictures count (no --no-held-out)."
            )
        other = {len(each.latents) for each in pictures} - {codec.channels}
        if other:
            raise InputError(f"{codec.name} has latents of {codec.channels} channels, and a scene has {min(other)}.")
        self._settings = settings
        super().__init__(codec, codec.decoder_parameters(), settings.steps, settings.lr)

    def _terms(self) -> Dict[str, Tensor]:
        """The error of a part of one picture of each kind."""
        draw = random.Random(f"{self._settings.seed} {self.done}")
        kinds = zip(("train", "novel"), self._groups, strict=True)
        return {name: self._error(draw.choice(own), draw) for name, own in kinds}

    def _loss(self, terms: Dict[str, Tensor]) -> Tensor:
        return torch.stack(list(terms.values())).sum()

    def _error(self, picture: LatentPicture, draw: random.Random) -> Tensor:
        """Mean absolute error of a decoded square, 0 where the mask is off."""
        device, factor = self._device, self.codec.factor
        sides = [min(self._settings.crop, side) for side in picture.latents.shape[1:]]
        row, column = (
            draw.randrange(whole - side + 1) for whole, side in zip(picture.latents.shape[1:], sides, strict=True)
        )
        latents = picture.latents[:, row : row + sides[0], column : column + sides[1]].to(device)
        top, left = factor * row, factor * column
        target = picture.picture[top : top + factor * sides[0], left : left + factor * sides[1]]
        target = target.to(device).permute(2, 0, 1).float() / 255.0
        error = (self.codec.decode(latents[None])[0, :, : target.shape[1], : target.shape[2]] - target).abs()
        if picture.mask is not None:
            error = error * picture.mask[top : top + target.shape[1], left : left + target.shape[2]].to(device)[..., 0]
        return error.mean()
