# SPDX-License-Identifier: Apache-2.0
"""What depends on versions of other packages."""

import io

import numpy as np
import pytest
import torch

from nts_plugins import compat


def test_nerfstudios_checkpoints_are_read_without_running_code() -> None:
    """Its exponential schedule stores numpy scalars, which torch >= 2.6 takes for code."""
    from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

    compat.allow_nerfstudio_checkpoints()
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    schedule = ExponentialDecaySchedulerConfig(lr_final=0.01, max_steps=10).setup()
    schedule = schedule.get_scheduler(optimizer, lr_init=0.1)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    assert isinstance(schedule.get_last_lr()[0], np.float64), "nerfstudio mended it: the workaround can go"
    file = io.BytesIO()
    torch.save({"schedulers": {"means": schedule.state_dict()}, "optimizers": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded["schedulers"]["means"]["_last_lr"] == schedule.get_last_lr()


def test_torch_load_is_left_alone() -> None:
    import nts_plugins.method_configs  # noqa: F401 - what nerfstudio's commands import

    assert torch.load.__module__ == "torch.serialization"


@pytest.mark.parametrize("name,expected", [("torch", True), ("no-such-distribution", False)])
def test_version_of(name: str, expected: bool) -> None:
    numbers = compat.version_of(name)
    assert bool(numbers) == expected and all(isinstance(number, int) for number in numbers)
