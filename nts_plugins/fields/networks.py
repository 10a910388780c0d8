# SPDX-License-Identifier: Apache-2.0
"""Small networks that make values of features."""

import math
from typing import List

import torch
from torch import Tensor, nn


class Mlp(nn.Sequential):
    """Linear layers with ReLU between them.

    Args:
        inputs: width of what comes in.
        outputs: width of what goes out, with no activation.
        hidden: width of the layers between.
        layers: how many of these.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 128, layers: int = 2) -> None:
        widths = [inputs, *[hidden] * layers]
        modules: List[nn.Module] = []
        for width, following in zip(widths, widths[1:], strict=False):
            modules += [nn.Linear(width, following), nn.ReLU()]
        super().__init__(*modules, nn.Linear(widths[-1], outputs))

    def forward(self, input: Tensor) -> Tensor:
        """[M, outputs] of values [M, inputs]. Differentiable; on the CPU in one kernel, once."""
        from nts_plugins.fields._fused import through_network  # brings the kernels, which recipes must not

        found = through_network(input, [each for each in self if isinstance(each, nn.Linear)], None)
        return super().forward(input) if found is None else found


class Siren(nn.Module):
    """Linear layers with sines between them, with their own way to begin (Sitzmann et al. 2020, section 3.2).

    Args:
        inputs, outputs, hidden, layers: as of :class:`Mlp`.
        first_frequency: factor in the first sine; in the others it is 1.
    """

    def __init__(
        self, inputs: int, outputs: int, hidden: int = 128, layers: int = 2, first_frequency: float = 15.0
    ) -> None:
        super().__init__()
        self.first_frequency = first_frequency
        widths = [inputs, *[hidden] * layers, outputs]
        layers_ = [nn.Linear(*pair) for pair in zip(widths, widths[1:], strict=False)]
        for number, layer in enumerate(layers_):
            limit = 1 / inputs if number == 0 else math.sqrt(6 / layer.in_features)
            nn.init.uniform_(layer.weight, -limit, limit)
        self.linear = nn.ModuleList(layers_)

    def forward(self, values: Tensor) -> Tensor:
        """[M, outputs] of values [M, inputs]. Differentiable; on the CPU in one kernel, once."""
        from nts_plugins.fields._fused import through_network  # brings the kernels, which recipes must not

        found = through_network(values, list(self.linear), self.first_frequency)  # type: ignore[arg-type]
        if found is not None:
            return found
        *between, last = self.linear
        for number, layer in enumerate(between):
            values = layer(values)
            values = torch.sin(self.first_frequency * values if number == 0 else values)
        return last(values)


def frequencies(values: Tensor, count: int) -> Tensor:
    """Values [..., D] with the sines and cosines of themselves, of twice, four times, ...: [..., D (1 + 2 count)]."""
    parts = [values]
    for octave in range(count):
        parts += [torch.sin(2**octave * values), torch.cos(2**octave * values)]
    return torch.cat(parts, dim=-1)
