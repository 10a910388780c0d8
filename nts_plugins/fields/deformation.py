# SPDX-License-Identifier: Apache-2.0
"""How a scene moves: from a splat's place at rest and a time to where it is then, how it is turned, and its size."""

from dataclasses import dataclass
from typing import Dict, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from nts_plugins.fields.networks import Mlp
from nts_plugins.fields.regions import Region
from nts_plugins.fields.spacetime import SpaceTimePlanes


@dataclass
class DeformationFieldConfig:
    """Sizes of a :class:`DeformationField`.

    Wu et al. 2024 use 16 or 32 channels, up to four resolutions from 64 on, and half as many moments as pictures. With
    8 channels, two resolutions and one hidden layer, 20 000 splats take as long as drawing them does on a CPU.
    """

    plane_channels: int = 8
    """Features on each plane; multiples of 8 have a kernel on the CPU."""
    plane_resolutions: Tuple[int, ...] = (16, 64)
    """Texels along an axis of space, one number for each set of six planes. Coarse ones move together what is one limb:
    finer ones left a dancer's arms and legs as a haze."""
    moments: int = 32
    """Texels along time."""
    hidden: int = 64
    """Width of the decoder's layers."""
    layers: int = 1
    """Hidden layers of the decoder."""


class Deformation(NamedTuple):
    """What a moment does to N splats."""

    shift: Tensor
    """[N, 3] added to their places, scene units."""
    turn: Tensor
    """[N, 4] quaternions w, x, y, z of any length, to be multiplied from the left: a turn in the world."""
    growth: Tensor
    """[N, 3] added to the logarithms of their sizes."""


class DeformationField(nn.Module):
    """Six planes and a small decoder, shared by all splats. It begins as a scene that stands still.

    Source: Wu et al. 2024 (4D Gaussian Splatting), section 4. Deviations: the planes are combined as
    :class:`SpaceTimePlanes` says, and rotations are composed instead of added, so that splats of one rigid thing, which
    are turned in any way, need the same value.

    Args:
        config: sizes.
        region: how the field covers the scene.
    """

    def __init__(self, config: DeformationFieldConfig, region: Region) -> None:
        super().__init__()
        self.config, self.region = config, region
        self.planes = nn.ModuleList(
            SpaceTimePlanes(config.plane_channels, resolution, config.moments)
            for resolution in config.plane_resolutions
        )
        width = sum(planes.width for planes in self.planes)  # type: ignore[arg-type, misc]
        self.decoder = Mlp(width, 3 + 3 + 3, config.hidden, config.layers)
        nn.init.zeros_(self.decoder[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.decoder[-1].bias)  # type: ignore[arg-type]

    def forward(self, places: Tensor, time: float) -> Deformation:
        """Where splats at the places [N, 3] (scene units) go at a time in [0, 1].

        Differentiable with respect to the field alone: places count as given, so that a splat's own gradient is that of
        where it is drawn.
        """
        points = self.region(places.detach())
        features = torch.cat([planes(points, time) for planes in self.planes], dim=1)
        shift, turn, growth = self.decoder(features).split([3, 3, 3], dim=1)
        real = torch.ones_like(turn[:, :1])
        return Deformation(self.region.radius.to(shift) * shift, torch.cat([real, turn], dim=1), growth)

    def roughness(self) -> Dict[str, Tensor]:
        """Mean of :meth:`SpaceTimePlanes.roughness` over the sets of planes."""
        each = [planes.roughness() for planes in self.planes]  # type: ignore[operator]
        return {name: torch.stack([values[name] for values in each]).mean() for name in each[0]}
