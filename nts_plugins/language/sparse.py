# SPDX-License-Identifier: Apache-2.0
"""A few words a splat, out of some dozens that the scene learns on each level: the sparse codes of LangSplatV2."""

from dataclasses import dataclass
from typing import Callable, Iterable, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from nts_plugins.encoders.base import Regions
from nts_plugins.errors import InputError
from nts_plugins.language.codebook import SAMPLE, encode, sampled
from nts_plugins.language.fits import Tell, TrainedFit
from nts_plugins.language.kept import dense_weights, kept_weights
from nts_plugins.language.words import LEAST_ALPHA, WordsFit

SPREAD = 1e-3
"""Of the first logits. Were they all zero, the order in which a device finds equal numbers would choose the words that
every splat starts with. One step of an optimizer moves them further than this, so that it decides nothing else; from a
spread of 1, words that a splat did not start with were out of its reach."""


@dataclass
class SparseSettings:
    """What LangSplatV2 (arXiv 2507.07136) sets."""

    words: int = 64
    """K, of each level."""
    kept: int = 4
    """Of them, so many make up a splat's feature."""
    seed: int = 0
    """Of the first words and logits."""

    def __post_init__(self) -> None:
        if not 0 < self.kept <= self.words:
            raise InputError(f"Of {self.words} words each splat has from 1 to {self.words}, not {self.kept}.")


class Sparse(WordsFit, TrainedFit):
    """Features that are weighted means of ``kept`` out of K words (LangSplatV2, arXiv 2507.07136).

    Weights are the softmax of a splat's K logits; the largest few are kept and divided by their sum. The softmax of all
    and the division cancel, which leaves the softmax of the kept logits alone. Others get no gradient; a splat comes to
    them because the gradients of the kept ones sum to zero: while any rises another one falls, out of the kept ones.

    Words are trained along with the codes, on each level for itself. All levels start with the same: regions of one
    thing look alike on every level, and words move a lot anyway.

    Args:
        levels: L.
        width: C; 0 where it is not known until a checkpoint tells.
        settings: see :class:`SparseSettings`.
    """

    begun: Tensor
    """Whether there are words: their rows are there from the start, for optimizers to find them, and zero till then."""

    def __init__(self, levels: int, width: int, settings: SparseSettings) -> None:
        super().__init__(levels, width)
        self.settings = settings
        self.codebook = Parameter(torch.zeros(levels, settings.words, width))
        self.register_buffer("begun", torch.tensor(False))

    @property
    def words(self) -> Tensor:
        return self.codebook

    @property
    def ready(self) -> bool:
        return bool(self.begun)

    def codes(self, count: int) -> Parameter:
        """The first logits [N, L, K], next to nothing (:data:`SPREAD`)."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        logits = torch.randn(count, self.levels, self.settings.words, generator=generator)
        return Parameter(logits.mul_(SPREAD).to(self.codebook.device))

    # ---- to be trained

    def begin(self, features: Callable[[], Iterable[Tensor]], tell: Tell) -> None:
        """Cluster features of regions: the means are the first words. Where there are fewer features than words, words
        repeat, and are trained apart. Where there are none at all, nothing begins."""
        some = sampled(features(), SAMPLE, self.settings.seed)
        if len(some):
            # Stores keep float16. What its rounding takes off their length would tell the same features apart.
            once = [(slice(None), F.normalize(some, dim=1))]
            found = encode(lambda: iter(once), len(some), self.settings.words, self.settings.seed).words.float()
            rows = torch.arange(self.settings.words) % len(found)
            with torch.no_grad():
                self.codebook.copy_(found[rows].expand_as(self.codebook))
            self.begun.fill_(True)
        tell(1.0)

    def channels(self, codes: Tensor) -> Tensor:
        """[N, L * K] weights of words: ``kept`` of K are not zero, and these sum to 1. Differentiable."""
        return dense_weights(codes, self.settings.kept).flatten(1)

    def loss(self, drawn: Tensor, alphas: Tensor, regions: Regions) -> Tensor:
        """1 - cosine between the feature that a pixel shows and that of its region; the mean over all pixels of all
        levels that have a region and show something. Differentiable.

        No feature of a pixel is ever made. With drawn weights w, words B [K, C] and the feature f of the pixel's region
        m, the cosine is w . (B f) / ||w B||, where ||w B||^2 = w (B B^T) w: K numbers a pixel do. Moreover their sum is
        that over regions of (B f_m) . s_m, where s_m sums w / ||w B|| over the pixels of a region.

        Args:
            drawn: [H, W, L * K] weights composited over zeros.
            alphas: [H, W, 1] accumulated opacity.
            regions: of the picture, at the size [H, W].
        """
        words, n_regions = self.codebook, len(regions.features)
        weights = drawn.flatten(0, 1).unflatten(-1, (self.levels, -1)).transpose(0, 1)
        squares = ((weights @ (words @ words.transpose(1, 2))) * weights).sum(dim=-1)
        ids = regions.ids.flatten(1).long()
        there = (ids >= 0) & (alphas.flatten() > LEAST_ALPHA) & (squares > LEAST_ALPHA**4)
        # Where nothing is, the square is replaced first: a zero times an infinite gradient would not be zero.
        shares = weights * torch.where(there, torch.where(there, squares, 1.0).rsqrt(), 0.0)[..., None]
        # One sum more than regions, for pixels of no region, however many regions there are.
        rows = torch.where(ids >= 0, ids, n_regions)
        sums = weights.new_zeros(n_regions + 1, words.shape[1])
        cosines = weights.new_zeros(())
        for level in range(self.levels):
            of_level = sums.index_add(0, rows[level], shares[level])[:n_regions]
            cosines = cosines + ((regions.features.to(words) @ words[level].T) * of_level).sum()
        count = there.sum()
        return (count - cosines) / count.clamp_min(1)

    # ---- questions

    def weights(self, codes: Tensor) -> Tuple[Tensor, Tensor]:
        """The ``kept`` words of each splat: their weights and ids, both [N, L, kept]. Weights are differentiable."""
        return kept_weights(codes, self.settings.kept)

    def weigh(self, codes: Tensor, table: Tensor) -> Tensor:
        weights, kept = self.weights(codes)
        tables = table.expand(codes.shape[1], -1, -1)
        sums = [
            F.embedding_bag(kept[:, level], tables[level], per_sample_weights=weights[:, level].to(table), mode="sum")
            for level in range(codes.shape[1])
        ]
        return torch.stack(sums, dim=1)
