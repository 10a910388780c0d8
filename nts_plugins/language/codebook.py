# SPDX-License-Identifier: Apache-2.0
"""Long features as one of a few hundred words that a scene has."""

from dataclasses import dataclass
from typing import Callable, Iterator, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

NO_WORD = -1
"""Of a splat that has no feature."""
SAMPLE = 20_000
"""Features that words are found from."""

Pieces = Callable[[], Iterator[Tuple[slice, Tensor]]]


@dataclass(frozen=True)
class Codes:
    """The word of each splat on one level."""

    words: Tensor
    """[K, C] unit length."""
    ids: Tensor
    """[N] int16, :data:`NO_WORD` where a splat has none."""

    def cosines(self, phrases: Tensor) -> Tensor:
        """[N, Q] cosines of splats' features with unit vectors [Q, C]; 0 where there is none."""
        table = torch.cat([self.words.float() @ phrases.T, phrases.new_zeros(1, len(phrases))])
        return table[self.ids.long()]

    def features(self, which: slice = slice(None)) -> Tensor:
        """[n, C] of some splats; zeros where there is none."""
        table = torch.cat([self.words, self.words.new_zeros(1, self.words.shape[1])])
        return table[self.ids[which].long()]


def encode(pieces: Pieces, n_splats: int, count: int = 512, seed: int = 0) -> Codes:
    """Find words, and give each splat the nearest one.

    Args:
        pieces: gives splats' features piece by piece, [n, C] of unit length or zero, each time it is called.
        n_splats: N.
        count: words, at most.
        seed: of the choice of splats that words are found from.

    Returns:
        The codes, words as float16.

    Raises:
        ValueError: for more words than int16 counts.
    """
    if not 0 < count <= torch.iinfo(torch.int16).max:
        raise ValueError(f"From 1 to {torch.iinfo(torch.int16).max} words can be told apart, not {count}.")
    words = _words(_sampled(pieces, n_splats, seed), count, seed)
    ids = torch.full((n_splats,), NO_WORD, dtype=torch.int16)
    for which, features in pieces():
        nearest = (features @ words.T).argmax(dim=1) if len(words) else torch.zeros(len(features))
        there = (features != 0).any(dim=1)
        ids[which] = torch.where(there, nearest, NO_WORD).to(torch.int16)
    return Codes(words.half(), ids)


def _sampled(pieces: Pieces, n_splats: int, seed: int) -> Tensor:
    """Some splats' features, evenly chosen; those without are left out."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(n_splats, generator=generator) < SAMPLE / max(1, n_splats)
    some = [features[chosen[which]] for which, features in pieces()]
    together = torch.cat(some) if some else torch.zeros(0, 1)
    return together[(together != 0).any(dim=1)]


def _words(features: Tensor, count: int, seed: int) -> Tensor:
    """[K, C] means of clusters of unit vectors, of unit length."""
    from sklearn.cluster import MiniBatchKMeans

    distinct = torch.unique(features, dim=0)
    if len(distinct) <= count:
        return distinct
    means = (
        MiniBatchKMeans(count, random_state=seed, n_init="auto", batch_size=4096).fit(features.numpy()).cluster_centers_
    )
    return F.normalize(torch.from_numpy(means).to(features.dtype), dim=1)
