# SPDX-License-Identifier: Apache-2.0
"""The visibility gate: weights at centres against the picture itself, and the rule on numbers made by hand."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from nts_plugins.data.cameras import world_to_camera
from nts_plugins.encoders.base import Regions
from nts_plugins.gaussians import Gaussians
from nts_plugins.language.gate import GateSettings, centre_weights, gate, gated
from nts_plugins.language.lifting import features_of
from nts_plugins.language.votes import Votes, collect
from nts_plugins.rasterization import GSPLAT_1_4, GSPLAT_1_5, lift_ids, rasterize
from tests import captures

SIZE = (40, 56)


def camera(angle: float = 0.0):
    """Viewmat and intrinsics on a ring around the origin."""
    return world_to_camera(captures.ring_pose(angle)[None, :3])[0], captures.intrinsics(SIZE[1], SIZE[0])


def kept(weights, **settings):
    """Numbers of the splats that are let in."""
    return gate(torch.tensor(weights), GateSettings(**settings)).nonzero()[:, 0].tolist()


# ---- the rule


def test_the_smallest_set_that_has_its_share():
    free = {"absolute": 0.0, "floor": 0.0, "quantile": 0.0, "most": 1.0}
    weights = [0.1, 0.4, 0.2, 0.3, 0.0]
    assert kept(weights, mass=0.3, **free) == [1]
    assert kept(weights, mass=0.41, **free) == [1, 3]
    assert kept(weights, mass=0.75, **free) == [1, 2, 3]
    assert kept(weights, mass=0.95, **free) == [0, 1, 2, 3], "never one that cannot be seen"


def test_a_weight_must_be_large_enough():
    weights = [0.14, 0.16, 0.9, 0.12]
    free = {"mass": 1.0, "quantile": 0.0, "most": 1.0}
    assert kept(weights, absolute=0.13, floor=0.0, **free) == [0, 1, 2]
    assert kept(weights, absolute=0.13, floor=0.15, **free) == [1, 2]
    assert kept(weights, absolute=0.13, floor=0.16001, **free) == [2]


def test_a_weight_must_be_among_the_largest():
    """Of 21 weights of even steps the 85th percentile is the 18th."""
    weights = [0.2 + 0.03 * number for number in range(21)]
    assert kept(weights, mass=1.0, most=1.0) == [17, 18, 19, 20]
    assert kept(weights, mass=1.0, most=0.1) == [19, 20]
    hidden = torch.tensor([0.0] * 50 + weights)
    assert gate(hidden, GateSettings(mass=1.0)).nonzero()[:, 0].tolist() == [67, 68, 69, 70], "of the visible"


def test_the_published_numbers():
    assert GateSettings() == GateSettings(mass=0.75, absolute=0.13, floor=0.15, quantile=0.85, most=0.5)
    # 0.75 of the total of 5.1 is more than the first five weigh; of 20 the 85th percentile lies between the third and
    # the fourth from above.
    weights = [0.1] * 14 + [0.8, 0.2, 0.8, 0.3, 0.8, 0.8]
    assert kept(weights) == [14, 16, 18, 19]
    assert kept(weights, mass=0.6) == [14, 16, 18, 19] and kept(weights, mass=0.4) == [14, 16, 18]
    assert kept(weights, quantile=0.8) == [14, 16, 18, 19] and kept(weights, quantile=0.7) == [14, 15, 16, 17, 18, 19]


def test_where_none_is_good_enough_the_best_one_stays():
    assert kept([0.02, 0.0, 0.05, 0.03]) == [2]
    assert kept([0.05]) == [0] and kept([0.9]) == [0]


def test_equal_weights_are_good_together_up_to_half():
    assert kept([0.9] * 10) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_is_let_in_where_nothing_is_seen(count):
    found = gate(torch.zeros(count))
    assert found.shape == (count,) and found.dtype == torch.bool and not found.any()


# ---- weights at centres


def front_and_back(distance: float = 1.0) -> Gaussians:
    """Two splats on the axis of a camera at (0, 0, -3) that looks along z, the second one behind the first."""
    return Gaussians(
        means=torch.tensor([[0.0, 0, 0], [0, 0, distance]]),
        quats=torch.tensor([[1.0, 0, 0, 0]] * 2),
        scales=torch.full((2, 3), 0.2),
        opacities=torch.tensor([0.95, 0.9]),
        colors=torch.rand(2, 3, generator=torch.Generator().manual_seed(0)),
    )


def along_z(turned: bool = False):
    """A camera three units before the splats; turned, as far behind them, looking back."""
    viewmat = torch.eye(4)
    viewmat[2, 3] = 3.0
    if turned:
        viewmat[0, 0] = viewmat[2, 2] = -1.0
        viewmat[2, 3] = 4.0
    return viewmat, captures.intrinsics(SIZE[1], SIZE[0])


def test_the_weight_is_that_of_the_formula():
    """alpha at the middle of the pixel, half a pixel from the centre along both axes."""
    viewmat, K = along_z()
    found = centre_weights(front_and_back(), viewmat, K, SIZE)
    alphas = []
    for depth, opacity in ((3.0, 0.95), (4.0, 0.9)):
        variance = (float(K[0, 0]) * 0.2 / depth) ** 2 + 0.3
        alphas.append(opacity * math.exp(-0.5 * 2 * 0.25 / variance))
    wanted = torch.tensor([alphas[0], alphas[1] * (1 - alphas[0])])
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rules", [GSPLAT_1_4, GSPLAT_1_5], ids=lambda rules: rules.name)
@pytest.mark.parametrize(("count", "seed"), [(40, 0), (400, 1)])
def test_the_weights_are_those_of_the_picture(count, seed, rules, monkeypatch):
    monkeypatch.setattr("nts_plugins.language.gate.installed_rules", lambda: rules)
    blobs = captures.blobs(count, seed)
    viewmat, K = camera(0.7)
    K = K * torch.tensor([1.6, 1.6, 1.0])[:, None]  # So that some centres lie outside of the picture.
    options = {"backend": "reference", "rules": rules}
    drawn = rasterize(blobs, viewmat[None], K[None], SIZE[1], SIZE[0], channels=torch.eye(count), **options)
    assert drawn.channels is not None
    x, y = drawn.info["means2d"][0].floor().long().unbind(dim=1)
    inside = (x >= 0) & (y >= 0) & (x < SIZE[1]) & (y < SIZE[0])
    wanted = torch.zeros(count)
    wanted[inside] = drawn.channels[0, y[inside], x[inside], torch.arange(count)[inside]]
    assert 0 < inside.sum() < count and (wanted[inside] < 0.01).any() and (wanted > 0.3).any()
    found = centre_weights(blobs, viewmat, K, SIZE)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)

    own = torch.where(inside, y * SIZE[1] + x, -1)
    ids = torch.arange(SIZE[0] * SIZE[1]).view(1, *SIZE)
    lifted = lift_ids(blobs, viewmat[None], K[None], ids, rules=rules)
    there = lifted.ids == own[lifted.splats]
    again = torch.zeros(count)
    again[lifted.splats[there]] = lifted.weights[there]
    torch.testing.assert_close(found, again, atol=1e-5, rtol=1e-4)


def test_weights_do_not_depend_on_the_number_of_threads():
    blobs, before, found = captures.blobs(300), torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(centre_weights(blobs, *camera(), SIZE))
    torch.set_num_threads(before)
    assert torch.equal(*found) and (found[0] > 0).any()


def test_colours_of_whatever_kind_do_not_matter():
    blobs, generator = captures.blobs(), torch.Generator().manual_seed(0)
    fields = {name: getattr(blobs, name) for name in ("means", "quats", "scales", "opacities")}
    bands = torch.rand(len(blobs), 1, 3, generator=generator), torch.rand(len(blobs), 3, 3, generator=generator)
    other = Gaussians(**fields, sh=bands[0], sh_rest=bands[1]).map(lambda tensor: tensor.requires_grad_())
    found = centre_weights(other, *camera(), SIZE)
    assert torch.equal(found, centre_weights(blobs, *camera(), SIZE)) and not found.requires_grad


def test_no_splats_have_no_weights():
    none = captures.blobs().select(torch.zeros(40, dtype=torch.bool))
    assert centre_weights(none, *camera(), SIZE).shape == (0,)
    behind = captures.blobs(3)
    viewmat, K = along_z()
    viewmat[2, 3] = -5.0
    assert not centre_weights(behind, viewmat, K, SIZE).any()


# ---- votes


def test_a_hidden_splat_takes_nothing_from_the_picture_in_which_it_is_hidden():
    """From before and from behind, each shows a feature of its own; each splat takes that of the side it is on."""
    splats = front_and_back()
    pictures = [
        (*along_z(turned), SIZE, Regions(torch.full((1, *SIZE), int(turned)), torch.eye(2), ("whole",)))
        for turned in (False, True)
    ]
    allowed = [gate(centre_weights(splats, viewmat, K, size)) for viewmat, K, size, _ in pictures]
    assert [each.tolist() for each in allowed] == [[True, False], [False, True]]
    votes = collect(splats, pictures)[0]
    assert len(votes.splats) == 4
    ((_, features),) = features_of(gated(votes, allowed))
    torch.testing.assert_close(features, torch.eye(2))
    ((_, mixed),) = features_of(votes)
    assert (mixed > 0.05).all()


def some_votes():
    """Three splats, two pictures of two regions each."""
    features = normalize(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    return Votes(
        splats=torch.tensor([0, 0, 0, 1, 1, 2]),
        regions=torch.tensor([0, 1, 2, 1, 3, 3]),
        weights=torch.tensor([1.0, 2, 3, 4, 5, 6]),
        features=features,
        views=torch.tensor([0, 0, 1, 1]),
        n_splats=3,
    )


@pytest.mark.parametrize("as_list", [False, True])
def test_votes_of_pictures_that_a_splat_is_let_into_are_left(as_list):
    allowed = torch.tensor([[True, False, True], [False, True, False]])
    given = list(allowed) if as_list else allowed
    votes = some_votes()
    strict = gated(votes, given, keep_unseen=False)
    assert strict.splats.tolist() == [0, 0, 1] and strict.weights.tolist() == [1.0, 2.0, 5.0]
    kind = gated(votes, given)
    assert kind.splats.tolist() == [0, 0, 1, 2], "the third splat has no vote in the picture that lets it in"
    assert kind.weights.tolist() == [1.0, 2.0, 5.0, 6.0] and kind.regions.tolist() == [0, 1, 3, 3]


def test_where_nothing_is_let_in_votes_stay_or_go():
    votes, nothing = some_votes(), torch.zeros(2, 3, dtype=torch.bool)
    assert torch.equal(gated(votes, nothing).weights, votes.weights)
    assert len(gated(votes, nothing, keep_unseen=False).splats) == 0
    ((_, features),) = features_of(gated(votes, nothing, keep_unseen=False))
    assert not features.any()
