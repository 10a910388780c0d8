# SPDX-License-Identifier: Apache-2.0
"""Sums over a splat's tiles without atomics. Every (tile, splat) entry writes one record; when lifting, every square of
tiles does, for each of its splats, but for a splat's first. A splat's records lie side by side and are added in a fixed
order, so that results are the same for any number of threads."""

import math

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.tiles import root_of_conic
from nts_plugins.kernels.vectors import LANES, aligned, at, helper, load, splat, store

RECORD = 8
"""Floats before the channels in an entry's gradient record, still without the factors that a splat's entries share: the
sums over pixels of dL/dsigma times what mean2d (2), conic (3: u^2, u v, v^2 of ``tiles``) and opacity need, and of the
absolute gradient of mean2d (2), which absolute-gradient densification reads."""
PIECE = 512
"""Splats that a thread sums at a time."""

_F = np.float32


@helper
def whole_vectors(count, lanes):
    """``count`` rounded up to a multiple of ``lanes``."""
    return (count + lanes - 1) // lanes * lanes


@helper
def sum_records(records, first, last, size, total):
    """total[c] = the sum of records first to last - 1, in order; ``size`` is a multiple of 4."""
    c = 0
    while c + LANES <= size:
        sum_columns(records, first, last, size, c, total, LANES)
        c += LANES
    while c < size:
        sum_columns(records, first, last, size, c, total, 4)
        c += 4


@helper
def sum_columns(records, first, last, size, c, total, columns):
    """:func:`sum_records` for the ``columns`` from ``c`` on, a literal."""
    part = splat(_F(0), columns)
    for slot in range(first, last):
        part = part + load(records, slot * size + c, columns)
    store(total, c, part)


@helper
def put_floats(source, start, target, place, count, add):
    """``count`` floats from ``start`` of one array to ``place`` of another; with ``add``, added to what is there."""
    c = 0
    while c + LANES <= count:
        values = load(source, start + c, LANES)
        store(target, place + c, load(target, place + c, LANES) + values if add else values)
        c += LANES
    while c < count:
        target[at(place + c)] = source[at(start + c)] + (target[at(place + c)] if add else _F(0))
        c += 1


@njit(nogil=True, cache=True, error_model="numpy")
def gather_gradients(
    share, first_slot, records, conics, opacities, channels,
    grad_means2d, grad_abs, grad_conics, grad_opacities, grad_values,
):  # fmt: skip
    """Sum each splat's records, which lie side by side, always in the same order.

    Args:
        first_slot: [N + 1] int64, see ``tiles.fill_tiles``.
        records: from :func:`composite_backward`.
        conics: [N, 3] float64.
        opacities: [N].
        grad_means2d, grad_abs: [N, 2] written; the second holds the sums of absolute values over pixels.
        grad_conics: [N, 3] float64 written.
        grad_opacities: [N] written.
        grad_values: [N * channels] written.
    """
    n, size = first_slot.shape[0] - 1, RECORD + whole_vectors(channels, 4)
    total = aligned(size)
    # The kernels draw with sigma in units of ln 2, see ``tiles``.
    slope = _F(2.0 * math.log(2.0))
    while True:
        start = next_piece(share, pieces_of(n, PIECE)) * PIECE
        if start >= n:
            return
        for i in range(start, min(n, start + PIECE)):
            first, last, k = first_slot[at(i)], first_slot[at(i + 1)], at(i)
            sum_records(records, first, last, size, total)
            grad_means2d[k, 0], grad_means2d[k, 1] = -slope * total[0], -slope * total[1]
            grad_abs[k, 0], grad_abs[k, 1] = slope * total[6], slope * total[7]
            grad_conics[k, 0] = grad_conics[k, 1] = grad_conics[k, 2] = 0.0
            if last > first:
                # (u, v) = R d, so the sum of d d^T is R^-1 (the sum of w w^T) R^-T. On needles it has large entries
                # that cancel on the way to the covariance: summed as it is, in float32, it would lose those digits.
                x, xy, y = root_of_conic(conics[k, 0], conics[k, 1], conics[k, 2])
                per_x, per_y = 1.0 / x, 1.0 / y if y > 0.0 else 0.0
                uu, uv, vv = np.float64(total[2]), np.float64(total[3]), np.float64(total[4])
                lean = xy * per_y
                grad_conics[k, 0] = 0.5 * per_x * per_x * (uu - 2.0 * lean * uv + lean * lean * vv)
                grad_conics[k, 1] = per_x * per_y * (uv - lean * vv)
                grad_conics[k, 2] = 0.5 * per_y * per_y * vv
            grad_opacities[k] = -total[5] / opacities[k] if last > first else _F(0)
            for c in range(channels):
                grad_values[at(i * channels + c)] = total[at(RECORD + c)]


@njit(nogil=True, cache=True)
def gather_lifted(share, first_slot, first_record, records, channels, fresh, features, weights):
    """Complete each splat's sums after ``lifting.lift_maps``: add its records, and write zeros for a splat without
    slots whose sums nobody has begun.

    Args:
        first_slot: [N + 1] where each splat's slots begin.
        first_record: [N + 1] where each splat's records begin.
        records: from ``lift_maps``.
        fresh: whether sums were still to be begun.
        features: [N * channels], added to or written.
        weights: [N] likewise.
    """
    n, size = first_record.shape[0] - 1, whole_vectors(1 + channels, 4)
    total = aligned(size)
    while True:
        start = next_piece(share, pieces_of(n, PIECE)) * PIECE
        if start >= n:
            return
        for i in range(start, min(n, start + PIECE)):
            first, last = first_record[at(i)], first_record[at(i + 1)]
            if last > first:
                sum_records(records, first, last, size, total)
                put_floats(total, 0, features, i * channels, channels, True)
                weights[at(i)] += total[at(channels)]
            elif fresh and first_slot[at(i)] == first_slot[at(i + 1)]:
                features[i * channels : (i + 1) * channels] = _F(0)
                weights[at(i)] = _F(0)
