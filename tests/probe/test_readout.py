# SPDX-License-Identifier: Apache-2.0
"""Networks that read splats out of features: which attributes, in pieces as at once, and what learns from what."""

from typing import Dict, Tuple

import pytest
import torch
from torch import Tensor, nn

from nts_plugins.probe import readout as module
from nts_plugins.probe.features import control
from nts_plugins.probe.readout import READ_OUT, Readout

SHAPES: Dict[str, Tuple[int, ...]] = {
    "means": (3,),
    "scales": (3,),
    "quats": (4,),
    "opacities": (1,),
    "features_dc": (3,),
    "features_rest": (15, 3),
}


def made(names: "tuple[str, ...]" = READ_OUT["all"], channels: int = 8) -> Readout:
    torch.manual_seed(0)
    return Readout(channels, {name: SHAPES[name] for name in names})


def features_of(count: int = 50, channels: int = 8) -> Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(1))


def test_what_each_mode_reads_out() -> None:
    assert READ_OUT["geometry"] == ("means", "scales", "quats", "opacities")
    assert READ_OUT["texture"] == ("features_dc", "features_rest")
    assert set(READ_OUT["all"]) == set(SHAPES) and READ_OUT["free"] == ()
    for names in READ_OUT.values():
        found = made(names)(features_of()) if names else {}
        assert {name: tuple(value.shape[1:]) for name, value in found.items()} == {name: SHAPES[name] for name in names}


def test_each_network_has_two_linear_layers_as_wide_as_a_feature() -> None:
    networks = made(channels=6)
    for name, shape in SHAPES.items():
        linear = [each for each in networks.networks[name] if isinstance(each, nn.Linear)]
        count = int(torch.Size(shape).numel())
        assert [(each.in_features, each.out_features) for each in linear] == [(6, 6), (6, count)]
    features = features_of(channels=6)
    first, second = (each for each in networks.networks["features_rest"] if isinstance(each, nn.Linear))
    expected = second(first(features).relu()).reshape(-1, 15, 3)
    torch.testing.assert_close(networks(features)["features_rest"], expected, atol=1e-6, rtol=1e-5)


def test_the_layer_between_may_have_a_width_of_its_own() -> None:
    networks = Readout(6, SHAPES, hidden=16)
    for name, shape in SHAPES.items():
        linear = [each for each in networks.networks[name] if isinstance(each, nn.Linear)]
        count = int(torch.Size(shape).numel())
        assert [(each.in_features, each.out_features) for each in linear] == [(6, 16), (16, count)]
    found = networks(features_of(channels=6))
    assert {name: tuple(value.shape[1:]) for name, value in found.items()} == SHAPES


@pytest.mark.parametrize("name", list(SHAPES))
def test_who_gets_a_gradient_from_what_is_read(name: str) -> None:
    """Each attribute teaches its own network alone, and features; but harmonics do not teach features."""
    networks, features = made(), features_of().requires_grad_()
    networks(features)[name].square().sum().backward()
    for other, network in networks.networks.items():
        got = [parameter.grad is not None and bool(parameter.grad.any()) for parameter in network.parameters()]
        assert all(got) if other == name else not any(got), other
    taught = features.grad is not None and bool(features.grad.any())
    assert taught is (name != "features_rest")


@pytest.mark.parametrize("piece", [7, 25, 50])
def test_in_pieces_is_as_at_once(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    def everything() -> "tuple[Dict[str, Tensor], list]":
        networks, features = made(), features_of().requires_grad_()
        found = networks(features)
        sum((value.square().sum() for value in found.values()), torch.zeros(())).backward()
        return found, [features.grad, *(parameter.grad for parameter in networks.parameters())]

    values, gradients = everything()
    monkeypatch.setattr(module, "PIECE", piece)
    calls = []
    once = Readout._piece
    monkeypatch.setattr(Readout, "_piece", lambda self, part: calls.append(len(part)) or once(self, part))
    in_pieces, others = everything()
    # Forward; and, where there are several, once more for the gradient.
    assert sum(calls) == (50 if piece == 50 else 100) and max(calls) == piece
    for name, value in values.items():
        torch.testing.assert_close(in_pieces[name], value, atol=1e-6, rtol=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)
    calls.clear()
    with torch.no_grad():
        made()(features_of())
    assert sum(calls) == 50, "without a gradient nothing is done twice"


def test_features_may_be_of_half_precision() -> None:
    networks, features = made(), features_of()
    found = networks(features.half())
    assert {value.dtype for value in found.values()} == {torch.float32}
    for name, value in networks(features.half().float()).items():
        assert torch.equal(found[name], value)
        torch.testing.assert_close(networks(features)[name], value, atol=1e-2, rtol=1e-2)


def test_the_loss_of_the_warm_start_by_hand() -> None:
    networks, features = made(READ_OUT["geometry"]), features_of(20)
    generator = torch.Generator().manual_seed(2)
    targets = {name: torch.randn(20, *shape, generator=generator) for name, shape in SHAPES.items()}
    found = networks(features)
    expected = sum(float((found[name] - targets[name]).detach().abs().sum()) / targets[name].numel() for name in found)
    assert float(networks.regression_loss(features, targets).detach()) == pytest.approx(expected, rel=1e-5)
    targets["features_dc"] += 100.0
    assert float(networks.regression_loss(features, targets).detach()) == pytest.approx(expected, rel=1e-5), (
        "is not read out"
    )
    targets["opacities"] += 1.0
    assert float(networks.regression_loss(features, targets).detach()) != pytest.approx(expected, rel=1e-3)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_without_harmonics_above_the_constant_the_loss_is_that_of_the_others() -> None:
    shapes = {"features_dc": (3,), "features_rest": (0, 3)}
    networks, features = Readout(8, shapes), features_of(20)
    targets = {name: torch.zeros(20, *shape) for name, shape in shapes.items()}
    assert networks(features)["features_rest"].shape == (20, 0, 3)
    loss = networks.regression_loss(features, targets)
    assert float(loss.detach()) == pytest.approx(float(networks(features)["features_dc"].detach().abs().mean()))
    torch.cat([value.flatten(1) for value in networks(features).values()], dim=1).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in networks.networks["features_dc"].parameters())


def test_places_and_colours_of_two_pictures_say_what_the_splats_are() -> None:
    """The control of Feat2GS: which picture, where in it, and its colour are enough to say what the splats are."""
    size, generator = (12, 16), torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(16), indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).reshape(-1, 2) + 0.5
    features, targets = [], []
    for view in range(2):
        colors = torch.rand(len(pixels), 3, generator=generator)
        features.append(control("iuvrgb", view, 2, pixels, size, colors))
        places = 2 * pixels / torch.tensor([16.0, 12.0]) - 1
        depth = 2.0 + 0.3 * places[:, :1] + view
        means = torch.cat([places * depth, depth], dim=1)
        scales = torch.log(0.05 * depth).expand(-1, 3)
        quats = torch.tensor([1.0, 0, 0, 0]).repeat(len(pixels), 1)
        opacities = torch.full((len(pixels), 1), -2.2)
        rest = torch.zeros(len(pixels), 15, 3)
        targets.append([means, scales, quats, opacities, (colors - 0.5) / 0.2820948, rest])
    features = torch.cat(features)
    known = dict(zip(SHAPES, (torch.cat(parts) for parts in zip(*targets, strict=True)), strict=True))
    torch.manual_seed(0)
    networks = Readout(6, SHAPES)
    before = float(networks.regression_loss(features, known).detach())
    optimizer = torch.optim.Adam(networks.parameters(), lr=1e-2, eps=1e-15)
    steps = 600
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * 1e-2 ** (step / (steps - 1))
        optimizer.zero_grad()
        networks.regression_loss(features, known).backward()
        optimizer.step()
    found = networks(features)
    errors = {name: float((found[name] - known[name]).abs().mean().detach()) for name in SHAPES}
    # Six numbers in the layer between are few for depth times place.
    assert before > 5 and sum(errors.values()) < 0.1 * before, errors
    for name in ("scales", "quats", "opacities", "features_rest"):
        assert errors[name] < 0.02, errors
    assert errors["means"] < 0.2 and errors["features_dc"] < 0.2, errors
