# SPDX-License-Identifier: Apache-2.0
"""Long features as one of a few hundred words that a scene has."""

from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

NO_WORD = -1
"""Of a splat that has no feature."""
SAMPLE = 10_000
"""Features that words are found from."""
SAME = 1e-5
"""Squared distance of unit vectors up to which they are one word: float16 does not hold less."""
ROUNDS = 8
"""Of k-means. From words that lie far apart further ones change little."""

Pieces = Callable[[], Iterator[Tuple[slice, Tensor]]]


@dataclass(frozen=True)
class Codes:
    """The word of each splat on one level."""

    words: Tensor
    """[K, C] unit length."""
    ids: Tensor
    """[N] int16, :data:`NO_WORD` where a splat has none."""


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
    words = _words(sampled((features for _, features in pieces()), SAMPLE, seed), count, seed)
    ids = torch.full((n_splats,), NO_WORD, dtype=torch.int16)
    for which, features in pieces():
        nearest = (features @ words.T).argmax(dim=1) if len(words) else torch.zeros(len(features))
        there = (features != 0).any(dim=1)
        ids[which] = torch.where(there, nearest, NO_WORD).to(torch.int16)
    return Codes(words.half(), ids)


def _words(features: Tensor, count: int, seed: int) -> Tensor:
    """[K, C] means of clusters of unit vectors, of unit length."""
    from sklearn.cluster import KMeans

    starts = _spread(features, count, torch.Generator().manual_seed(seed))
    if len(starts) < count:
        return starts
    first: Any = starts.numpy()  # sklearn's own annotations know of names only.
    found = KMeans(count, init=first, max_iter=ROUNDS).fit(features.numpy())
    return F.normalize(torch.from_numpy(found.cluster_centers_).to(features.dtype), dim=1)


def _spread(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Features far from each other: each is drawn with the squared distance to those before as its chance (Arthur and
    Vassilvitskii 2007). Fewer than ``count`` where no further one differs from all of them.

    sklearn's own draws several a time and takes the best; with hundreds of words that is what takes the time.
    """
    left = torch.full((len(features),), torch.inf)
    chosen: List[int] = []
    while len(chosen) < min(count, len(features)):
        alone = left.clamp_min(0.0) if chosen else torch.ones_like(left)
        if not bool(alone.max() > SAME):
            break
        alone = torch.where(alone > SAME, alone, 0.0)
        chosen.append(int(torch.multinomial(alone, 1, generator=generator)))
        left = torch.minimum(left, 2.0 - 2.0 * (features @ features[chosen[-1]]))
    return features[chosen]


def sampled(features: Iterable[Tensor], most: int, seed: int) -> Tensor:
    """Some of the features of all pictures, or of all splats, each as likely as any other; never zeros, which are none.

    Args:
        features: [M, C] of each picture, or piece of splats; no more than twice ``most`` and one piece are in memory
            at once.
        most: so many at most.
        seed: of the choice.

    Returns:
        [m, C] float32 on the CPU, in the order of pieces. [0, 0] without any piece.
    """
    generator = torch.Generator().manual_seed(seed)
    held: List[Tensor] = []
    lots: List[Tensor] = []
    bound = torch.inf
    for some in features:
        lot = torch.rand(len(some), generator=generator, dtype=torch.float64)
        # Of a million splats' features few are ever looked at: those above the bound have lost already.
        good = (lot < bound).nonzero()[:, 0]
        rows = some.detach()[good.to(some.device)].float().cpu()
        there = (rows != 0).any(dim=1)
        held.append(rows[there])
        lots.append(lot[good[there]])
        if sum(map(len, lots)) > 2 * most:
            held, lots = _drawn(held, lots, most)
            bound = float(lots[0].max())
    return _drawn(held, lots, most)[0][0] if held else torch.zeros(0, 0)


def _drawn(held: List[Tensor], lots: List[Tensor], most: int) -> Tuple[List[Tensor], List[Tensor]]:
    """The features of the smallest lots, and these: whoever is not among them now never will be."""
    lot = torch.cat(lots)
    which = lot.argsort()[:most].sort().values
    return [torch.cat(held)[which]], [lot[which]]
