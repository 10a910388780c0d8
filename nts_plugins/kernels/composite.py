# SPDX-License-Identifier: Apache-2.0
"""Front-to-back compositing of D values a splat.

Block by block: the weights of the contributing splats (``blocks.block_weights``), then a small matrix product
weights^T x values whose sums stay in registers, eight channels at a time. Its gradient is in ``composite_gradient``.
"""

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.blocks import block_weights, corner_of_block, list_blocks, start_tile
from nts_plugins.kernels.pieces import next_piece
from nts_plugins.kernels.records import whole_vectors
from nts_plugins.kernels.tiles import (
    AHEAD,
    BLOCK_HEIGHT,
    BLOCK_WIDTH,
    BLOCKS,
    LOCAL,
    PIXELS,
    SPLAT,
)
from nts_plugins.kernels.vector_math import absolute, fma
from nts_plugins.kernels.vector_shapes import load_eight, store_eight
from nts_plugins.kernels.vectors import LANES, aligned, at, broadcast, helper, load, prefetch, store

BATCH = 256
"""Entries of a tile that are treated at a time: their records and lists stay in the first-level cache, and a tile whose
pixels are finished stops after the batch."""

_F = np.float32


@helper
def gather_values(values, channels, words, start, stop, local_values, stride):
    """Copy the values of a batch's splats next to each other, padded with zeros to ``stride`` channels."""
    for j in range(stop - start):
        if start + j + AHEAD < stop:
            prefetch(values, np.int64(words[at((start + j + AHEAD) * LOCAL + SPLAT)]) * channels)
        source = np.int64(words[at((start + j) * LOCAL + SPLAT)]) * channels
        for c in range(channels):
            local_values[at(j * stride + c)] = values[at(source + c)]
        for c in range(channels, stride):
            local_values[at(j * stride + c)] = _F(0)


@helper
def accumulate(weights, picked, n, values, stride, sums, base):
    """sums[c, pixel] += sum_i weights[i, pixel] values[picked[i], c], for ``stride`` channels from ``base`` on."""
    c = 0
    while c + 8 <= stride:
        o = base + c * LANES
        s0, s1, s2, s3, s4, s5, s6, s7 = load_eight(sums, o, LANES)
        for i in range(n):
            k = picked[at(i)] * stride + c
            w = load(weights, i * LANES, LANES)
            s0, s1 = fma(broadcast(values, k, LANES), w, s0), fma(broadcast(values, k + 1, LANES), w, s1)
            s2, s3 = fma(broadcast(values, k + 2, LANES), w, s2), fma(broadcast(values, k + 3, LANES), w, s3)
            s4, s5 = fma(broadcast(values, k + 4, LANES), w, s4), fma(broadcast(values, k + 5, LANES), w, s5)
            s6, s7 = fma(broadcast(values, k + 6, LANES), w, s6), fma(broadcast(values, k + 7, LANES), w, s7)
        store_eight(sums, o, LANES, s0, s1, s2, s3, s4, s5, s6, s7)
        c += 8
    if c < stride:
        o = base + c * LANES
        s0, s1 = load(sums, o, LANES), load(sums, o + LANES, LANES)
        s2, s3 = load(sums, o + 2 * LANES, LANES), load(sums, o + 3 * LANES, LANES)
        for i in range(n):
            k = picked[at(i)] * stride + c
            w = load(weights, i * LANES, LANES)
            s0, s1 = fma(broadcast(values, k, LANES), w, s0), fma(broadcast(values, k + 1, LANES), w, s1)
            s2, s3 = fma(broadcast(values, k + 2, LANES), w, s2), fma(broadcast(values, k + 3, LANES), w, s3)
        store(sums, o, s0)
        store(sums, o + LANES, s1)
        store(sums, o + 2 * LANES, s2)
        store(sums, o + 3 * LANES, s3)


@njit(nogil=True, cache=True)
def composite_forward(
    share, local, words, offsets, values, channels, width, height, background, constants, image, behind, used
):
    """Composite a picture.

    Args:
        share: of the work, see ``pieces``; a piece is a tile.
        local, words, offsets: from ``tiles.fill_tiles``.
        values: [N * channels].
        background: [channels].
        constants: from ``blocks.compositing_constants``.
        image: [H * W * channels] written.
        behind: [H * W] written: the transmittance that is left behind the last splat.
        used: [T] int64 written: entries of each tile up to the last that contributes to a pixel.
    """
    stride = whole_vectors(channels, 4)
    local_values, members = aligned(BATCH * stride), np.empty(BLOCKS * BATCH, np.int32)
    xs, ys, left = aligned(PIXELS), aligned(PIXELS), aligned(PIXELS)
    sums = aligned(PIXELS * stride)
    weights, picked = aligned((BATCH + 1) * LANES), np.empty(BATCH + 1, np.int32)
    sizes, unfinished, unused = np.empty(BLOCKS, np.int64), np.empty(BLOCKS, np.bool_), np.empty(0, _F)
    while True:
        tile = next_piece(share, offsets.shape[0] - 1)
        if tile >= offsets.shape[0] - 1:
            return
        x0, y0 = start_tile(tile, width, height, xs, ys, left)
        sums[:] = _F(0)
        for b in range(BLOCKS):
            unfinished[b] = left[b * LANES] > 0
        # Neighbours in ``used`` share a cache line, and two threads writing to it all the time would slow both down.
        entries = 0
        for start in range(offsets[tile], offsets[tile + 1], BATCH):
            stop = min(start + BATCH, offsets[tile + 1])
            gather_values(values, channels, words, start, stop, local_values, stride)
            list_blocks(words, start, stop, BATCH, members, sizes)
            any_unfinished = False
            for b in range(BLOCKS):
                if not unfinished[b]:
                    continue
                n, unfinished[b] = block_weights(
                    local, start, members, b * BATCH, sizes[b], b * LANES, xs, ys, left, constants, weights, picked,
                    unused,
                )  # fmt: skip
                if n > 0:
                    accumulate(weights, picked, n, local_values, stride, sums, b * LANES * stride)
                    entries = max(entries, start - offsets[tile] + picked[n - 1] + 1)
                any_unfinished |= unfinished[b]
            if not any_unfinished:
                break
        used[tile] = entries
        write_tile(sums, left, x0, y0, width, height, channels, stride, background, image, behind)


@helper
def write_tile(sums, left, x0, y0, width, height, channels, stride, background, image, behind):
    """Put a tile's sums, with the background behind them, into the picture; changes ``sums`` and ``left``."""
    for b in range(BLOCKS):
        transmittance = absolute(load(left, b * LANES, LANES))
        store(left, b * LANES, transmittance)
        for c in range(channels):
            place = (b * stride + c) * LANES
            store(sums, place, fma(broadcast(background, c, LANES), transmittance, load(sums, place, LANES)))
        x, y = corner_of_block(b)
        x, y = x0 + x, y0 + y
        for row in range(min(BLOCK_HEIGHT, height - y)):
            pixel, lane = (y + row) * width + x, row * BLOCK_WIDTH
            for column in range(min(BLOCK_WIDTH, width - x)):
                behind[at(pixel + column)] = left[at(b * LANES + lane + column)]
                for c in range(channels):
                    value = sums[at((b * stride + c) * LANES + lane + column)]
                    image[at((pixel + column) * channels + c)] = value
