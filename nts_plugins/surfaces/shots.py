# SPDX-License-Identifier: Apache-2.0
"""Pictures with depth, drawn by a trained method from the cameras it was trained on."""

from typing import Any, Callable, Iterator, Mapping, Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nts_plugins.data.cameras import view_of
from nts_plugins.errors import InputError
from nts_plugins.surfaces.fusion import Shot

SOLID = 0.5
"""Opacity from which a pixel shows a surface."""
DEPTHS = ("surface_depth", "depth")
"""Outputs that hold depth: that of a surface head, where rays meet splats' planes, and the mean of splats' centres."""


def training_shots(
    pipeline: Any,
    center: NDArray[np.float64],
    side: float,
    depth: Optional[str] = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Shot]:
    """Draw every training camera of a loaded pipeline, in the frame of training.

    Args:
        pipeline: as nerfstudio's ``eval_setup`` loads it.
        center: [3] of the cube outside of which depth is left out.
        side: of the cube.
        depth: name of the output to take; None takes that of a surface head, else "depth".
        progress: called as ``progress(done, total)``.

    Raises:
        InputError: where the method has no such output.
    """
    cameras = pipeline.datamanager.train_dataset.cameras
    for index in range(len(cameras)):
        progress(index, len(cameras))
        camera = cameras[index : index + 1]
        outputs = pipeline.model.get_outputs_for_camera(camera)
        view = view_of(camera, camera.camera_to_worlds)
        yield Shot(
            _array(outputs["rgb"]),
            _array(solid_depth(outputs, depth)),
            _array(view.Ks[0]).astype(np.float64),
            _array(view.viewmats[0]).astype(np.float64),
        ).within(center, side)
    progress(len(cameras), len(cameras))


def solid_depth(outputs: Mapping[str, Tensor], wanted: Optional[str] = None) -> Tensor:
    """[H, W] depth of a drawn picture, scene units; 0 where it shows no surface. See :func:`training_shots`."""
    drawn = outputs[depth_output(outputs, wanted)].squeeze(-1)
    return torch.where(outputs["accumulation"].squeeze(-1) > SOLID, drawn, 0.0)


def depth_output(outputs: Mapping[str, Tensor], wanted: Optional[str]) -> str:
    """Name of the output that holds depth; see :func:`training_shots`."""
    choices = [wanted] if wanted else DEPTHS
    for name in choices:
        if name in outputs and outputs[name].shape[-1] == 1 and {"rgb", "accumulation"} <= outputs.keys():
            return name
    raise InputError(f"There is no depth to fuse called {' or '.join(choices)}; the outputs are {', '.join(outputs)}.")


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().cpu().numpy().astype(np.float32)
