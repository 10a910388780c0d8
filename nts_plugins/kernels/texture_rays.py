# SPDX-License-Identifier: Apache-2.0
"""How a camera's rays meet the splats that have textures: ``rasterization.textures.splat_rays``, and its gradient.

In float64, as ``projection``, whose notation holds here too: V and t are the world-to-camera rotation and translation,
Q the splat's rotation, s its scales, c the centre in the camera. A = diag(1/s) Q^T V^T carries directions from the
camera's frame to the splat's, in standard deviations. With the focal length f, the columns of ``rays`` are the steps
A_x z/f_x and A_y z/f_y from pixel to pixel, the middle m = A c, and the steps' cross products with it, all of them for
a middle of length 1; that length counts as given.
"""

import math

import numpy as np

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import next_piece, pieces_of
from nts_plugins.kernels.projection import PIECE, dot, quaternion_gradient, rotation_of, transform
from nts_plugins.kernels.texture_places import CENTRE, MEAN_X, MEAN_Y, RAYS, STEP_X, STEP_Y, TURN_X, TURN_Y
from nts_plugins.kernels.vectors import at


@njit(inline="always")
def _three(values, first):
    """Three numbers of an array."""
    return values[at(first)], values[at(first + 1)], values[at(first + 2)]


@njit(inline="always")
def _put(values, first, three):
    values[at(first)], values[at(first + 1)], values[at(first + 2)] = three


@njit(inline="always")
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@njit(inline="always")
def _times(factor, a):
    return factor * a[0], factor * a[1], factor * a[2]


@njit(inline="always")
def _plus(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@njit(inline="always")
def _column(rotation, k):
    return rotation[k], rotation[3 + k], rotation[6 + k]


@njit(inline="always")
def _to_camera(camera, a):
    """V a."""
    return (
        camera[0] * a[0] + camera[1] * a[1] + camera[2] * a[2],
        camera[4] * a[0] + camera[5] * a[1] + camera[6] * a[2],
        camera[8] * a[0] + camera[9] * a[1] + camera[10] * a[2],
    )


@njit(inline="always")
def _to_world(camera, a):
    """V^T a."""
    return (
        camera[0] * a[0] + camera[4] * a[1] + camera[8] * a[2],
        camera[1] * a[0] + camera[5] * a[1] + camera[9] * a[2],
        camera[2] * a[0] + camera[6] * a[1] + camera[10] * a[2],
    )


@njit(inline="always")
def _frame(camera, means, quats, scales, i, face):
    """A splat's frame, its axes turned so that the plane of its texture comes first: 1 / |q|, the unit quaternion, the
    rotation, c, 1 / s, the rows of A, the unnormalised steps, the middle, and its length before that became 1."""
    inverse, unit, rotation = rotation_of(quats, i)
    c = transform(camera, means, i)
    k0, k1, k2 = face % 3, (face + 1) % 3, (face + 2) % 3
    per = (1.0 / np.float64(scales[i, k0]), 1.0 / np.float64(scales[i, k1]), 1.0 / np.float64(scales[i, k2]))
    a0 = _times(per[0], _to_camera(camera, _column(rotation, k0)))
    a1 = _times(per[1], _to_camera(camera, _column(rotation, k1)))
    a2 = _times(per[2], _to_camera(camera, _column(rotation, k2)))
    per_x, per_y = c[2] / camera[12], c[2] / camera[13]
    step_x, step_y = _times(per_x, (a0[0], a1[0], a2[0])), _times(per_y, (a0[1], a1[1], a2[1]))
    middle = (dot(a0, c), dot(a1, c), dot(a2, c))
    length = math.sqrt(dot(middle, middle))
    return inverse, unit, rotation, c, per, (a0, a1, a2), step_x, step_y, _times(1.0 / length, middle), length


@njit(nogil=True, cache=True, error_model="numpy")
def find_rays(share, means, quats, scales, splats, faces, camera, rays):
    """The rays of M textures.

    Args:
        share: of the work, see ``pieces``.
        means, quats, scales: [N, 3], [N, 4], [N, 3] as in ``Gaussians``.
        splats, faces: [M] int64 as in ``Textures``; with three planes faces are 0.
        camera: float64; the first 16 of ``projection.CAMERA``.
        rays: [M * RAYS] float64 written.
    """
    m = splats.shape[0]
    while True:
        start = next_piece(share, pieces_of(m, PIECE)) * PIECE
        if start >= m:
            return
        for texture in range(start, min(m, start + PIECE)):
            i, o = at(splats[at(texture)]), texture * RAYS
            _, _, _, c, _, _, step_x, step_y, middle, length = _frame(
                camera, means, quats, scales, i, faces[at(texture)]
            )
            rays[at(o + MEAN_X)] = camera[12] * c[0] / c[2] + camera[14]
            rays[at(o + MEAN_Y)] = camera[13] * c[1] / c[2] + camera[15]
            _put(rays, o + STEP_X, _times(1.0 / length, step_x))
            _put(rays, o + STEP_Y, _times(1.0 / length, step_y))
            _put(rays, o + CENTRE, middle)
            _put(rays, o + TURN_X, _cross(step_x, middle))
            _put(rays, o + TURN_Y, _cross(step_y, middle))


@njit(nogil=True, cache=True, error_model="numpy")
def pull_rays(
    share, means, quats, scales, splats, faces, camera, grad_rays, grad_means, grad_quats, grad_scales, grad_camera
):
    """The gradient of :func:`find_rays`.

    Args:
        grad_rays: [M * RAYS] float64.
        grad_means, grad_quats, grad_scales: [N, 3], [N, 4], [N, 3], written for the splats that have a texture.
        grad_camera: [pieces, 12] float64 written: each piece's part of the gradient of V t.
    """
    m, total = splats.shape[0], np.empty(12, np.float64)
    while True:
        piece = next_piece(share, pieces_of(m, PIECE))
        start = piece * PIECE
        if start >= m:
            return
        total[:] = 0.0
        for texture in range(start, min(m, start + PIECE)):
            i, o, face = at(splats[at(texture)]), texture * RAYS, faces[at(texture)]
            # A splat that is not drawn may lie where numbers below are infinite; its gradient is 0, as it was.
            if not np.any(grad_rays[o : o + RAYS]):
                continue
            inverse, unit, rotation, c, per, rows, step_x, step_y, middle, length = _frame(
                camera, means, quats, scales, i, face
            )
            turn_x, turn_y = _three(grad_rays, o + TURN_X), _three(grad_rays, o + TURN_Y)
            # Of a product a x b the gradients are b x g and g x a.
            of_x = _plus(_times(1.0 / length, _three(grad_rays, o + STEP_X)), _cross(middle, turn_x))
            of_y = _plus(_times(1.0 / length, _three(grad_rays, o + STEP_Y)), _cross(middle, turn_y))
            of_middle = _plus(_cross(turn_x, step_x), _cross(turn_y, step_y))
            of_middle = _times(1.0 / length, _plus(_three(grad_rays, o + CENTRE), of_middle))
            per_z, per_x, per_y = 1.0 / c[2], 1.0 / camera[12], 1.0 / camera[13]
            at_x, at_y = grad_rays[at(o + MEAN_X)] * camera[12] * per_z, grad_rays[at(o + MEAN_Y)] * camera[13] * per_z
            of_c = (at_x, at_y, -(at_x * c[0] + at_y * c[1]) * per_z)
            c0, c1, c2 = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
            for axis in range(3):
                k, row, g = (face + axis) % 3, rows[axis], of_middle[axis]
                along = of_x[axis] * row[0] * per_x + of_y[axis] * row[1] * per_y
                of_c = (of_c[0] + g * row[0], of_c[1] + g * row[1], of_c[2] + g * row[2] + along)
                of_row = (
                    g * c[0] + of_x[axis] * c[2] * per_x,
                    g * c[1] + of_y[axis] * c[2] * per_y,
                    g * c[2],
                )
                grad_scales[i, k] = -dot(of_row, row) * per[axis]
                of_row = _times(per[axis], of_row)
                column, of_column = _column(rotation, k), _to_world(camera, of_row)
                for w in range(3):
                    total[w] += of_row[0] * column[w]
                    total[4 + w] += of_row[1] * column[w]
                    total[8 + w] += of_row[2] * column[w]
                if k == 0:
                    c0 = of_column
                elif k == 1:
                    c1 = of_column
                else:
                    c2 = of_column
            of_rotation = (c0[0], c1[0], c2[0], c0[1], c1[1], c2[1], c0[2], c1[2], c2[2])
            of_quaternion = quaternion_gradient(unit, inverse, of_rotation)
            for w in range(4):
                grad_quats[i, w] = of_quaternion[w]
            of_mean = _to_world(camera, of_c)
            for w in range(3):
                grad_means[i, w] = of_mean[w]
                total[w] += of_c[0] * means[i, w]
                total[4 + w] += of_c[1] * means[i, w]
                total[8 + w] += of_c[2] * means[i, w]
            total[3] += of_c[0]
            total[7] += of_c[1]
            total[11] += of_c[2]
        for k in range(12):
            grad_camera[piece, k] = total[k]
