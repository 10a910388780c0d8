# SPDX-License-Identifier: Apache-2.0
"""Networks that read the values of splats out of features.

Feat2GS (Chen et al., CVPR 2025), section 3: ``G_i = g(f_i)``, two linear layers for each attribute, on the feature
alone. What comes out are the values that 3DGS trains: logarithms of scales, logits of opacities, harmonics.
"""

from typing import Dict, Literal, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nts_plugins.fields.networks import Mlp

Mode = Literal["geometry", "texture", "all", "free"]

_GEOMETRY, _TEXTURE = ("means", "scales", "quats", "opacities"), ("features_dc", "features_rest")
READ_OUT: Dict[str, Tuple[str, ...]] = {
    "geometry": _GEOMETRY,
    "texture": _TEXTURE,
    "all": (*_GEOMETRY, *_TEXTURE),
    "free": (),
}
"""The attributes that each mode reads out of features; the others are trained as they are in 3DGS."""

PIECE = 1 << 17
"""Splats at once. Of more, nothing but the values themselves is kept until the gradient is taken."""


class Readout(nn.Module):
    """A network for each attribute.

    Args:
        channels: C, of a feature.
        shapes: of a splat's attribute, by name: ``{"means": (3,), ...}``.
        hidden: width of the layer between; None takes C, as the paper does.
    """

    def __init__(self, channels: int, shapes: Mapping[str, Tuple[int, ...]], hidden: Optional[int] = None) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.networks = nn.ModuleDict(
            {
                name: Mlp(channels, _count(shape), hidden=hidden or channels, layers=1)
                for name, shape in self.shapes.items()
            }
        )

    @torch.no_grad()
    def start_at_mean(self, targets: Mapping[str, Tensor]) -> None:
        """Let networks begin with the mean of what they are to say, [N, ...] by name, give or take what their first
        weights make of features."""
        for name, network in self.networks.items():
            network[-1].bias.copy_(targets[name].flatten(1).mean(dim=0))  # type: ignore[index, union-attr]

    def forward(self, features: Tensor) -> Dict[str, Tensor]:
        """Attributes [N, ...] by name of features [N, C], which may be of half precision.

        Differentiable with respect to networks and features, but for those that harmonics above the constant are read
        from, as in the program.
        """
        pieces = features.split(PIECE)
        if len(pieces) == 1 or not torch.is_grad_enabled():
            parts = [self._piece(piece) for piece in pieces]
        else:
            parts = [checkpoint(self._piece, piece, use_reentrant=False) for piece in pieces]
        names = list(self.shapes)
        return {name: torch.cat([part[number] for part in parts]) for number, name in enumerate(names)}

    def _piece(self, features: Tensor) -> Tuple[Tensor, ...]:
        features = features.float()
        return tuple(
            self.networks[name](features.detach() if name == "features_rest" else features).unflatten(1, shape)
            for name, shape in self.shapes.items()
        )

    def regression_loss(self, features: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """The warm start's loss: mean absolute errors of each attribute, added up (section 3, and the program).

        Args:
            features: [M, C].
            targets: [M, ...] by name; those that are not read out are left out.
        """
        found = self(features)
        # Without harmonics above the constant there are none to compare, and their mean is no number.
        names = [name for name, shape in self.shapes.items() if _count(shape)]
        return torch.stack([(found[name] - targets[name]).abs().mean() for name in names]).sum()


def _count(shape: Tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
