# SPDX-License-Identifier: Apache-2.0
"""The pixels that get a splat, and views that show nothing of each other."""

import math

import pytest
import torch

from nts_plugins.probe.points import ProbePoints, chosen_pixels, grid_of, lone_views
from nts_plugins.surfaces.depth_views import DepthView

K = torch.tensor([[20.0, 0.0, 10.0], [0.0, 20.0, 8.0], [0.0, 0.0, 1.0]])


def view_at(x: float = 0.0, turned: float = 0.0, distance: float = 4.0) -> DepthView:
    """A camera at (x, 0, 0), turned around the vertical axis, with a wall before it."""
    viewmat = torch.eye(4)
    viewmat[0, 0] = viewmat[2, 2] = math.cos(turned)
    viewmat[0, 2], viewmat[2, 0] = -math.sin(turned), math.sin(turned)
    viewmat[:3, 3] = -viewmat[:3, :3] @ torch.tensor([x, 0.0, 0.0])
    return DepthView(torch.full((16, 20), distance), viewmat, K)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7, 40])
@pytest.mark.parametrize("size", [(16, 20), (5, 1)])
def test_each_square_has_one_pixel_of_its_own(size: "tuple[int, int]", stride: int) -> None:
    rows, columns = grid_of(size, stride)
    assert len(rows) == len(columns) == math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    assert int(rows.max()) < size[0] and int(columns.max()) < size[1]
    squares = {(int(row) // stride, int(column) // stride) for row, column in zip(rows, columns, strict=True)}
    assert len(squares) == len(rows)


def test_pixels_lie_in_the_middle_of_their_squares() -> None:
    rows, columns = grid_of((6, 9), 3)
    assert rows.tolist() == [1, 1, 1, 4, 4, 4] and columns.tolist() == [1, 4, 7, 1, 4, 7]
    rows, columns = grid_of((2, 3), 1)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_pixels_without_depth_and_the_least_sure_get_none() -> None:
    view = view_at()
    view.depth[:, :10] = 0.0
    confidence = torch.arange(16.0)[:, None].expand(16, 20) / 16
    rows, columns = chosen_pixels(view, confidence, 1, 0.0)
    assert len(rows) == 16 * 10 and int(columns.min()) == 10
    rows, columns = chosen_pixels(view, confidence, 1, 0.25)
    assert len(rows) == 12 * 10 and int(rows.min()) == 4, "the share itself is left in"
    rows, columns = chosen_pixels(view, confidence, 4, 0.25)
    assert sorted(set(rows.tolist())) == [6, 10, 14] and sorted(set(columns.tolist())) == [10, 14, 18]


def test_views_are_alone_where_no_other_shows_what_they_show() -> None:
    here, beside, away = view_at(), view_at(0.5), view_at(turned=math.pi)
    assert lone_views([here, beside]) == []
    assert lone_views([here, beside, away]) == [2]
    assert lone_views([here, away]) == [0, 1]
    assert lone_views([here]) == [0], "there is no other one"
    # That something stands before it there does not matter.
    assert lone_views([here, view_at(0.5, distance=1.0)]) == []


def test_one_may_show_what_the_other_does_not() -> None:
    """Behind the back of the second camera lies all that it has in view of the first one's place."""
    wide = view_at(distance=4.0)
    near = view_at()
    near = DepthView(torch.full((16, 20), 4.0), near.viewmat.clone(), K)
    near.viewmat[2, 3] = -3.0  # Three units further ahead, where it sees past the first one's wall.
    assert lone_views([wide, near]) == []
    blind = DepthView(torch.zeros(16, 20), near.viewmat, K)
    assert lone_views([wide, blind]) == [1], "what knows no depth shows nothing"


def test_points_have_a_length() -> None:
    points = ProbePoints(torch.zeros(5, 3), torch.zeros(5), torch.zeros(5, 2))
    assert len(points) == 5 and points.colors is None and points.features is None and not points.control
