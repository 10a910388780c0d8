# SPDX-License-Identifier: Apache-2.0
"""LERF-OVS and 3D-OVS as nerfstudio reads them, on small scenes with the same files."""

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Sequence

import numpy as np
import pytest
import torch
from nerfstudio.plugins.registry_dataparser import discover_dataparsers
from PIL import Image
from scipy.spatial.transform import Rotation

from nts_plugins.data.cameras import world_to_camera
from nts_plugins.data.dataset import SplatDataset
from nts_plugins.data.open_vocabulary_scenes import (
    LerfOvsDataParserConfig,
    ThreeDOvsDataParserConfig,
    read_llff,
)
from nts_plugins.errors import InputError
from tests.captures import ring_pose
from tests.data.test_labels import corner, outlined, write_lerf, write_segmentations

SIZE = 64, 48
BOX = 14, 12, 40, 30
"""Of the object in every picture, pixels of the file."""
NAMES = [f"frame_{number:05d}.png" for number in (1, 2, 5, 6)]
LABELLED = ["frame_00005", "frame_00002"]


def write_picture(path: Path) -> None:
    """White where the object is, black elsewhere."""
    values = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    values[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_scene(root: Path, name: str = "kitchen", ids: Sequence[int] = (1, 2, 3, 4), lens: str = "") -> Path:
    """Four pictures with a model of COLMAP and two labels; ``ids`` are COLMAP's numbers of the pictures."""
    scene = root / name
    model = scene / "sparse" / "0"
    model.mkdir(parents=True)
    width, height = SIZE
    kind = f"OPENCV {width} {height} 70 70 32 24 {lens}" if lens else f"PINHOLE {width} {height} 70 70 32 24"
    (model / "cameras.txt").write_text(f"1 {kind}\n")
    lines = []
    for place, (number, picture) in enumerate(zip(ids, NAMES, strict=True)):
        viewmat = world_to_camera(ring_pose(0.3 * place)[None, :3])[0].double().numpy()
        x, y, z, w = Rotation.from_matrix(viewmat[:3, :3]).as_quat()
        pose = " ".join(f"{value:.12g}" for value in (w, x, y, z, *viewmat[:3, 3]))
        lines.append((number, f"{number} {pose} 1 {picture}\n\n"))
        write_picture(scene / "images" / picture)
    (model / "images.txt").write_text("".join(line for _, line in sorted(lines)))
    (model / "points3D.txt").write_text("1 0 0 0 255 0 0 0.5 1 0\n2 0.5 0 0 0 255 0 0.5 1 0\n")
    for each in LABELLED:
        # People outlined it on a picture of half the size.
        half = [value / 2 for value in BOX]
        write_lerf(root / "label" / name, each, [outlined("cup", *half)], (width // 2, height // 2))
    return scene


def names(outputs: Any) -> List[str]:
    return [Path(path).stem for path in outputs.image_filenames]


def parse(scene: Path, split: str, **options: Any) -> Any:
    return LerfOvsDataParserConfig(data=scene, **options).setup().get_dataparser_outputs(split)


def test_labelled_pictures_are_held_out(tmp_path: Path) -> None:
    scene = write_scene(tmp_path)
    assert names(parse(scene, "train")) == ["frame_00001", "frame_00006"]
    for split in ("val", "test"):
        outputs = parse(scene, split)
        assert names(outputs) == sorted(LABELLED)
        labels = pickle.loads(pickle.dumps(outputs.metadata["labels"]))
        (cup,) = labels.of("frame_00002.png", SIZE)
        assert cup.boxes == (BOX,) and int(cup.mask.sum()) == (BOX[2] - BOX[0]) * (BOX[3] - BOX[1])
    train = parse(scene, "train")
    assert "labels" not in train.metadata and len(train.metadata["points3D_xyz"]) == 2


def test_published_programs_train_on_labelled_pictures_too(tmp_path: Path) -> None:
    scene = write_scene(tmp_path)
    assert names(parse(scene, "train", hold_out=False)) == [Path(name).stem for name in NAMES]
    assert names(parse(scene, "test", hold_out=False)) == sorted(LABELLED)


def test_the_order_of_frames_changes_nothing(tmp_path: Path) -> None:
    one, two = write_scene(tmp_path / "one"), write_scene(tmp_path / "two", ids=(4, 2, 1, 3))
    (two / "test_list.txt").write_text("nothing.png\n")
    for split in ("train", "test"):
        first, second = parse(one, split), parse(two, split)
        assert names(first) == names(second)
        torch.testing.assert_close(first.cameras.camera_to_worlds, second.cameras.camera_to_worlds)


def test_labels_of_a_scene_named_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write_scene(tmp_path)
    monkeypatch.chdir(scene)
    assert names(parse(Path("."), "test")) == sorted(LABELLED)
    (tmp_path / "label" / "kitchen").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"no folder of labels .*label/kitchen\. .*--labels"):
        parse(scene, "test")
    assert names(parse(scene, "test", labels=tmp_path / "elsewhere")) == sorted(LABELLED)


@pytest.mark.parametrize("lens", ["", "-0.25 0.05 0.002 -0.001"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_labels_are_in_register_with_pictures(tmp_path: Path, lens: str, scale: float) -> None:
    """Where the picture of the dataset is white, there the mask is, whatever has been done to the picture."""
    dataset = SplatDataset(parse(write_scene(tmp_path, lens=lens), "test"), scale)
    labels = dataset.metadata["labels"]
    for index in range(len(dataset)):
        assert dataset.is_undistorted(index) == bool(lens)
        (cup,) = labels.in_register(dataset, index)
        white = dataset.get_image_float32(index)[..., 0]
        assert cup.mask.shape == white.shape
        assert not white[~cup.mask].gt(0.9).any() and not white[cup.mask].lt(0.1).any()
        ((x1, y1, x2, y2),) = cup.boxes
        rows, columns = cup.mask.nonzero().T
        assert (y1, x1, y2, x2) == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        assert lens or (x1, y1, x2, y2) == tuple(scale * value for value in BOX)


def test_pictures_without_labels_have_none(tmp_path: Path) -> None:
    scene = write_scene(tmp_path)
    labels = parse(scene, "test").metadata["labels"]
    assert labels.in_register(SplatDataset(parse(scene, "train")), 0) is None


def test_what_is_missing_in_a_scene_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder .*nowhere"):
        parse(tmp_path / "nowhere", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no COLMAP model .*sparse/0.* --colmap-path"):
        parse(tmp_path / "empty", "train")
    scene = write_scene(tmp_path)
    write_lerf(tmp_path / "label" / "kitchen", "frame_00003", [])
    with pytest.raises(InputError, match=r"frame_00003\.json labels the picture frame_00003, of which .* no camera"):
        parse(scene, "train")
    (tmp_path / "label" / "kitchen" / "frame_00003.json").unlink()
    for number in (1, 6):
        write_lerf(tmp_path / "label" / "kitchen", f"frame_0000{number}", [])
    with pytest.raises(InputError, match="none is left to train on.*--hold-out False"):
        parse(scene, "train")
    (scene / "sparse" / "0" / "points3D.txt").unlink()
    with pytest.raises(InputError, match="kitchen cannot be used: Could not find points3D"):
        parse(scene, "test")


def write_llff(folder: Path, count: int = 3, shrunk: int = 1) -> Path:
    """Pictures of 3D-OVS: LLFF's poses are of the full size, the files may be smaller."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for view in range(count):
        pose = ring_pose(0.4 * view).numpy().astype(np.float64)
        right, up, backward, place = pose[:3].T
        lens = [SIZE[1], SIZE[0], 70.0]
        rows.append([*np.stack([-up, right, backward, place, lens], axis=1).flatten(), 1.5, 6.0])
        size = SIZE[0] // shrunk, SIZE[1] // shrunk
        Image.new("RGB", size, (40 * view, 0, 0)).save(folder / "images" / f"{view:02d}.png")
    np.save(folder / "poses_bounds.npy", np.array(rows))
    write_segmentations(folder / "segmentations", {"1": {"cup": corner(48, 64)}}, ["cup", "pan"])
    return folder


def parse_llff(scene: Path, split: str, **options: Any) -> Any:
    return ThreeDOvsDataParserConfig(data=scene, **options).setup().get_dataparser_outputs(split)


def test_axes_of_llff_by_hand(tmp_path: Path) -> None:
    """A camera at (1, 2, 3) that looks along -z, its top towards +y: down is -y, right +x, backward +z."""
    matrix = np.array([[0, 1, 0, 1, 480], [-1, 0, 0, 2, 640], [0, 0, 1, 3, 500]], float)
    np.save(tmp_path / "poses_bounds.npy", np.array([[*matrix.flatten(), 0.5, 9.0]]))
    llff = read_llff(tmp_path / "poses_bounds.npy")
    wanted = np.eye(4)
    wanted[:3, 3] = 1, 2, 3
    np.testing.assert_allclose(llff.poses, wanted[None])
    assert llff.sizes.tolist() == [[640, 480]] and llff.focal.tolist() == [500] and llff.bounds.tolist() == [[0.5, 9]]


def test_a_scene_of_3d_ovs(tmp_path: Path) -> None:
    scene = write_llff(tmp_path / "bed")
    options = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}
    train, test = parse_llff(scene, "train", **options), parse_llff(scene, "test", **options)
    assert names(train) == ["00", "02"] and names(test) == ["01"]
    assert names(parse_llff(scene, "train", hold_out=False)) == ["00", "01", "02"]
    torch.testing.assert_close(test.cameras.camera_to_worlds[0], ring_pose(0.4)[:3])
    assert "points3D_xyz" not in train.metadata and "labels" not in train.metadata
    dataset = SplatDataset(test, 0.5)
    assert dataset.cameras.get_intrinsics_matrices()[0].tolist() == [[35, 0, 16], [0, 35, 12], [0, 0, 1]]
    (cup,) = dataset.metadata["labels"].in_register(dataset, 0)
    assert cup.category == "cup" and cup.boxes == () and np.array_equal(cup.mask, corner(24, 32))
    scaled = parse_llff(scene, "train", hold_out=False)
    assert float(scaled.cameras.camera_to_worlds[:, :, 3].abs().max()) == pytest.approx(1.0)
    assert scaled.dataparser_transform.shape == (3, 4) and math.isfinite(scaled.dataparser_scale)


def test_lenses_follow_the_size_of_the_files(tmp_path: Path) -> None:
    outputs = parse_llff(write_llff(tmp_path / "bed", shrunk=2), "test")
    assert outputs.cameras.get_intrinsics_matrices()[0].tolist() == [[35, 0, 16], [0, 35, 12], [0, 0, 1]]
    assert (int(outputs.cameras.width[0]), int(outputs.cameras.height[0])) == (32, 24)


def test_what_is_wrong_with_a_scene_of_3d_ovs(tmp_path: Path) -> None:
    scene = write_llff(tmp_path / "bed")

    def fails(message: str) -> None:
        with pytest.raises(InputError, match=message):
            parse_llff(scene, "train")

    good = np.load(scene / "poses_bounds.npy")
    Image.new("RGB", (SIZE[1], SIZE[0])).save(scene / "images" / "02.png")
    fails("02.png is 48x64 pixels, but its pose is one of 64x48")
    for values, message in (
        (good[:2], "has 2 poses, and .*images has 3 pictures"),
        (good[:, :16], "should hold 17 finite numbers"),
        (np.where(np.arange(17) == 3, np.nan, good), "should hold 17 finite numbers"),
        (good * np.where(np.arange(17) % 5 == 0, -1, 1), "Pose 0 .* is not a rotation"),
        (np.where(np.arange(17) == 14, 0, good), "focal lengths above zero"),
    ):
        np.save(scene / "poses_bounds.npy", values)
        fails(message)
    (scene / "poses_bounds.npy").write_bytes(b"nothing")
    fails("damaged")
    (scene / "poses_bounds.npy").unlink()
    fails("no file .*poses_bounds.npy")
    np.save(scene / "poses_bounds.npy", good)
    (scene / "segmentations").rename(scene / "masks")
    fails("no folder of masks .*--labels")
    (scene / "images").rename(scene / "photographs")
    fails("no pictures .*--images-path")


SPECIFICATIONS = ",".join(
    f"{name}=nts_plugins.data.open_vocabulary_scenes:{attribute}"
    for name, attribute in (("lerf-ovs-data", "lerf_ovs"), ("3d-ovs-data", "three_d_ovs"))
)


def test_nerfstudio_finds_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NERFSTUDIO_DATAPARSER_CONFIGS", SPECIFICATIONS)
    found, descriptions = discover_dataparsers()
    assert type(found["lerf-ovs-data"]) is LerfOvsDataParserConfig and "LERF-OVS" in descriptions["lerf-ovs-data"]
    assert type(found["3d-ovs-data"]) is ThreeDOvsDataParserConfig and "3D-OVS" in descriptions["3d-ovs-data"]


def test_nerfstudio_may_import_the_dataparsers_before_its_own_list_of_them() -> None:
    """And they ask for nothing that needs that list, nor for what takes long to import."""
    code = """
import sys
import nts_plugins.data.open_vocabulary_scenes
early = {"nerfstudio.configs.dataparser_configs", "skimage", "numba"} & set(sys.modules)
from nerfstudio.configs.dataparser_configs import all_dataparsers
print(early, "lerf-ovs-data" in all_dataparsers, "3d-ovs-data" in all_dataparsers)
"""
    environment = {**os.environ, "NERFSTUDIO_DATAPARSER_CONFIGS": SPECIFICATIONS}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set() True True"
