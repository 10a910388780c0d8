# SPDX-License-Identifier: Apache-2.0
"""Seed points: on surfaces, with the errors that triangulation has."""

import numpy as np
import pytest

from nts_plugins.samples import SeedFinder
from tests.samples.conftest import SMALL


def find(views, *, seed=0, count=3000, pixel_noise=0.5, outliers=0.02):
    finder = SeedFinder(seed)
    for view in views:
        finder.propose(view.camera, view.rgb, view.depth, 400)
    finder.start_matching()
    for view in views:
        finder.match(view.camera, view.rgb, view.depth)
    return finder.points(count, pixel_noise, outliers)


@pytest.fixture(scope="module")
def seeds(views):
    return find(views)


def test_true_positions_are_on_surfaces_that_several_views_see(views, seeds):
    assert len(seeds.xyz) > 200
    seen = np.zeros(len(seeds.xyz), int)
    for view in views:
        pixels, z = view.camera.project(seeds.true_xyz)
        inside = (z > 0) & (pixels >= 0).all(1) & (pixels < (SMALL.width, SMALL.height)).all(1)
        x, y = pixels[inside].astype(int).T
        seen[np.nonzero(inside)[0]] += np.abs(view.depth[y, x] - z[inside]) < 0.04 * z[inside]
    assert (seen >= 3).all()


def test_errors_have_the_stated_covariance(seeds):
    error = (seeds.xyz - seeds.true_xyz)[~seeds.wrong]
    whitened = np.linalg.solve(np.linalg.cholesky(seeds.covariance[~seeds.wrong]), error[..., None])[..., 0]
    n = len(error)
    assert np.abs(whitened.mean(0)).max() < 4.0 / np.sqrt(n)
    assert (whitened**2).sum() / (3 * n) == pytest.approx(1.0, abs=4.0 * np.sqrt(2.0 / (3 * n)))


def test_errors_grow_with_noise_and_vanish_without(views, seeds):
    assert np.abs(find(views, pixel_noise=0.0, outliers=0.0).xyz - seeds.true_xyz).max() < 1e-12
    worse = find(views, pixel_noise=2.0)
    np.testing.assert_allclose(worse.covariance, 16.0 * seeds.covariance, rtol=1e-9)


def test_error_is_largest_along_the_line_of_sight(views, seeds):
    """Depth is what triangulation knows least, seen from the middle of the cameras."""
    middle = np.mean([view.camera.position for view in views], axis=0)
    ray = seeds.true_xyz - middle
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    along = np.einsum("ni,nij,nj->n", ray, seeds.covariance, ray)
    assert np.median(along / np.trace(seeds.covariance, axis1=1, axis2=2)) > 0.4


def test_wrong_matches_are_as_many_as_asked_for(views):
    wrong = find(views, outliers=0.2).wrong
    assert wrong.mean() == pytest.approx(0.2, abs=4.0 * np.sqrt(0.16 / len(wrong)))
    assert not find(views, outliers=0.0).wrong.any()


def test_colours_are_those_of_the_pictures(views, seeds):
    view = views[0]
    good = seeds.true_xyz[~seeds.wrong]
    pixels, z = view.camera.project(good)
    inside = np.nonzero((z > 0) & (pixels >= 0).all(1) & (pixels < (SMALL.width, SMALL.height)).all(1))[0]
    x, y = pixels[inside].astype(int).T
    visible = np.abs(view.depth[y, x] - z[inside]) < 0.02 * z[inside]
    gap = np.abs(seeds.rgb[~seeds.wrong][inside[visible]].astype(int) - view.rgb[y[visible], x[visible]])
    assert visible.sum() > 30 and np.median(gap) < 25


def test_mirrors_give_few_points(tracer, views, seeds):
    """The chrome ball shows much detail, but none of it stays in place."""
    ball = next(s for s in tracer.scene.solids if tracer.scene.instances[s.instance - 1].name == "chrome ball")
    on_it = np.abs(np.linalg.norm(seeds.true_xyz - ball.centre, axis=1) - ball.half_size[0]) < 1e-6
    instance = ball.instance
    share = np.mean([(view.ids == instance).mean() for view in views])
    assert on_it.mean() < 0.5 * share


def test_same_seed_same_points_and_another_seed_others(views, seeds):
    np.testing.assert_array_equal(find(views).xyz, seeds.xyz)
    assert len(find(views, seed=1).xyz) == 0 or find(views, seed=1).xyz[0, 0] != seeds.xyz[0, 0]


def test_no_views_and_no_texture_give_no_points(views):
    assert len(find([]).xyz) == 0
    view = views[0]
    finder = SeedFinder(0)
    finder.propose(view.camera, np.full_like(view.rgb, 99), view.depth, 100)
    finder.start_matching()
    finder.match(view.camera, view.rgb, view.depth)
    assert len(finder.points(10, 0.5, 0.1).xyz) == 0
