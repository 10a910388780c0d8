# SPDX-License-Identifier: Apache-2.0
"""Language without training: each splat holds, on each level, the number of a word.

Which regions of which pictures a splat is part of is found once for all levels (:mod:`nts_plugins.language.votes`).
What they show is averaged (:mod:`nts_plugins.language.lifting`), without pictures in which it is hidden if that is
wanted (:mod:`nts_plugins.language.gate`). The averages of all splats are a few hundred words
(:mod:`nts_plugins.language.codebook`): two bytes a splat and level.
"""

from dataclasses import dataclass
from functools import partial
from typing import Collection, Iterator, List

import torch
from torch import Tensor
from torch.nn import Parameter

from nts_plugins.errors import InputError
from nts_plugins.gaussians import Gaussians
from nts_plugins.language.codebook import NO_WORD, Codes, encode
from nts_plugins.language.fits import LiftedFit, Tell, View
from nts_plugins.language.gate import centre_weights, gate, gated
from nts_plugins.language.lifting import Rule, features_of
from nts_plugins.language.votes import collect
from nts_plugins.language.words import WordsFit

LOOKING = 0.7
"""Share of the time that pictures take; the rest is for averages and words."""


@dataclass
class LiftSettings:
    """How features of regions become those of splats."""

    rule: Rule = "mean"
    """"mean" averages what pictures say; "median" lets them pull one after the other, and outliers less."""
    gate: bool = False
    """Let only splats take what a picture shows whose centres can be seen in it, as VALA does. A splat that no picture
    lets in keeps all it has."""
    words: int = 512
    """Of a scene on each level, at most; 32 767 can be told apart."""

    def __post_init__(self) -> None:
        most = torch.iinfo(torch.int16).max
        if not 0 < self.words <= most:
            raise InputError(f"Words of a level are from 1 to {most}, not {self.words}.")


class Lift(WordsFit, LiftedFit):
    """Codes [N, L] int16: for each level the number of a splat's word, or :data:`NO_WORD`.

    Args:
        levels, width: see :class:`~nts_plugins.language.fits.Fit`.
        settings: see :class:`LiftSettings`.
    """

    table: Tensor

    def __init__(self, levels: int, width: int, settings: LiftSettings) -> None:
        super().__init__(levels, width)
        self.settings = settings
        self.register_buffer("table", torch.zeros(levels, 0, width, dtype=torch.float16))

    @property
    def words(self) -> Tensor:
        return self.table

    def codes(self, count: int) -> Parameter:
        return Parameter(torch.full((count, self.levels), NO_WORD, dtype=torch.int16), requires_grad=False)

    def weigh(self, codes: Tensor, table: Tensor) -> Tensor:
        levels, words, width = table.shape
        # All levels at once, each with a row of zeros behind its words, for no word.
        rows = torch.cat([table, table.new_zeros(levels, 1, width)], dim=1).flatten(0, 1)
        first = (words + 1) * torch.arange(levels, device=codes.device)
        places = torch.where(codes == NO_WORD, words, codes) + first
        return rows.index_select(0, places.flatten()).view(-1, levels, width)

    def question(self, codes: Tensor, phrases: Tensor, exact: bool = False) -> Tensor:
        if exact:
            return super().question(codes, phrases, exact)
        with torch.no_grad():
            cosines = self.words.float() @ phrases.T
            return self.weigh(codes, torch.cat([cosines, torch.ones_like(cosines[..., :1])], dim=-1)).flatten(1)

    def lengths(self, codes: Tensor) -> Tensor:
        return (codes != NO_WORD).float()

    def lift(self, gaussians: Gaussians, views: Collection[View], tell: Tell) -> Tensor:
        settings = self.settings
        allowed: List[Tensor] = []

        def pictures() -> Iterator[View]:
            for number, (viewmat, K, size, regions) in enumerate(views):
                tell(LOOKING * number / len(views))
                if settings.gate:
                    allowed.append(gate(centre_weights(gaussians, viewmat, K, size)).cpu())
                yield viewmat, K, size, regions

        matrices = collect(gaussians, pictures())
        levels: List[Codes] = []
        for level, votes in enumerate(matrices):
            votes = gated(votes, allowed) if settings.gate else votes
            levels.append(encode(partial(features_of, votes, settings.rule), len(gaussians), settings.words))
            tell(LOOKING + (1 - LOOKING) * (level + 1) / len(matrices))
        most = max(len(each.words) for each in levels)
        table = torch.zeros(len(levels), most, levels[0].words.shape[1], dtype=torch.float16)
        for rows, each in zip(table, levels, strict=True):
            rows[: len(each.words)] = each.words
        self.table = table.to(gaussians.device)
        return torch.stack([each.ids for each in levels], dim=1).to(gaussians.device)
