# SPDX-License-Identifier: Apache-2.0
"""``nts predict`` as a user types it: from photographs with a stand-in for VGGT, from a run, and what can be wrong."""

from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch
from PIL import Image

from nts_plugins.cli import _runs
from nts_plugins.cli.main import USER_ERROR, main
from nts_plugins.data.dataset import SplatDataset
from nts_plugins.data.pointmaps import pointmaps, view_of_all
from nts_plugins.data.prediction_data import PredictionDataParserConfig
from nts_plugins.errors import InputError
from nts_plugins.files.prediction import load
from nts_plugins.surfaces.shots import solid_depth
from tests import runs
from tests.captures import intrinsics, load_meta, save_meta, write_capture
from tests.encoders import fake_vggt

VIEWS = 8


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("data") / "capture", views=VIEWS)


@pytest.fixture(scope="module")
def run(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of pictures at half their size; trained until something is solid."""
    options = ["--pipeline.datamanager.camera-res-scale-factor", "0.5", "--pipeline.model.num-downscales", "0"]
    options += ["--pipeline.model.camera-optimizer.mode", "SO3xR3"]
    return runs.train("splat", capture, tmp_path_factory.mktemp("outputs"), 60, *options)


def photographs(folder: Path, sizes: List[tuple]) -> Path:
    folder.mkdir()
    for number, size in enumerate(sizes):
        colors = (fake_vggt.picture(number, *size) * 255 + 0.5).to(torch.uint8)
        Image.fromarray(colors.numpy()).save(folder / f"{number:02d}.png")
    return folder


def test_from_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    sizes = [(70, 56)] * 3
    fake_vggt.install(monkeypatch, sizes)
    folder = photographs(tmp_path / "my pictures", sizes)
    (folder / "notes.txt").write_text("no photograph")
    (folder / "00.png").rename(folder / "00.PNG")
    path = tmp_path / "new" / "prediction.npz"
    assert main(["predict", "--images", str(folder), "--output-path", str(path), "--longest", "70"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "70x56 depths of 3 photographs" in said and "Licence of the weights that predicted them: CC-BY-NC-4.0" in said
    )
    assert "prediction-data" in said and [each.name for each in path.parent.iterdir()] == ["prediction.npz"]
    found = load(path)
    assert found.names == ("../my pictures/00.PNG", "../my pictures/01.png", "../my pictures/02.png")
    assert found.sizes.tolist() == [[70, 56]] * 3
    for number in range(3):
        np.testing.assert_allclose(found.viewmats[number, :3, 3], fake_vggt.pose(number)[0], atol=1e-6)
    # What is written is what the dataparser reads.
    outputs = PredictionDataParserConfig(data=path, eval_interval=0).setup().get_dataparser_outputs("train")
    assert len(SplatDataset(outputs)) == 3 and len(outputs.metadata["points3D_xyz"]) > 1000


def test_names_lead_to_the_photographs_through_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(28, 28)] * 2
    fake_vggt.install(monkeypatch, sizes)
    folder = photographs(tmp_path / "pictures", sizes)
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    path = tmp_path / "link" / "prediction.npz"
    assert main(["predict", "--images", str(folder), "--output-path", str(path), "--longest", "28"]) == 0
    for data in (path, tmp_path / "far" / "away"):
        outputs = PredictionDataParserConfig(data=data, eval_interval=0).setup().get_dataparser_outputs("train")
        assert [each.name for each in outputs.image_filenames] == ["00.png", "01.png"]


def test_a_place_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in --output-path=~/prediction.npz, which the shell leaves as it is."""
    sizes = [(28, 28)] * 2
    fake_vggt.install(monkeypatch, sizes)
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    photographs(tmp_path / "work" / "pictures", sizes)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    assert main(["predict", "--images", "pictures", "--output-path=~/prediction.npz", "--longest", "28"]) == 0
    assert load(tmp_path / "home" / "prediction.npz").names[0] == "../work/pictures/00.png"
    assert not (tmp_path / "work" / "~").exists()


def test_from_a_run(run: Path, capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "prediction.npz"
    assert main(["predict", "--from-run", str(run / "config.yml"), "--output-path", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"24x18 depths of {VIEWS} photographs" in said and "Licence" not in said
    found = load(path)
    assert sorted(found.names) == list(found.names) and len(found.names) == VIEWS, "held-out ones, too"
    assert [Path(name).name for name in found.names] == [f"{number:03d}.png" for number in range(VIEWS)]
    for name in found.names:
        assert (path.parent / name).resolve() == (capture / "images" / Path(name).name).resolve()
    assert found.sizes.tolist() == [[48, 36]] * VIEWS and str(run / "config.yml") in found.source
    for K in found.Ks:
        np.testing.assert_allclose(K, intrinsics(48, 36), rtol=1e-6), "in pixels of the files"
    pipeline = runs.load(run, "inference")
    model, manager = pipeline.model, pipeline.datamanager
    kept = {}
    for dataset in (manager.train_dataset, manager.eval_dataset):
        for number, name in enumerate(dataset.image_filenames):
            camera = dataset.cameras[number : number + 1]
            if dataset is manager.train_dataset:
                camera.metadata = {"cam_idx": number}
                camera.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera).detach()
                camera.metadata = None
            outputs = model.get_outputs_for_camera(camera)
            kept[name.name] = solid_depth(outputs), outputs["accumulation"][..., 0]
    for name, depth, sure in zip(found.names, found.depths, found.confidences, strict=True):
        expected, solidity = kept[Path(name).name]
        np.testing.assert_allclose(depth, expected, rtol=2e-3)
        np.testing.assert_allclose(sure, solidity, atol=1e-3)
        assert (depth > 0).any()


def test_the_prediction_of_a_run_is_a_scene(run: Path, tmp_path: Path) -> None:
    """Read by the dataparser, its cameras are those of the run, and seed points lie where depth is."""
    path = tmp_path / "prediction.npz"
    assert main(["predict", "--from-run", str(run / "config.yml"), "--output-path", str(path)]) == 0
    options: Any = dict(orientation_method="none", center_method="none", auto_scale_poses=False)
    outputs = PredictionDataParserConfig(data=path, eval_interval=0, **options).setup().get_dataparser_outputs("train")
    dataset = SplatDataset(outputs)
    prediction = load(path)
    for (viewmat, _), expected in zip(view_of_all(dataset), prediction.viewmats, strict=True):
        np.testing.assert_allclose(viewmat, expected, atol=1e-5)
    seeds = outputs.metadata["points3D_xyz"]
    near = 0
    for each in pointmaps(dataset):
        pixels, distance = each.view.project(seeds)
        depth = each.view.depth_at(pixels)
        near += int(((depth > 0) & ((depth - distance).abs() < 1e-2 * depth)).sum())
    # Each is seen by the view that it is of, at least.
    assert near >= len(seeds)


def test_learned_poses_of_training_pictures_are_taken(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = runs.load(run, "inference")
    path, config = tmp_path / "prediction.npz", str(run / "config.yml")
    monkeypatch.setattr(_runs, "load_run", lambda _config: pipeline)
    with torch.no_grad():
        pipeline.model.camera_optimizer.pose_adjustment.zero_()
    assert main(["predict", "--from-run", config, "--output-path", str(path)]) == 0
    before = load(path)
    with torch.no_grad():
        pipeline.model.camera_optimizer.pose_adjustment[1, :3] = torch.tensor([0.0, 0.0, 0.1])
    assert main(["predict", "--from-run", config, "--output-path", str(path)]) == 0
    after = load(path)
    second = pipeline.datamanager.train_dataset.image_filenames[1].name
    for name, one, other in zip(before.names, before.viewmats, after.viewmats, strict=True):
        expected = one.copy()
        if Path(name).name == second:
            expected[:3, 3] -= 0.1 * one[:3, 2]  # The camera has risen by a tenth along the world's third axis.
        np.testing.assert_allclose(other, expected, atol=1e-5)
    changed = [bool((one != other).any()) for one, other in zip(before.depths, after.depths, strict=True)]
    assert changed == [Path(name).name == second for name in before.names], "drawn from there"


def test_undistorted_pictures_of_a_run_are_refused(
    run: Path, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pipeline = runs.load(run, "inference")
    monkeypatch.setattr(pipeline.datamanager.train_dataset, "is_undistorted", lambda _number: True)
    monkeypatch.setattr(_runs, "load_run", lambda _config: pipeline)
    path = tmp_path / "prediction.npz"
    assert main(["predict", "--from-run", str(run / "config.yml"), "--output-path", str(path)]) == USER_ERROR
    assert "000.png was undistorted for the run" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "Name a folder of photographs with --images, or a run with --from-run"),
        (["--images", "one", "--from-run", "c.yml"], "one of the two"),
        (["--images", "nowhere"], "There is no folder nowhere"),
        (["--images", "one"], "one has 1 photographs (.jpg, .jpeg, .png"),
        (["--images", "none"], "none has 0 photographs"),
        (["--images", "two"], "VGGT's package is not installed. Its repository, facebookresearch/vggt"),
        (["--images", "two", "--longest", "500"], "--longest is 500, and must be a multiple of 14"),
        (["--images", "broken"], "01.png cannot be read"),
        (["--from-run", "nowhere.yml"], "There is no file nowhere.yml"),
        (["--images", "two", "--output-path", "p.zip"], "--output-path p.zip must end in .npz"),
        (["--images", "two", "--output-path", "two/00.png/p.npz"], "Cannot write two/00.png/p.npz"),
        (["--images", "two", "--output-path", "folder.npz"], "Cannot write folder.npz"),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, options: list, message: str
) -> None:
    fake_vggt.absent(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name, count in (("none", 0), ("one", 1), ("two", 2), ("broken", 2)):
        photographs(tmp_path / name, [(28, 28)] * count)
    (tmp_path / "broken" / "01.png").write_bytes(b"half")
    (tmp_path / "folder.npz").mkdir()
    before = sorted(tmp_path.rglob("*"))
    output = [] if "--output-path" in options else ["--output-path", "new/p.npz"]
    assert main(["predict", *options, *output]) == USER_ERROR
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


def test_pictures_of_a_run_that_differ_in_size_are_refused(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture", views=4)
    meta = load_meta(folder)
    shared = {name: meta.pop(name) for name in ("fl_x", "fl_y", "cx", "cy", "w", "h")}
    for frame in meta["frames"]:
        frame.update(shared)
    meta["frames"][1].update(w=36, h=48, cx=18.0, cy=24.0)
    path = folder / meta["frames"][1]["file_path"]
    Image.open(path).rotate(90, expand=True).save(path)
    save_meta(folder, meta)
    trained = runs.train("splat", folder, tmp_path / "outputs", 40)
    with pytest.raises(InputError, match="differ in size"):
        from nts_plugins.cli.predict import Predict

        Predict(tmp_path / "p.npz", from_run=trained / "config.yml").run()
    assert not (tmp_path / "p.npz").exists()
