# SPDX-License-Identifier: Apache-2.0
"""Adam in one pass over memory, and learning rates that checkpoints can store.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterable, Mapping, Type

import torch
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.engine.schedulers import (
    ExponentialDecayScheduler,
    ExponentialDecaySchedulerConfig,
)
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from nts_plugins import compat


@dataclass
class AdamConfig(OptimizerConfig):
    """Adam (Kingma and Ba 2015), with torch's fused kernel where the parameters' device has one."""

    _target: Type = field(default_factory=lambda: Adam)
    eps: float = 1e-15
    """Added to the denominator. Far below Adam's usual 1e-8, because a splat's gradients can be as small as that."""

    def setup(self, params: Iterable[Parameter]) -> Optimizer:
        params = list(params)
        fused = bool(params) and all(p.device.type in compat.fused_adam_devices() for p in params)
        return Adam(params, lr=self.lr, eps=self.eps, fused=fused)


class Adam(torch.optim.Adam):
    """torch's, which forgets gradients without telling a profiler: a tenth of a step's time around its kernels."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        if not set_to_none:
            return super().zero_grad(set_to_none=False)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


@dataclass
class ExponentialDecayConfig(ExponentialDecaySchedulerConfig):
    """Learning rate that goes from the optimizer's to ``lr_final`` in equal ratios over ``max_steps`` steps."""

    _target: Type = field(default_factory=lambda: ExponentialDecay)
    max_steps: int = 30000
    lr_pre_warmup: float = 0.0


class ExponentialDecay(ExponentialDecayScheduler):
    """nerfstudio's schedule in plain floats.

    The values are the same; nerfstudio's are numpy scalars, which torch >= 2.6 refuses to load from a checkpoint.
    """

    config: ExponentialDecayConfig

    def factor(self, step: int, lr_init: float) -> float:
        """Learning rate at ``step`` divided by ``lr_init``."""
        config = self.config
        if step < config.warmup_steps:
            ramp = step / config.warmup_steps
            ramp = math.sin(0.5 * math.pi * ramp) if config.ramp == "cosine" else ramp
            return (config.lr_pre_warmup + (lr_init - config.lr_pre_warmup) * ramp) / lr_init
        final = lr_init if config.lr_final is None else config.lr_final
        progress = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
        return (final / lr_init) ** min(1.0, progress)

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        return LambdaLR(optimizer, lr_lambda=lambda step: self.factor(step, lr_init))


@dataclass
class WarmStartConfig(ExponentialDecayConfig):
    """Rates of a warm start, in equal ratios from one to another, and then those of :class:`ExponentialDecayConfig`."""

    _target: Type = field(default_factory=lambda: WarmStart)
    warm_lr: float = 1e-2
    """The first rate."""
    warm_lr_final: float = 1e-4
    """The last one of the warm start."""
    warm_steps: int = 1000
    """Its steps."""
    from_start: bool = True
    """Whether ``max_steps`` are counted from the first step of all, or from the first one after the warm start."""


class WarmStart(ExponentialDecay):
    """See :class:`WarmStartConfig`."""

    config: WarmStartConfig  # type: ignore[assignment]

    def factor(self, step: int, lr_init: float) -> float:
        config = self.config
        if step < config.warm_steps:
            ratio = config.warm_lr_final / config.warm_lr
            return config.warm_lr * ratio ** (step / max(1, config.warm_steps - 1)) / lr_init
        return super().factor(step if config.from_start else step - config.warm_steps, lr_init)


def scale_learning_rates(
    groups: Mapping[str, Dict[str, Any]], scales: Mapping[str, float]
) -> Dict[str, Dict[str, Any]]:
    """Optimizer groups whose learning rates, first and last, are multiplied by a factor each.

    Args:
        groups: nerfstudio's mapping of group name to {"optimizer": config, "scheduler": config or None}. Not changed.
        scales: factor by group name; groups that are not named keep their rates.
    """
    scaled = {name: dict(group) for name, group in groups.items()}
    for name, scale in scales.items():
        group = scaled.get(name)
        if group is None or scale == 1.0:
            continue
        group["optimizer"] = replace(group["optimizer"], lr=group["optimizer"].lr * scale)
        schedule = group["scheduler"]
        if getattr(schedule, "lr_final", None) is not None:
            group["scheduler"] = replace(
                schedule, lr_final=schedule.lr_final * scale, lr_pre_warmup=schedule.lr_pre_warmup * scale
            )
    return scaled
