# SPDX-License-Identifier: Apache-2.0
"""Pictures as small maps of latent numbers, and back: what every latent codec offers, and latents of a scene in [0, 1].

A codec's encoder makes a picture several times smaller, with more channels; its decoder makes a picture of that again.
Latent Radiance Fields (Zhou, Liu, Luo, Huang, ICLR 2025, arXiv 2502.09613) draw such maps with splats.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from nts_plugins.errors import InputError


@dataclass(frozen=True)
class Posterior:
    """What an encoder says of pictures: normal distributions over latents."""

    mode: Tensor
    """[B, C, h, w]."""
    log_variance: Optional[Tensor] = None
    """[B, C, h, w]; None for codecs that say a mode only, whose variance counts as 1."""

    def divergence(self, other: "Posterior") -> Tensor:
        """Kullback-Leibler divergence of this distribution from another one, KL(self | other), summed over channels and
        averaged over pictures and places; a number. Differentiable with respect to both."""
        own, its = (
            torch.zeros_like(each.mode) if each.log_variance is None else each.log_variance for each in (self, other)
        )
        apart = (self.mode - other.mode).square()
        return 0.5 * (its - own + (own.exp() + apart) / its.exp() - 1.0).sum(dim=1).mean()


class LatentCodec(nn.Module, ABC):
    """Pictures to latents and back. Both ways are differentiable, with respect to pictures, latents and weights.

    Args:
        name: of the codec and its weights. Latents of two names must not be mixed.
        channels: C of a latent.
        factor: how many times fewer rows and columns a map of latents has than its picture.
    """

    def __init__(self, name: str, channels: int, factor: int) -> None:
        super().__init__()
        self.name, self.channels, self.factor = name, channels, factor

    def posterior(self, pictures: Tensor) -> Posterior:
        """Of pictures [B, 3, H, W] in [0, 1], whose sides are multiples of ``factor``.

        Raises:
            InputError: where they are not.
        """
        height, width = pictures.shape[-2:]
        if min(height, width) < self.factor or height % self.factor or width % self.factor:
            raise InputError(
                f"{self.name} makes pictures {self.factor} times smaller, and one of {width}x{height} pixels is not so "
                f"many times as large as any. Crop it to multiples of {self.factor}."
            )
        return self._posterior(pictures)

    def encode(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] to [B, C, H / factor, W / factor], the mode of the posterior."""
        return self.posterior(pictures).mode

    def decode(self, latents: Tensor) -> Tensor:
        """[B, C, h, w] to [B, 3, h factor, w factor], in [0, 1] but for what the decoder overshoots.

        Raises:
            InputError: where latents have another number of channels.
        """
        if latents.shape[1] != self.channels:
            raise InputError(f"{self.name} has latents of {self.channels} channels, and these have {latents.shape[1]}.")
        return self._decoded(latents)

    def fingerprint(self) -> str:
        """Letters that differ between codecs of other names or weights, whatever device they are on."""
        digest = hashlib.sha256(f"{self.name} {self.channels} {self.factor}".encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def forward(self, latents: Tensor) -> Tensor:
        """:meth:`decode`, for ``torch.func.functional_call``."""
        return self.decode(latents)

    def save(self, folder: Path) -> None:
        """Write the weights into a folder, from which ``load_codec`` reads them again with the codec's name.

        Raises:
            InputError: where the codec does not say how.
        """
        raise InputError(f"{self.name} cannot be written: {type(self).__name__} has no method save.")

    @abstractmethod
    def _posterior(self, pictures: Tensor) -> Posterior: ...

    @abstractmethod
    def _decoded(self, latents: Tensor) -> Tensor: ...

    @abstractmethod
    def encoder_parameters(self) -> Iterator[Parameter]:
        """Weights that :meth:`posterior` depends on."""

    @abstractmethod
    def decoder_parameters(self) -> Iterator[Parameter]:
        """Weights that :meth:`decode` depends on; none of them are the encoder's."""


class MinMax(nn.Module):
    """Latents of a scene to [0, 1] by the smallest and the largest value that each channel has in its training pictures
    (the paper's program). Held-out pictures may lie outside, and are not clipped: the inverse is exact for all.

    Args:
        channels: C.
    """

    low: Tensor
    range: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(channels, 1, 1))
        self.register_buffer("range", torch.zeros(channels, 1, 1))

    def see(self, latents: Tensor) -> None:
        """Widen the range to that of some latents [..., C, h, w]."""
        values = latents.detach().movedim(-3, 0).flatten(1)
        low, high = values.amin(dim=1).view_as(self.low), values.amax(dim=1).view_as(self.low)
        if bool((self.range > 0).any()):
            low, high = torch.minimum(low, self.low), torch.maximum(high, self.low + self.range)
        self.low.copy_(low)
        # A channel that is the same everywhere stays what it is.
        self.range.copy_((high - low).clamp_min(1e-6))

    def forward(self, latents: Tensor) -> Tensor:
        """[..., C, h, w] to numbers that are in [0, 1] for what was seen. Differentiable."""
        return (latents - self.low) / self.range

    def inverse(self, numbers: Tensor) -> Tensor:
        """Back to latents. Differentiable."""
        return numbers * self.range + self.low


class Bounded(nn.Module):
    """Latents to (0, 1) by (tanh(gain z) + 1) / 2, whatever the scene (Schnepf et al., "Bringing NeRFs to the Latent
    Space", ICLR 2025, arXiv 2410.22936, whose gain is 0.02).

    Args:
        gain: how steep. Latents of a tenth of 1 / gain are almost linear in their numbers.
    """

    def __init__(self, gain: float = 0.02) -> None:
        super().__init__()
        self.gain = gain

    def see(self, latents: Tensor) -> None:
        """Nothing depends on the scene."""
        return None

    def forward(self, latents: Tensor) -> Tensor:
        """[...] to (0, 1). Differentiable."""
        return 0.5 * (torch.tanh(self.gain * latents) + 1.0)

    def inverse(self, numbers: Tensor) -> Tensor:
        """Back to latents; numbers outside of [1e-6, 1 - 1e-6] as their nearest one inside. Differentiable there."""
        return torch.atanh(2.0 * numbers.clamp(1e-6, 1.0 - 1e-6) - 1.0) / self.gain
