# SPDX-License-Identifier: Apache-2.0
"""Splats as pieces of planes: where a pixel's ray meets each plane, from sums that any compositor makes.

On the ray r = (x, y, 1) of a camera, the plane through a splat's centre m with normal n (camera frame) lies at the
depth z with 1 / z = a . r, where a = n / (n . m): the inverse depth of a plane is linear in the pixel. So the mean over
a pixel's splats, with the weights w of the compositor, needs no more than the sum of w a, and the mean square no more
than the sum of w a a^T, and both are sums of vectors that do not depend on the pixel. PGSR (Chen et al. 2024) draws
sums of w n and w n . m and divides one by the other, which gives one plane a pixel; the spread of depth, which 2DGS
(Huang et al. 2024, section 5) calls distortion and sums up in a kernel of its own, comes here from the same pass.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nts_plugins.gaussians.rotations import rotation_matrices

STEEPEST = 0.1
"""Least cosine between a splat's normal and the direction to the camera that its plane is taken to have. An edge-on
splat covers a line of the picture, on which its plane says nothing, and next to which it would be anywhere."""

CHANNELS = 12
"""Normal, a, and the upper triangle of a a^T."""

_ROWS, _COLUMNS = (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)


class Spread(NamedTuple):
    """What the composited planes say about each pixel."""

    inverse_depth: Tensor
    """[H, W, 1] weighted mean of 1 / z, divided by the opacity; 0 where nothing is."""
    distortion: Tensor
    """[H, W, 1] sum over pairs of splats of w_i w_j (1/z_i - 1/z_j)^2, each pair once; scene units to the power -2."""


def splat_normals(means: Tensor, quats: Tensor, scales: Tensor, center: Tensor) -> Tensor:
    """[N, 3] world-frame unit axes of the smallest scale, turned towards a camera.

    Differentiable with respect to ``quats``; which axis, and which of its ends, are decisions without a gradient.

    Args:
        means: [N, 3] world frame.
        quats: [N, 4] wxyz.
        scales: [N, 3], linear or logarithmic.
        center: [3] of the camera, world frame.
    """
    thinnest = scales.argmin(dim=-1)[:, None, None].expand(-1, 3, 1)
    normals = rotation_matrices(quats).gather(2, thinnest)[..., 0]
    away = ((means - center) * normals).sum(dim=-1, keepdim=True) > 0
    return torch.where(away, -normals, normals)


def plane_channels(means: Tensor, normals: Tensor, viewmat: Tensor) -> Tensor:
    """[N, CHANNELS] what to composite. Differentiable with respect to all arguments.

    Args:
        means: [N, 3] world frame.
        normals: [N, 3] world frame, unit length, towards the camera.
        viewmat: [4, 4] world to camera, OpenCV axes.
    """
    rotation = viewmat[:3, :3]
    centers = means @ rotation.T + viewmat[:3, 3]
    distance = centers.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    towards = -centers / distance
    local = normals @ rotation.T
    facing = (local * towards).sum(dim=-1, keepdim=True)
    # Tilted towards the camera until it faces it by STEEPEST; the plane still goes through the centre.
    tilted = local + (STEEPEST - facing).clamp_min(0.0) * towards
    a = -tilted / (distance * facing.clamp_min(STEEPEST))
    return torch.cat([normals, a, a[:, _ROWS] * a[:, _COLUMNS]], dim=-1)


def spread_of(channels: Tensor, alphas: Tensor, rays: Tensor) -> Spread:
    """Mean and spread of inverse depth in each pixel. Differentiable with respect to ``channels`` and ``alphas``.

    In float32 the distortion of splats whose depths differ by less than about a two-thousandth is lost in rounding.

    Args:
        channels: [H, W, CHANNELS] composited over zeros.
        alphas: [H, W, 1] composited opacity.
        rays: [H, W, 3], see :func:`nts_plugins.data.cameras.pixel_rays`.
    """
    _, a, products = channels.split([3, 3, 6], dim=-1)
    first = (a * rays).sum(dim=-1, keepdim=True)
    twice = rays.new_tensor([1.0, 2.0, 2.0, 1.0, 2.0, 1.0])  # The lower triangle is that of the upper one.
    second = (products * twice * rays[..., _ROWS] * rays[..., _COLUMNS]).sum(dim=-1, keepdim=True)
    there = alphas > 1e-6
    mean = torch.where(there, first / torch.where(there, alphas, 1.0), 0.0)
    return Spread(mean, (alphas * second - first * first).clamp_min(0.0))


def normals_of_depth(depth: Tensor, valid: Tensor, rays: Tensor, viewmat: Tensor) -> Tensor:
    """[H, W, 3] world-frame unit normals, towards the camera, of the surface that a depth map shows.

    Cross products of the differences between the points of neighbouring pixels on both sides. 0 at the border and where
    one of the five pixels is not valid. Differentiable with respect to ``depth``.

    Args:
        depth: [H, W, 1] z-depth, scene units.
        valid: [H, W, 1] bool.
        rays: [H, W, 3], see :func:`nts_plugins.data.cameras.pixel_rays`.
        viewmat: [4, 4] world to camera.
    """
    height, width = depth.shape[:2]
    if min(height, width) < 3:
        return torch.zeros_like(rays)
    points = depth * rays
    right = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    known = valid[1:-1, 1:-1] & valid[1:-1, 2:] & valid[1:-1, :-2] & valid[2:, 1:-1] & valid[:-2, 1:-1]
    normals = F.normalize(torch.linalg.cross(down, right, dim=-1), dim=-1, eps=1e-20) @ viewmat[:3, :3]
    return F.pad(torch.where(known, normals, 0.0), (0, 0, 1, 1, 1, 1))
