# SPDX-License-Identifier: Apache-2.0
"""The default strategy by hand-made gradients: who is duplicated, split, pruned and reset, and what follows them."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from nts_plugins.compat import fused_adam_devices
from nts_plugins.errors import InputError
from nts_plugins.gaussians import DefaultConfig, make_strategy
from tests.gaussians.training import REFINE, Training, logit, pull, record, start

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def refine(training: Training, info: dict, step: int = REFINE, **config: Any) -> dict:
    """One step of a fresh default strategy; what it counted."""
    strategy = make_strategy(DefaultConfig(**config))
    state = strategy.initialize_state()
    replaced = strategy.step_post_backward(training.params, training.optimizers, state, step, info)
    training.assert_in_step()
    assert all(len(statistic) == len(training) for statistic in state.per_splat.values())
    assert state.counts["splats"] == len(training)
    assert replaced == bool(state.counts["duplicated"] + state.counts["split"] + state.counts["pruned"])
    return {name: state.counts[name] for name in ("duplicated", "split", "pruned")}


@pytest.mark.parametrize("per_axis", [False, True])
def test_small_splats_are_duplicated(per_axis: bool) -> None:
    training = start(5, scale=-7.0)
    before, moments = training.copy().params, training.moments("means").clone()
    counts = refine(training, pull(5, {1: 3e-4, 3: 1e-3, 4: 1e-4}, per_axis=per_axis))
    assert counts == {"duplicated": 2, "split": 0, "pruned": 0}
    for name, parameter in training.params.items():
        assert torch.equal(parameter, before[name][[0, 1, 2, 3, 4, 1, 3]]), name
    assert torch.equal(training.moments("means")[:5], moments)
    assert (training.moments("means")[5:] == 0).all()


def test_large_splats_are_split() -> None:
    training = start(5, scale=-3.0)
    before, moments = training.copy().params, training.moments("quats").clone()
    counts = refine(training, pull(5, {1: 3e-4, 3: 1e-3}))
    assert counts == {"duplicated": 0, "split": 2, "pruned": 0}
    rows = [0, 2, 4, 1, 3, 1, 3]
    for name in ("quats", "opacities", "features_dc", "features_rest"):
        assert torch.equal(training.params[name], before[name][rows]), name
    shrunk = before["scales"][[1, 3, 1, 3]] - math.log(1.6)
    assert torch.allclose(training.params["scales"][3:], shrunk)
    assert torch.equal(training.moments("quats")[:3], moments[[0, 2, 4]])
    assert (training.moments("quats")[3:] == 0).all()
    moved = (training.params["means"][3:] - before["means"][[1, 3, 1, 3]]).norm(dim=-1)
    assert (moved > 0).all() and (moved < 5 * before["scales"].exp().max()).all()


def test_halves_are_drawn_from_the_split_splat() -> None:
    """Over many splits the offsets have the covariance R S S R^T of the splat."""
    n = 20_000
    training = start(n)
    scales, quat = torch.tensor([0.3, 0.1, 0.05]), torch.tensor([0.8, 0.4, -0.2, 0.4])
    with torch.no_grad():
        training.params["means"].zero_()
        training.params["scales"].copy_(scales.log().expand(n, 3))
        training.params["quats"].copy_((3.0 * quat).expand(n, 4))
    torch.manual_seed(0)
    assert refine(training, record(torch.ones(1, n, 2)))["split"] == n
    w, x, y, z = quat.tolist()
    rotation = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    expected = rotation @ torch.diag(scales**2) @ rotation.T
    assert torch.allclose(training.params["means"].detach().T.cov(), expected, atol=0.02 * 0.09)


def test_faint_splats_are_pruned_and_moments_follow() -> None:
    training = start(6)
    with torch.no_grad():
        training.params["opacities"][[1, 4]] = logit(0.0049)
        training.params["opacities"][2] = logit(0.0051)
    before, moments = training.copy().params, training.moments("features_rest", "exp_avg_sq").clone()
    assert refine(training, pull(6, {})) == {"duplicated": 0, "split": 0, "pruned": 2}
    for name, parameter in training.params.items():
        assert torch.equal(parameter, before[name][[0, 2, 3, 5]]), name
    assert torch.equal(training.moments("features_rest", "exp_avg_sq"), moments[[0, 2, 3, 5]])


@pytest.mark.parametrize(("step", "pruned"), [(2900, 0), (3000, 0), (3100, 1)])
def test_huge_splats_are_pruned_after_the_first_reset(step: int, pruned: int) -> None:
    training = start(3)
    with torch.no_grad():
        training.params["scales"][1, 2] = math.log(0.11)
    assert refine(training, pull(3, {}), step=step)["pruned"] == pruned


def test_scene_scale_stretches_the_thresholds() -> None:
    training = start(2)
    with torch.no_grad():
        training.params["scales"].fill_(math.log(0.05))
    strategy = make_strategy(DefaultConfig())
    state = strategy.initialize_state(scene_scale=10.0)
    strategy.step_post_backward(training.params, training.optimizers, state, REFINE, pull(2, {0: 1.0}))
    assert (state.counts["duplicated"], state.counts["split"]) == (1, 0)


@pytest.mark.parametrize("per_axis", [False, True])
@pytest.mark.parametrize(("step", "split", "pruned"), [(600, 1, 0), (3100, 1, 2), (4000, 0, 0)])
def test_size_on_the_screen(per_axis: bool, step: int, split: int, pruned: int) -> None:
    """Radii of 11 and 31 pixels of 200 exceed the limits for splits, 0.05, and for pruning, 0.15.

    Both halves of the larger one inherit its radius, so that pruning takes both in the same refinement.
    """
    training = start(3)
    radii = torch.tensor([[9, 31, 10]])
    counts = refine(training, pull(3, {}, radii=radii, per_axis=per_axis), step=step, refine_scale2d_stop_iter=4000)
    assert counts == {"duplicated": 0, "split": split, "pruned": pruned}


def test_radii_per_axis_count_by_the_larger_and_see_by_both() -> None:
    training = start(3)
    info = pull(3, {0: 3e-4, 1: 3e-4}, per_axis=True)
    info["radii"] = torch.tensor([[[5, 0], [5, 12], [2, 2]]])
    strategy = make_strategy(DefaultConfig(refine_scale2d_stop_iter=4000))
    state = strategy.initialize_state()
    strategy.step_post_backward(training.params, training.optimizers, state, 0, info)
    assert state.per_splat["count"].tolist() == [0, 1, 1]
    assert state.per_splat["radii"].tolist() == pytest.approx([0, 12 / 200, 2 / 200])
    assert state.per_splat["grad2d"].tolist() == pytest.approx([0, 3e-4, 0])


def test_gradients_are_averaged_over_the_views_that_see_a_splat() -> None:
    training = start(3, scale=-7.0)
    strategy = make_strategy(DefaultConfig())
    state = strategy.initialize_state()
    # Splat 0 is pulled above the limit on average; splat 1 is too, but only once in three views that all see it.
    for step, (gradients, radii) in enumerate(
        [({0: 5e-4, 1: 5e-4}, [3, 3, 3]), ({0: 9e-4}, [0, 3, 3]), ({}, [0, 3, 3])], start=REFINE - 2
    ):
        info = pull(3, gradients, radii=torch.tensor([radii]))
        strategy.step_post_backward(training.params, training.optimizers, state, step, info)
    assert state.counts["duplicated"] == 1
    assert torch.equal(training.params["means"][3], training.params["means"][0])
    assert all((statistic == 0).all() for statistic in state.per_splat.values())


def test_packed_records_give_the_same_statistics() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(3, 7, 2, generator=generator)
    radii = torch.randint(0, 4, (3, 7), generator=generator)
    gradients[radii == 0] = 0.0
    cameras, splats = torch.where(radii > 0)
    packed = record(gradients[cameras, splats][None], radii[cameras, splats][None])
    packed["means2d"] = torch.zeros(len(splats), 2, requires_grad=True)
    packed["means2d"].grad = gradients[cameras, splats]
    packed.update(radii=radii[cameras, splats].int(), gaussian_ids=splats, n_cameras=3)
    states = []
    for info in (record(gradients, radii), packed):
        strategy, training = make_strategy(DefaultConfig(refine_scale2d_stop_iter=10)), start(7)
        states.append(strategy.initialize_state())
        strategy.step_post_backward(training.params, training.optimizers, states[-1], 0, info)
    assert set(states[0].per_splat) == {"grad2d", "count", "radii"}
    for name, statistic in states[0].per_splat.items():
        assert torch.allclose(statistic, states[1].per_splat[name]), name
        assert statistic.any(), name


def test_absgrad_reads_the_absolute_gradients() -> None:
    strategy, training = make_strategy(DefaultConfig(absgrad=True)), start(2, scale=-7.0)
    assert strategy.absgrad
    info = pull(2, {})
    info["means2d"].absgrad[0, 1] = torch.tensor([0.0, 1.0])
    state = strategy.initialize_state()
    strategy.step_post_backward(training.params, training.optimizers, state, REFINE, info)
    assert state.counts["duplicated"] == 1
    assert torch.equal(training.params["means"][2], training.params["means"][1])


@pytest.mark.parametrize("per_axis", [False, True])
@pytest.mark.parametrize(("step", "resets"), [(0, False), (2999, False), (3000, True), (6000, True), (15_000, False)])
def test_opacity_reset(per_axis: bool, step: int, resets: bool) -> None:
    training = start(4)
    with torch.no_grad():
        training.params["opacities"][1] = logit(0.008)
    before = training.params["opacities"].detach().clone()
    counter = training.moments("opacities", "step").clone()
    strategy = make_strategy(DefaultConfig(reset_every=3000, refine_stop_iter=15_000))
    state = strategy.initialize_state()
    info = pull(4, {}, per_axis=per_axis)
    strategy.step_post_backward(training.params, training.optimizers, state, step, info)
    training.assert_in_step()
    expected = before.clamp(max=logit(0.01)) if resets else before
    assert torch.allclose(training.params["opacities"], expected)
    assert bool((training.moments("opacities") == 0).all()) == resets
    assert torch.equal(training.moments("opacities", "step"), counter)
    assert (training.moments("means") != 0).all()


@pytest.mark.parametrize(
    ("pause", "refining"),
    [
        (0, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]),
        (30, [30, 40, 50, 60, 70, 80, 90]),
        (95, [50, 60, 70, 80, 90]),
        (5000, [50, 60, 70, 80, 90]),
    ],
)
def test_pause_after_reset_never_takes_more_than_half_the_period(pause: int, refining: list) -> None:
    training = start(2)
    config = DefaultConfig(refine_start_iter=0, refine_every=10, reset_every=100, pause_refine_after_reset=pause)
    strategy = make_strategy(config)
    state = strategy.initialize_state()
    steps = set()
    for step in range(100, 200):
        strategy.step_post_backward(training.params, training.optimizers, state, step, pull(2, {}))
        steps.add(state.counts.get("step", -1) - 100)
    assert sorted(steps - {-101}) == refining


def test_nothing_happens_outside_the_window() -> None:
    for step in (0, 500, 599, 601, 15_000):
        training = start(3, scale=-7.0)
        before = training.params["means"]
        strategy = make_strategy(DefaultConfig())
        state = strategy.initialize_state()
        replaced = strategy.step_post_backward(training.params, training.optimizers, state, step, pull(3, {0: 1.0}))
        assert not replaced and state.counts == {} and training.params["means"] is before


@pytest.mark.parametrize("device", DEVICES)
def test_frozen_values_stay_in_step_and_frozen(device: str) -> None:
    """Frozen codes and integer labels need no optimizer, follow their splats, and other optimizers are left alone."""
    training = start(40, scale=-4.6, device=device)
    labels = torch.arange(40, device=device)
    training.params["labels"] = Parameter(labels.clone(), requires_grad=False)
    training.params["code"] = Parameter(training.params["features_dc"].detach()[:, :2].clone(), requires_grad=False)
    training.params["kept"] = Parameter(labels.float(), requires_grad=False)
    optimizers = dict(training.optimizers)
    optimizers["kept"] = torch.optim.Adam([training.params["kept"]], lr=1.0)
    pose = Parameter(torch.zeros(3, 6, device=device))
    optimizers["camera_opt"] = torch.optim.Adam([pose], lr=1.0)
    with torch.no_grad():
        training.params["opacities"][::7] = -9.0
    original = training.params["features_dc"].detach().clone()
    strategy = make_strategy(DefaultConfig())
    state = strategy.initialize_state()
    info = record(torch.randn(1, 40, 2, generator=torch.Generator().manual_seed(1)).to(device))
    strategy.step_post_backward(training.params, optimizers, state, REFINE, info)
    training.assert_in_step()
    assert min(state.counts[name] for name in ("duplicated", "split", "pruned")) > 0
    rows = training.params["labels"].detach()
    assert rows.dtype == torch.int64 and len(rows) == state.counts["splats"]
    assert torch.equal(training.params["features_dc"], original[rows])
    assert torch.equal(training.params["code"], original[rows, :2])
    assert torch.equal(training.params["kept"], rows.float())
    assert [name for name, value in training.params.items() if not value.requires_grad] == ["labels", "code", "kept"]
    assert optimizers["kept"].param_groups[0]["params"][0] is training.params["kept"]
    assert optimizers["camera_opt"].param_groups[0]["params"][0] is pose


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda parameters: torch.optim.Adam(parameters, lr=0.1, amsgrad=True),
        lambda parameters: torch.optim.Adam(parameters, lr=0.1, fused="cpu" in fused_adam_devices()),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    ],
    ids=["amsgrad", "fused", "adamw", "sgd"],
)
def test_any_optimizer_goes_on(make_optimizer: Any) -> None:
    """All its moments follow, its step counter stays, and its next step moves every splat."""
    training = start(30, scale=-4.6, make_optimizer=make_optimizer)
    refine(training, record(torch.randn(1, 30, 2, generator=torch.Generator().manual_seed(1))))
    state = training.optimizers["means"].state[training.params["means"]]
    assert float(state.get("step", 1)) == 1
    assert sum(torch.is_tensor(value) and value.shape == (len(training), 3) for value in state.values()) >= 1
    before = {name: parameter.detach().clone() for name, parameter in training.params.items()}
    training.optimize(torch.Generator().manual_seed(2))
    for name, parameter in training.params.items():
        assert (parameter != before[name]).any(dim=-1).all(), name


def test_refinement_before_the_first_optimizer_step() -> None:
    training = start(4, scale=-7.0)
    for name in training.optimizers:
        training.optimizers[name] = torch.optim.Adam([training.params[name]])
    strategy = make_strategy(DefaultConfig())
    state = strategy.initialize_state()
    strategy.step_post_backward(training.params, training.optimizers, state, REFINE, pull(4, {0: 1.0}))
    assert all(len(optimizer.state) == 0 for optimizer in training.optimizers.values())
    training.optimize(torch.Generator().manual_seed(0))
    training.assert_in_step()


def test_revised_opacity_keeps_what_two_halves_cover() -> None:
    training = start(1, scale=-3.0)
    opacity = torch.sigmoid(training.params["opacities"].detach().clone())
    assert refine(training, pull(1, {0: 1.0}), revised_opacity=True)["split"] == 1
    half = torch.sigmoid(training.params["opacities"])
    assert torch.allclose(1 - (1 - half[0]) * (1 - half[1]), opacity)


@pytest.mark.parametrize(("cap", "grown"), [(100, 4), (10, 2), (9, 1), (8, 0), (3, 0)])
def test_growth_stops_at_the_cap_with_the_largest_gradients(cap: int, grown: int) -> None:
    training = start(8, scale=-7.0)
    with torch.no_grad():
        training.params["scales"][5] = -3.0  # the one that is split rather than duplicated
    labels = Parameter(torch.arange(8), requires_grad=False)
    training.params["labels"] = labels
    counts = refine(training, pull(8, {1: 3e-4, 3: 9e-4, 5: 8e-4, 6: 4e-4}), max_splats=cap)
    assert counts["duplicated"] + counts["split"] == grown
    assert len(training) == 8 + grown
    new = training.params["labels"].tolist()
    expected = sorted(range(8)) + [3, 5, 6, 1][:grown]
    assert sorted(new) == sorted(expected)
    assert counts["split"] == (1 if grown >= 2 else 0)


def test_cap_counts_a_splat_that_is_duplicated_and_split_twice() -> None:
    """Large on the screen and small in space: gsplat does both, and each adds a splat."""
    options = {"radii": torch.tensor([[20, 20, 3]])}
    for cap, grown in ((None, 4), (7, 4), (6, 3), (4, 1)):
        training = start(3, scale=-7.0)
        info = pull(3, {0: 9e-4, 1: 8e-4}, **options)
        counts = refine(training, info, refine_scale2d_stop_iter=4000, max_splats=cap)
        assert counts["duplicated"] + counts["split"] == grown
        assert len(training) == 3 + grown


def test_a_cap_made_from_the_pictures() -> None:
    auto = DefaultConfig(max_splats="auto", refine_every=7)
    assert auto.for_data(5900, 59) == DefaultConfig(max_splats=100, capacity=100, refine_every=7)
    assert auto.for_data(10, 59).max_splats == 1
    assert auto.for_data(None, 59).max_splats is None
    assert replace(auto, capacity=7).for_data(5900, 59).max_splats == 7
    assert DefaultConfig(max_splats=5).for_data(5900, 59).max_splats == 5
    assert DefaultConfig(refine_start_iter=200).for_data(5900, 59, sparsity=1.5).refine_start_iter == 300
    with pytest.raises(InputError, match="for_data"):
        make_strategy(auto)


@pytest.mark.parametrize("n", [1, 5])
def test_the_last_splat_is_never_pruned(n: int) -> None:
    training = start(n, opacity=-9.0)
    best = training.params["means"][training.params["opacities"].argmax()].detach().clone()
    assert refine(training, pull(n, {}))["pruned"] == n - 1
    assert torch.equal(training.params["means"], best[None])


def test_no_splats_at_all() -> None:
    training = start(0)
    strategy = make_strategy(DefaultConfig(max_splats=10))
    state = strategy.initialize_state()
    for step in (0, REFINE, 3000):
        strategy.step_post_backward(training.params, training.optimizers, state, step, pull(0, {}))
    assert state.counts == {"step": 3000, "splats": 0, "duplicated": 0, "split": 0, "pruned": 0}


@pytest.mark.parametrize("value", [0.0, 0.5, -0.1])
def test_pruning_below_an_opacity_that_leaves_room_to_reset(value: float) -> None:
    with pytest.raises(InputError, match="prune_opa"):
        DefaultConfig(prune_opa=value)
