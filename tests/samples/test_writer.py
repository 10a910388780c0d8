# SPDX-License-Identifier: Apache-2.0
"""What is on the disk: readable by nerfstudio, the same twice, and whole or not there."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from nts_plugins import compat
from nts_plugins.files import whole as folder_module
from nts_plugins.samples import SampleConfig, SampleError, Tracer, build_gallery, walk, write_sample
from nts_plugins.samples import writer as writer_module
from nts_plugins.samples.photographs import PHOTOGRAPHS, PhotographMissing, load_photograph

TINY = SampleConfig(views=10, test_every=4, width=64, height=48, samples=1)
DYNAMIC = SampleConfig(views=5, test_every=4, width=40, height=30, samples=1, dynamic=True, seed=5)


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "gallery"
    assert write_sample(folder, TINY) is True
    return folder


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "dynamic"
    write_sample(folder, DYNAMIC)
    return folder


@pytest.fixture
def without_pictures(monkeypatch):
    """Write the small files only, where a test is about folders and not about pictures."""

    def write(work, config, threads, tell):
        (work / "images").mkdir()
        (work / "images" / "frame_00001.png").write_bytes(b"picture")
        digest = writer_module._digest(work / "images" / "frame_00001.png")
        manifest = {"generator": "nts sample gallery", "version": writer_module.VERSION, "options": config.to_json()}
        manifest["sha256"] = {"images/frame_00001.png": digest}
        (work / "sample.json").write_text(json.dumps(manifest))

    monkeypatch.setattr(writer_module, "_write", write)
    return write


def read(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return pixels[..., ::-1] if pixels.ndim == 3 else pixels


def hidden(parent: Path) -> "list[Path]":
    return [path for path in parent.iterdir() if path.name.startswith(".")]


def test_files_hold_what_the_tracer_says(sample):
    tracer, camera = Tracer(build_gallery(TINY), texel=1.0), walk(TINY)[3]
    depth, normals, ids = tracer.geometry(camera)
    name = writer_module.frame_name(3)
    np.testing.assert_allclose(read(sample / "depths" / name) * 1e-3, depth, atol=0.0005 + 1e-9)
    np.testing.assert_allclose(read(sample / "normals" / name) / 32767.5 - 1.0, normals, atol=2e-5)
    np.testing.assert_array_equal(read(sample / "instances" / name), ids)
    picture = read(sample / "images" / name)
    assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8
    names = json.loads((sample / "instances.json").read_text())
    assert {names[str(number)]["name"] for number in np.unique(ids)} <= {i.name for i in tracer.scene.instances}


@pytest.mark.parametrize("which", ["sample", "dynamic"])
def test_nerfstudio_reads_it_with_its_own_defaults(request, which):
    """Images, split, cameras and seed points, after nerfstudio has turned, moved and scaled the world."""
    import torch
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    folder, config = request.getfixturevalue(which), TINY if which == "sample" else DYNAMIC
    parser = NerfstudioDataParserConfig(data=folder, load_3D_points=True).setup()
    held_out = [view for view in range(config.views) if config.is_test(view)]
    with compat.point_clouds_without_open3d():
        outputs = {split: parser.get_dataparser_outputs(split=split) for split in ("train", "val", "test")}
    assert len(outputs["train"].image_filenames) == config.views - len(held_out)
    for split in ("val", "test"):
        names = [path.name for path in outputs[split].image_filenames]
        assert names == [writer_module.frame_name(view) for view in held_out]
    train = outputs["train"]
    assert train.mask_filenames is None
    assert train.metadata["depth_unit_scale_factor"] == 1e-3
    assert all(path.is_file() for path in train.metadata["depth_filenames"])
    if which == "dynamic":
        return
    points = train.metadata["points3D_xyz"]
    assert len(points) > 20 and train.metadata["points3D_rgb"].dtype == torch.uint8
    visible = 0
    for index, path in enumerate(train.image_filenames):
        matrix = torch.eye(4)
        matrix[:3] = train.cameras.camera_to_worlds[index]
        local = (torch.cat([points, torch.ones(len(points), 1)], 1) @ torch.linalg.inv(matrix).T)[:, :3]
        z = -local[:, 2]
        x = train.cameras.fx[index] * local[:, 0] / z + train.cameras.cx[index]
        y = -train.cameras.fy[index] * local[:, 1] / z + train.cameras.cy[index]
        inside = (z > 0) & (x >= 0) & (x < 64) & (y >= 0) & (y < 48)
        depth = torch.from_numpy(read(folder / "depths" / path.name) * 1e-3) * train.dataparser_scale
        there = depth[y[inside].long(), x[inside].long()]
        visible += int(((there - z[inside]).abs() < 0.15 * z[inside]).sum())
    assert visible > 3 * len(points) * 0.8


def test_dynamic_frames_have_times_and_things_have_motions(dynamic):
    frames = json.loads((dynamic / "transforms.json").read_text())["frames"]
    assert [frame["time"] for frame in frames] == [0.0, 0.25, 0.5, 0.75, 1.0]
    motions = json.loads((dynamic / "motions.json").read_text())
    names = json.loads((dynamic / "instances.json").read_text())
    moving = {names[number]["name"] for number in motions}
    assert moving == {"globe", "wooden crate", "balloon", "beach ball", "pendulum"}
    for poses in motions.values():
        assert np.shape(poses) == (5, 4, 4)
        np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-9)


def test_cameras_that_film_at_once_share_the_walk_and_not_the_places():
    one, two = (SampleConfig(views=6, test_every=0, dynamic=True, cameras=cameras) for cameras in (1, 2))
    assert [two.time(view) for view in range(6)] == [0.0, 0.5, 1.0, 0.0, 0.5, 1.0]
    places = [[camera.position for camera in walk(config)] for config in (one, two)]
    np.testing.assert_array_equal(*places)


def test_still_frames_have_no_time(sample):
    assert "time" not in json.loads((sample / "transforms.json").read_text())["frames"][0]
    assert not (sample / "motions.json").exists()


def test_manifest_names_options_sources_and_every_file(sample):
    manifest = json.loads((sample / "sample.json").read_text())
    assert manifest["options"] == TINY.to_json()
    assert {entry["licence"] for entry in manifest["photographs"].values()} <= {"CC0", "public domain"}
    written = {path.relative_to(sample).as_posix() for path in sample.rglob("*") if path.is_file()}
    assert set(manifest["sha256"]) == written - {"sample.json"}


def test_same_options_same_bytes_with_any_number_of_threads(sample, tmp_path):
    write_sample(tmp_path / "again", TINY, threads=3)
    names = sorted(path.relative_to(sample) for path in sample.rglob("*") if path.is_file())
    assert names == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    for name in names:
        assert (sample / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_sample_from_before_an_option_is_still_the_same(tmp_path):
    config = SampleConfig(views=2, test_every=0, width=16, height=12, samples=1)
    assert write_sample(tmp_path / "g", config) is True
    manifest = json.loads((tmp_path / "g" / "sample.json").read_text())
    del manifest["options"]["cameras"]
    (tmp_path / "g" / "sample.json").write_text(json.dumps(manifest))
    assert write_sample(tmp_path / "g", config) is False


def test_another_seed_makes_other_pictures(sample, dynamic):
    assert SampleConfig(seed=1).to_json() != SampleConfig(seed=2).to_json()
    still, other = walk(TINY)[0], walk(SampleConfig(views=10, width=64, height=48, seed=1))[0]
    assert np.abs(still.camera_to_world - other.camera_to_world).max() > 1e-3


def test_a_finished_sample_is_left_alone(sample):
    before = (sample / "sample.json").stat().st_mtime_ns
    assert write_sample(sample, TINY) is False
    assert (sample / "sample.json").stat().st_mtime_ns == before


def test_a_changed_sample_is_not_taken_for_finished(tmp_path, without_pictures):
    folder = tmp_path / "gallery"
    assert write_sample(folder, TINY) is True
    assert write_sample(folder, TINY) is False
    (folder / "images" / "frame_00001.png").write_bytes(b"changed")
    with pytest.raises(SampleError, match="--overwrite"):
        write_sample(folder, TINY)
    assert write_sample(folder, TINY, overwrite=True) is True
    assert (folder / "images" / "frame_00001.png").read_bytes() == b"picture"
    assert hidden(tmp_path) == []


def test_other_files_are_never_removed(tmp_path, without_pictures):
    (tmp_path / "precious.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(SampleError, match="other files"):
            write_sample(tmp_path, TINY, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_an_empty_folder_is_used_and_a_file_refused(tmp_path, without_pictures):
    (tmp_path / "empty").mkdir()
    assert write_sample(tmp_path / "empty", TINY) is True
    assert (tmp_path / "empty" / "sample.json").is_file() and hidden(tmp_path) == []
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below" / "gallery"):
        with pytest.raises(SampleError, match="file is a file"):
            write_sample(place, TINY)


def test_an_unwritable_place_is_one_clear_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(folder_module.tempfile, "mkdtemp", refuse)
    with pytest.raises(SampleError, match="Cannot write the sample to .*gallery: Permission denied"):
        write_sample(tmp_path / "gallery", TINY)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    calls = []

    def full(path, pixels):
        calls.append(path)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.write_bytes(b"")

    monkeypatch.setattr(writer_module, "_write_png", full)
    with pytest.raises(SampleError, match="No space left on device"):
        write_sample(tmp_path / "gallery", TINY)
    assert len(calls) > 6 and list(tmp_path.iterdir()) == []


def test_the_old_sample_survives_a_failed_replacement(tmp_path, without_pictures, monkeypatch):
    folder = tmp_path / "gallery"
    write_sample(folder, TINY)

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer_module, "_write", fail)
    with pytest.raises(SampleError):
        write_sample(folder, DYNAMIC, overwrite=True)
    assert (folder / "images" / "frame_00001.png").is_file() and hidden(tmp_path) == []


def test_a_killed_run_leaves_no_sample_and_the_next_one_cleans_up(tmp_path, without_pictures):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom nts_plugins.files.whole import whole_folder\n"
        "with whole_folder(Path(sys.argv[1])) as work:\n"
        "    (work / 'half').write_text('half')\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    target = tmp_path / "gallery"
    process = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() == "ready"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists() and len(hidden(tmp_path)) == 1
    write_sample(target, TINY)
    assert hidden(tmp_path) == [] and (target / "sample.json").is_file()


def test_what_may_belong_to_a_run_that_still_goes_is_kept(tmp_path, without_pictures, monkeypatch):
    target = tmp_path / "gallery"
    own = f".gallery.partial-{folder_module.machine()}-{os.getpid()}-abc"
    for name in (own, ".gallery.partial-elsewhere-1-abc", ".gallery.partial-abc"):
        (tmp_path / name).mkdir()
    write_sample(target, TINY)
    assert len(hidden(tmp_path)) == 3
    monkeypatch.setattr(folder_module, "STALE_SECONDS", -1.0)
    write_sample(target, TINY)
    assert [path.name for path in hidden(tmp_path)] == [own], "also where the sample is there already"


def test_files_among_those_of_a_sample_are_never_removed(tmp_path, without_pictures):
    target = tmp_path / "gallery"
    write_sample(target, TINY)
    (target / "outputs").mkdir()
    (target / "outputs" / "mine.ckpt").write_text("mine")
    with pytest.raises(SampleError, match="not the sample's, which are never removed: outputs/mine.ckpt"):
        write_sample(target, DYNAMIC, overwrite=True)
    assert (target / "outputs" / "mine.ckpt").read_text() == "mine"


def test_a_polite_kill_of_the_command_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", "from nts_plugins.cli.main import entrypoint; entrypoint()"]
    command += ["sample", "gallery", str(tmp_path / "gallery"), "--views", "500", "--size", "640x480"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not hidden(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in errors
    assert list(tmp_path.iterdir()) == []


def test_without_points_there_is_no_point_file(tmp_path):
    config = SampleConfig(views=2, test_every=0, width=16, height=12, samples=1, points=0)
    write_sample(tmp_path / "gallery", config)
    meta = json.loads((tmp_path / "gallery" / "transforms.json").read_text())
    assert "ply_file_path" not in meta and not (tmp_path / "gallery" / "points.ply").exists()
    assert meta["val_filenames"] == meta["train_filenames"]


def test_a_missing_photograph_is_named(monkeypatch, tmp_path):
    empty = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: empty)
    with pytest.raises(PhotographMissing, match="chelsea.png"):
        load_photograph("chelsea")


def test_only_free_photographs_are_used():
    """scikit-image says in each picture's docstring what may be done with it."""
    from skimage import data

    for name in PHOTOGRAPHS:
        text = " ".join((getattr(data, name).__doc__ or "").split())
        assert "CC0" in text or "public domain" in text, name
