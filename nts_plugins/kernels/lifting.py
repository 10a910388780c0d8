# SPDX-License-Identifier: Apache-2.0
"""The adjoint of compositing: for every splat the sum over pixels of alpha T times what the pixel holds."""

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.blocks import block_weights, list_blocks, pixel_at, pixel_in_tile, start_tile
from nts_plugins.kernels.composite import BATCH
from nts_plugins.kernels.composite_gradient import add_outer
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.records import PIECE, put_floats, whole_vectors
from nts_plugins.kernels.tiles import AHEAD, BLOCKS, LOCAL, PIXELS, SPLAT, TILE
from nts_plugins.kernels.vector_math import sum_lanes
from nts_plugins.kernels.vectors import LANES, aligned, aligned_zeros, at, helper, load, prefetch_to_write, splat, store

EDGES, FEWEST = (4, 2, 1), 32
"""A square of tiles is what one thread treats in one go when it lifts a map. Its edge is the longest of these that
leaves so many squares to share out: longer ones save memory, and more squares keep more threads busy to the end."""

_F = np.float32


def square_edge(columns: int, rows: int) -> int:
    """How many tiles along the edge of a square, in a picture of so many tiles. It depends on nothing else, so that
    results are the same for any number of threads."""
    return next((edge for edge in EDGES if squares_of(columns, rows, edge) >= FEWEST), EDGES[-1])


def squares_of(columns: int, rows: int, edge: int) -> int:
    """How many squares there are."""
    return -(-columns // edge) * -(-rows // edge)


@njit(nogil=True, cache=True)
def locate_slots(share, slots, offsets, columns, edge, slot_square):
    """In which square the entry of each slot is.

    Args:
        share: of the work, see ``pieces``; a piece is a tile.
        slots, offsets: from ``tiles.fill_tiles``.
        columns: tiles across the picture.
        edge: from :func:`square_edge`.
        slot_square: [M] int32 written.
    """
    across = pieces_of(columns, edge)
    while True:
        tile = next_piece(share, offsets.shape[0] - 1)
        if tile >= offsets.shape[0] - 1:
            return
        square = tile // columns // edge * across + tile % columns // edge
        for entry in range(offsets[at(tile)], offsets[at(tile + 1)]):
            slot_square[at(np.int64(slots[at(entry)]))] = square


@njit(nogil=True, cache=True)
def number_squares(share, first_slot, slot_square, squares, steps, further):
    """Number the squares that each splat is in, in the order of its slots.

    Args:
        share: of the work, see ``pieces``; a piece is ``PIECE`` splats.
        first_slot: [N + 1] where each splat's slots begin.
        slot_square: [M] from :func:`locate_slots`.
        squares: how many there are.
        steps: [M] int32 written: twice the number of the slot's square, plus one where the splat has a slot before
            this one in the same square.
        further: [N] int64 written: how many squares a splat is in besides its first.
    """
    n = further.shape[0]
    # Who came to each square last, and the number that the square got then.
    visitor, number = np.full(squares, -1, np.int64), np.empty(squares, np.int32)
    while True:
        start = next_piece(share, pieces_of(n, PIECE)) * PIECE
        if start >= n:
            return
        for i in range(start, min(n, start + PIECE)):
            count = 0
            for slot in range(first_slot[at(i)], first_slot[at(i + 1)]):
                square = np.int64(slot_square[at(slot)])
                again = visitor[at(square)] == i
                if not again:
                    visitor[at(square)], number[at(square)] = i, count
                    count += 1
                steps[at(slot)] = 2 * number[at(square)] + again
            further[at(i)] = max(count - 1, 0)


@njit(nogil=True, cache=True)
def lift_maps(
    share, local, words, slots, offsets, edge, steps, first_record, width, height, constants, features, channels,
    fresh, records, sums, weight_sums,
):  # fmt: skip
    """Lift a map of features: what each splat's first square of tiles holds goes to its sums, and to a record for each
    further square, [features..., weight]. One thread has all tiles of a square, one after the other, so that what they
    add to is still in its cache; and there are fewer records to write and to add than tiles that splats are in.

    A splat's slots are numbered row by row of tiles, and a square's tiles are taken row by row: of slots in the same
    square, the one that begins what they add to comes first.

    Args:
        share: of the work, see ``pieces``; a piece is a square.
        local, words, slots, offsets: from ``tiles.fill_tiles``.
        edge: from :func:`square_edge`.
        steps: [M] from :func:`number_squares`.
        first_record: [N + 1] where each splat's records begin.
        constants: from ``blocks.compositing_constants``.
        features: [H * W * channels].
        fresh: whether the sums are still to be begun; else they are added to.
        records: [first_record[N] * whole_vectors(channels + 1, 4)] written, to be added with ``records.gather_lifted``.
        sums: [N * channels] written for every splat that has a slot.
        weight_sums: [N] likewise.
    """
    wide = whole_vectors(channels, 8)
    members, sizes = np.empty(BLOCKS * BATCH, np.int32), np.empty(BLOCKS, np.int64)
    xs, ys, left = aligned(PIXELS), aligned(PIXELS), aligned(PIXELS)
    weights, picked = aligned((BATCH + 1) * LANES), np.empty(BATCH + 1, np.int32)
    unfinished, unused = np.empty(BLOCKS, np.bool_), np.empty(0, _F)
    tile_features = aligned_zeros(PIXELS * wide)
    batch_sums, totals = aligned(BATCH * wide), aligned(BATCH * LANES)
    columns, rows = pieces_of(width, TILE), pieces_of(height, TILE)
    across = pieces_of(columns, edge)
    squares = across * pieces_of(rows, edge)
    while True:
        square = next_piece(share, squares)
        if square >= squares:
            return
        for k in range(edge * edge):
            column, row = square % across * edge + k % edge, square // across * edge + k // edge
            tile = row * columns + column
            if column >= columns or row >= rows or offsets[tile] == offsets[tile + 1]:
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
                            local, start, members, b * BATCH, sizes[b], p, xs, ys, left, constants, weights, picked,
                            unused,
                        )  # fmt: skip
                        any_unfinished |= unfinished[b]
                        for i in range(n):
                            place = np.int64(picked[at(i)]) * LANES
                            store(totals, place, load(totals, place, LANES) + load(weights, i * LANES, LANES))
                        add_outer(weights, picked, n, tile_features[p * wide :], wide, batch_sums, wide)
                hand_over(
                    start, stop, batch_sums, totals, words, slots, steps, first_record, channels, fresh, records, sums,
                    weight_sums,
                )  # fmt: skip


@helper
def hand_over(
    start, stop, batch_sums, totals, words, slots, steps, first_record, channels, fresh, records, sums, weight_sums
):
    """Bring what the entries from ``start`` to ``stop`` have gathered in a tile, [BATCH, whole_vectors(channels, 8)]
    and by lanes [BATCH, LANES] their weights, to where :func:`lift_maps` puts it."""
    wide, size = whole_vectors(channels, 8), whole_vectors(channels + 1, 4)
    for j in range(stop - start):
        if start + j + AHEAD < stop:
            i, record, _ = place_of(words, slots, steps, first_record, start + j + AHEAD)
            for line in range(0, size, 16):
                if record < 0:
                    prefetch_to_write(sums, i * channels + line)
                else:
                    prefetch_to_write(records, record * size + line)
        i, record, again = place_of(words, slots, steps, first_record, start + j)
        weight = sum_lanes(load(totals, j * LANES, LANES))
        if record < 0:
            begun = again or not fresh
            put_floats(batch_sums, j * wide, sums, i * channels, channels, begun)
            weight_sums[at(i)] = weight + (weight_sums[at(i)] if begun else _F(0))
            continue
        place = record * size
        if not again:
            for c in range(channels, size):
                records[at(place + c)] = _F(0)
        put_floats(batch_sums, j * wide, records, place, channels, again)
        records[at(place + channels)] += weight


@helper
def place_of(words, slots, steps, first_record, entry):
    """The entry's splat; its record, -1 where it is the splat's sums instead; and whether an entry of the same square
    came there before."""
    i, step = np.int64(words[at(entry * LOCAL + SPLAT)]), np.int64(steps[at(np.int64(slots[at(entry)]))])
    return i, first_record[at(i)] + step // 2 - 1 if step > 1 else np.int64(-1), step % 2 == 1


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
    xs, ys, left = aligned(PIXELS), aligned(PIXELS), aligned(PIXELS)
    weights, picked = aligned((BATCH + 1) * LANES), np.empty(BATCH + 1, np.int32)
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
        one_hot, sums = aligned_zeros(PIXELS * wide), aligned(BATCH * wide)
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
