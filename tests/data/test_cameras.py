# SPDX-License-Identifier: Apache-2.0
"""Where splats start when nothing says where the scene is, and how far cameras lie apart."""

import math

import pytest
import torch

from nts_plugins.data.cameras import camera_spacing, region_in_view


def looking(position: "list[float]", target: "list[float]") -> torch.Tensor:
    """[3, 4] camera-to-world in OpenGL axes."""
    eye, aim = torch.tensor(position), torch.tensor(target)
    backward = torch.nn.functional.normalize(eye - aim, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), backward), dim=0)
    return torch.stack([right, torch.linalg.cross(backward, right), backward, eye], dim=1)


def test_cameras_around_an_object() -> None:
    angles = [k * math.pi / 4 for k in range(8)]
    target = [5.0, -2.0, 1.0]
    poses = [looking([5 + 4 * math.cos(a), -2 + 4 * math.sin(a), 1.0], target) for a in angles]
    center, side = region_in_view(torch.stack(poses))
    assert center == pytest.approx(target, abs=1e-4) and side == pytest.approx(2.6, abs=1e-3)


def test_cameras_that_look_outwards() -> None:
    angles = [k * math.pi / 4 for k in range(8)]
    poses = [looking([math.cos(a), math.sin(a), 0.0], [9 * math.cos(a), 9 * math.sin(a), 0.0]) for a in angles]
    center, side = region_in_view(torch.stack(poses))
    assert center == pytest.approx([0.0, 0.0, 0.0], abs=1e-5) and side == pytest.approx(3.0, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parallel_cameras(count: int) -> None:
    poses = [looking([0.1 * k, 0.0, 0.0], [0.1 * k, 7.0, 0.0]) for k in range(count)]
    center, side = region_in_view(torch.stack(poses))
    assert math.isfinite(sum(center)) and side > 0


def test_spacing_is_the_mean_distance_to_the_nearest_camera() -> None:
    poses = torch.eye(4)[:3].repeat(3, 1, 1)
    poses[:, 0, 3] = torch.tensor([0.0, 1.0, 4.0])
    assert camera_spacing(poses) == pytest.approx((1 + 1 + 3) / 3)
    assert camera_spacing(poses[:1]) == 0.0


@pytest.mark.parametrize("error", [0.0, 1e-6])
def test_a_camera_that_films_many_moments_stands_at_one_place(error: float) -> None:
    poses = torch.eye(4)[:3].repeat(3, 1, 1)
    poses[:, 0, 3] = torch.tensor([0.0, 1.0, 4.0])
    filmed = poses.repeat(5, 1, 1)
    filmed[:, :, 3] += error * torch.randn(15, 3, generator=torch.Generator().manual_seed(1))
    assert camera_spacing(filmed) == pytest.approx(camera_spacing(poses), abs=10 * error)
    assert camera_spacing(poses[:1].repeat(5, 1, 1)) == camera_spacing(poses[:0]) == 0.0
