# SPDX-License-Identifier: Apache-2.0
"""Densification: how the set of splats grows, shrinks and moves while it is trained.

Two strategies stand behind one interface. Both follow gsplat's rules, in plain torch on any device, and do not depend
on the installed version of gsplat. A training step calls them like this::

    strategy = make_strategy(DefaultConfig())
    state = strategy.initialize_state(scene_scale=1.0)
    ...
    raster = rasterize(..., absgrad=strategy.absgrad)
    strategy.step_pre_backward(params, optimizers, state, step, raster.info)
    (loss + sum(strategy.losses(params, state, step, loss).values())).backward()
    for optimizer in optimizers.values(): optimizer.step()
    strategy.step_post_backward(params, optimizers, state, step, raster.info, lr=learning_rate_of_the_means)

``params`` is a dict or ``ParameterDict`` with at least ``means`` [N, 3], ``scales`` [N, 3] (log), ``quats`` [N, 4] and
``opacities`` [N] or [N, 1] (logit). Whatever else it holds, first axis N, stays in step with them: further trainable
values and frozen ones of any dtype. ``optimizers`` maps the same names to Adam or one of its kin. A frozen parameter
needs no optimizer, and optimizers of other things (camera poses, say) are left alone. When the number of splats
changes, parameters are replaced in ``params`` and in the optimizers: hold no reference to them across a step.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Literal, Mapping, MutableMapping, Optional, Union

from torch import Tensor
from torch.nn import Parameter, ParameterDict
from torch.optim import Optimizer

from nts_plugins.errors import InputError

Params = Union[MutableMapping[str, Parameter], ParameterDict]
Optimizers = Mapping[str, Optimizer]


@dataclass
class DefaultConfig:
    """Adaptive density control of Kerbl et al. 2023 (3DGS), section 5.2, with gsplat's names and rules.

    Scales are compared with ``scene_scale``, which nerfstudio's normalised poses make 1. Numbers are the paper's
    released ones unless a field says otherwise.
    """

    prune_opa: float = 0.005
    """Splats of lower opacity are removed. The opacity reset clamps to twice this value."""
    grow_grad2d: float = 0.0002
    """Splats grow where the mean gradient of their position on the screen, from -1 to 1 across it, exceeds this.
    With ``absgrad`` about 0.0008 keeps the number of splats similar."""
    grow_scale3d: float = 0.01
    """Growing splats up to this size, times the scene's scale, are duplicated; larger ones are split in two."""
    grow_scale2d: float = 0.05
    """Splats whose radius exceeds this part of the longer image side are split, until ``refine_scale2d_stop_iter``."""
    prune_scale3d: float = 0.1
    """Splats larger than this, times the scene's scale, are removed once the first opacity reset has passed."""
    prune_scale2d: float = 0.15
    """Like ``grow_scale2d``: radius above which splats are removed, once the first opacity reset has passed."""
    refine_scale2d_stop_iter: int = 0
    """Sizes on the screen count before this step; 0 leaves them out, as the paper's program in effect does."""
    refine_start_iter: int = 500
    """The set of splats stays as it is up to and including this step."""
    refine_stop_iter: int = 15_000
    """From this step on, splats are neither grown nor removed nor reset."""
    refine_every: int = 100
    """Steps between refinements."""
    reset_every: int = 3000
    """Steps between opacity resets. Nothing is reset at step 0."""
    pause_refine_after_reset: int = 0
    """Steps without refinement at the start of every reset period, so that opacities recover before splats are judged
    by them. The number of training images plus ``refine_every`` shows each image once in between. A pause of more than
    half of ``reset_every`` is taken as half: gsplat would otherwise refine rarely or, with a pause longer than the
    period (splatfacto with more than 2900 images), never."""
    absgrad: bool = False
    """Sum absolute pixel gradients instead of signed ones (AbsGS, Ye et al. 2024), which cancel in large splats."""
    revised_opacity: bool = False
    """Halves of a split get the opacity 1 - sqrt(1 - o), so that together they cover what the one did (Rota Bulò et
    al. 2024), instead of o each."""
    max_splats: Union[int, Literal["auto"], None] = None
    """No growth beyond this number: when more splats qualify than there is room for, those with the largest gradients
    grow. It removes no splat that is already there. "auto" allows no more numbers in splats than in pixels, see
    ``capacity``. None sets no limit, as in the paper."""
    opacity_cost: float = 0.0
    """Adds this * loss * sum of opacities / ``capacity`` to the loss, with the loss as a constant factor. What pictures
    hardly ask for fades and, while splats are refined, is removed. 1 follows Akaike's criterion (1974): a number must
    explain one nat of the data, where errors are absolute, independent, and of unknown size, and a splat counts by its
    opacity. A splat pays from its first visible step after each refinement on: before it, after a reset, Adam would
    follow the cost alone, at its full rate however small it is. The paper has none."""
    capacity: Optional[int] = None
    """Splats that hold as many numbers as the training pictures, masked pixels included; None takes it from the data.
    "auto" limits splats to it, and a larger one makes opacity cheaper."""

    def __post_init__(self) -> None:
        _require_positive(self, "refine_every", "reset_every")
        if not 0 < self.prune_opa < 0.5:
            raise InputError(
                f"DefaultConfig.prune_opa is {self.prune_opa}; it must lie above 0 and below 0.5, since opacities are "
                f"reset to twice that."
            )
        if isinstance(self.max_splats, int):
            _require_positive(self, "max_splats")
        if self.capacity is not None:
            _require_positive(self, "capacity")
        _require_weight(self, "opacity_cost")

    def for_data(self, numbers: Optional[int], numbers_per_splat: int, sparsity: float = 1.0) -> "DefaultConfig":
        """The settings for a capture.

        Args:
            numbers: in all training pictures, three a pixel. None where that is not known: without a ``capacity``,
                "auto" is then no limit, and opacity costs nothing.
            numbers_per_splat: position, rotation, scale, opacity and colour, 59 with harmonics of degree 3.
            sparsity: how many times farther than usual seed points lie apart; growth starts that much later.
        """
        capacity = self.capacity
        if capacity is None and numbers is not None:
            capacity = max(1, numbers // numbers_per_splat)
        return replace(
            self,
            capacity=capacity,
            max_splats=capacity if self.max_splats == "auto" else self.max_splats,
            opacity_cost=0.0 if capacity is None else self.opacity_cost,
            refine_start_iter=round(self.refine_start_iter * sparsity),
        )


@dataclass
class MCMCConfig:
    """3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024), with gsplat's rules.

    Splats too faint to matter jump onto opaque ones, the number grows by 5 % a refinement, and noise lets faint splats
    explore. Numbers are the paper's. It starts best from opacity 0.5 and scales of 0.1 times the usual ones.
    """

    max_splats: int = 1_000_000
    """The number of splats grows up to this. gsplat calls it ``cap_max``."""
    noise_lr: float = 5e5
    """Strength of the noise on the means, a factor on their learning rate."""
    refine_start_iter: int = 500
    """No splat jumps or is added up to and including this step. Noise acts from the first step to the last."""
    refine_stop_iter: int = 25_000
    """From this step on no splat jumps or is added."""
    refine_every: int = 100
    """Steps between refinements."""
    min_opacity: float = 0.005
    """Splats up to this opacity count as dead and jump."""
    opacity_regularization: float = 0.01
    """Weight of the mean opacity in the loss: what is not needed fades, dies and can jump elsewhere."""
    scale_regularization: float = 0.01
    """Weight of the mean scale in the loss."""

    def __post_init__(self) -> None:
        _require_positive(self, "refine_every", "max_splats")
        _require_weight(self, "opacity_regularization", "scale_regularization")
        if self.max_splats > 2**24:
            raise InputError(
                f"MCMCConfig.max_splats is {self.max_splats}, but torch draws from at most {2**24} splats."
            )


StrategyConfig = Union[DefaultConfig, MCMCConfig]


@dataclass
class StrategyState:
    """What a strategy remembers between steps. A checkpoint that holds it resumes as if it had not been interrupted."""

    scene_scale: float = 1.0
    """Length in scene units to which thresholds on scales refer."""
    per_splat: Dict[str, Tensor] = field(default_factory=dict)
    """Statistics [N] since the last refinement, in step with the parameters; empty before the first step."""
    counts: Dict[str, int] = field(default_factory=dict)
    """What the last refinement did, for logs: ``step``, ``splats`` (N afterwards) and ``duplicated``, ``split`` and
    ``pruned`` (default) or ``relocated`` and ``added`` (MCMC). Empty before the first refinement."""

    def state_dict(self) -> Dict[str, Any]:
        """A copy in plain numbers, dicts and tensors, which ``torch.load(..., weights_only=True)`` reads back."""
        per_splat = {name: values.detach().clone() for name, values in self.per_splat.items()}
        return {"scene_scale": self.scene_scale, "per_splat": per_splat, "counts": dict(self.counts)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave. Tensors may be on another device; the next step moves them."""
        self.scene_scale = float(saved["scene_scale"])
        self.per_splat = {name: values.detach().clone() for name, values in saved["per_splat"].items()}
        self.counts = dict(saved["counts"])


class Strategy(ABC):
    """The interface of both strategies; the module's docstring shows when to call what."""

    absgrad: bool = False
    """Whether the rasterizer has to leave absolute gradients in ``info["means2d"].absgrad``."""

    def initialize_state(self, scene_scale: float = 1.0) -> StrategyState:
        """A fresh memory; statistics are created on the parameters' device in the first step."""
        return StrategyState(scene_scale=scene_scale)

    def losses(self, params: Params, state: StrategyState, step: int, loss: Tensor) -> Dict[str, Tensor]:
        """Terms that the strategy adds to the training loss, weights included, by name.

        Args:
            params: differentiable.
            state: as the last step left it.
            step: the trainer's step, counted from 0.
            loss: of the picture in this step, a scalar; no gradient goes back to it from here.
        """
        return {}

    def opacity_price(self, params: Params, loss: Tensor) -> Optional[Tensor]:
        """What :meth:`losses` asks for a splat of opacity 1, a scalar without gradient; None for nothing."""
        return None

    def step_pre_backward(
        self, params: Params, optimizers: Optimizers, state: StrategyState, step: int, info: Dict[str, Any]
    ) -> None:
        """Call between rendering and ``backward``: asks torch to keep the gradients that are needed afterwards."""
        return None

    @abstractmethod
    def step_post_backward(
        self,
        params: Params,
        optimizers: Optimizers,
        state: StrategyState,
        step: int,
        info: Dict[str, Any],
        lr: Optional[float] = None,
    ) -> bool:
        """Call after ``backward`` and after the optimizers' step: updates statistics, and refines when it is time.

        Args:
            step: the trainer's step, counted from 0.
            info: the record of the picture that was rendered in this step (``Raster.info``).
            lr: the current learning rate of the means; MCMC needs it.

        Returns:
            Whether parameters were replaced because the number of splats changed.

        Raises:
            ValueError: when ``info`` lacks something, or a trainable parameter has no optimizer; names what and why.
        """


def make_strategy(config: StrategyConfig) -> Strategy:
    """The strategy that a config describes.

    Raises:
        InputError: where ``max_splats`` is still "auto", or opacity has a cost and ``capacity`` is still None.
    """
    if isinstance(config, DefaultConfig):
        from nts_plugins.gaussians._default_strategy import DefaultStrategy

        if config.max_splats == "auto":
            raise InputError('DefaultConfig.max_splats is "auto": resolve it with DefaultConfig.for_data first.')
        if config.opacity_cost > 0 and config.capacity is None:
            raise InputError("DefaultConfig.opacity_cost needs a capacity: take it from DefaultConfig.for_data.")
        return DefaultStrategy(config)
    if isinstance(config, MCMCConfig):
        from nts_plugins.gaussians._mcmc_strategy import MCMCStrategy

        return MCMCStrategy(config)
    raise TypeError(f"make_strategy takes a DefaultConfig or an MCMCConfig, got {type(config).__name__}.")


def _require_positive(config: StrategyConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < 1:
            raise InputError(f"{type(config).__name__}.{name} is {value}; it must be at least 1.")


def _require_weight(config: StrategyConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < math.inf:
            raise InputError(f"{type(config).__name__}.{name} is {value}; it must be 0 or more, and finite.")
