# SPDX-License-Identifier: Apache-2.0
"""Deformable convolutions against loops over their definition, against convolutions, and against torchvision's."""

from math import floor
from typing import Optional

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.encoders.deformable import deformable_convolution, sampled


def between(values: Tensor, row: float, column: float) -> Tensor:
    """[C] of values [C, H, W] between pixels, with zeros around."""
    total = torch.zeros(len(values), dtype=values.dtype)
    for i in (floor(row), floor(row) + 1):
        for j in (floor(column), floor(column) + 1):
            if 0 <= i < values.shape[1] and 0 <= j < values.shape[2]:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * values[:, i, j]
    return total


def by_loops(
    values: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor, modulation: Optional[Tensor], padding: int
) -> Tensor:
    result = bias.view(1, -1, 1, 1).repeat(len(values), 1, *offsets.shape[2:])
    for b in range(len(values)):
        for i in range(offsets.shape[2]):
            for j in range(offsets.shape[3]):
                for tap in range(weight.shape[2] * weight.shape[3]):
                    k, m = divmod(tap, weight.shape[3])
                    down, across = (float(each) for each in offsets[b, 2 * tap : 2 * tap + 2, i, j])
                    read = between(values[b], i - padding + k + down, j - padding + m + across)
                    if modulation is not None:
                        read = read * modulation[b, tap, i, j]
                    result[b, :, i, j] += weight[:, :, k, m] @ read
    return result


def inputs(padding: int, rows: int = 3, columns: int = 2, scale: float = 2.0):
    torch.manual_seed(0)
    values = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    size = (6 + 2 * padding - rows + 1, 5 + 2 * padding - columns + 1)
    offsets = scale * torch.randn(2, 2 * rows * columns, *size, dtype=torch.float64)
    modulation = torch.rand(2, rows * columns, *size, dtype=torch.float64)
    weight, bias = torch.randn(4, 3, rows, columns, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    return values, offsets, weight, bias, modulation


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("modulated", [False, True])
def test_it_is_what_loops_say(padding: int, modulated: bool) -> None:
    values, offsets, weight, bias, modulation = inputs(padding)
    given = modulation if modulated else None
    found = deformable_convolution(values, offsets, weight, bias, given, padding)
    torch.testing.assert_close(found, by_loops(values, offsets, weight, bias, given, padding))


def test_without_offsets_it_is_a_convolution() -> None:
    values, offsets, weight, bias, _ = inputs(1)
    found = deformable_convolution(values, torch.zeros_like(offsets), weight, bias, padding=1)
    torch.testing.assert_close(found, F.conv2d(values, weight, bias, padding=1))
    torch.testing.assert_close(
        deformable_convolution(values, torch.zeros_like(offsets), weight, padding=1),
        F.conv2d(values, weight, padding=1),
    )


def test_its_gradients_are_those_of_finite_differences() -> None:
    values, offsets, weight, bias, modulation = (each[:1] if each.ndim == 4 else each for each in inputs(0))
    args = [each.requires_grad_() for each in (values, offsets, inputs(0)[2], bias, modulation)]
    assert torch.autograd.gradcheck(deformable_convolution, args)


def test_it_is_torchvisions() -> None:
    torchvision = pytest.importorskip("torchvision")
    values, offsets, weight, bias, modulation = inputs(1)
    try:
        wanted = torchvision.ops.deform_conv2d(values, offsets, weight, bias, padding=1, mask=modulation)
    except (RuntimeError, AttributeError) as error:
        pytest.skip(f"torchvision's compiled part is not there: {error}")
    torch.testing.assert_close(deformable_convolution(values, offsets, weight, bias, modulation, 1), wanted)


def test_places_of_pixels_give_their_values() -> None:
    values = torch.rand(1, 2, 1, 7, dtype=torch.float64)
    columns = torch.arange(-1.0, 8.0, dtype=torch.float64).view(1, 1, -1)
    found = sampled(values, torch.zeros_like(columns), columns)
    torch.testing.assert_close(found, F.pad(values, (1, 1)))


def test_what_does_not_belong_together_is_an_error() -> None:
    values, offsets, weight, bias, modulation = inputs(1)
    with pytest.raises(ValueError, match=r"Offsets \(2, 12, 4, 4\) are wanted"):
        deformable_convolution(values, offsets, weight, bias)
    with pytest.raises(ValueError, match="A modulation"):
        deformable_convolution(values, offsets, weight, bias, modulation[:, 1:], padding=1)
