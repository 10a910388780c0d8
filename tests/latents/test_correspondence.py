# SPDX-License-Identifier: Apache-2.0
"""Places that two views see: on a wall, where they are known in both, and hidden ones; weights by how far views are."""

import math
from dataclasses import replace
from typing import Tuple

import torch

from nts_plugins.latents.correspondence import CLOSE, PosedPicture, neighbours, pair_weights, pose_distances
from nts_plugins.surfaces.depth_views import DepthView
from nts_plugins.surfaces.depth_views import places_in as places_within

WIDTH, HEIGHT = 40, 30
K = torch.tensor([[35.0, 0.0, 19.5], [0.0, 34.0, 15.25], [0.0, 0.0, 1.0]])


def looking(x: float, turned: float = 0.0) -> torch.Tensor:
    """World to camera of a camera at (x, 0, 0), turned around the vertical axis."""
    made = torch.eye(4)
    made[0, 0] = made[2, 2] = math.cos(turned)
    made[0, 2], made[2, 0] = math.sin(turned), -math.sin(turned)
    made[:3, 3] = -made[:3, :3] @ torch.tensor([x, 0.0, 0.0])
    return made


def before_wall(x: float, distance: float = 4.0, turned: float = 0.0) -> PosedPicture:
    """A view of the wall z = distance."""
    viewmat = looking(x, turned)
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    rays = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1) @ torch.linalg.inv(K).T
    towards = rays @ viewmat[:3, :3]  # to the world's axes
    depth = distance / towards[..., 2]
    return PosedPicture(depth, viewmat, K, torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8))


def places_in(here: DepthView, there: DepthView, points: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    return places_within(here, there, points, CLOSE)


def middles() -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    return torch.stack([columns, rows], dim=-1).reshape(-1, 2)


def test_a_shift_along_a_wall_is_the_parallax() -> None:
    places, same = places_in(before_wall(0.0), before_wall(0.5), middles())
    expected = middles() - torch.tensor([35.0 * 0.5 / 4.0, 0.0])
    torch.testing.assert_close(places, expected, atol=1e-4, rtol=0)
    assert torch.equal(same, expected[:, 0] >= 0)


def test_a_turned_view_sees_the_same_points() -> None:
    here, there = before_wall(0.0), before_wall(0.7, turned=0.3)
    places, same = places_in(here, there, middles())
    assert same.sum() > 300
    back, again = places_in(there, here, places[same])
    # Depth is read in whole pixels, which on a slanted wall is off by half of one.
    assert again.float().mean() > 0.9
    assert (back - middles()[same]).norm(dim=1)[again].median() < 0.2


def test_hidden_and_unknown_places_do_not_correspond() -> None:
    here = before_wall(0.0)
    nearer = before_wall(0.5, distance=2.0)  # Something stands before the wall there.
    assert not places_in(here, nearer, middles())[1].any()
    unknown = replace(here, depth=torch.zeros_like(here.depth))
    assert not places_in(here, unknown, middles())[1].any()
    assert not places_in(unknown, here, middles())[1].any()
    behind = before_wall(0.0, turned=math.pi)
    behind = replace(here, viewmat=behind.viewmat)
    assert not places_in(here, behind, middles())[1].any()


def test_distances_grow_with_the_pose_and_weights_fall() -> None:
    viewmats = torch.stack([looking(0.0), looking(1.0), looking(3.0), looking(0.0, turned=0.5)])
    distances = pose_distances(viewmats)
    torch.testing.assert_close(distances, distances.T)
    assert distances.diag().max() < 1e-6
    # The six distances are 1, 3, 0, 2, 1, 3, and the median of those above 0 is 2 of the sorted 1, 1, 2, 3, 3.
    torch.testing.assert_close(distances[0, :3], torch.tensor([0.0, 0.5, 1.5]))
    torch.testing.assert_close(distances[0, 3], torch.tensor(math.sqrt(4 - 4 * math.cos(0.5))))
    weights = pair_weights(distances)
    assert weights.diag().min() > 0.99 and weights[0, 2] < weights[0, 1] < 1
    assert neighbours(distances, 2)[0] == [1, 3] and neighbours(distances, 9)[2] == [1, 0, 3]


def test_views_from_one_place_are_apart_by_how_they_look() -> None:
    distances = pose_distances(torch.stack([looking(0.0), looking(0.0, turned=0.2)]))
    assert torch.isfinite(distances).all() and distances[0, 1] > 0
