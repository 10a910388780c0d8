# SPDX-License-Identifier: Apache-2.0
"""Both strategies in a real, tiny training: seed points, the rasterizer's own record, Adam, a picture to match."""

from typing import Any, Tuple

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter, ParameterDict

from nts_plugins.gaussians import DefaultConfig, Gaussians, MCMCConfig, make_strategy
from nts_plugins.gaussians.initialise import from_points
from nts_plugins.rasterization import Raster, Rules, rasterize
from nts_plugins.rasterization.rules import GSPLAT_1_4, GSPLAT_1_5

CAP = 60


def draw(params: ParameterDict, rules: Rules, absgrad: bool) -> Raster:
    """A 24 x 16 picture from one camera, four units in front of the origin."""
    viewmats = torch.eye(4)[None]
    viewmats[0, 2, 3] = 4.0
    intrinsics = torch.tensor([[[20.0, 0.0, 12.0], [0.0, 20.0, 8.0], [0.0, 0.0, 1.0]]])
    gaussians = Gaussians(
        means=params["means"],
        quats=params["quats"],
        scales=params["scales"].exp(),
        opacities=torch.sigmoid(params["opacities"])[:, 0],
        sh=params["features_dc"][:, None],
        sh_rest=params["features_rest"],
    )
    return rasterize(gaussians, viewmats, intrinsics, 24, 16, absgrad=absgrad, rules=rules, backend="reference")


def picture() -> Tensor:
    """[1, 16, 24, 3] a chequerboard in colour, finer than the seed splats."""
    y, x = torch.meshgrid(torch.arange(16), torch.arange(24), indexing="ij")
    board = ((x // 4 + y // 4) % 2).float()
    return torch.stack([board, 1.0 - board, torch.full_like(board, 0.5)], dim=-1)[None]


def train(config: Any, rules: Rules, steps: int = 25) -> Tuple[ParameterDict, list, dict]:
    torch.manual_seed(0)
    points = (torch.rand(30, 3) - 0.5) * torch.tensor([4.0, 2.6, 0.4])
    params = ParameterDict({name: Parameter(value) for name, value in from_points(points, sh_degree=1).items()})
    params["labels"] = Parameter(torch.arange(30), requires_grad=False)
    optimizers = {name: torch.optim.Adam([value], lr=0.02) for name, value in params.items() if value.requires_grad}
    strategy, target, losses = make_strategy(config), picture(), []
    state = strategy.initialize_state()
    for step in range(steps):
        raster = draw(params, rules, strategy.absgrad)
        strategy.step_pre_backward(params, optimizers, state, step, raster.info)
        loss = (raster.colors - target).abs().mean()
        (loss + sum(strategy.losses(params, state, step, loss).values())).backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        strategy.step_post_backward(params, optimizers, state, step, raster.info, lr=1e-6)
        losses.append(loss.item())
    return params, losses, state.counts


@pytest.mark.parametrize("rules", [GSPLAT_1_4, GSPLAT_1_5], ids=lambda rules: rules.name)
@pytest.mark.parametrize(
    "config",
    [
        DefaultConfig(refine_start_iter=4, refine_every=5, grow_scale3d=0.1, prune_scale3d=9.0, max_splats=CAP),
        DefaultConfig(refine_start_iter=4, refine_every=5, absgrad=True, refine_scale2d_stop_iter=12, max_splats=CAP),
        MCMCConfig(refine_start_iter=4, refine_every=5, max_splats=CAP),
    ],
    ids=["default", "absgrad", "mcmc"],
)
def test_training_grows_and_learns(config: Any, rules: Rules) -> None:
    params, losses, counts = train(config, rules)
    assert counts["step"] == 20 and counts["splats"] == len(params["labels"])
    assert 30 < counts["splats"] <= CAP
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.isfinite(parameter).all() for parameter in params.values())
