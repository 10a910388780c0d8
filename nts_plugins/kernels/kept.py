# SPDX-License-Identifier: Apache-2.0
"""The softmax of the largest few of many logits, row by row: torch takes ten times as long for rows this short."""

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.vector_math import largest_lane, maximum, trailing_zeros
from nts_plugins.kernels.vector_shapes import mask_bits
from nts_plugins.kernels.vectors import LANES, aligned, at, helper, load, splat

PIECE = 512
"""Rows that a thread treats at a time."""
_F = np.float32


@njit(nogil=True, cache=True, error_model="numpy")
def keep_largest(share, logits, weights, ids, dense):
    """The largest logits of each row, and what they weigh.

    Args:
        share: of the work, see ``pieces``; a piece is some rows.
        logits: [N * K] float32.
        weights: [N, k] float32 written: the softmax of the largest k logits, largest first. Of equal ones the first
            counts as larger.
        ids: [N, k] int64 written: which they are, 0 to K - 1.
        dense: [N * K] float32 written: the same weights in their places, zeros elsewhere; [0] where nobody wants them.
    """
    n, kept = weights.shape
    width = logits.shape[0] // max(1, n)
    row = aligned(-(-width // LANES) * LANES)
    row[:] = _F(-np.inf)
    while True:
        start = next_piece(share, pieces_of(n, PIECE)) * PIECE
        if start >= n:
            return
        for i in range(start, min(n, start + PIECE)):
            own, which, first = weights[i], ids[i], i * width
            for j in range(width):
                row[at(j)] = logits[at(first + j)]
            _choose(row, own, which)
            largest, total = own[at(0)], _F(0)
            for k in range(kept):
                own[at(k)] = np.exp(own[at(k)] - largest)
                total += own[at(k)]
            for k in range(kept):
                own[at(k)] /= total
            if dense.shape[0] > 0:
                for j in range(width):
                    dense[at(first + j)] = _F(0)
                for k in range(kept):
                    dense[at(first + which[at(k)])] = own[at(k)]


@helper
def _choose(row, values, ids):
    """The largest of a row of whole vectors, in order: ``values`` and where they are. Nothing is left of them there."""
    for k in range(values.shape[0]):
        most = load(row, 0, LANES)
        for j in range(LANES, row.shape[0], LANES):
            most = maximum(most, load(row, j, LANES))
        values[at(k)], ids[at(k)] = largest_lane(most), 0
        for j in range(0, row.shape[0], LANES):
            found = mask_bits(load(row, j, LANES) >= splat(values[at(k)], LANES))
            if found != 0:
                ids[at(k)] = j + trailing_zeros(found)
                break
        row[at(ids[at(k)])] = _F(-np.inf)


@njit(nogil=True, cache=True, error_model="numpy")
def kept_gradient(share, gradient, weights, ids, out):
    """The gradient of logits from that of dense weights.

    Args:
        share: of the work, as above.
        gradient: [N * K] float32.
        weights, ids: [N, k] of :func:`keep_largest`.
        out: [N * K] float32 written.
    """
    n, kept = weights.shape
    width = gradient.shape[0] // max(1, n)
    while True:
        start = next_piece(share, pieces_of(n, PIECE)) * PIECE
        if start >= n:
            return
        for i in range(start, min(n, start + PIECE)):
            own, which, first = weights[i], ids[i], i * width
            mean = _F(0)
            for k in range(kept):
                mean += own[at(k)] * gradient[at(first + which[at(k)])]
            for j in range(width):
                out[at(first + j)] = _F(0)
            for k in range(kept):
                out[at(first + which[at(k)])] = own[at(k)] * (gradient[at(first + which[at(k)])] - mean)
