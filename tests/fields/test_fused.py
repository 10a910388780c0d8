# SPDX-License-Identifier: Apache-2.0
"""The kernels of fields against torch in float64, values and gradients."""

import copy
from typing import Callable, Tuple

import pytest
import torch
from torch import Tensor

from nts_plugins.fields import _fused
from nts_plugins.fields.networks import Mlp, Siren
from nts_plugins.kernels import threads
from nts_plugins.kernels.threads import kernels_only


def compare(function: Callable[..., Tensor], *inputs: Tensor, differentiable: Tuple[int, ...]) -> None:
    found, exact = [], []
    for results, dtype in ((found, torch.float32), (exact, torch.float64)):
        leaves = [each.detach().clone().to(dtype) for each in inputs]
        for index in differentiable:
            leaves[index].requires_grad_()
        out = function(*leaves)
        g = torch.Generator().manual_seed(3)
        out.backward(torch.randn(out.shape, generator=g, dtype=torch.float64).to(out))
        results += [out.detach(), *(leaves[index].grad for index in differentiable)]
    for each, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(each.double(), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("channels", [8, 16, 24])
@pytest.mark.parametrize("resolution", [2, 5, 64])
def test_planes_are_read_as_torch_reads_them(resolution: int, channels: int) -> None:
    g = torch.Generator().manual_seed(1)
    points = 2 * torch.rand(700, 3, generator=g) - 1
    points[:4] = torch.tensor([[-1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [0.0, 0.0, 0.0]])
    features = torch.randn(3, resolution, resolution, channels, generator=g)
    assert _fused.read_planes(features.requires_grad_(), points).grad_fn.name() == "_ReadPlanesBackward"
    compare(_fused.read_planes, features.detach(), points, differentiable=(0,))


def test_points_get_a_gradient_where_they_need_one() -> None:
    points = torch.rand(9, 3, requires_grad=True)
    _fused.read_planes(torch.randn(3, 4, 4, 8), points).sum().backward()
    assert points.grad.any()


@pytest.mark.parametrize("texels", [2, 5, 8])
def test_texels_are_bounded(texels: int) -> None:
    g = torch.Generator().manual_seed(2)
    color = 4 * torch.randn(300, 3, texels, 2, 3, generator=g)
    opacity = 4 * torch.randn(300, 3, texels, 2, 1, generator=g)
    color[0], opacity[1] = 1e30, -1e30
    compare(_fused.bounded, color, opacity, differentiable=(0, 1))
    assert 0.999 < float(_fused.bounded(color, opacity).abs().max()) <= 1.0


@pytest.mark.parametrize("rows", [1, 33, 1100])
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (Mlp, (26, 3, 32, 2)),
        (Mlp, (7, 36, 40, 1)),
        (Mlp, (5, 17, 9, 0)),
        (Siren, (51, 12, 32, 2)),
        (Siren, (3, 1, 16, 4)),
    ],
)
def test_networks_are_torchs(kind: type, sizes: "Tuple[int, int, int, int]", rows: int) -> None:
    torch.manual_seed(5)
    network = kind(*sizes)
    exact = copy.deepcopy(network).double()
    values, grad = 2 * torch.randn(rows, sizes[0]), torch.randn(rows, sizes[1])
    found, leaves = [], []
    for each, dtype in ((network, torch.float32), (exact, torch.float64)):
        leaves.append(values.detach().clone().to(dtype).requires_grad_())
        found.append(each(leaves[-1]))
        found[-1].backward(grad.to(dtype))
    assert found[0].grad_fn.name() == "_ThroughNetworkBackward" != found[1].grad_fn.name()
    pairs = [(found[0], found[1]), (leaves[0].grad, leaves[1].grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(network.parameters(), exact.parameters(), strict=True)]
    for each, expected in pairs:
        torch.testing.assert_close(each.double(), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


def test_sines_of_large_arguments() -> None:
    """One layer of sines, which the last layer hands on as they are."""
    network = Siren(1, 1, 1, 1, first_frequency=3.0)
    for layer in network.linear:
        torch.nn.init.ones_(layer.weight)  # type: ignore[arg-type]
        torch.nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    angles = torch.linspace(-700.0, 700.0, 20001)[:, None].requires_grad_()
    found = network(angles)
    found.sum().backward()
    exact = 3 * angles.detach()  # as the kernel rounds it
    torch.testing.assert_close(found.double(), exact.double().sin(), atol=3e-7, rtol=0)
    assert angles.grad is not None
    torch.testing.assert_close(angles.grad.double(), 3 * exact.double().cos(), atol=1e-6, rtol=0)


def test_values_have_a_gradient_only_where_they_need_one() -> None:
    network = Mlp(4, 2, 8, 1)
    network(torch.randn(40, 4)).sum().backward()
    assert all(each.grad is not None and bool(each.grad.any()) for each in network.parameters())
    with torch.no_grad():
        assert not network(torch.randn(40, 4)).requires_grad


def test_values_that_do_not_fit_are_torchs_to_explain() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Mlp(4, 2, 8, 1)(torch.randn(7, 5))


@pytest.mark.parametrize("network", [Mlp(4, 2, 8, 1), Siren(4, 2, 8, 1)])
def test_what_has_diverged_shows(network: torch.nn.Module) -> None:
    values = torch.randn(40, 4)
    values[3, 1] = float("nan")
    found = network(values)
    assert found[3].isnan().all() and torch.isfinite(found[:3]).all() and torch.isfinite(found[4:]).all()
    huge = Siren(4, 2, 8, 1, first_frequency=1e12)
    assert float(huge(torch.randn(40, 4)).detach().abs().max()) < 100


def test_wide_layers_go_through_torch() -> None:
    assert Mlp(4, 2, 512, 1)(torch.randn(7, 4)).grad_fn.name() != "_ThroughNetworkBackward"  # type: ignore[union-attr]


def test_frozen_layers_have_no_gradient() -> None:
    network = Mlp(4, 2, 8, 1)
    network[0].requires_grad_(False)
    network(torch.randn(40, 4)).sum().backward()
    assert network[0].weight.grad is None and bool(network[-1].weight.grad.any())  # type: ignore[union-attr]


def test_rows_of_rows_go_through_torch() -> None:
    network = Mlp(4, 2, 8, 1)
    values = torch.randn(3, 5, 4)
    torch.testing.assert_close(network(values), network(values.view(15, 4)).view(3, 5, 2))


def test_nothing_to_read() -> None:
    network, values = Siren(4, 2, 8, 1), torch.zeros(0, 4, requires_grad=True)
    network(values).sum().backward()
    assert network(values).shape == (0, 2) and not network.linear[0].weight.grad.any()  # type: ignore[union-attr]
    assert _fused.read_planes(torch.randn(3, 4, 4, 8), torch.zeros(0, 3)).shape == (0, 24)
    assert _fused.bounded(torch.zeros(0, 3, 4, 2, 3), torch.zeros(0, 3, 4, 2, 1)).shape == (0, 3, 4, 2, 4)


def test_same_bits_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(4)
    features, points = torch.randn(3, 32, 32, 16, generator=g), 2 * torch.rand(5000, 3, generator=g) - 1
    before, found = torch.get_num_threads(), []
    monkeypatch.setattr(threads, "_cores", 3)
    for count in (1, 3):
        torch.set_num_threads(count)
        with kernels_only():
            leaf = features.clone().requires_grad_()
            out = _fused.read_planes(leaf, points)
            out.square().sum().backward()
            torch.manual_seed(6)
            network = Mlp(48, 3, 16, 1)
            colors = network(out.detach())
            colors.square().sum().backward()
        found.append((out.detach(), leaf.grad, colors.detach(), *(each.grad for each in network.parameters())))
    torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*found, strict=True))
