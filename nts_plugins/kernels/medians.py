# SPDX-License-Identifier: Apache-2.0
"""VALA's streaming cosine median of what pictures show of a splat, splat by splat.

A picture shows of a splat the mean F of those of its regions that the splat is part of, of unit length; its weight w is
the sum of theirs. Pictures come one after the other, with W the sum of their weights so far, and each pulls the unit
vector z along the sphere: z <- unit(z + w / W (F - (F.z) z)). The first one's w / W is 1, so that z begins as its F.
Of a single picture the median is thus the weighted mean of all regions.

Only the rows of the table of features come from memory: z and F of a splat stay in the cache. Neither is ever brought
to unit length; their lengths, found in the same pass, go into the factors of the next one.
"""

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.records import put_floats, whole_vectors
from nts_plugins.kernels.vector_math import fma, sum_lanes
from nts_plugins.kernels.vectors import LANES, aligned, aligned_zeros, at, helper, load, prefetch, splat, store

BLOCK = 4 * LANES
"""Numbers of a row that are added for all of a picture's regions before the next ones are: the sums stay in registers,
and of each row one or a few cache lines are read in one go."""
PIECE = 64
"""Splats that a thread treats at a time."""
_AHEAD = 2
"""Entries, each of them a row, from the one that is added to the one that begins to be fetched."""
_LINE = 16
"""float32 in a cache line."""
_F = np.float32


def padded(width: int) -> int:
    """Length of a row of the table: that of a feature, rounded up to whole blocks."""
    return -(-width // BLOCK) * BLOCK


@njit(nogil=True, cache=True, error_model="numpy")
def medians(share, first_entry, regions, weights, views, table, out):
    """The median of each splat; zeros for one without entries, or whose features are all zero.

    Args:
        share: of the work, see ``pieces``; a piece is some splats.
        first_entry: [N + 1] int64 where each splat's entries begin.
        regions: [E] int64 row of the table; for each splat those of one picture lie side by side.
        weights: [E] float32, positive.
        views: [M] int64 the picture that a region is of.
        table: [M * padded(C)] float32 rows of features, zeros behind each.
        out: [N, C] float32 written.
    """
    n, width = out.shape
    wide = whole_vectors(width, BLOCK)
    # A splat without votes is multiplied with what is there, by zero: it must be a number.
    flat, z, seen = out.reshape(-1), aligned(wide), aligned_zeros(wide)
    while True:
        start = next_piece(share, pieces_of(n, PIECE)) * PIECE
        if start >= n:
            return
        for i in range(start, min(n, start + PIECE)):
            z[:] = _F(0)
            square, total = _F(0), _F(0)
            entry, last = first_entry[at(i)], first_entry[at(i + 1)]
            while entry < last:
                first, view, weight = entry, views[at(regions[at(entry)])], _F(0)
                while entry < last and views[at(regions[at(entry)])] == view:
                    weight += weights[at(entry)]
                    entry += 1
                total += weight
                of_seen, product = mean_of_regions(regions, weights, first, entry, table, wide, z, seen)
                if of_seen > _F(0):
                    old, new, pull = one_over_root(square), one_over_root(of_seen), weight / total
                    square = combine(z, (_F(1) - pull * (product * old * new)) * old, seen, pull * new, wide)
            combine(z, one_over_root(square), seen, _F(0), wide)
            put_floats(z, 0, flat, i * width, width, False)


@helper
def one_over_root(square):
    """What a vector of this squared length is to be multiplied with; 0 where it is zero and stays so."""
    return _F(1) / np.sqrt(square) if square > _F(0) else _F(0)


@helper
def mean_of_regions(regions, weights, first, last, table, wide, z, seen):
    """``seen`` becomes the weighted sum of the rows of some entries; returns its squared length, and its product with
    z."""
    square, product = splat(_F(0), LANES), splat(_F(0), LANES)
    end = regions.shape[0] - 1
    for c in range(0, wide, BLOCK):
        # An array of vectors is none that numba knows.
        one, two, three, four = splat(_F(0), LANES), splat(_F(0), LANES), splat(_F(0), LANES), splat(_F(0), LANES)
        for entry in range(first, last):
            # Rows come in no order, so that nothing but this fetches them in time; also those of the next splat.
            coming = regions[at(min(entry + _AHEAD, end))] * wide + c
            for line in range(0, BLOCK, _LINE):
                prefetch(table, coming + line)
            weight, place = splat(weights[at(entry)], LANES), regions[at(entry)] * wide + c
            one = fma(weight, load(table, place, LANES), one)
            two = fma(weight, load(table, place + LANES, LANES), two)
            three = fma(weight, load(table, place + 2 * LANES, LANES), three)
            four = fma(weight, load(table, place + 3 * LANES, LANES), four)
        store(seen, c, one)
        store(seen, c + LANES, two)
        store(seen, c + 2 * LANES, three)
        store(seen, c + 3 * LANES, four)
        square = square + (fma(one, one, two * two) + fma(three, three, four * four))
        product = product + (
            fma(one, load(z, c, LANES), two * load(z, c + LANES, LANES))
            + fma(three, load(z, c + 2 * LANES, LANES), four * load(z, c + 3 * LANES, LANES))
        )
    return sum_lanes(square), sum_lanes(product)


@helper
def combine(z, old, seen, new, wide):
    """z <- old z + new seen; returns its squared length."""
    square = splat(_F(0), LANES)
    for c in range(0, wide, LANES):
        value = fma(splat(old, LANES), load(z, c, LANES), splat(new, LANES) * load(seen, c, LANES))
        store(z, c, value)
        square = fma(value, value, square)
    return sum_lanes(square)
