# SPDX-License-Identifier: Apache-2.0
"""What the default strategy keeps between steps, and what it says of mistakes."""

import io
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from nts_plugins.errors import InputError
from nts_plugins.gaussians import DefaultConfig, MCMCConfig, make_strategy
from tests.gaussians.training import REFINE, Training, pull, record, start


def test_resumed_run_behaves_like_an_uninterrupted_one() -> None:
    config = DefaultConfig(
        refine_start_iter=4, refine_every=5, reset_every=10, refine_scale2d_stop_iter=13, pause_refine_after_reset=0
    )

    def train(training: Training, state: Any, steps: range) -> None:
        strategy = make_strategy(config)
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            n = len(training)
            radii = torch.randint(0, 9, (1, n), generator=generator)
            info = record(torch.randn(1, n, 2, generator=generator) * 2e-6, radii)
            training.optimize(generator)
            torch.manual_seed(step)
            strategy.step_post_backward(training.params, training.optimizers, state, step, info)

    def save_and_load(state: Any) -> Any:
        file = io.BytesIO()
        torch.save(state.state_dict(), file)
        file.seek(0)
        loaded = make_strategy(config).initialize_state()
        loaded.load_state_dict(torch.load(file, weights_only=True))
        return loaded

    uninterrupted, interrupted = start(50, scale=-4.6), start(50, scale=-4.6)
    uninterrupted_state, state = (make_strategy(config).initialize_state(scene_scale=2.0) for _ in range(2))
    train(uninterrupted, uninterrupted_state, range(20))
    train(interrupted, state, range(7))
    forgetful = interrupted.copy()
    train(forgetful, make_strategy(config).initialize_state(scene_scale=2.0), range(7, 20))
    resumed, state = interrupted.copy(), save_and_load(state)
    train(resumed, state, range(7, 20))
    assert len(forgetful) != len(uninterrupted) > 50
    assert state.counts == uninterrupted_state.counts and state.scene_scale == 2.0
    for name in uninterrupted.params:
        assert torch.equal(uninterrupted.params[name], resumed.params[name]), name
        assert torch.equal(uninterrupted.moments(name), resumed.moments(name)), name
    for name, statistic in uninterrupted_state.per_splat.items():
        assert torch.equal(statistic, state.per_splat[name]), name


def test_saved_state_is_a_copy() -> None:
    strategy, training = make_strategy(DefaultConfig()), start(2)
    state = strategy.initialize_state()
    strategy.step_post_backward(training.params, training.optimizers, state, 0, pull(2, {0: 1.0}))
    saved = state.state_dict()
    strategy.step_post_backward(training.params, training.optimizers, state, 1, pull(2, {0: 1.0}))
    assert saved["per_splat"]["count"].tolist() == [1, 1]
    assert state.per_splat["count"].tolist() == [2, 2]


def test_pre_backward_keeps_the_gradient_only_while_it_is_needed() -> None:
    strategy, training = make_strategy(DefaultConfig()), start(2)
    for step, kept in ((0, True), (15_000, False)):
        leaf = torch.zeros(1, 2, 2, requires_grad=True)
        info = {**pull(2, {}), "means2d": leaf * 1.0}
        strategy.step_pre_backward(training.params, training.optimizers, strategy.initialize_state(), step, info)
        info["means2d"].sum().backward()
        assert info["means2d"].retains_grad == kept


def test_mistakes_are_named() -> None:
    def step(info: dict, change: Any = lambda training: None, step: int = REFINE, **config: Any) -> None:
        training = start(3, scale=-7.0)
        change(training)
        before = {name: value for name, value in training.params.items()}
        strategy = make_strategy(DefaultConfig(**config))
        state = strategy.initialize_state()
        try:
            strategy.step_post_backward(training.params, training.optimizers, state, step, info)
        finally:  # Nothing is half-changed.
            assert all(training.params[name] is value for name, value in before.items())

    growing = {0: 1.0}
    with pytest.raises(ValueError, match="no 'radii'"):
        step({**pull(3, growing), "radii": None})
    with pytest.raises(ValueError, match="absgrad=True"):
        info = pull(3, growing)
        del info["means2d"].absgrad
        step(info, absgrad=True)
    with pytest.raises(ValueError, match="step_pre_backward"):
        info = pull(3, growing)
        info["means2d"].grad = None
        step(info)
    with pytest.raises(ValueError, match="'quats' is trainable but has no optimizer"):
        step(pull(3, growing), lambda training: training.optimizers.pop("quats"))
    with pytest.raises(ValueError, match="optimizer of 'quats' does not hold"):
        step(pull(3, growing), lambda training: training.params.update({"quats": Parameter(torch.ones(3, 4))}))
    with pytest.raises(ValueError, match="'labels' has shape"):
        step(pull(3, growing), lambda training: training.params.update({"labels": Parameter(torch.ones(4))}))


def test_statistics_of_another_number_of_splats_are_refused() -> None:
    strategy, training = make_strategy(DefaultConfig()), start(3)
    state = strategy.initialize_state()
    state.load_state_dict({"scene_scale": 1.0, "per_splat": {"grad2d": torch.zeros(5)}, "counts": {}})
    with pytest.raises(ValueError, match="of 5 splats, but there are 3"):
        strategy.step_post_backward(training.params, training.optimizers, state, 0, pull(3, {}))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DefaultConfig(refine_every=0),
        lambda: DefaultConfig(max_splats=0),
        lambda: DefaultConfig(capacity=0),
        lambda: MCMCConfig(max_splats=0),
    ],
)
def test_impossible_configs_are_refused(make: Any) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        make()


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("config", "name"),
    [(DefaultConfig, "opacity_cost"), (MCMCConfig, "opacity_regularization"), (MCMCConfig, "scale_regularization")],
)
def test_weights_out_of_range_are_refused(config: Any, name: str, weight: float) -> None:
    with pytest.raises(InputError, match=f"{config.__name__}.{name} is {weight}"):
        config(**{name: weight})


def test_make_strategy_refuses_other_configs() -> None:
    with pytest.raises(TypeError, match="DefaultConfig or an MCMCConfig, got str"):
        make_strategy("default")  # type: ignore[arg-type]
