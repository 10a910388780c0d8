# SPDX-License-Identifier: Apache-2.0
"""Both strategies beside gsplat's own, step by step from the same random state, on the CPU.

gsplat's faults are stepped around, so that its rules are compared and not its version: the run starts at step 1,
because 1.4.0 resets opacities at step 0; opacities are reset once more after each reset, because 1.5.3 forgets to and
resetting twice changes nothing; and nothing is frozen. Its CUDA helpers for MCMC are replaced by plain formulas.
"""

import math
from typing import Any, Tuple

import pytest
import torch
from torch import Tensor

from nts_plugins.gaussians import DefaultConfig, MCMCConfig, make_strategy
from nts_plugins.rasterization.rules import installed_rules
from tests.gaussians.training import Training, record, start

gsplat_strategies = pytest.importorskip("gsplat.strategy")
gsplat_ops = pytest.importorskip("gsplat.strategy.ops")


def lively(parameters: list) -> torch.optim.Optimizer:
    """Steps so large that opacities and scales cross the strategies' limits again and again."""
    return torch.optim.Adam(parameters, lr=0.05)


def assert_equal(ours: Training, theirs: Training) -> None:
    """Same splats in the same order with the same moments; what is computed rather than copied, to rounding."""
    ours.assert_in_step()
    for name in ours.params:
        assert torch.allclose(ours.params[name], theirs.params[name], rtol=1e-5, atol=1e-6), name
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(ours.moments(name, key), theirs.moments(name, key)), (name, key)


@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("revised_opacity", [False, True])
@pytest.mark.parametrize("screen_size_until", [0, 25])
@pytest.mark.parametrize("cameras", [1, 3])
def test_default_strategy(absgrad: bool, revised_opacity: bool, screen_size_until: int, cameras: int) -> None:
    settings = dict(
        absgrad=absgrad,
        revised_opacity=revised_opacity,
        refine_scale2d_stop_iter=screen_size_until,
        grow_grad2d=2.5 * cameras,
        prune_opa=0.1,
        grow_scale2d=0.03,
        prune_scale2d=0.038,
        refine_start_iter=2,
        refine_every=3,
        reset_every=12,
        pause_refine_after_reset=4,
        refine_stop_iter=40,
    )
    ours, theirs = (start(150, scale=-5.0, opacity=-1.5, make_optimizer=lively) for _ in range(2))
    strategy = make_strategy(DefaultConfig(**settings))
    reference = gsplat_strategies.DefaultStrategy(**settings, verbose=False)
    state, their_state = strategy.initialize_state(1.3), reference.initialize_state(1.3)
    totals = {"duplicated": 0, "split": 0, "pruned": 0}
    for step in range(1, 45):
        assert len(ours) == len(theirs), step
        generator = torch.Generator().manual_seed(step)
        gradients = torch.randn(cameras, len(ours), 2, generator=generator) * 0.02
        radii = torch.randint(0, 8, (cameras, len(ours)), generator=generator)
        if cameras > 1:  # gsplat keeps the radius of any one camera, and says it should be the largest.
            radii = torch.where((radii > 0).all(dim=0), radii[0], 0).expand(cameras, -1)
        gradients[radii == 0] = 0.0
        for training in (ours, theirs):
            training.optimize(torch.Generator().manual_seed(step))
        torch.manual_seed(step)
        info = record(gradients, radii, per_axis=installed_rules().radii_per_axis)
        strategy.step_post_backward(ours.params, ours.optimizers, state, step, info)
        torch.manual_seed(step)
        info = record(gradients, radii, per_axis=installed_rules().radii_per_axis)
        reference.step_post_backward(theirs.params, theirs.optimizers, their_state, step, info)
        if step % 12 == 0 and step < 40:
            gsplat_ops.reset_opa(theirs.params, theirs.optimizers, their_state, 0.2)
        assert_equal(ours, theirs)
        if state.counts.get("step") == step:
            totals = {name: total + state.counts[name] for name, total in totals.items()}
    assert min(totals.values()) > 10, totals  # Every rule was exercised.
    assert len(ours) < 5000
    for name in ("grad2d", "count"):
        assert torch.allclose(state.per_splat[name], their_state[name], rtol=1e-5)


def relocation(opacities: Tensor, scales: Tensor, ratios: Tensor, binoms: Tensor) -> Tuple[Tensor, Tensor]:
    """Stands in for gsplat's CUDA kernel: equation 9 of the MCMC paper as it is printed."""
    ratios.clamp_(1, len(binoms))
    new_opacities, new_scales = torch.empty_like(opacities), torch.empty_like(scales)
    for row, n in enumerate(ratios.tolist()):
        opacity = float(opacities[row])
        part = 1 - (1 - opacity) ** (1 / n)
        terms = (
            float(binoms[i - 1, k]) * (-1) ** k * part ** (k + 1) / math.sqrt(k + 1)
            for i in range(1, n + 1)
            for k in range(i)
        )
        new_opacities[row] = part
        new_scales[row] = scales[row] * (opacity / sum(terms))
    return new_opacities, new_scales


def covariances(quats: Tensor, scales: Tensor, **options: Any) -> Tuple[Tensor, None]:
    """Stands in for gsplat's CUDA kernel."""
    rotations = gsplat_ops.normalized_quat_to_rotmat(torch.nn.functional.normalize(quats, dim=-1))
    return rotations @ torch.diag_embed(scales**2) @ rotations.transpose(-1, -2), None


@pytest.mark.parametrize("noise", [False, True])
def test_mcmc_strategy(noise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise splats of all opacities; with it only faint ones, of which none is left out of the draw."""
    monkeypatch.setattr(gsplat_ops, "compute_relocation", relocation)
    monkeypatch.setattr(gsplat_ops, "quat_scale_to_covar_preci", covariances)
    settings = dict(refine_start_iter=2, refine_every=3, refine_stop_iter=25, min_opacity=0.005, noise_lr=1e4)
    opacity, lr = (-5.3, 1e-3) if noise else (-4.5, 0.0)
    ours, theirs = start(150, opacity=opacity, scale=-4.0), start(150, opacity=opacity, scale=-4.0)
    strategy = make_strategy(MCMCConfig(**settings, max_splats=190))
    reference = gsplat_strategies.MCMCStrategy(**settings, cap_max=190, verbose=False)
    state, their_state = strategy.initialize_state(), reference.initialize_state()
    relocated = 0
    for step in range(28):
        for training in (ours, theirs):
            training.optimize(torch.Generator().manual_seed(step))
            if noise:
                with torch.no_grad():
                    training.params["opacities"].clamp_(max=-3.0)
        torch.manual_seed(step)
        strategy.step_post_backward(ours.params, ours.optimizers, state, step, {}, lr=lr)
        torch.manual_seed(step)
        with torch.no_grad():
            reference.step_post_backward(theirs.params, theirs.optimizers, their_state, step, {}, lr=lr)
        assert_equal(ours, theirs)
        relocated += state.counts["relocated"] if state.counts.get("step") == step else 0
    assert relocated > 30 and len(ours) == 190
