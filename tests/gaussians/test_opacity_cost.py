# SPDX-License-Identifier: Apache-2.0
"""What opacity costs under the default strategy: how much, whom, and when nothing."""

from typing import Any

import pytest
import torch

from nts_plugins.errors import InputError
from nts_plugins.gaussians import DefaultConfig, MCMCConfig, make_strategy
from tests.gaussians.training import pull, start


def test_opacity_costs_its_share_of_the_loss() -> None:
    training = start(5)
    loss = torch.tensor(0.25, requires_grad=True)
    free = make_strategy(DefaultConfig(capacity=50))
    assert free.losses(training.params, free.initialize_state(), 0, loss) == {}
    strategy = make_strategy(DefaultConfig(opacity_cost=0.5).for_data(numbers=5900, numbers_per_splat=59))
    losses = strategy.losses(training.params, strategy.initialize_state(), strategy.config.refine_stop_iter, loss)
    share = torch.sigmoid(training.params["opacities"]).sum() / 100
    assert torch.allclose(losses["opacity_cost"], 0.5 * 0.25 * share)
    pulled, back = torch.autograd.grad(losses["opacity_cost"], [training.params["opacities"], loss], allow_unused=True)
    assert (pulled > 0).all() and back is None
    price = strategy.opacity_price(training.params, loss)
    assert float(price) == pytest.approx(0.5 * 0.25 / 100) and not price.requires_grad
    assert free.opacity_price(training.params, loss) is None
    random = make_strategy(MCMCConfig(opacity_regularization=0.3))
    charged = random.losses(training.params, random.initialize_state(), 0, loss)["opacity_regularization"]
    opacities = torch.sigmoid(training.params["opacities"])
    torch.testing.assert_close(random.opacity_price(training.params, loss) * opacities.sum(), charged)
    with pytest.raises(InputError, match="opacity_cost needs a capacity"):
        make_strategy(DefaultConfig(opacity_cost=0.5))


def test_opacity_costs_nothing_where_pictures_are_not_known() -> None:
    unknown = make_strategy(DefaultConfig(opacity_cost=0.5).for_data(None, 59))
    assert unknown.losses(start(5).params, unknown.initialize_state(), 0, torch.tensor(0.25)) == {}


def test_splats_pay_once_they_have_been_seen() -> None:
    """After a reset Adam knows nothing: alone with the cost, it would fade a splat that no picture has shown yet."""
    training = start(3)
    strategy = make_strategy(DefaultConfig(opacity_cost=1.0, capacity=10, refine_stop_iter=4000))
    state = strategy.initialize_state()
    strategy.step_post_backward(training.params, training.optimizers, state, 3000, pull(3, {}))
    optimizer = training.optimizers["opacities"]

    def gradient(step: int) -> Any:
        optimizer.zero_grad()
        strategy.losses(training.params, state, step, torch.tensor(0.25))["opacity_cost"].backward()
        optimizer.step()
        return training.params["opacities"].grad.flatten()

    before = training.params["opacities"].detach().clone()
    for _ in range(50):
        assert (gradient(3001) == 0).all()
    assert torch.equal(training.params["opacities"], before)
    seen = pull(3, {}, radii=torch.tensor([[0, 3, 0]]))
    strategy.step_post_backward(training.params, training.optimizers, state, 3001, seen)
    assert (gradient(3002) > 0).tolist() == [False, True, False]
    # Nothing is reset any more, and every splat has been seen.
    assert (gradient(4000) > 0).all()
