# SPDX-License-Identifier: Apache-2.0
"""MCMC: dead splats jump onto live ones, new ones are drawn by opacity, noise moves the faint ones."""

from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor

from nts_plugins.gaussians._rows import check_optimizers, copy_rows, gather_rows, zero_moments
from nts_plugins.gaussians.rotations import rotation_matrices
from nts_plugins.gaussians.strategies import MCMCConfig, Optimizers, Params, Strategy, StrategyState

MAX_COPIES = 51
"""A splat that is shared out among more counts as this many (gsplat's table ends there)."""
GROWTH = 1.05
"""The number of splats is multiplied by this at every refinement."""

NEGLIGIBLE_MOVE = 1e-6
"""Noise that moves a splat by this part of its largest scale, or less, is not computed."""


class MCMCStrategy(Strategy):
    """The rules of gsplat's ``MCMCStrategy``, whose helpers exist for CUDA only, in plain torch."""

    def __init__(self, config: MCMCConfig) -> None:
        self.config = config

    def losses(self, params: Params, state: StrategyState, step: int, loss: Tensor) -> Dict[str, Tensor]:
        config = self.config
        return {
            "opacity_regularization": config.opacity_regularization * torch.sigmoid(params["opacities"]).mean(),
            "scale_regularization": config.scale_regularization * torch.exp(params["scales"]).mean(),
        }

    def opacity_price(self, params: Params, loss: Tensor) -> Optional[Tensor]:
        return loss.new_tensor(self.config.opacity_regularization / max(1, len(params["opacities"])))

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
        if lr is None:
            raise ValueError("The MCMC strategy scales its noise with the learning rate of the means: pass lr=.")
        config = self.config
        before = params["means"]
        if config.refine_start_iter < step < config.refine_stop_iter and step % config.refine_every == 0:
            check_optimizers(params, optimizers)
            relocated = self._relocate_dead(params, optimizers)
            added = self._add(params, optimizers, state)
            state.counts = {"step": step, "splats": len(params["means"]), "relocated": relocated, "added": added}
        add_noise(params, lr * config.noise_lr)
        return params["means"] is not before

    def _relocate_dead(self, params: Params, optimizers: Optimizers) -> int:
        """Move dead splats onto live ones, drawn in proportion to opacity; how many."""
        opacities = torch.sigmoid(params["opacities"].flatten())
        dead = (opacities <= self.config.min_opacity).nonzero()[:, 0]
        alive = (opacities > self.config.min_opacity).nonzero()[:, 0]
        if len(dead) == 0 or len(alive) == 0:
            return 0
        hosts = alive[torch.multinomial(opacities[alive], len(dead), replacement=True)]
        self._share_out(params, hosts)
        copy_rows(params, hosts, dead)
        # As in gsplat and the authors' program: hosts lose their momentum, what jumped keeps its own.
        for name in params.keys():
            zero_moments(params, optimizers, name, hosts)
        return len(dead)

    def _add(self, params: Params, optimizers: Optimizers, state: StrategyState) -> int:
        """Add copies of splats drawn in proportion to opacity; how many."""
        n = len(params["means"])
        added = max(0, min(self.config.max_splats, int(GROWTH * n)) - n)
        if added > 0:
            # Not even the faintest may underflow to zero: a draw from zeros alone is an error.
            opacities = torch.sigmoid(params["opacities"].flatten()).clamp_min(torch.finfo(torch.float32).tiny)
            hosts = torch.multinomial(opacities, added, replacement=True)
            self._share_out(params, hosts)
            source = torch.cat([torch.arange(n, device=hosts.device), hosts])
            gather_rows(params, optimizers, state, source, added)
        return added

    def _share_out(self, params: Params, hosts: Tensor) -> None:
        """Give the splats ``hosts`` [M] the opacity and scales of one of the copies they are to have, in place."""
        copies = torch.bincount(hosts, minlength=len(params["means"]))[hosts] + 1
        opacities = torch.sigmoid(params["opacities"][hosts])
        shared, scales = share_out(opacities.flatten(), params["scales"][hosts].exp(), copies)
        shared = shared.clamp(self.config.min_opacity, 1.0 - torch.finfo(torch.float32).eps)
        params["opacities"][hosts] = torch.logit(shared).reshape(opacities.shape)
        params["scales"][hosts] = scales.log()


def share_out(opacities: Tensor, scales: Tensor, copies: Tensor) -> Tuple[Tensor, Tensor]:
    """Opacity and scales for n equal splats at one place that together look like the one that was there.

    The opacities compose to the old one at the centre, 1 - (1 - o')^n = o, and the scales keep the integral along a
    line through it. Source: Kheradmand et al. 2024, equation 9. There the denominator is a double sum of binomials
    C(i - 1, k) over i = 1..n and k < i; summed over i first they give C(n, k + 1), so that with j = k + 1
    s' = s o / sum_{j=1..n} C(n, j) (-1)^(j-1) o'^j / sqrt(j).

    Args:
        opacities: [M] in (0, 1).
        scales: [M, 3] linear.
        copies: [M] n, integers; counted as 1 below 1 and as 51 above 51.

    Returns:
        Opacities [M] and scales [M, 3]. Not meant to be differentiated.
    """
    n = copies.clamp(1, MAX_COPIES).double()
    # In double precision, because the terms alternate in sign and grow beyond what single precision resolves.
    single = torch.finfo(torch.float32)
    whole = opacities.double().clamp(single.tiny, 1.0 - single.eps)
    shared = -torch.expm1(torch.log1p(-whole) / n)
    binomial, power, total = torch.ones_like(n), torch.ones_like(n), torch.zeros_like(n)
    for j in range(1, int(n.max()) + 1 if len(n) else 1):
        binomial = binomial * (n - (j - 1)) / j  # C(n, j), and 0 from j = n + 1 on
        power = power * -shared
        total = total - binomial * power / j**0.5
    return shared.to(opacities.dtype), scales * (whole / total).to(scales.dtype)[:, None]


@torch.no_grad()
def add_noise(params: Params, strength: float) -> None:
    """Move each mean, in place, by noise of its own shape: covariance times white noise, for faint splats only.

    The factor sigmoid(100 (0.005 - o)) fades the noise out above opacity 0.005 (Kheradmand et al. 2024). Splats that
    it would move by about a millionth of their own size or less are left out: in a trained scene nearly all are.
    """
    factors = torch.sigmoid(100.0 * (0.005 - torch.sigmoid(params["opacities"].flatten()))) * strength
    sizes = params["scales"].amax(dim=-1).exp()
    moved = (factors * sizes > NEGLIGIBLE_MOVE).nonzero()[:, 0]
    white = torch.randn(len(moved), 3, device=moved.device, dtype=factors.dtype) * factors[moved, None]
    axes = rotation_matrices(params["quats"][moved]) * params["scales"][moved].exp()[:, None, :]
    params["means"].index_add_(0, moved, torch.einsum("nij,nkj,nk->ni", axes, axes, white))
