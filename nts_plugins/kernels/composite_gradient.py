# SPDX-License-Identifier: Apache-2.0
"""The gradient of compositing.

The weights are repeated (that costs less than writing them to memory), so transmittances are exact products instead of
quotients. Every (tile, splat) entry writes one record, see ``records``.
"""

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.blocks import CAP, corner_of_block, list_blocks, start_tile, trace_weights
from nts_plugins.kernels.composite import gather_values
from nts_plugins.kernels.pieces import next_piece
from nts_plugins.kernels.records import RECORD, whole_vectors
from nts_plugins.kernels.tiles import (
    BLOCK_HEIGHT,
    BLOCK_WIDTH,
    BLOCKS,
    LOCAL,
    PIXELS,
    START_U,
    START_V,
    STEP_X,
    STEP_XY,
    STEP_Y,
)
from nts_plugins.kernels.vector_math import absolute, fma, minimum, select, sum_lanes_of_eight
from nts_plugins.kernels.vectors import (
    LANES,
    aligned,
    aligned_zeros,
    at,
    broadcast,
    helper,
    load,
    prefetch_to_write,
    splat,
    store,
)

_F = np.float32


@helper
def load_block_gradients(
    grad_image,
    grad_alphas,
    channels,
    width,
    height,
    background,
    x0,
    y0,
    left,
    pixel,
    by_channel,
    by_pixel,
    wide,
    behind,
):
    """dL/dimage of a block in both layouts, and what the background contributes behind each pixel's last splat.

    ``by_channel`` [stride, LANES], ``by_pixel`` [LANES, wide] (both padded with zeros), ``behind`` [LANES]: final
    transmittance times dL/d(final transmittance).
    """
    left_of_block, top_of_block = corner_of_block(pixel // LANES)
    x0, y0 = x0 + left_of_block, y0 + top_of_block
    for row in range(BLOCK_HEIGHT):
        for column in range(BLOCK_WIDTH):
            x, y, lane = x0 + column, y0 + row, row * BLOCK_WIDTH + column
            if x >= width or y >= height:
                behind[at(lane)] = _F(0)
                for c in range(channels):
                    by_channel[at(c * LANES + lane)] = _F(0)
                    by_pixel[at(lane * wide + c)] = _F(0)
                continue
            source = y * width + x
            total = -grad_alphas[at(source)]
            for c in range(channels):
                g = grad_image[at(source * channels + c)]
                by_channel[at(c * LANES + lane)] = g
                by_pixel[at(lane * wide + c)] = g
                total += background[at(c)] * g
            behind[at(lane)] = abs(left[at(pixel + lane)]) * total


@helper
def project_values(values, picked, n, stride, by_channel, out):
    """out[i, pixel] = sum_c values[picked[i], c] dL/dimage[c, pixel]."""
    for c in range(0, stride, 4):
        v0, v1 = load(by_channel, c * LANES, LANES), load(by_channel, (c + 1) * LANES, LANES)
        v2, v3 = load(by_channel, (c + 2) * LANES, LANES), load(by_channel, (c + 3) * LANES, LANES)
        for i in range(n):
            k = picked[at(i)] * stride + c
            total = broadcast(values, k, LANES) * v0
            if c > 0:
                total = total + load(out, i * LANES, LANES)
            total = fma(broadcast(values, k + 1, LANES), v1, total)
            total = fma(broadcast(values, k + 2, LANES), v2, total)
            store(out, i * LANES, fma(broadcast(values, k + 3, LANES), v3, total))


@helper
def add_outer(weights, picked, n, basis, wide, out, out_stride):
    """out[picked[i], c] += sum_pixel weights[i, pixel] basis[pixel, c] for c < wide, a multiple of 8.

    The adjoint of ``composite.accumulate``. Some channels of eight pixels stay in registers while splats go by.
    """
    c = 0
    while c + LANES <= wide:
        add_outer_columns(weights, picked, n, basis, wide, c, out, out_stride, LANES)
        c += LANES
    if c < wide:
        add_outer_columns(weights, picked, n, basis, wide, c, out, out_stride, 8)


@helper
def add_outer_columns(weights, picked, n, basis, wide, c, out, out_stride, columns):
    """:func:`add_outer` for the ``columns`` channels from ``c`` on, a literal."""
    for pixels in range(0, LANES, 8):
        o = pixels * wide + c
        b0, b1 = load(basis, o, columns), load(basis, o + wide, columns)
        b2, b3 = load(basis, o + 2 * wide, columns), load(basis, o + 3 * wide, columns)
        b4, b5 = load(basis, o + 4 * wide, columns), load(basis, o + 5 * wide, columns)
        b6, b7 = load(basis, o + 6 * wide, columns), load(basis, o + 7 * wide, columns)
        for i in range(n):
            k = i * LANES + pixels
            place = picked[at(i)] * out_stride + c
            even = fma(broadcast(weights, k, columns), b0, load(out, place, columns))
            odd = broadcast(weights, k + 1, columns) * b1
            even = fma(broadcast(weights, k + 2, columns), b2, even)
            odd = fma(broadcast(weights, k + 3, columns), b3, odd)
            even = fma(broadcast(weights, k + 4, columns), b4, even)
            odd = fma(broadcast(weights, k + 5, columns), b5, odd)
            even = fma(broadcast(weights, k + 6, columns), b6, even)
            odd = fma(broadcast(weights, k + 7, columns), b7, odd)
            store(out, place, even + odd)


@helper
def sigma_gradients(weights, trace, projected, behind, constants, n):
    """dL/dsigma of every contributor in every pixel, written over ``projected``; splats are walked back to front.

    dL/dalpha = T (c . v) - behind / (1 - alpha), where ``behind`` sums what later splats and the background add to
    the pixel's loss. dalpha/dsigma = -o exp(-sigma), and no gradient passes where alpha is capped.
    """
    zero, one, cap = splat(_F(0), LANES), splat(_F(1), LANES), load(constants, CAP, LANES)
    rest = load(behind, 0, LANES)
    for step in range(n):
        i = n - 1 - step
        peak, through = load(trace, 2 * i * LANES, LANES), load(trace, (2 * i + 1) * LANES, LANES)
        here = load(projected, i * LANES, LANES)
        grad_alpha = through * here - rest / (one - minimum(peak, cap))
        rest = fma(load(weights, i * LANES, LANES), here, rest)
        store(projected, i * LANES, select(peak <= cap, zero - peak * grad_alpha, zero))


@helper
def add_geometry(grad_sigma, picked, n, local, start, xs, ys, pixel, out):
    """out[splat, 0:8] += the block's sums of dL/dsigma times what each gradient column needs, see :data:`RECORD`."""
    x, y = load(xs, pixel, LANES), load(ys, pixel, LANES)
    for i in range(n):
        j = np.int64(picked[at(i)])
        k, place = (start + j) * LOCAL, j * RECORD
        step_x, step_xy = broadcast(local, k + STEP_X, LANES), broadcast(local, k + STEP_XY, LANES)
        step_y, g = broadcast(local, k + STEP_Y, LANES), load(grad_sigma, i * LANES, LANES)
        u = fma(step_xy, y, fma(step_x, x, broadcast(local, k + START_U, LANES)))
        v = fma(step_y, y, broadcast(local, k + START_V, LANES))
        gu, gv = g * u, g * v
        mean_x, mean_y = step_x * gu, fma(step_xy, gu, step_y * gv)
        sums = sum_lanes_of_eight(mean_x, mean_y, gu * u, gu * v, gv * v, g, absolute(mean_x), absolute(mean_y))
        store(out, place, load(out, place, 8) + sums)


@helper
def open_records(slots, start, stop, end, size, records):
    """Ask for the memory of a tile's records, which lie all over it, so that it is here when the tile is done; those of
    the entries from ``stop`` on, which contribute to no pixel, are zero."""
    for entry in range(start, end):
        for line in range(0, size, 16):
            prefetch_to_write(records, np.int64(slots[at(entry)]) * size + line)
    for entry in range(stop, end):
        for c in range(0, size, 4):
            store(records, np.int64(slots[at(entry)]) * size + c, splat(_F(0), 4))


@helper
def write_records(slots, start, stop, size, geometry, grad_values, stride, wide, records):
    """Write the records of a tile's contributing entries."""
    for j in range(stop - start):
        place = np.int64(slots[at(start + j)]) * size
        store(records, place, load(geometry, j * RECORD, 8))
        for c in range(0, stride, 4):
            store(records, place + RECORD + c, load(grad_values, j * wide + c, 4))


@njit(nogil=True, cache=True)
def composite_backward(
    share, local, words, slots, offsets, used, values, channels, width, height, background, constants,
    grad_image, grad_alphas, records,
):  # fmt: skip
    """The gradient of :func:`composite_forward`, as one record for every (tile, splat) entry.

    Args:
        slots: [M] where each entry's record goes, from ``tiles.fill_tiles``.
        used: [T] from the forward pass; later entries get zero records.
        grad_image: [H * W * channels].
        grad_alphas: [H * W].
        records: [M * (RECORD + whole_vectors(channels, 4))] written.
    """
    capacity = max(1, used.max()) if used.shape[0] > 0 else 1
    stride, wide = whole_vectors(channels, 4), whole_vectors(channels, 8)
    size = RECORD + stride
    local_values = aligned(capacity * stride)
    members, sizes = np.empty(BLOCKS * capacity, np.int32), np.empty(BLOCKS, np.int64)
    xs, ys, left = aligned(PIXELS), aligned(PIXELS), aligned(PIXELS)
    weights, picked = aligned((capacity + 1) * LANES), np.empty(capacity + 1, np.int32)
    trace, projected = aligned(2 * (capacity + 1) * LANES), aligned(capacity * LANES)
    by_channel, by_pixel = aligned_zeros(stride * LANES), aligned_zeros(LANES * wide)
    behind = aligned(LANES)
    geometry, grad_values = aligned(capacity * RECORD), aligned(capacity * wide)
    while True:
        tile = next_piece(share, offsets.shape[0] - 1)
        if tile >= offsets.shape[0] - 1:
            return
        start, stop = offsets[tile], offsets[tile] + used[tile]
        open_records(slots, start, stop, offsets[tile + 1], size, records)
        if start == stop:
            continue
        x0, y0 = start_tile(tile, width, height, xs, ys, left)
        gather_values(values, channels, words, start, stop, local_values, stride)
        list_blocks(words, start, stop, capacity, members, sizes)
        geometry[: (stop - start) * RECORD] = _F(0)
        grad_values[: (stop - start) * wide] = _F(0)
        for b in range(BLOCKS):
            p = b * LANES
            n, _ = trace_weights(
                local, start, members, b * capacity, sizes[b], p, xs, ys, left, constants, weights, picked, trace
            )
            if n == 0:
                continue
            load_block_gradients(
                grad_image, grad_alphas, channels, width, height, background, x0, y0, left, p, by_channel, by_pixel,
                wide, behind,
            )  # fmt: skip
            project_values(local_values, picked, n, stride, by_channel, projected)
            sigma_gradients(weights, trace, projected, behind, constants, n)
            add_geometry(projected, picked, n, local, start, xs, ys, p, geometry)
            add_outer(weights, picked, n, by_pixel, wide, grad_values, wide)
        write_records(slots, start, stop, size, geometry, grad_values, stride, wide, records)
