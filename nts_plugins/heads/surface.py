# SPDX-License-Identifier: Apache-2.0
"""Splats that lie on surfaces: flat, at one depth a pixel, and turned as the surface that they make up.

The geometric terms of 2D Gaussian Splatting (Huang et al. 2024, section 5: depth distortion, normal consistency) on
3D splats, which a third term flattens. Neural Texture Splatting takes them over for surfaces, from its GOF backbone.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Type

import torch
from torch import Tensor
from torch.nn import Parameter

from nts_plugins.data.cameras import View, pixel_rays
from nts_plugins.data.pyramid import Targets
from nts_plugins.errors import InputError
from nts_plugins.heads.base import FeatureHead, FeatureHeadConfig
from nts_plugins.surfaces.planes import normals_of_depth, plane_channels, splat_normals, spread_of

NEAREST = 0.05
"""The near plane of 2DGS's mapping of depth to 1 - near / z, in median depths of the picture. 2DGS takes 0.2 scene
units, which is as much where cameras are 4 units away from the scene, as in Blender's, and something else elsewhere."""

SOLID = 0.5
"""Opacity from which a pixel shows a surface."""


@dataclass
class SurfaceHeadConfig(FeatureHeadConfig):
    """Settings of :class:`SurfaceHead`."""

    _target: Type = field(default_factory=lambda: SurfaceHead)
    trains_geometry: bool = True
    """The head has no values of its own: its losses move and reshape splats, and that is what it is for."""
    consistency: float = 0.05
    """Weight of one minus the cosine between splats' normals and the normal of the depth map (NTS's table)."""
    distortion: float = 100.0
    """Weight of the spread of depth within pixels (NTS's table: 100, and 1000 on DTU), see :data:`NEAREST`."""
    flatness: float = 0.01
    """Weight of the mean ratio of splats' smallest scale to the middle one."""


class SurfaceHead(FeatureHead):
    """Outputs ``<name>_depth`` [H, W, 1] (z-depth of the planes, scene units; 0 where nothing is), ``<name>_normals``
    [H, W, 3] (world frame, weighted mean of the splats', coded as (n + 1) / 2), ``<name>_depth_normals`` (the same, of
    the depth map) and ``<name>_distortion`` [H, W, 1].

    Raises:
        InputError: with ``trains_geometry`` off, which would leave nothing to train.
    """

    config: SurfaceHeadConfig

    def __init__(self, config: SurfaceHeadConfig, *, name: str, metadata: Mapping[str, Any]) -> None:
        if not config.trains_geometry:
            raise InputError(f"The head {name!r} trains nothing but geometry: leave its trains-geometry on.")
        super().__init__(config, name=name, metadata=metadata)
        self.farthest = 1000.0 * float(metadata.get("camera_extent", 1.0))

    def initial_parameters(self, splats: Mapping[str, Tensor]) -> Dict[str, Parameter]:
        return {}

    def channels(self, params: Mapping[str, Tensor], view: View) -> Tensor:
        viewmat = view.viewmats[0]
        center = -viewmat[:3, :3].T @ viewmat[:3, 3]
        normals = splat_normals(params["means"], params["quats"], params["scales"], center)
        return plane_channels(params["means"], normals, viewmat)

    def outputs(self, channels: Tensor, alphas: Tensor, view: View) -> Dict[str, Tensor]:
        rays = pixel_rays(view.Ks[0], view.width, view.height)
        inverse, distortion = spread_of(channels, alphas, rays)
        there = inverse > 0
        depth = torch.where(there, 1.0 / torch.where(there, inverse, 1.0).clamp_min(1.0 / self.farthest), 0.0)
        solid = alphas.detach() > SOLID
        middle = depth.detach()[solid].median() if bool(solid.any()) else depth.new_ones(())
        around = normals_of_depth(depth, solid & there, rays, view.viewmats[0])
        return {
            f"{self.name}_depth": depth,
            f"{self.name}_normals": _coded(channels[..., :3]),
            f"{self.name}_depth_normals": _coded(around),
            f"{self.name}_distortion": (NEAREST * middle) ** 2 * distortion,
        }

    def losses(self, outputs: Mapping[str, Tensor], targets: Targets) -> Dict[str, Tensor]:
        """Both terms count less where the photograph has an edge, where surfaces may end."""
        trust = smoothness(targets["image"][..., :3])
        normals, around = (2 * outputs[f"{self.name}_{which}"] - 1 for which in ("normals", "depth_normals"))
        # The sum over splats of w (1 - n . around), without a reward for less opacity.
        disagreement = (outputs["accumulation"].detach() - (normals * around).sum(dim=-1, keepdim=True)) * trust
        known = (around.detach() != 0).any(dim=-1, keepdim=True)
        return {
            f"{self.name}_consistency": self.config.consistency * torch.where(known, disagreement, 0.0).mean(),
            f"{self.name}_distortion": self.config.distortion * (outputs[f"{self.name}_distortion"] * trust).mean(),
        }

    def penalties(self, params: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        from nts_plugins.losses import flattening_loss  # brings the kernels, which recipes must not

        return {f"{self.name}_flatness": self.config.flatness * flattening_loss(params["scales"])}


def smoothness(image: Tensor) -> Tensor:
    """[H, W, 1] exp of minus the largest difference to one of the four neighbours, mean over colours.

    Args:
        image: [H, W, 3] in [0, 1].
    """
    across = (image[:, 1:] - image[:, :-1]).abs().mean(dim=-1)
    along = (image[1:] - image[:-1]).abs().mean(dim=-1)
    largest = image.new_zeros(image.shape[:2])
    largest[:, 1:] = across
    largest[:, :-1] = torch.maximum(largest[:, :-1], across)
    largest[1:] = torch.maximum(largest[1:], along)
    largest[:-1] = torch.maximum(largest[:-1], along)
    return torch.exp(-largest)[..., None]


def _coded(normals: Tensor) -> Tensor:
    """As a picture in [0, 1]: 0.5 is nothing."""
    return (0.5 * normals + 0.5).clamp(0.0, 1.0)
