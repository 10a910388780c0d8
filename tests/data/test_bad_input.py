# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong with a capture, ns-train says it in one message and leaves nothing behind."""

import json
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest
import torch
from PIL import Image

from nts_plugins.data.pictures import has_black_rim
from nts_plugins.errors import InputError
from tests import runs
from tests.captures import load_meta, save_meta, write_capture

Break = Callable[[Path, Dict[str, Any]], None]


def edit(change: Callable[[Dict[str, Any]], None]) -> Break:
    """A fault that is made by changing transforms.json."""

    def break_it(folder: Path, meta: Dict[str, Any]) -> None:
        change(meta)
        save_meta(folder, meta)

    return break_it


def write_bytes(name: str, content: bytes) -> Break:
    return lambda folder, meta: (folder / name).write_bytes(content) and None  # type: ignore[return-value]


def truncate(folder: Path, meta: Dict[str, Any]) -> None:
    path = folder / "images/002.png"
    path.write_bytes(path.read_bytes()[:-400])


def truncate_held_out(folder: Path, meta: Dict[str, Any]) -> None:
    path = folder / "images/003.png"
    path.write_bytes(path.read_bytes()[:-400])


def rotate(folder: Path, meta: Dict[str, Any]) -> None:
    path = folder / "images/002.png"
    Image.open(path).rotate(90, expand=True).save(path)


def wrong_mask(folder: Path, meta: Dict[str, Any]) -> None:
    for frame in meta["frames"]:
        frame["mask_path"] = "mask.png"
    Image.fromarray(np.ones((5, 5), np.uint8)).save(folder / "mask.png")
    save_meta(folder, meta)


def set_pose(value: Any) -> Break:
    return edit(lambda meta: meta["frames"][4].update(transform_matrix=value))


POSE_WITH_NAN = [[1, 0, 0, float("nan")], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
SINGULAR_POSE = [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]]

FAULTS = {
    "no transforms.json": (lambda folder, meta: (folder / "transforms.json").unlink(), "no file .*transforms.json"),
    "not JSON": (write_bytes("transforms.json", b"{nonsense"), "transforms.json is not valid JSON"),
    "no images": (edit(lambda meta: meta.update(frames=[])), "lists no images"),
    "no frames": (edit(lambda meta: meta.pop("frames")), "lists no images"),
    "no training images": (edit(lambda meta: meta.update(train_filenames=[])), "no training images"),
    "missing image": (lambda folder, meta: (folder / "images/002.png").unlink(), "images/002.png does not exist"),
    "empty image": (write_bytes("images/002.png", b""), "images/002.png cannot be read"),
    "not an image": (write_bytes("images/002.png", b"hello"), "images/002.png cannot be read"),
    "half a held-out image": (truncate_held_out, "images/003.png cannot be read"),
    "half an image": (truncate, "images/002.png cannot be read"),
    "rotated image": (rotate, "002.png is 36x48 pixels, but its camera is 48x36.*EXIF"),
    "wrong size": (edit(lambda meta: meta.update(w=50)), "000.png is 48x36 pixels, but its camera is 50x36"),
    "pose with NaN": (set_pose(POSE_WITH_NAN), "pose of images/004.png.* is not finite"),
    "singular pose": (set_pose(SINGULAR_POSE), "pose of images/004.png.* is not a rotation"),
    "mirrored pose": (set_pose(np.diag([1.0, 1.0, -1.0, 1.0]).tolist()), "pose of images/004.png.* is not a rotation"),
    "doubled pose": (set_pose(np.diag([2.0, 2.0, 2.0, 1.0]).tolist()), "pose of images/004.png.* is not a rotation"),
    "pose of a projection": (set_pose(np.eye(4).tolist()[:3] + [[0, 0, 0.5, 1]]), "images/004.png.* the last row"),
    "no pose": (edit(lambda meta: meta["frames"][4].pop("transform_matrix")), "images/004.png.* no 'transform_matrix'"),
    "pose of three rows": (set_pose(np.eye(4)[:3].tolist()), "images/004.png.* no 'transform_matrix' of 4x4"),
    "pose of words": (set_pose("left"), "images/004.png.* no 'transform_matrix'"),
    "no file_path": (edit(lambda meta: meta["frames"][4].pop("file_path")), "Frame 4 .* no 'file_path'"),
    "frame of words": (edit(lambda meta: meta["frames"].__setitem__(4, "004.png")), "Frame 4 .* no 'file_path'"),
    "file_path of a number": (edit(lambda meta: meta["frames"][4].update(file_path=4)), "Frame 4 .* no 'file_path'"),
    "frames by name": (edit(lambda meta: meta.update(frames={"0": meta["frames"][0]})), "lists no images"),
    "missing points": (edit(lambda meta: meta.update(ply_file_path="no.ply")), "no file of seed points .*no.ply"),
    "fisheye": (edit(lambda meta: meta.update(camera_model="OPENCV_FISHEYE")), "OPENCV_FISHEYE.*pinhole.*[Uu]ndistort"),
    "one fisheye frame": (
        edit(lambda meta: meta["frames"][4].update(camera_model="OPENCV_FISHEYE")),
        "images/004.png.* OPENCV_FISHEYE.*pinhole",
    ),
    "fisheye frame after one of lists": (
        edit(
            lambda meta: (
                meta["frames"][0].update(camera_model=[]),
                meta["frames"][4].update(camera_model="FISHEYE624"),
            )
        ),
        "images/004.png.* FISHEYE624.*pinhole",
    ),
    "panorama": (edit(lambda meta: meta.update(camera_model="EQUIRECTANGULAR")), "EQUIRECTANGULAR.*pinhole"),
    "unknown camera": (edit(lambda meta: meta.update(camera_model="KINOPTIK")), "unknown camera_model 'KINOPTIK'"),
    "no focal length": (edit(lambda meta: meta.pop("fl_x")), "fx not specified"),
    "focal length zero": (edit(lambda meta: meta.update(fl_x=0.0)), "focal lengths above zero"),
    "mask of another size": (wrong_mask, "mask.png is 5x5 pixels, but its image .* is 48x36"),
}


def train_expecting_failure(capture: Path, output: Path, *extra: str) -> str:
    with pytest.raises(InputError) as caught:
        runs.train("splat", capture, output, 3, *extra)
    assert not output.exists(), "a run that could not start left something behind"
    return str(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named_and_nothing_is_written(tmp_path: Path, fault: str) -> None:
    import re

    break_it, message = FAULTS[fault]
    folder = write_capture(tmp_path / "capture")
    break_it(folder, load_meta(folder))
    said = train_expecting_failure(folder, tmp_path / "outputs")
    assert re.search(message, said), said
    assert "\n" not in said.strip()


def test_faults_that_other_dataparsers_find(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture", views=4)
    (folder / "sparse").mkdir()
    said = train_expecting_failure(folder, tmp_path / "outputs", "colmap", "--colmap-path", "sparse")
    assert str(folder) in said and "sparse" in said


def test_missing_checkpoint(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture", views=4)
    said = train_expecting_failure(folder, tmp_path / "outputs", "--load-dir", str(tmp_path / "typo"))
    assert "no checkpoint in" in said and "typo" in said


def test_missing_folder(tmp_path: Path) -> None:
    said = train_expecting_failure(tmp_path / "nowhere", tmp_path / "outputs")
    assert "nowhere" in said and "ns-process-data" in said


def test_downscale_factor_without_the_reduced_pictures(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture", views=4)
    options = ("nerfstudio-data", "--downscale-factor", "2")
    said = train_expecting_failure(folder, tmp_path / "outputs", *options)
    assert "images_2/000.png" in said and "--pipeline.datamanager.camera-res-scale-factor 0.5" in said


@pytest.mark.parametrize("factor", ["0", "-1", "2", "nan"])
def test_impossible_scale_factor(tmp_path: Path, factor: str) -> None:
    folder = write_capture(tmp_path / "capture", views=4)
    option = f"--pipeline.datamanager.camera-res-scale-factor={factor}"
    assert "is not in (0, 1]" in train_expecting_failure(folder, tmp_path / "outputs", option)


def test_unwritable_output(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture", views=4)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="Cannot write to .*file.*--output-dir"):
        runs.train("splat", folder, tmp_path / "file" / "outputs", 3)
    assert (tmp_path / "file").read_text() == "in the way"


def test_unknown_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_capture(tmp_path / "capture", views=4)
    monkeypatch.setenv("NTS_BACKEND", "abacus")
    assert "NTS_BACKEND=abacus" in train_expecting_failure(folder, tmp_path / "outputs")
    monkeypatch.delenv("NTS_BACKEND")
    said = train_expecting_failure(folder, tmp_path / "outputs", "--pipeline.model.backend", "gsplat")
    assert "gsplat" in said and "cpu" in said


def test_no_seed_points_starts_at_random_with_a_notice(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_capture(tmp_path / "capture", views=4)
    meta = load_meta(folder)
    del meta["ply_file_path"]
    save_meta(folder, meta)
    run = runs.train("splat", folder, tmp_path / "outputs", 2, "--pipeline.model.num-random", "70")
    assert "no seed points" in " ".join(capsys.readouterr().out.split())
    assert runs.load(run).model.num_points == 70


def test_one_picture_is_enough_to_train(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture", views=1)
    meta = load_meta(folder)
    for name in ("train_filenames", "val_filenames", "test_filenames"):
        del meta[name]
    save_meta(folder, meta)
    assert "--auto-scale-poses False" in train_expecting_failure(folder, tmp_path / "outputs")
    unscaled = ("nerfstudio-data", "--auto-scale-poses", "False")
    run = runs.train("splat", folder, tmp_path / "outputs", 2, *unscaled)
    with pytest.raises(InputError, match="no evaluation images"):
        runs.evaluate(run, tmp_path / "results.json")


def test_damaged_config_is_not_left_by_a_run_that_cannot_start(tmp_path: Path) -> None:
    """A second run with the name of the first one must not overwrite its config before it has read the data."""
    folder = write_capture(tmp_path / "capture", views=4)
    run = runs.train("splat", folder, tmp_path / "outputs", 2)
    before = (run / "config.yml").read_text()
    (folder / "images/000.png").unlink()
    with pytest.raises(InputError):
        runs.train("splat", folder, tmp_path / "outputs", 2, "--pipeline.model.sh-degree", "1")
    assert (run / "config.yml").read_text() == before
    assert json.loads((run / "dataparser_transforms.json").read_text())


def rimmed(width: int, top: int, left: int) -> torch.Tensor:
    """A grey picture with black rows above and black columns on the left."""
    image = torch.full((60, width, 3), 0.5)
    image[:top] = image[:, :left] = 0.02
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (rimmed(80, 2, 1), True),
        ((255 * rimmed(80, 1, 1)).to(torch.uint8), True),
        (rimmed(80, 0, 0), False),
        (rimmed(80, 2, 0), False),
        (torch.zeros(60, 80, 3), False),
        (rimmed(80, 30, 40), False),
    ],
    ids=["two sides", "bytes", "none", "one side", "dark picture", "dark parts"],
)
def test_black_rim(image: torch.Tensor, expected: bool) -> None:
    assert has_black_rim(image) == expected


def test_black_rim_is_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_capture(tmp_path / "capture", views=4)
    for path in (folder / "images").iterdir():
        picture = np.full_like(np.asarray(Image.open(path)), 128)
        picture[:1] = picture[-1:] = picture[:, :1] = picture[:, -1:] = 0
        Image.fromarray(picture).save(path)
    runs.train("splat", folder, tmp_path / "outputs", 2)
    assert "black rim" in " ".join(capsys.readouterr().out.split())
