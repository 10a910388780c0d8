# SPDX-License-Identifier: Apache-2.0
"""Latents of pictures: which they are, over which colour, at what size, and where none are needed."""

import shutil
from pathlib import Path
from typing import Any, List, Optional

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from torch import Tensor

from nts_plugins.data.latent_data import LatentDatamanager, LatentDatamanagerConfig, padded_picture
from nts_plugins.encoders.codecs import known
from nts_plugins.encoders.settings import CodecSettings
from nts_plugins.errors import InputError
from tests import runs
from tests.captures import write_capture, write_dnerf
from tests.encoders.small import BlockCodec

BLOCKS = "tests.encoders.small:block_codec"
CODEC = ["--pipeline.datamanager.codec.name", BLOCKS]


def manager(folder: Path, mode: str = "val", parser: Optional[DataParserConfig] = None, **settings: Any) -> Any:
    parser = parser or NerfstudioDataParserConfig(load_3D_points=True)
    parser.data = folder
    config = LatentDatamanagerConfig(data=folder, dataparser=parser, codec=CodecSettings(BLOCKS), **settings)
    return config.setup(device="cpu", test_mode=mode)


def pictures_of(data: LatentDatamanager) -> List[np.ndarray]:
    """Training pictures as their files hold them, in [0, 1]."""
    return [np.asarray(Image.open(path)) / np.float32(255) for path in data.train_dataset.image_filenames]


def encoded(picture: np.ndarray) -> Tensor:
    """[h, w, 4] latents of a picture [H, W, 3] that is made even by repeating its last row and column."""
    even = np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")
    return BlockCodec().encode(torch.from_numpy(even).permute(2, 0, 1)[None])[0].permute(1, 2, 0).detach()


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("data") / "capture", size=(49, 37))


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with alpha."""
    return write_dnerf(tmp_path_factory.mktemp("data") / "moving", views=3, size=(21, 17))


# ---- what is encoded


@pytest.mark.parametrize("size", [(24, 18), (25, 18), (24, 17), (49, 37)])
def test_latents_are_the_codecs_of_pictures_made_larger(tmp_path: Path, size: "tuple[int, int]") -> None:
    data = manager(write_capture(tmp_path / "capture", views=4, size=size))
    scene = data.train_dataset.metadata["latents"]
    rows, columns = (size[1] + 1) // 2, (size[0] + 1) // 2
    assert len(scene.maps) == len(scene.colors) == len(data.cached_train) == 3
    for batch, latents, colors, picture in zip(
        data.cached_train, scene.maps, scene.colors, pictures_of(data), strict=True
    ):
        assert latents.shape == (rows, columns, 4) and colors.shape == (rows, columns, 3)
        torch.testing.assert_close(latents, encoded(picture), atol=1e-6, rtol=0)
        torch.testing.assert_close(colors, encoded(picture)[..., :3], atol=1e-6, rtol=0)
        assert torch.equal(batch["latents"], latents) and not latents.requires_grad
        assert batch["image"].shape == (size[1], size[0], 3)


def test_each_training_batch_has_its_own_pictures_latents(capture: Path) -> None:
    data = manager(capture)
    pictures = pictures_of(data)
    seen = set()
    for step in range(len(pictures)):
        camera, batch = data.next_train(step)
        seen.add(camera.metadata["cam_idx"])
        wanted = encoded(pictures[camera.metadata["cam_idx"]])
        torch.testing.assert_close(batch["latents"], wanted, atol=1e-6, rtol=0)
    assert seen == set(range(len(pictures)))


@pytest.mark.parametrize("settings", [{"cache_images_type": "float32"}, {"cache_images": "cpu"}, {"train_views": 3}])
def test_latents_do_not_depend_on_how_pictures_are_kept(capture: Path, settings: "dict[str, Any]") -> None:
    data = manager(capture, **settings)
    for latents, picture in zip(data.train_dataset.metadata["latents"].maps, pictures_of(data), strict=True):
        torch.testing.assert_close(latents, encoded(picture), atol=1e-6, rtol=0)
    assert len(data.train_dataset) == settings.get("train_views", 6)


def test_smaller_pictures_have_smaller_latents(capture: Path) -> None:
    data = manager(capture, camera_res_scale_factor=0.5)
    for batch in data.cached_train:
        assert batch["image"].shape == (18, 24, 3)
        torch.testing.assert_close(batch["latents"], encoded(batch["image"].numpy() / np.float32(255)))


@pytest.mark.parametrize("name, color", [("white", 1.0), ("black", 0.0), (None, 0.0)])
def test_pictures_with_alpha_are_encoded_over_the_datas_colour(moving: Path, name: Optional[str], color: float) -> None:
    data = manager(moving, parser=BlenderDataParserConfig(alpha_color=name))
    scene = data.train_dataset.metadata["latents"]
    for batch, latents, picture in zip(data.cached_train, scene.maps, pictures_of(data), strict=True):
        alpha = picture[..., 3:]
        assert batch["image"].shape[-1] == 4 and 0.1 < alpha.mean() < 0.9
        over = picture[..., :3] * alpha + color * (1 - alpha)
        torch.testing.assert_close(latents, encoded(over), atol=1e-6, rtol=0)
        empty = encoded(np.repeat(alpha, 3, axis=-1))[..., 0] == 0
        assert empty.any()
        torch.testing.assert_close(latents[empty][:, :3], torch.full((int(empty.sum()), 3), color))


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_the_last_row_and_column_are_repeated(factor: int) -> None:
    picture = torch.rand(13, 17, 2)
    height, width = (-(-side // factor) * factor for side in (13, 17))
    padded = padded_picture(picture, factor)
    assert padded.shape == (1, 2, height, width)
    wanted = np.pad(picture.numpy(), ((0, height - 13), (0, width - 17), (0, 0)), mode="edge")
    assert torch.equal(padded[0].permute(1, 2, 0), torch.from_numpy(wanted))


# ---- what the model hears


@pytest.mark.parametrize("mode", ["val", "test", "inference"])
def test_the_number_of_training_numbers_is_that_of_latents(capture: Path, mode: str) -> None:
    assert manager(capture, mode).train_dataset.metadata["training_numbers"] == 4 * 19 * 25 * 6
    assert manager(capture, mode, train_views=2).train_dataset.metadata["training_numbers"] == 4 * 19 * 25 * 2


@pytest.mark.parametrize("mode", ["test", "inference"])
def test_who_does_not_train_needs_no_latents(capture: Path, mode: str) -> None:
    data = manager(capture, mode)
    scene = data.train_dataset.metadata["latents"]
    assert isinstance(scene.codec, BlockCodec) and scene.maps == () and scene.colors == ()
    assert "cached_train" not in vars(data)


def test_a_run_is_evaluated_without_latents_and_rendered_without_pictures(capture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "capture"
    shutil.copytree(capture, folder)
    run = runs.train("latent-radiance-field", folder, tmp_path / "outputs", 2, *CODEC)
    first = runs.load(run, "test")
    camera, batch = first.datamanager.fixed_indices_eval_dataloader[0]
    assert "latents" not in batch and "cached_train" not in vars(first.datamanager)
    shown = first.model.get_outputs_for_camera(camera)
    shutil.rmtree(folder / "images")
    second = runs.load(run, "inference")
    assert second.datamanager.train_dataset.metadata["latents"].maps == ()
    again = second.model.get_outputs_for_camera(camera)
    assert shown.keys() == again.keys() and all(torch.equal(shown[name], again[name]) for name in shown)


def test_an_unknown_codec_is_an_error_before_there_is_a_run(capture: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no codec 'nobody'.*{', '.join(known())}"):
        runs.trainer(
            "latent-radiance-field", capture, tmp_path / "o", 10, "--pipeline.datamanager.codec.name", "nobody"
        )
    assert not (tmp_path / "o").exists()


def test_weights_that_are_not_there_are_asked_for_by_their_option(capture: Path, tmp_path: Path) -> None:
    options = ["--pipeline.datamanager.codec.weights", str(tmp_path / "nothing")]
    with pytest.raises(InputError, match="taef2_encoder.pth"):
        runs.trainer("latent-radiance-field", capture, tmp_path / "o", 10, *options)
    assert not (tmp_path / "o").exists()
