# SPDX-License-Identifier: Apache-2.0
"""Which of several depths is right: the one by which the pictures of neighbouring cameras match.

Where surfaces are depends on how they are read out of splats. The planes of flat splats give smooth walls; but splats
that are composited in the order of their centres look nearer to the camera than their planes are, and training sinks
them (``python -m benchmarks.order``), so that on small textured things the mean depth of the centres lies closer to
the surface. Pictures know: what a pixel shows has to look the same where its depth puts it in another picture.
"""

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.data.cameras import view_of
from nts_plugins.surfaces.depth_views import DepthView, places_in
from nts_plugins.surfaces.shots import DEPTHS, solid_depth

CAMERAS = 16
"""Cameras whose pictures are looked for in others."""
NEIGHBOURS = 2
"""Of each, nearest first."""
TOLERANCE = 0.05
"""Difference of two depths of one place, relatively, up to which it is taken for the same surface."""
UNLIKE = 0.2
"""Colours that differ by this or more are taken for different things."""


@dataclass(frozen=True)
class Drawn:
    """A picture, and what depths it could have."""

    rgb: Tensor
    """[H, W, 3] in [0, 1]."""
    views: Dict[str, DepthView]
    """By the name of the depth."""


def best_depth(
    pipeline: Any, names: Sequence[str] = DEPTHS, progress: Callable[[int, int], None] = lambda done, total: None
) -> Optional[str]:
    """Name of the output that training cameras of a loaded pipeline agree on most; the first where there is nothing to
    tell them apart by, and None where the method has none of them.

    Args:
        pipeline: as nerfstudio's ``eval_setup`` loads it.
        names: outputs to choose from; those that the method does not have are left out.
        progress: called as ``progress(done, total)``.
    """
    cameras = pipeline.datamanager.train_dataset.cameras
    pairs = list(_pairs(cameras.camera_to_worlds[:, :3, 3]))
    totals: Dict[str, float] = {}
    first: Optional[str] = None
    for done, (index, others) in enumerate(pairs):
        progress(done, len(pairs))
        here = draw(pipeline.model, cameras[index : index + 1], names)
        first = next(iter(here.views), None)
        if len(here.views) < 2:
            return first
        for other in others:
            there = draw(pipeline.model, cameras[other : other + 1], names)
            for name, value in differences(here, there).items():
                totals[name] = totals.get(name, 0.0) + value
    progress(len(pairs), len(pairs))
    return min(totals, key=lambda name: totals[name]) if totals else first


@torch.no_grad()
def draw(model: Any, camera: Any, names: Sequence[str]) -> Drawn:
    """What a model draws of a camera, with those of the depths that it has."""
    outputs = model.get_outputs_for_camera(camera)
    view = view_of(camera, camera.camera_to_worlds)
    own = [name for name in names if name in outputs]
    depths = {name: solid_depth(outputs, name) for name in own}
    lens, pose = view.Ks[0].to(outputs["rgb"]), view.viewmats[0].to(outputs["rgb"])
    return Drawn(outputs["rgb"], {name: DepthView(depth, pose, lens) for name, depth in depths.items()})


def differences(here: Drawn, there: Drawn) -> Dict[str, float]:
    """How much the colours of one picture differ from those of another where each depth puts them, summed over the
    pixels of which every depth says that both pictures show the same surface."""
    errors, both = {}, None
    for name, view in here.views.items():
        places, same = places_in(view, there.views[name], view.pixels(), TOLERANCE)
        size = places.new_tensor(there.views[name].size[::-1])
        grid = (2 * places / size - 1)[None, None]
        picture = there.rgb.permute(2, 0, 1)[None]
        found = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)[0, :, 0].T
        errors[name] = (found - here.rgb.reshape(-1, 3)).abs().mean(dim=-1).clamp_max(UNLIKE)
        both = same if both is None else both & same
    return {name: float(error[both].sum()) for name, error in errors.items()}


def _pairs(centers: Tensor) -> Iterator[Tuple[int, List[int]]]:
    """Some cameras, spread over all [N, 3], and the nearest of each that stand somewhere else."""
    count = len(centers)
    for index in sorted(set(torch.linspace(0, count - 1, min(count, CAMERAS)).long().tolist())):
        distance = (centers - centers[index]).norm(dim=-1)
        order = distance.argsort(stable=True).tolist()
        yield index, [other for other in order if distance[other] > 0][:NEIGHBOURS]
