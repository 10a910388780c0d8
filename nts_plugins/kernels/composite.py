# SPDX-License-Identifier: Apache-2.0
"""Front-to-back compositing of D values a splat, and its gradient.

Forward, block by block: the weights of the contributing splats (``blocks.block_weights``), then a small matrix
product weights^T x values whose sums stay in registers, four channels at a time. Backward repeats the weights (they
cost less than writing them to memory), so transmittances are exact products instead of quotients. Every (tile, splat)
entry writes one record; ``gather_records`` adds a splat's records in a fixed order. No atomics, so results are the
same for any number of threads.
"""

import numpy as np
from numba import njit

from nts_plugins.kernels.blocks import (
    BLOCKS,
    LOCAL,
    LOCAL_X,
    LOCAL_Y,
    PIXELS,
    START_U,
    START_V,
    STEP_X,
    STEP_XY,
    STEP_Y,
    STRENGTH,
    block_weights,
    list_block,
    mask_blocks,
    start_tile,
    trace_weights,
)
from nts_plugins.kernels.vector_math import absolute, fma, sum_lanes_of_eight
from nts_plugins.kernels.vectors import LANES, broadcast, fetch_add, load, splat, store

BATCH = 256
"""Entries of a tile that the forward pass treats at a time: their records and lists stay in the first-level cache, and
a tile whose pixels are finished stops after the batch."""
RECORD = 8
"""Floats before the D channels in an entry's gradient record: mean2d (2), conic (3), opacity, and the sums over pixels
of the absolute gradient of mean2d (2), which absolute-gradient densification reads."""
PIECE = 512
"""Splats that a thread sums at a time."""

_F = np.float32


@njit(nogil=True, cache=True)
def gather_values(values, channels, entries, start, stop, local_values, stride):
    """Copy the values of a batch's splats next to each other, padded with zeros to ``stride`` channels."""
    for j in range(stop - start):
        source = np.int64(entries[start + j]) * channels
        for c in range(channels):
            local_values[j * stride + c] = values[source + c]
        for c in range(channels, stride):
            local_values[j * stride + c] = _F(0)


@njit(nogil=True, cache=True)
def accumulate(weights, picked, n, values, stride, sums, at):
    """sums[c, pixel] += sum_i weights[i, pixel] values[picked[i], c], for ``stride`` channels from ``at`` on."""
    c = 0
    while c + 8 <= stride:
        o = at + c * LANES
        s0, s1 = load(sums, o, LANES), load(sums, o + LANES, LANES)
        s2, s3 = load(sums, o + 2 * LANES, LANES), load(sums, o + 3 * LANES, LANES)
        s4, s5 = load(sums, o + 4 * LANES, LANES), load(sums, o + 5 * LANES, LANES)
        s6, s7 = load(sums, o + 6 * LANES, LANES), load(sums, o + 7 * LANES, LANES)
        for i in range(n):
            k = picked[i] * stride + c
            w = load(weights, i * LANES, LANES)
            s0, s1 = fma(broadcast(values, k, LANES), w, s0), fma(broadcast(values, k + 1, LANES), w, s1)
            s2, s3 = fma(broadcast(values, k + 2, LANES), w, s2), fma(broadcast(values, k + 3, LANES), w, s3)
            s4, s5 = fma(broadcast(values, k + 4, LANES), w, s4), fma(broadcast(values, k + 5, LANES), w, s5)
            s6, s7 = fma(broadcast(values, k + 6, LANES), w, s6), fma(broadcast(values, k + 7, LANES), w, s7)
        store(sums, o, s0)
        store(sums, o + LANES, s1)
        store(sums, o + 2 * LANES, s2)
        store(sums, o + 3 * LANES, s3)
        store(sums, o + 4 * LANES, s4)
        store(sums, o + 5 * LANES, s5)
        store(sums, o + 6 * LANES, s6)
        store(sums, o + 7 * LANES, s7)
        c += 8
    if c < stride:
        o = at + c * LANES
        s0, s1 = load(sums, o, LANES), load(sums, o + LANES, LANES)
        s2, s3 = load(sums, o + 2 * LANES, LANES), load(sums, o + 3 * LANES, LANES)
        for i in range(n):
            k = picked[i] * stride + c
            w = load(weights, i * LANES, LANES)
            s0, s1 = fma(broadcast(values, k, LANES), w, s0), fma(broadcast(values, k + 1, LANES), w, s1)
            s2, s3 = fma(broadcast(values, k + 2, LANES), w, s2), fma(broadcast(values, k + 3, LANES), w, s3)
        store(sums, o, s0)
        store(sums, o + LANES, s1)
        store(sums, o + 2 * LANES, s2)
        store(sums, o + 3 * LANES, s3)


@njit(nogil=True, cache=True)
def composite_forward(
    counter, packed, values, channels, offsets, entries, width, height, background, constants, image, behind, used
):
    """Composite a picture.

    Args:
        counter: [1] int64 work counter; a piece is a tile.
        packed: [N * PACKED] from ``bound_splats``.
        values: [N * channels].
        offsets, entries: from ``list_tiles``.
        background: [channels].
        constants: from ``blocks.compositing_constants``.
        image: [H * W * channels] written.
        behind: [H * W] written: the transmittance that is left behind the last splat.
        used: [T] int64 written: entries of each tile up to the last that contributes to a pixel.
    """
    stride = (channels + 3) // 4 * 4
    local = np.empty(BATCH * LOCAL, _F)
    local_values = np.empty(BATCH * stride, _F)
    masks, members = np.empty(BATCH, np.int32), np.empty(BATCH + 1, np.int32)
    xs, ys, left = np.empty(PIXELS, _F), np.empty(PIXELS, _F), np.empty(PIXELS, _F)
    sums = np.empty(PIXELS * stride, _F)
    weights, picked = np.empty((BATCH + 1) * LANES, _F), np.empty(BATCH + 1, np.int32)
    unused = np.empty(0, _F)
    unfinished = np.empty(BLOCKS, np.bool_)
    while True:
        tile = fetch_add(counter, 0, 1)
        if tile >= offsets.shape[0] - 1:
            return
        x0, y0 = start_tile(tile, width, height, xs, ys, left)
        sums[:] = _F(0)
        for b in range(BLOCKS):
            unfinished[b] = left[b * LANES] > 0
        used[tile] = 0
        for start in range(offsets[tile], offsets[tile + 1], BATCH):
            stop = min(start + BATCH, offsets[tile + 1])
            mask_blocks(packed, entries, start, stop, x0, y0, local, masks)
            gather_values(values, channels, entries, start, stop, local_values, stride)
            any_unfinished = False
            for b in range(BLOCKS):
                if not unfinished[b]:
                    continue
                count = list_block(masks, stop - start, b, members)
                n, unfinished[b] = block_weights(
                    local, members, count, b * LANES, xs, ys, left, constants, weights, picked, unused
                )
                if n > 0:
                    accumulate(weights, picked, n, local_values, stride, sums, b * LANES * stride)
                    used[tile] = max(used[tile], start - offsets[tile] + picked[n - 1] + 1)
                any_unfinished |= unfinished[b]
            if not any_unfinished:
                break
        for p in range(PIXELS):
            x, y = x0 + np.int64(xs[p]), y0 + np.int64(ys[p])
            if x < width and y < height:
                pixel = y * width + x
                behind[pixel] = abs(left[p])
                block, lane = p // LANES, p % LANES
                for c in range(channels):
                    image[pixel * channels + c] = (
                        sums[(block * stride + c) * LANES + lane] + abs(left[p]) * background[c]
                    )


@njit(nogil=True, cache=True)
def load_block_gradients(
    grad_image,
    grad_alphas,
    channels,
    stride,
    width,
    height,
    background,
    x0,
    y0,
    xs,
    ys,
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
    for lane in range(LANES):
        x, y = x0 + np.int64(xs[pixel + lane]), y0 + np.int64(ys[pixel + lane])
        inside = x < width and y < height
        source = (y * width + x) * channels
        total = _F(0)
        for c in range(channels):
            g = grad_image[source + c] if inside else _F(0)
            by_channel[c * LANES + lane] = g
            by_pixel[lane * wide + c] = g
            total += background[c] * g
        behind[lane] = abs(left[pixel + lane]) * (total - grad_alphas[y * width + x]) if inside else _F(0)


@njit(nogil=True, cache=True)
def project_values(values, picked, n, stride, by_channel, out):
    """out[i, pixel] = sum_c values[picked[i], c] dL/dimage[c, pixel]."""
    for c in range(0, stride, 4):
        v0, v1 = load(by_channel, c * LANES, LANES), load(by_channel, (c + 1) * LANES, LANES)
        v2, v3 = load(by_channel, (c + 2) * LANES, LANES), load(by_channel, (c + 3) * LANES, LANES)
        for i in range(n):
            k = picked[i] * stride + c
            total = broadcast(values, k, LANES) * v0
            if c > 0:
                total = total + load(out, i * LANES, LANES)
            total = fma(broadcast(values, k + 1, LANES), v1, total)
            total = fma(broadcast(values, k + 2, LANES), v2, total)
            store(out, i * LANES, fma(broadcast(values, k + 3, LANES), v3, total))


@njit(nogil=True, cache=True)
def add_outer(weights, picked, n, basis, wide, out, out_stride):
    """out[picked[i], c] += sum_pixel weights[i, pixel] basis[pixel, c] for c < wide, a multiple of 8.

    The adjoint of :func:`accumulate`. Eight channels of half a block's pixels stay in registers while splats go by.
    """
    for c in range(0, wide, 8):
        for half in range(0, LANES, 8):
            o = half * wide + c
            b0, b1 = load(basis, o, 8), load(basis, o + wide, 8)
            b2, b3 = load(basis, o + 2 * wide, 8), load(basis, o + 3 * wide, 8)
            b4, b5 = load(basis, o + 4 * wide, 8), load(basis, o + 5 * wide, 8)
            b6, b7 = load(basis, o + 6 * wide, 8), load(basis, o + 7 * wide, 8)
            for i in range(n):
                k = i * LANES + half
                place = picked[i] * out_stride + c
                even = fma(broadcast(weights, k, 8), b0, load(out, place, 8))
                odd = broadcast(weights, k + 1, 8) * b1
                even, odd = fma(broadcast(weights, k + 2, 8), b2, even), fma(broadcast(weights, k + 3, 8), b3, odd)
                even, odd = fma(broadcast(weights, k + 4, 8), b4, even), fma(broadcast(weights, k + 5, 8), b5, odd)
                even, odd = fma(broadcast(weights, k + 6, 8), b6, even), fma(broadcast(weights, k + 7, 8), b7, odd)
                store(out, place, even + odd)


@njit(nogil=True, cache=True)
def sigma_gradients(weights, trace, projected, behind, n):
    """dL/dsigma of every contributor in every pixel, written over ``projected``; splats are walked back to front.

    dL/dalpha = T (c . v) - behind / (1 - alpha), where ``behind`` sums what later splats and the background add to
    the pixel's loss, and dalpha/dsigma = -o exp(-sigma).
    """
    one = splat(_F(1), LANES)
    rest = load(behind, 0, LANES)
    for step in range(n):
        i = n - 1 - step
        alpha, before = load(trace, 3 * i * LANES, LANES), load(trace, (3 * i + 1) * LANES, LANES)
        here = load(projected, i * LANES, LANES)
        grad_alpha = before * here - rest / (one - alpha)
        rest = fma(load(weights, i * LANES, LANES), here, rest)
        store(projected, i * LANES, splat(_F(0), LANES) - load(trace, (3 * i + 2) * LANES, LANES) * grad_alpha)


@njit(nogil=True, cache=True)
def add_geometry(grad_sigma, picked, n, local, xs, ys, pixel, out):
    """out[splat, 0:8] += the block's sums of dL/dsigma times what each gradient column needs, see :data:`RECORD`.

    The columns still lack constant factors, which :func:`write_record` applies.
    """
    x, y = load(xs, pixel, LANES), load(ys, pixel, LANES)
    for i in range(n):
        k, place = np.int64(picked[i]) * LOCAL, np.int64(picked[i]) * RECORD
        step_x, step_xy = broadcast(local, k + STEP_X, LANES), broadcast(local, k + STEP_XY, LANES)
        step_y, g = broadcast(local, k + STEP_Y, LANES), load(grad_sigma, i * LANES, LANES)
        u = fma(step_xy, y, fma(step_x, x, broadcast(local, k + START_U, LANES)))
        v = fma(step_y, y, broadcast(local, k + START_V, LANES))
        gu = g * u
        mean_x, mean_y = step_x * gu, fma(step_xy, gu, step_y * (g * v))
        dx, dy = broadcast(local, k + LOCAL_X, LANES) - x, broadcast(local, k + LOCAL_Y, LANES) - y
        gx, gy = g * dx, g * dy
        sums = sum_lanes_of_eight(mean_x, mean_y, gx * dx, gx * dy, gy * dy, g, absolute(mean_x), absolute(mean_y))
        store(out, place, load(out, place, 8) + sums)


@njit(nogil=True, cache=True)
def composite_backward(
    counter, packed, values, channels, offsets, entries, slots, used, width, height, background, constants,
    grad_image, grad_alphas, records,
):  # fmt: skip
    """The gradient of :func:`composite_forward`, as one record for every (tile, splat) entry.

    Args:
        slots: [M] where each entry's record goes, from ``list_tiles``.
        used: [T] from the forward pass; later entries get zero records.
        grad_image: [H * W * channels].
        grad_alphas: [H * W].
        records: [M * (RECORD + channels)] written.
    """
    capacity = max(1, used.max()) if used.shape[0] > 0 else 1
    stride, wide, size = (channels + 3) // 4 * 4, (channels + 7) // 8 * 8, RECORD + channels
    local, local_values = np.empty(capacity * LOCAL, _F), np.empty(capacity * stride, _F)
    masks, members = np.empty(capacity, np.int32), np.empty(capacity + 1, np.int32)
    xs, ys, left = np.empty(PIXELS, _F), np.empty(PIXELS, _F), np.empty(PIXELS, _F)
    weights, picked = np.empty((capacity + 1) * LANES, _F), np.empty(capacity + 1, np.int32)
    trace, projected = np.empty(3 * capacity * LANES, _F), np.empty(capacity * LANES, _F)
    by_channel, by_pixel = np.zeros(stride * LANES, _F), np.zeros(LANES * wide, _F)
    behind = np.empty(LANES, _F)
    geometry, grad_values = np.empty(capacity * RECORD, _F), np.empty(capacity * wide, _F)
    while True:
        tile = fetch_add(counter, 0, 1)
        if tile >= offsets.shape[0] - 1:
            return
        start, stop = offsets[tile], offsets[tile] + used[tile]
        for entry in range(stop, offsets[tile + 1]):
            for c in range(size):
                records[slots[entry] * size + c] = _F(0)
        if start == stop:
            continue
        x0, y0 = start_tile(tile, width, height, xs, ys, left)
        mask_blocks(packed, entries, start, stop, x0, y0, local, masks)
        gather_values(values, channels, entries, start, stop, local_values, stride)
        geometry[: (stop - start) * RECORD] = _F(0)
        grad_values[: (stop - start) * wide] = _F(0)
        for b in range(BLOCKS):
            p = b * LANES
            count = list_block(masks, stop - start, b, members)
            n, _ = trace_weights(local, members, count, p, xs, ys, left, constants, weights, picked, trace)
            if n == 0:
                continue
            load_block_gradients(
                grad_image, grad_alphas, channels, stride, width, height, background,
                x0, y0, xs, ys, left, p, by_channel, by_pixel, wide, behind,
            )  # fmt: skip
            project_values(local_values, picked, n, stride, by_channel, projected)
            sigma_gradients(weights, trace, projected, behind, n)
            add_geometry(projected, picked, n, local, xs, ys, p, geometry)
            add_outer(weights, picked, n, by_pixel, wide, grad_values, wide)
        for j in range(stop - start):
            write_record(local, geometry, grad_values, j, channels, wide, records, np.int64(slots[start + j]) * size)


@njit(nogil=True, cache=True)
def write_record(local, geometry, grad_values, j, channels, wide, records, at):
    """The gradient record of a tile's j-th splat, see :data:`RECORD`."""
    g = j * RECORD
    records[at], records[at + 1] = _F(-2) * geometry[g], _F(-2) * geometry[g + 1]
    records[at + 2], records[at + 3] = _F(0.5) * geometry[g + 2], geometry[g + 3]
    records[at + 4], records[at + 5] = _F(0.5) * geometry[g + 4], -geometry[g + 5] / local[j * LOCAL + STRENGTH]
    records[at + 6], records[at + 7] = _F(2) * geometry[g + 6], _F(2) * geometry[g + 7]
    for channel in range(channels):
        records[at + RECORD + channel] = grad_values[j * wide + channel]


@njit(nogil=True, cache=True)
def gather_records(counter, first_slot, records, head, channels, grads, grad_values):
    """Sum each splat's records, which lie side by side, always in the same order.

    Args:
        first_slot: [N + 1] from ``list_tiles``.
        records: [M * (head + channels)].
        grads: [N * head] written.
        grad_values: [N * channels] written.
    """
    n = first_slot.shape[0] - 1
    size = head + channels
    while True:
        start = fetch_add(counter, 0, 1) * PIECE
        if start >= n:
            return
        for i in range(start, min(n, start + PIECE)):
            for c in range(head):
                grads[i * head + c] = _F(0)
            for c in range(channels):
                grad_values[i * channels + c] = _F(0)
            for slot in range(first_slot[i], first_slot[i + 1]):
                for c in range(head):
                    grads[i * head + c] += records[slot * size + c]
                for c in range(channels):
                    grad_values[i * channels + c] += records[slot * size + head + c]
