# SPDX-License-Identifier: Apache-2.0
"""The adjoint of compositing: for every splat the sum over pixels of alpha T times what the pixel holds."""

import numpy as np
from numba import njit

from nts_plugins.kernels.blocks import block_weights, list_blocks, pixel_at, pixel_in_tile, start_tile
from nts_plugins.kernels.composite import BATCH
from nts_plugins.kernels.composite_gradient import add_outer
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.records import PIECE, add_floats, copy_floats, whole_vectors
from nts_plugins.kernels.tiles import AHEAD, BLOCKS, LOCAL, PIXELS, SPLAT, TILE
from nts_plugins.kernels.vector_math import sum_lanes
from nts_plugins.kernels.vectors import LANES, at, helper, load, prefetch_to_write, splat, store

_F = np.float32


@njit(nogil=True, cache=True)
def lift_maps(
    share, local, words, slots, offsets, first_slot, first_record, width, height, constants, features, channels,
    records, sums, weight_sums,
):  # fmt: skip
    """Lift a map of features: add what each splat's first tile holds to its sums, and write a record for each further
    tile, [features..., weight]. In a large scene first tiles are two fifths of all, and lifting waits for memory.

    Args:
        share: of the work, see ``pieces``; a piece is a tile.
        local, words, slots, offsets: from ``tiles.fill_tiles``.
        first_slot: [N + 1] where each splat's slots begin.
        first_record: [N + 1] where each splat's records begin.
        constants: from ``blocks.compositing_constants``.
        features: [H * W * channels].
        records: [first_record[N] * whole_vectors(channels + 1, 4)] written, to be added with ``records.gather_lifted``.
        sums: [N * channels], added to.
        weight_sums: [N], added to.
    """
    wide, size = whole_vectors(channels, 8), whole_vectors(channels + 1, 4)
    members, sizes = np.empty(BLOCKS * BATCH, np.int32), np.empty(BLOCKS, np.int64)
    xs, ys, left = np.empty(PIXELS, _F), np.empty(PIXELS, _F), np.empty(PIXELS, _F)
    weights, picked = np.empty((BATCH + 1) * LANES, _F), np.empty(BATCH + 1, np.int32)
    unfinished, unused = np.empty(BLOCKS, np.bool_), np.empty(0, _F)
    tile_features = np.zeros(PIXELS * wide, _F)
    batch_sums, totals = np.empty(BATCH * wide, _F), np.empty(BATCH * LANES, _F)
    while True:
        tile = next_piece(share, offsets.shape[0] - 1)
        if tile >= offsets.shape[0] - 1:
            return
        if offsets[tile] == offsets[tile + 1]:
            continue
        x0, y0 = start_tile(tile, width, height, xs, ys, left)
        load_tile(features, x0, y0, width, height, channels, wide, tile_features)
        unfinished[:] = True
        any_unfinished = True
        for start in range(offsets[tile], offsets[tile + 1], BATCH):
            stop = min(start + BATCH, offsets[tile + 1])
            batch_sums[: (stop - start) * wide] = _F(0)
            totals[: (stop - start) * LANES] = _F(0)
            if any_unfinished:
                any_unfinished = False
                list_blocks(words, start, stop, BATCH, members, sizes)
                for b in range(BLOCKS):
                    if not unfinished[b]:
                        continue
                    p = b * LANES
                    n, unfinished[b] = block_weights(
                        local, start, members, b * BATCH, sizes[b], p, xs, ys, left, constants, weights, picked, unused
                    )
                    any_unfinished |= unfinished[b]
                    for i in range(n):
                        place = np.int64(picked[at(i)]) * LANES
                        store(totals, place, load(totals, place, LANES) + load(weights, i * LANES, LANES))
                    add_outer(weights, picked, n, tile_features[p * wide :], wide, batch_sums, wide)
            for j in range(stop - start):
                if start + j + AHEAD < stop:
                    i, first, record = place_of(words, slots, first_slot, first_record, start + j + AHEAD)
                    for line in range(0, size, 16):
                        if first:
                            prefetch_to_write(sums, i * channels + line)
                        else:
                            prefetch_to_write(records, record * size + line)
                i, first, record = place_of(words, slots, first_slot, first_record, start + j)
                weight = sum_lanes(load(totals, j * LANES, LANES))
                if first:
                    add_floats(batch_sums, j * wide, sums, i * channels, channels)
                    weight_sums[at(i)] += weight
                    continue
                place = record * size
                for c in range(channels, size):
                    records[at(place + c)] = _F(0)
                copy_floats(batch_sums, j * wide, records, place, whole_vectors(channels, 4))
                records[at(place + channels)] = weight


@helper
def place_of(words, slots, first_slot, first_record, entry):
    """The entry's splat, whether it is that splat's first one, and else its record."""
    i, slot = np.int64(words[at(entry * LOCAL + SPLAT)]), np.int64(slots[at(entry)])
    before = slot - first_slot[at(i)]
    return i, before == 0, first_record[at(i)] + before - 1


@helper
def load_tile(features, x0, y0, width, height, channels, wide, tile_features):
    """A tile's pixels block by block, [PIXELS, wide]; zero outside the picture."""
    # Along the picture's rows, as they lie in memory.
    for y in range(TILE):
        for x in range(TILE):
            inside, source = x0 + x < width and y0 + y < height, ((y0 + y) * width + x0 + x) * channels
            place = pixel_at(x, y) * wide
            for c in range(0, channels // 8 * 8, 8):
                store(tile_features, place + c, load(features, source + c, 8) if inside else splat(_F(0), 8))
            for c in range(channels // 8 * 8, channels):
                tile_features[at(place + c)] = features[at(source + c)] if inside else _F(0)


@helper
def list_tile_ids(ids, width, height, tile, found):
    """The distinct non-negative ids of a tile's pixels, ascending, into ``found`` [256]; returns how many."""
    columns = (width + TILE - 1) // TILE
    x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
    count = 0
    for y in range(y0, min(y0 + TILE, height)):
        for x in range(x0, min(x0 + TILE, width)):
            value = ids[y * width + x]
            if value < 0 or (count > 0 and found[count - 1] == value):
                continue
            place = 0
            while place < count and found[place] < value:
                place += 1
            if place < count and found[place] == value:
                continue
            for k in range(count, place, -1):
                found[k] = found[k - 1]
            found[place] = value
            count += 1
    return count


@njit(nogil=True, cache=True)
def count_tile_ids(share, ids, width, height, counts):
    """``counts`` [T] int64: how many distinct ids each tile holds."""
    found = np.empty(PIXELS, np.int64)
    while True:
        tile = next_piece(share, counts.shape[0])
        if tile >= counts.shape[0]:
            return
        counts[tile] = list_tile_ids(ids, width, height, tile, found)


@njit(nogil=True, cache=True)
def lift_tile_ids(
    share, local, words, slots, offsets, width, height, constants,
    ids, counts, first_cell, slot_cell, slot_tile, tile_ids, cells,
):  # fmt: skip
    """Lift an id map: for every entry one weight for each id of its tile.

    Args:
        local, words, slots, offsets: from ``tiles.fill_tiles``.
        ids: [H * W] int64.
        counts: [T] from :func:`count_tile_ids`.
        first_cell: [T + 1] where each tile's table of entries x ids begins in ``cells``.
        slot_cell: [M] int64 written: where the row of the entry in a slot begins.
        slot_tile: [M] int32 written: the entry's tile.
        tile_ids: [T * 256] int64 written: each tile's ids; only the first ``counts`` of a tile.
        cells: written.
    """
    members, sizes = np.empty(BLOCKS * BATCH, np.int32), np.empty(BLOCKS, np.int64)
    xs, ys, left = np.empty(PIXELS, _F), np.empty(PIXELS, _F), np.empty(PIXELS, _F)
    weights, picked = np.empty((BATCH + 1) * LANES, _F), np.empty(BATCH + 1, np.int32)
    unfinished, unused = np.empty(BLOCKS, np.bool_), np.empty(0, _F)
    found = np.empty(PIXELS, np.int64)
    while True:
        tile = next_piece(share, offsets.shape[0] - 1)
        if tile >= offsets.shape[0] - 1:
            return
        if offsets[tile] == offsets[tile + 1]:
            continue
        n_ids = list_tile_ids(ids, width, height, tile, found)
        tile_ids[tile * PIXELS : tile * PIXELS + n_ids] = found[:n_ids]
        wide = whole_vectors(n_ids, 8)
        x0, y0 = start_tile(tile, width, height, xs, ys, left)
        one_hot, sums = np.zeros(PIXELS * wide, _F), np.empty(BATCH * wide, _F)
        for p in range(PIXELS):
            x, y = pixel_in_tile(p)
            if x0 + x < width and y0 + y < height:
                value = ids[(y0 + y) * width + x0 + x]
                if value >= 0:
                    one_hot[p * wide + np.searchsorted(found[:n_ids], value)] = _F(1)
        unfinished[:] = True
        any_unfinished = True
        for start in range(offsets[tile], offsets[tile + 1], BATCH):
            stop = min(start + BATCH, offsets[tile + 1])
            sums[:] = _F(0)
            if any_unfinished and n_ids > 0:
                any_unfinished = False
                list_blocks(words, start, stop, BATCH, members, sizes)
                for b in range(BLOCKS):
                    if not unfinished[b]:
                        continue
                    n, unfinished[b] = block_weights(
                        local, start, members, b * BATCH, sizes[b], b * LANES, xs, ys, left, constants, weights,
                        picked, unused,
                    )  # fmt: skip
                    any_unfinished |= unfinished[b]
                    add_outer(weights, picked, n, one_hot[b * LANES * wide :], wide, sums, wide)
            for j in range(stop - start):
                cell = first_cell[tile] + (start - offsets[tile] + j) * n_ids
                slot_cell[slots[start + j]] = cell
                slot_tile[slots[start + j]] = tile
                for c in range(n_ids):
                    cells[cell + c] = sums[j * wide + c]


@njit(nogil=True, cache=True)
def merge_ids(share, first_slot, slot_cell, slot_tile, counts, tile_ids, cells, first_out, out_ids, out_weights, kept):
    """Join the rows of each splat's entries into one ascending list of (id, weight), zero weights left out.

    Args:
        first_out: [N + 1] int64 where each splat may write, room for every cell it has.
        out_ids, out_weights: written.
        kept: [N] int64 written: how many.
    """
    n = kept.shape[0]
    while True:
        start = next_piece(share, pieces_of(n, PIECE)) * PIECE
        if start >= n:
            return
        for i in range(start, min(n, start + PIECE)):
            base, count = first_out[i], 0
            for slot in range(first_slot[i], first_slot[i + 1]):
                tile, cell = slot_tile[slot], slot_cell[slot]
                place = 0
                for c in range(counts[tile]):
                    weight = cells[cell + c]
                    if weight <= _F(0):
                        continue
                    value = tile_ids[tile * PIXELS + c]
                    while place < count and out_ids[base + place] < value:
                        place += 1
                    if place < count and out_ids[base + place] == value:
                        out_weights[base + place] += weight
                        continue
                    for k in range(count, place, -1):
                        out_ids[base + k] = out_ids[base + k - 1]
                        out_weights[base + k] = out_weights[base + k - 1]
                    out_ids[base + place], out_weights[base + place] = value, weight
                    count += 1
            kept[i] = count
