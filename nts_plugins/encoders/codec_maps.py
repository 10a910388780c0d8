# SPDX-License-Identifier: Apache-2.0
"""Latents of codecs as maps of features: what :mod:`nts_plugins.encoders.codecs` knows, by the same names."""

import torch
from torch import Tensor, nn

from nts_plugins.encoders.base import DenseEncoder
from nts_plugins.encoders.codecs import load_codec
from nts_plugins.encoders.latents import LatentCodec
from nts_plugins.encoders.patch_maps import AS_THEY_ARE
from nts_plugins.encoders.settings import CodecSettings, DenseSettings
from nts_plugins.encoders.small_networks import NetworkMap


class _Latents(nn.Module):
    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, pictures: Tensor) -> Tensor:
        return self.codec.encode(pictures)


def load(settings: DenseSettings, device: torch.device, option: str) -> DenseEncoder:
    """The codec of this name. A vector is a latent, the mode of the posterior, as long as the codec makes it.

    Raises:
        InputError: where its weights, or what runs it, are not to be had.
    """
    codec = load_codec(CodecSettings(settings.name, settings.weights), device, option)
    return NetworkMap(_Latents(codec), settings, device, AS_THEY_ARE, codec.factor)
