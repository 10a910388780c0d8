# SPDX-License-Identifier: Apache-2.0
"""What the compositing kernels share: the splats of each block of a tile, and their weights.

Small blocks waste few lanes on small splats, and a block's transmittance stays in a register while its splats go by.
Every kernel (forward, backward, lift, lift_ids) asks :func:`block_weights` the same question: which splats contribute
to this block, with which weights?
"""

import numpy as np

from nts_plugins.kernels.tiles import (
    BLOCK_COLUMNS,
    BLOCK_HEIGHT,
    BLOCK_WIDTH,
    BLOCKS,
    LOCAL,
    LOCAL_FADE,
    MASK,
    PIXELS,
    START_U,
    START_V,
    STEP_X,
    STEP_XY,
    STEP_Y,
    TILE,
)
from nts_plugins.kernels.vector_math import (
    absolute,
    any_lane,
    fma,
    minimum,
    power_of_two,
    power_table,
    select,
    trailing_zeros,
)
from nts_plugins.kernels.vectors import LANES, at, broadcast, helper, inlined, load, splat, store

_F = np.float32

POWER_TABLE = power_table()
CAP, FAINTEST, STOP = (len(POWER_TABLE) + i * LANES for i in range(3))
"""Where :func:`compositing_constants` holds the cap of alpha, the smallest alpha, and the transmittance to stop at."""


def compositing_constants(alpha_cap: float, alpha_min: float, transmittance_stop: float) -> np.ndarray:
    """What the compositing kernels need besides splats, float32, each number in every lane."""
    limits = np.array([alpha_cap, alpha_min, transmittance_stop], np.float32)
    return np.concatenate([POWER_TABLE, np.repeat(limits, LANES)])


@helper
def start_tile(tile, width, height, xs, ys, left):
    """Pixel centres (from the tile's corner) and fresh transmittances, block by block; returns the corner x0, y0.

    ``left`` is the transmittance behind the splats so far. Its sign tells whether the pixel goes on: a finished pixel
    holds the negative of its final transmittance, and one outside the image -1. One register for both, in a loop that
    is short of registers.
    """
    columns = (width + TILE - 1) // TILE
    x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
    for p in range(PIXELS):
        x, y = pixel_in_tile(p)
        xs[at(p)], ys[at(p)] = _F(x) + _F(0.5), _F(y) + _F(0.5)
        left[at(p)] = _F(1) if x0 + x < width and y0 + y < height else _F(-1)
    return x0, y0


@helper
def pixel_in_tile(p):
    """Column and row, in its tile, of the p-th pixel when pixels are taken block by block."""
    x, y = corner_of_block(p // LANES)
    return x + p % LANES % BLOCK_WIDTH, y + p % LANES // BLOCK_WIDTH


@helper
def corner_of_block(block):
    """Column and row, in its tile, of a block's first pixel."""
    return block % BLOCK_COLUMNS * BLOCK_WIDTH, block // BLOCK_COLUMNS * BLOCK_HEIGHT


@helper
def pixel_at(x, y):
    """The inverse of :func:`pixel_in_tile`."""
    block = (y // BLOCK_HEIGHT) * BLOCK_COLUMNS + x // BLOCK_WIDTH
    return block * LANES + (y % BLOCK_HEIGHT) * BLOCK_WIDTH + x % BLOCK_WIDTH


@helper
def list_blocks(words, start, stop, capacity, members, sizes):
    """Which of the entries in [start, stop) touch each block, in order.

    Fills ``members`` [BLOCKS * capacity] int32: block b's begin at b * capacity and hold distances from ``start``;
    ``sizes`` [BLOCKS] int64 tells how many.
    """
    for b in range(BLOCKS):
        sizes[at(b)] = 0
    for j in range(stop - start):
        mask = np.int64(np.uint32(words[at((start + j) * LOCAL + MASK)]))
        while mask != 0:
            b = trailing_zeros(mask)
            mask &= mask - 1
            size = sizes[at(b)]
            members[at(b * capacity + size)] = j
            sizes[at(b)] = size + 1


@inlined
def peaks(local, k, x, y, constants):
    """o exp(-sigma) of the entry whose record begins at ``k``, in the pixels x, y of its tile."""
    u = fma(broadcast(local, k + STEP_X, LANES), x, broadcast(local, k + START_U, LANES))
    u = fma(broadcast(local, k + STEP_XY, LANES), y, u)
    v = fma(broadcast(local, k + STEP_Y, LANES), y, broadcast(local, k + START_V, LANES))
    faded = fma(u, u, fma(v, v, broadcast(local, k + LOCAL_FADE, LANES)))
    # Beyond 30 alpha is far below 1/255; the limit also keeps denormal numbers, which are slow, out.
    return power_of_two(minimum(faded, splat(_F(30), LANES)), constants)


def _weights_kernel(keep: bool):
    @helper
    def block_weights(local, start, members, first, count, pixel, xs, ys, left, constants, weights, picked, trace):
        x, y = load(xs, pixel, LANES), load(ys, pixel, LANES)
        through = load(left, pixel, LANES)
        zero, one = splat(_F(0), LANES), splat(_F(1), LANES)
        cap, faintest = load(constants, CAP, LANES), load(constants, FAINTEST, LANES)
        stop = load(constants, STOP, LANES)
        n = 0
        for i in range(count):
            j = members[at(first + i)]
            peak = peaks(local, (start + j) * LOCAL, x, y, constants)
            alpha = minimum(peak, cap)
            after = through * (one - alpha)
            seen = alpha >= faintest
            adds = seen & (after > stop)
            store(weights, n * LANES, select(adds, alpha * through, zero))
            if keep:
                store(trace, 2 * n * LANES, select(adds, peak, zero))
                store(trace, (2 * n + 1) * LANES, through)
            picked[at(n)] = j
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
    local: from ``tiles.fill_tiles``.
    start: the entry from which ``members`` count.
    members, first, count: the block's part of what :func:`list_blocks` found.
    pixel: index of the block's first pixel in xs, ys and left; left is updated, see :func:`start_tile`.
    constants: from :func:`compositing_constants`.
    weights: [> count * LANES] written: alpha T of the i-th contributor in each pixel.
    picked: [> count] int32 written: the i-th contributor, as its distance from ``start``.
    trace: not used here.

Returns:
    The number of contributors, and whether any pixel of the block is still unfinished.
"""

trace_weights = _weights_kernel(keep=True)
"""The same for gradients: also fills ``trace`` [> 2 * count * LANES] with o exp(-sigma) (0 where the pixel does not
contribute) and T before the splat."""
