# SPDX-License-Identifier: Apache-2.0
"""Tiny codecs in the manner of TAESD: blocks of three convolutions of 64 channels, in place of a large autoencoder.

Read off the names and shapes of published weights (MIT), which come as two files of state, of an encoder and of a
decoder: TAESD and TAESDXL (4 channels), TAESD3 and TAEF1 (16), TAEF2 (32). All of them halve a picture three times.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from nts_plugins.encoders import weight_files, weights
from nts_plugins.encoders.latents import LatentCodec, Posterior

WIDTH = 64
GROUPS = 4
"""Of the normalisation across a picture, which no shape tells; with 4 TAEF2 decodes what it encoded."""
FACTOR = 8
LARGEST_LATENT = 3.0
"""Decoders bend latents towards this before anything else: 3 tanh(z / 3)."""


class _Block(nn.Module):
    """Three convolutions beside their input, behind one exchange across the picture where ``mixes``."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH))
        self.pool = None
        if mixes:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, GROUPS * WIDTH, 1, bias=False),
                nn.GroupNorm(GROUPS, GROUPS * WIDTH),
                nn.ReLU(),
                nn.Conv2d(GROUPS * WIDTH, WIDTH, 1, bias=False),
            )

    def forward(self, values: Tensor) -> Tensor:
        if self.pool is not None:
            values = values + self.pool(values)
        return torch.relu(values + self.conv(values))


class _Bend(nn.Module):
    def forward(self, latents: Tensor) -> Tensor:
        return LARGEST_LATENT * torch.tanh(latents / LARGEST_LATENT)


def _conv(before: int, after: int, **kwargs) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, **kwargs)


def _encoder(channels: int, mixes: bool) -> nn.Sequential:
    layers: List[nn.Module] = [_conv(3, WIDTH), _Block(False)]
    for number in range(3):
        layers.append(_conv(WIDTH, WIDTH, stride=2, bias=False))
        layers += [_Block(mixes and number == 2) for _ in range(3)]
    return nn.Sequential(*layers, _conv(WIDTH, channels))


def _decoder(channels: int, mixes: bool) -> nn.Sequential:
    layers: List[nn.Module] = [_Bend(), _conv(channels, WIDTH), nn.ReLU()]
    for number in range(3):
        layers += [_Block(mixes and number == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), _conv(WIDTH, WIDTH, bias=False)]
    return nn.Sequential(*layers, _Block(False), _conv(WIDTH, 3))


class TinyCodec(LatentCodec):
    """An encoder and a decoder of a few million multiplications a pixel. It says a mode only.

    Args:
        name: see :class:`~nts_plugins.encoders.latents.LatentCodec`.
        channels: of a latent.
        mixes: whether blocks of the smallest maps exchange numbers across the picture, as TAEF2's do.
    """

    def __init__(self, name: str, channels: int, mixes: bool = False) -> None:
        super().__init__(name, channels, FACTOR)
        self.encoder, self.decoder = _encoder(channels, mixes), _decoder(channels, mixes)

    @classmethod
    def load(cls, name: str, encoder: Path, decoder: Path) -> "TinyCodec":
        """From two files of weights, in float32.

        Raises:
            InputError: where a file is missing or holds something else, or the two do not belong together.
        """
        own, its = _state(encoder, f"{name}'s encoder"), _state(decoder, f"{name}'s decoder")
        last = [value for key, value in own.items() if key.endswith(".weight") and value.ndim == 4]
        codec = cls(name, len(last[-1]) if last else 0, any(".pool." in key for key in own))
        for part, state, path in ((codec.encoder, own, encoder), (codec.decoder, its, decoder)):
            weight_files.fill(part, state, path, "a tiny codec")
        return codec

    def save(self, folder: Path) -> None:
        """Write both files, as they are published but in float32."""
        for part, path in zip((self.encoder, self.decoder), files_in(folder, self.name), strict=True):
            torch.save(part.state_dict(), path)

    def _posterior(self, pictures: Tensor) -> Posterior:
        return Posterior(self.encoder(pictures))

    def _decoded(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)

    def encoder_parameters(self) -> Iterator[Parameter]:
        return self.encoder.parameters()

    def decoder_parameters(self) -> Iterator[Parameter]:
        return self.decoder.parameters()


def _state(path: Path, what: str) -> Dict[str, Tensor]:
    state = weight_files.read(weights.given(path, what), what)
    return OrderedDict((name, value.float()) for name, value in state.items())


def files_in(folder: Path, stem: str) -> Tuple[Path, Path]:
    """The files of an encoder and of a decoder, as they are published."""
    return folder / f"{stem}_encoder.pth", folder / f"{stem}_decoder.pth"
