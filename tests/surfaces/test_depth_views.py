# SPDX-License-Identifier: Apache-2.0
"""Cameras with depth: points of their pixels and back, what others see of them, and depth as others have seen it."""

import math
from dataclasses import replace

import torch

from nts_plugins.data.cameras import world_to_camera
from nts_plugins.surfaces.depth_views import DepthView, covisible, places_in, splatted_depth
from tests.captures import ring_pose
from tests.surfaces.views import SIZE, K, of_plane, viewmat_at


def test_points_of_a_plane_lie_on_it() -> None:
    view = of_plane(viewmat_at([0.4, -0.2, 1.0], turned=0.3), [0.1, 0.2, 1.0], 5.0)
    pixels = view.pixels()
    assert view.size == SIZE and pixels.shape == (1200, 2)
    assert pixels[0].tolist() == [0.5, 0.5] and pixels[1].tolist() == [1.5, 0.5] and pixels[40].tolist() == [0.5, 1.5]
    points = view.points_at(pixels)
    torch.testing.assert_close(points @ torch.tensor([0.1, 0.2, 1.0]), torch.full((1200,), 5.0), atol=1e-4, rtol=0)


def test_points_by_hand() -> None:
    """A camera at (1, 2, 3) that looks along z, and a wall 2 before it."""
    view = DepthView(torch.full(SIZE, 2.0), viewmat_at([1.0, 2.0, 3.0]), K)
    found = view.points_at(torch.tensor([[19.5, 15.25], [37.0, 15.25], [19.5, 15.25 - 8.5]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 2, 5], [2.0, 2, 5], [1.0, 1.5, 5]]))
    pixels, depth = view.project(torch.tensor([[1.0, 2, 5], [2.0, 2, 5], [1.0, 2, 1]]))
    torch.testing.assert_close(pixels[:2], torch.tensor([[19.5, 15.25], [37.0, 15.25]]))
    assert depth.tolist() == [2.0, 2.0, -2.0] and torch.isfinite(pixels).all()


def test_projecting_and_lifting_are_inverse_of_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    view = DepthView(1.0 + 3.0 * torch.rand(SIZE, generator=generator), world_to_camera(ring_pose(0.7)[None])[0], K)
    pixels = torch.rand(500, 2, generator=generator) * torch.tensor([40.0, 30.0])
    back, depth = view.project(view.points_at(pixels))
    torch.testing.assert_close(back, pixels, atol=1e-3, rtol=0)
    torch.testing.assert_close(depth, view.depth_at(pixels), atol=1e-4, rtol=0)
    assert view.in_view(view.points_at(view.pixels())).all()


def test_depth_is_that_of_the_pixel_and_there_is_none_outside() -> None:
    depth = torch.arange(1.0, 1201.0).view(SIZE)
    view = DepthView(depth, torch.eye(4), K)
    places = torch.tensor([[0.0, 0.0], [0.99, 0.99], [1.0, 0.0], [39.99, 29.99], [3.2, 5.7]])
    assert view.depth_at(places).tolist() == [1, 1, 2, 1200, 5 * 40 + 4]
    outside = torch.tensor([[-0.01, 3.0], [3.0, -0.01], [40.0, 3.0], [3.0, 30.0], [float("nan"), 3.0], [1e20, 0.0]])
    assert not view.depth_at(outside).any()


def test_what_is_in_view_need_not_be_seen() -> None:
    view = DepthView(torch.zeros(SIZE), viewmat_at([0.0, 0, 0]), K)
    points = torch.tensor([[0.0, 0, 1], [0.0, 0, 100], [0.0, 0, -1], [9.0, 0, 1], [0.0, 0, 0]])
    assert view.in_view(points).tolist() == [True, True, False, False, False]
    assert view.in_view(points[:0]).shape == (0,)


def test_places_agree_within_the_tolerance() -> None:
    here, there = (of_plane(viewmat_at([x, 0.0, 0.0]), [0.0, 0, 1], 4.0) for x in (0.0, 0.5))
    pixels = here.pixels()
    places, same = places_in(here, there, pixels, 0.01)
    expected = pixels - torch.tensor([35.0 * 0.5 / 4.0, 0.0])
    torch.testing.assert_close(places, expected, atol=1e-4, rtol=0)
    assert torch.equal(same, expected[:, 0] >= 0)
    for factor, seen in ((1.009, True), (0.991, True), (1.012, False), (0.988, False)):
        other = replace(there, depth=there.depth * factor)
        assert bool(places_in(here, other, pixels, 0.01)[1].any()) is seen, factor


def test_what_stands_before_something_hides_it() -> None:
    """A board at half the way hides part of the wall from the training view, and the test view looks past it."""
    train = of_plane(viewmat_at([0.0, 0, 0]), [0.0, 0, 1], 4.0)
    train.depth[10:20, 15:25] = 2.0
    test = of_plane(viewmat_at([0.5, 0, 0]), [0.0, 0, 1], 4.0)
    mask = covisible(test, [train])
    assert mask.shape == SIZE and mask.dtype == torch.bool
    # A pixel of the test view shows what the training view would have 35 * 0.5 / 4 pixels further to the right.
    shift = 35.0 * 0.5 / 4.0
    columns = torch.arange(40) + 0.5 + shift
    hidden = (columns >= 15) & (columns < 25)
    beyond = columns >= 40
    expected = ~beyond.expand(30, 40).clone()
    expected[10:20] &= ~hidden
    assert torch.equal(mask, expected)
    # Another training view, from the other side, sees some of what is hidden; none undoes what one sees.
    other = of_plane(viewmat_at([1.0, 0, 0]), [0.0, 0, 1], 4.0)
    both = covisible(test, [train, other])
    assert torch.equal(both, mask | covisible(test, [other])) and both.sum() > mask.sum()
    assert not covisible(test, []).any()
    assert not covisible(replace(test, depth=torch.zeros(SIZE)), [train]).any(), "no depth is known"


def test_depth_as_others_have_seen_it() -> None:
    """Of a slanted plane from another place: what the others show of it, each pixel's depth is close to its own."""
    target = of_plane(viewmat_at([0.2, 0.1, 0.3]), [0.1, 0.2, 1.0], 5.0)
    others = [of_plane(viewmat_at([x, 0.0, 0.0]), [0.1, 0.2, 1.0], 5.0) for x in (-0.4, 0.5)]
    found = splatted_depth(replace(target, depth=torch.zeros(SIZE)), others)
    assert found.shape == SIZE and (found > 0).float().mean() > 0.95
    # A point lies up to half a pixel from the centre, and gaps are closed with what is a pixel away.
    steepest = max(float(target.depth.diff(dim=axis).abs().max()) for axis in (0, 1))
    error = (found - target.depth).abs()[found > 0]
    assert float(error.max()) < 2.1 * 2 * steepest and float(error.median()) < steepest
    assert covisible(replace(target, depth=found), others).sum() == (found > 0).sum()


def test_the_nearest_point_wins() -> None:
    view = DepthView(torch.zeros(SIZE), torch.eye(4), K)
    far, near = (DepthView(torch.full(SIZE, depth), torch.eye(4), K) for depth in (4.0, 2.0))
    near.depth[:, :20] = 0.0
    for order in ([far, near], [near, far]):
        found = splatted_depth(view, order)
        assert torch.equal(found, torch.where(torch.arange(40) < 20, 4.0, 2.0).expand(SIZE))


def holed(*holes: "tuple[slice, slice]") -> DepthView:
    seen = DepthView(torch.full(SIZE, 3.0), torch.eye(4), K)
    for rows, columns in holes:
        seen.depth[rows, columns] = 0.0
    return seen


def test_small_gaps_are_closed_and_large_holes_stay() -> None:
    view = DepthView(torch.zeros(SIZE), torch.eye(4), K)
    crack, pair, hole = (slice(4, 5), slice(8, 20)), (slice(8, 10), slice(5, 7)), (slice(14, 20), slice(10, 20))
    found = splatted_depth(view, [holed(crack, pair, hole)])
    assert (found[crack] == 3.0).all() and (found[pair] == 3.0).all()
    assert not found[hole].any() and found.count_nonzero() == 1200 - 60, "a large one does not shrink either"
    untouched = splatted_depth(view, [holed(crack, pair, hole)], closing=0)
    assert not untouched[crack].any() and untouched.count_nonzero() == 1200 - 12 - 4 - 60
    wide = splatted_depth(view, [holed((slice(14, 18), slice(10, 20)))], closing=2)
    assert wide.count_nonzero() == 1200


def test_gaps_take_the_nearest_depth_around_them() -> None:
    view, seen = DepthView(torch.zeros(SIZE), torch.eye(4), K), holed()
    seen.depth[:, 20:] = 5.0
    seen.depth[:, 20] = 0.0
    assert (splatted_depth(view, [seen])[:, 20] == 3.0).all()


def test_at_the_border_a_gap_counts_as_closed_by_what_lies_beyond() -> None:
    """Nobody knows what is there. It reaches no further than a gap does, and corners are no exception."""
    view = DepthView(torch.zeros(SIZE), torch.eye(4), K)
    found = splatted_depth(view, [holed((slice(0, 30), slice(0, 1)), (slice(29, 30), slice(0, 40)))])
    assert (found == 3.0).all()
    found = splatted_depth(view, [holed((slice(0, 30), slice(0, 3)))])
    assert not found[:, :3].any() and (found[:, 3:] == 3.0).all()


def test_nothing_in_view_is_no_depth() -> None:
    view = DepthView(torch.zeros(SIZE), viewmat_at([0.0, 0, 0], turned=math.pi), K)
    assert not splatted_depth(view, [holed()]).any()
    assert not splatted_depth(view, []).any()
    assert not splatted_depth(view, [holed((slice(0, 30), slice(0, 40)))]).any()
