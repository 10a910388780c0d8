# SPDX-License-Identifier: Apache-2.0
"""MCMC: relocation by hand and by quadrature, growth, the shape of the noise, and the edges."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from nts_plugins.errors import InputError
from nts_plugins.gaussians import MCMCConfig, make_strategy
from nts_plugins.gaussians._mcmc_strategy import add_noise, share_out
from nts_plugins.gaussians.rotations import rotation_matrices
from tests.gaussians.training import Training, logit, start

REFINE = 600
"""A step at which the default config refines."""
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def refine(training: Training, step: int = REFINE, lr: float = 0.0, **config: Any) -> dict:
    """One step of a fresh MCMC strategy, without noise unless ``lr`` is given; what it counted."""
    strategy = make_strategy(MCMCConfig(**config))
    state = strategy.initialize_state()
    before = training.params["means"]
    replaced = strategy.step_post_backward(training.params, training.optimizers, state, step, {}, lr=lr)
    assert replaced == (training.params["means"] is not before)
    training.assert_in_step()
    return state.counts


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_one_copy_is_what_was_there() -> None:
    scales = torch.rand(3, 3, dtype=torch.float64)
    opacities, same = share_out(double(0.1, 0.5, 0.99), scales, torch.tensor([1, 1, 0]))
    assert torch.allclose(opacities, double(0.1, 0.5, 0.99), rtol=1e-14)
    assert torch.allclose(same, scales, rtol=1e-14)


def test_two_copies_by_hand() -> None:
    """o = 0.75: o' = 1 - sqrt(0.25) = 0.5, and the denominator is 2 o' - o'^2 / sqrt(2) = 1 - 0.25 / sqrt(2)."""
    opacities, scales = share_out(double(0.75), double(1.0, 2.0, 4.0)[None], torch.tensor([2]))
    assert opacities.item() == pytest.approx(0.5, rel=1e-14)
    factor = 0.75 / (1.0 - 0.25 / math.sqrt(2.0))
    assert scales[0].tolist() == pytest.approx([factor, 2 * factor, 4 * factor], rel=1e-14)


@pytest.mark.parametrize("n", [2, 3, 7, 51])
@pytest.mark.parametrize("opacity", [0.006, 0.3, 0.9, 0.9999])
def test_copies_look_like_the_one_they_replace(n: int, opacity: float) -> None:
    """At the centre, and in the integral along a line through it (by quadrature)."""
    shared, scales = share_out(double(opacity), double(0.2, 0.2, 0.2)[None], torch.tensor([n]))
    assert 1 - (1 - shared.item()) ** n == pytest.approx(opacity, rel=1e-12)
    x = torch.linspace(-20.0, 20.0, 200_001, dtype=torch.float64)
    together = 1 - (1 - shared * torch.exp(-0.5 * (x / scales[0, 0]) ** 2)) ** n
    assert torch.trapezoid(together, x).item() == pytest.approx(opacity * 0.2 * math.sqrt(2 * math.pi), rel=1e-6)


def test_the_paper_double_sum() -> None:
    """Equation 9 as it is printed, in exact integers and float64, against the single sum in float32."""
    generator = torch.Generator().manual_seed(0)
    opacities = torch.rand(200, generator=generator) * 0.998 + 0.001
    copies = torch.randint(1, 52, (200,), generator=generator)
    shared, scales = share_out(opacities, torch.ones(200, 3), copies)
    for o, n, o_new, s_new in zip(opacities.tolist(), copies.tolist(), shared.tolist(), scales.tolist(), strict=True):
        part = 1 - (1 - o) ** (1 / n)
        total = sum(
            math.comb(i - 1, k) * (-1) ** k * part ** (k + 1) / math.sqrt(k + 1)
            for i in range(1, n + 1)
            for k in range(i)
        )
        assert o_new == pytest.approx(part, rel=1e-6)
        assert s_new == pytest.approx([o / total] * 3, rel=1e-6)


def test_saturated_opacities_and_huge_numbers_of_copies_stay_finite() -> None:
    opacities, scales = share_out(
        torch.tensor([1.0, 1.0, 1e-30, 0.5]), torch.ones(4, 3), torch.tensor([2, 51, 51, 999])
    )
    assert torch.isfinite(opacities).all() and torch.isfinite(scales).all()
    assert (opacities > 0).all() and (opacities < 1).all() and (scales > 0).all()
    assert opacities[3].item() == pytest.approx(1 - 0.5 ** (1 / 51))
    assert [part.shape for part in share_out(torch.rand(0), torch.rand(0, 3), torch.zeros(0).long())] == [(0,), (0, 3)]


@pytest.mark.parametrize("column", [True, False], ids=["[N, 1]", "[N]"])
def test_dead_splats_jump_onto_live_ones(column: bool) -> None:
    """One live splat takes in two dead ones, so that three copies share its opacity."""
    training = start(3)
    with torch.no_grad():
        training.params["opacities"][:, 0] = double(-9.0, logit(0.8), logit(0.005))
    if not column:
        training.params["opacities"] = Parameter(training.params["opacities"].detach()[:, 0])
        training.optimizers["opacities"] = torch.optim.Adam([training.params["opacities"]])
        training.optimize(torch.Generator().manual_seed(3))
    before = training.copy()
    opacity = torch.sigmoid(training.params["opacities"].detach().flatten()[1:2])
    assert refine(training) == {"step": REFINE, "splats": 3, "relocated": 2, "added": 0}
    shared, scales = share_out(opacity, before.params["scales"].detach()[1:2].exp(), torch.tensor([3]))
    assert torch.allclose(torch.sigmoid(training.params["opacities"].flatten()), shared.expand(3))
    assert torch.allclose(training.params["scales"].exp(), scales.expand(3, 3))
    for name in ("means", "quats", "features_dc", "features_rest"):
        assert torch.equal(training.params[name], before.params[name][[1, 1, 1]]), name
    for name in training.params:
        moments, earlier = training.moments(name), before.moments(name)
        assert (moments[1] == 0).all() and torch.equal(moments[[0, 2]], earlier[[0, 2]]), name


def test_growth_by_five_percent_up_to_the_cap() -> None:
    training = start(100)
    before = training.copy()
    assert refine(training) == {"step": REFINE, "splats": 105, "relocated": 0, "added": 5}
    for name in training.params:
        assert torch.equal(training.moments(name)[:100], before.moments(name)), name
        assert (training.moments(name)[100:] == 0).all(), name
    hosts = [
        (training.params["means"][:100] == mean).all(dim=-1).nonzero().item() for mean in training.params["means"][100:]
    ]
    copies = torch.bincount(torch.tensor(hosts), minlength=100) + 1
    expected, scales = share_out(
        torch.sigmoid(before.params["opacities"].detach().flatten()), before.params["scales"].detach().exp(), copies
    )
    rows = torch.cat([torch.arange(100), torch.tensor(hosts)])
    assert torch.allclose(torch.sigmoid(training.params["opacities"].flatten()), expected[rows], atol=1e-6)
    assert torch.allclose(training.params["scales"].exp(), scales[rows], rtol=1e-5)
    assert refine(training, max_splats=107)["added"] == 2
    assert refine(training, max_splats=107)["added"] == 0
    assert refine(training, max_splats=50)["added"] == 0


def test_opaque_splats_are_chosen_more_often() -> None:
    training = start(4000, opacity=-20.0)
    with torch.no_grad():
        training.params["opacities"][:1000] = logit(0.2)
        training.params["opacities"][1000:2000] = logit(0.6)
    torch.manual_seed(0)
    labels = Parameter(torch.arange(4000), requires_grad=False)
    training.params["labels"] = labels
    assert refine(training, max_splats=4000)["relocated"] == 2000
    hosts = training.params["labels"][2000:]
    assert (hosts < 2000).all()
    assert ((hosts >= 1000).float().mean() - 0.75).abs() < 0.03


@pytest.mark.parametrize("device", DEVICES)
def test_frozen_values_stay_in_step_and_frozen(device: str) -> None:
    training = start(200, opacity=-4.0, device=device)
    training.params["labels"] = Parameter(torch.arange(200, device=device), requires_grad=False)
    original = training.params["features_dc"].detach().clone()
    counts = refine(training, lr=1e-4)
    assert counts["relocated"] > 0 and counts["added"] == 10
    labels = training.params["labels"]
    assert not labels.requires_grad and torch.equal(training.params["features_dc"], original[labels])


def test_nothing_but_noise_outside_the_window() -> None:
    for step in (0, 500, 599, 25_000):
        training = start(100, opacity=-6.0)
        before = training.copy().params
        assert refine(training, step=step, lr=1e-4) == {}
        for name in training.params:
            assert torch.equal(training.params[name], before[name]) == (name != "means"), name


def test_noise_has_the_shape_of_the_splat() -> None:
    """Displacements are normal with covariance f^2 Sigma Sigma, f = sigmoid(100 (0.005 - o)) times the strength."""
    n, strength = 200_000, 2.0
    scales, quat = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0.5, -0.4, 0.3, 0.7])
    training = start(n)
    with torch.no_grad():
        training.params["means"].zero_()
        training.params["quats"].copy_(quat.expand(n, 4))
        training.params["scales"].copy_(scales.log().expand(n, 3))
        training.params["opacities"].fill_(logit(0.01))
    torch.manual_seed(0)
    add_noise(training.params, strength)
    rotation = rotation_matrices(quat)
    covariance = rotation @ torch.diag(scales**2) @ rotation.T
    factor = strength / (1 + math.exp(-100 * (0.99 - 0.995)))
    moves = training.params["means"].detach()
    assert moves.mean(dim=0).abs().max() < 0.01
    assert torch.allclose(moves.T.cov(), factor**2 * covariance @ covariance, atol=0.01)


def test_noise_spares_opaque_splats() -> None:
    training = start(3, scale=-3.0)
    with torch.no_grad():
        training.params["opacities"][:, 0] = double(logit(0.9), logit(0.3), -9.0)
    before = training.params["means"].detach().clone()
    add_noise(training.params, 80.0)
    moved = (training.params["means"] != before).any(dim=-1)
    assert moved.tolist() == [False, False, True]


def test_what_is_left_out_of_the_noise_is_negligible() -> None:
    """A splat at the edge of being left out would have moved by a millionth of its size."""
    training = start(1)
    strength, size = 80.0, 0.05
    opacity = 0.005 - math.log(1e-6 / (strength * size)) / 100  # where the factor times size is 1e-6
    for offset, expected in ((1e-4, False), (-1e-4, True)):
        with torch.no_grad():
            training.params["means"].zero_()
            training.params["scales"].fill_(math.log(size))
            training.params["opacities"].fill_(logit(opacity + offset))
        add_noise(training.params, strength)
        move = training.params["means"].detach().norm().item()
        assert (move > 0) == expected and move < 1e-5 * size


@pytest.mark.parametrize(("n", "opacity"), [(0, 0.0), (1, 0.0), (5, -12.0), (30, -12.0), (30, -200.0)])
def test_edges(n: int, opacity: float) -> None:
    """No splats, one splat, and only dead ones: nothing jumps, nothing breaks."""
    training = start(n, opacity=opacity)
    counts = refine(training, lr=1e-4)
    assert counts["relocated"] == 0 and counts["added"] == (1 if n == 30 else 0)
    assert all(torch.isfinite(parameter).all() for parameter in training.params.values())


def test_losses_are_the_weighted_means() -> None:
    training = start(5)
    strategy = make_strategy(MCMCConfig(opacity_regularization=0.5, scale_regularization=2.0))
    losses = strategy.losses(training.params, strategy.initialize_state(), 0, torch.tensor(0.1))
    assert torch.allclose(losses["opacity_regularization"], 0.5 * torch.sigmoid(training.params["opacities"]).mean())
    assert torch.allclose(losses["scale_regularization"], 2.0 * training.params["scales"].exp().mean())
    pulled = torch.autograd.grad(sum(losses.values()), [training.params["opacities"], training.params["scales"]])
    assert all((gradient > 0).all() for gradient in pulled)


def test_mistakes_are_named() -> None:
    training = start(40)
    strategy = make_strategy(MCMCConfig())
    state = strategy.initialize_state()
    with pytest.raises(ValueError, match="pass lr="):
        strategy.step_post_backward(training.params, training.optimizers, state, REFINE, {})
    del training.optimizers["quats"]
    before = training.copy().params
    with pytest.raises(ValueError, match="'quats' is trainable but has no optimizer"):
        strategy.step_post_backward(training.params, training.optimizers, state, REFINE, {}, lr=1e-4)
    assert all(torch.equal(training.params[name], before[name]) for name in before)
    with pytest.raises(InputError, match="16777217"):
        MCMCConfig(max_splats=2**24 + 1)
