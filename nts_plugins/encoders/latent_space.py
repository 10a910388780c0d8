# SPDX-License-Identifier: Apache-2.0
"""A scene's latents as numbers in [0, 1], the colours they look like, and a decoder that learns beside its codec."""

from typing import Dict, Sequence, Union

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import Parameter

from nts_plugins.encoders.latents import Bounded, LatentCodec, MinMax

_RIDGE = 1e-6
"""Share of the variance, added to it where colours are fitted: channels of a scene may say the same."""


_MOST = 200_000
"""Latents that colours are fitted to, evenly chosen where there are more."""


class LatentSpace(nn.Module):
    """What splats are trained on, in place of latents.

    Colours of latents are linear in them (least squares over the training pictures): a picture of the scene without its
    decoder, which costs nothing and does not change while training goes on.

    Args:
        channels: D of a latent.
        normaliser: to [0, 1] and back.
    """

    to_colors: Tensor
    """[D + 1, 3]."""
    from_colors: Tensor
    """[4, D]."""

    def __init__(self, channels: int, normaliser: Union[MinMax, Bounded]) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.register_buffer("to_colors", torch.zeros(channels + 1, 3))
        self.register_buffer("from_colors", torch.zeros(4, channels))

    @torch.no_grad()
    def fit(self, maps: Sequence[Tensor], colors: Sequence[Tensor]) -> None:
        """See a scene's pictures.

        Args:
            maps: [h, w, D] latents of each.
            colors: [h, w, 3] in [0, 1], the mean colour of what each latent is of.
        """
        for each in maps:
            self.normaliser.see(each.movedim(-1, 0))
        every = max(1, sum(each.shape[0] * each.shape[1] for each in maps) // _MOST)
        numbers = torch.cat([self.numbers(each).flatten(0, 1)[::every] for each in maps]).double()
        pixels = torch.cat([each.flatten(0, 1)[::every] for each in colors]).to(numbers)
        self.to_colors.copy_(_linear(numbers, pixels))
        self.from_colors.copy_(_linear(pixels, numbers))

    def numbers(self, latents: Tensor) -> Tensor:
        """[..., h, w, D] latents to numbers, in [0, 1] for what was seen. Differentiable."""
        return self.normaliser(latents.movedim(-1, -3)).movedim(-3, -1)

    def latents(self, numbers: Tensor) -> Tensor:
        """Back to latents. Differentiable."""
        return self.normaliser.inverse(numbers.movedim(-1, -3)).movedim(-3, -1)

    def colors(self, numbers: Tensor) -> Tensor:
        """[..., D] to [..., 3] colours, about [0, 1]. Differentiable."""
        return numbers @ self.to_colors[:-1] + self.to_colors[-1]

    def numbers_of(self, colors: Tensor) -> Tensor:
        """[..., 3] in [0, 1] to [..., D] numbers of latents that often have such colours. Differentiable."""
        return colors @ self.from_colors[:-1] + self.from_colors[-1]


def _linear(given: Tensor, wanted: Tensor) -> Tensor:
    """[A + 1, B] the affine map of least squares from [N, A] to [N, B]; float64."""
    # Numbers of bounded latents lie close together around 0.5, so that only what is left without their mean says much.
    mean, target = given.mean(dim=0), wanted.mean(dim=0)
    centred = given - mean
    gram = centred.T @ centred
    ridge = _RIDGE * gram.diagonal().mean()
    gram.diagonal().add_(ridge if ridge > 0 else 1.0)  # A scene may be the same everywhere.
    slope = torch.linalg.solve(gram, centred.T @ (wanted - target))
    return torch.cat([slope, (target - mean @ slope)[None]])


class AlignedDecoder(nn.Module):
    """A codec's decoder with weights of its own, which begin as the codec's and are trained; the codec stays as it is,
    and is not part of this module's state.

    Args:
        codec: lends its decoder.
    """

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self._codec = (codec,)  # In a tuple, torch does not see it.
        own = {id(each) for each in codec.decoder_parameters()}
        self._names: Dict[str, str] = {}
        weights = {}
        for name, value in codec.named_parameters():
            if id(value) in own:
                key = name.replace(".", "/")  # torch has no names with dots.
                self._names[key] = name
                weights[key] = Parameter(value.detach().clone())
        self.weights = nn.ParameterDict(weights)

    @property
    def codec(self) -> LatentCodec:
        """The codec with the weights that it came with."""
        return self._codec[0]

    def forward(self, latents: Tensor) -> Tensor:
        """As the codec's ``decode``. Differentiable, with respect to ``weights``, too."""
        weights = {self._names[key]: value for key, value in self.weights.items()}
        return functional_call(self.codec, weights, (latents,))
