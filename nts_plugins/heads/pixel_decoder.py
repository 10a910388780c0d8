# SPDX-License-Identifier: Apache-2.0
"""What pixels add to their colours: features on splats are drawn like colours, and a small network, shared by all
pixels, makes a colour of what arrives.

A sum of splats is as smooth as its splats. A function of the sum is not: an edge is where it passes a threshold, so
that a few splats hold detail finer than themselves. Decoding once a pixel, behind the compositing, is the idea of
Neural Harmonic Textures (2026, arXiv 2604.01204). Deviations: what is decoded is added to the colours of spherical
harmonics, and of local textures where there are some, instead of replacing them; a splat has one vector, the same all
over it, since local textures vary over splats here; and vectors are drawn as they are, not their sines and cosines.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Type

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from nts_plugins.data.cameras import View
from nts_plugins.data.pyramid import Targets
from nts_plugins.errors import InputError
from nts_plugins.fields.networks import Mlp
from nts_plugins.heads.base import FeatureHead, FeatureHeadConfig
from nts_plugins.rasterization.sh import sh_basis
from nts_plugins.surfaces.planes import pixel_rays

SPREAD = 0.1
"""Standard deviation of features at the start. They must differ, and they must not be zero: the network begins with a
last layer of zeros, and something has to tell it apart from nothing."""

GAIN = 4.0
"""What pixels add is shown so many times as strong as it is."""


@dataclass
class PixelDecoderConfig(FeatureHeadConfig):
    """Settings of :class:`PixelDecoder`."""

    _target: Type = field(default_factory=lambda: PixelDecoder)
    trains_geometry: bool = True
    """What pixels add is part of the picture, so that splats lie where it is best with it."""
    features: int = 16
    """Length of the vector on each splat; where a model has a decoder as an option, 0 is none."""
    hidden: int = 32
    """Width of the network's layers."""
    layers: int = 2
    """Hidden layers."""
    direction_degree: Optional[int] = 2
    """Degree, to 3, of the spherical harmonics of the pixel's direction that the network sees; None for what looks the
    same from all sides."""
    camera_noise: float = 1.0
    """In training, the network sees each picture's camera off its place by so many times (standard deviation, each
    axis) the mean distance between a camera and the nearest other one: between cameras no photograph says how colours
    change."""
    penalty: float = 0.02
    """Times the mean absolute value of what pixels add."""
    penalty_views: Optional[int] = 100
    """The penalty is meant for so many photographs, and counts in proportion more where there are fewer. None takes it
    as it is."""


class PixelDecoder(FeatureHead):
    """Adds to the picture. Outputs ``<name>_residual`` [H, W, 3], what was added, in (-1, 1), 0 where nothing is,
    and for the viewer ``<name>_added`` [H, W, 3].

    Until training changes the network's last layer, it adds nothing. Making one draws no random number that training
    would otherwise draw.

    Raises:
        InputError: where a size is out of range, or ``trains_geometry`` is off.
    """

    config: PixelDecoderConfig

    def __init__(self, config: PixelDecoderConfig, *, name: str, metadata: Mapping[str, Any]) -> None:
        super().__init__(config, name=name, metadata=metadata)
        degree = config.direction_degree
        if config.features < 1 or config.hidden < 1 or config.layers < 0 or not 0 <= (degree or 0) <= 3:
            raise InputError(
                f"The head {name!r} has features {config.features}, hidden {config.hidden}, layers {config.layers} and "
                f"direction-degree {degree}. It needs one feature, one unit, no layer and degree 0 at least, and "
                f"degree 3 at most."
            )
        if not config.trains_geometry:
            raise InputError(f"What the head {name!r} adds is part of the picture: leave its trains-geometry on.")
        self.center, side = metadata.get("random_region", ((0.0, 0.0, 0.0), 2.0))
        self.nearest = side / 2
        self.noise = config.camera_noise * float(metadata.get("camera_spacing", 0.0))
        views = metadata.get("training_views", config.penalty_views)
        self.penalty = config.penalty * (1.0 if config.penalty_views is None else config.penalty_views / max(1, views))
        inputs = config.features + 1 + (0 if degree is None else (degree + 1) ** 2)
        with torch.random.fork_rng(devices=[]):
            self.network = Mlp(inputs, 3, config.hidden, config.layers)
        nn.init.zeros_(self.network[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.network[-1].bias)  # type: ignore[arg-type]

    def initial_parameters(self, splats: Mapping[str, Tensor]) -> Dict[str, Parameter]:
        means = splats["means"]
        with torch.random.fork_rng(devices=[]):
            features = SPREAD * torch.randn(len(means), self.config.features)
        return {f"{self.name}_features": Parameter(features.to(means.device))}

    def channels(self, params: Mapping[str, Tensor], view: View) -> Tensor:
        return params[f"{self.name}_features"]

    def outputs(self, channels: Tensor, alphas: Tensor, view: View) -> Dict[str, Tensor]:
        """Differentiable with respect to channels, alphas and the network; the direction counts as given."""
        solid = (alphas.detach().reshape(-1) > 0).nonzero()[:, 0]
        opacity = alphas.reshape(-1, 1)[solid]
        known = [channels.reshape(-1, channels.shape[-1])[solid], opacity]
        if self.config.direction_degree is not None:
            known.append(self._directions(view)[solid])
        added = opacity * torch.tanh(self.network(torch.cat(known, dim=1)))
        residual = added.new_zeros(alphas.numel(), 3).index_copy(0, solid, added)
        return {f"{self.name}_residual": residual.view(*alphas.shape[:2], 3)}

    def picture(self, rgb: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        return rgb + outputs[f"{self.name}_residual"]

    def displays(self, outputs: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """What was added, around middle grey, :data:`GAIN` times as strong as it is."""
        return {f"{self.name}_added": (0.5 + 0.5 * GAIN * outputs[f"{self.name}_residual"]).clamp(0.0, 1.0)}

    def losses(self, outputs: Mapping[str, Tensor], targets: Targets) -> Dict[str, Tensor]:
        return {f"{self.name}_penalty": self.penalty * outputs[f"{self.name}_residual"].abs().mean()}

    @torch.no_grad()
    def _directions(self, view: View) -> Tensor:
        """[H W, K] harmonics of the direction in which each pixel looks, world frame.

        With noise, of the direction from a place beside the camera to what the pixel shows, which is taken to be as far
        away as the middle of the scene.
        """
        rotation, shift = view.viewmats[0, :3, :3], view.viewmats[0, :3, 3]
        rays = nn.functional.normalize(pixel_rays(view.Ks[0], view.width, view.height).reshape(-1, 3), dim=-1)
        if self.training and self.noise > 0:
            distance = (rotation @ rotation.new_tensor(self.center) + shift).norm().clamp_min(self.nearest)
            rays = nn.functional.normalize(rays + self.noise / distance * torch.randn_like(shift), dim=-1)
        return sh_basis(rays @ rotation, self.config.direction_degree or 0)
