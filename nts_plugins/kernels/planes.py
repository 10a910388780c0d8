# SPDX-License-Identifier: Apache-2.0
"""Reading tri-planes, and bounding what decoders give: the small loops around the networks of fields."""

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.vector_math import fma, hyperbolic_tangent_of
from nts_plugins.kernels.vectors import LANES, aligned_zeros, at, helper, load, splat, store

PIECE = 256
"""Points, or textures, that a thread takes at a time."""
CHANNELS = 8
"""Channels that are treated at once."""

_F = np.float32
hyperbolic_tangent = hyperbolic_tangent_of(LANES)


@helper
def corner(points, point, axis, resolution, weights):
    """The texel below a coordinate in [-1, 1]; its weight and the next one's go to weights[2 axis] and [2 axis + 1]."""
    place = (points[at(point * 3 + axis)] + _F(1)) * _F(0.5) * _F(resolution - 1)
    place = min(max(place, _F(0)), _F(resolution - 1))
    low = min(np.int64(place), resolution - 2)
    weights[at(2 * axis)], weights[at(2 * axis + 1)] = _F(1) - (place - _F(low)), place - _F(low)
    return low


@njit(nogil=True, cache=True)
def read_planes(share, points, features, channels, resolution, out):
    """Bilinear features of points on three planes.

    Args:
        share: of the work, see ``pieces``.
        points: [M * 3] in [-1, 1].
        features: [3 * resolution * resolution * channels] of the planes xy, yz, zx, rows along the second axis.
        channels: a multiple of 8.
        out: [M * 3 * channels] written.
    """
    m, weights, lows = points.shape[0] // 3, np.empty(6, _F), np.empty(3, np.int64)
    while True:
        start = next_piece(share, pieces_of(m, PIECE)) * PIECE
        if start >= m:
            return
        for point in range(start, min(m, start + PIECE)):
            for axis in range(3):
                lows[axis] = corner(points, point, axis, resolution, weights)
            for plane in range(3):
                after = plane + 1 if plane < 2 else 0
                here = ((plane * resolution + lows[after]) * resolution + lows[plane]) * channels
                above = here + resolution * channels
                w00 = weights[2 * plane] * weights[2 * after]
                w10 = weights[2 * plane + 1] * weights[2 * after]
                w01 = weights[2 * plane] * weights[2 * after + 1]
                w11 = weights[2 * plane + 1] * weights[2 * after + 1]
                to = (point * 3 + plane) * channels
                for c in range(0, channels, CHANNELS):
                    total = load(features, here + c, CHANNELS) * splat(w00, CHANNELS)
                    total = fma(load(features, here + channels + c, CHANNELS), splat(w10, CHANNELS), total)
                    total = fma(load(features, above + c, CHANNELS), splat(w01, CHANNELS), total)
                    total = fma(load(features, above + channels + c, CHANNELS), splat(w11, CHANNELS), total)
                    store(out, to + c, total)


@njit(nogil=True, cache=True)
def add_to_planes(share, points, grad_out, channels, resolution, grads):
    """The gradient of :func:`read_planes` with respect to features, added to ``grads``.

    A piece is eight channels of a plane: no two threads add to the same numbers, and each adds point by point.
    """
    m, weights, groups = points.shape[0] // 3, np.empty(6, _F), channels // CHANNELS
    while True:
        piece = next_piece(share, 3 * groups)
        if piece >= 3 * groups:
            return
        plane, c = piece // groups, piece % groups * CHANNELS
        after = plane + 1 if plane < 2 else 0
        for point in range(m):
            low = corner(points, point, plane, resolution, weights)
            next_low = corner(points, point, after, resolution, weights)
            here = ((plane * resolution + next_low) * resolution + low) * channels + c
            above = here + resolution * channels
            grad = load(grad_out, (point * 3 + plane) * channels + c, CHANNELS)
            first = grad * splat(weights[2 * after], CHANNELS)
            second = grad * splat(weights[2 * after + 1], CHANNELS)
            low_weight, high_weight = splat(weights[2 * plane], CHANNELS), splat(weights[2 * plane + 1], CHANNELS)
            store(grads, here, fma(first, low_weight, load(grads, here, CHANNELS)))
            store(grads, here + channels, fma(first, high_weight, load(grads, here + channels, CHANNELS)))
            store(grads, above, fma(second, low_weight, load(grads, above, CHANNELS)))
            store(grads, above + channels, fma(second, high_weight, load(grads, above + channels, CHANNELS)))


# --- bounded textures ----------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def bound_texels(share, color, opacity, texels, constants, out):
    """tanh of decoded colours [M * texels * 3] and opacities [M * texels], texel by texel: out [M * texels * 4].

    ``constants`` is ``vector_math.power_table``.
    """
    m = opacity.shape[0] // texels
    row = aligned_zeros((texels * 4 + LANES - 1) // LANES * LANES)
    while True:
        start = next_piece(share, pieces_of(m, PIECE)) * PIECE
        if start >= m:
            return
        for i in range(start, min(m, start + PIECE)):
            for texel in range(texels):
                source, to = (i * texels + texel) * 3, texel * 4
                row[at(to)], row[at(to + 1)] = color[at(source)], color[at(source + 1)]
                row[at(to + 2)], row[at(to + 3)] = color[at(source + 2)], opacity[at(i * texels + texel)]
            for o in range(0, texels * 4, LANES):
                store(row, o, hyperbolic_tangent(load(row, o, LANES), constants))
            for o in range(0, texels * 4, 4):
                store(out, i * texels * 4 + o, load(row, o, 4))


@njit(nogil=True, cache=True)
def unbound_texels(share, out, grad_out, texels, grad_color, grad_opacity):
    """The gradient of :func:`bound_texels`, whose result is ``out``."""
    m, one = grad_opacity.shape[0] // texels, splat(_F(1), 4)
    row = np.empty(4, _F)
    while True:
        start = next_piece(share, pieces_of(m, PIECE)) * PIECE
        if start >= m:
            return
        for i in range(start * texels, min(m, start + PIECE) * texels):
            value = load(out, i * 4, 4)
            store(row, 0, load(grad_out, i * 4, 4) * (one - value * value))
            grad_color[at(i * 3)], grad_color[at(i * 3 + 1)] = row[0], row[1]
            grad_color[at(i * 3 + 2)], grad_opacity[at(i)] = row[2], row[3]
