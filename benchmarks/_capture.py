# SPDX-License-Identifier: Apache-2.0
"""A capture made of splats: pictures of a benchmark scene from several places, as ns-train reads it."""

import json
import math
from pathlib import Path

import torch
from PIL import Image

from benchmarks import scenes
from nts_plugins.gaussians.initialise import sh_to_rgb
from nts_plugins.rasterization import rasterize
from nts_plugins.samples.writer import write_points


@torch.no_grad()
def write_capture(folder: Path, scene: scenes.Scene, views: int) -> Path:
    """Draw the scene from ``views`` places and write pictures, transforms.json and its centres as seed points.

    World axes stay those of the scene: train with ``nerfstudio-data --orientation-method none --center-method none
    --auto-scale-poses False``. Every eighth view is held out.
    """
    (folder / "images").mkdir(parents=True)
    frames = []
    for view in range(views):
        viewmat = _place(scene.viewmats[0], view)
        raster = rasterize(scene.gaussians, viewmat[None], scene.Ks, scene.width, scene.height, sh_degree=3)
        name = f"images/{view:03d}.png"
        Image.fromarray((raster.colors[0].clamp(0, 1) * 255 + 0.5).byte().numpy()).save(folder / name)
        # nerfstudio's cameras look along -z with y up.
        pose = torch.linalg.inv(viewmat.double()) @ torch.diag(
            torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
        )
        # Nothing moves; methods for scenes that do want times.
        time = view / max(views - 1, 1)
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), "time": time})
    names = [frame["file_path"] for frame in frames]
    held_out = names[4::8]
    meta = {
        "camera_model": "OPENCV",
        "fl_x": float(scene.Ks[0, 0, 0]),
        "fl_y": float(scene.Ks[0, 1, 1]),
        "cx": float(scene.Ks[0, 0, 2]),
        "cy": float(scene.Ks[0, 1, 2]),
        "w": scene.width,
        "h": scene.height,
        "ply_file_path": "points.ply",
        "frames": frames,
        "train_filenames": [name for name in names if name not in held_out],
        "val_filenames": held_out,
        "test_filenames": held_out,
    }
    (folder / "transforms.json").write_text(json.dumps(meta))
    _write_points(folder / "points.ply", scene)
    return folder


def _place(viewmat: torch.Tensor, view: int) -> torch.Tensor:
    """The camera, stepped aside and turned a little."""
    angle = 0.2 * math.sin(1.3 * view)
    turn = torch.eye(4)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)
    step = torch.eye(4)
    step[:3, 3] = torch.tensor([0.6 * math.sin(0.9 * view), 0.3 * math.cos(1.7 * view), 0.2 * math.cos(view)])
    return turn @ step @ viewmat


def _write_points(path: Path, scene: scenes.Scene) -> None:
    colors = (sh_to_rgb(scene.gaussians.sh[:, 0]).clamp(0, 1) * 255).byte().numpy()  # type: ignore[index]
    write_points(path, xyz=scene.gaussians.means.numpy(), rgb=colors)
