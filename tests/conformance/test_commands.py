# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's commands as a user types them, on the backbone method and without a GPU."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import List

import numpy as np
import pytest
from PIL import Image

from tests import runs
from tests.captures import ring_pose

PROGRAMS = {
    "ns-train": "nerfstudio.scripts.train",
    "ns-eval": "nerfstudio.scripts.eval",
    "ns-viewer": "nerfstudio.scripts.viewer.run_viewer",
}


def command(name: str, *arguments: object) -> List[str]:
    """A command of nerfstudio, whether or not its folder is on the search path."""
    program = f"from {PROGRAMS[name]} import entrypoint; entrypoint()"
    return [sys.executable, "-c", program, *map(str, arguments)]


@pytest.fixture(scope="module")
def run(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made by ns-train in a process of its own, with the viewer that is on by default."""
    output = tmp_path_factory.mktemp("outputs")
    options = ["--viewer.quit-on-train-completion", "True", "--viewer.websocket-host", "127.0.0.1"]
    where = ["--data", capture, "--output-dir", output, "--max-num-iterations", 12]
    done = subprocess.run(
        command("ns-train", "splat", *where, *options), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Training Finished" in done.stdout
    (made,) = output.glob("capture/splat/*")
    return made


def test_train_prints_one_message_for_a_mistake(tmp_path: Path) -> None:
    where = ["--data", tmp_path / "nowhere", "--output-dir", tmp_path / "outputs"]
    done = subprocess.run(
        command("ns-train", "splat", *where), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and done.stderr.splitlines()[-1].startswith("There is no file")
    assert not (tmp_path / "outputs").exists()


def test_eval(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    done = subprocess.run(
        command("ns-eval", "--load-config", run / "config.yml", "--output-path", output),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads(output.read_text())
    assert written["method_name"] == "splat" and math.isfinite(written["results"]["psnr"])
    if "lpips" not in written["results"]:
        text = " ".join(done.stdout.split())
        assert text.count("LPIPS is left out") == 1 and "alexnet" in text and "checkpoints" in text


def test_viewer_serves_its_page(run: Path) -> None:
    arguments = ["--load-config", run / "config.yml", "--viewer.websocket-host", "127.0.0.1"]
    process = subprocess.Popen(
        command("ns-viewer", *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        address, limit = None, time.monotonic() + 120
        assert process.stdout is not None
        for line in process.stdout:
            if "127.0.0.1:" in line:
                address = "http://127.0.0.1:" + line.split("127.0.0.1:")[1].split()[0].strip("│ /")
                break
            assert time.monotonic() < limit
        assert address, "the viewer ended without naming its address"
        with urllib.request.urlopen(address, timeout=30) as page:
            assert page.status == 200 and b"<html" in page.read().lower()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def pictures(folder: Path) -> List[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


@pytest.fixture
def without_ffmpeg_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """nerfstudio asks for ffmpeg even where it writes pictures, which it does without."""
    from nerfstudio.utils import install_checks

    if shutil.which("ffmpeg") is None:
        monkeypatch.setattr(install_checks, "check_ffmpeg_installed", lambda: None)


@pytest.mark.usefixtures("without_ffmpeg_check")
def test_render_interpolate(run: Path, tmp_path: Path) -> None:
    from nerfstudio.scripts.render import RenderInterpolated

    output = tmp_path / "frames"
    RenderInterpolated(
        load_config=run / "config.yml",
        output_path=output,
        output_format="images",
        image_format="png",
        pose_source="eval",
        interpolation_steps=3,
        rendered_output_names=["rgb", "depth"],
    ).main()
    frames = pictures(output)
    assert len(frames) == 3 and all(frame.shape == (36, 96, 3) for frame in frames)
    assert all(frame.std() > 1 for frame in frames)


@pytest.mark.usefixtures("without_ffmpeg_check")
def test_render_camera_path_with_a_crop(run: Path, tmp_path: Path) -> None:
    from nerfstudio.scripts.render import RenderCameraPath

    path = {
        "camera_type": "perspective",
        "render_height": 40,
        "render_width": 50,
        "seconds": 1.0,
        "camera_path": [
            {"camera_to_world": ring_pose(angle, radius=1.2).flatten().tolist(), "fov": 60.0, "aspect": 1.25}
            for angle in (0.0, 0.5)
        ],
        "crop": {
            "crop_center": [0.0, 0.0, 0.0],
            "crop_scale": [4.0, 4.0, 4.0],
            "crop_rot": [0.0, 0.0, 0.0],
            "crop_bg_color": {"r": 255, "g": 0, "b": 0},
        },
    }
    (tmp_path / "path.json").write_text(json.dumps(path))
    RenderCameraPath(
        load_config=run / "config.yml",
        camera_path_filename=tmp_path / "path.json",
        output_path=tmp_path / "frames",
        output_format="images",
        image_format="png",
    ).main()
    frames = pictures(tmp_path / "frames")
    assert [frame.shape for frame in frames] == [(40, 50, 3)] * 2 and frames[0].std() > 1


def test_render_dataset(run: Path, tmp_path: Path) -> None:
    from nerfstudio.scripts.render import DatasetRender

    names = ["rgb", "gt-rgb", "depth", "raw-depth"]
    DatasetRender(
        load_config=run / "config.yml", output_path=tmp_path, split="train+test", rendered_output_names=names
    ).main()
    for split, count in (("train", 6), ("test", 2)):
        for name in names:
            assert len(list((tmp_path / split / name).iterdir())) == count, (split, name)


def test_export_refuses_nothing_it_should_take(run: Path, tmp_path: Path) -> None:
    """Splats in colours instead of harmonics, cut to a box."""
    export = pytest.importorskip("nerfstudio.scripts.exporter", exc_type=ImportError).ExportGaussianSplat
    from plyfile import PlyData

    export(
        load_config=run / "config.yml",
        output_dir=tmp_path,
        ply_color_mode="rgb",
        obb_center=(0.0, 0.0, 0.0),
        obb_rotation=(0.0, 0.0, 0.0),
        obb_scale=(0.4, 0.4, 0.4),
    ).main()
    vertices = PlyData.read(str(tmp_path / "splat.ply"))["vertex"]
    assert 0 < len(vertices) < runs.load(run, "inference").model.num_points
    assert vertices["red"].dtype == np.uint8 and np.abs(vertices["x"]).max() <= 0.2 + 1e-6


def test_a_run_is_exported_where_its_pictures_are_not(run: Path, capture: Path, tmp_path: Path) -> None:
    export = pytest.importorskip("nerfstudio.scripts.exporter", exc_type=ImportError).ExportGaussianSplat

    shutil.move(capture / "images", tmp_path / "away")
    try:
        export(load_config=run / "config.yml", output_dir=tmp_path).main()
    finally:
        shutil.move(tmp_path / "away", capture / "images")
    assert (tmp_path / "splat.ply").stat().st_size > 1000
