# SPDX-License-Identifier: Apache-2.0
"""Splats from seed points: shapes, values, and clouds that are too small, doubled or broken."""

import math

import pytest
import torch

from nts_plugins.errors import InputError
from nts_plugins.gaussians import Gaussians
from nts_plugins.gaussians.initialise import from_points, neighbour_distance, random_in_cube, rgb_to_sh, sh_to_rgb


@pytest.mark.parametrize(("sh_degree", "rest"), [(0, 0), (1, 3), (3, 15)])
def test_names_shapes_and_values(sh_degree: int, rest: int) -> None:
    xyz = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    rgb = torch.randint(0, 256, (20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    params = from_points(xyz, rgb, sh_degree=sh_degree)
    shapes = {name: tuple(value.shape) for name, value in params.items()}
    assert shapes == {
        "means": (20, 3),
        "scales": (20, 3),
        "quats": (20, 4),
        "opacities": (20, 1),
        "features_dc": (20, 3),
        "features_rest": (20, rest, 3),
    }
    assert all(value.dtype == torch.float32 for value in params.values())
    assert torch.equal(params["means"], xyz) and params["means"].data_ptr() != xyz.data_ptr()
    assert torch.allclose(params["quats"].norm(dim=-1), torch.ones(20))
    assert torch.allclose(torch.sigmoid(params["opacities"]), torch.full((20, 1), 0.1))
    assert torch.allclose(sh_to_rgb(params["features_dc"]), rgb / 255.0, atol=1e-6)
    assert (params["features_rest"] == 0).all()
    Gaussians(params["means"], params["quats"], params["scales"].exp(), torch.sigmoid(params["opacities"])[:, 0],
              sh=params["features_dc"][:, None], sh_rest=params["features_rest"])  # fmt: skip


def test_scales_are_the_mean_distance_to_three_neighbours() -> None:
    xyz = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.cdist(xyz, xyz).sort(dim=-1).values[:, 1:4].mean(dim=-1)
    assert torch.allclose(neighbour_distance(xyz), expected, atol=1e-5)
    params = from_points(xyz, opacity=0.5, scale=0.1)
    assert torch.allclose(params["scales"].exp(), 0.1 * expected[:, None].expand(50, 3), atol=1e-6)
    assert torch.allclose(torch.sigmoid(params["opacities"]), torch.tensor(0.5))


@pytest.mark.parametrize(
    ("xyz", "expected"),
    [
        ([[1, 2, 3]], [0.1]),
        ([[1, 2, 3]] * 7, [0.1] * 7),
        ([[0, 0, 0], [2, 0, 0]], [2, 2]),
        ([[0, 0, 0], [1, 0, 0], [3, 0, 0]], [2, 1.5, 2.5]),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [2, 0, 0]], [2] * 5),
    ],
    ids=["one", "all at one place", "two", "three", "doubled"],
)
def test_few_and_doubled_points(xyz: list, expected: list) -> None:
    points = torch.tensor(xyz, dtype=torch.float32)
    assert neighbour_distance(points).tolist() == pytest.approx(expected)
    assert torch.isfinite(from_points(points)["scales"]).all()


def test_near_duplicates_are_not_specks() -> None:
    xyz = torch.rand(100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    xyz[:4] = xyz[0] + torch.arange(4, dtype=torch.float64)[:, None] * 1e-15
    distance = neighbour_distance(xyz)
    assert torch.allclose(distance[:4], 1e-4 * distance.median(), rtol=0.1)


def test_random_numbers_follow_the_global_generator() -> None:
    clouds = []
    for state in (0, 0, 1):
        torch.manual_seed(state)
        clouds.append(random_in_cube(500, 4.0))
    first, same, other = clouds
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in ("means", "quats", "features_dc"))


def test_random_cube_is_filled_evenly() -> None:
    torch.manual_seed(0)
    params = random_in_cube(5000, 4.0, sh_degree=1)
    means = params["means"]
    assert means.min() > -2.0 and means.max() < 2.0
    assert torch.allclose(means.var(dim=0), torch.full((3,), 16 / 12), atol=0.06)
    colours = sh_to_rgb(params["features_dc"])
    assert colours.min() >= -1e-6 and colours.max() <= 1 + 1e-6
    # Uniform on the sphere of quaternions: every component has variance 1/4, and none correlate.
    assert torch.allclose(params["quats"].T.cov(), torch.eye(4) / 4, atol=0.02)
    # In a Poisson cloud of density d the mean distance to the first three neighbours is 0.733 d^(-1/3).
    density = 5000 / 4.0**3
    assert params["scales"].exp().mean().item() == pytest.approx(0.733 * density ** (-1 / 3), rel=0.05)


def test_points_without_colours_are_grey() -> None:
    xyz = torch.rand(4, 3)
    for rgb in (None, torch.zeros(0, 3)):
        assert torch.equal(from_points(xyz, rgb)["features_dc"], torch.zeros(4, 3))


def test_colours_round_trip() -> None:
    rgb = torch.rand(9, 3, dtype=torch.float64)
    assert torch.allclose(sh_to_rgb(rgb_to_sh(rgb)), rgb)
    assert rgb_to_sh(torch.tensor(1.0)).item() == pytest.approx(0.5 * 2 * math.sqrt(math.pi))


def test_broken_points_are_named() -> None:
    with pytest.raises(InputError, match=r"\(0, 3\)"):
        from_points(torch.zeros(0, 3))
    with pytest.raises(InputError, match=r"\(5, 2\)"):
        from_points(torch.zeros(5, 2))
    xyz = torch.rand(5, 3)
    xyz[1, 2], xyz[3, 0] = math.nan, math.inf
    with pytest.raises(InputError, match="2 of 5 seed points are not finite"):
        from_points(xyz)
    with pytest.raises(InputError, match=r"colours have shape \(4, 3\)"):
        from_points(torch.rand(5, 3), torch.rand(4, 3))
    with pytest.raises(InputError, match="0 splats"):
        random_in_cube(0)


@pytest.mark.parametrize("options", [{"opacity": 0.0}, {"opacity": 1.0}, {"scale": 0.0}, {"scale": -1.0}])
def test_opacity_and_scale_are_in_range(options: dict) -> None:
    with pytest.raises(InputError, match="cannot start"):
        from_points(torch.rand(5, 3), **options)
