# SPDX-License-Identifier: Apache-2.0
"""Poses of photographs, found by what splats look like from there; and the splats stay what they are."""

import math
from typing import Callable, Dict, List, Optional

import pytest
import torch
from torch import Tensor

from nts_plugins.data.cameras import world_to_camera
from nts_plugins.evaluation.poses import PoseRefinement, moved, refined_pose
from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import rasterize
from tests.captures import blobs, intrinsics, ring_pose

WIDTH, HEIGHT = 48, 36


def drawing(scene: Gaussians, seen: Optional[List[Tensor]] = None) -> Callable[[Tensor], Tensor]:
    """Draws the scene from a pose; keeps the poses it was asked for."""

    def draw(pose: Tensor) -> Tensor:
        if seen is not None:
            seen.append(pose.detach().clone())
        K = intrinsics(WIDTH, HEIGHT)[None]
        return rasterize(scene, world_to_camera(pose[None]), K, WIDTH, HEIGHT, backend="cpu").colors[0]

    return draw


def degrees_between(one: Tensor, other: Tensor) -> float:
    cosine = (float(torch.trace(one[:, :3].T @ other[:, :3])) - 1) / 2
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))


def distance_between(one: Tensor, other: Tensor) -> float:
    return float((one[:, 3] - other[:, 3]).norm())


def disturbed(pose: Tensor) -> Tensor:
    """By one degree, and by one per cent of the distance to the scene."""
    axis = torch.tensor([0.5, -0.7, 0.4])
    shift = torch.tensor([-0.4, 0.5, 0.6])
    shift = 0.01 * pose[:, 3].norm() * shift / shift.norm()
    return moved(pose, math.radians(1.0) * axis / axis.norm(), shift)


TRUE = ring_pose(0.6)[:3]


def test_a_pose_is_turned_about_the_camera_and_shifted_in_the_world() -> None:
    still = moved(TRUE, torch.zeros(3), torch.zeros(3))
    assert torch.equal(still, TRUE)
    turned = moved(TRUE, torch.tensor([0.0, 0.0, 0.5]), torch.zeros(3))
    assert torch.equal(turned[:, 3], TRUE[:, 3])
    rotation = torch.tensor([[math.cos(0.5), -math.sin(0.5), 0], [math.sin(0.5), math.cos(0.5), 0], [0, 0, 1]])
    # torch computes the exponential with an error of two hundred-thousandths there.
    torch.testing.assert_close(turned[:, :3], rotation @ TRUE[:, :3], atol=5e-5, rtol=0)
    for axis, (start, end) in {0: (1, 2), 1: (2, 0), 2: (0, 1)}.items():
        quarter = moved(torch.eye(4)[:3], math.pi / 2 * torch.eye(3)[axis], torch.zeros(3))
        torch.testing.assert_close(quarter[:, start], torch.eye(3)[end], atol=1e-6, rtol=0)
    shifted = moved(TRUE, torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(shifted[:, 3] - TRUE[:, 3], torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(shifted[:, :3], TRUE[:, :3])


def test_a_degree_and_a_per_cent_are_found_back() -> None:
    draw, start = drawing(blobs()), disturbed(TRUE)
    with torch.no_grad():
        photograph, before = draw(TRUE), float((draw(start) - draw(TRUE)).abs().mean())
    assert degrees_between(start, TRUE) == pytest.approx(1.0, abs=0.02)
    found, error = refined_pose(draw, photograph, start, PoseRefinement(200, 1e-3, 2e-3))
    assert not found.requires_grad and found.shape == (3, 4)
    assert error < 0.1 * before
    assert degrees_between(found, TRUE) < 0.15 and distance_between(found, TRUE) < 0.2 * distance_between(start, TRUE)
    torch.testing.assert_close(found[:, :3] @ found[:, :3].T, torch.eye(3), atol=1e-5, rtol=0)


def test_it_also_works_where_gradients_are_off() -> None:
    draw, start = drawing(blobs()), disturbed(TRUE)
    with torch.no_grad():
        photograph = draw(TRUE)
        _, first = refined_pose(draw, photograph, start, PoseRefinement(0))
        found, error = refined_pose(draw, photograph, start, PoseRefinement(10, 1e-3, 2e-3))
    assert error < first and not torch.equal(found, start)


def test_no_steps_take_the_pose_as_it_is() -> None:
    seen: List[Tensor] = []
    draw, start = drawing(blobs(), seen), disturbed(TRUE)
    photograph = draw(TRUE).detach()
    found, error = refined_pose(draw, photograph, start, PoseRefinement(steps=0))
    assert torch.equal(found, start) and len(seen) == 2, "drawn once, for its error"
    assert error == pytest.approx(float((draw(start) - photograph).abs().mean().detach()), rel=1e-5)


def test_the_best_pose_that_was_met_is_kept() -> None:
    """With steps as long as these it wanders off, and comes back with the best of all."""
    seen: List[Tensor] = []
    draw, start = drawing(blobs(), seen), disturbed(TRUE)
    photograph = draw(TRUE).detach()
    seen.clear()
    found, error = refined_pose(draw, photograph, start, PoseRefinement(12, 0.05, 0.2))
    poses = list(seen)
    errors = [float((draw(pose) - photograph).abs().mean().detach()) for pose in poses]
    assert len(poses) == 13 and torch.equal(poses[0], start), "the last step's pose is looked at, too"
    best = min(range(13), key=errors.__getitem__)
    assert torch.equal(found, poses[best]) and error == pytest.approx(errors[best], rel=1e-4)
    assert errors[-1] > 2 * errors[best], "it did wander off"
    # From the true pose nothing is better.
    found, error = refined_pose(draw, photograph, TRUE, PoseRefinement(3, 0.05, 0.2))
    assert torch.equal(found, TRUE) and error == 0.0


def test_pixels_outside_of_the_mask_do_not_count() -> None:
    draw, start = drawing(blobs()), disturbed(TRUE)
    photograph = draw(TRUE).detach()
    mask = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[:, WIDTH // 2 :] = False
    settings = PoseRefinement(60, 1e-3, 2e-3)
    spoilt = torch.where(mask, photograph, torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0)))
    masked, error = refined_pose(draw, photograph, start, settings, mask)
    again, same = refined_pose(draw, spoilt, start, settings, mask)
    assert torch.equal(masked, again) and error == same
    whole, _ = refined_pose(draw, spoilt, start, settings)
    assert not torch.equal(whole, again)
    left = (draw(masked) - photograph)[:, : WIDTH // 2]
    assert error == pytest.approx(float(left.abs().mean().detach()), rel=1e-3), "the mean is over the mask"
    full = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    plain, first = refined_pose(draw, photograph, start, PoseRefinement(3))
    with_mask, second = refined_pose(draw, photograph, start, PoseRefinement(3), full)
    assert torch.equal(plain, with_mask) and first == second
    nothing, error = refined_pose(draw, photograph, start, PoseRefinement(2), torch.zeros_like(full))
    assert error == 0.0 and torch.equal(nothing, start)


def test_rotation_and_position_have_rates_of_their_own() -> None:
    """Adam's first step is as long as its rate, in each number."""
    seen: List[Tensor] = []
    draw, start = drawing(blobs(), seen), disturbed(TRUE)
    photograph = draw(TRUE).detach()
    seen.clear()
    refined_pose(draw, photograph, start, PoseRefinement(1, turn_rate=2e-3, shift_rate=5e-3))
    first, second = seen
    steps = (second - first)[:, 3].abs()
    torch.testing.assert_close(steps, torch.full((3,), 5e-3), atol=1e-5, rtol=0)
    assert degrees_between(first, second) == pytest.approx(math.degrees(2e-3 * math.sqrt(3)), rel=0.02)
    defaults = PoseRefinement()
    assert (defaults.steps, defaults.turn_rate, defaults.shift_rate) == (500, 1e-4, 3e-4)


def test_splats_get_no_gradient() -> None:
    values: Dict[str, Tensor] = {name: value.clone() for name, value in vars(blobs()).items() if value is not None}
    for value in values.values():
        value.requires_grad_()
    draw = drawing(Gaussians(**values))
    photograph = draw(TRUE).detach()
    start = disturbed(TRUE).requires_grad_()
    before = {name: value.detach().clone() for name, value in values.items()}
    found, _ = refined_pose(draw, photograph, start, PoseRefinement(3))
    assert start.grad is None and not torch.equal(found, start)
    for name, value in values.items():
        assert value.grad is None and torch.equal(value, before[name]), name
