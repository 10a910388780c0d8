# SPDX-License-Identifier: Apache-2.0
"""Learning rates: the same as nerfstudio's, in numbers that checkpoints can hold, and scaled with the scene."""

import pytest
import torch
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from torch.nn import Parameter

from nts_plugins.training.optimizers import AdamConfig, ExponentialDecayConfig, WarmStartConfig, scale_learning_rates


@pytest.mark.parametrize("warmup,ramp,final", [(0, "cosine", 1e-6), (7, "cosine", 1e-4), (7, "linear", None)])
def test_schedule_is_nerfstudios_in_plain_floats(warmup: int, ramp: str, final: "float | None") -> None:
    options = {"lr_final": final, "max_steps": 40, "warmup_steps": warmup, "ramp": ramp, "lr_pre_warmup": 1e-5}
    rates = []
    for config in (ExponentialDecayConfig(**options), ExponentialDecaySchedulerConfig(**options)):
        optimizer = torch.optim.Adam([Parameter(torch.ones(1))], lr=1e-2)
        schedule = config.setup().get_scheduler(optimizer, lr_init=1e-2)
        rates.append([])
        for _ in range(60):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        if len(rates) == 1:
            assert {type(rate) for rate in rates[0]} == {float}
            assert {type(value) for value in schedule.state_dict()["_last_lr"]} == {float}
    assert rates[0] == pytest.approx([float(rate) for rate in rates[1]], rel=1e-9)


def test_adam_equals_torchs_plain_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, plain = (Parameter(torch.ones(50, 3)) for _ in range(2))
    optimizers = [AdamConfig(lr=0.01).setup([ours]), torch.optim.Adam([plain], lr=0.01, eps=1e-15, foreach=False)]
    assert optimizers[0].defaults["fused"]
    for _ in range(10):
        gradient = torch.randn(50, 3, generator=generator) * 1e-9
        for parameter, optimizer in zip((ours, plain), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_rates_scale_from_first_to_last() -> None:
    groups = {
        "means": {"optimizer": AdamConfig(lr=2.0), "scheduler": ExponentialDecayConfig(lr_final=0.5)},
        "quats": {"optimizer": AdamConfig(lr=3.0), "scheduler": None},
    }
    scaled = scale_learning_rates(groups, {"means": 10.0, "absent": 5.0})
    assert scaled["means"]["optimizer"].lr == 20.0 and scaled["means"]["scheduler"].lr_final == 5.0
    assert scaled["quats"]["optimizer"].lr == 3.0
    assert groups["means"]["optimizer"].lr == 2.0 and groups["means"]["scheduler"].lr_final == 0.5


def rates_of(config: WarmStartConfig, lr: float, steps: int) -> "list[float]":
    """The rate of each step, as the optimizer has it."""
    optimizer = torch.optim.Adam([Parameter(torch.ones(1))], lr=lr)
    schedule = config.setup().get_scheduler(optimizer, lr_init=lr)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


# Rate, schedule, and what it has to be at some steps, the warm start's first and last and the first one after it.
WARM_STARTS = {
    "feat2gs, positions": (
        1.6e-5,
        WarmStartConfig(lr_final=1.6e-7, max_steps=30000),
        {
            0: 1e-2,
            1: 1e-2 * 1e-2 ** (1 / 999),
            999: 1e-4,
            1000: 1.6e-5 * 1e-2 ** (1 / 30),
            8000: 1.6e-5 * 1e-2 ** (8 / 30),
        },
    ),
    "feat2gs, poses": (
        1e-4,
        WarmStartConfig(warm_lr=1e-4, warm_lr_final=1e-4, lr_final=1e-6, max_steps=1000, from_start=False),
        {0: 1e-4, 999: 1e-4, 1000: 1e-4, 1500: 1e-5, 2000: 1e-6, 3000: 1e-6},
    ),
    "a constant after it": (
        5e-3,
        WarmStartConfig(warm_steps=100, lr_final=5e-3, max_steps=300),
        {0: 1e-2, 99: 1e-4, 100: 5e-3, 250: 5e-3, 400: 5e-3},
    ),
    "no last rate": (
        5e-3,
        WarmStartConfig(warm_steps=10, lr_final=None, max_steps=30),
        {0: 1e-2, 9: 1e-4, 10: 5e-3, 50: 5e-3},
    ),
    "none": (1e-2, WarmStartConfig(warm_steps=0, lr_final=1e-4, max_steps=20), {0: 1e-2, 10: 1e-3, 20: 1e-4, 30: 1e-4}),
    "one step": (
        1e-2,
        WarmStartConfig(warm_steps=1, warm_lr=0.5, lr_final=1e-4, max_steps=20),
        {0: 0.5, 10: 1e-3, 20: 1e-4},
    ),
    "rising": (
        1e-2,
        WarmStartConfig(warm_steps=11, warm_lr=1e-4, warm_lr_final=1e-2, lr_final=1e-2, max_steps=20),
        {0: 1e-4, 5: 1e-3, 10: 1e-2, 11: 1e-2},
    ),
    "from the end of it": (
        1e-2,
        WarmStartConfig(warm_steps=10, lr_final=1e-4, max_steps=20, from_start=False),
        {9: 1e-4, 10: 1e-2, 20: 1e-3, 30: 1e-4, 40: 1e-4},
    ),
}


@pytest.mark.parametrize("name", list(WARM_STARTS))
def test_rates_of_a_warm_start(name: str) -> None:
    lr, config, expected = WARM_STARTS[name]
    rates = rates_of(config, lr, max(expected) + 1)
    assert {step: rates[step] for step in expected} == pytest.approx(expected, rel=1e-6)
    assert {type(rate) for rate in rates} == {float}, "checkpoints hold plain floats"
    warm = rates[: config.warm_steps]
    steps = [after / before for before, after in zip(warm, warm[1:], strict=False)]
    assert not steps or max(steps) == pytest.approx(min(steps), rel=1e-6), "equal ratios"


@pytest.mark.parametrize("from_start", [True, False])
def test_the_size_of_a_scene_scales_rates_after_the_warm_start_alone(from_start: bool) -> None:
    config = WarmStartConfig(warm_steps=10, lr_final=1e-7, max_steps=30, from_start=from_start)
    groups = {"means": {"optimizer": AdamConfig(lr=1e-5), "scheduler": config}}
    plain = rates_of(config, 1e-5, 50)
    scaled = scale_learning_rates(groups, {"means": 4.5})["means"]
    assert type(scaled["scheduler"]) is WarmStartConfig
    rates = rates_of(scaled["scheduler"], scaled["optimizer"].lr, 50)
    assert rates[:10] == pytest.approx(plain[:10], rel=1e-9)
    assert rates[10:] == pytest.approx([4.5 * rate for rate in plain[10:]], rel=1e-9)


def test_a_warm_start_goes_on_where_a_checkpoint_left_it() -> None:
    config = WarmStartConfig(warm_steps=6, lr_final=1e-4, max_steps=20)
    expected = rates_of(config, 1e-2, 12)
    optimizer = torch.optim.Adam([Parameter(torch.ones(1))], lr=1e-2)
    schedule = config.setup().get_scheduler(optimizer, lr_init=1e-2)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    states = optimizer.state_dict(), schedule.state_dict()
    other = torch.optim.Adam([Parameter(torch.ones(1))], lr=1e-2)
    resumed = config.setup().get_scheduler(other, lr_init=1e-2)
    other.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    for rate in expected[4:]:
        assert other.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-9)
        other.step()
        resumed.step()
