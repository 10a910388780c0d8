# SPDX-License-Identifier: Apache-2.0
"""Methods for scenes that move under nerfstudio's commands: every format with times, and paths that sweep time."""

import math
import shutil
from pathlib import Path
from typing import List

import numpy as np
import pytest
import torch
from PIL import Image

from nts_plugins.errors import InputError
from tests import runs
from tests.captures import load_meta, save_meta, write_capture, write_dnerf
from tests.conformance.conftest import busy_options

METHODS = ["splat-dynamic", "splatfacto-nts-dynamic"]


@pytest.mark.parametrize("method", METHODS)
def test_the_format_of_dnerf_goes_the_whole_way(method: str, tmp_path: Path) -> None:
    scene = write_dnerf(tmp_path / "scene")
    run = runs.train(method, scene, tmp_path / "outputs", 60, *busy_options(method), "dnerf-data")
    assert math.isfinite(runs.evaluate(run, tmp_path / "results.json")["psnr"])


@pytest.mark.parametrize("method", METHODS)
def test_scenes_without_times_are_refused_before_anything_is_written(method: str, tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "capture")
    with pytest.raises(InputError, match="Give each frame of transforms.json a 'time'"):
        runs.train(method, capture, tmp_path / "outputs", 5, *busy_options(method))
    assert not list(tmp_path.glob("outputs/**/config.yml"))


def frames(folder: Path) -> List[np.ndarray]:
    return [np.asarray(Image.open(path)).astype(float) for path in sorted(folder.iterdir())]


def test_an_interpolated_path_sweeps_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one pose for all cameras, what changes along the path is the time alone."""
    from nerfstudio.scripts.render import RenderInterpolated
    from nerfstudio.utils import install_checks

    capture = write_capture(tmp_path / "capture", moving=True)
    run = runs.train("splat-dynamic", capture, tmp_path / "outputs", 40, *busy_options("splat-dynamic"))
    meta = load_meta(capture)
    pose = meta["frames"][3]["transform_matrix"]
    held_out = [frame for frame in meta["frames"] if frame["file_path"] in meta["test_filenames"]]
    for frame in held_out:
        frame["transform_matrix"] = pose
    save_meta(capture, meta)
    if shutil.which("ffmpeg") is None:
        monkeypatch.setattr(install_checks, "check_ffmpeg_installed", lambda: None)
    with monkeypatch.context() as patch:
        # The trained field may have moved by less than a grey level.
        from nts_plugins.fields.deformation import DeformationField

        original = DeformationField.forward

        def rising(self: DeformationField, places: torch.Tensor, time: float):
            moved = original(self, places, time)
            return moved._replace(shift=moved.shift + torch.tensor([0.0, 0.0, 0.5 * time]))

        patch.setattr(DeformationField, "forward", rising)
        RenderInterpolated(
            load_config=run / "config.yml",
            output_path=tmp_path / "frames",
            output_format="images",
            image_format="png",
            pose_source="eval",
            interpolation_steps=4,
            rendered_output_names=["rgb"],
        ).main()
    first, *others = frames(tmp_path / "frames")
    distances = [np.abs(each - first).mean() for each in others]
    assert len(others) == 3 and distances[0] > 0.5 and distances == sorted(distances)
