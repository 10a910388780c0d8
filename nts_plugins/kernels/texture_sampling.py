# SPDX-License-Identifier: Apache-2.0
"""Reading the local textures of splats, and the way back; see ``rasterization.textures`` for what they are.

Where a block's rays meet a splat is found for all pixels at once. Texels are then read pixel by pixel: neighbouring
pixels read other texels, and the four channels, along both axes of a plane, fill the lanes just as well.
"""

import numpy as np

from nts_plugins.kernels.vector_math import (
    fma,
    hyperbolic_tangent_of,
    maximum,
    minimum,
    round_down,
    select,
    sum_lanes,
    sum_lanes_of_eight,
    to_int,
)
from nts_plugins.kernels.vector_shapes import first_half, join, second_half
from nts_plugins.kernels.vectors import LANES, at, broadcast, inlined, load, splat, store

# Columns of ``rasterization.textures.splat_rays``: how rays meet a splat, d x w / d.d.
MEAN_X, MEAN_Y, STEP_X, STEP_Y, CENTRE, TURN_X, TURN_Y = 0, 1, 2, 5, 8, 11, 14
RAYS = 17
LOCAL_RAYS = 20
"""Floats that a splat's rays take in a tile, with the mean relative to the tile's corner."""

TEXEL = 8
"""Floats of a texel of an axis: four channels as the first axis of a plane, four as the second."""
WIDE = 16
"""Lanes of a tanh: four channels of four texels."""

# Where a block's pixels lie in a texture: for each axis the weights of the lower and of the upper texel, and (int32)
# the lower texel.
LOW, HIGH = 0, 3 * LANES
PLACES = 6 * LANES
TEXELS = 3 * LANES
AXES = 3 * TEXEL * LANES
"""Floats of a block's interpolated vectors, pixel by pixel."""

_F = np.float32


@inlined
def gather_rays(rays, row, x0, y0, local_rays, j):
    """Copy a splat's rays [RAYS] float64 to entry ``j`` of a tile whose corner is (x0, y0)."""
    local_rays[at(j * LOCAL_RAYS + MEAN_X)] = _F(rays[at(row * RAYS + MEAN_X)] - x0)
    local_rays[at(j * LOCAL_RAYS + MEAN_Y)] = _F(rays[at(row * RAYS + MEAN_Y)] - y0)
    for c in range(STEP_X, RAYS):
        local_rays[at(j * LOCAL_RAYS + c)] = _F(rays[at(row * RAYS + c)])


@inlined
def linear(rays, k, step_x, step_y, x, y):
    """x STEP_X + y STEP_Y, one component of it."""
    return fma(broadcast(rays, k + step_x, LANES), x, broadcast(rays, k + step_y, LANES) * y)


@inlined
def from_ray(rays, k, x, y):
    """d and w, component by component, of pixels at offsets x, y from the centre; see :data:`RAYS`."""
    return (
        linear(rays, k, STEP_X, STEP_Y, x, y) + broadcast(rays, k + CENTRE, LANES),
        linear(rays, k, STEP_X + 1, STEP_Y + 1, x, y) + broadcast(rays, k + CENTRE + 1, LANES),
        linear(rays, k, STEP_X + 2, STEP_Y + 2, x, y) + broadcast(rays, k + CENTRE + 2, LANES),
        linear(rays, k, TURN_X, TURN_Y, x, y),
        linear(rays, k, TURN_X + 1, TURN_Y + 1, x, y),
        linear(rays, k, TURN_X + 2, TURN_Y + 2, x, y),
    )


@inlined
def place_on_axis(p, axis, scale, middle, last, weights, texels, n):
    """Between which texels of an axis the points p lie; weights are 0 outside."""
    zero, one = splat(_F(0), LANES), splat(_F(1), LANES)
    place = fma(p, scale, middle)
    # A sum of squares that overflowed leaves NaN, which no comparison lets in.
    inside = (place >= zero) & (place <= last)
    low = minimum(maximum(round_down(place), zero), last - one)
    high = place - low
    store(weights, n * PLACES + LOW + axis * LANES, select(inside, one - high, zero))
    store(weights, n * PLACES + HIGH + axis * LANES, select(inside, high, zero))
    store(texels, n * TEXELS + axis * LANES, to_int(low))


@inlined
def place_in_texture(rays, k, x, y, resolution, weights, texels, n):
    """Where the rays of the pixels x, y meet a splat's texture.

    ``weights`` gets those of the lower and the upper texel on each axis, ``texels`` int32 the lower one, both as the
    n-th of their kind.
    """
    x, y = x - broadcast(rays, k + MEAN_X, LANES), y - broadcast(rays, k + MEAN_Y, LANES)
    dx, dy, dz, wx, wy, wz = from_ray(rays, k, x, y)
    per_square = splat(_F(1), LANES) / fma(dx, dx, fma(dy, dy, dz * dz))
    last = splat(_F(resolution - 1), LANES)
    scale, middle = last * splat(_F(1.0 / 6.0), LANES) * per_square, last * splat(_F(0.5), LANES)
    place_on_axis(dy * wz - dz * wy, 0, scale, middle, last, weights, texels, n)
    place_on_axis(dz * wx - dx * wz, 1, scale, middle, last, weights, texels, n)
    place_on_axis(dx * wy - dy * wx, 2, scale, middle, last, weights, texels, n)


@inlined
def lerp_axis(vectors, base, axis, lane, n, weights, texels):
    """Both vectors of an axis [8], interpolated at a pixel."""
    o = base + np.int64(texels[at(n * TEXELS + axis * LANES + lane)]) * TEXEL
    low = load(vectors, o, TEXEL) * broadcast(weights, n * PLACES + LOW + axis * LANES + lane, TEXEL)
    return fma(load(vectors, o + TEXEL, TEXEL), broadcast(weights, n * PLACES + HIGH + axis * LANES + lane, TEXEL), low)


@inlined
def sample_products(vectors, base, resolution, lane, n, weights, texels, planes, p, axes, keep):
    """[4] the texture at a pixel, without amplitudes; planes are products of interpolated vectors, which ``axes`` may
    ``keep`` for the gradient, as the n-th [AXES]."""
    step = resolution * TEXEL
    x = lerp_axis(vectors, base, 0, lane, n, weights, texels)
    y = lerp_axis(vectors, base + step, 1, lane, n, weights, texels)
    z = lerp_axis(vectors, base + 2 * step, 2, lane, n, weights, texels)
    if keep:
        o = (n * LANES + lane) * 3 * TEXEL
        store(axes, o, x)
        store(axes, o + TEXEL, y)
        store(axes, o + 2 * TEXEL, z)
    total = first_half(x) * second_half(y) * broadcast(planes, p, 4)
    total = fma(first_half(y) * second_half(z), broadcast(planes, p + 1, 4), total)
    return fma(first_half(z) * second_half(x), broadcast(planes, p + 2, 4), total)


@inlined
def add_to_axis(grads, base, axis, lane, n, weights, texels, grad):
    """Share out the gradient [8] of an axis' interpolated vectors to its two texels."""
    o = base + np.int64(texels[at(n * TEXELS + axis * LANES + lane)]) * TEXEL
    low, high = (
        broadcast(weights, n * PLACES + LOW + axis * LANES + lane, TEXEL),
        broadcast(weights, n * PLACES + HIGH + axis * LANES + lane, TEXEL),
    )
    store(grads, o, fma(grad, low, load(grads, o, TEXEL)))
    store(grads, o + TEXEL, fma(grad, high, load(grads, o + TEXEL, TEXEL)))


@inlined
def slope_of_axis(vectors, base, axis, lane, n, weights, texels, grad):
    """The gradient of the place on an axis, in texels."""
    o = base + np.int64(texels[at(n * TEXELS + axis * LANES + lane)]) * TEXEL
    inside = weights[at(n * PLACES + LOW + axis * LANES + lane)] + weights[at(n * PLACES + HIGH + axis * LANES + lane)]
    return inside * sum_lanes(grad * (load(vectors, o + TEXEL, TEXEL) - load(vectors, o, TEXEL)))


# --- tanh of every texel -------------------------------------------------------------------------------------------


@inlined
def four_times(a):
    return join(join(a, a), join(a, a))


hyperbolic_tangent = hyperbolic_tangent_of(WIDE)


@inlined
def first_ends(vectors, base, step, axis, lane, n, texels):
    """[WIDE] the two texels of an axis as the first one of a plane: lower, lower, upper, upper."""
    o = base + axis * step + np.int64(texels[at(n * TEXELS + axis * LANES + lane)]) * TEXEL
    low, high = load(vectors, o, 4), load(vectors, o + TEXEL, 4)
    return join(join(low, low), join(high, high))


@inlined
def second_ends(vectors, base, step, axis, lane, n, texels):
    """[WIDE] the two texels of an axis as the second one of a plane: lower, upper, lower, upper."""
    o = base + axis * step + np.int64(texels[at(n * TEXELS + axis * LANES + lane)]) * TEXEL + 4
    pair = join(load(vectors, o, 4), load(vectors, o + TEXEL, 4))
    return join(pair, pair)


@inlined
def corner_weights(axis, after, lane, n, weights):
    """[WIDE] the bilinear weights of the four texels around a pixel's place in a plane."""
    low = join(
        broadcast(weights, n * PLACES + LOW + axis * LANES + lane, TEXEL),
        broadcast(weights, n * PLACES + HIGH + axis * LANES + lane, TEXEL),
    )
    pair = join(
        broadcast(weights, n * PLACES + LOW + after * LANES + lane, 4),
        broadcast(weights, n * PLACES + HIGH + after * LANES + lane, 4),
    )
    return low * join(pair, pair)


@inlined
def sum_corners(a):
    """[4] the sum over four texels of [WIDE] lanes."""
    pair = first_half(a) + second_half(a)
    return first_half(pair) + second_half(pair)


@inlined
def sample_tanh(vectors, base, resolution, lane, n, weights, texels, planes, p, constants):
    """[4] the texture at a pixel, without amplitudes; planes are tanh of products, then interpolated."""
    step, total = resolution * TEXEL, splat(_F(0), 4)
    for axis in range(3):
        after = axis + 1 if axis < 2 else 0
        product = first_ends(vectors, base, step, axis, lane, n, texels) * second_ends(
            vectors, base, step, after, lane, n, texels
        )
        plane = hyperbolic_tangent(product, constants) * corner_weights(axis, after, lane, n, weights)
        total = fma(sum_corners(plane), broadcast(planes, p + axis, 4), total)
    return total


def tanh_constants(power_table: np.ndarray) -> np.ndarray:
    """What :func:`hyperbolic_tangent` reads, from ``vector_math.power_table``, in as many lanes as it has."""
    return np.repeat(power_table[::LANES], WIDE)


# --- the way back --------------------------------------------------------------------------------------------------


@inlined
def pull_products(
    vectors, base, resolution, lane, n, weights, texels, planes, p, axes, grad, grads, place, slopes, moves, s0, s1, s2
):  # fmt: skip
    """The gradient of :func:`sample_products`.

    Adds those of texels to ``grads`` from ``place`` on, writes those of the place on each axis, in texels, to
    ``slopes`` where the point ``moves``, and returns [4] each of s0, s1, s2 with those of the planes' weights added.
    """
    step = resolution * TEXEL
    o = (n * LANES + lane) * 3 * TEXEL
    x, y, z = load(axes, o, TEXEL), load(axes, o + TEXEL, TEXEL), load(axes, o + 2 * TEXEL, TEXEL)
    x0, x1, y0, y1 = first_half(x), second_half(x), first_half(y), second_half(y)
    z0, z1 = first_half(z), second_half(z)
    xy, yz = grad * broadcast(planes, p, 4), grad * broadcast(planes, p + 1, 4)
    zx = grad * broadcast(planes, p + 2, 4)
    grad_x, grad_y, grad_z = join(xy * y1, zx * z0), join(yz * z1, xy * x0), join(zx * x1, yz * y0)
    add_to_axis(grads, place, 0, lane, n, weights, texels, grad_x)
    add_to_axis(grads, place + step, 1, lane, n, weights, texels, grad_y)
    add_to_axis(grads, place + 2 * step, 2, lane, n, weights, texels, grad_z)
    if moves:
        slopes[at(lane)] = slope_of_axis(vectors, base, 0, lane, n, weights, texels, grad_x)
        slopes[at(LANES + lane)] = slope_of_axis(vectors, base + step, 1, lane, n, weights, texels, grad_y)
        slopes[at(2 * LANES + lane)] = slope_of_axis(vectors, base + 2 * step, 2, lane, n, weights, texels, grad_z)
    return fma(grad, x0 * y1, s0), fma(grad, y0 * z1, s1), fma(grad, z0 * x1, s2)


@inlined
def add_four(grads, o, grad):
    store(grads, o, load(grads, o, 4) + grad)


@inlined
def pull_tanh_plane(
    vectors, base, step, axis, after, lane, n, weights, texels, weight, grad, grads, place, slopes, moves, constants
):  # fmt: skip
    """One plane's part of the gradient of :func:`sample_tanh`; returns [4] that of the plane's weight."""
    first = first_ends(vectors, base, step, axis, lane, n, texels)
    second = second_ends(vectors, base, step, after, lane, n, texels)
    plane = hyperbolic_tangent(first * second, constants)
    corners, one = corner_weights(axis, after, lane, n, weights), splat(_F(1), WIDE)
    grad_product = four_times(grad * weight) * corners * (one - plane * plane)
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
            weights[at(n * PLACES + LOW + axis * LANES + lane)],
            weights[at(n * PLACES + HIGH + axis * LANES + lane)],
        )
        low_b, high_b = (
            weights[at(n * PLACES + LOW + after * LANES + lane)],
            weights[at(n * PLACES + HIGH + after * LANES + lane)],
        )
        scaled = grad * weight
        along = (up - down) * join(splat(low_b, 4), splat(high_b, 4))
        slope = (low_a + high_a) * sum_lanes(scaled * (first_half(along) + second_half(along)))
        slopes[at(axis * LANES + lane)] += slope
        across = down * splat(low_a, TEXEL) + up * splat(high_a, TEXEL)
        slope = (low_b + high_b) * sum_lanes(scaled * (second_half(across) - first_half(across)))
        slopes[at(after * LANES + lane)] += slope
    return grad * sum_corners(plane * corners)


@inlined
def pull_tanh(
    vectors, base, resolution, lane, n, weights, texels, planes, p, grad, grads, place, slopes, moves, constants,
    s0, s1, s2,
):  # fmt: skip
    """The gradient of :func:`sample_tanh`, as :func:`pull_products`; adds to ``slopes``."""
    step = resolution * TEXEL
    xy = pull_tanh_plane(
        vectors, base, step, 0, 1, lane, n, weights, texels, broadcast(planes, p, 4), grad, grads, place, slopes, moves,
        constants,
    )  # fmt: skip
    yz = pull_tanh_plane(
        vectors, base, step, 1, 2, lane, n, weights, texels, broadcast(planes, p + 1, 4), grad, grads, place, slopes,
        moves, constants,
    )  # fmt: skip
    zx = pull_tanh_plane(
        vectors, base, step, 2, 0, lane, n, weights, texels, broadcast(planes, p + 2, 4), grad, grads, place, slopes,
        moves, constants,
    )  # fmt: skip
    return s0 + xy, s1 + yz, s2 + zx


@inlined
def add_ray_gradients(rays, k, x, y, slopes, resolution, grads, place):
    """Add what the gradients ``slopes`` [3 * LANES] of a block's places mean to a splat's rays, see :data:`RAYS`."""
    zero, per_sigma = splat(_F(0), LANES), splat(_F((resolution - 1) / 6.0), LANES)
    x, y = x - broadcast(rays, k + MEAN_X, LANES), y - broadcast(rays, k + MEAN_Y, LANES)
    dx, dy, dz, wx, wy, wz = from_ray(rays, k, x, y)
    per_square = splat(_F(1), LANES) / fma(dx, dx, fma(dy, dy, dz * dz))
    scale = per_sigma * per_square
    px, py, pz = (
        load(slopes, 0, LANES) * scale,
        load(slopes, LANES, LANES) * scale,
        load(slopes, 2 * LANES, LANES) * scale,
    )
    # p = d x w / d.d. Of a product a x b the gradients are b x g and g x a; the quotient's is -2 (g.p) d / d.d.
    gx, gy, gz = py * dz - pz * dy, pz * dx - px * dz, px * dy - py * dx
    cx, cy, cz = wy * pz - wz * py, wz * px - wx * pz, wx * py - wy * px
    shrink = fma(px, dy * wz - dz * wy, fma(py, dz * wx - dx * wz, pz * (dx * wy - dy * wx))) * per_square
    shrink = shrink + shrink
    cx, cy, cz = cx - shrink * dx, cy - shrink * dy, cz - shrink * dz
    mean_x = fma(cx, broadcast(rays, k + STEP_X, LANES), gx * broadcast(rays, k + TURN_X, LANES))
    mean_x = fma(cy, broadcast(rays, k + STEP_X + 1, LANES), fma(gy, broadcast(rays, k + TURN_X + 1, LANES), mean_x))
    mean_x = fma(cz, broadcast(rays, k + STEP_X + 2, LANES), fma(gz, broadcast(rays, k + TURN_X + 2, LANES), mean_x))
    mean_y = fma(cx, broadcast(rays, k + STEP_Y, LANES), gx * broadcast(rays, k + TURN_Y, LANES))
    mean_y = fma(cy, broadcast(rays, k + STEP_Y + 1, LANES), fma(gy, broadcast(rays, k + TURN_Y + 1, LANES), mean_y))
    mean_y = fma(cz, broadcast(rays, k + STEP_Y + 2, LANES), fma(gz, broadcast(rays, k + TURN_Y + 2, LANES), mean_y))
    sums = sum_lanes_of_eight(zero - mean_x, zero - mean_y, cx * x, cy * x, cz * x, cx * y, cy * y, cz * y)
    store(grads, place, load(grads, place, 8) + sums)
    sums = sum_lanes_of_eight(cx, cy, cz, gx * x, gy * x, gz * x, gx * y, gy * y)
    store(grads, place + 8, load(grads, place + 8, 8) + sums)
    grads[at(place + 16)] += sum_lanes(gz * y)
