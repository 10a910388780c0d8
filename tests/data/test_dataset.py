# SPDX-License-Identifier: Apache-2.0
"""Pictures, masks and cameras stay in register through resizing and undistortion."""

from pathlib import Path
from typing import Any, Callable, Tuple

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from nts_plugins.data.dataset import SplatDataset
from nts_plugins.data.pictures import read_mask
from nts_plugins.errors import InputError
from tests.captures import load_meta, save_meta, write_capture

LENS = {"k1": -0.12, "k2": 0.03, "p1": 0.002, "p2": -0.003}


def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth picture on the plane z = 1: [..., 3] in [0, 1]."""
    return 0.5 + 0.5 * np.stack([np.sin(7 * x), np.cos(6 * y), np.sin(4 * x + 5 * y)], axis=-1)


def pixel_centres(width: int, height: int) -> Tuple[np.ndarray, np.ndarray]:
    return np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)


def distorted_photograph(meta: dict) -> np.ndarray:
    """What a camera with this lens records of the pattern: OpenCV's lens model, inverted by fixed-point iteration."""
    columns, rows = pixel_centres(meta["w"], meta["h"])
    bent_x, bent_y = (columns - meta["cx"]) / meta["fl_x"], (rows - meta["cy"]) / meta["fl_y"]
    k1, k2, p1, p2, k3 = (meta.get(name, 0.0) for name in ("k1", "k2", "p1", "p2", "k3"))
    x, y = bent_x, bent_y
    for _ in range(100):
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        shift_x, shift_y = 2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        x, y = (bent_x - shift_x) / radial, (bent_y - shift_y) / radial
    return pattern(x, y)


def pinhole_photograph(camera: Any) -> np.ndarray:
    """What a nerfstudio pinhole camera records of the pattern."""
    columns, rows = pixel_centres(int(camera.width), int(camera.height))
    return pattern((columns - float(camera.cx)) / float(camera.fx), (rows - float(camera.cy)) / float(camera.fy))


def dataset(folder: Path, scale_factor: float = 1.0, make: Callable[..., SplatDataset] = SplatDataset) -> SplatDataset:
    parser = NerfstudioDataParserConfig(data=folder).setup()
    return make(parser.get_dataparser_outputs(split="train"), scale_factor)


@pytest.fixture
def pattern_capture(tmp_path: Path) -> Path:
    """The tiny capture with its pictures replaced by distorted views of the pattern, and masks of its bright part."""
    folder = write_capture(tmp_path / "capture", views=4, size=(160, 121))
    meta = load_meta(folder)
    meta.update(LENS, cx=84.0, cy=57.0)
    picture = distorted_photograph(meta)
    (folder / "masks").mkdir()
    for frame in meta["frames"]:
        Image.fromarray((picture * 255 + 0.5).astype(np.uint8)).save(folder / frame["file_path"])
        frame["mask_path"] = frame["file_path"].replace("images", "masks")
        Image.fromarray(((picture[..., 0] > 0.5) * 255).astype(np.uint8)).save(folder / frame["mask_path"])
    save_meta(folder, meta)
    return folder


@pytest.mark.parametrize("scale_factor", [1.0, 0.5, 0.37])
def test_undistorted_pictures_are_what_their_cameras_see(pattern_capture: Path, scale_factor: float) -> None:
    data = dataset(pattern_capture, scale_factor)
    camera = data.cameras[0]
    batch = data.get_data(0, image_type="float32")
    expected = pinhole_photograph(camera)
    assert batch["image"].shape == expected.shape
    assert data.cameras.distortion_params is None
    error = np.abs(batch["image"].numpy() - expected)
    assert error.mean() < 0.004 / scale_factor and error.max() < 0.03 / scale_factor
    wrong = (batch["mask"][..., 0].numpy() != (expected[..., 0] > 0.5)).mean()
    assert batch["mask"].dtype == torch.bool and wrong < 0.03 / scale_factor


def test_maps_made_from_the_files_are_brought_into_register(pattern_capture: Path) -> None:
    """A map of any size over the whole file follows the same resizing, undistortion and crop as the picture."""
    data = dataset(pattern_capture, 0.5)
    meta = load_meta(pattern_capture)
    values = distorted_photograph(meta).astype(np.float32)
    expected = pinhole_photograph(data.cameras[0])
    np.testing.assert_allclose(data.align(0, values), expected, atol=0.03)
    coarse = values[::2, ::2]
    assert np.abs(data.align(0, coarse) - expected).mean() < 0.05
    labels = (values[..., 0] * 4).astype(np.int32)
    aligned = data.align(0, labels, labels=True)
    assert set(np.unique(aligned)) <= set(np.unique(labels))
    assert (aligned != (expected[..., 0] * 4).astype(np.int32)).mean() < 0.08


@pytest.mark.parametrize("factor", [3, 1 / 3])
def test_nearest_values_are_those_of_pixels_centres(tmp_path: Path, factor: float) -> None:
    """A map that is larger or smaller by an odd factor: no value may come from half a pixel beside."""
    data = dataset(write_capture(tmp_path / "capture"))
    width, height = data.file_size(0)
    columns, rows = np.meshgrid(np.arange(round(factor * width)), np.arange(round(factor * height)))
    aligned = data.align(0, np.stack([columns, rows], axis=-1).astype(np.float32), labels=True)
    own = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    assert aligned.shape == own.shape
    # The centre of a pixel of the picture, in the map's own pixels.
    np.testing.assert_allclose(aligned, np.clip(np.floor(factor * (own + 0.5)), 0, aligned.max(axis=(0, 1))))


def test_without_distortion_the_picture_is_the_file(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture")
    data = dataset(folder)
    stored = np.asarray(Image.open(data.image_filenames[1]))
    np.testing.assert_array_equal(data.get_data(1, image_type="uint8")["image"].numpy(), stored)
    camera, meta = data.cameras[1], load_meta(folder)
    assert float(camera.fx) == pytest.approx(meta["fl_x"]) and float(camera.cy) == pytest.approx(meta["cy"])


def test_half_size_averages_pixels_and_halves_intrinsics(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture")
    full, half = dataset(folder), dataset(folder, 0.5)
    picture = full.get_data(0)["image"]
    mean = picture.reshape(18, 2, 24, 2, 3).mean(dim=(1, 3))
    torch.testing.assert_close(half.get_data(0)["image"], mean, atol=0.5 / 255 + 1e-6, rtol=0)
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        assert float(getattr(half.cameras[0], name)) == float(getattr(full.cameras[0], name)) / 2


def test_odd_sizes_scale_intrinsics_by_the_size_that_results(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture", size=(51, 37))
    camera, meta = dataset(folder, 0.5).cameras[0], load_meta(folder)
    assert (int(camera.width), int(camera.height)) == (25, 18)
    assert float(camera.fx) == pytest.approx(meta["fl_x"] * 25 / 51)
    assert float(camera.fy) == pytest.approx(meta["fl_y"] * 18 / 37)
    assert float(camera.cx) == pytest.approx(12.5)


def test_pictures_may_differ_in_size(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture")
    meta = load_meta(folder)
    shared = {name: meta.pop(name) for name in ("fl_x", "fl_y", "cx", "cy", "w", "h")}
    for index, frame in enumerate(meta["frames"]):
        frame.update(shared)
        if index % 2:
            frame.update(w=36, h=48, cx=18.0, cy=24.0)
            path = folder / frame["file_path"]
            Image.open(path).rotate(90, expand=True).save(path)
    save_meta(folder, meta)
    data = dataset(folder)
    shapes = {tuple(data.get_data(index)["image"].shape) for index in range(len(data))}
    assert shapes == {(36, 48, 3), (48, 36, 3)}
    for index in range(len(data)):
        camera, image = data.cameras[index], data.get_data(index)["image"]
        assert (int(camera.height), int(camera.width)) == tuple(image.shape[:2])


def test_invisible_colour_does_not_bleed_into_shrunk_pictures(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture")
    meta = load_meta(folder)
    rgba = np.zeros((36, 48, 4), np.uint8)
    rgba[..., 1] = 255  # transparent green
    rgba[:, :24] = (255, 0, 0, 255)  # beside opaque red, with the border inside a shrunk pixel
    rgba[:, 24] = (255, 0, 0, 255)
    for frame in meta["frames"]:
        Image.fromarray(rgba).save(folder / frame["file_path"])
    image = dataset(folder, 0.5).get_data(0)["image"]
    assert image.shape == (18, 24, 4)
    torch.testing.assert_close(image[0, 12], torch.tensor([1.0, 0.0, 0.0, 0.5]), atol=0.01, rtol=0)


def test_invisible_colour_does_not_bleed_into_undistorted_pictures(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture")
    meta = load_meta(folder)
    rgba = np.zeros((36, 48, 4), np.uint8)
    rgba[..., 1] = 255  # transparent green
    rgba[:, :13] = (255, 0, 0, 255)  # beside opaque red, with the border where the lens bends it
    for frame in meta["frames"]:
        Image.fromarray(rgba).save(folder / frame["file_path"])
    save_meta(folder, {**meta, "k1": -0.1})
    image = dataset(folder).get_data(0)["image"]
    visible = image[image[..., 3] > 0.1]
    assert (visible[:, 3] < 0.9).any(), "some pixels mix both"
    assert visible[:, 0].min() > 0.98 and visible[:, 1].max() < 0.02


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_masks_are_read_without_their_alpha(tmp_path: Path, mode: str) -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[:, :2] = 255
    Image.fromarray(mask).convert(mode).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask > 0)


def test_alpha_is_kept_for_the_model_to_put_a_colour_behind(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture")
    for frame in load_meta(folder)["frames"]:
        Image.fromarray(np.full((36, 48, 4), (255, 0, 0, 0), np.uint8)).save(folder / frame["file_path"])
    outputs = NerfstudioDataParserConfig(data=folder).setup().get_dataparser_outputs(split="train")
    outputs.alpha_color = torch.ones(3)
    data = SplatDataset(outputs)
    assert data.get_data(0, image_type="uint8")["image"][0, 0].tolist() == [255, 0, 0, 0]
    assert data.get_data(0, image_type="float32")["image"][0, 0].tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "I;16", "1", "RGBA"])
def test_every_common_kind_of_file_is_read(tmp_path: Path, mode: str) -> None:
    folder = write_capture(tmp_path / "capture")
    meta = load_meta(folder)
    for frame in meta["frames"]:
        path = folder / frame["file_path"]
        image = Image.open(path)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        name = frame["file_path"].replace(".png", ".tif" if mode == "CMYK" else ".png")
        image.save(folder / name)
        frame["file_path"] = name
    for key in ("train_filenames", "val_filenames", "test_filenames"):
        meta[key] = [name.replace(".png", ".tif" if mode == "CMYK" else ".png") for name in meta[key]]
    save_meta(folder, meta)
    image = dataset(folder).get_data(0, image_type="uint8")["image"]
    assert image.dtype == torch.uint8
    assert image.shape == (36, 48, 4 if mode in ("LA", "RGBA") else 3)
    assert image[..., :3].float().std() > 1


def test_a_lens_that_cannot_be_undone_is_reported(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture")
    save_meta(folder, {**load_meta(folder), "k4": 0.1, "k1": 0.1})
    with pytest.raises(InputError, match="k4=0.1 is not part of"):
        dataset(folder)
