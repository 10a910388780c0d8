# SPDX-License-Identifier: Apache-2.0
"""Where the rays of a block's pixels meet the textures of splats, and the way back; see ``rasterization.textures``."""

import numpy as np

from nts_plugins.kernels.vector_math import fma, select, sum_lanes_of_eight
from nts_plugins.kernels.vectors import LANES, at, broadcast, inlined, load, splat, store

# Columns of ``rasterization.textures.splat_rays``: how rays meet a splat, d x w / d.d.
MEAN_X, MEAN_Y, STEP_X, STEP_Y, CENTRE, TURN_X, TURN_Y = 0, 1, 2, 5, 8, 11, 14
RAYS = 17
REST = RAYS
LOCAL_RAYS = REST + 3
"""Floats that a splat's rays take in a tile: the mean is relative to the tile's corner, and w has a constant, from
``REST`` on."""

OUTSIDE = -2.0
"""The place of pixels beyond the ends of an axis: no texel is near, and the first is not the one after it either."""

_F = np.float32


@inlined
def gather_rays(rays, row, x0, y0, local_rays, j):
    """Copy a splat's rays [RAYS] float64 to entry ``j`` of a tile whose corner is (x0, y0).

    On a thin splat an error of 1e-6 pixels in the mean, which float32 has, becomes 1e-5 standard deviations. The
    constant of w makes up for it.
    """
    o, k = row * RAYS, j * LOCAL_RAYS
    x, y = rays[at(o + MEAN_X)] - x0, rays[at(o + MEAN_Y)] - y0
    local_rays[at(k + MEAN_X)], local_rays[at(k + MEAN_Y)] = _F(x), _F(y)
    more_x, more_y = x - np.float64(_F(x)), y - np.float64(_F(y))
    for c in range(STEP_X, RAYS):
        local_rays[at(k + c)] = _F(rays[at(o + c)])
    for c in range(3):
        local_rays[at(k + REST + c)] = -_F(rays[at(o + TURN_X + c)] * more_x + rays[at(o + TURN_Y + c)] * more_y)


@inlined
def linear(rays, k, step_x, step_y, constant, x, y):
    """x STEP_X + y STEP_Y + CONSTANT, one component of it."""
    rest = fma(broadcast(rays, k + step_y, LANES), y, broadcast(rays, k + constant, LANES))
    return fma(broadcast(rays, k + step_x, LANES), x, rest)


@inlined
def from_ray(rays, k, x, y):
    """d and w, component by component, of pixels at offsets x, y from the centre; see :data:`RAYS`."""
    return (
        linear(rays, k, STEP_X, STEP_Y, CENTRE, x, y),
        linear(rays, k, STEP_X + 1, STEP_Y + 1, CENTRE + 1, x, y),
        linear(rays, k, STEP_X + 2, STEP_Y + 2, CENTRE + 2, x, y),
        linear(rays, k, TURN_X, TURN_Y, REST, x, y),
        linear(rays, k, TURN_X + 1, TURN_Y + 1, REST + 1, x, y),
        linear(rays, k, TURN_X + 2, TURN_Y + 2, REST + 2, x, y),
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
