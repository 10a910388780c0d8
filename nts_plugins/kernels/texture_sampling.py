# SPDX-License-Identifier: Apache-2.0
"""Reading the local textures of splats, and the way back; see ``rasterization.textures`` for what they are.

Where a block's rays meet a splat is found for all pixels at once. Planes that are products of interpolated vectors are
read for all pixels at once too: what a texel weighs in each pixel is a vector, zero for most of them, and interpolating
is a sum over all texels of an axis. There are so few that this costs less than picking two for every pixel. Planes of
tanh are in ``texture_tanh``.
"""

import numpy as np

from nts_plugins.kernels.vector_math import (
    absolute,
    any_lane,
    fma,
    maximum,
    minimum,
    round_down,
    select,
    sum_lanes_of_eight,
)
from nts_plugins.kernels.vector_shapes import first_half, second_half
from nts_plugins.kernels.vectors import LANES, at, broadcast, inlined, load, splat, store

# Columns of ``rasterization.textures.splat_rays``: how rays meet a splat, d x w / d.d.
MEAN_X, MEAN_Y, STEP_X, STEP_Y, CENTRE, TURN_X, TURN_Y = 0, 1, 2, 5, 8, 11, 14
RAYS = 17
LOCAL_RAYS = 20
"""Floats that a splat's rays take in a tile, with the mean relative to the tile's corner."""

TEXEL = 8
"""Floats of a texel of an axis: four channels as the first axis of a plane, four as the second."""
OUTSIDE = -2.0
"""The place of pixels beyond the ends of an axis: no texel is near, and the first is not the one after it either."""

AXES = (3 + 3 * TEXEL) * LANES
"""Floats that the gradient needs of a block's pixels and a texture: the places on the three axes, then both
interpolated vectors of each of them."""

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
def place_on_axis(p, scale, middle, last):
    """Where the points p lie on an axis, in texels."""
    place = fma(p, scale, middle)
    # A sum of squares that overflowed leaves NaN, which no comparison lets in.
    return select((place >= splat(_F(0), LANES)) & (place <= last), place, splat(_F(OUTSIDE), LANES))


@inlined
def places_in_texture(rays, k, x, y, resolution):
    """Where the rays of the pixels x, y meet a splat's texture: the place on each axis, in texels."""
    x, y = x - broadcast(rays, k + MEAN_X, LANES), y - broadcast(rays, k + MEAN_Y, LANES)
    dx, dy, dz, wx, wy, wz = from_ray(rays, k, x, y)
    per_square = splat(_F(1), LANES) / fma(dx, dx, fma(dy, dy, dz * dz))
    last = splat(_F(resolution - 1), LANES)
    scale, middle = last * splat(_F(1.0 / 6.0), LANES) * per_square, last * splat(_F(0.5), LANES)
    return (
        place_on_axis(dy * wz - dz * wy, scale, middle, last),
        place_on_axis(dz * wx - dx * wz, scale, middle, last),
        place_on_axis(dx * wy - dy * wx, scale, middle, last),
    )


@inlined
def read_axis(vectors, base, resolution, place):
    """Both vectors of an axis, eight numbers, interpolated at each pixel's place."""
    zero, one = splat(_F(0), LANES), splat(_F(1), LANES)
    v0, v1, v2, v3, v4, v5, v6, v7 = zero, zero, zero, zero, zero, zero, zero, zero
    for t in range(resolution):
        weight, o = maximum(one - absolute(place - splat(_F(t), LANES)), zero), base + t * TEXEL
        v0, v1 = fma(weight, broadcast(vectors, o, LANES), v0), fma(weight, broadcast(vectors, o + 1, LANES), v1)
        v2, v3 = fma(weight, broadcast(vectors, o + 2, LANES), v2), fma(weight, broadcast(vectors, o + 3, LANES), v3)
        v4, v5 = fma(weight, broadcast(vectors, o + 4, LANES), v4), fma(weight, broadcast(vectors, o + 5, LANES), v5)
        v6, v7 = fma(weight, broadcast(vectors, o + 6, LANES), v6), fma(weight, broadcast(vectors, o + 7, LANES), v7)
    return v0, v1, v2, v3, v4, v5, v6, v7


@inlined
def keep_axis(axes, o, v0, v1, v2, v3, v4, v5, v6, v7):
    store(axes, o, v0)
    store(axes, o + LANES, v1)
    store(axes, o + 2 * LANES, v2)
    store(axes, o + 3 * LANES, v3)
    store(axes, o + 4 * LANES, v4)
    store(axes, o + 5 * LANES, v5)
    store(axes, o + 6 * LANES, v6)
    store(axes, o + 7 * LANES, v7)


@inlined
def sample_products(vectors, base, resolution, px, py, pz, planes, p, axes, n, keep):
    """The texture's four channels at each pixel, without amplitudes; planes are products of interpolated vectors, which
    ``axes`` may ``keep`` for the gradient, as the n-th [AXES]."""
    step, o = resolution * TEXEL, n * AXES
    x0, x1, x2, x3, x4, x5, x6, x7 = read_axis(vectors, base, resolution, px)
    y0, y1, y2, y3, y4, y5, y6, y7 = read_axis(vectors, base + step, resolution, py)
    z0, z1, z2, z3, z4, z5, z6, z7 = read_axis(vectors, base + 2 * step, resolution, pz)
    if keep:
        store(axes, o, px)
        store(axes, o + LANES, py)
        store(axes, o + 2 * LANES, pz)
        keep_axis(axes, o + 3 * LANES, x0, x1, x2, x3, x4, x5, x6, x7)
        keep_axis(axes, o + 11 * LANES, y0, y1, y2, y3, y4, y5, y6, y7)
        keep_axis(axes, o + 19 * LANES, z0, z1, z2, z3, z4, z5, z6, z7)
    xy, yz, zx = broadcast(planes, p, LANES), broadcast(planes, p + 1, LANES), broadcast(planes, p + 2, LANES)
    return (
        fma(x0 * y4, xy, fma(y0 * z4, yz, z0 * x4 * zx)),
        fma(x1 * y5, xy, fma(y1 * z5, yz, z1 * x5 * zx)),
        fma(x2 * y6, xy, fma(y2 * z6, yz, z2 * x6 * zx)),
        fma(x3 * y7, xy, fma(y3 * z7, yz, z3 * x7 * zx)),
    )


def _weighted_16(a, weight):
    return fma(second_half(a), second_half(weight), first_half(a) * first_half(weight))


def _weighted_8(a, weight):
    return a * weight


weighted = inlined(_weighted_16 if LANES == 16 else _weighted_8)
"""a times its weights, as eight lanes of the same sum: multiplying the second half of sixteen folds them too."""


@inlined
def pull_axis(vectors, base, resolution, place, grads, to, moves, g0, g1, g2, g3, g4, g5, g6, g7):
    """The gradient of :func:`read_axis`: adds those of the texels to ``grads`` from ``to`` on, and returns that of the
    place, in texels, where the point ``moves``."""
    zero, one = splat(_F(0), LANES), splat(_F(1), LANES)
    low, slope = minimum(round_down(place), splat(_F(resolution - 2), LANES)), zero
    for t in range(resolution):
        texel = splat(_F(t), LANES)
        lower, upper = low == texel, low == texel - one
        if any_lane(lower | upper):
            weight, o = maximum(one - absolute(place - texel), zero), to + t * TEXEL
            sums = sum_lanes_of_eight(
                weighted(g0, weight), weighted(g1, weight), weighted(g2, weight), weighted(g3, weight),
                weighted(g4, weight), weighted(g5, weight), weighted(g6, weight), weighted(g7, weight),
            )  # fmt: skip
            store(grads, o, load(grads, o, TEXEL) + sums)
            if moves:
                o = base + t * TEXEL
                even = fma(g0, broadcast(vectors, o, LANES), g2 * broadcast(vectors, o + 2, LANES))
                odd = fma(g1, broadcast(vectors, o + 1, LANES), g3 * broadcast(vectors, o + 3, LANES))
                even = fma(g4, broadcast(vectors, o + 4, LANES), even)
                odd = fma(g5, broadcast(vectors, o + 5, LANES), odd)
                even = fma(g6, broadcast(vectors, o + 6, LANES), even)
                here = even + fma(g7, broadcast(vectors, o + 7, LANES), odd)
                slope = slope + select(upper, here, select(lower, zero - here, zero))
    return slope


@inlined
def pull_products(
    vectors, base, resolution, planes, p, axes, n, red, green, blue, opacity, grads, place, slopes, moves
):  # fmt: skip
    """The gradient of :func:`sample_products`.

    Adds those of texels to ``grads`` from ``place`` on, writes those of the place on each axis to ``slopes`` (0 unless
    the point ``moves``), and returns those of the planes' weights, pixel by pixel.
    """
    step, o = resolution * TEXEL, n * AXES
    x, y, z = o + 3 * LANES, o + 11 * LANES, o + 19 * LANES
    xy, yz, zx = broadcast(planes, p, LANES), broadcast(planes, p + 1, LANES), broadcast(planes, p + 2, LANES)
    # Plane xy is the product of the first vector of x and the second of y, and so on around.
    red_xy, green_xy, blue_xy, opacity_xy = red * xy, green * xy, blue * xy, opacity * xy
    red_yz, green_yz, blue_yz, opacity_yz = red * yz, green * yz, blue * yz, opacity * yz
    red_zx, green_zx, blue_zx, opacity_zx = red * zx, green * zx, blue * zx, opacity * zx
    x0, x1, x2, x3 = four_kept(axes, x)
    y4, y5, y6, y7 = four_kept(axes, y + 4 * LANES)
    of_xy = fma(red * x0, y4, fma(green * x1, y5, fma(blue * x2, y6, opacity * x3 * y7)))
    z0, z1, z2, z3 = four_kept(axes, z)
    slope = pull_axis(
        vectors, base, resolution, load(axes, o, LANES), grads, place, moves,
        red_xy * y4, green_xy * y5, blue_xy * y6, opacity_xy * y7,
        red_zx * z0, green_zx * z1, blue_zx * z2, opacity_zx * z3,
    )  # fmt: skip
    store(slopes, 0, slope)
    z4, z5, z6, z7 = four_kept(axes, z + 4 * LANES)
    y0, y1, y2, y3 = four_kept(axes, y)
    of_yz = fma(red * y0, z4, fma(green * y1, z5, fma(blue * y2, z6, opacity * y3 * z7)))
    slope = pull_axis(
        vectors, base + step, resolution, load(axes, o + LANES, LANES), grads, place + step, moves,
        red_yz * z4, green_yz * z5, blue_yz * z6, opacity_yz * z7,
        red_xy * x0, green_xy * x1, blue_xy * x2, opacity_xy * x3,
    )  # fmt: skip
    store(slopes, LANES, slope)
    x4, x5, x6, x7 = four_kept(axes, x + 4 * LANES)
    of_zx = fma(red * z0, x4, fma(green * z1, x5, fma(blue * z2, x6, opacity * z3 * x7)))
    slope = pull_axis(
        vectors, base + 2 * step, resolution, load(axes, o + 2 * LANES, LANES), grads, place + 2 * step, moves,
        red_zx * x4, green_zx * x5, blue_zx * x6, opacity_zx * x7,
        red_yz * y0, green_yz * y1, blue_yz * y2, opacity_yz * y3,
    )  # fmt: skip
    store(slopes, 2 * LANES, slope)
    return of_xy, of_yz, of_zx


@inlined
def four_kept(axes, o):
    """Four vectors from ``o`` on."""
    return (
        load(axes, o, LANES),
        load(axes, o + LANES, LANES),
        load(axes, o + 2 * LANES, LANES),
        load(axes, o + 3 * LANES, LANES),
    )


@inlined
def add_ray_gradients(rays, k, x, y, slopes, resolution, grads, place):
    """Add what the gradients ``slopes`` [3 * LANES] of a block's places mean to a splat's rays, see :data:`RAYS`; that
    of the last column is returned instead, pixel by pixel."""
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
    return gz * y
