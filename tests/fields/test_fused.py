# SPDX-License-Identifier: Apache-2.0
"""The kernels around the matrix products of fields against torch in float64, values and gradients."""

from typing import Callable, Tuple

import pytest
import torch
from torch import Tensor

from nts_plugins.fields import _fused
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


def test_nothing_to_read() -> None:
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
        found.append((out.detach(), leaf.grad))
    torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
