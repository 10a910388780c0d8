# SPDX-License-Identifier: Apache-2.0
"""Features of splats from regions, against the dense matrix of all weights."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from nts_plugins.data.cameras import world_to_camera
from nts_plugins.encoders.base import NOTHING, Regions
from nts_plugins.kernels import threads
from nts_plugins.language.lifting import features_of
from nts_plugins.language.votes import LEAST_WEIGHT, Votes, collect, resized
from nts_plugins.rasterization import rasterize
from tests import captures
from tests.encoders.maps import feature_map

SIZE, VIEWS, WIDTH = (24, 32), 4, 6


def cameras():
    """Viewmats and intrinsics of a ring around the blobs."""
    found = []
    for view in range(VIEWS):
        viewmat = world_to_camera(captures.ring_pose(2 * math.pi * view / VIEWS)[None, :3])[0]
        found.append((viewmat, captures.intrinsics(SIZE[1], SIZE[0])))
    return found


@pytest.fixture(scope="module")
def scene():
    """Blobs, pictures with regions on two levels, and the weights [V, H, W, N] that every splat has in each pixel."""
    blobs = captures.blobs()
    generator = torch.Generator().manual_seed(0)
    pictures, weights = [], []
    for viewmat, K in cameras():
        ids = torch.randint(NOTHING, 5, (2, *SIZE), generator=generator, dtype=torch.int32)
        ids[1] = torch.where(ids[1] >= 0, ids[1] + 5, NOTHING)
        features = normalize(torch.randn(10, WIDTH, generator=generator), dim=1)
        pictures.append((viewmat, K, SIZE, Regions(ids, features, ("fine", "coarse"))))
        drawn = rasterize(blobs, viewmat[None], K[None], SIZE[1], SIZE[0], channels=torch.eye(len(blobs)))
        weights.append(drawn.channels[0])
    return blobs, pictures, torch.stack(weights).double()


def totals(votes):
    """[N] sum of each splat's weights."""
    return torch.zeros(votes.n_splats).index_add_(0, votes.splats, votes.weights)


def gathered(votes, rule, at_once):
    out = torch.full((votes.n_splats, WIDTH), torch.nan)
    for which, features in features_of(votes, rule, at_once):
        out[which] = features
    return out


def plain_median(votes, splat):
    """[C] float64, as the rule is written down."""
    z, total = torch.zeros(votes.features.shape[1], dtype=torch.float64), 0.0
    for view in votes.views.unique():
        own = (votes.splats == splat) & (votes.of_views() == view)
        if not own.any():
            continue
        weight, seen = float(votes.weights[own].sum()), plain_mean(votes.chosen(own), splat)
        total += weight
        z = normalize(z + weight / total * (seen - (seen @ z) * z), dim=0)
    return z


def plain_mean(votes, splat):
    """[C] float64."""
    own = votes.splats == splat
    return normalize((votes.weights[own, None] * votes.features[votes.regions[own]].double()).sum(dim=0), dim=0)


def random_votes(width, n_splats=70):
    """Of splats for six pictures of nine regions each; one in seven splats has none."""
    generator = torch.Generator().manual_seed(width)
    features = normalize(torch.randn(54, width, generator=generator), dim=1)
    features[torch.rand(54, generator=generator) < 0.3] = 0
    chances = torch.rand(n_splats, 1, generator=generator) ** 2
    there = torch.rand(n_splats, 54, generator=generator) < 0.3 * chances
    there[::7] = False
    splats, regions = there.nonzero(as_tuple=True)
    weights = LEAST_WEIGHT + 30 * torch.rand(len(splats), generator=generator) ** 4
    return Votes(splats, regions, weights, features.half(), torch.arange(54) // 9, n_splats)


@pytest.mark.parametrize("level", [0, 1])
def test_votes_are_the_weights_of_regions(scene, level):
    blobs, pictures, weights = scene
    votes = collect(blobs, pictures)[level]
    dense = torch.zeros(len(blobs), len(votes.features), dtype=torch.float64)
    dense[votes.splats, votes.regions] = votes.weights.double()
    assert (votes.splats.diff() >= 0).all() and (votes.of_views().diff()[votes.splats.diff() == 0] >= 0).all()
    row = 0
    for view, (_, _, _, regions) in enumerate(pictures):
        for region in torch.unique(regions.ids[level][regions.ids[level] >= 0]):
            there = regions.ids[level] == region
            wanted = weights[view][there].sum(dim=0)
            wanted = torch.where(wanted > LEAST_WEIGHT, wanted, 0.0)
            torch.testing.assert_close(dense[:, row], wanted, atol=2e-5, rtol=1e-4)
            assert torch.equal(votes.features[row], regions.features[region]) and votes.views[row] == view
            row += 1
    assert row == len(votes.features)
    torch.testing.assert_close(totals(votes).double(), dense.sum(dim=1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("at_once", [7, 1000])
def test_the_mean_is_that_over_all_pixels(scene, at_once):
    blobs, pictures, weights = scene
    maps = torch.stack([feature_map(regions, "fine") for *_, regions in pictures]).double()
    there = torch.stack([regions.ids[0] >= 0 for *_, regions in pictures])
    wanted = normalize(torch.einsum("vhwn,vhwc->nc", weights * there[..., None], maps), dim=1)
    found = gathered(collect(blobs, pictures)[0], "mean", at_once).double()
    seen = (weights * there[..., None]).sum(dim=(0, 1, 2)) > 0.1
    assert seen.sum() > 20
    torch.testing.assert_close(found[seen], wanted[seen], atol=2e-2, rtol=0)
    assert ((found.norm(dim=1) - 1).abs() < 1e-5)[seen].all()


@pytest.mark.parametrize("at_once", [7, 1000])
def test_the_median_goes_through_pictures_one_by_one(scene, at_once):
    blobs, pictures, _ = scene
    votes = collect(blobs, pictures)[1]
    found = gathered(votes, "median", at_once)
    for splat in range(0, len(blobs), 5):
        torch.testing.assert_close(found[splat].double(), plain_median(votes, splat), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("width", [1, 31, 128, 200])
def test_averages_of_whatever_width(width):
    """Whole vectors or not; features that are stored in two bytes, some of them zero; splats without votes."""
    votes = random_votes(width)
    for rule, wanted in (("median", plain_median), ("mean", plain_mean)):
        found = torch.cat([features for _, features in features_of(votes, rule, 50)])
        assert found.dtype == torch.float32 and found.shape == (votes.n_splats, width)
        for splat in range(votes.n_splats):
            torch.testing.assert_close(found[splat].double(), wanted(votes, splat), atol=2e-6, rtol=0)
        seen = found.norm(dim=1) > 0.5
        assert seen.any() and (~seen).any() and not found[~seen].any()


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_averages_do_not_depend_on_the_number_of_threads(rule, monkeypatch):
    monkeypatch.setattr(threads, "_cores", 2)
    votes, before, found = random_votes(40, 400), torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(torch.cat([features for _, features in features_of(votes, rule)]))
    torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_without_votes_there_are_no_features(rule):
    none = torch.zeros(0, dtype=torch.long)
    votes = Votes(none, none, torch.zeros(0), torch.zeros(0, WIDTH), none, 3)
    assert torch.equal(gathered(votes, rule, 2), torch.zeros(3, WIDTH))


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_equal_features_stay_what_they_are(scene, rule):
    blobs, pictures, _ = scene
    one = normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(1)), dim=0)
    same = [
        (viewmat, K, size, Regions(regions.ids, one.expand(10, -1).half(), regions.levels))
        for viewmat, K, size, regions in pictures
    ]
    votes = collect(blobs, same)[0]
    found, seen = gathered(votes, rule, 1000), totals(votes) > 0
    torch.testing.assert_close(found[seen], one.expand_as(found[seen]), atol=1e-3, rtol=0)
    assert not found[~seen].any()


def test_the_median_moves_little_under_one_outlier(scene):
    """Three pictures agree and the last one does not: the median stays closer to the three than the mean."""
    blobs, pictures, _ = scene
    good, bad = torch.eye(WIDTH)[0], torch.eye(WIDTH)[1]
    mixed = [
        (viewmat, K, size, Regions(regions.ids, (bad if view == 3 else good).expand(10, -1), regions.levels))
        for view, (viewmat, K, size, regions) in enumerate(pictures)
    ]
    votes = collect(blobs, mixed)[0]
    outlier = totals(votes.chosen(votes.of_views() == 3)) / totals(votes).clamp_min(1e-9)
    some = (outlier > 0.05) & (outlier < 0.4)
    assert some.sum() > 5
    mean, median = gathered(votes, "mean", 1000)[some], gathered(votes, "median", 1000)[some]
    assert (median[:, 0] > mean[:, 0]).all()


def test_regions_may_be_of_another_resolution(scene):
    blobs, pictures, _ = scene
    doubled = [
        (
            viewmat,
            K,
            size,
            Regions(regions.ids.repeat_interleave(2, 1).repeat_interleave(2, 2), regions.features, regions.levels),
        )
        for viewmat, K, size, regions in pictures
    ]
    for found, wanted in zip(collect(blobs, doubled), collect(blobs, pictures), strict=True):
        seen = totals(wanted) > 2.0
        close = (gathered(found, "mean", 1000) * gathered(wanted, "mean", 1000)).sum(dim=1)[seen]
        assert close.mean() > 0.97
    K = torch.tensor([[10.0, 0, 16], [0, 12, 12], [0, 0, 1]])
    assert torch.equal(resized(K, (24, 32), (48, 64)), torch.tensor([[20.0, 0, 32], [0, 24, 24], [0, 0, 1]]))
