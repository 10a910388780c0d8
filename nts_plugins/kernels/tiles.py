# SPDX-License-Identifier: Apache-2.0
"""Which splats touch which tile, and which part of it, in depth order.

The image is cut into tiles of 16 x 16 pixels, a tile into blocks of 4 x (LANES / 4) pixels, one pixel a lane. A splat
is an entry of every tile in which its 1/255 ellipse crosses a block, and the entry's mask tells which. All of it is
found splat by splat, while the splat's numbers are at hand, in three kernels:

1. ``bound_splats`` packs what the others read of a splat and finds its rectangle of tiles;
2. ``mask_and_sort`` finds the masks of every tile in the rectangle, while one thread sorts the splats by depth;
3. ``fill_tiles`` walks through the splats nearest first and appends them to the lists of their tiles.

No (tile, splat) entry is ever sorted. Equal depths stay in the order of the splats, as in gsplat's stable radix sort.
"""

import math

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.vector_math import (
    maximum,
    minimum,
    or_groups,
    round_down,
    round_up,
    select,
    square_root,
    to_int,
)
from nts_plugins.kernels.vectors import LANES, at, fetch_add, helper, int_ramp, prefetch, ramp, splat, store

TILE = 16
BLOCK_WIDTH = 4
BLOCK_HEIGHT = LANES // BLOCK_WIDTH
BLOCK_COLUMNS = TILE // BLOCK_WIDTH
BANDS = TILE // BLOCK_HEIGHT
"""Rows of blocks in a tile."""
BLOCKS = BLOCK_COLUMNS * BANDS
PIXELS = TILE * TILE
PIECE = 1024
"""Splats that a thread takes at a time."""
AHEAD = 8
"""How many steps before a splat is read its memory is asked for."""

# Columns of a packed splat, float64. The kernels draw 2^-(u^2 + v^2 + FADE) with u = ROOT_X dx + ROOT_XY dy and
# v = ROOT_Y dy, the Cholesky factor of the conic (in units that make exp a power of two, and with the opacity inside):
# a dx^2 + 2 b dx dy + c dy^2 would lose most of its digits on needles.
MEAN_X, MEAN_Y, ROOT_X, ROOT_XY, ROOT_Y, FADE = range(6)
# The ellipse on which the splat's alpha falls to 1/255: in the row at height v above the centre it spans
# SLOPE v +- sqrt(WIDTH2 - DROP v^2), it is HALF_Y high, and its rightmost point has v = RIGHT_V.
SLOPE, WIDTH2, DROP, RIGHT_V, HALF_Y = range(6, 11)
PACKED = 11

# Columns of an entry, a splat inside one tile, float32. At the pixel (x, y) of the tile u = START_U + STEP_X x +
# STEP_XY y and v = START_V + STEP_Y y: the large parts of a distant centre are taken together in float64, before they
# are rounded. The last two are int32 in the same memory: the mask of the blocks that the splat touches, and its index.
START_U, START_V, STEP_X, STEP_XY, STEP_Y, LOCAL_FADE, MASK, SPLAT = range(8)
LOCAL = 8

LOG2_E = 1.4426950408889634
_F = np.float32
_MARGIN = 0.02
"""Pixels by which an ellipse is taken wider than it is, for rounding."""


@njit(inline="always")
def root_of_conic(a, b, c):
    """ROOT_X, ROOT_XY and ROOT_Y of a conic in float64."""
    x = math.sqrt(0.5 * LOG2_E * a)
    return x, b / a * x, math.sqrt(max(0.5 * LOG2_E * (c - b / a * b), 0.0))


@njit(nogil=True, cache=True, error_model="numpy")
def bound_splats(share, centres, conics, opacities, radii, width, height, packed, rects, areas):
    """Pack every visible splat and find its rectangle of tiles.

    Args:
        share: of the work, see ``pieces``.
        centres: [N, 2] float64 pixels.
        conics: [N, 3] float64 upper triangle of the inverse covariance.
        opacities: [N].
        radii: [N, 2] int32 gsplat's pixel radii, 0 where culled.
        packed: [N * PACKED] float64 written.
        rects: [N, 4] int32 written: first and past-the-last tile column and row; empty where nothing is drawn.
        areas: [N] int32 written: tiles in the rectangle.

    A splat reaches the tiles of gsplat's square (mean +- radius), reduced to those that its 1/255 ellipse touches;
    the reduction changes no pixel because alpha is below 1/255 outside. Ellipse quantities are taken in float64:
    for needles they are differences of nearly equal numbers.
    """
    n = centres.shape[0]
    columns = (width + TILE - 1) // TILE
    rows = (height + TILE - 1) // TILE
    while True:
        start = next_piece(share, pieces_of(n, PIECE)) * PIECE
        if start >= n:
            return
        for splat_index in range(start, min(n, start + PIECE)):
            i = at(splat_index)
            rects[i, 0], rects[i, 1], rects[i, 2], rects[i, 3], areas[i] = 0, 0, 0, 0, 0
            opacity = np.float64(opacities[i])
            if radii[i, 0] <= 0 or radii[i, 1] <= 0 or not opacity * 255.0 >= 1.0 or not conics[i, 0] > 0.0:
                continue
            x, y = centres[i, 0], centres[i, 1]
            a, b, c = conics[i, 0], conics[i, 1], conics[i, 2]
            log_opacity = math.log(opacity)
            # 2 sigma at alpha = 1/255, a little more for the rounding of the kernels' own exponential.
            level = 2.0 * ((log_opacity + math.log(255.0)) * 1.0001 + 1e-4)
            det = a * c - b * b
            per_a, per_det = 1.0 / a, 1.0 / det
            if det > 1e-14 * a * c:
                half_x = math.sqrt(level * c * per_det)
                half_y = math.sqrt(level * a * per_det)
                slope, width2, drop, right_v = -b * per_a, level * per_a, det * per_a * per_a, -b / c * half_x
            else:
                # Too thin even for float64: the kernels' own test decides pixel by pixel.
                half_x = half_y = 1e6
                slope, width2, drop, right_v = 0.0, 1e12, 0.0, 0.0
            half_x = half_x * 1.0005 + _MARGIN
            half_y = half_y * 1.0005 + _MARGIN
            k = splat_index * PACKED
            packed[at(k + MEAN_X)], packed[at(k + MEAN_Y)], packed[at(k + FADE)] = x, y, -log_opacity * LOG2_E
            packed[at(k + ROOT_X)], packed[at(k + ROOT_XY)], packed[at(k + ROOT_Y)] = root_of_conic(a, b, c)
            packed[at(k + SLOPE)], packed[at(k + WIDTH2)] = slope, width2 * 1.001 + 1e-3
            packed[at(k + DROP)], packed[at(k + RIGHT_V)], packed[at(k + HALF_Y)] = drop, right_v, half_y
            # gsplat's rectangle, in its float32 arithmetic.
            tile_x, tile_y = _F(x) / _F(TILE), _F(y) / _F(TILE)
            reach_x, reach_y = _F(radii[i, 0]) / _F(TILE), _F(radii[i, 1]) / _F(TILE)
            left = max(math.floor(tile_x - reach_x), math.floor((x - half_x - 0.5) / TILE), 0.0)
            right = min(math.ceil(tile_x + reach_x), math.floor((x + half_x - 0.5) / TILE) + 1.0, _F(columns))
            top = max(math.floor(tile_y - reach_y), math.floor((y - half_y - 0.5) / TILE), 0.0)
            bottom = min(math.ceil(tile_y + reach_y), math.floor((y + half_y - 0.5) / TILE) + 1.0, _F(rows))
            if left < right and top < bottom:
                rects[i, 0], rects[i, 1] = np.int32(left), np.int32(right)
                rects[i, 2], rects[i, 3] = np.int32(top), np.int32(bottom)
                areas[i] = np.int32((right - left) * (bottom - top))


@helper
def mask_splat(packed, k, rect_left, rect_top, wide, high, group_masks, masks, base):
    """The masks of a splat in the tiles of its rectangle.

    Eight bands (one or two rows of tiles) are treated at once, one a lane: within a band the ellipse reaches farthest
    right where its rightmost point lies, or, when that is outside the band, on the band's nearest row; the left side is
    the mirror image.

    Args:
        packed, k: where the splat's record begins.
        rect_left, rect_top, wide, high: the rectangle, in tiles.
        group_masks: [8] int32 scratch.
        masks: int32 written from ``base`` on, row by row: bit b is set where block b of the tile is touched.
    """
    mean_x, mean_y = packed[at(k + MEAN_X)] - rect_left * TILE, packed[at(k + MEAN_Y)] - rect_top * TILE
    half_y, right_v, width2 = (
        packed[at(k + HALF_Y)],
        splat(_F(packed[at(k + RIGHT_V)]), 8),
        splat(_F(packed[at(k + WIDTH2)]), 8),
    )
    slope, drop = splat(_F(packed[at(k + SLOPE)]), 8), splat(_F(packed[at(k + DROP)]), 8)
    zero, one, per_block = splat(_F(0), 8), splat(np.int32(1), 8), splat(_F(1.0 / BLOCK_WIDTH), 8)
    none, columns = splat(np.int32(0), 8), splat(np.int32(BLOCK_COLUMNS), 8)
    most, rows = splat(_F(BLOCK_COLUMNS * wide), 8), ramp(8) * splat(_F(BLOCK_HEIGHT), 8)
    place = int_ramp(8) * columns & splat(np.int32(BANDS * BLOCK_COLUMNS - 1), 8)
    for group in range((high * BANDS + 7) // 8):
        top = rows + splat(_F(group * 8 * BLOCK_HEIGHT + 0.5 - mean_y), 8)
        bottom = top + splat(_F(BLOCK_HEIGHT - 1), 8)
        v = minimum(maximum(right_v, top), bottom)
        right = slope * v + square_root(maximum(width2 - drop * v * v, zero))
        v = minimum(maximum(zero - right_v, top), bottom)
        left = slope * v - square_root(maximum(width2 - drop * v * v, zero))
        # Columns whose pixel centres [4 c + 0.5, 4 c + 3.5] meet [left, right], as a half-open range.
        right = round_down((right + splat(_F(mean_x + BLOCK_WIDTH - 0.5 + _MARGIN), 8)) * per_block)
        left = round_up((left + splat(_F(mean_x - BLOCK_WIDTH + 0.5 - _MARGIN), 8)) * per_block)
        crossed = (top <= splat(_F(half_y), 8)) & (bottom >= splat(_F(-half_y), 8))
        begin = to_int(minimum(maximum(left, zero), most))
        end = select(crossed, to_int(minimum(maximum(right, zero), most)), none)
        for column in range(wide):
            low, high_bit = minimum(maximum(begin, none), columns), minimum(maximum(end, none), columns)
            bits = select(high_bit > low, (one << high_bit) - (one << low), none)
            store(group_masks, 0, or_groups(bits << place, BANDS))
            begin, end = begin - columns, end - columns
            for row in range(min(8 // BANDS, high - group * (8 // BANDS))):
                masks[at(base + (group * (8 // BANDS) + row) * wide + column)] = group_masks[at(row * BANDS)]


@njit(nogil=True, cache=True)
def mask_and_sort(share, packed, rects, first_mask, depths, columns, masks, touched, tile_counts, order, spans):
    """Find every splat's masks, and the order of the splats by depth.

    Args:
        share: of the work, see ``pieces``; piece 0 is the sort.
        packed, rects: from :func:`bound_splats`.
        first_mask: [N + 1] int64 sums of its ``areas``.
        depths: [N] camera z, > 0 where a rectangle is not empty.
        columns: tiles in a row of the image.
        masks: [first_mask[N]] int32 written, see :func:`mask_splat`.
        touched: [N] int64 written: tiles that the splat touches.
        tile_counts: [T] int64, zeros; receives how many splats touch each tile.
        order: [N] int32 written: the splats with a rectangle, nearest first.
        spans: [N, 2] int32 written: first and past-the-last tile row of the splats in ``order``.
    """
    n = rects.shape[0]
    group_masks = np.empty(8, np.int32)
    counts = np.zeros(tile_counts.shape[0], np.int64)
    while True:
        piece = next_piece(share, 1 + pieces_of(n, PIECE))
        if piece == 0:
            visible = sort_by_depth(depths, first_mask, order)
            for j in range(visible):
                i = np.int64(order[at(j)])
                spans[at(j), 0], spans[at(j), 1] = rects[at(i), 2], rects[at(i), 3]
            continue
        start = (piece - 1) * PIECE
        if start >= n:
            break
        for i in range(start, min(n, start + PIECE)):
            k, base = at(i), first_mask[at(i)]
            if first_mask[at(i + 1)] == base:
                touched[k] = 0
                continue
            left, top = np.int64(rects[k, 0]), np.int64(rects[k, 2])
            wide, high = rects[k, 1] - left, rects[k, 3] - top
            mask_splat(packed, i * PACKED, left, top, wide, high, group_masks, masks, base)
            touches = 0
            for row in range(high):
                for column in range(wide):
                    touch = np.int64(masks[at(base + row * wide + column)] != 0)
                    counts[at((top + row) * columns + left + column)] += touch
                    touches += touch
            touched[k] = touches
    for tile in range(counts.shape[0]):
        if counts[tile] > 0:
            fetch_add(tile_counts, tile, counts[tile])


@njit(nogil=True, cache=True)
def sort_by_depth(depths, first_mask, order):
    """A stable radix sort with three digits of 11 bits: positive floats sort like their bits. Returns how many."""
    n = depths.shape[0]
    bits = depths.view(np.uint32)
    keys, other_keys = np.empty(n, np.uint32), np.empty(n, np.uint32)
    here, there = np.empty(n, np.int32), order
    histogram = np.zeros((3, 2048), np.int64)
    visible = 0
    for i in range(n):
        if first_mask[at(i + 1)] > first_mask[at(i)]:
            key = bits[at(i)]
            keys[at(visible)], here[at(visible)] = key, i
            visible += 1
            histogram[0, key & np.uint32(2047)] += 1
            histogram[1, (key >> np.uint32(11)) & np.uint32(2047)] += 1
            histogram[2, key >> np.uint32(22)] += 1
    # After three passes the result lies in ``order``.
    for digit in range(3):
        total = 0
        for value in range(2048):
            count = histogram[digit, value]
            histogram[digit, value] = total
            total += count
        shift = np.uint32(11 * digit)
        for j in range(visible):
            value = (keys[at(j)] >> shift) & np.uint32(2047)
            place = histogram[at(digit), value]
            histogram[at(digit), value] = place + 1
            other_keys[at(place)], there[at(place)] = keys[at(j)], here[at(j)]
        keys, other_keys = other_keys, keys
        here, there = there, here
    return visible


@njit(nogil=True, cache=True)
def fill_tiles(
    share, packed, rects, first_mask, masks, first_slot, order, spans, visible, columns, rows, rows_at_once, offsets,
    local, words, slots,
):  # fmt: skip
    """Write the list of every tile, nearest splat first.

    Args:
        share: of the work, see ``pieces``; a piece is ``rows_at_once`` rows of tiles.
        packed, rects: from :func:`bound_splats`.
        first_mask, masks, order, spans: from :func:`mask_and_sort`.
        first_slot: [N + 1] int64 sums of its ``touched``.
        visible: how many splats ``order`` holds.
        columns, rows: tiles in the image.
        offsets: [T + 1] int64 sums of ``tile_counts``: tile t (row-major) owns entries offsets[t] to offsets[t + 1].
        local, words: [M * LOCAL] written: the entries' columns from ``START_U`` on, the same memory as float32 and as
            int32.
        slots: [M] int32 written: the entry's place when entries are grouped by splat instead of by tile.
    """
    chosen = np.empty(visible + 1, np.int32)
    while True:
        first_row = next_piece(share, pieces_of(rows, rows_at_once)) * rows_at_once
        if first_row >= rows:
            return
        end_row = min(rows, first_row + rows_at_once)
        cursor = offsets[first_row * columns : end_row * columns].copy()
        count = 0
        for j in range(visible):
            chosen[at(count)] = order[at(j)]
            count += np.int64(spans[at(j), 0] < end_row) & np.int64(spans[at(j), 1] > first_row)
        for j in range(count):
            if j + AHEAD < count:
                later = np.int64(chosen[at(j + AHEAD)])
                prefetch(packed, later * PACKED)
                prefetch(packed, later * PACKED + 8)
                prefetch(masks, first_mask[at(later)])
            i = np.int64(chosen[at(j)])
            left, right = np.int64(rects[at(i), 0]), np.int64(rects[at(i), 1])
            top, bottom = np.int64(rects[at(i), 2]), np.int64(rects[at(i), 3])
            here, slot, k = first_mask[at(i)], first_slot[at(i)], i * PACKED
            root_x, root_xy, root_y = packed[at(k + ROOT_X)], packed[at(k + ROOT_XY)], packed[at(k + ROOT_Y)]
            mean_x, mean_y, fade = packed[at(k + MEAN_X)], packed[at(k + MEAN_Y)], packed[at(k + FADE)]
            for row in range(top, min(bottom, end_row)):
                y = mean_y - row * TILE
                for column in range(left, right):
                    mask = masks[at(here)]
                    here += 1
                    if mask == 0:
                        continue
                    slot += 1
                    if row < first_row:
                        continue
                    tile = (row - first_row) * columns + column
                    place = cursor[at(tile)]
                    cursor[at(tile)] = place + 1
                    slots[at(place)] = slot - 1
                    x, to = mean_x - column * TILE, place * LOCAL
                    local[at(to + START_U)], local[at(to + START_V)] = root_x * x + root_xy * y, root_y * y
                    local[at(to + STEP_X)], local[at(to + STEP_XY)], local[at(to + STEP_Y)] = -root_x, -root_xy, -root_y
                    local[at(to + LOCAL_FADE)], words[at(to + MASK)], words[at(to + SPLAT)] = fade, mask, i
