# SPDX-License-Identifier: Apache-2.0
"""Front-to-back compositing of splats of which some carry a local texture; see ``rasterization.textures``.

As ``composite``, but a splat's alpha in a pixel is known only when its texture has been read, and its colour differs
from pixel to pixel. So residual colours are added while the weights are found, and the rest, the same for all pixels,
goes through the same matrix product. Its gradient is in ``textured_gradient``.
"""

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.blocks import CAP, FAINTEST, STOP, list_blocks, peaks, start_tile
from nts_plugins.kernels.composite import BATCH, accumulate, gather_values, write_tile
from nts_plugins.kernels.pieces import next_piece
from nts_plugins.kernels.records import whole_vectors
from nts_plugins.kernels.texture_places import LOCAL_RAYS, gather_rays, places_in_texture
from nts_plugins.kernels.texture_sampling import TEXEL, sample_products, table_width
from nts_plugins.kernels.texture_tanh import CORNERS, TEXELS, find_corners, sample_tanh
from nts_plugins.kernels.tiles import (
    BLOCKS,
    LOCAL,
    PIXELS,
    SPLAT,
)
from nts_plugins.kernels.vector_math import (
    absolute,
    any_lane,
    fma,
    minimum,
    select,
    trailing_zeros,
)
from nts_plugins.kernels.vector_shapes import load_every_fourth, mask_bits
from nts_plugins.kernels.vectors import LANES, aligned, aligned_zeros, at, broadcast, helper, load, splat, store

_F = np.float32

PEAK, BEFORE, STRENGTH, SHOWN, TRACE = 0, 1, 2, 3, 6
"""Vectors that the gradient keeps of a contributor: o exp(-sigma), 0 where the pixel does not contribute; T before the
splat; o exp(-sigma) and the residual of opacity, before the cap; three residuals of colour."""


@helper
def gather_textured(words, start, stop, x0, y0, row_of, rays, rows, local_rays):
    """For the entries of a batch: the row of their texture, -1 where they have none, and how rays meet them."""
    for j in range(stop - start):
        row = np.int64(row_of[at(np.int64(words[at((start + j) * LOCAL + SPLAT)]))])
        rows[at(j)] = row
        if row >= 0:
            gather_rays(rays, row, x0, y0, local_rays, j)


def _weights_kernel(tanh: bool, keep: bool):
    @helper
    def textured_weights(
        local, start, members, first, count, pixel, xs, ys, left, constants, rows, local_rays, vectors, planes,
        amplitudes, n_planes, resolution, tanh_constants, corners, texels, axes, shown, values, stride, sums, base,
        weights, picked, trace,
    ):  # fmt: skip
        x, y = load(xs, pixel, LANES), load(ys, pixel, LANES)
        through = load(left, pixel, LANES)
        zero, one = splat(_F(0), LANES), splat(_F(1), LANES)
        cap, faintest = load(constants, CAP, LANES), load(constants, FAINTEST, LANES)
        stop = load(constants, STOP, LANES)
        n = 0
        for i in range(count):
            j = np.int64(members[at(first + i)])
            peak = peaks(local, (start + j) * LOCAL, x, y, constants)
            strength, seen, row = peak, peak >= faintest, np.int64(rows[at(j)])
            bits = mask_bits(seen & (through > zero))
            textured = row >= 0 and bits != 0
            red, green, blue = zero, zero, zero
            if textured:
                # The gradient needs them once more, for each contributor.
                kept = n if keep else 0
                px, py, pz = places_in_texture(local_rays, j * LOCAL_RAYS, x, y, resolution)
                texture = row * n_planes * TEXEL * (resolution if tanh else table_width(resolution))
                if tanh:
                    find_corners(px, py, pz, resolution, corners, texels, kept)
                    while bits != 0:
                        lane = trailing_zeros(bits)
                        bits &= bits - 1
                        found = sample_tanh(
                            vectors, texture, n_planes, resolution, lane, kept, corners, texels, planes,
                            row * n_planes, tanh_constants,
                        )  # fmt: skip
                        store(shown, lane * 4, found)
                    red, green = load_every_fourth(shown, 0, 0, LANES), load_every_fourth(shown, 0, 1, LANES)
                    blue, opacity = load_every_fourth(shown, 0, 2, LANES), load_every_fourth(shown, 0, 3, LANES)
                else:
                    red, green, blue, opacity = sample_products(
                        vectors, texture, n_planes, resolution, px, py, pz, planes, row * n_planes, axes, kept, keep
                    )
                red, green = red * broadcast(amplitudes, 0, LANES), green * broadcast(amplitudes, 1, LANES)
                blue = blue * broadcast(amplitudes, 2, LANES)
                strength = fma(opacity, broadcast(amplitudes, 3, LANES), peak)
            alpha = minimum(strength, cap)
            after = through * (one - alpha)
            seen = seen & (alpha >= faintest)
            adds = seen & (after > stop)
            weight = select(adds, alpha * through, zero)
            store(weights, n * LANES, weight)
            if keep:
                store(trace, (n * TRACE + PEAK) * LANES, select(adds, peak, zero))
                store(trace, (n * TRACE + BEFORE) * LANES, through)
                store(trace, (n * TRACE + STRENGTH) * LANES, strength)
            if textured:
                if keep:
                    store(trace, (n * TRACE + SHOWN) * LANES, red)
                    store(trace, (n * TRACE + SHOWN + 1) * LANES, green)
                    store(trace, (n * TRACE + SHOWN + 2) * LANES, blue)
                else:
                    add_residual(values, j * stride, weight, red, sums, base)
                    add_residual(values, j * stride + 1, weight, green, sums, base + LANES)
                    add_residual(values, j * stride + 2, weight, blue, sums, base + 2 * LANES)
            picked[at(n)] = j
            through = select(adds, after, select(seen, zero - absolute(through), through))
            if any_lane(adds):
                n += 1
            elif not any_lane(through > zero):
                break
        store(left, pixel, through)
        return n, any_lane(through > zero)

    return textured_weights


@helper
def add_residual(values, place, weight, residual, sums, o):
    """sums += weight times what a residual really adds to a value: no residual makes a colour negative."""
    zero, value = splat(_F(0), LANES), broadcast(values, place, LANES)
    floor = minimum(value, zero)
    added = select(value + residual >= floor, residual, floor - value)
    store(sums, o, fma(weight, added, load(sums, o, LANES)))


plain_weights, tanh_weights = (_weights_kernel(tanh, keep=False) for tanh in (False, True))
"""As ``blocks.block_weights``, with textures; also adds residual colours to ``sums`` from ``base`` on. Without tanh of
every texel, and with it."""

plain_trace, tanh_trace = (_weights_kernel(tanh, keep=True) for tanh in (False, True))
"""The same for gradients: instead of adding residuals they fill, for each contributor, ``trace`` [TRACE * LANES],
``axes`` [AXES] without tanh, ``corners`` [CORNERS] and ``texels`` [TEXELS] with it; all with room for one contributor
more."""


def _forward_kernel(tanh: bool):
    @njit(nogil=True, cache=True)
    def composite_textured(
        share, local, words, offsets, values, channels, width, height, background, constants, row_of, rays, vectors,
        planes, amplitudes, n_planes, resolution, tanh_constants, image, behind, used,
    ):  # fmt: skip
        stride = whole_vectors(channels, 4)
        local_values, members = aligned(BATCH * stride), np.empty(BLOCKS * BATCH, np.int32)
        rows, local_rays = np.empty(BATCH, np.int32), aligned(BATCH * LOCAL_RAYS)
        xs, ys, left = aligned(PIXELS), aligned(PIXELS), aligned(PIXELS)
        corners, texels, shown = aligned(CORNERS), aligned(TEXELS).view(np.int32), aligned_zeros(4 * LANES)
        sums = aligned(PIXELS * stride)
        weights, picked = aligned((BATCH + 1) * LANES), np.empty(BATCH + 1, np.int32)
        sizes, unfinished, unused = np.empty(BLOCKS, np.int64), np.empty(BLOCKS, np.bool_), np.empty(0, _F)
        textured_weights = tanh_weights if tanh else plain_weights
        while True:
            tile = next_piece(share, offsets.shape[0] - 1)
            if tile >= offsets.shape[0] - 1:
                return
            x0, y0 = start_tile(tile, width, height, xs, ys, left)
            sums[:] = _F(0)
            for b in range(BLOCKS):
                unfinished[b] = left[b * LANES] > 0
            entries = 0
            for start in range(offsets[tile], offsets[tile + 1], BATCH):
                stop = min(start + BATCH, offsets[tile + 1])
                gather_values(values, channels, words, start, stop, local_values, stride)
                gather_textured(words, start, stop, x0, y0, row_of, rays, rows, local_rays)
                list_blocks(words, start, stop, BATCH, members, sizes)
                any_unfinished = False
                for b in range(BLOCKS):
                    if not unfinished[b]:
                        continue
                    n, unfinished[b] = textured_weights(
                        local, start, members, b * BATCH, sizes[b], b * LANES, xs, ys, left, constants, rows,
                        local_rays, vectors, planes, amplitudes, n_planes, resolution, tanh_constants, corners, texels,
                        unused, shown, local_values, stride, sums, b * LANES * stride, weights, picked, unused,
                    )  # fmt: skip
                    if n > 0:
                        accumulate(weights, picked, n, local_values, stride, sums, b * LANES * stride)
                        entries = max(entries, start - offsets[tile] + picked[n - 1] + 1)
                    any_unfinished |= unfinished[b]
                if not any_unfinished:
                    break
            used[tile] = entries
            write_tile(sums, left, x0, y0, width, height, channels, stride, background, image, behind)

    return composite_textured


composite_plain, composite_tanh = (_forward_kernel(tanh) for tanh in (False, True))
"""Composite a picture of splats with textures.

Args, beside those of ``composite.composite_forward`` (the first three channels are colours):
    row_of: [N] int32 which texture each splat has, -1 for none.
    rays: [M * RAYS] float64, see ``texture_places``.
    vectors: [M * n_planes * resolution * TEXEL] with tanh, else from ``texture_sampling.tabulate``.
    planes: [M * n_planes] weights of the planes.
    amplitudes: [4] factors on what is read.
    n_planes: 3; or 1, then both vectors of a plane's texel lie side by side, and rays are given so that it is xy.
    resolution: texels on an axis.
    tanh_constants: from ``texture_tanh.tanh_constants``.
"""
