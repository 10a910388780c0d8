# SPDX-License-Identifier: Apache-2.0
"""Planes of splats in float64: by hand, against double sums over splats, and against finite differences."""

import math

import pytest
import torch
from torch import Tensor

from nts_plugins.data.cameras import pixel_rays
from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import rasterize
from nts_plugins.surfaces.planes import (
    CHANNELS,
    STEEPEST,
    normals_of_depth,
    plane_channels,
    splat_normals,
    spread_of,
)

WIDTH, HEIGHT = 24, 18
K = torch.tensor([[20.0, 0, 11.5], [0, 22.0, 9.2], [0, 0, 1]], dtype=torch.float64)


def pose(seed: int = 0) -> Tensor:
    """[4, 4] some camera near the origin that looks along +z of the world, roughly."""
    generator = torch.Generator().manual_seed(seed)
    turned, _ = torch.linalg.qr(
        torch.eye(3, dtype=torch.float64) + 0.1 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    )
    turned = turned * torch.diagonal(turned).sign()
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = turned if torch.det(turned) > 0 else -turned
    viewmat[:3, 3] = torch.tensor([0.1, -0.05, 0.2])
    return viewmat


def discs_on_a_plane(normal: Tensor, distance: float, count: int = 400, size: float = 0.25) -> Gaussians:
    """Flat splats that lie in the plane of points x with x . normal = distance, turned at random about the normal."""
    generator = torch.Generator().manual_seed(1)
    normal = normal / normal.norm()
    side = torch.linalg.cross(normal, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    side = side / side.norm()
    up = torch.linalg.cross(normal, side)
    spread = 8.0 * (torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5)
    means = normal * distance + spread[:, :1] * side + spread[:, 1:] * up
    quats = quaternion(torch.stack([side, up, normal], dim=1)).expand(count, 4)
    scales = torch.tensor([size, size * 0.7, 1e-4], dtype=torch.float64).expand(count, 3)
    opacities = 0.3 + 0.6 * torch.rand(count, generator=generator, dtype=torch.float64)
    colors = torch.ones(count, 3, dtype=torch.float64)
    return Gaussians(means, quats.clone(), scales.clone(), opacities, colors=colors)


def quaternion(rotation: Tensor) -> Tensor:
    """[4] wxyz of a rotation [3, 3]."""
    from scipy.spatial.transform import Rotation

    if torch.det(rotation) < 0:
        rotation = rotation * torch.tensor([-1.0, 1.0, 1.0], dtype=rotation.dtype)
    x, y, z, w = Rotation.from_matrix(rotation.numpy()).as_quat()
    return torch.tensor([w, x, y, z], dtype=torch.float64)


def drawn(gaussians: Gaussians, viewmat: Tensor, dtype: torch.dtype = torch.float64):
    """Channels and opacity [H, W, ...] of the splats' planes, and the rays."""
    gaussians, viewmat, lens = gaussians.to(dtype), viewmat.to(dtype), K.to(dtype)
    center = -viewmat[:3, :3].T @ viewmat[:3, 3]
    normals = splat_normals(gaussians.means, gaussians.quats, gaussians.scales, center)
    channels = plane_channels(gaussians.means, normals, viewmat)
    raster = rasterize(gaussians, viewmat[None], lens[None], WIDTH, HEIGHT, channels=channels, backend="reference")
    assert raster.channels is not None
    return raster.channels[0], raster.alphas[0], pixel_rays(lens, WIDTH, HEIGHT)


@pytest.mark.parametrize("slant", [0.0, 35.0, 65.0])
def test_depth_of_a_plane_of_splats_is_exact_at_any_slant(slant: float) -> None:
    angle = math.radians(slant)
    normal = torch.tensor([math.sin(angle), 0.1, math.cos(angle)], dtype=torch.float64)
    normal = normal / normal.norm()
    viewmat, distance = pose(), 3.0
    channels, alphas, rays = drawn(discs_on_a_plane(normal, distance), viewmat)
    inverse, distortion = spread_of(channels, alphas, rays)
    center = -viewmat[:3, :3].T @ viewmat[:3, 3]
    expected = (distance - center @ normal) / (rays @ viewmat[:3, :3] @ normal)
    there = alphas[..., 0] > 0.05
    assert there.sum() > 150
    torch.testing.assert_close(1 / inverse[there][:, 0], expected[there], rtol=1e-9, atol=0)
    # One plane has no spread, however large its splats are on the screen. Centres' depths would have one.
    assert float(distortion.max()) < 1e-12
    mean = channels[..., :3][there] / alphas[there]
    torch.testing.assert_close(mean, (-normal).expand_as(mean), rtol=0, atol=1e-9)
    shown = normals_of_depth(1 / inverse.clamp_min(1e-3), (alphas > 0.05), rays, viewmat)
    inner = shown.abs().sum(dim=-1) > 0
    assert inner.sum() > 60 and not inner[0].any() and not inner[:, -1].any()
    torch.testing.assert_close(shown[inner], (-normal).expand_as(shown[inner]), rtol=0, atol=1e-7)


def some_splats(count: int = 12) -> Gaussians:
    generator = torch.Generator().manual_seed(4)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    means = (uniform(count, 3) - 0.5) * torch.tensor([1.5, 1.2, 2.0]) + torch.tensor([0.0, 0.0, 3.0])
    return Gaussians(
        means,
        torch.randn(count, 4, generator=generator, dtype=torch.float64),
        0.1 + 0.3 * uniform(count, 3),
        0.2 + 0.7 * uniform(count),
        colors=uniform(count, 3),
    )


def double_sum(gaussians: Gaussians, viewmat: Tensor) -> "tuple[Tensor, Tensor]":
    """Mean inverse depth and distortion from every splat's weight in every pixel and its plane there, pair by pair."""
    n = len(gaussians)
    one_hot = torch.eye(n, dtype=torch.float64)
    weights = rasterize(
        gaussians, viewmat[None], K[None], WIDTH, HEIGHT, channels=one_hot, backend="reference"
    ).channels[0]  # type: ignore[index]
    center = -viewmat[:3, :3].T @ viewmat[:3, 3]
    normals = splat_normals(gaussians.means, gaussians.quats, gaussians.scales, center) @ viewmat[:3, :3].T
    local = gaussians.means @ viewmat[:3, :3].T + viewmat[:3, 3]
    view = -local / local.norm(dim=-1, keepdim=True)
    lack = STEEPEST - (normals * view).sum(dim=-1, keepdim=True)
    normals = normals + lack.clamp_min(0) * view
    rays = pixel_rays(K, WIDTH, HEIGHT)
    # A point t r of the ray lies in the plane where t r . n = m . n.
    inverse = (rays @ normals.T) / (normals * local).sum(dim=-1)
    differences = (inverse[..., :, None] - inverse[..., None, :]) ** 2
    pairs = weights[..., :, None] * weights[..., None, :] * differences
    mean = (weights * inverse).sum(dim=-1) / weights.sum(dim=-1).clamp_min(1e-30)
    return mean, 0.5 * pairs.sum(dim=(-1, -2))


def test_mean_and_distortion_are_those_of_the_double_sum() -> None:
    gaussians, viewmat = some_splats(), pose(1)
    channels, alphas, rays = drawn(gaussians, viewmat)
    inverse, distortion = spread_of(channels, alphas, rays)
    mean, expected = double_sum(gaussians, viewmat)
    there = alphas[..., 0] > 1e-3
    torch.testing.assert_close(inverse[..., 0][there], mean[there], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(distortion[..., 0], expected, rtol=1e-7, atol=1e-12)
    assert float(expected.max()) > 1e-4


def test_float32_resolves_a_two_thousandth_of_the_depth() -> None:
    """Two walls, one behind the other: w_1 w_2 (1/z_1 - 1/z_2)^2 in every pixel, up to rounding."""
    near, far = (discs_on_a_plane(torch.tensor([0.0, 0, 1], dtype=torch.float64), d) for d in (3.0, 3.006))
    both = Gaussians(
        *(torch.cat([getattr(near, k), getattr(far, k)]) for k in ("means", "quats", "scales")),
        opacities=torch.cat([0.5 * near.opacities, far.opacities]),
        colors=torch.ones(2 * len(near), 3, dtype=torch.float64),
    )
    viewmat = torch.eye(4, dtype=torch.float64)
    exact, rounded = (spread_of(*drawn(both, viewmat, dtype)).distortion for dtype in (torch.float64, torch.float32))
    there = exact > 0.5 * exact.max()
    assert there.sum() > 20
    ratio = rounded.double()[there] / exact[there]
    assert float((ratio - 1).abs().mean()) < 0.2


def test_edge_on_splats_stay_at_their_depth() -> None:
    """The plane of a splat seen from the side passes through the camera, where its inverse depth would be anything."""
    means = torch.tensor([[0.4, 0.2, 2.0]], dtype=torch.float64)
    viewmat = torch.eye(4, dtype=torch.float64)
    for normal in ([0.0, 1.0, -0.1], [1.0, -2.0, 0.0]):
        turned = torch.tensor([normal], dtype=torch.float64)
        turned = turned / turned.norm()
        a = plane_channels(means, turned, viewmat)[0, 3:6]
        ray = means[0] / 2.0
        assert float(a @ ray) == pytest.approx(0.5, rel=1e-12)
        assert float(a.norm()) <= 1 / (STEEPEST * 2.0) * 1.1


def test_normals_point_to_the_camera_along_the_thinnest_axis() -> None:
    quats = torch.tensor([[1.0, 0, 0, 0]] * 3, dtype=torch.float64)
    scales = torch.tensor([[1, 2, 0.5], [0.1, 2, 0.5], [1, 0.2, 0.5]], dtype=torch.float64)
    means = torch.tensor([[0, 0, 5.0], [3.0, 0, 5], [0, -4, 5.0]], dtype=torch.float64)
    found = splat_normals(means, quats, scales.log(), torch.zeros(3, dtype=torch.float64))
    expected = torch.tensor([[0, 0, -1.0], [-1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_gradients_are_those_of_finite_differences() -> None:
    gaussians, viewmat = some_splats(3), pose(2)

    def channels(means: Tensor, quats: Tensor, viewmat: Tensor) -> Tensor:
        center = -viewmat[:3, :3].T @ viewmat[:3, 3]
        normals = splat_normals(means, quats, gaussians.scales, center)
        return plane_channels(means, normals, viewmat)

    leaves = [each.clone().requires_grad_() for each in (gaussians.means, gaussians.quats, viewmat)]
    assert torch.autograd.gradcheck(channels, leaves)
    rays = pixel_rays(K, WIDTH, HEIGHT)[5:8, 5:9]
    drawn_channels, alphas, _ = drawn(some_splats(), viewmat)
    patch = [drawn_channels[5:8, 5:9].clone().requires_grad_(), alphas[5:8, 5:9].clone().requires_grad_()]
    assert float(spread_of(*patch, rays).distortion.min()) > 0, "the test needs pixels away from the cut at zero"
    assert torch.autograd.gradcheck(lambda c, a: tuple(spread_of(c, a, rays)), patch)
    depth = (2 + torch.rand(4, 5, 1, dtype=torch.float64)).requires_grad_()
    valid = torch.ones(4, 5, 1, dtype=torch.bool)
    wide = pixel_rays(K, 5, 4)
    assert torch.autograd.gradcheck(lambda d: normals_of_depth(d, valid, wide, viewmat), [depth])


def test_nothing_is_nothing() -> None:
    empty = torch.zeros(HEIGHT, WIDTH, CHANNELS, requires_grad=True)
    spread = spread_of(empty, torch.zeros(HEIGHT, WIDTH, 1), pixel_rays(K.float(), WIDTH, HEIGHT))
    assert not spread.inverse_depth.any() and not spread.distortion.any()
    (spread.inverse_depth.sum() + spread.distortion.sum()).backward()
    assert empty.grad is not None and torch.isfinite(empty.grad).all()
    tiny = torch.ones(2, 2, 1)
    assert not normals_of_depth(tiny, tiny > 0, pixel_rays(K.float(), 2, 2), torch.eye(4)).any()
