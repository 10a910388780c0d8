# SPDX-License-Identifier: Apache-2.0
"""A scene that can be asked: the tests' capture with regions, its blobs as splats, and a table of phrases."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, NamedTuple, Tuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nts_plugins.files import ply
from nts_plugins.gaussians.initialise import rgb_to_sh
from nts_plugins.queries.phrases import CANONICAL
from tests.captures import blobs, write_capture, write_regions

COLORS = ("red", "green", "blue")
AXES = {
    **{color: axis for axis, color in enumerate(COLORS)},
    **{f"{color} part": 3 + axis for axis, color in enumerate(COLORS)},
    "anything lit": 6,
    **dict.fromkeys(CANONICAL["en"], 7),
}
"""Phrases of the tests; those of a colour are of the first level, their parts of the second, the rest of the third."""
AS_CAPTURED = [
    *("nerfstudio-data", "--orientation-method", "none", "--center-method", "none"),
    *("--auto-scale-poses", "False"),
]
QUICK = [
    *("--pipeline.model.resolution-schedule", "5", "--pipeline.model.densify.refine-start-iter", "10"),
    *("--pipeline.model.densify.refine-every", "20", "--pipeline.model.densify.max-splats", "150"),
    *("--steps-per-eval-image", "0"),
]
"""Densifies within a few steps."""


def phrase_table(path: Path, width: int = 8) -> Path:
    """Vectors of the phrases of :data:`AXES`."""
    np.savez(path, phrases=np.array(list(AXES)), vectors=np.eye(width, dtype=np.float32)[list(AXES.values())])
    return path


def true_splats(**changes: Tensor) -> Dict[str, Tensor]:
    """The blobs of the capture, as a file holds them; in its own frame."""
    scene = blobs()
    values = {
        "means": scene.means,
        "scales": scene.scales.log(),
        "quats": scene.quats,
        "opacities": scene.opacities.logit()[:, None],
        "features_dc": rgb_to_sh(scene.colors),
        "features_rest": torch.zeros(len(scene), 0, 3),
    }
    return {**values, **changes}


def asking(table: Path, *extra: str) -> List[str]:
    return ["--pipeline.model.language.text-weights", str(table), *extra]


def with_splats(path: Path, table: Path, *extra: str) -> List[str]:
    """Options of a run on splats of a file in the frame of the capture."""
    return asking(table, "--pipeline.model.load-splats", str(path), *extra, *AS_CAPTURED)


class Scene(NamedTuple):
    capture: Path
    table: Path
    splats: Path
    """The blobs, exactly."""


def write_scene(folder: Path) -> Scene:
    """All of it in a folder."""
    torch.set_num_threads(1)
    write_regions(write_capture(folder / "capture"))
    ply.write(folder / "blobs.ply", true_splats())
    return Scene(folder / "capture", phrase_table(folder / "phrases.npz"), folder / "blobs.ply")


def set_to(panel: Any, **elements: Any) -> None:
    """What somebody has typed and chosen."""
    for name, value in elements.items():
        getattr(panel, name).gui_handle = SimpleNamespace(value=value)


def views_of(dataset: Any) -> List[Tuple[Any, Tensor]]:
    """Cameras, and the number of the brightest channel [H, W] of what each sees; -1 where nothing is."""
    found = []
    for index, path in enumerate(dataset.image_filenames):
        picture = torch.from_numpy(np.asarray(Image.open(path))[..., :3].copy()).long()
        brightest = torch.where(picture.amax(dim=-1) > 40, picture.argmax(dim=-1), -1)
        found.append((dataset.cameras[index : index + 1], brightest))
    return found


def first_camera(pipeline: Any) -> Any:
    return pipeline.datamanager.eval_dataset.cameras[:1]
