# SPDX-License-Identifier: Apache-2.0
"""Neural textures as plain numbers: each splat's texture once and for all, as it looks from one place.

A file cannot hold a field that looks different from every side. Which side each splat is seen from is a choice; what
another choice costs, docs/scene-files.md says.
"""

from dataclasses import replace
from typing import Iterable, Optional, Tuple

import torch
from torch import Tensor

from nts_plugins.appearance.neural_texture import NeuralTexture
from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import Textures, coverage
from nts_plugins.rasterization.sh import camera_centres

AT_ONCE = 65536
"""Splats whose textures are decoded together, so that the decoders' layers need no more than 100 MB."""

Camera = Tuple[Tensor, Tensor, int, int]
"""View matrix [1, 4, 4], intrinsics [1, 3, 3], width and height, as ``rasterize`` takes them."""


@torch.no_grad()
def usual_eyes(
    gaussians: Gaussians, cameras: Iterable[Camera], *, antialiased: bool = False, backend: Optional[str] = None
) -> Tensor:
    """[N, 3] a place for each splat from which it looks as it does to the cameras that show it, in the mean.

    The mean of the directions from the cameras to the splat, each weighted by how much of the camera's picture the
    splat makes up. Splats that no camera shows are seen from the middle of the cameras.

    Args:
        gaussians: N splats.
        cameras: at least one.
        antialiased, backend: as for ``rasterize``.
    """
    means, centres = gaussians.means, []
    directions = torch.zeros_like(means)
    for camera in cameras:
        weights = coverage(gaussians, *camera, antialiased=antialiased, backend=backend)
        centres.append(camera_centres(camera[0])[0])
        toward = torch.nn.functional.normalize(means - centres[-1], dim=1)
        directions += weights[:, None] * toward
    plain = torch.nn.functional.normalize(means - torch.stack(centres).mean(dim=0), dim=1)
    seen = directions.norm(dim=1, keepdim=True) > 0
    return means - torch.where(seen, torch.nn.functional.normalize(directions, dim=1), plain)


@torch.no_grad()
def bake(
    texture: NeuralTexture,
    gaussians: Gaussians,
    eyes: Tensor,
    step: int,
    places: Optional[Tensor] = None,
    times: Optional[Tensor] = None,
) -> Optional[Textures]:
    """Textures of all splats that have one, seen by a camera or not; None before the first step with textures.

    Args:
        texture: in evaluation mode.
        gaussians: N splats.
        eyes: [3] the place that all are seen from, or [N, 3] one for each; world frame.
        step: of training.
        places, times: where a scene moves, as for ``NeuralTexture.textures``.
    """
    parts = []
    for first in range(0, len(gaussians), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        splats = gaussians.map(lambda tensor, some=some: tensor[some])
        drawn = splats.means.new_ones(len(splats), 2)
        seen_from = eyes if eyes.ndim == 1 else eyes[some]
        moment = (None if each is None else each[some] for each in (places, times))
        made = texture.textures(splats, seen_from, step, drawn, *moment)
        if made is not None:
            parts.append(replace(made, splats=made.splats + first))
    if not parts:
        return None
    joined = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("vectors", "splats", "weights", "faces")
        if getattr(parts[0], name) is not None
    }
    return replace(parts[0], **joined)
