# SPDX-License-Identifier: Apache-2.0
"""Times of pictures, from every format that has them, to the camera that the model gets."""

from pathlib import Path
from typing import Any, List

import pytest
import torch
from nerfstudio.data.dataparsers.dnerf_dataparser import DNeRFDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from nts_plugins.data.datamanager import SplatDatamanagerConfig
from nts_plugins.errors import InputError
from tests.captures import load_meta, save_meta, write_capture, write_dnerf


def manager(folder: Path, parser: Any = None) -> Any:
    parser = parser or NerfstudioDataParserConfig(load_3D_points=True)
    return SplatDatamanagerConfig(data=folder, dataparser=parser).setup(device="cpu", test_mode="val")


def with_frame_times(folder: Path, times: List[Any]) -> Path:
    meta = load_meta(folder)
    for frame, time in zip(meta["frames"], times, strict=True):
        frame.pop("time", None)
        frame.update({} if time is None else {"time": time})
    save_meta(folder, meta)
    return folder


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "capture", size=(24, 18), moving=True)


def test_every_camera_knows_its_time(capture: Path) -> None:
    data = manager(capture)
    assert data.includes_time and data.train_dataset.metadata["moments"] == 6
    for step in range(6):
        camera, batch = data.next_train(step)
        name = data.train_dataset.image_filenames[batch["image_idx"]].stem
        assert camera.times.shape == (1, 1) and float(camera.times) == pytest.approx(int(name) / 7)
    assert [float(camera.times) for camera, _ in data.fixed_indices_eval_dataloader] == pytest.approx([3 / 7, 1.0])


def test_captures_without_times_have_none(tmp_path: Path) -> None:
    data = manager(write_capture(tmp_path / "capture", size=(24, 18)))
    assert not data.includes_time and data.train_dataset.cameras.times is None
    assert data.train_dataset.metadata["moments"] == 0


def test_frame_numbers_are_rescaled_over_all_frames(capture: Path) -> None:
    data = manager(with_frame_times(capture, [10, 20, 30, 40, 50, 60, 70, 90]))
    assert data.train_dataset.cameras.times.reshape(-1).tolist() == pytest.approx([0, 0.125, 0.25, 0.5, 0.625, 0.75])
    assert data.eval_dataset.cameras.times.reshape(-1).tolist() == pytest.approx([0.375, 1.0])


def test_times_within_0_and_1_stay(capture: Path) -> None:
    data = manager(with_frame_times(capture, [0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.6, 0.7]))
    assert data.train_dataset.cameras.times.reshape(-1).tolist() == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.5, 0.6])


def test_smaller_pictures_keep_their_times(capture: Path) -> None:
    (capture / "images_2").mkdir()
    for path in (capture / "images").iterdir():
        Image.open(path).resize((12, 9)).save(capture / "images_2" / path.name)
    data = manager(capture, NerfstudioDataParserConfig(load_3D_points=True, downscale_factor=2))
    assert data.train_dataset.cameras.times.reshape(-1).tolist() == pytest.approx(
        [0, 1 / 7, 2 / 7, 4 / 7, 5 / 7, 6 / 7]
    )


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 1, 2, None, 4, None, 6, 7], "others without: images/003.png and 1 more"),
        ([0, 1, 2, "noon", 4, 5, 6, 7], "'time' of images/003.png .* is 'noon'"),
        ([0, 1, 2, float("nan"), 4, 5, 6, 7], "finite"),
        ([0, 1, 2, True, 4, 5, 6, 7], "True"),
    ],
)
def test_wrong_times_are_named(capture: Path, times: List[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        manager(with_frame_times(capture, times))


def test_the_format_of_dnerf(tmp_path: Path) -> None:
    data = manager(write_dnerf(tmp_path / "scene", views=3), DNeRFDataParserConfig())
    assert data.includes_time and data.train_dataset.cameras.times.reshape(-1).tolist() == [0.0, 0.5, 1.0]
    camera, batch = data.next_train(0)
    assert batch["image"].shape == (36, 48, 4) and camera.times.shape == (1, 1)
    assert data.train_dataset.metadata["has_alpha"] and torch.isfinite(camera.camera_to_worlds).all()


def test_a_dataparsers_times_must_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"r_001.png is 8; it must lie in \[0, 1\]"):
        manager(write_dnerf(tmp_path / "scene", last=40.0), DNeRFDataParserConfig())
