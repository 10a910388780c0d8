# SPDX-License-Identifier: Apache-2.0
"""Which splats touch which tile, in depth order.

The image is cut into tiles of 16 x 16 pixels. ``bound_splats`` packs what the compositing kernels read of a splat and
finds its tiles; ``list_tiles`` sorts the visible splats by depth once and scatters them into the tiles' lists, so no
(tile, splat) entry is ever sorted. Equal depths stay in the order of the splats, as in gsplat's stable radix sort.
"""

import math

import numpy as np
from numba import njit

from nts_plugins.kernels.vectors import fetch_add

TILE = 16
PIECE = 1024
"""Splats that a thread takes at a time."""

# Columns of a packed splat, float64. The kernels draw exp(-(u^2 + v^2)) with u = ROOT_X dx + ROOT_XY dy and
# v = ROOT_Y dy, the conic's Cholesky factor: a dx^2 + 2 b dx dy + c dy^2 would lose most of its digits on needles.
MEAN_X, MEAN_Y, ROOT_X, ROOT_XY, ROOT_Y, OPACITY = range(6)
# The ellipse on which the splat's alpha falls to 1/255: in the row at height v above the centre it spans
# SLOPE v +- sqrt(WIDTH2 - DROP v^2), it is HALF_Y high, and its rightmost point has v = RIGHT_V.
SLOPE, WIDTH2, DROP, RIGHT_V, HALF_Y = range(6, 11)
PACKED = 11

_F = np.float32


@njit(nogil=True, cache=True, error_model="numpy")
def bound_splats(counter, means2d, conics, opacities, radii, width, height, packed, rects):
    """Pack every visible splat and find its rectangle of tiles.

    Args:
        counter: [1] int64 work counter.
        means2d: [N, 2] pixels.
        conics: [N, 3] upper triangle of the inverse covariance.
        opacities: [N].
        radii: [N, 2] int32 gsplat's pixel radii, 0 where culled.
        packed: [N * PACKED] float64 written.
        rects: [N, 4] int32 written: first and past-the-last tile column and row; empty where nothing is drawn.

    A splat reaches the tiles of gsplat's square (mean +- radius), reduced to those that its 1/255 ellipse touches;
    the reduction changes no pixel because alpha is below 1/255 outside. Ellipse quantities are taken in float64:
    for needles they are differences of nearly equal numbers.
    """
    n = means2d.shape[0]
    columns = (width + TILE - 1) // TILE
    rows = (height + TILE - 1) // TILE
    while True:
        start = fetch_add(counter, 0, 1) * PIECE
        if start >= n:
            return
        for i in range(start, min(n, start + PIECE)):
            rects[i, 0] = 0
            rects[i, 1] = 0
            rects[i, 2] = 0
            rects[i, 3] = 0
            opacity = np.float64(opacities[i])
            if radii[i, 0] <= 0 or radii[i, 1] <= 0 or not opacity * 255.0 >= 1.0 or not conics[i, 0] > 0.0:
                continue
            x, y = means2d[i, 0], means2d[i, 1]
            a, b, c = np.float64(conics[i, 0]), np.float64(conics[i, 1]), np.float64(conics[i, 2])
            # 2 sigma at alpha = 1/255, a little more for the rounding of the kernels' own exponential.
            level = 2.0 * (math.log(opacity * 255.0) * 1.0001 + 1e-4)
            det = a * c - b * b
            if det > 1e-14:
                half_x = math.sqrt(level * c / det)
                half_y = math.sqrt(level * a / det)
                slope, width2, drop, right_v = -b / a, level / a, det / (a * a), -b / c * half_x
            else:
                # Too thin for float32: the kernels' own test decides pixel by pixel.
                half_x = half_y = 1e6
                slope, width2, drop, right_v = 0.0, 1e12, 0.0, 0.0
            half_x = half_x * 1.0005 + 0.02
            half_y = half_y * 1.0005 + 0.02
            k = i * PACKED
            packed[k + MEAN_X], packed[k + MEAN_Y], packed[k + OPACITY] = x, y, opacity
            root = math.sqrt(0.5 * a)
            packed[k + ROOT_X], packed[k + ROOT_XY] = root, 0.5 * b / root
            packed[k + ROOT_Y] = math.sqrt(max(0.5 * det / a, 0.0))
            packed[k + SLOPE], packed[k + WIDTH2] = slope, width2 * 1.001 + 1e-3
            packed[k + DROP], packed[k + RIGHT_V], packed[k + HALF_Y] = drop, right_v, half_y
            # gsplat's rectangle, in its float32 arithmetic.
            tile_x, tile_y = x / _F(TILE), y / _F(TILE)
            reach_x, reach_y = _F(radii[i, 0]) / _F(TILE), _F(radii[i, 1]) / _F(TILE)
            left = max(math.floor(tile_x - reach_x), math.floor((x - half_x - 0.5) / TILE), 0.0)
            right = min(math.ceil(tile_x + reach_x), math.floor((x + half_x - 0.5) / TILE) + 1.0, _F(columns))
            top = max(math.floor(tile_y - reach_y), math.floor((y - half_y - 0.5) / TILE), 0.0)
            bottom = min(math.ceil(tile_y + reach_y), math.floor((y + half_y - 0.5) / TILE) + 1.0, _F(rows))
            if left < right and top < bottom:
                rects[i, 0], rects[i, 1] = np.int32(left), np.int32(right)
                rects[i, 2], rects[i, 3] = np.int32(top), np.int32(bottom)


@njit(nogil=True, cache=True)
def list_tiles(rects, depths, columns, rows):
    """The splats of every tile, nearest first.

    Args:
        rects: [N, 4] from :func:`bound_splats`.
        depths: [N] camera z, > 0 where a rectangle is not empty.
        columns: tiles in a row of the image.
        rows: tiles in a column.

    Returns:
        offsets [T + 1] int64: tile t (row-major) owns entries offsets[t] to offsets[t + 1].
        entries [M] int32: the splat of each entry.
        slots [M] int32: the entry's place when entries are grouped by splat instead of by tile.
        first_slot [N + 1] int64: where each splat's group starts.
    """
    n = rects.shape[0]
    tiles = columns * rows
    offsets = np.zeros(tiles + 1, np.int64)
    first_slot = np.zeros(n + 1, np.int64)
    visible = 0
    for i in range(n):
        area = (rects[i, 1] - rects[i, 0]) * (rects[i, 3] - rects[i, 2])
        first_slot[i + 1] = first_slot[i] + area
        if area > 0:
            visible += 1
            for row in range(rects[i, 2], rects[i, 3]):
                for column in range(rects[i, 0], rects[i, 1]):
                    offsets[row * columns + column + 1] += 1
    for t in range(tiles):
        offsets[t + 1] += offsets[t]

    # Positive floats sort like their bits: a stable radix sort with three digits of 11 bits.
    bits = depths.view(np.uint32)
    keys, other_keys = np.empty(visible, np.uint32), np.empty(visible, np.uint32)
    order, other_order = np.empty(visible, np.int32), np.empty(visible, np.int32)
    histogram = np.zeros((3, 2048), np.int64)
    k = 0
    for i in range(n):
        if first_slot[i + 1] > first_slot[i]:
            key = bits[i]
            keys[k] = key
            order[k] = i
            k += 1
            histogram[0, key & np.uint32(2047)] += 1
            histogram[1, (key >> np.uint32(11)) & np.uint32(2047)] += 1
            histogram[2, key >> np.uint32(22)] += 1
    for digit in range(3):
        total = 0
        for value in range(2048):
            count = histogram[digit, value]
            histogram[digit, value] = total
            total += count
        shift = np.uint32(11 * digit)
        for j in range(visible):
            value = (keys[j] >> shift) & np.uint32(2047)
            place = histogram[digit, value]
            histogram[digit, value] = place + 1
            other_keys[place] = keys[j]
            other_order[place] = order[j]
        keys, other_keys = other_keys, keys
        order, other_order = other_order, order

    cursor = offsets[:tiles].copy()
    entries = np.empty(offsets[tiles], np.int32)
    slots = np.empty(offsets[tiles], np.int32)
    for j in range(visible):
        i = order[j]
        slot = first_slot[i]
        for row in range(rects[i, 2], rects[i, 3]):
            for column in range(rects[i, 0], rects[i, 1]):
                tile = row * columns + column
                place = cursor[tile]
                cursor[tile] = place + 1
                entries[place] = i
                slots[place] = slot
                slot += 1
    return offsets, entries, slots, first_slot
