# SPDX-License-Identifier: Apache-2.0
"""A folder as COLMAP leaves it is trained on as it is, with the command of the README."""

from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from nts_plugins.data.cameras import world_to_camera
from tests import runs
from tests.captures import load_meta, write_capture


def write_colmap_folder(folder: Path) -> Path:
    """The tiny capture as ``images`` and a text model in ``sparse/0``; COLMAP's world is turned and moved."""
    meta = load_meta(write_capture(folder))
    lines = [line.split() for line in (folder / "points.ply").read_text().splitlines()]
    points = lines[lines.index(["end_header"]) + 1 :]
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    lens = " ".join(str(meta[key]) for key in ("fl_x", "fl_y", "cx", "cy"))
    (model / "cameras.txt").write_text(f"# cameras\n1 PINHOLE {meta['w']} {meta['h']} {lens}\n")
    images = []
    for number, frame in enumerate(meta["frames"], start=1):
        viewmat = world_to_camera(torch.tensor(frame["transform_matrix"])[None, :3])[0].double().numpy()
        x, y, z, w = Rotation.from_matrix(viewmat[:3, :3]).as_quat()
        pose = " ".join(f"{value:.12g}" for value in (w, x, y, z, *viewmat[:3, 3]))
        images.append(f"{number} {pose} 1 {Path(frame['file_path']).name}\n\n")
    (model / "images.txt").write_text("# images\n" + "".join(images))
    tracks = [f"{number} {' '.join(point)} 0.5 1 0" for number, point in enumerate(points, start=1)]
    (model / "points3D.txt").write_text("# points\n" + "\n".join(tracks) + "\n")
    (folder / "transforms.json").unlink()
    (folder / "points.ply").unlink()
    return folder


def test_a_colmap_folder_trains(tmp_path: Path) -> None:
    folder = write_colmap_folder(tmp_path / "capture")
    options = ["colmap", "--images-path", "images", "--colmap-path", "sparse/0"]
    trainer = runs.trainer("splat", folder, tmp_path / "outputs", 40, *options)
    manager, model = trainer.pipeline.datamanager, trainer.pipeline.model
    assert len(manager.train_dataset) == 7 and len(manager.eval_dataset) == 1
    assert model.num_points == 60, "splats start at COLMAP's points"
    before = trainer.pipeline.get_average_eval_image_metrics()["psnr"]
    trainer.train()
    after = trainer.pipeline.get_average_eval_image_metrics()["psnr"]
    # The seed points lie where the pictures show something, so poses, points and pictures agree.
    assert np.isfinite(before) and after > before + 2
