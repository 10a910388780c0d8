# SPDX-License-Identifier: Apache-2.0
"""Learning rates: the same as nerfstudio's, in numbers that checkpoints can hold, and scaled with the scene."""

import pytest
import torch
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from torch.nn import Parameter

from nts_plugins.training.optimizers import AdamConfig, ExponentialDecayConfig, scale_learning_rates


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
