# SPDX-License-Identifier: Apache-2.0
"""View-dependent colour: spherical harmonics up to degree 3, forward and backward, for the splats that are drawn.

Colour channel d of a splat is max(0.5 + sum_k B_k(direction) c[k, d], 0), with the direction from the camera to the
splat's centre. Basis, order and signs are those of ``rasterization.sh.sh_basis`` (Sloan 2013).
"""

import math

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.vectors import at, helper

PIECE = 512
"""Splats that a thread takes at a time; the camera centre's gradient is summed piece by piece."""

_F = np.float32


@helper
def _basis(x, y, z, degree, basis):
    """Write the (degree + 1)^2 basis functions of the unit direction (x, y, z)."""
    basis[0] = _F(0.28209479177387814)
    if degree >= 1:
        basis[1] = _F(-0.4886025119029199) * y
        basis[2] = _F(0.4886025119029199) * z
        basis[3] = _F(-0.4886025119029199) * x
    if degree >= 2:
        basis[4] = _F(1.0925484305920792) * x * y
        basis[5] = _F(-1.0925484305920792) * y * z
        basis[6] = _F(0.31539156525252005) * (_F(3) * z * z - _F(1))
        basis[7] = _F(-1.0925484305920792) * x * z
        basis[8] = _F(0.5462742152960396) * (x * x - y * y)
    if degree >= 3:
        basis[9] = _F(-0.5900435899266435) * y * (_F(3) * x * x - y * y)
        basis[10] = _F(2.890611442640554) * x * y * z
        basis[11] = _F(-0.4570457994644658) * y * (_F(5) * z * z - _F(1))
        basis[12] = _F(0.3731763325901154) * z * (_F(5) * z * z - _F(3))
        basis[13] = _F(-0.4570457994644658) * x * (_F(5) * z * z - _F(1))
        basis[14] = _F(1.445305721320277) * z * (x * x - y * y)
        basis[15] = _F(-0.5900435899266435) * x * (x * x - _F(3) * y * y)


@helper
def _direction_gradient(x, y, z, degree, g):
    """dL/d(x, y, z) given g[k] = dL/dB_k, taking x, y, z as independent."""
    gx = gy = gz = _F(0)
    if degree >= 1:
        gy -= _F(0.4886025119029199) * g[1]
        gz += _F(0.4886025119029199) * g[2]
        gx -= _F(0.4886025119029199) * g[3]
    if degree >= 2:
        c = _F(1.0925484305920792)
        gx += c * (y * g[4] - z * g[7] + x * g[8])
        gy += c * (x * g[4] - z * g[5] - y * g[8])
        gz += c * (-y * g[5] - x * g[7]) + _F(6 * 0.31539156525252005) * z * g[6]
    if degree >= 3:
        a, b, c = _F(0.5900435899266435), _F(2.890611442640554), _F(0.4570457994644658)
        d, e = _F(0.3731763325901154), _F(1.445305721320277)
        gx += -_F(6) * a * x * y * g[9] + b * y * z * g[10] - c * (_F(5) * z * z - _F(1)) * g[13]
        gx += _F(2) * e * x * z * g[14] - _F(3) * a * (x * x - y * y) * g[15]
        gy += -_F(3) * a * (x * x - y * y) * g[9] + b * x * z * g[10] - c * (_F(5) * z * z - _F(1)) * g[11]
        gy += -_F(2) * e * y * z * g[14] + _F(6) * a * x * y * g[15]
        gz += b * x * y * g[10] - _F(10) * c * y * z * g[11] + d * (_F(15) * z * z - _F(3)) * g[12]
        gz += -_F(10) * c * x * z * g[13] + e * (x * x - y * y) * g[14]
    return gx, gy, gz


def _forward_kernel(fixed: int):
    @njit(nogil=True, cache=True)
    def colors_forward(share, means, centre, radii, first, first_bands, rest, rest_bands, width, degree, colors):
        channels = fixed if fixed > 0 else width
        n = means.shape[0]
        bands = (degree + 1) * (degree + 1)
        basis = np.empty(16, _F)
        while True:
            start = next_piece(share, pieces_of(n, PIECE)) * PIECE
            if start >= n:
                return
            for i in range(start, min(n, start + PIECE)):
                to, at_first, at_rest = i * channels, i * first_bands * channels, i * rest_bands * channels
                if radii[at(i), 0] <= 0:
                    for c in range(channels):
                        colors[at(to + c)] = _F(0)
                    continue
                x, y, z = means[at(i), 0] - centre[0], means[at(i), 1] - centre[1], means[at(i), 2] - centre[2]
                inverse = _F(1) / max(_F(math.sqrt(x * x + y * y + z * z)), _F(1e-12))
                _basis(x * inverse, y * inverse, z * inverse, degree, basis)
                for c in range(channels):
                    total = _F(0.5)
                    for k in range(min(bands, first_bands)):
                        total += basis[at(k)] * first[at(at_first + k * channels + c)]
                    for k in range(bands - first_bands):
                        total += basis[at(first_bands + k)] * rest[at(at_rest + k * channels + c)]
                    colors[at(to + c)] = max(total, _F(0))

    return colors_forward


def _backward_kernel(fixed: int):
    @njit(nogil=True, cache=True)
    def colors_backward(
        share, means, centre, radii, first, first_bands, rest, rest_bands, width, degree, colors,
        grad_colors, grad_first, grad_rest, grad_means, grad_centre,
    ):  # fmt: skip
        channels = fixed if fixed > 0 else width
        n = means.shape[0]
        bands = (degree + 1) * (degree + 1)
        basis, grad_basis, g = np.empty(16, _F), np.zeros(16, _F), np.empty(channels, _F)
        size_first, size_rest = first_bands * channels, rest_bands * channels
        # Bands above the degree get zeros, without being read.
        used_first, used_rest = min(bands, first_bands), max(0, bands - first_bands)
        while True:
            piece = next_piece(share, pieces_of(n, PIECE))
            start = piece * PIECE
            if start >= n:
                return
            total_x = total_y = total_z = 0.0
            for i in range(start, min(n, start + PIECE)):
                at_first, at_rest = i * size_first, i * size_rest
                if radii[at(i), 0] <= 0:
                    grad_first[at_first : at_first + size_first] = _F(0)
                    grad_rest[at_rest : at_rest + size_rest] = _F(0)
                    grad_means[at(i), 0] = grad_means[at(i), 1] = grad_means[at(i), 2] = _F(0)
                    continue
                x, y, z = means[at(i), 0] - centre[0], means[at(i), 1] - centre[1], means[at(i), 2] - centre[2]
                inverse = _F(1) / max(_F(math.sqrt(x * x + y * y + z * z)), _F(1e-12))
                x, y, z = x * inverse, y * inverse, z * inverse
                _basis(x, y, z, degree, basis)
                for c in range(channels):
                    shown = colors[at(i * channels + c)] > _F(0)
                    g[at(c)] = grad_colors[at(i * channels + c)] if shown else _F(0)
                for k in range(used_first):
                    total = _F(0)
                    for c in range(channels):
                        place = at_first + k * channels + c
                        grad_first[at(place)] = basis[at(k)] * g[at(c)]
                        total += first[at(place)] * g[at(c)]
                    grad_basis[at(k)] = total
                for k in range(used_rest):
                    total = _F(0)
                    for c in range(channels):
                        place = at_rest + k * channels + c
                        grad_rest[at(place)] = basis[at(first_bands + k)] * g[at(c)]
                        total += rest[at(place)] * g[at(c)]
                    grad_basis[at(first_bands + k)] = total
                grad_first[at_first + used_first * channels : at_first + size_first] = _F(0)
                grad_rest[at_rest + used_rest * channels : at_rest + size_rest] = _F(0)
                gx, gy, gz = _direction_gradient(x, y, z, degree, grad_basis)
                along = gx * x + gy * y + gz * z
                gx, gy, gz = (gx - along * x) * inverse, (gy - along * y) * inverse, (gz - along * z) * inverse
                grad_means[at(i), 0], grad_means[at(i), 1], grad_means[at(i), 2] = gx, gy, gz
                total_x, total_y, total_z = total_x - gx, total_y - gy, total_z - gz
            grad_centre[at(piece), 0], grad_centre[at(piece), 1], grad_centre[at(piece), 2] = total_x, total_y, total_z

    return colors_backward


# For three channels, loops over channels are unrolled, which makes the kernels more than twice as fast.
_FORWARD = {3: _forward_kernel(3), 0: _forward_kernel(0)}
_BACKWARD = {3: _backward_kernel(3), 0: _backward_kernel(0)}


def colors_forward(channels: int):
    """The kernel for colours of the splats that are drawn; it writes zero for the others. Its arguments:

    share of the work, see ``pieces``; means [N, 3]; centre [3], the camera's position in the world; radii [N, 2] int32,
    0 where a splat is not drawn; first [N * first_bands * channels], first_bands, rest [N * rest_bands * channels],
    rest_bands: the coefficients, in two parts of which the second may be empty; channels; degree, 0 to 3;
    colors [N * channels], written.
    """
    return _FORWARD.get(channels, _FORWARD[0])


def colors_backward(channels: int):
    """The kernel for the gradient of :func:`colors_forward`. Its arguments are those, up to colors, and then:

    grad_colors [N * channels], of which channels that were cut off at 0 pass nothing; grad_first, grad_rest and
    grad_means, written, zero for splats that are not drawn; grad_centre [pieces, 3] float64, written.
    """
    return _BACKWARD.get(channels, _BACKWARD[0])
