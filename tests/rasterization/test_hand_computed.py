# SPDX-License-Identifier: Apache-2.0
"""Pictures small enough to work out with pencil and paper, on every backend."""

import math
from dataclasses import replace

import pytest
import torch

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import GSPLAT_1_4, GSPLAT_1_5, Rules, lift, rasterize

from .conftest import Backend
from .scenes import Scene, facing

CENTRE = (0, 8, 8)  # camera, row, column of the pixel that the optical axis of ``facing`` hits


def draw(scene: Scene, backend: Backend, **options):
    return rasterize(**scene.to(backend.device).arguments(), backend=backend.name, **options)


def near(backend: Backend) -> float:
    return 10 * backend.value_error if backend.name == "gsplat" else 1e-6


@pytest.mark.parametrize("opacity", [0.1, 0.5, 0.9, 1.0])
def test_one_round_splat(backend: Backend, opacity: float) -> None:
    """Its peak is min(cap, o); its profile is o exp(-r^2 / 2 (sigma^2 + 0.3)) down to 1/255, and nothing below."""
    raster = draw(facing([[0, 0, 4]], scales=[[0.5] * 3], opacities=[opacity]), backend)
    variance = (16 * 0.5 / 4) ** 2 + 0.3
    rows, columns = torch.meshgrid(torch.arange(17) - 8, torch.arange(17) - 8, indexing="ij")
    expected = opacity * torch.exp(-(rows**2 + columns**2) / (2 * variance))
    expected = torch.where(expected < 1 / 255, 0, expected).clamp_max(0.999)
    torch.testing.assert_close(raster.alphas[0, ..., 0].cpu(), expected, rtol=0, atol=near(backend))
    torch.testing.assert_close(
        raster.colors[0].cpu(), expected[..., None].expand(17, 17, 3), rtol=0, atol=near(backend)
    )
    assert 20 < (expected > 0).sum() < 200


@pytest.mark.parametrize("swapped", [False, True])
def test_two_splats(backend: Backend, swapped: bool) -> None:
    """Red covers 0.6 and blue 0.5 of the middle pixel; whichever is nearer comes first, whatever its index."""
    red, blue, green = torch.eye(3)[[0, 2, 1]]
    depths = (5.0, 3.0) if swapped else (3.0, 5.0)
    scene = facing([[0, 0, depths[0]], [0, 0, depths[1]]], opacities=[0.6, 0.5], colors=torch.stack([red, blue]))
    scene = replace(scene, background=green[None])
    raster = draw(scene, backend, depth="accumulated")
    weights = torch.tensor([0.3, 0.5]) if swapped else torch.tensor([0.6, 0.2])
    expected = weights[0] * red + weights[1] * blue + 0.2 * green
    torch.testing.assert_close(raster.colors[CENTRE].cpu(), expected, rtol=0, atol=near(backend))
    assert raster.alphas[CENTRE].item() == pytest.approx(0.8, abs=near(backend))
    assert raster.depth[CENTRE].item() == pytest.approx((weights @ torch.tensor(depths)).item(), abs=5 * near(backend))
    expected_depth = draw(scene, backend, depth="expected").depth[CENTRE].item()
    assert expected_depth == pytest.approx((weights @ torch.tensor(depths)).item() / 0.8, abs=5 * near(backend))

    feature = torch.zeros(1, 17, 17, 1)
    feature[CENTRE] = 3.0
    moved = scene.to(backend.device)
    lifted = lift(moved.gaussians, moved.viewmats, moved.Ks, feature.to(backend.device), backend=backend.name)
    torch.testing.assert_close(lifted.features[:, 0].cpu(), 3 * weights, rtol=0, atol=3 * near(backend))


def test_equal_depths_keep_the_order_of_indices(backend: Backend) -> None:
    colors = torch.rand(9, 3, generator=torch.Generator().manual_seed(0))
    raster = draw(facing([[0, 0, 4]] * 9, opacities=[0.25] * 9, colors=colors), backend)
    expected = sum(0.25 * 0.75**k * colors[k] for k in range(9))
    torch.testing.assert_close(raster.colors[CENTRE].cpu(), expected, rtol=0, atol=near(backend))


def test_a_pixel_stops_before_the_splat_that_would_finish_it(backend: Backend) -> None:
    """Five splats of 0.8 leave 0.2^5 = 3.2e-4. A sixth would leave 6.4e-5, so it and all behind it are left out.

    Among those behind are faint ones that alone would not cross the limit: the pixel is finished all the same.
    """
    opacities = [0.8] * 6 + [0.1] * 14
    scene = facing([[0, 0, 2 + 0.1 * k] for k in range(20)], opacities=opacities, colors=torch.eye(20)[:, :20])
    raster = draw(scene, backend)
    assert raster.alphas[CENTRE].item() == pytest.approx(1 - 0.2**5, abs=near(backend))
    expected = torch.tensor([0.8 * 0.2**k for k in range(5)] + [0.0] * 15)
    torch.testing.assert_close(raster.colors[CENTRE].cpu(), expected, rtol=0, atol=near(backend))
    assert not raster.colors[CENTRE][5:].any()


def test_an_alpha_at_its_cap_moves_nothing_but_colour(backend: Backend) -> None:
    scene = facing([[0, 0, 4]], scales=[[5.0] * 3], opacities=[1.0], colors=[[0.3, 0.6, 0.9]])
    scene, leaves = scene.to(backend.device).leaves()
    raster = rasterize(**scene.arguments(), backend=backend.name)
    assert raster.alphas[CENTRE].item() == pytest.approx(0.999, abs=near(backend))
    raster.colors[CENTRE].sum().backward()
    assert not leaves["opacities"].grad.any() and not leaves["means"].grad.any() and not leaves["scales"].grad.any()
    torch.testing.assert_close(leaves["colors"].grad.cpu(), torch.full((1, 3), 0.999), rtol=0, atol=near(backend))


@pytest.mark.parametrize("sigma", [0.01, 0.2, 1.0])
def test_antialiasing_keeps_the_energy_of_the_sharp_splat(backend: Backend, sigma: float) -> None:
    """A round splat of variance v has its opacity multiplied by v / (v + 0.3)."""
    scene = facing([[0, 0, 4]], scales=[[sigma] * 3], opacities=[0.9])
    variance = (16 * sigma / 4) ** 2
    expected = 0.9 * variance / (variance + 0.3)
    expected = expected if expected >= 1 / 255 else 0.0
    assert draw(scene, backend, antialiased=True).alphas[CENTRE].item() == pytest.approx(expected, abs=near(backend))


@pytest.mark.parametrize("channels", [1, 3, 4, 9, 64])
def test_background_reaches_every_channel(backend: Backend, channels: int) -> None:
    background, channel_background = torch.rand(1, 3) + 0.1, torch.rand(1, channels) + 0.1
    scene = replace(
        facing([[0, 0, 4]], opacities=[0.75], colors=torch.zeros(1, 3)),
        background=background,
        channels=torch.zeros(1, channels),
        channel_background=channel_background,
    )
    raster = draw(scene, backend, depth="accumulated")
    for picture, expected in ((raster.colors, background), (raster.channels, channel_background)):
        torch.testing.assert_close(picture[0, 0, 0].cpu(), expected[0])
        torch.testing.assert_close(picture[CENTRE].cpu(), 0.25 * expected[0], rtol=1e-5, atol=near(backend))
    assert raster.depth[0, 0, 0].item() == 0.0, "depth has no background"


@pytest.mark.parametrize(
    ("options", "drawn"),
    [
        ({}, True),
        ({"near_plane": 4.0}, True),
        ({"near_plane": 4.01}, False),
        ({"far_plane": 4.0}, True),
        ({"far_plane": 3.99}, False),
        ({"radius_clip": 3.0}, True),
        ({"radius_clip": 20.0}, False),
    ],
    ids=str,
)
def test_what_is_culled(backend: Backend, options: dict, drawn: bool) -> None:
    """The splat has radius 7 (three sigma, rounded up), and less by the rule that knows its opacity."""
    raster = draw(facing([[0, 0, 4]], scales=[[0.5] * 3]), backend, **options)
    assert bool(raster.alphas.any()) == drawn
    assert bool((raster.info["radii"] > 0).all()) == drawn


def test_radii_by_each_rule(backend: Backend, rules: Rules) -> None:
    """Standard deviations of 12 and 2 pixels before the blur, opacities 0.5 and 0.05."""
    if not backend.draws(rules):
        pytest.skip("not the installed gsplat")
    scene = facing([[0, 0, 4], [0, 0, 5]], scales=[[3.0, 0.5, 0.1], [3.75, 0.625, 0.1]], opacities=[0.5, 0.05])
    radii = draw(scene, backend, rules=rules).info["radii"].cpu().tolist()
    deviations = [math.sqrt(144.3), math.sqrt(4.3)]
    if rules == GSPLAT_1_4:
        assert radii == [[math.ceil(3 * deviations[0])] * 2]
    else:
        assert rules == GSPLAT_1_5
        reach = [min(3.33, math.sqrt(2 * math.log(255 * opacity))) for opacity in (0.5, 0.05)]
        assert radii == [[[math.ceil(factor * deviation) for deviation in deviations] for factor in reach]]


@pytest.mark.parametrize("outside", [False, True])
def test_covariance_is_that_of_the_pinhole_map(backend: Backend, outside: bool) -> None:
    """Sigma' = J Sigma J^T + 0.3 I with J by finite differences; beyond 1.3 fields of view at the clamped point."""
    width, height, focal = 24, 16, torch.tensor([20.0, 30.0], dtype=torch.float64)
    principal = torch.tensor([13.0, 7.0], dtype=torch.float64)
    mean = torch.tensor([1.7 if outside else 0.7, -0.4, 2.0], dtype=torch.float64)
    quat, scales = torch.tensor([0.9, 0.2, -0.3, 0.4]), torch.tensor([1.5, 0.4, 0.7])
    K = torch.tensor([[20.0, 0, 13], [0, 30, 7], [0, 0, 1]])
    gaussians = Gaussians(mean.float()[None], quat[None], scales[None], torch.tensor([0.9]), colors=torch.ones(1, 3))
    scene = Scene(gaussians, torch.eye(4)[None], K[None], width, height)
    info = draw(scene, backend).info

    point = mean.clone()
    if outside:
        limit = (width - 13) / 20 + 0.3 * 0.5 * width / 20
        assert point[0] / point[2] > limit
        point[0] = limit * point[2]
    columns = []
    for axis in torch.eye(3, dtype=torch.float64) * 1e-6:
        ahead, behind = ((focal * (point + step)[:2] / (point + step)[2] + principal) for step in (axis, -axis))
        columns.append((ahead - behind) / 2e-6)
    jacobian = torch.stack(columns, dim=1)
    w, x, y, z = (quat.double() / quat.double().norm()).tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    rotation = torch.eye(3, dtype=torch.float64) + 2 * w * cross + 2 * cross @ cross
    covariance = rotation @ torch.diag(scales.double() ** 2) @ rotation.T
    conic = torch.linalg.inv(jacobian @ covariance @ jacobian.T + 0.3 * torch.eye(2, dtype=torch.float64))
    expected = torch.stack([conic[0, 0], conic[0, 1], conic[1, 1]])
    torch.testing.assert_close(info["conics"][0, 0].cpu().double(), expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        info["means2d"][0, 0].cpu().double(), focal * mean[:2] / mean[2] + principal, rtol=1e-6, atol=1e-6
    )
    assert info["depths"][0, 0].item() == pytest.approx(2.0)


def test_colour_of_the_constant_and_the_linear_bands(backend: Backend) -> None:
    """Seen along +z only the third band counts: 0.5 + 0.2821 c0 + 0.4886 c2, and never below zero."""
    sh = torch.tensor([[0.4, -3.0, 0.8], [9.0, 9.0, 9.0], [0.5, -0.5, 0.0], [9.0, 9.0, 9.0]])[None]
    scene = facing([[0, 0, 4]], opacities=[0.5])
    scene = replace(scene, gaussians=replace(scene.gaussians, colors=None, sh=sh[:, :1], sh_rest=sh[:, 1:]))
    linear = 0.5 + 0.28209479 * sh[0, 0] + 0.48860251 * sh[0, 2]
    constant = 0.5 + 0.28209479 * sh[0, 0]
    for degree, expected in ((None, linear), (1, linear), (0, constant)):
        found = draw(scene, backend, sh_degree=degree).colors[CENTRE].cpu()
        torch.testing.assert_close(found, 0.5 * expected.clamp_min(0), rtol=0, atol=near(backend))
