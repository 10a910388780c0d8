# SPDX-License-Identifier: Apache-2.0
"""Where splats gather."""

import numpy as np
import pytest

from nts_plugins.surfaces.places import LEAST, places_of


def cluster(center, count: int, side: float = 0.2, seed: int = 0) -> np.ndarray:
    """Evenly distributed in a cube."""
    return np.array(center) + side * (np.random.default_rng(seed).random((count, 3)) - 0.5)


def test_two_clusters_are_two_places_and_strays_are_none():
    first, second = cluster((0, 0, 0), 300), cluster((2, 0, 1), 200, seed=1)
    strays = np.array([[-5.0, 0, 0], [0, 7, 0], [1, 1, 9]])
    means = np.concatenate([strays, first, second])
    places = places_of(means, np.ones(len(means)))
    assert [place.members.tolist() for place in places] == [list(range(3, 303)), list(range(303, 503))]
    for place, center in zip(places, ((0, 0, 0), (2, 0, 1)), strict=True):
        np.testing.assert_allclose((place.low + place.high) / 2, center, atol=0.01)
        np.testing.assert_allclose(place.high - place.low, 0.2 * 0.98, atol=0.01)


def test_the_place_of_most_weight_comes_first():
    few, many = cluster((0, 0, 0), 50), cluster((2, 0, 0), 100, seed=1)
    means, weights = np.concatenate([many, few]), np.repeat([0.1, 0.9], [100, 50])
    assert [len(place.members) for place in places_of(means, weights)] == [50, 100]
    assert [len(place.members) for place in places_of(means, np.ones(150))] == [100, 50]


def test_small_places_are_left_out_unless_there_is_nothing_else():
    big, small = cluster((0, 0, 0), 1000, side=0.4), cluster((3, 0, 0), 15, side=0.05, seed=1)
    means = np.concatenate([big, small])
    assert len(small) < LEAST * len(means)
    assert [len(place.members) for place in places_of(means, np.ones(len(means)))] == [1000]
    heavy = np.where(np.arange(len(means)) < 1000, 0.01, 1.0)
    assert [len(place.members) for place in places_of(means, heavy)] == [15, 1000]


def test_a_box_leaves_floaters_out():
    """Of 1001 splats along a line the hundredth part is trimmed at each end."""
    means = np.zeros((1001, 3))
    means[:, 0] = np.linspace(0, 10, 1001)
    (place,) = places_of(means, np.ones(1001))
    np.testing.assert_allclose((place.low, place.high), ([0.1, 0, 0], [9.9, 0, 0]), atol=1e-9)


def test_the_corners_are_those_of_the_box():
    means = np.array([[0.0, 0, 0], [1, 2, 3]]).repeat(100, axis=0) + np.linspace(0, 1, 200)[:, None]
    (place, *_) = places_of(means, np.ones(200))
    corners = place.corners()
    assert corners.shape == (8, 3) and len(np.unique(corners, axis=0)) == 8
    np.testing.assert_array_equal(corners.min(axis=0), place.low)
    np.testing.assert_array_equal(corners.max(axis=0), place.high)
    assert all(((corners == place.low) | (corners == place.high)).all(axis=1))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_splats_are_a_place(count: int):
    means = cluster((1, 2, 3), count)
    places = places_of(means, np.ones(count))
    assert sorted(index for place in places for index in place.members) == list(range(count))
    assert all((place.low <= place.high).all() for place in places)
    if count == 1:
        np.testing.assert_allclose((places[0].low, places[0].high), np.repeat(means, 2, axis=0))


def test_splats_in_one_point_are_a_place():
    (place,) = places_of(np.ones((20, 3)), np.ones(20))
    assert len(place.members) == 20 and (place.low == 1).all() and (place.high == 1).all()


def test_without_splats_there_is_no_place():
    assert places_of(np.zeros((0, 3), np.float32), np.zeros(0, np.float32)) == []
