# SPDX-License-Identifier: Apache-2.0
"""Splats of a scene that moves: kept at rest, and carried to the time of each picture by a field.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

import sys
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Type

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from nts_plugins.data.cameras import times_of
from nts_plugins.errors import InputError
from nts_plugins.fields.deformation import Deformation, DeformationField, DeformationFieldConfig
from nts_plugins.fields.regions import Region, RegionKind
from nts_plugins.gaussians.rotations import compose
from nts_plugins.models.splat import SplatModel, SplatModelConfig
from nts_plugins.models.textured import EXPORTER, TexturedModel, TexturedModelConfig


@dataclass
class MotionConfig:
    """How a scene moves, and what moving costs."""

    field: DeformationFieldConfig = field(default_factory=DeformationFieldConfig)
    """The field that carries splats from rest to a time."""
    region: RegionKind = "box"
    """How the field covers the scene, see :class:`nts_plugins.fields.regions.Region`. What moves is near the cameras,
    as a rule, and planes of the same size have twice the detail there where they cover a box alone."""
    start_step: int = 200
    """First step in which splats move. Before it the scene is trained as if it stood still."""
    shift_penalty: float = 0.01
    """Times the mean length of shifts, relative to the scene's radius, plus those of turns and growths, so that
    what stands still does not tremble. On the gallery after 2000 steps ten times as much cost 0.1 dB, and so did a
    tenth of it with a tenth of ``change_penalty``."""
    space_smoothness: float = 1e-3
    """Times the total variation of the planes in space."""
    time_smoothness: float = 1e-2
    """Times the mean square of second differences along time: motion between two pictures goes on as it was."""
    change_penalty: float = 1e-3
    """Times the mean distance of the time planes from those of a scene that stands still."""


@dataclass
class DynamicSplatModelConfig(SplatModelConfig):
    """Settings of :class:`DynamicSplatModel`."""

    _target: Type = field(default_factory=lambda: DynamicSplatModel)
    motion: MotionConfig = field(default_factory=MotionConfig)
    """How the scene moves."""
    export_time: float = 0.0
    """The moment that ns-export writes, in [0, 1]. It reads config.yml: change it there."""


class DynamicSplatModel(SplatModel):
    """Splats that move with the time of the camera.

    ``gauss_params`` are the splats at rest, which densification works on. Where a camera has no time, the first moment
    is drawn. Colours do not turn with the splats.

    Raises:
        InputError: where the training pictures have no times.
    """

    config: DynamicSplatModelConfig  # type: ignore[assignment]

    def populate_modules(self) -> None:
        super().populate_modules()
        metadata = self.kwargs.get("metadata") or {}
        if metadata.get("moments", 0) < 2:
            raise InputError(
                "The training pictures have no different times, which a method for moving scenes needs. Give each "
                "frame of transforms.json a 'time', end the command with dnerf-data for that format, or train a method "
                "for scenes that stand still."
            )
        center, side = metadata.get("random_region", ((0.0, 0.0, 0.0), 2.0))
        # Training up to the first motion is the same as without it.
        with torch.random.fork_rng(devices=[]):
            self.motion = DeformationField(
                self.config.motion.field, Region(self.config.motion.region, center, side / 2)
            )
        self.moved: Optional[Deformation] = None

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        return {**super().get_param_groups(), "motion": list(self.motion.parameters())}

    def splat_params(self, camera: Optional[Cameras] = None) -> Dict[str, Tensor]:
        """Per-splat values [N, ...] at the camera's time; at rest without a camera.

        With a camera there are also ``rest_means`` [N, 3], where the splats are at rest, and ``times`` [N, 1].
        """
        params = super().splat_params()
        return params if camera is None else self.carried(params, float(times_of(camera)[0]))

    def carried(self, params: Dict[str, Tensor], time: float) -> Dict[str, Tensor]:
        """Per-splat values at a time in [0, 1]. Differentiable with respect to them and the field."""
        means = params["means"]
        params = {**params, "rest_means": means.detach(), "times": means.new_full((1, 1), time).expand(len(means), 1)}
        if self.step < self.config.motion.start_step:
            return params
        deformation = self.motion(means, time)
        if self.training:
            self.moved = deformation
        params["means"] = means + deformation.shift
        params["quats"] = compose(deformation.turn, params["quats"])
        params["scales"] = params["scales"] + deformation.growth
        return params

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> Dict[str, Tensor]:
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        moved, self.moved = self.moved, None  # It holds the graph of the step.
        if moved is None or not self.training:
            return losses
        config, roughness = self.config.motion, self.motion.roughness()
        amount = moved.shift / self.motion.region.radius, moved.turn[:, 1:], moved.growth
        # The length has no gradient at 0, where all splats begin.
        losses["motion_amount"] = config.shift_penalty * torch.stack([each.norm(dim=1).mean() for each in amount]).sum()
        losses["motion_space"] = config.space_smoothness * roughness["space"]
        losses["motion_time"] = config.time_smoothness * roughness["time"]
        losses["motion_change"] = config.change_penalty * roughness["change"]
        return losses

    # ---- what ns-export writes

    @property
    def means(self) -> Tensor:
        return self._exported("means")

    @property
    def quats(self) -> Tensor:
        return self._exported("quats")

    @property
    def scales(self) -> Tensor:
        return self._exported("scales")

    def _exported(self, name: str) -> Tensor:
        """A value as ns-export wants it, which writes one moment; at rest to anybody else."""
        if EXPORTER not in sys.modules:
            return self.gauss_params[name]
        time = self.config.export_time
        if name == "means":
            CONSOLE.print(
                f"[yellow]A .ply file holds one moment: splats are exported as they are at time {time:g} of [0, 1]. "
                f"For another, change export_time in the run's config.yml."
            )
        return self.carried(super().splat_params(), time)[name]


@dataclass
class DynamicTexturedModelConfig(DynamicSplatModelConfig, TexturedModelConfig):
    """Settings of :class:`DynamicTexturedModel`."""

    _target: Type = field(default_factory=lambda: DynamicTexturedModel)


class DynamicTexturedModel(DynamicSplatModel, TexturedModel):
    """Moving splats with local textures, which move with them: a splat asks for its texture where it is at rest."""

    config: DynamicTexturedModelConfig  # type: ignore[assignment]
