# SPDX-License-Identifier: Apache-2.0
"""Which regions of which pictures each splat is part of, and by how much.

Features are the same all over a region, so that sums over pixels of weight times feature are sums over regions: the
matrix of weights [splats, regions] is sparse, and serves every rule by which features are averaged
(:mod:`nts_plugins.language.lifting`). It is exact, and its cost does not depend on how long features are.
"""

from dataclasses import dataclass
from typing import Iterable, Iterator, List, Tuple

import torch
from torch import Tensor

from nts_plugins.encoders.base import Regions
from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import lift_ids

LEAST_WEIGHT = 1e-3
"""Pixels. Less of a region than this is not kept: what a splat shows of it through others is noise."""


@dataclass(frozen=True)
class Votes:
    """The sparse matrix of one level, regions numbered through all pictures, in their order."""

    splats: Tensor
    """[E] int64, rising."""
    regions: Tensor
    """[E] int64, rising for each splat."""
    weights: Tensor
    """[E] sum of alpha T over the region's pixels."""
    features: Tensor
    """[M, C] of all regions, unit length, as they were stored."""
    views: Tensor
    """[M] int64, number of the picture that a region is of, rising."""
    n_splats: int

    def of_views(self) -> Tensor:
        """[E] the picture of each entry."""
        return self.views[self.regions]

    def chosen(self, entries: Tensor) -> "Votes":
        """The matrix with some of its entries: [E] bool."""
        splats, regions, weights = self.splats[entries], self.regions[entries], self.weights[entries]
        return Votes(splats, regions, weights, self.features, self.views, self.n_splats)

    def pieces(self, size: int) -> Iterator[Tuple[slice, "Votes"]]:
        """Splats in pieces, and the matrix [n, M] of each, its splats numbered from 0."""
        counts = torch.bincount(self.splats, minlength=self.n_splats).cumsum(dim=0).tolist()
        for start in range(0, self.n_splats, size):
            end = min(start + size, self.n_splats)
            entries = slice(counts[start - 1] if start else 0, counts[end - 1])
            splats, regions, weights = self.splats[entries] - start, self.regions[entries], self.weights[entries]
            yield slice(start, end), Votes(splats, regions, weights, self.features, self.views, end - start)


def collect(gaussians: Gaussians, pictures: Iterable[Tuple[Tensor, Tensor, Tuple[int, int], Regions]]) -> List[Votes]:
    """The votes of all levels, the pictures looked at one after the other.

    Args:
        gaussians: N splats.
        pictures: of each its viewmat [4, 4] (world to camera, OpenCV axes), its K [3, 3] and size (height, width) in
            pixels, and its regions, at whatever resolution.

    Returns:
        One matrix a level.
    """
    pieces: List[List[Tuple[Tensor, Tensor, Tensor]]] = []
    features: List[List[Tensor]] = []
    counts: List[List[int]] = []
    for viewmat, K, size, regions in pictures:
        K = resized(K, size, regions.size)
        if not pieces:
            pieces, features, counts = ([[] for _ in regions.levels] for _ in range(3))
        for level in range(len(regions.levels)):
            ids = regions.ids[level]
            used = torch.unique(ids)
            used = used[used >= 0].long()
            # Numbered anew: features of other levels, and of regions that others were painted over, stay behind.
            number = torch.full((len(regions.features) + 1,), -1)
            number[used] = torch.arange(len(used))
            own = number[ids.long()][None].to(gaussians.device)
            found = lift_ids(gaussians, viewmat[None], K[None], own, n_ids=len(used))
            good = found.weights > LEAST_WEIGHT
            before = sum(counts[level])
            pieces[level].append((found.splats[good].cpu(), found.ids[good].cpu() + before, found.weights[good].cpu()))
            features[level].append(regions.features[used].cpu())
            counts[level].append(len(used))
    return [
        _joined(some, vectors, numbers, len(gaussians))
        for some, vectors, numbers in zip(pieces, features, counts, strict=True)
    ]


def resized(K: Tensor, old: Tuple[int, int], new: Tuple[int, int]) -> Tensor:
    """Intrinsics [3, 3] of a picture of another size (height, width) that shows the same."""
    scale = torch.tensor([new[1] / old[1], new[0] / old[0], 1.0], dtype=K.dtype, device=K.device)
    return K * scale[:, None]


def _joined(
    pieces: List[Tuple[Tensor, Tensor, Tensor]], features: List[Tensor], counts: List[int], n_splats: int
) -> Votes:
    splats, regions, weights = (torch.cat(column) for column in zip(*pieces, strict=True))
    order = splats.argsort(stable=True)  # Within a splat regions rise as pictures came.
    views = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Votes(splats[order], regions[order], weights[order], torch.cat(features), views, n_splats)
