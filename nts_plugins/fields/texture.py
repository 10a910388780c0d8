# SPDX-License-Identifier: Apache-2.0
"""The field behind Neural Texture Splatting: from a splat's place to its texture."""

from dataclasses import dataclass
from typing import Literal, Optional

import torch
from torch import Tensor, nn

from nts_plugins.fields.networks import Mlp, Siren, frequencies
from nts_plugins.fields.regions import Region
from nts_plugins.fields.triplane import TriPlanes

ENDS = 2
"""A vector along an axis belongs to the plane that begins with the axis, another to the plane that ends with it."""


@dataclass
class TextureFieldConfig:
    """Sizes of a :class:`TextureField`. Defaults are those that Wang et al. 2025 use for single objects."""

    texels: int = 8
    """Texels along each axis of a splat's planes."""
    texel_activation: Literal["product", "vectors"] = "product"
    """Where tanh bounds a texture: "product" takes it of each texel, which is the product of two numbers, as in the
    paper. "vectors" takes it of these two. Then a plane is read by interpolating two vectors instead of four texels."""
    plane_channels: int = 16
    """Features on each plane of a tri-plane."""
    plane_resolution: int = 192
    """Texels along a side of these planes."""
    hidden: int = 128
    """Width of the decoders' layers."""
    opacity_layers: int = 2
    """Hidden layers of the opacity decoder."""
    color_layers: int = 2
    """Hidden layers of the colour decoder."""
    direction_frequencies: Optional[int] = 2
    """Octaves in which the colour decoder sees the direction of view; None for textures that look the same from all
    sides."""
    time_frequencies: Optional[int] = None
    """Octaves in which both decoders see the time; None for scenes that stand still."""
    starts_at_zero: bool = False
    """Begin with textures that are 0 everywhere, so that a trained scene is not disturbed when they begin."""


class TextureField(nn.Module):
    """Two tri-planes and two decoders, shared by all splats: opacity, and colour that depends on the view.

    Source: Wang, Wang, Mihajlovic, Tang 2025 (arXiv 2511.18873), section 4; sizes as in the authors' program.

    Args:
        config: sizes.
        region: where splats are.
        planes: of a texture; 3 as in the paper, or 1.
    """

    def __init__(self, config: TextureFieldConfig, region: Region, planes: int = 3) -> None:
        super().__init__()
        self.config, self.region, self.planes = config, region, planes
        self.opacity_planes = TriPlanes(config.plane_channels, config.plane_resolution)
        self.color_planes = TriPlanes(config.plane_channels, config.plane_resolution)
        place = self.opacity_planes.width + 3
        place += 0 if config.time_frequencies is None else 1 + 2 * config.time_frequencies
        view = 0 if config.direction_frequencies is None else 3 * (1 + 2 * config.direction_frequencies)
        numbers = planes * config.texels * ENDS
        self.opacity_decoder = Siren(place, numbers, config.hidden, config.opacity_layers)
        self.color_decoder = Mlp(place + view, 3 * numbers, config.hidden, config.color_layers)
        if config.starts_at_zero:
            self._start_at_zero(self.opacity_decoder.linear[-1], 1)
            self._start_at_zero(self.color_decoder[-1], 3)

    @torch.no_grad()
    def _start_at_zero(self, last: nn.Module, channels: int) -> None:
        """Of each product one factor is 0 and the other is not: the texture is 0, and its gradient is not."""
        shape = (self.planes, self.config.texels, ENDS, channels)
        last.weight.view(*shape, -1)[:, :, 1] = 0.0  # type: ignore[union-attr, operator]
        last.bias.view(shape)[:, :, 0] = 1.0  # type: ignore[union-attr, operator]
        last.bias.view(shape)[:, :, 1] = 0.0  # type: ignore[union-attr, operator]

    def forward(self, centers: Tensor, directions: Tensor, times: Optional[Tensor] = None) -> Tensor:
        """Textures of M splats: [M, planes, texels, 2, 4] vectors of ``rasterization.Textures``.

        Differentiable with respect to the field alone: places and directions count as given, as in the paper, so that
        a texture cannot move the splat that it is on.

        Args:
            centers: [M, 3] of the splats, scene units.
            directions: [M, 3] unit vectors from the camera to them, world frame.
            times: [M, 1] in [0, 1], of the picture; only with ``time_frequencies``.
        """
        config = self.config
        places = self.region(centers.detach())
        known = [places]
        if config.time_frequencies is not None:
            if times is None:
                raise ValueError("A texture field with time_frequencies needs the time.")
            known.append(frequencies(times, config.time_frequencies))
        opacity = self.opacity_decoder(torch.cat([self.opacity_planes(places), *known], dim=1))
        if config.direction_frequencies is not None:
            known.append(frequencies(directions.detach(), config.direction_frequencies))
        color = self.color_decoder(torch.cat([self.color_planes(places), *known], dim=1))
        shape = (len(places), self.planes, config.texels, ENDS)
        color, opacity = color.view(*shape, 3), opacity.view(*shape, 1)
        if config.texel_activation == "product":
            return torch.cat([color, opacity], dim=-1)
        from nts_plugins.fields._fused import bounded  # brings the kernels, which recipes must not

        return bounded(color, opacity)
