# SPDX-License-Identifier: Apache-2.0
"""First stage of the CPU backend: splats in the image plane of one camera, and their colours seen from it."""

import math
from typing import Any, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.kernels import harmonics, projection
from nts_plugins.kernels.gradients import once_differentiable
from nts_plugins.kernels.threads import run
from nts_plugins.rasterization._types import Settings
from nts_plugins.rasterization.sh import camera_centres


class View(NamedTuple):
    """N splats in the image plane of one camera; everything is zero for those that are not drawn.

    Conics and centres are float64: what a needle's picture and gradients lose in float32 comes from rounding these two.
    """

    radii: Tensor  # [N, 2] int32
    means2d: Tensor  # [N, 2]
    centres: Tensor  # [N, 2] float64, without gradient: means2d before it is rounded
    depths: Tensor  # [N]
    conics: Tensor  # [N, 3] float64
    opacities: Tensor  # [N]


def project(gaussians: Gaussians, viewmat: Tensor, K: Tensor, settings: Settings) -> View:
    """Project splats into one camera (``viewmat`` [4, 4], ``K`` [3, 3]). Differentiable with respect to the Gaussians
    and ``viewmat``."""
    means2d, centres, depths, conics, opacities, radii = _Project.apply(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, viewmat, K.detach(), settings
    )
    return View(radii, means2d, centres, depths, conics, opacities)


def pose_and_lens(viewmat: Tensor, K: Tensor) -> np.ndarray:
    """The first 16 numbers of ``projection.CAMERA``."""
    pose = viewmat.detach()[:3].double().numpy().ravel()
    return np.concatenate([pose, [float(K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))]])


def _camera_array(viewmat: Tensor, K: Tensor, settings: Settings) -> np.ndarray:
    """The camera as the projection kernels read it, see ``projection.CAMERA``."""
    camera = pose_and_lens(viewmat, K)
    fx, fy, cx, cy = camera[12:]
    plain = [
        *(settings.width, settings.height, settings.near_plane, settings.far_plane),
        *(settings.eps2d, settings.radius_clip, settings.rules.alpha_min, float(settings.antialiased)),
    ]
    for focal, centre, size in ((fx, cx, settings.width), (fy, cy, settings.height)):
        margin = 0.15 * size / focal
        plain += [-centre / focal - margin, (size - centre) / focal + margin]
    return np.concatenate([camera, np.array(plain, np.float64)])


class _Project(torch.autograd.Function):
    """Differentiable with respect to means, quats, scales, opacities and viewmat."""

    @staticmethod
    def forward(ctx: Any, means, quats, scales, opacities, viewmat, K, settings):
        arrays = [as_array(t) for t in (means, quats, scales, opacities)]
        camera = _camera_array(viewmat, K, settings)
        n = len(arrays[0])
        means2d, centres = np.empty((n, 2), np.float32), np.empty((n, 2), np.float64)
        depths, conics = np.empty(n, np.float32), np.empty((n, 3), np.float64)
        seen, radii = np.empty(n, np.float32), np.empty((n, 2), np.int32)
        rule = settings.rules.opacity_aware_extent
        run(projection.project_forward, *arrays, camera, rule, means2d, centres, depths, conics, seen, radii)
        ctx.save_for_backward(means, quats, scales, opacities)
        ctx.view = (camera, radii)
        outputs = [torch.from_numpy(array) for array in (means2d, centres, depths, conics, seen, radii)]
        ctx.mark_non_differentiable(outputs[1], outputs[-1])
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads):
        arrays = [as_array(t) for t in ctx.saved_tensors]
        camera, radii = ctx.view
        n = len(radii)
        grad_means2d, _, grad_depths, grad_conics, grad_seen, _ = grads
        incoming = [
            *(as_array(grad_means2d), as_array(grad_depths)),
            *(grad_conics.contiguous().numpy(), as_array(grad_seen)),
        ]
        outgoing = [np.empty_like(array) for array in arrays]
        pieces = camera_pieces(n)
        run(projection.project_backward, *arrays, camera, radii, *incoming, *outgoing, pieces)
        grad_viewmat = sum_of_pieces(pieces) if ctx.needs_input_grad[4] else None
        return (*(torch.from_numpy(array) for array in outgoing), grad_viewmat, None, None)


def camera_pieces(n: int) -> np.ndarray:
    """Room for what each piece of n splats, or textures, adds to the gradient of a camera."""
    return np.zeros((max(1, math.ceil(n / projection.PIECE)), 12), np.float64)


def sum_of_pieces(pieces: np.ndarray) -> Tensor:
    """The gradient of a view matrix [4, 4], whose last row has none."""
    grad_viewmat = torch.zeros(4, 4)
    grad_viewmat[:3] = torch.from_numpy(pieces.sum(axis=0).reshape(3, 4))
    return grad_viewmat


def view_colors(gaussians: Gaussians, viewmat: Tensor, degree: Optional[int], radii: Tensor) -> Tensor:
    """Colours [N, D] seen from one camera."""
    if gaussians.colors is not None:
        return gaussians.colors
    assert gaussians.sh is not None and degree is not None
    rest = gaussians.sh_rest
    if rest is not None and (degree + 1) ** 2 <= gaussians.sh.shape[1]:
        rest = None  # No band of it is read, so it gets no gradient either.
    return _Harmonics.apply(gaussians.means, camera_centres(viewmat[None])[0], gaussians.sh, rest, radii, degree)


class _Harmonics(torch.autograd.Function):
    """Differentiable with respect to means, the camera's centre and both parts of the coefficients."""

    @staticmethod
    def forward(ctx: Any, means, centre, first, rest, radii, degree):
        n, _, channels = first.shape
        colors = torch.empty(n, channels)
        inputs = _harmonics_inputs(means, centre, first, rest, radii)
        run(harmonics.colors_forward(channels), *inputs, channels, degree, flat(colors))
        ctx.save_for_backward(means, centre, first, rest, radii, colors)
        ctx.degree = degree
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_colors):
        *given, colors = ctx.saved_tensors
        inputs, colors, degree = _harmonics_inputs(*given), flat(colors), ctx.degree
        means, _, _, first, first_bands, rest, rest_bands = inputs
        n, channels = grad_colors.shape
        grad_first, grad_rest, grad_means = np.empty_like(first), np.empty_like(rest), np.empty_like(means)
        pieces = np.zeros((max(1, math.ceil(n / harmonics.PIECE)), 3), np.float64)
        run(
            harmonics.colors_backward(channels), *inputs, channels, degree, colors, flat(grad_colors),
            grad_first, grad_rest, grad_means, pieces,
        )  # fmt: skip
        return (
            torch.from_numpy(grad_means),
            torch.from_numpy(pieces.sum(axis=0).astype(np.float32)),
            torch.from_numpy(grad_first).view(n, first_bands, channels),
            torch.from_numpy(grad_rest).view(n, rest_bands, channels) if rest_bands else None,
            None,
            None,
        )


def _harmonics_inputs(
    means: Tensor, centre: Tensor, first: Tensor, rest: Optional[Tensor], radii: Tensor
) -> Tuple[Any, ...]:
    """What both kernels of ``kernels.harmonics`` read first."""
    rest_bands = 0 if rest is None else rest.shape[1]
    flat_rest = np.empty(0, np.float32) if rest is None else flat(rest)
    return as_array(means), as_array(centre), as_array(radii), flat(first), first.shape[1], flat_rest, rest_bands


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor as a contiguous array; floats as float32."""
    tensor = tensor.detach()
    return (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).contiguous().numpy()


def flat(tensor: Tensor) -> np.ndarray:
    """:func:`as_array` with one axis."""
    return as_array(tensor).reshape(-1)
