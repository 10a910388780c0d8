# SPDX-License-Identifier: Apache-2.0
"""Reading the local textures of splats, and the way back; see ``rasterization.textures`` for what they are.

Planes that are products of interpolated vectors are read for all pixels of a block at once: an axis has so few texels
that they fill one vector, out of which an instruction picks each pixel's two. Where there is none, or there are more
texels, interpolating is a sum over all of them, weighted by vectors that are zero in most pixels. Planes of tanh are in
``texture_tanh``.
"""

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.records import PIECE
from nts_plugins.kernels.vector_math import (
    absolute,
    fma,
    largest_lane,
    least_lane,
    maximum,
    minimum,
    round_down,
    select,
    sum_lanes_of_eight,
    to_int,
)
from nts_plugins.kernels.vector_shapes import first_half, pick_lanes, second_half
from nts_plugins.kernels.vectors import LANES, PERMUTES, at, broadcast, inlined, load, splat, store

PER_VECTOR = 4
"""Channels."""
TEXEL = 2 * PER_VECTOR
"""Floats of a texel of an axis: four channels as the first axis of a plane, four as the second."""
AXES = (3 + 3 * TEXEL) * LANES
"""Floats that the gradient needs of a block's pixels and a texture: the places on the three axes, then both
interpolated vectors of each plane."""

_F = np.float32


@njit()
def table_width(resolution):
    """Floats that a channel of an axis takes in the tables of :func:`tabulate`: whole vectors."""
    return (resolution + LANES - 1) // LANES * LANES


@njit(nogil=True, cache=True)
def tabulate(share, vectors, resolution, tables):
    """Put the texels of an axis side by side, channel by channel.

    Args:
        share: of the work, see ``pieces``.
        vectors: [axes * resolution * TEXEL].
        resolution: texels on an axis.
        tables: [axes * TEXEL * table_width(resolution)] written.
    """
    width, size = table_width(resolution), resolution * TEXEL
    axes = vectors.shape[0] // size
    while True:
        start = next_piece(share, pieces_of(axes, PIECE)) * PIECE
        if start >= axes:
            return
        for axis in range(start, min(axes, start + PIECE)):
            for c in range(TEXEL):
                o = (axis * TEXEL + c) * width
                for t in range(width):
                    tables[at(o + t)] = vectors[at(axis * size + t * TEXEL + c)] if t < resolution else _F(0)


@inlined
def lower_texel(place, resolution):
    """The texel below a place, a float; outside it is the first one."""
    return minimum(maximum(round_down(place), splat(_F(0), LANES)), splat(_F(resolution - 2), LANES))


@inlined
def channel_between(tables, o, low, high, part):
    """One channel, ``part`` of the way from the texels ``low`` to ``high``."""
    row = load(tables, o, LANES)
    below = pick_lanes(row, low)
    return fma(part, pick_lanes(row, high) - below, below)


@inlined
def read_by_picking(tables, base, width, resolution, place):
    below = lower_texel(place, resolution)
    part, low = place - below, to_int(below)
    high = low + splat(np.int32(1), LANES)
    return (
        channel_between(tables, base, low, high, part),
        channel_between(tables, base + width, low, high, part),
        channel_between(tables, base + 2 * width, low, high, part),
        channel_between(tables, base + 3 * width, low, high, part),
    )


@inlined
def read_by_weighing(tables, base, width, resolution, place):
    zero, one = splat(_F(0), LANES), splat(_F(1), LANES)
    v0, v1, v2, v3 = zero, zero, zero, zero
    for t in range(resolution):
        weight, o = maximum(one - absolute(place - splat(_F(t), LANES)), zero), base + t
        v0, v1 = fma(weight, broadcast(tables, o, LANES), v0), fma(weight, broadcast(tables, o + width, LANES), v1)
        v2 = fma(weight, broadcast(tables, o + 2 * width, LANES), v2)
        v3 = fma(weight, broadcast(tables, o + 3 * width, LANES), v3)
    return v0, v1, v2, v3


@inlined
def _pick_or_weigh(tables, base, width, resolution, place):
    if width == LANES:
        return read_by_picking(tables, base, width, resolution, place)
    return read_by_weighing(tables, base, width, resolution, place)


read_vector = _pick_or_weigh if PERMUTES else read_by_weighing
"""Four channels of an axis, which begins at ``base``, interpolated at each pixel's place; any numbers outside."""


@inlined
def channel_rise(tables, o, low, high):
    row = load(tables, o, LANES)
    return pick_lanes(row, high) - pick_lanes(row, low)


@inlined
def slope_by_picking(tables, base, width, resolution, place, g0, g1, g2, g3):
    low = to_int(lower_texel(place, resolution))
    high = low + splat(np.int32(1), LANES)
    even = fma(g0, channel_rise(tables, base, low, high), g2 * channel_rise(tables, base + 2 * width, low, high))
    odd = fma(g1, channel_rise(tables, base + width, low, high), g3 * channel_rise(tables, base + 3 * width, low, high))
    return even + odd


@inlined
def slope_by_weighing(tables, base, width, resolution, place, g0, g1, g2, g3):
    slope, zero = splat(_F(0), LANES), splat(_F(0), LANES)
    low = lower_texel(place, resolution)
    for t in range(resolution):
        o = base + t
        here = fma(g0, broadcast(tables, o, LANES), g1 * broadcast(tables, o + width, LANES))
        here = fma(g2, broadcast(tables, o + 2 * width, LANES), here)
        here = fma(g3, broadcast(tables, o + 3 * width, LANES), here)
        upper, lower = low == splat(_F(t - 1), LANES), low == splat(_F(t), LANES)
        slope = slope + select(upper, here, select(lower, zero - here, zero))
    return slope


@inlined
def _slope_by_either(tables, base, width, resolution, place, g0, g1, g2, g3):
    if width == LANES:
        return slope_by_picking(tables, base, width, resolution, place, g0, g1, g2, g3)
    return slope_by_weighing(tables, base, width, resolution, place, g0, g1, g2, g3)


slope_of_vector = _slope_by_either if PERMUTES else slope_by_weighing
"""How a sum with weights g of the four channels that :func:`read_vector` reads changes with the place, in texels."""


@inlined
def keep_four(axes, o, v0, v1, v2, v3):
    """The inverse of :func:`four_kept`."""
    store(axes, o, v0)
    store(axes, o + LANES, v1)
    store(axes, o + 2 * LANES, v2)
    store(axes, o + 3 * LANES, v3)


@inlined
def add_plane(tables, first, second, resolution, a, b, weight, axes, o, keep, red, green, blue, opacity):
    """Four channels with what a plane shows where the rays are at a on its first axis, whose texels begin at ``first``,
    and at b on its second."""
    width, zero = table_width(resolution), splat(_F(0), LANES)
    f0, f1, f2, f3 = read_vector(tables, first, width, resolution, a)
    s0, s1, s2, s3 = read_vector(tables, second + PER_VECTOR * width, width, resolution, b)
    if keep:
        keep_four(axes, o, f0, f1, f2, f3)
        keep_four(axes, o + 4 * LANES, s0, s1, s2, s3)
    weight = select((a >= zero) & (b >= zero), weight, zero)
    return (
        fma(f0 * s0, weight, red),
        fma(f1 * s1, weight, green),
        fma(f2 * s2, weight, blue),
        fma(f3 * s3, weight, opacity),
    )


@inlined
def sample_products(tables, base, n_planes, resolution, px, py, pz, planes, p, axes, n, keep):
    """The texture's four channels at each pixel, without amplitudes; planes are products of interpolated vectors, which
    ``axes`` may ``keep`` for the gradient, as the n-th [AXES]. Its part of ``tables`` begins at ``base``."""
    step = TEXEL * table_width(resolution) if n_planes == 3 else 0  # A single plane's ends lie at the same place.
    x, y, z, o = base, base + step, base + 2 * step, n * AXES
    of_xy, of_yz, of_zx = o + 3 * LANES, o + 11 * LANES, o + 19 * LANES
    zero = splat(_F(0), LANES)
    if keep:
        store(axes, o, px)
        store(axes, o + LANES, py)
        store(axes, o + 2 * LANES, pz)
    weight = broadcast(planes, p, LANES)
    c0, c1, c2, c3 = add_plane(tables, x, y, resolution, px, py, weight, axes, of_xy, keep, zero, zero, zero, zero)
    if n_planes == 3:
        weight = broadcast(planes, p + 1, LANES)
        c0, c1, c2, c3 = add_plane(tables, y, z, resolution, py, pz, weight, axes, of_yz, keep, c0, c1, c2, c3)
        weight = broadcast(planes, p + 2, LANES)
        c0, c1, c2, c3 = add_plane(tables, z, x, resolution, pz, px, weight, axes, of_zx, keep, c0, c1, c2, c3)
    return c0, c1, c2, c3


def _weighted_16(a, weight):
    return fma(second_half(a), second_half(weight), first_half(a) * first_half(weight))


def _weighted_8(a, weight):
    return a * weight


weighted = inlined(_weighted_16 if LANES == 16 else _weighted_8)
"""a times its weights, as eight lanes of the same sum: multiplying the second half of sixteen folds them too."""


@inlined
def span_of_texels(place, inside, resolution):
    """The first texel around the places inside, and the one after the last; none where nothing is inside."""
    low = lower_texel(place, resolution)
    first = least_lane(select(inside, low, splat(_F(resolution), LANES)))
    last = largest_lane(select(inside, low, splat(_F(-3), LANES)))
    return np.int64(first), np.int64(last) + 2


@inlined
def pull_plane(
    tables, first, second, resolution, weight, axes, n, axis_a, axis_b, kept, red, green, blue, opacity, grads,
    to_first, to_second, slopes, moves,
):  # fmt: skip
    """The gradient of :func:`add_plane`: adds those of texels to ``grads``, from ``to_first`` and ``to_second`` on, and
    where the point ``moves`` those of the places to ``slopes``; returns that of the plane's weight, pixel by pixel."""
    zero, one, width = splat(_F(0), LANES), splat(_F(1), LANES), table_width(resolution)
    a, b = load(axes, n * AXES + axis_a * LANES, LANES), load(axes, n * AXES + axis_b * LANES, LANES)
    f0, f1, f2, f3 = four_kept(axes, n * AXES + kept * LANES)
    s0, s1, s2, s3 = four_kept(axes, n * AXES + (kept + 4) * LANES)
    inside = (a >= zero) & (b >= zero)
    of_weight = fma(red * f0, s0, fma(green * f1, s1, fma(blue * f2, s2, opacity * f3 * s3)))
    weight = select(inside, weight, zero)
    red, green, blue, opacity = red * weight, green * weight, blue * weight, opacity * weight
    f0, s0, f1, s1 = red * s0, red * f0, green * s1, green * f1  # the gradients of the vectors from here on
    f2, s2, f3, s3 = blue * s2, blue * f2, opacity * s3, opacity * f3
    # The pixels of a block lie between a few neighbouring texels of either axis, which take turns together.
    start_a, stop_a = span_of_texels(a, inside, resolution)
    start_b, stop_b = span_of_texels(b, inside, resolution)
    for k in range(max(stop_a - start_a, stop_b - start_b)):
        on_a, on_b = min(start_a + k, resolution - 1), min(start_b + k, resolution - 1)
        at_a = maximum(one - absolute(a - splat(_F(start_a + k), LANES)), zero)
        at_b = maximum(one - absolute(b - splat(_F(start_b + k), LANES)), zero)
        sums = sum_lanes_of_eight(
            weighted(f0, at_a), weighted(f1, at_a), weighted(f2, at_a), weighted(f3, at_a),
            weighted(s0, at_b), weighted(s1, at_b), weighted(s2, at_b), weighted(s3, at_b),
        )  # fmt: skip
        o = to_first + on_a * TEXEL
        store(grads, o, load(grads, o, PER_VECTOR) + first_half(sums))
        o = to_second + on_b * TEXEL + PER_VECTOR
        store(grads, o, load(grads, o, PER_VECTOR) + second_half(sums))
    if moves:
        rise = slope_of_vector(tables, first, width, resolution, a, f0, f1, f2, f3)
        store(slopes, axis_a * LANES, load(slopes, axis_a * LANES, LANES) + rise)
        rise = slope_of_vector(tables, second + PER_VECTOR * width, width, resolution, b, s0, s1, s2, s3)
        store(slopes, axis_b * LANES, load(slopes, axis_b * LANES, LANES) + rise)
    return select(inside, of_weight, zero)


@inlined
def pull_products(
    tables, base, n_planes, resolution, planes, p, axes, n, red, green, blue, opacity, grads, place, slopes, moves
):  # fmt: skip
    """The gradient of :func:`sample_products`.

    Adds those of texels to ``grads`` from ``place`` on, and where the point ``moves`` those of the place on each axis
    to ``slopes``, and returns those of the planes' weights, pixel by pixel.
    """
    step, to_step = TEXEL * table_width(resolution), TEXEL * resolution
    if n_planes == 1:
        step, to_step = 0, 0
    x, y, z = base, base + step, base + 2 * step
    to_x, to_y, to_z = place, place + to_step, place + 2 * to_step
    zero = splat(_F(0), LANES)
    of_yz, of_zx = zero, zero
    of_xy = pull_plane(
        tables, x, y, resolution, broadcast(planes, p, LANES), axes, n, 0, 1, 3, red, green, blue, opacity, grads,
        to_x, to_y, slopes, moves,
    )  # fmt: skip
    if n_planes == 3:
        of_yz = pull_plane(
            tables, y, z, resolution, broadcast(planes, p + 1, LANES), axes, n, 1, 2, 11, red, green, blue, opacity,
            grads, to_y, to_z, slopes, moves,
        )  # fmt: skip
        of_zx = pull_plane(
            tables, z, x, resolution, broadcast(planes, p + 2, LANES), axes, n, 2, 0, 19, red, green, blue, opacity,
            grads, to_z, to_x, slopes, moves,
        )  # fmt: skip
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
