# SPDX-License-Identifier: Apache-2.0
"""What pixels add to their colours: features on splats are drawn like colours, and a small network, shared by all
pixels, makes a colour of what arrives.

A sum of splats is as smooth as its splats. A function of the sum is not: an edge is where it passes a threshold, so
that a few splats hold detail finer than themselves. Decoding once a pixel, behind the compositing, is the idea of
Neural Harmonic Textures (2026, arXiv 2604.01204). Deviations: what is decoded is added to the colours of spherical
harmonics, and of local textures where there are some, instead of replacing them; a splat has one vector, the same all
over it, since local textures vary over splats here; vectors are drawn as they are, not their sines and cosines; and the
network may see the time, where things move.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Type

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from nts_plugins.appearance.priors import penalty_share
from nts_plugins.data.cameras import View, pixel_rays
from nts_plugins.data.pyramid import Targets
from nts_plugins.errors import InputError
from nts_plugins.fields.networks import Mlp, frequencies
from nts_plugins.heads.base import FeatureHead, FeatureHeadConfig
from nts_plugins.rasterization.sh import sh_basis

SPREAD = 0.1
"""Standard deviation of features at the start. They must differ, and they must not be zero: the network begins with a
last layer of zeros, and something has to tell it apart from nothing."""


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
    time_frequencies: Optional[int] = None
    """Octaves in which the network sees the time; None for scenes that stand still."""
    penalty: float = 0.02
    """Times the mean absolute value of what pixels add."""
    penalty_views: Optional[int] = 100
    """The penalty is meant for so many photographs, and counts in proportion more where there are fewer. None takes it
    as it is."""


class PixelDecoder(FeatureHead):
    """Adds to the picture. Outputs ``<name>_added`` [H, W, 3]: what was added, r in (-1, 1), coded as (r + 1) / 2.

    Until training changes the network's last layer, it adds nothing. Making one draws no random number that training
    would otherwise draw.

    Raises:
        InputError: where a setting is out of range.
    """

    config: PixelDecoderConfig
    changes_picture = True

    def __init__(self, config: PixelDecoderConfig, *, name: str, metadata: Mapping[str, Any]) -> None:
        super().__init__(config, name=name, metadata=metadata)
        degree = config.direction_degree
        _check(config, name)
        views = metadata.get("training_views", config.penalty_views or 1)
        self.penalty = config.penalty * penalty_share(
            config.penalty_views, views, f"penalty_views of the head {name!r}"
        )
        inputs = config.features + 1 + (0 if degree is None else (degree + 1) ** 2)
        inputs += 0 if config.time_frequencies is None else 1 + 2 * config.time_frequencies
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
        """Differentiable with respect to channels, alphas and the network; direction and time count as given."""
        solid = (alphas.detach().reshape(-1) > 0).nonzero()[:, 0]
        opacity = alphas.reshape(-1, 1)[solid]
        known = [channels.reshape(-1, channels.shape[-1])[solid], opacity]
        if self.config.direction_degree is not None:
            known.append(self._directions(view)[solid])
        if self.config.time_frequencies is not None:
            known.append(frequencies(view.times[:1], self.config.time_frequencies).expand(len(solid), -1))
        added = opacity * torch.tanh(self.network(torch.cat(known, dim=1)))
        # As a picture in [0, 1], which every output is.
        coded = added.new_full((alphas.numel(), 3), 0.5).index_copy(0, solid, 0.5 + 0.5 * added)
        return {f"{self.name}_added": coded.view(*alphas.shape[:2], 3)}

    def picture(self, rgb: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        return rgb + self._added(outputs)

    def losses(self, outputs: Mapping[str, Tensor], targets: Targets) -> Dict[str, Tensor]:
        return {f"{self.name}_penalty": self.penalty * self._added(outputs).abs().mean()}

    def _added(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """[H, W, 3] in (-1, 1)."""
        return 2 * outputs[f"{self.name}_added"] - 1

    @torch.no_grad()
    def _directions(self, view: View) -> Tensor:
        """[H W, K] harmonics of the direction in which each pixel looks, world frame."""
        rays = pixel_rays(view.Ks[0], view.width, view.height).reshape(-1, 3) @ view.viewmats[0, :3, :3]
        return sh_basis(nn.functional.normalize(rays, dim=-1), self.config.direction_degree or 0)


def _check(config: PixelDecoderConfig, name: str) -> None:
    """The settings are in range.

    Raises:
        InputError: naming the first that is not.
    """
    least = {"features": 1, "hidden": 1, "layers": 0, "direction_degree": 0, "time_frequencies": 0, "penalty": 0}
    for setting, lowest in least.items():
        value = getattr(config, setting)
        highest = 3 if setting == "direction_degree" else float("inf")
        if value is not None and not lowest <= value <= highest:
            limit = f"at least {lowest}" if highest > 3 else f"from {lowest} to {highest}"
            raise InputError(f"{setting} of the head {name!r} is {value}; it must be {limit}.")
