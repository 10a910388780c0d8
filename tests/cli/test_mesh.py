# SPDX-License-Identifier: Apache-2.0
"""``nts mesh`` as a user types it, and the frame of what it writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial import KDTree

from nts_plugins.cli import mesh as command
from nts_plugins.cli._runs import capture_from_training
from nts_plugins.cli.main import USER_ERROR, main
from nts_plugins.errors import InputError
from nts_plugins.samples import SampleConfig, write_sample
from tests import runs

pytest.importorskip("open3d")


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "gallery"
    write_sample(folder, SampleConfig(views=12, test_every=6, width=96, height=72, samples=1))
    return folder


@pytest.fixture(scope="module")
def run(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ["--pipeline.model.heads.surface.start-step", "20", "--pipeline.model.resolution-schedule", "10"]
    return runs.train("splat-surface", capture, tmp_path_factory.mktemp("outputs"), 120, *options)


def read(path: Path) -> trimesh.Trimesh:
    return trimesh.load(path, process=False)  # type: ignore[return-value]


def test_the_mesh_is_in_the_frame_and_unit_of_the_capture(run: Path, capture: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "mesh.ply"
    common = ["mesh", "--load-config", str(run / "config.yml"), "--parts", "0", "--region", "1.5"]
    assert main([*common, "--output-path", str(path), "--voxel", "0.1"]) == 0
    mesh = read(path)
    assert len(mesh.faces) > 100 and [each.name for each in path.parent.iterdir()] == ["mesh.ply"]
    truth = trimesh.load(capture / "surface.ply").vertices
    # A room of 7.2 by 6 by 3 metres, whose middle on the floor is the origin. A training this short sees it roughly;
    # how much of it, rounding decides, which differs between processors. The unit of training is 2.6 metres.
    center = np.median(mesh.vertices, axis=0)
    assert np.abs(center - np.median(truth, axis=0)).max() < 1.5
    assert 2.0 < np.ptp(np.percentile(mesh.vertices, [2, 98], axis=0)[:, 0]) < 12.0
    other = tmp_path / "training.ply"
    scale = runs.load(run, "inference").datamanager.train_dataparser_outputs.dataparser_scale
    assert main([*common, "--output-path", str(other), "--frame", "training", "--voxel", str(0.1 * scale)]) == 0
    trained = read(other)
    outputs = runs.load(run, "inference").datamanager.train_dataparser_outputs
    moved = trimesh.transform_points(trained.vertices, capture_from_training(outputs))
    assert len(moved) == len(mesh.vertices)
    assert KDTree(moved).query(mesh.vertices)[0].max() < 1e-3  # open3d's threads write them in another order.
    colors = np.asarray(mesh.visual.vertex_colors)[:, :3]
    assert colors.std() > 5


def test_the_frame_is_that_of_the_file(capture: Path, run: Path) -> None:
    """Cameras of training, carried to the frame of the capture, are those of transforms.json."""
    outputs = runs.load(run, "inference").datamanager.train_dataparser_outputs
    matrix = capture_from_training(outputs)
    frames = json.loads((capture / "transforms.json").read_text())["frames"]
    by_name = {Path(frame["file_path"]).name: np.array(frame["transform_matrix"]) for frame in frames}
    positions = outputs.cameras.camera_to_worlds[:, :3, 3].numpy()
    expected = [by_name[path.name][:3, 3] for path in outputs.image_filenames]
    np.testing.assert_allclose(trimesh.transform_points(positions, matrix), expected, atol=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--output-path", "mesh.obj"], "must end in .ply"),
        (["--output-path", "m.ply", "--voxel", "-1"], "--voxel is -1"),
        (["--output-path", "m.ply", "--depth", "nothing"], "There is no depth to fuse called nothing"),
        (["--output-path", "m.ply", "--region", "0.0001"], "No surface was found"),
    ],
)
def test_mistakes_are_explained(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, options: list, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["mesh", "--load-config", str(run / "config.yml"), *options]) == USER_ERROR
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_noticed_before_the_run_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="Cannot write .*mesh.ply.*another place"):
        command.Mesh(tmp_path / "config.yml", tmp_path / "file" / "mesh.ply").run()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_that_cannot_be_read_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        command.Mesh(tmp_path / "config.yml", tmp_path / "new" / "mesh.ply").run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"# A scene\n\n- with: a list\n", b"", b"ply\n\xff\xfe", b"!!python/object:a {"])
def test_a_file_that_is_no_config_is_explained(tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "README.md"
    other.write_bytes(content)
    with pytest.raises(InputError, match="README.md is not the config.yml of a run"):
        command.Mesh(other, tmp_path / "mesh.ply").run()


def test_a_missing_run_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        command.Mesh(tmp_path / "config.yml", tmp_path / "mesh.ply").run()
