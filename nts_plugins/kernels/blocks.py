# SPDX-License-Identifier: Apache-2.0
"""What the compositing kernels share: a tile's blocks of pixels, the splats of each block, and their weights.

A tile is cut into blocks of 4 x (LANES / 4) pixels, one pixel a lane. Small blocks waste few lanes on small splats,
and a block's transmittance stays in a register while its splats go by. Every kernel (forward, backward, lift,
lift_ids) asks :func:`block_weights` the same question: which splats contribute to this block, with which weights?
"""

import math

import numpy as np
from numba import njit

from nts_plugins.kernels.tiles import (
    DROP,
    HALF_Y,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    PACKED,
    RIGHT_V,
    ROOT_X,
    ROOT_XY,
    ROOT_Y,
    SLOPE,
    TILE,
    WIDTH2,
)
from nts_plugins.kernels.vector_math import (
    absolute,
    any_lane,
    exp_negative,
    exp_table,
    fma,
    maximum,
    minimum,
    or_lanes,
    round_down,
    round_up,
    select,
    square_root,
    to_int,
)
from nts_plugins.kernels.vectors import LANES, broadcast, int_ramp, load, ramp, splat, store

BLOCK_WIDTH = 4
BLOCK_HEIGHT = LANES // BLOCK_WIDTH
BLOCK_COLUMNS = TILE // BLOCK_WIDTH
BANDS = TILE // BLOCK_HEIGHT
BLOCKS = BLOCK_COLUMNS * BANDS
PIXELS = TILE * TILE
# Record of a splat inside a tile, float32. At the pixel (x, y) of the tile u = START_U + STEP_X x + STEP_XY y and
# v = START_V + STEP_Y y: the large parts of a distant centre are taken together in float64, before they are rounded.
START_U, START_V, STEP_X, STEP_XY, STEP_Y, STRENGTH, LOCAL_X, LOCAL_Y = range(8)
LOCAL = 8

_F = np.float32


EXP_TABLE = exp_table()
CAP, FAINTEST, STOP = len(EXP_TABLE), len(EXP_TABLE) + LANES, len(EXP_TABLE) + 2 * LANES
"""Where :func:`compositing_constants` holds the cap of alpha, the smallest alpha, and the transmittance to stop at."""


def compositing_constants(alpha_cap: float, alpha_min: float, transmittance_stop: float) -> np.ndarray:
    """What the compositing kernels need besides splats, float32, each number in every lane."""
    return np.concatenate(
        [EXP_TABLE, np.repeat(np.array([alpha_cap, alpha_min, transmittance_stop], np.float32), LANES)]
    )


@njit(nogil=True, cache=True)
def start_tile(tile, width, height, xs, ys, left):
    """Pixel centres (from the tile's corner) and fresh transmittances, block by block; returns the corner x0, y0.

    ``left`` is the transmittance behind the splats so far. Its sign tells whether the pixel goes on: a finished pixel
    holds the negative of its final transmittance, and one outside the image -1. One register for both, in a loop that
    is short of registers.
    """
    columns = (width + TILE - 1) // TILE
    x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
    for p in range(PIXELS):
        block, lane = p // LANES, p % LANES
        x = (block % BLOCK_COLUMNS) * BLOCK_WIDTH + lane % BLOCK_WIDTH
        y = (block // BLOCK_COLUMNS) * BLOCK_HEIGHT + lane // BLOCK_WIDTH
        xs[p], ys[p] = _F(x) + _F(0.5), _F(y) + _F(0.5)
        left[p] = _F(1) if x0 + x < width and y0 + y < height else _F(-1)
    return x0, y0


@njit(nogil=True, cache=True)
def mask_blocks(packed, entries, start, stop, x0, y0, local, masks):
    """Copy the splats of entries [start, stop) next to each other and mark which blocks each touches.

    A splat touches a block when its 1/255 ellipse, a little enlarged, crosses it. All bands (rows of blocks) are
    treated at once, one a lane: within a band the ellipse reaches farthest right where its rightmost point lies, or,
    when that is outside the band, on the band's nearest row; the left side is the mirror image.

    Args:
        packed: [N * PACKED] from ``bound_splats``.
        entries: [M] splat of each tile entry.
        x0, y0: the tile's first pixel.
        local: [>= (stop - start) * LOCAL] written.
        masks: [>= stop - start] int32 written: bit b is set when block b is touched.
    """
    zero, one = splat(_F(0), LANES), splat(np.int32(1), LANES)
    per_block = splat(_F(1.0 / BLOCK_WIDTH), LANES)
    band_bits = int_ramp(LANES) * splat(np.int32(BLOCK_COLUMNS), LANES) & splat(np.int32(31), LANES)
    for j in range(stop - start):
        k = np.int64(entries[start + j]) * PACKED
        mean_x, mean_y, half_y = packed[k + MEAN_X] - x0, packed[k + MEAN_Y] - y0, packed[k + HALF_Y]
        root_x, root_xy, root_y = packed[k + ROOT_X], packed[k + ROOT_XY], packed[k + ROOT_Y]
        at = j * LOCAL
        local[at + START_U], local[at + START_V] = root_x * mean_x + root_xy * mean_y, root_y * mean_y
        local[at + STEP_X], local[at + STEP_XY], local[at + STEP_Y] = -root_x, -root_xy, -root_y
        local[at + STRENGTH], local[at + LOCAL_X], local[at + LOCAL_Y] = packed[k + OPACITY], mean_x, mean_y
        first = max(0, math.floor(mean_y - half_y - 0.5) // BLOCK_HEIGHT)
        last = min(BANDS - 1, math.floor(mean_y + half_y - 0.5) // BLOCK_HEIGHT)

        top = fma(ramp(LANES), splat(_F(BLOCK_HEIGHT), LANES), splat(_F(0.5 - mean_y), LANES))
        bottom = top + splat(_F(BLOCK_HEIGHT - 1), LANES)
        right_v, width2 = splat(_F(packed[k + RIGHT_V]), LANES), splat(_F(packed[k + WIDTH2]), LANES)
        slope, drop = splat(_F(packed[k + SLOPE]), LANES), splat(_F(packed[k + DROP]), LANES)
        v = minimum(maximum(right_v, top), bottom)
        right = fma(slope, v, square_root(maximum(width2 - drop * v * v, zero)))
        v = minimum(maximum(zero - right_v, top), bottom)
        left = slope * v - square_root(maximum(width2 - drop * v * v, zero))
        # Columns whose pixel centres [4 c + 0.5, 4 c + 3.5] meet [left, right], as a half-open range.
        right = round_down((right + splat(_F(mean_x + BLOCK_WIDTH - 0.5 + 0.02), LANES)) * per_block)
        left = round_up((left + splat(_F(mean_x - BLOCK_WIDTH + 0.5 - 0.02), LANES)) * per_block)
        most = splat(_F(BLOCK_COLUMNS), LANES)
        stop_column = to_int(minimum(maximum(right, zero), most))
        start_column = to_int(minimum(maximum(left, zero), most))
        bits = (one << stop_column) - (one << start_column)
        bits = select(stop_column > start_column, bits, splat(np.int32(0), LANES))
        touched = np.int64(np.uint32(or_lanes(bits << band_bits)))
        bands = (np.int64(1) << ((last + 1) * BLOCK_COLUMNS)) - (np.int64(1) << (first * BLOCK_COLUMNS))
        masks[j] = np.int32(touched & bands) if last >= first else np.int32(0)


@njit(nogil=True, cache=True)
def list_block(masks, n, block, members):
    """The splats that touch a block, in order: fills ``members`` [>= n] int32 and returns how many."""
    count = 0
    for j in range(n):
        members[count] = j
        count += (masks[j] >> block) & 1
    return count


def _weights_kernel(keep: bool):
    @njit(nogil=True, cache=True)
    def block_weights(local, members, count, pixel, xs, ys, left, constants, weights, picked, trace):
        x, y = load(xs, pixel, LANES), load(ys, pixel, LANES)
        through = load(left, pixel, LANES)
        zero, one, far = splat(_F(0), LANES), splat(_F(1), LANES), splat(_F(20), LANES)
        n = 0
        for i in range(count):
            j = members[i]
            k = np.int64(j) * LOCAL
            u = fma(broadcast(local, k + STEP_X, LANES), x, broadcast(local, k + START_U, LANES))
            u = fma(broadcast(local, k + STEP_XY, LANES), y, u)
            v = fma(broadcast(local, k + STEP_Y, LANES), y, broadcast(local, k + START_V, LANES))
            sigma = fma(u, u, v * v)
            # Beyond 20 alpha is far below 1/255; the limit also keeps denormal numbers, which are slow, out.
            peak = broadcast(local, k + STRENGTH, LANES) * exp_negative(minimum(sigma, far), constants)
            cap, faintest, stop = (
                load(constants, CAP, LANES),
                load(constants, FAINTEST, LANES),
                load(constants, STOP, LANES),
            )
            alpha = minimum(peak, cap)
            after = through * (one - alpha)
            seen = alpha >= faintest
            adds = seen & (after > stop)
            store(weights, n * LANES, select(adds, alpha * through, zero))
            if keep:
                store(trace, 3 * n * LANES, select(adds, alpha, zero))
                store(trace, (3 * n + 1) * LANES, through)
                store(trace, (3 * n + 2) * LANES, select(adds & (peak <= cap), peak, zero))
            picked[n] = j
            through = select(adds, after, select(seen, zero - absolute(through), through))
            if any_lane(adds):
                n += 1
            elif not any_lane(through > zero):
                break
        store(left, pixel, through)
        return n, any_lane(through > zero)

    return block_weights


block_weights = _weights_kernel(keep=False)
"""Composite one block's splats front to back and write down who contributes, and how much.

Follows gsplat: alpha = min(cap, o exp(-sigma)), skipped when below the smallest; a splat that would bring the
transmittance T to the limit or below is left out and ends the pixel. (gsplat also skips sigma < 0, which rounding alone
can bring about; as a sum of squares sigma cannot be negative.)

Args:
    local: from :func:`mask_blocks`.
    members, count: from :func:`list_block`.
    pixel: index of the block's first pixel in xs, ys and left; left is updated, see :func:`start_tile`.
    constants: from :func:`compositing_constants`.
    weights: [>= count * LANES] written: alpha T of the i-th contributor in each pixel.
    picked: [>= count] int32 written: the i-th contributor, an index into ``local``.
    trace: not used here.

Returns:
    The number of contributors, and whether any pixel of the block is still unfinished.
"""

trace_weights = _weights_kernel(keep=True)
"""The same for gradients: also fills ``trace`` [>= 3 * count * LANES] with alpha, T before the splat, and o exp(-sigma)
where the gradient passes (0 where alpha is capped or the pixel does not contribute)."""
