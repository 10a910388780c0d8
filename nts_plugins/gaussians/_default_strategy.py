# SPDX-License-Identifier: Apache-2.0
"""Adaptive density control: duplicate small splats, split large ones, prune faint ones, reset opacities."""

import math
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor

from nts_plugins.gaussians._rows import gather_rows, zero_moments
from nts_plugins.gaussians.rotations import rotation_matrices
from nts_plugins.gaussians.strategies import DefaultConfig, Optimizers, Params, Strategy, StrategyState

SPLIT_SHRINKS = 1.6
"""Both halves of a split have the scales of the whole divided by this (3DGS, section 5.2)."""


class DefaultStrategy(Strategy):
    """The rules of gsplat's ``DefaultStrategy``, the same in every version of gsplat.

    It differs from gsplat where that has faults: opacities are reset every ``reset_every`` steps but not at step 0
    (gsplat 1.4.0 also resets at 0, 1.5.3 never), the pause after a reset is limited (see :class:`DefaultConfig`), and
    the last splat is never pruned: when all would go, the most opaque one stays, because nothing grows from nothing.
    """

    def __init__(self, config: DefaultConfig) -> None:
        self.config = config
        self.absgrad = config.absgrad

    def losses(self, params: Params, state: StrategyState, step: int, loss: Tensor) -> Dict[str, Tensor]:
        price = self.opacity_price(params, loss)
        if price is None:
            return {}
        opacities = torch.sigmoid(params["opacities"].flatten())
        if step < self.config.refine_stop_iter:
            opacities = opacities * (_statistic(state, "count", params["means"]) > 0)
        return {"opacity_cost": price * opacities.sum()}

    def opacity_price(self, params: Params, loss: Tensor) -> Optional[Tensor]:
        cost, capacity = self.config.opacity_cost, self.config.capacity
        return None if cost == 0 or capacity is None else cost / capacity * loss.detach()

    def step_pre_backward(
        self, params: Params, optimizers: Optimizers, state: StrategyState, step: int, info: Dict[str, Any]
    ) -> None:
        if step < self.config.refine_stop_iter:
            _entry(info, "means2d").retain_grad()

    @torch.no_grad()
    def step_post_backward(
        self,
        params: Params,
        optimizers: Optimizers,
        state: StrategyState,
        step: int,
        info: Dict[str, Any],
        lr: Optional[float] = None,
    ) -> bool:
        if step >= self.config.refine_stop_iter:
            return False
        self._update_statistics(params, state, step, info)
        before = params["means"]
        if self._refines_at(step):
            duplicated, split = self._grow(params, optimizers, state, step)
            pruned = self._prune(params, optimizers, state, step)
            for statistic in state.per_splat.values():
                statistic.zero_()
            state.counts = {
                "step": step,
                "splats": len(params["means"]),
                "duplicated": duplicated,
                "split": split,
                "pruned": pruned,
            }
        if step > 0 and step % self.config.reset_every == 0:
            self._reset_opacities(params, optimizers)
        return params["means"] is not before

    def _refines_at(self, step: int) -> bool:
        config = self.config
        pause = min(config.pause_refine_after_reset, config.reset_every // 2)
        return (
            step > config.refine_start_iter and step % config.refine_every == 0 and step % config.reset_every >= pause
        )

    def _uses_screen_size(self, step: int) -> bool:
        return step < self.config.refine_scale2d_stop_iter

    def _update_statistics(self, params: Params, state: StrategyState, step: int, info: Dict[str, Any]) -> None:
        """Add one picture's screen gradients, visibility and radii to the running statistics."""
        means, ids = params["means"], info.get("gaussian_ids")
        visible, radii = _visibility(info)
        _accumulate(_statistic(state, "grad2d", means), self._screen_gradients(info) * visible, ids)
        _accumulate(_statistic(state, "count", means), visible, ids)
        if self._uses_screen_size(step):
            radii = radii * (visible / float(max(info["width"], info["height"])))
            _accumulate(_statistic(state, "radii", means), radii, ids, largest=True)

    def _screen_gradients(self, info: Dict[str, Any]) -> Tensor:
        """Norms [C, N], or [P] when packed, of the gradients with the screen going from -1 to 1."""
        means2d = _entry(info, "means2d")
        gradient = getattr(means2d, "absgrad", None) if self.absgrad else means2d.grad
        if gradient is None:
            what = "absgrad: rasterize with absgrad=True" if self.absgrad else "grad: call step_pre_backward"
            raise ValueError(f"info['means2d'] has no {what}, and call backward, before step_post_backward.")
        # Written out by axis: torch's norm over an axis of two costs four times as much on a CPU.
        x, y = gradient.unbind(dim=-1)
        x_scale, y_scale = (_entry(info, side) / 2.0 * _entry(info, "n_cameras") for side in ("width", "height"))
        return torch.addcmul(x * x * x_scale**2, y, y, value=y_scale**2).sqrt_().float()

    def _grow(self, params: Params, optimizers: Optimizers, state: StrategyState, step: int) -> Tuple[int, int]:
        """Duplicate small and split large splats where gradients are high; how many of each."""
        config, statistics = self.config, state.per_splat
        gradients = statistics["grad2d"] / statistics["count"].clamp_min(1)
        high = gradients > config.grow_grad2d
        small = params["scales"].amax(dim=-1).exp() <= config.grow_scale3d * state.scene_scale
        duplicate, split = high & small, high & ~small
        if self._uses_screen_size(step):
            split |= statistics["radii"] > config.grow_scale2d
        if isinstance(config.max_splats, int):
            duplicate, split = _limit_growth(duplicate, split, gradients, config.max_splats - len(gradients))
        copied, halved = duplicate.nonzero()[:, 0], split.nonzero()[:, 0]
        if len(copied) + len(halved) > 0:
            values = _halves(params, halved, config.revised_opacity)
            values = {name: torch.cat([params[name][copied], value]) for name, value in values.items()}
            # gsplat's order: untouched splats, copies, first halves, second halves. All but the first are new.
            source = torch.cat([(~split).nonzero()[:, 0], copied, halved, halved])
            gather_rows(params, optimizers, state, source, len(copied) + 2 * len(halved), values)
        return len(copied), len(halved)

    def _prune(self, params: Params, optimizers: Optimizers, state: StrategyState, step: int) -> int:
        """Remove splats that are too faint or, after the first reset, too large; how many."""
        config = self.config
        opacities = torch.sigmoid(params["opacities"].flatten())
        prune = opacities < config.prune_opa
        if step > config.reset_every:
            prune |= params["scales"].amax(dim=-1).exp() > config.prune_scale3d * state.scene_scale
            if self._uses_screen_size(step):
                prune |= state.per_splat["radii"] > config.prune_scale2d
        keep = (~prune).nonzero()[:, 0]
        if len(keep) == 0 and len(prune) > 0:
            keep = opacities.argmax().reshape(1)
        pruned = len(prune) - len(keep)
        if pruned > 0:
            gather_rows(params, optimizers, state, keep)
        return pruned

    def _reset_opacities(self, params: Params, optimizers: Optimizers) -> None:
        """Clamp opacities to twice the pruning limit, so that splats have to earn them again."""
        opacities = params["opacities"]
        if not opacities.requires_grad:
            return  # Frozen opacities could never recover.
        limit = 2.0 * self.config.prune_opa
        opacities.clamp_(max=math.log(limit / (1.0 - limit)))
        zero_moments(params, optimizers, "opacities")


def _entry(info: Dict[str, Any], name: str) -> Any:
    if info.get(name) is None:
        raise ValueError(f"info holds no {name!r}, which densification reads. Pass the info of rasterize().")
    return info[name]


def _visibility(info: Dict[str, Any]) -> Tuple[Tensor, Tensor]:
    """Which splats were drawn (1 or 0) and their radii in pixels: floats [C, N] each, or [P] when packed.

    gsplat 1.4 gives one radius a splat, 1.5 one for each axis, and then there are as many axes as in ``means2d``.
    """
    radii = _entry(info, "radii")
    smaller = larger = radii
    if radii.ndim == _entry(info, "means2d").ndim:
        smaller, larger = torch.minimum(radii[..., 0], radii[..., 1]), torch.maximum(radii[..., 0], radii[..., 1])
    return (smaller > 0).float(), larger.float()


def _statistic(state: StrategyState, name: str, means: Tensor) -> Tensor:
    """The running statistic on the means' device; zeros when there is none yet."""
    value = state.per_splat.get(name)
    if value is None:
        value = torch.zeros(len(means), device=means.device)
    elif len(value) != len(means):
        raise ValueError(
            f"The statistic {name!r} is of {len(value)} splats, but there are {len(means)}. Load the strategy's state "
            "from the same checkpoint as the parameters, or start with a new one."
        )
    state.per_splat[name] = value.to(means.device)
    return state.per_splat[name]


def _accumulate(statistic: Tensor, update: Tensor, ids: Optional[Tensor], largest: bool = False) -> None:
    """Fold the values of one step into a statistic [N], in place: their sum, or the largest.

    Args:
        update: [C, N], or [P] when packed.
        ids: None, or [P] the splat of each packed entry.
    """
    if ids is not None:
        statistic.scatter_reduce_(0, ids, update, "amax" if largest else "sum")
        return
    for view in update:
        torch.maximum(statistic, view, out=statistic) if largest else statistic.add_(view)


def _limit_growth(duplicate: Tensor, split: Tensor, gradients: Tensor, room: int) -> Tuple[Tensor, Tensor]:
    """Of the growth that is wanted, the ``room`` cases with the largest gradients. Each adds one splat."""
    wanted = torch.cat([duplicate, split])
    room = max(0, room)
    if int(wanted.sum()) <= room:
        return duplicate, split
    ranked = torch.cat([gradients, gradients]).masked_fill(~wanted, -1.0)
    granted = torch.zeros_like(wanted)
    granted[ranked.topk(room).indices] = True
    duplicate, split = granted.chunk(2)
    return duplicate, split


def _halves(params: Params, rows: Tensor, revised_opacity: bool) -> Dict[str, Tensor]:
    """What tells the halves of split splats from their wholes: [2 S, ...] by name, all first halves before the second.

    Centres are drawn from the Gaussian itself, with torch's global random numbers.
    """
    means, log_scales = params["means"][rows], params["scales"][rows]
    draws = torch.randn(2, len(rows), 3, device=means.device, dtype=means.dtype)
    offsets = torch.einsum("nij,nj,bnj->bni", rotation_matrices(params["quats"][rows]), log_scales.exp(), draws)
    values = {
        "means": (means + offsets).flatten(0, 1),
        "scales": (log_scales - math.log(SPLIT_SHRINKS)).repeat(2, 1),
    }
    if revised_opacity:
        opacities = params["opacities"][rows]
        half = torch.logit(1.0 - torch.sqrt(1.0 - torch.sigmoid(opacities)))
        values["opacities"] = torch.cat([half, half])
    return values
