# SPDX-License-Identifier: Apache-2.0
"""The gradient of compositing splats with textures: as ``composite_gradient``, and a second record for the texture of
every (tile, splat) entry that has one."""

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.blocks import CAP, list_blocks, start_tile
from nts_plugins.kernels.composite import gather_values
from nts_plugins.kernels.composite_gradient import (
    add_geometry,
    add_outer,
    load_block_gradients,
    open_records,
    project_values,
    write_records,
)
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.records import PIECE, RECORD, put_floats, sum_records, whole_vectors
from nts_plugins.kernels.texture_places import LOCAL_RAYS, RAYS, add_ray_gradients
from nts_plugins.kernels.texture_sampling import AXES, TEXEL, pull_products, table_width
from nts_plugins.kernels.texture_tanh import CORNERS, TEXELS, pull_tanh
from nts_plugins.kernels.textured import (
    BEFORE,
    PEAK,
    SHOWN,
    STRENGTH,
    TRACE,
    gather_textured,
    plain_trace,
    tanh_trace,
)
from nts_plugins.kernels.tiles import BLOCKS, LOCAL, PIXELS, SPLAT
from nts_plugins.kernels.vector_math import (
    any_lane,
    fma,
    minimum,
    select,
    sum_lanes,
    sum_lanes_of_eight,
    trailing_zeros,
)
from nts_plugins.kernels.vector_shapes import first_half, mask_bits, store_interleaved
from nts_plugins.kernels.vectors import LANES, aligned, aligned_zeros, at, broadcast, helper, load, splat, store

PLANES = RAYS
"""Where the gradients of the planes' weights stand, counted from those of the texture's rays, which they follow."""

_F = np.float32


@helper
def texture_record(n_planes, resolution):
    """Floats of a texture's record: texels, rays, weights of planes, which have room for three."""
    return n_planes * resolution * TEXEL + RAYS + 3


@helper
def clear_records(words, slots, first, last, row_of, first_slot, first_record, size, records, places):
    """Set the texture records of a tile's entries to zero and tell where each of them lies, -1 where there is none."""
    for entry in range(first, last):
        i = np.int64(words[at(entry * LOCAL + SPLAT)])
        row = np.int64(row_of[at(i)])
        if row < 0:
            places[at(entry - first)] = -1
            continue
        place = (first_record[at(row)] + np.int64(slots[at(entry)]) - first_slot[at(i)]) * size
        places[at(entry - first)] = place
        for c in range(0, size, 4):
            store(records, place + c, splat(_F(0), 4))


@helper
def residual_gradient(values, place, weight, residual, grad):
    """What a residual really adds to a value, its gradient, and what of the value's gradient does not pass, because no
    residual makes a colour negative."""
    zero, value = splat(_F(0), LANES), broadcast(values, place, LANES)
    floor = minimum(value, zero)
    passes = value + residual >= floor
    full = weight * grad
    grad_residual = select(passes, full, zero)
    blocked = select(value >= zero, full - grad_residual, zero)
    return select(passes, residual, floor - value), grad_residual, blocked


def _pull_kernel(tanh: bool, moves: bool):
    @helper
    def pull_block(
        weights, trace, projected, behind, constants, n, picked, by_channel, rows, local_rays, x_pixel, xs, ys, vectors,
        planes, amplitudes, n_planes, resolution, tanh_constants, corners, texels, axes, shown, slopes, values, stride,
        record_places, records, grad_values, wide,
    ):  # fmt: skip
        zero, one, cap = splat(_F(0), LANES), splat(_F(1), LANES), load(constants, CAP, LANES)
        x, y = load(xs, x_pixel, LANES), load(ys, x_pixel, LANES)
        rest = load(behind, 0, LANES)
        red, green, blue = (
            load(by_channel, 0, LANES),
            load(by_channel, LANES, LANES),
            load(by_channel, 2 * LANES, LANES),
        )
        for back in range(n):
            i = n - 1 - back
            j = np.int64(picked[at(i)])
            row = np.int64(rows[at(j)])
            peak, through = (
                load(trace, (i * TRACE + PEAK) * LANES, LANES),
                load(trace, (i * TRACE + BEFORE) * LANES, LANES),
            )
            strength, weight = load(trace, (i * TRACE + STRENGTH) * LANES, LANES), load(weights, i * LANES, LANES)
            here = load(projected, i * LANES, LANES)
            adds = peak > zero
            grad_red, grad_green, grad_blue = zero, zero, zero
            if row >= 0:
                k, t = j * stride, (i * TRACE + SHOWN) * LANES
                added, grad_red, blocked = residual_gradient(values, k, weight, load(trace, t, LANES), red)
                if any_lane(blocked > zero) or any_lane(blocked < zero):
                    grad_values[at(j * wide)] -= sum_lanes(blocked)
                here = fma(select(adds, added, zero), red, here)
                added, grad_green, blocked = residual_gradient(
                    values, k + 1, weight, load(trace, t + LANES, LANES), green
                )
                if any_lane(blocked > zero) or any_lane(blocked < zero):
                    grad_values[at(j * wide + 1)] -= sum_lanes(blocked)
                here = fma(select(adds, added, zero), green, here)
                added, grad_blue, blocked = residual_gradient(
                    values, k + 2, weight, load(trace, t + 2 * LANES, LANES), blue
                )
                if any_lane(blocked > zero) or any_lane(blocked < zero):
                    grad_values[at(j * wide + 2)] -= sum_lanes(blocked)
                here = fma(select(adds, added, zero), blue, here)
            grad_alpha = through * here - rest / (one - minimum(select(adds, strength, zero), cap))
            rest = fma(weight, here, rest)
            free = adds & (strength <= cap)
            if row >= 0:
                free = free | (adds & (grad_alpha > zero))
            store(projected, i * LANES, select(free, zero - peak * grad_alpha, zero))
            if row < 0:
                continue
            grad_red = grad_red * broadcast(amplitudes, 0, LANES)
            grad_green = grad_green * broadcast(amplitudes, 1, LANES)
            grad_blue = grad_blue * broadcast(amplitudes, 2, LANES)
            grad_opacity = select(free, grad_alpha, zero) * broadcast(amplitudes, 3, LANES)
            texture = row * n_planes * TEXEL * (resolution if tanh else table_width(resolution))
            place = record_places[at(j)]
            of_rays = place + n_planes * resolution * TEXEL
            if moves:
                store(slopes, 0, zero)
                store(slopes, LANES, zero)
                store(slopes, 2 * LANES, zero)
            if tanh:
                store_interleaved(shown, 0, grad_red, grad_green, grad_blue, grad_opacity)
                s0 = splat(_F(0), 4)
                s1, s2 = s0, s0
                bits = mask_bits(adds)
                while bits != 0:
                    lane = trailing_zeros(bits)
                    bits &= bits - 1
                    s0, s1, s2 = pull_tanh(
                        vectors, texture, n_planes, resolution, lane, i, corners, texels, planes, row * n_planes,
                        load(shown, lane * 4, 4), records, place, slopes, moves, tanh_constants, s0, s1, s2,
                    )  # fmt: skip
                records[at(of_rays + PLANES)] += sum_lanes(s0)
                records[at(of_rays + PLANES + 1)] += sum_lanes(s1)
                records[at(of_rays + PLANES + 2)] += sum_lanes(s2)
                if moves:
                    last = add_ray_gradients(local_rays, j * LOCAL_RAYS, x, y, slopes, resolution, records, of_rays)
                    records[at(of_rays + RAYS - 1)] += sum_lanes(last)
            else:
                of_xy, of_yz, of_zx = pull_products(
                    vectors, texture, n_planes, resolution, planes, row * n_planes, axes, i, grad_red, grad_green,
                    grad_blue, grad_opacity, records, place, slopes, moves,
                )  # fmt: skip
                last = zero
                if moves:
                    last = add_ray_gradients(local_rays, j * LOCAL_RAYS, x, y, slopes, resolution, records, of_rays)
                sums = first_half(sum_lanes_of_eight(last, of_xy, of_yz, of_zx, zero, zero, zero, zero))
                store(records, of_rays + RAYS - 1, load(records, of_rays + RAYS - 1, 4) + sums)

    return pull_block


pull_plain, pull_plain_moving, pull_tanh_planes, pull_tanh_planes_moving = (
    _pull_kernel(tanh, moves) for tanh in (False, True) for moves in (False, True)
)
"""The gradient of one block."""


def _gradient_kernel(tanh: bool, moves: bool):
    @njit(nogil=True, cache=True)
    def textured_backward(
        share, local, words, slots, offsets, used, values, channels, width, height, background, constants, row_of, rays,
        vectors, planes, amplitudes, n_planes, resolution, tanh_constants, first_slot, first_record, grad_image,
        grad_alphas, records, texture_records,
    ):  # fmt: skip
        capacity = max(1, used.max()) if used.shape[0] > 0 else 1
        most = max(1, np.diff(offsets).max()) if used.shape[0] > 0 else 1
        stride, wide = whole_vectors(channels, 4), whole_vectors(channels, 8)
        size, texture_size = RECORD + stride, texture_record(n_planes, resolution)
        local_values = aligned(capacity * stride)
        rows, local_rays = np.empty(capacity, np.int32), aligned(capacity * LOCAL_RAYS)
        record_places = np.empty(most, np.int64)
        kept_corners, kept_axes = (capacity + 1, 0) if tanh else (0, capacity + 1)
        corners, texels = aligned(kept_corners * CORNERS), aligned(kept_corners * TEXELS).view(np.int32)
        axes, shown = aligned(kept_axes * AXES), aligned_zeros(4 * LANES)
        slopes, no_sums = aligned(3 * LANES), np.empty(0, _F)
        members, sizes = np.empty(BLOCKS * capacity, np.int32), np.empty(BLOCKS, np.int64)
        xs, ys, left = aligned(PIXELS), aligned(PIXELS), aligned(PIXELS)
        weights, picked = aligned((capacity + 1) * LANES), np.empty(capacity + 1, np.int32)
        trace, projected = aligned(TRACE * (capacity + 1) * LANES), aligned(capacity * LANES)
        by_channel, by_pixel = aligned_zeros(stride * LANES), aligned_zeros(LANES * wide)
        behind = aligned(LANES)
        geometry, grad_values = aligned(capacity * RECORD), aligned(capacity * wide)
        if tanh:
            textured_trace, pull_block = tanh_trace, pull_tanh_planes_moving if moves else pull_tanh_planes
        else:
            textured_trace, pull_block = plain_trace, pull_plain_moving if moves else pull_plain
        while True:
            tile = next_piece(share, offsets.shape[0] - 1)
            if tile >= offsets.shape[0] - 1:
                return
            start, stop = offsets[tile], offsets[tile] + used[tile]
            open_records(slots, start, stop, offsets[tile + 1], size, records)
            clear_records(
                words, slots, start, offsets[tile + 1], row_of, first_slot, first_record, texture_size, texture_records,
                record_places,
            )  # fmt: skip
            if start == stop:
                continue
            x0, y0 = start_tile(tile, width, height, xs, ys, left)
            gather_values(values, channels, words, start, stop, local_values, stride)
            gather_textured(words, start, stop, x0, y0, row_of, rays, rows, local_rays)
            list_blocks(words, start, stop, capacity, members, sizes)
            geometry[: (stop - start) * RECORD] = _F(0)
            grad_values[: (stop - start) * wide] = _F(0)
            for b in range(BLOCKS):
                p = b * LANES
                n, _ = textured_trace(
                    local, start, members, b * capacity, sizes[b], p, xs, ys, left, constants, rows, local_rays,
                    vectors, planes, amplitudes, n_planes, resolution, tanh_constants, corners, texels, axes, shown,
                    local_values, stride, no_sums, 0, weights, picked, trace,
                )  # fmt: skip
                if n == 0:
                    continue
                load_block_gradients(
                    grad_image, grad_alphas, channels, width, height, background, x0, y0, left, p, by_channel, by_pixel,
                    wide, behind,
                )  # fmt: skip
                project_values(local_values, picked, n, stride, by_channel, projected)
                pull_block(
                    weights, trace, projected, behind, constants, n, picked, by_channel, rows, local_rays, p, xs, ys,
                    vectors, planes, amplitudes, n_planes, resolution, tanh_constants, corners, texels, axes, shown,
                    slopes, local_values, stride, record_places, texture_records, grad_values, wide,
                )  # fmt: skip
                add_geometry(projected, picked, n, local, start, xs, ys, p, geometry)
                add_outer(weights, picked, n, by_pixel, wide, grad_values, wide)
            write_records(slots, start, stop, size, geometry, grad_values, stride, wide, records)

    return textured_backward


backward = {(tanh, moves): _gradient_kernel(tanh, moves) for tanh in (False, True) for moves in (False, True)}
"""The gradient of ``textured.composite_plain`` and ``composite_tanh``, by whether tanh is taken of every texel, and by
whether the point where a ray meets a splat moves with it.

Args, beside those of ``composite_gradient.composite_backward`` and of the forward pass:
    first_slot: [N + 1] int64, see ``tiles.fill_tiles``.
    first_record: [M + 1] int64 sums of how many entries each texture has.
    texture_records: [first_record[M] * texture_record(n_planes, resolution)] written.
"""


@njit(nogil=True, cache=True)
def gather_textures(share, first_record, records, n_planes, resolution, grad_vectors, grad_planes, grad_rays):
    """Sum the records of each texture, always in the same order.

    Args:
        share: of the work, see ``pieces``.
        first_record, records: see :data:`backward`.
        n_planes, resolution: see ``textured``.
        grad_vectors: [M * n_planes * resolution * TEXEL] written.
        grad_planes: [M * n_planes] written.
        grad_rays: [M * RAYS] float64 written.
    """
    m, size = first_record.shape[0] - 1, texture_record(n_planes, resolution)
    texels = n_planes * resolution * TEXEL
    total = aligned(size)
    while True:
        start = next_piece(share, pieces_of(m, PIECE)) * PIECE
        if start >= m:
            return
        for i in range(start, min(m, start + PIECE)):
            sum_records(records, first_record[at(i)], first_record[at(i + 1)], size, total)
            put_floats(total, 0, grad_vectors, i * texels, texels, False)
            for plane in range(n_planes):
                grad_planes[at(i * n_planes + plane)] = total[at(texels + PLANES + plane)]
            for c in range(RAYS):
                grad_rays[at(i * RAYS + c)] = np.float64(total[at(texels + c)])
