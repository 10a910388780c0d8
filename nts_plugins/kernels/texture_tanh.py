# SPDX-License-Identifier: Apache-2.0
"""Reading textures whose planes are tanh of products, texel by texel, and the way back.

Between texels such a plane is no product of sums over the texels of two axes. So texels are read pixel by pixel: the
four channels of the four around a point fill the lanes of one tanh.
"""

import numpy as np

from nts_plugins.kernels.texture_sampling import TEXEL
from nts_plugins.kernels.vector_math import (
    fma,
    hyperbolic_tangent_of,
    maximum,
    minimum,
    round_down,
    select,
    sum_lanes,
    to_int,
)
from nts_plugins.kernels.vector_shapes import first_half, join, second_half
from nts_plugins.kernels.vectors import LANES, at, broadcast, inlined, load, splat, store

_F = np.float32

WIDE = 16
"""Lanes of a tanh: four channels of four texels."""

# What is kept of a block's pixels and a texture: for each axis the weights of the lower and of the upper texel, and
# (int32) the lower texel.
LOW, HIGH = 0, 3 * LANES
CORNERS = 6 * LANES
TEXELS = 3 * LANES


@inlined
def corners_on_axis(place, axis, resolution, corners, texels, n):
    """:func:`find_corners` on one axis."""
    zero, one = splat(_F(0), LANES), splat(_F(1), LANES)
    low = minimum(maximum(round_down(place), zero), splat(_F(resolution - 2), LANES))
    inside, high = place >= zero, place - low
    store(corners, n * CORNERS + LOW + axis * LANES, select(inside, one - high, zero))
    store(corners, n * CORNERS + HIGH + axis * LANES, select(inside, high, zero))
    store(texels, n * TEXELS + axis * LANES, to_int(low))


@inlined
def find_corners(px, py, pz, resolution, corners, texels, n):
    """Between which texels the places lie; ``corners`` gets those of the lower and the upper texel on each axis, 0
    outside, ``texels`` int32 the lower one, both as the n-th of their kind."""
    corners_on_axis(px, 0, resolution, corners, texels, n)
    corners_on_axis(py, 1, resolution, corners, texels, n)
    corners_on_axis(pz, 2, resolution, corners, texels, n)


@inlined
def four_times(a):
    return join(join(a, a), join(a, a))


hyperbolic_tangent = hyperbolic_tangent_of(WIDE)


@inlined
def first_ends(vectors, base, axis, lane, n, texels):
    """[WIDE] the two texels of an axis, which begins at ``base``, as the first one of a plane: lower, lower, upper,
    upper."""
    o = base + np.int64(texels[at(n * TEXELS + axis * LANES + lane)]) * TEXEL
    low, high = load(vectors, o, 4), load(vectors, o + TEXEL, 4)
    return join(join(low, low), join(high, high))


@inlined
def second_ends(vectors, base, axis, lane, n, texels):
    """[WIDE] the same as the second one of a plane: lower, upper, lower, upper."""
    o = base + np.int64(texels[at(n * TEXELS + axis * LANES + lane)]) * TEXEL + 4
    pair = join(load(vectors, o, 4), load(vectors, o + TEXEL, 4))
    return join(pair, pair)


@inlined
def corner_weights(axis, after, lane, n, corners):
    """[WIDE] the bilinear weights of the four texels around a pixel's place in a plane."""
    low = join(
        broadcast(corners, n * CORNERS + LOW + axis * LANES + lane, TEXEL),
        broadcast(corners, n * CORNERS + HIGH + axis * LANES + lane, TEXEL),
    )
    pair = join(
        broadcast(corners, n * CORNERS + LOW + after * LANES + lane, 4),
        broadcast(corners, n * CORNERS + HIGH + after * LANES + lane, 4),
    )
    return low * join(pair, pair)


@inlined
def sum_corners(a):
    """[4] the sum over four texels of [WIDE] lanes."""
    pair = first_half(a) + second_half(a)
    return first_half(pair) + second_half(pair)


@inlined
def sample_tanh(vectors, base, n_planes, resolution, lane, n, corners, texels, planes, p, constants):
    """[4] the texture at a pixel, without amplitudes; planes are tanh of products, then interpolated."""
    step, total = resolution * TEXEL if n_planes == 3 else 0, splat(_F(0), 4)
    for axis in range(n_planes):
        after = axis + 1 if axis < 2 else 0
        product = first_ends(vectors, base + axis * step, axis, lane, n, texels) * second_ends(
            vectors, base + after * step, after, lane, n, texels
        )
        plane = hyperbolic_tangent(product, constants) * corner_weights(axis, after, lane, n, corners)
        total = fma(sum_corners(plane), broadcast(planes, p + axis, 4), total)
    return total


def tanh_constants(power_table: np.ndarray) -> np.ndarray:
    """What :func:`hyperbolic_tangent` reads, from ``vector_math.power_table``, in as many lanes as it has."""
    return np.repeat(power_table[::LANES], WIDE)


@inlined
def add_four(grads, o, grad):
    store(grads, o, load(grads, o, 4) + grad)


@inlined
def pull_tanh_plane(
    vectors, base, step, axis, after, lane, n, corners, texels, weight, grad, grads, place, slopes, moves, constants
):  # fmt: skip
    """One plane's part of the gradient of :func:`sample_tanh`; returns [4] that of the plane's weight."""
    first = first_ends(vectors, base + axis * step, axis, lane, n, texels)
    second = second_ends(vectors, base + after * step, after, lane, n, texels)
    plane = hyperbolic_tangent(first * second, constants)
    bilinear, one = corner_weights(axis, after, lane, n, corners), splat(_F(1), WIDE)
    grad_product = four_times(grad * weight) * bilinear * (one - plane * plane)
    grad_first, grad_second = grad_product * second, grad_product * first
    o = place + axis * step + np.int64(texels[at(n * TEXELS + axis * LANES + lane)]) * TEXEL
    low, high = first_half(grad_first), second_half(grad_first)
    add_four(grads, o, first_half(low) + second_half(low))
    add_four(grads, o + TEXEL, first_half(high) + second_half(high))
    o = place + after * step + np.int64(texels[at(n * TEXELS + after * LANES + lane)]) * TEXEL + 4
    pair = first_half(grad_second) + second_half(grad_second)
    add_four(grads, o, first_half(pair))
    add_four(grads, o + TEXEL, second_half(pair))
    if moves:
        up, down = second_half(plane), first_half(plane)
        low_a, high_a = (
            corners[at(n * CORNERS + LOW + axis * LANES + lane)],
            corners[at(n * CORNERS + HIGH + axis * LANES + lane)],
        )
        low_b, high_b = (
            corners[at(n * CORNERS + LOW + after * LANES + lane)],
            corners[at(n * CORNERS + HIGH + after * LANES + lane)],
        )
        scaled = grad * weight
        along = (up - down) * join(splat(low_b, 4), splat(high_b, 4))
        slope = (low_a + high_a) * sum_lanes(scaled * (first_half(along) + second_half(along)))
        slopes[at(axis * LANES + lane)] += slope
        across = down * splat(low_a, TEXEL) + up * splat(high_a, TEXEL)
        slope = (low_b + high_b) * sum_lanes(scaled * (second_half(across) - first_half(across)))
        slopes[at(after * LANES + lane)] += slope
    return grad * sum_corners(plane * bilinear)


@inlined
def pull_tanh(
    vectors, base, n_planes, resolution, lane, n, corners, texels, planes, p, grad, grads, place, slopes, moves,
    constants, s0, s1, s2,
):  # fmt: skip
    """The gradient of :func:`sample_tanh` in one pixel.

    Adds those of texels to ``grads`` from ``place`` on, those of the place on each axis to ``slopes`` where the point
    ``moves``, and returns [4] each of s0, s1, s2 with those of the planes' weights added.
    """
    step = resolution * TEXEL if n_planes == 3 else 0
    s0 = s0 + pull_tanh_plane(
        vectors, base, step, 0, 1, lane, n, corners, texels, broadcast(planes, p, 4), grad, grads, place, slopes, moves,
        constants,
    )  # fmt: skip
    if n_planes == 1:
        return s0, s1, s2
    yz = pull_tanh_plane(
        vectors, base, step, 1, 2, lane, n, corners, texels, broadcast(planes, p + 1, 4), grad, grads, place, slopes,
        moves, constants,
    )  # fmt: skip
    zx = pull_tanh_plane(
        vectors, base, step, 2, 0, lane, n, corners, texels, broadcast(planes, p + 2, 4), grad, grads, place, slopes,
        moves, constants,
    )  # fmt: skip
    return s0, s1 + yz, s2 + zx
