# SPDX-License-Identifier: Apache-2.0
"""Pictures with their latents.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

from dataclasses import dataclass, field
from typing import Tuple, Type

import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.appearance.background import over_background
from nts_plugins.data.datamanager import SplatDatamanager, SplatDatamanagerConfig
from nts_plugins.data.dataset import SplatDataset
from nts_plugins.encoders.codecs import load_codec
from nts_plugins.encoders.latents import LatentCodec
from nts_plugins.encoders.settings import CodecSettings
from nts_plugins.progress import progress


@dataclass(frozen=True)
class SceneLatents:
    """A codec, and what it makes of a scene's training pictures."""

    codec: LatentCodec
    maps: Tuple[Tensor, ...] = ()
    """[h, w, D] of each training picture, in their order; none where nothing is trained."""
    colors: Tuple[Tensor, ...] = ()
    """[h, w, 3] in [0, 1], mean colours of what each latent is of."""


@dataclass
class LatentDatamanagerConfig(SplatDatamanagerConfig):
    """Settings of :class:`LatentDatamanager`."""

    _target: Type = field(default_factory=lambda: LatentDatamanager)
    codec: CodecSettings = field(default_factory=lambda: CodecSettings(name="taef2"))
    """What makes latents of pictures, and pictures of latents."""


class LatentDatamanager(SplatDatamanager):
    """The shared datamanager, whose training batches have ``latents`` [h, w, D] and ``latent_colors`` [h, w, 3], the
    mean colours in [0, 1] of what these are of, and whose metadata ``latents``, a :class:`SceneLatents`.

    Pictures are encoded once, before training: over the data's background where they have alpha, and with their last
    row and column repeated where their sides are no multiples of the codec's factor. So h and w are rounded up.

    Raises:
        InputError: also where the codec is not to be had.
    """

    config: LatentDatamanagerConfig

    def create_train_dataset(self) -> SplatDataset:
        dataset = super().create_train_dataset()
        codec = load_codec(self.config.codec, self.device, "--pipeline.datamanager.codec.weights")
        dataset.metadata["latents"] = SceneLatents(codec)
        sizes = zip(dataset.cameras.height.flatten().tolist(), dataset.cameras.width.flatten().tolist(), strict=True)
        places = sum(-(-height // codec.factor) * -(-width // codec.factor) for height, width in sizes)
        dataset.metadata["training_numbers"] = codec.channels * places
        return dataset

    def setup_train(self) -> None:
        super().setup_train()
        if self.test_mode != "val":
            return
        metadata = self.train_dataset.metadata
        codec, maps, colors = metadata["latents"].codec, [], []
        with progress("Latents") as (tell, _):
            for number, batch in enumerate(self.cached_train):
                picture = over_background(batch["image"], metadata["alpha_color"]).to(self.device)
                padded = padded_picture(picture, codec.factor)
                with torch.no_grad():
                    batch["latents"] = self._keep(codec.encode(padded)[0].permute(1, 2, 0).contiguous())
                mean = F.avg_pool2d(padded, codec.factor)[0].permute(1, 2, 0).contiguous()
                batch["latent_colors"] = self._keep(mean)
                maps.append(batch["latents"])
                colors.append(batch["latent_colors"])
                tell(number + 1, len(self.cached_train))
        metadata["latents"] = SceneLatents(codec, tuple(maps), tuple(colors))


def padded_picture(picture: Tensor, factor: int) -> Tensor:
    """[1, C, H', W'] of a map [H, W, C], whose last row and column are repeated to the next multiples of a factor."""
    height, width = picture.shape[:2]
    batch = picture.permute(2, 0, 1)[None]
    return F.pad(batch, (0, -width % factor, 0, -height % factor), mode="replicate")
