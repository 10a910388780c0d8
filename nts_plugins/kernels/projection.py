# SPDX-License-Identifier: Apache-2.0
"""EWA projection of splats through a pinhole camera, forward and backward.

The arithmetic is in float64 (it is scalar code, so that costs next to nothing): the determinant of a needle's
covariance is a difference of nearly equal numbers. What a needle's pixels depend on, its centre and conic, is handed on
in float64 too; other inputs and outputs are float32.

Notation: V and t are the world-to-camera rotation and translation, (x, y, z) the centre in the camera, Q the splat's
rotation, s its scales, J the Jacobian of the pinhole map. The image covariance is A A^T with A = J V Q diag(s), whose
rows are called ``a`` and ``b`` here, and whose factors J V have the rows ``u`` and ``v``.
"""

import math

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.vectors import at

PIECE = 512
"""Splats that a thread takes at a time. Gradients of the camera are summed piece by piece, so that they do not depend
on the number of threads."""

# Columns of the camera array handed to the kernels.
CAMERA = 12 + 4 + 8 + 4
"""V t row by row (12), fx fy cx cy (4), width, height, near, far, eps2d, radius_clip, alpha_min, antialiased (8), the
smallest and largest x/z, then y/z, that are not clamped (4)."""

_F = np.float32
_LARGEST_RADIUS = 1e9


@njit(inline="always")
def rotation_of(quats, i):
    """1 / |q|, the unit quaternion w, x, y, z, and the nine entries of its rotation matrix, row by row."""
    w, x, y, z = (
        np.float64(quats[i, 0]),
        np.float64(quats[i, 1]),
        np.float64(quats[i, 2]),
        np.float64(quats[i, 3]),
    )
    inverse = 1.0 / max(math.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w * inverse, x * inverse, y * inverse, z * inverse
    return (
        inverse,
        (w, x, y, z),
        (
            1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
            2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
            2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
        ),
    )  # fmt: skip


@njit(inline="always")
def quaternion_gradient(unit, inverse, g):
    """From the gradient of a rotation matrix, nine entries row by row, to that of the quaternion, whose unit and
    1 / length are given."""
    w, x, y, z = unit
    gw = 2.0 * (x * (g[7] - g[5]) + y * (g[2] - g[6]) + z * (g[3] - g[1]))
    gx = 2.0 * (-2.0 * x * (g[4] + g[8]) + y * (g[3] + g[1]) + z * (g[6] + g[2]) + w * (g[7] - g[5]))
    gy = 2.0 * (x * (g[3] + g[1]) - 2.0 * y * (g[0] + g[8]) + z * (g[7] + g[5]) + w * (g[2] - g[6]))
    gz = 2.0 * (x * (g[6] + g[2]) + y * (g[7] + g[5]) - 2.0 * z * (g[0] + g[4]) + w * (g[3] - g[1]))
    along = gw * w + gx * x + gy * y + gz * z
    return (
        (gw - along * w) * inverse,
        (gx - along * x) * inverse,
        (gy - along * y) * inverse,
        (gz - along * z) * inverse,
    )


@njit(inline="always")
def _slopes(camera, x, y, z):
    """x/z and y/z, and both again clamped to 1.3 times the field of view, the range in which EWA is trusted."""
    per_z = 1.0 / z
    slope_x, slope_y = x * per_z, y * per_z
    return slope_x, slope_y, min(max(slope_x, camera[24]), camera[25]), min(max(slope_y, camera[26]), camera[27])


@njit(inline="always")
def transform(camera, means, i):
    m0, m1, m2 = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
    x = camera[0] * m0 + camera[1] * m1 + camera[2] * m2 + camera[3]
    y = camera[4] * m0 + camera[5] * m1 + camera[6] * m2 + camera[7]
    z = camera[8] * m0 + camera[9] * m1 + camera[10] * m2 + camera[11]
    return x, y, z


@njit(inline="always")
def _jacobian(camera, slopes, z):
    """The entries of J that are not zero: (0, 0), (0, 2), (1, 1), (1, 2)."""
    per_z = 1.0 / z
    j00, j11 = camera[12] * per_z, camera[13] * per_z
    return j00, -j00 * slopes[2], j11, -j11 * slopes[3]


@njit(inline="always")
def _rows(camera, slopes, z):
    """The rows u and v of J V."""
    j00, j02, j11, j12 = _jacobian(camera, slopes, z)
    u = (j00 * camera[0] + j02 * camera[8], j00 * camera[1] + j02 * camera[9], j00 * camera[2] + j02 * camera[10])
    v = (j11 * camera[4] + j12 * camera[8], j11 * camera[5] + j12 * camera[9], j11 * camera[6] + j12 * camera[10])
    return u, v


@njit(inline="always")
def _times(row, rotation):
    """A row vector times the rotation matrix."""
    return (
        row[0] * rotation[0] + row[1] * rotation[3] + row[2] * rotation[6],
        row[0] * rotation[1] + row[1] * rotation[4] + row[2] * rotation[7],
        row[0] * rotation[2] + row[1] * rotation[5] + row[2] * rotation[8],
    )


@njit(inline="always")
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(inline="always")
def _splat(camera, slopes, z, quats, scales, i):
    """A splat's factors and image covariance: u and v, the rows of J V Q, scales, a and b, and A A^T (xx, xy, yy)."""
    u, v = _rows(camera, slopes, z)
    inverse, unit, rotation = rotation_of(quats, i)
    s = (np.float64(scales[i, 0]), np.float64(scales[i, 1]), np.float64(scales[i, 2]))
    p, r = _times(u, rotation), _times(v, rotation)
    a, b = (p[0] * s[0], p[1] * s[1], p[2] * s[2]), (r[0] * s[0], r[1] * s[1], r[2] * s[2])
    return u, v, inverse, unit, rotation, s, p, r, a, b, (dot(a, a), dot(a, b), dot(b, b))


@njit(nogil=True, cache=True, error_model="numpy")
def project_forward(
    share, means, quats, scales, opacities, camera, opacity_aware, means2d, centres, depths, conics, seen_opacities,
    radii,
):  # fmt: skip
    """Project splats and decide which are drawn; all outputs of a splat that is not drawn are zero.

    Args:
        share: of the work, see ``pieces``.
        means, quats, scales, opacities: [N, 3], [N, 4], [N, 3], [N] as in ``Gaussians``.
        camera: [CAMERA] float64.
        opacity_aware: gsplat 1.5's extents instead of 3 sigma.
        means2d, depths, seen_opacities, radii: [N, 2], [N], [N], [N, 2] int32, written.
        centres, conics: [N, 2] and [N, 3] float64, written: ``means2d`` before it is rounded, and the conics.
    """
    n = means.shape[0]
    fx, fy, cx, cy = camera[12], camera[13], camera[14], camera[15]
    width, height, near, far = camera[16], camera[17], camera[18], camera[19]
    eps2d, radius_clip, alpha_min, antialiased = camera[20], camera[21], camera[22], camera[23] > 0.0
    while True:
        start = next_piece(share, pieces_of(n, PIECE)) * PIECE
        if start >= n:
            return
        for index in range(start, min(n, start + PIECE)):
            i = at(index)
            means2d[i, 0] = means2d[i, 1] = depths[i] = seen_opacities[i] = _F(0)
            centres[i, 0] = centres[i, 1] = conics[i, 0] = conics[i, 1] = conics[i, 2] = 0.0
            radii[i, 0] = radii[i, 1] = 0
            x, y, z = transform(camera, means, i)
            if not (z >= near and z <= far):
                continue
            slopes = _slopes(camera, x, y, z)
            xx, xy, yy = _splat(camera, slopes, z, quats, scales, i)[-1]
            sharp = xx * yy - xy * xy
            xx, yy = xx + eps2d, yy + eps2d
            det = xx * yy - xy * xy
            if not det > 0.0:
                continue
            opacity = np.float64(opacities[i])
            if antialiased:
                opacity *= math.sqrt(max(sharp / det, 1e-12))
            if opacity_aware:
                if not opacity >= alpha_min:
                    continue
                reach = min(3.33, math.sqrt(2.0 * math.log(max(opacity / alpha_min, 1.0))))
                extent_x, extent_y = math.ceil(reach * math.sqrt(xx)), math.ceil(reach * math.sqrt(yy))
            else:
                half_trace = 0.5 * (xx + yy)
                extent_x = math.ceil(3.0 * math.sqrt(half_trace + math.sqrt(max(half_trace * half_trace - det, 0.01))))
                extent_y = extent_x
            if not (extent_x > radius_clip or extent_y > radius_clip):
                continue
            px, py = fx * slopes[0] + cx, fy * slopes[1] + cy
            if not (px + extent_x > 0.0 and px - extent_x < width and py + extent_y > 0.0 and py - extent_y < height):
                continue
            if extent_x < 1.0 or extent_y < 1.0:
                continue
            radii[i, 0] = np.int32(min(extent_x, _LARGEST_RADIUS))
            radii[i, 1] = np.int32(min(extent_y, _LARGEST_RADIUS))
            centres[i, 0], centres[i, 1] = px, py
            means2d[i, 0], means2d[i, 1] = px, py
            depths[i] = z
            per_det = 1.0 / det
            conics[i, 0], conics[i, 1], conics[i, 2] = yy * per_det, -xy * per_det, xx * per_det
            seen_opacities[i] = opacity


@njit(nogil=True, cache=True, error_model="numpy")
def project_backward(
    share, means, quats, scales, opacities, camera, radii,
    grad_means2d, grad_depths, grad_conics, grad_seen, grad_means, grad_quats, grad_scales, grad_opacities, grad_camera,
):  # fmt: skip
    """The gradient of :func:`project_forward`; splats that are not drawn get zeros.

    Args:
        grad_means2d, grad_depths, grad_conics, grad_seen: gradients of the outputs, those of the conics in float64.
        grad_means, grad_quats, grad_scales, grad_opacities: written.
        grad_camera: [pieces, 12] float64 written: each piece's part of the gradient of V t.
    """
    n = means.shape[0]
    fx, fy = camera[12], camera[13]
    eps2d, antialiased = camera[20], camera[23] > 0.0
    total = np.empty(12, np.float64)
    while True:
        piece = next_piece(share, pieces_of(n, PIECE))
        start = piece * PIECE
        if start >= n:
            return
        total[:] = 0.0
        for index in range(start, min(n, start + PIECE)):
            i = at(index)
            if radii[i, 0] <= 0:
                grad_means[i, 0] = grad_means[i, 1] = grad_means[i, 2] = _F(0)
                grad_scales[i, 0] = grad_scales[i, 1] = grad_scales[i, 2] = _F(0)
                grad_quats[i, 0] = grad_quats[i, 1] = grad_quats[i, 2] = grad_quats[i, 3] = _F(0)
                grad_opacities[i] = _F(0)
                continue
            x, y, z = transform(camera, means, i)
            slopes = _slopes(camera, x, y, z)
            u, v, inverse, q, rotation, s, p, r, a, b, (xx, xy, yy) = _splat(camera, slopes, z, quats, scales, i)
            sharp = xx * yy - xy * xy
            blurred_xx, blurred_yy = xx + eps2d, yy + eps2d
            det = blurred_xx * blurred_yy - xy * xy

            # Conic C = covariance^-1: dL/dcovariance = -C G C, G the symmetric gradient of the conic.
            per_det = 1.0 / det
            c0, c1, c2 = blurred_yy * per_det, -xy * per_det, blurred_xx * per_det
            g0, g1, g2 = grad_conics[i, 0], 0.5 * grad_conics[i, 1], grad_conics[i, 2]
            h00, h01 = c0 * g0 + c1 * g1, c0 * g1 + c1 * g2
            h10, h11 = c1 * g0 + c2 * g1, c1 * g1 + c2 * g2
            grad_xx, grad_xy, grad_yy = -(h00 * c0 + h01 * c1), -2.0 * (h00 * c1 + h01 * c2), -(h10 * c1 + h11 * c2)

            seen = np.float64(grad_seen[i])
            grad_opacities[i] = seen
            if antialiased:
                ratio = sharp / det
                rho = math.sqrt(max(ratio, 1e-12))
                grad_opacities[i] = seen * rho
                if ratio > 1e-12:
                    half = seen * opacities[i] * 0.5 / rho / det
                    grad_xx += half * (yy - ratio * blurred_yy)
                    grad_yy += half * (xx - ratio * blurred_xx)
                    grad_xy += half * 2.0 * xy * (ratio - 1.0)

            ga = (
                2.0 * grad_xx * a[0] + grad_xy * b[0],
                2.0 * grad_xx * a[1] + grad_xy * b[1],
                2.0 * grad_xx * a[2] + grad_xy * b[2],
            )
            gb = (
                2.0 * grad_yy * b[0] + grad_xy * a[0],
                2.0 * grad_yy * b[1] + grad_xy * a[1],
                2.0 * grad_yy * b[2] + grad_xy * a[2],
            )
            for k in range(3):
                grad_scales[i, k] = ga[k] * p[k] + gb[k] * r[k]
            gp = (ga[0] * s[0], ga[1] * s[1], ga[2] * s[2])
            gr = (gb[0] * s[0], gb[1] * s[1], gb[2] * s[2])

            # Rotation Q, entry (m, k): u_m gp_k + v_m gr_k; from there to the unit quaternion and its normalisation.
            q00, q01, q02 = u[0] * gp[0] + v[0] * gr[0], u[0] * gp[1] + v[0] * gr[1], u[0] * gp[2] + v[0] * gr[2]
            q10, q11, q12 = u[1] * gp[0] + v[1] * gr[0], u[1] * gp[1] + v[1] * gr[1], u[1] * gp[2] + v[1] * gr[2]
            q20, q21, q22 = u[2] * gp[0] + v[2] * gr[0], u[2] * gp[1] + v[2] * gr[1], u[2] * gp[2] + v[2] * gr[2]
            of_quaternion = quaternion_gradient(q, inverse, (q00, q01, q02, q10, q11, q12, q20, q21, q22))
            for k in range(4):
                grad_quats[i, k] = of_quaternion[k]

            # Rows u and v of J V.
            gu = (dot(rotation[0:3], gp), dot(rotation[3:6], gp), dot(rotation[6:9], gp))
            gv = (dot(rotation[0:3], gr), dot(rotation[3:6], gr), dot(rotation[6:9], gr))
            v0, v1 = (camera[0], camera[1], camera[2]), (camera[4], camera[5], camera[6])
            v2 = (camera[8], camera[9], camera[10])
            j00, j02, j11, j12 = _jacobian(camera, slopes, z)
            per_z = 1.0 / z
            g02, g12 = dot(gu, v2), dot(gv, v2)
            m2x, m2y = np.float64(grad_means2d[i, 0]), np.float64(grad_means2d[i, 1])
            gz_camera = np.float64(grad_depths[i])
            gz_camera -= (j00 * dot(gu, v0) + j02 * g02 + j11 * dot(gv, v1) + j12 * g12) * per_z
            # The slope x/z moves the mean; inside the clamp it also moves J.
            slope_gx = fx * m2x - (j00 * g02 if slopes[0] == slopes[2] else 0.0)
            slope_gy = fy * m2y - (j11 * g12 if slopes[1] == slopes[3] else 0.0)
            gx_camera, gy_camera = slope_gx * per_z, slope_gy * per_z
            gz_camera -= (slope_gx * slopes[0] + slope_gy * slopes[1]) * per_z
            for k in range(3):
                grad_means[i, k] = camera[k] * gx_camera + camera[4 + k] * gy_camera + camera[8 + k] * gz_camera
                mean = np.float64(means[i, k])
                total[k] += gx_camera * mean + j00 * gu[k]
                total[4 + k] += gy_camera * mean + j11 * gv[k]
                total[8 + k] += gz_camera * mean + j02 * gu[k] + j12 * gv[k]
            total[3] += gx_camera
            total[7] += gy_camera
            total[11] += gz_camera
        for k in range(12):
            grad_camera[piece, k] = total[k]
