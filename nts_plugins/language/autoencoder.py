# SPDX-License-Identifier: Apache-2.0
"""Three numbers a splat and level, which a network of the scene turns into long features: the way of LangSplat."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Callable, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from nts_plugins.encoders.base import Regions
from nts_plugins.errors import InputError
from nts_plugins.language.codebook import sampled
from nts_plugins.language.fits import Tell, TrainedFit
from nts_plugins.language.words import LEAST_ALPHA

SHORT = 1e-2
"""Codes that are shorter than this are drawn divided by it, instead of by their length. The published program divides
by length + 1e-9: from codes of zero the first gradient is then a billion times the later ones, and Adam, which divides
by what gradients were, all but stands still for the ten thousands of steps that it takes to forget that."""
SHORTEST = 1e-8
"""Codes and channels shorter than this have no direction, and mean nothing."""
AT_ONCE = 1 << 14
"""Features of so many splats or pixels are in memory at once: 32 MB of 512 numbers each."""


@dataclass
class AutoencoderSettings:
    """What LangSplat (Qin et al. 2024, arXiv 2312.16084) and its program set."""

    encoder: Tuple[int, ...] = (256, 128, 64, 32, 3)
    """Numbers after each layer; the last is that of a code."""
    decoder: Tuple[int, ...] = (16, 32, 64, 128, 256, 256)
    """Numbers after each layer but the last, which gives features."""
    epochs: int = 100
    """Of the network's training."""
    most_steps: Optional[int] = None
    """Fewer epochs where they would come to more batches than this. 60 000 regions and 100 epochs are 94 000 batches:
    minutes on any device, since each batch is small."""
    batch: int = 64
    """Features at once."""
    lr: float = 7e-4
    """Of Adam."""
    cosine_weight: float = 1e-3
    """Of 1 - cosine, beside the mean squared difference."""
    most_features: int = 1 << 16
    """A scene with more regions trains the network on so many of them (134 MB of 512 numbers each)."""
    seed: int = 0
    """Of the network's first weights, the order of features, and the choice of them."""

    def __post_init__(self) -> None:
        if not self.encoder or min(*self.encoder, *self.decoder, self.epochs, self.batch, self.most_features) < 1:
            raise InputError("An autoencoder has layers, epochs, a batch and features of at least 1 each.")


class Autoencoder(TrainedFit):
    """Codes on the unit sphere, and a decoder to features (LangSplat, Qin et al. 2024, arXiv 2312.16084).

    The network is trained before the first step (:meth:`begin`) and never changes afterwards: it needs no gradient, and
    its running statistics are used whatever mode the model around it is in.

    Args:
        levels: L.
        width: C; 0 where it is not known until a checkpoint tells.
        settings: see :class:`AutoencoderSettings`.
    """

    begun: Tensor
    """Whether the network is trained."""

    def __init__(self, levels: int, width: int, settings: AutoencoderSettings) -> None:
        super().__init__(levels, width)
        self.settings = settings
        self.encoder = _layers([width, *settings.encoder], normalised=True)
        self.decoder = _layers([settings.encoder[-1], *settings.decoder, width], normalised=False)
        self.requires_grad_(False)
        self.register_buffer("begun", torch.tensor(False))
        self.train(self.training)

    def train(self, mode: bool = True) -> "Autoencoder":
        super().train(mode)
        self.encoder.eval()
        self.decoder.eval()
        return self

    @property
    def ready(self) -> bool:
        return bool(self.begun)

    def codes(self, count: int) -> Parameter:
        """The first codes [N, L, 3]: zeros, as published."""
        return Parameter(torch.zeros(count, self.levels, self.settings.encoder[-1], device=self.begun.device))

    def adapt(self, state: Mapping[str, Tensor]) -> None:
        super().adapt(state)
        self.width = int(self._linears()[0].weight.shape[1])
        for linear in self._linears():
            linear.out_features, linear.in_features = linear.weight.shape

    def encode(self, features: Tensor) -> Tensor:
        """[M, C] features to [M, 3] codes of unit length."""
        return F.normalize(self.encoder(features), dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """[M, 3] codes of unit length to [M, C] features of unit length."""
        return F.normalize(self.decoder(codes), dim=-1)

    # ---- to be trained

    def begin(self, features: Callable[[], Iterable[Tensor]], tell: Tell) -> None:
        """Train the network; the state after the best epoch is kept. Without any feature nothing begins.

        The loss is the mean squared difference plus ``cosine_weight`` times the mean of 1 - cosine, where the cosine is
        that of a feature with its reconstruction. The published program has it along the batch instead, between what
        all features of a batch are in one of C numbers. It also judges epochs by another loss, and only the last few;
        here by this one, of all features, with the running statistics that are used later.
        """
        some = sampled(features(), self.settings.most_features, self.settings.seed).to(self._linears()[0].weight)
        if len(some):
            generator = torch.Generator().manual_seed(self.settings.seed)
            networks = nn.ModuleDict({"encoder": self.encoder, "decoder": self.decoder})
            networks.requires_grad_(True)
            try:
                with torch.enable_grad():
                    self._train(networks, some, generator, tell)
            finally:
                networks.requires_grad_(False)
                networks.zero_grad(set_to_none=True)
                networks.eval()
            self.begun.fill_(True)
        tell(1.0)

    def channels(self, codes: Tensor) -> Tensor:
        """[N, L * 3] codes of unit length; those shorter than :data:`SHORT` divided by it, so that zeros stay zeros."""
        return (codes / codes.norm(dim=-1, keepdim=True).clamp_min(SHORT)).flatten(1)

    def loss(self, drawn: Tensor, alphas: Tensor, regions: Regions) -> Tensor:
        """Mean absolute difference between drawn numbers and the code of a pixel's region, over all pixels of all
        levels that have a region. Differentiable.

        Args:
            drawn: [H, W, L * 3] codes composited over zeros.
            alphas: [H, W, 1] accumulated opacity.
            regions: of the picture, at the size [H, W].
        """
        with torch.no_grad():
            codes = self.encode(regions.features.to(self._linears()[0].weight))
            # Pixels of no region have the id -1: the last row, which is one more.
            targets = torch.cat([codes, codes.new_zeros(1, codes.shape[1])])[regions.ids.long()].permute(1, 2, 0, 3)
            there = (regions.ids >= 0).permute(1, 2, 0)[..., None]
        differences = (drawn.unflatten(-1, (self.levels, -1)) - targets).abs()
        return (differences * there).sum() / (there.sum() * differences.shape[-1]).clamp_min(1)

    # ---- questions

    def splat_cosines(self, codes: Tensor, phrases: Tensor) -> Tensor:
        return self._cosines(codes.detach(), phrases)

    def known(self, codes: Tensor) -> Tensor:
        return codes.detach().norm(dim=-1) > SHORTEST

    def question(self, codes: Tensor, phrases: Tensor, exact: bool = False) -> Tensor:
        """The codes themselves: it is what a pixel shows of them that is decoded, ``exact`` or not."""
        with torch.no_grad():
            return self.channels(codes)

    def pixel_products(
        self, drawn: Tensor, alphas: Tensor, phrases: Tensor, exact: bool = False
    ) -> Tuple[Tensor, Tensor]:
        """Drawn codes are given unit length first. The published program decodes them as they are; but the decoder has
        seen no others, and where a pixel is half transparent its code is half as long."""
        codes = drawn.detach().unflatten(-1, (self.levels, -1))
        cosines = self._cosines(codes.flatten(0, 1), phrases).unflatten(0, drawn.shape[:2])
        there = (alphas > LEAST_ALPHA) & self.known(codes)
        return cosines, torch.where(there, 1.0, torch.nan)

    def features(self, codes: Tensor, level: int) -> Iterator[Tuple[slice, Tensor]]:
        for start in range(0, len(codes), AT_ONCE):
            piece = slice(start, min(start + AT_ONCE, len(codes)))
            yield piece, self._features(codes[piece, level].detach())

    def sketch(self, codes: Tensor, level: int) -> Tensor:
        with torch.no_grad():
            return self.channels(codes[:, [level]])

    # ---- own

    def _cosines(self, codes: Tensor, phrases: Tensor) -> Tensor:
        """[N, L, 3] codes of any length to [N, L, Q]."""
        pieces = codes.flatten(0, 1).split(AT_ONCE)
        found = [self._features(piece) @ phrases.T for piece in pieces]
        return torch.cat(found).unflatten(0, codes.shape[:2]).clamp(-1.0, 1.0)

    def _features(self, codes: Tensor) -> Tensor:
        """[n, 3] codes of any length to [n, C] features of unit length, or zeros. No gradient."""
        with torch.no_grad():
            there = codes.norm(dim=-1, keepdim=True) > SHORTEST
            return torch.where(there, self.decode(F.normalize(codes, dim=-1)), 0.0).float()

    def _linears(self) -> List[nn.Linear]:
        return [layer for layer in [*self.encoder, *self.decoder] if isinstance(layer, nn.Linear)]

    def _train(self, networks: nn.Module, features: Tensor, generator: torch.Generator, tell: Tell) -> None:
        """Train the network on [m, C] features, with weights that need a gradient."""
        settings = self.settings
        _restart(networks, generator)
        if len(features) == 1:
            # Statistics of a single sample are undefined; of one that is there twice they are not.
            features = features.expand(2, -1)
        # Batches of nearly equal size, so that none of a single sample is left over.
        n_batches = max(1, min(-(-len(features) // settings.batch), len(features) // 2))
        n_epochs = settings.epochs
        if settings.most_steps is not None:
            n_epochs = max(1, min(n_epochs, settings.most_steps // n_batches))
        optimizer = torch.optim.Adam(networks.parameters(), lr=settings.lr)
        best, least = deepcopy(networks.state_dict()), float("inf")
        for epoch in range(n_epochs):
            networks.train()
            order = torch.randperm(len(features), generator=generator).to(features.device)
            for batch in order.tensor_split(n_batches):
                optimizer.zero_grad(set_to_none=True)
                self._difference(features[batch]).mean().backward()
                optimizer.step()
            networks.eval()
            with torch.no_grad():
                pieces = features.split(AT_ONCE)
                difference = float(torch.cat([self._difference(piece) for piece in pieces]).mean())
            if difference < least:
                best, least = deepcopy(networks.state_dict()), difference
            tell((epoch + 1) / n_epochs)
        networks.load_state_dict(best)

    def _difference(self, features: Tensor) -> Tensor:
        """[m] between [m, C] features and their reconstructions."""
        decoded = self.decode(self.encode(features))
        cosines = F.cosine_similarity(decoded, features, dim=-1)
        return (decoded - features).square().mean(dim=-1) + self.settings.cosine_weight * (1 - cosines)


def _layers(widths: Sequence[int], normalised: bool) -> nn.Sequential:
    """Linear layers from each width to the next; between them ReLU, after normalisation over the batch if wished."""
    layers: List[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        if layers:
            layers += [nn.BatchNorm1d(before), nn.ReLU()] if normalised else [nn.ReLU()]
        # One where the width is not known: torch warns of first weights without any number.
        layers.append(nn.Linear(max(1, before), max(1, after)))
    return nn.Sequential(*layers)


@torch.no_grad()
def _restart(networks: nn.Module, generator: torch.Generator) -> None:
    """First weights as torch would draw them, but with a generator of our own, and statistics of nothing seen."""
    for layer in networks.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.reset_parameters()
        elif isinstance(layer, nn.Linear):
            bound = layer.weight.shape[1] ** -0.5
            for values in (layer.weight, layer.bias):
                values.copy_(torch.empty(values.shape).uniform_(-bound, bound, generator=generator))
