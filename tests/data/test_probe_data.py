# SPDX-License-Identifier: Apache-2.0
"""What a probe knows of a scene: places and features of pixels, what both a test view and training views see, and what
is refused."""

import shutil
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from torch import Tensor

from nts_plugins.data.cameras import view_of
from nts_plugins.data.probe_data import ProbeDatamanagerConfig, ProbeScene
from nts_plugins.encoders import dense
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.errors import InputError
from nts_plugins.probe.features import at_pixels, projected
from tests.captures import load_meta, save_meta, write_capture, write_depth

SIZE = (48, 36)


class Blocks:
    """Means of squares of four pixels, with two channels that only say where they are."""

    width = 5

    def __init__(self, name: str) -> None:
        self.name = name

    def encode_map(self, picture: Tensor) -> Tensor:
        rows, columns = picture.shape[0] // 4, picture.shape[1] // 4
        means = picture[: 4 * rows, : 4 * columns].reshape(rows, 4, columns, 4, 3).mean(dim=(1, 3))
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        return torch.cat([means, (x / columns)[..., None], (y / rows)[..., None]], dim=-1)


def blocks(settings: DenseSettings, device: torch.device, option: str) -> Blocks:
    """Loader, by its name."""
    if settings.weights is not None and not settings.weights.exists():
        raise InputError(f"{option}: {settings.weights} is not there.")
    return Blocks(f"{settings.space} {settings.weights}")


BLOCKS = f"{__name__}:blocks"


def manager(folder: Path, mode: str = "val", features: str = "iuvrgb", **settings: Any) -> Any:
    parser = NerfstudioDataParserConfig(data=folder, load_3D_points=True)
    weights = settings.pop("weights", None)
    config = ProbeDatamanagerConfig(
        data=folder, dataparser=parser, features=DenseSettings(features, weights), **settings
    )
    return config.setup(device="cpu", test_mode=mode)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training views and two others, with depth."""
    folder = write_capture(tmp_path_factory.mktemp("data") / "capture", size=SIZE)
    write_depth(folder)
    return folder


def scene_of(data: Any) -> ProbeScene:
    return data.train_dataset.metadata["probe"]


def pictures_of(data: Any) -> List[Tensor]:
    return [torch.from_numpy(np.array(Image.open(path))) / 255 for path in data.train_dataset.image_filenames]


# ---- places


@pytest.mark.parametrize("stride", [1, 3])
def test_every_pixel_of_known_depth_has_a_splat_where_it_looks(capture: Path, stride: int) -> None:
    data = manager(capture, stride=stride)
    points, unit = scene_of(data).points, scene_of(data).unit
    assert points is not None and points.colors is not None
    files = [np.load(path) / 1000 for path in data.train_dataset.metadata["depth_filenames"]]
    # Known, and in the middle of its square.
    expected = sum(int((depth[stride // 2 :: stride, stride // 2 :: stride] > 0).sum()) for depth in files)
    assert len(points) == expected > 50
    for number, (depth, picture) in enumerate(zip(files, pictures_of(data), strict=True)):
        own = points.views == number
        columns, rows = points.pixels[own].floor().long().unbind(dim=1)
        assert torch.equal(points.pixels[own] % 1, torch.full((int(own.sum()), 2), 0.5))
        torch.testing.assert_close(points.colors[own], picture[rows, columns])
        camera = data.train_dataset.cameras[number : number + 1]
        view = view_of(camera, camera.camera_to_worlds)
        local = points.positions[own] @ view.viewmats[0, :3, :3].T + view.viewmats[0, :3, 3]
        wanted = torch.from_numpy(depth)[rows, columns] * unit
        torch.testing.assert_close(local[:, 2], wanted, atol=1e-4, rtol=1e-4)
        at = local @ view.Ks[0].T
        torch.testing.assert_close(at[:, :2] / at[:, 2:], points.pixels[own], atol=1e-2, rtol=0)


def test_hidden_pixels_have_none(capture: Path, tmp_path: Path) -> None:
    masked = tmp_path / "masked"
    shutil.copytree(capture, masked)
    left = np.zeros(SIZE[::-1], np.uint8)
    left[:, : SIZE[0] // 2] = 255
    Image.fromarray(left).save(masked / "mask.png")
    meta = load_meta(masked)
    save_meta(masked, {**meta, "frames": [{**frame, "mask_path": "mask.png"} for frame in meta["frames"]]})
    points = scene_of(manager(masked)).points
    assert points is not None and len(points) > 50 and float(points.pixels[:, 0].max()) < SIZE[0] / 2


def test_splats_lie_between_seed_points_where_there_is_no_depth(tmp_path: Path) -> None:
    data = manager(write_capture(tmp_path / "capture", size=SIZE), stride=2)
    points = scene_of(data).points
    assert points is not None and len(points) == 6 * (SIZE[0] // 2) * (SIZE[1] // 2)
    assert scene_of(data).truth() is None
    some = scene_of(manager(tmp_path / "capture", stride=2, least_confidence=0.5)).points
    assert some is not None and len(some) == pytest.approx(len(points) / 2, rel=0.1)


# ---- features


def test_features_are_the_joint_components_of_maps_at_the_pixels(capture: Path) -> None:
    data = manager(capture, features=BLOCKS, dimensions=3)
    points = scene_of(data).points
    assert points is not None and points.features is not None and points.features.shape == (len(points), 3)
    maps = projected([Blocks("some").encode_map(picture) for picture in pictures_of(data)], 3)
    for number, each in enumerate(maps):
        own = points.views == number
        torch.testing.assert_close(points.features[own], at_pixels(each, points.pixels[own], SIZE[::-1]))
    assert not points.control
    scaled = scene_of(manager(capture, features=BLOCKS, dimensions=3, unit_scale=True)).points
    ratio = scaled.features / points.features  # type: ignore[union-attr, operator]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-3, atol=0)


def test_controls_are_alone_or_beside_a_model(capture: Path) -> None:
    alone = scene_of(manager(capture, features="iuv")).points
    assert alone is not None and alone.features.shape[1] == 3 and alone.control  # type: ignore[union-attr]
    assert sorted(set(alone.features[:, 0].tolist())) == pytest.approx([-1, -0.6, -0.2, 0.2, 0.6, 1])  # type: ignore
    beside = scene_of(manager(capture, features=f"{BLOCKS}+iuvrgb", dimensions=4)).points
    assert beside is not None and beside.features.shape[1] == 4 and not beside.control  # type: ignore[union-attr]
    none = scene_of(manager(capture, features="none")).points
    assert none is not None and none.features.shape[1] == 0  # type: ignore[union-attr]


def test_several_models_have_weights_named_after_them(capture: Path, tmp_path: Path) -> None:
    seen: List[Tuple[str, Any]] = []

    def loader(settings: DenseSettings, device: torch.device, option: str) -> Blocks:
        seen.append((settings.name, settings.weights))
        return blocks(settings, device, option)

    for name in ("first_of_tests", "second_of_tests"):
        dense.register(name, loader)
    try:
        (tmp_path / "first_of_tests.pth").touch()
        (tmp_path / "first_of_tests+.pth").touch()
        (tmp_path / "second_of_tests").mkdir()
        both = "first_of_tests+second_of_tests"
        points = scene_of(manager(capture, features=both, dimensions=6, weights=tmp_path)).points
        assert points is not None and points.features.shape[1] == 6  # type: ignore[union-attr]
        expected = [("first_of_tests", "first_of_tests.pth"), ("second_of_tests", "second_of_tests")]
        assert seen == [(name, tmp_path / file) for name, file in expected]
        seen.clear()
        tuned = ["first_of_tests+", "first_of_tests++first_of_tests"]
        for features in tuned:
            manager(capture, features=features, dimensions=6, weights=tmp_path)
        expected = ["first_of_tests+.pth", "first_of_tests+.pth", "first_of_tests.pth"]
        assert seen == [("first_of_tests", tmp_path / file) for file in expected]
        (tmp_path / "first_of_tests.pth").unlink()
        with pytest.raises(InputError, match="named first_of_tests, after the model"):
            manager(capture, features=both, weights=tmp_path)
    finally:
        for name in ("first_of_tests", "second_of_tests"):
            del dense._OWN[name]


def test_many_features_take_half_the_room_and_controls_do_not(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = scene_of(manager(capture, features=BLOCKS, dimensions=3)).points
    monkeypatch.setattr("nts_plugins.probe.points.HALF_FROM", 10)
    points = scene_of(manager(capture, features=BLOCKS, dimensions=3)).points
    assert points is not None and points.features.dtype == torch.float16  # type: ignore[union-attr]
    assert torch.equal(points.features, exact.features.half())  # type: ignore[union-attr]
    assert scene_of(manager(capture, features="iuvrgb")).points.features.dtype == torch.float32  # type: ignore


# ---- test views


def test_test_views_know_what_training_views_saw(capture: Path) -> None:
    data = manager(capture)
    depth = [torch.from_numpy(np.load(path)) for path in data.eval_dataset.metadata["depth_filenames"]]
    for batch, own in zip(data.cached_eval, depth, strict=True):
        mask = batch["covisible"]
        assert mask.shape == (*SIZE[::-1], 1) and mask.dtype == torch.bool
        assert not mask[..., 0][own == 0].any()
        assert float(mask[..., 0][own > 0].float().mean()) > 0.15
    assert "camera" not in data.next_eval_image(0)[1] and "covisible" in data.next_eval_image(0)[1]
    camera, batch = manager(capture, "test").fixed_indices_eval_dataloader[0]
    assert batch["camera"] is camera and "covisible" in batch


def test_without_depth_of_their_own_test_views_have_that_of_training_views(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture", size=SIZE)
    masks = [batch["covisible"] for batch in manager(folder).cached_eval]
    assert all(0.02 < float(mask.float().mean()) < 1 for mask in masks)


# ---- where nothing is trained


def test_rendering_asks_for_neither_features_nor_pictures(capture: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(capture, moved)
    shutil.rmtree(moved / "images")
    data = manager(moved, "inference", features="no such model")
    assert scene_of(data).points is None
    sites = scene_of(manager(capture, "test", features="no such model")).sites()
    assert torch.equal(sites.positions, scene_of(manager(capture)).points.positions)  # type: ignore[union-attr]


# ---- what is refused


@pytest.mark.parametrize("settings", [{"stride": 0}, {"dimensions": 0}, {"least_confidence": 1.0}])
def test_settings_that_mean_nothing(capture: Path, settings: Any) -> None:
    (name,) = settings
    with pytest.raises(InputError, match=name.replace("_", "-")):
        manager(capture, **settings)


def test_an_unknown_model_is_told_those_that_are_known(capture: Path) -> None:
    with pytest.raises(InputError, match="no model 'dinov9'.*dinov2_b14"):
        manager(capture, features="dinov9")


def test_fine_tuned_weights_have_to_be_said(capture: Path) -> None:
    with pytest.raises(InputError, match=r"features.weights, a file, or a folder in which one is named aliked_n16\+\."):
        manager(capture, features="aliked_n16+")


def test_data_that_says_nothing_of_depth(capture: Path, tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture", size=SIZE)
    meta = load_meta(folder)
    del meta["ply_file_path"]
    save_meta(folder, meta)
    with pytest.raises(InputError, match="neither a prediction, nor depth files, nor seed points"):
        manager(folder)
    with pytest.raises(InputError, match="depth_file_path"):
        manager(folder, depth_from="depth")
    with pytest.raises(InputError, match="prediction-data"):
        manager(folder, depth_from="prediction")


def test_views_that_do_not_overlap(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    away = tmp_path / "away"
    shutil.copytree(capture, away)
    meta = load_meta(away)

    def apart(count: int) -> None:
        """So many training views each look at a thing of its own."""
        moved = load_meta(capture)
        names = moved["train_filenames"][:count]
        for frame in moved["frames"]:
            if frame["file_path"] in names:
                frame["transform_matrix"][2][3] += 1e3 * (1 + names.index(frame["file_path"]))
        save_meta(away, moved)

    apart(1)
    manager(away)
    assert f"{Path(meta['train_filenames'][0]).name}" in capsys.readouterr().out.replace("\n", "")
    apart(6)
    with pytest.raises(InputError, match="None of the 6 training pictures"):
        manager(away)


def test_a_test_view_of_nothing_that_was_seen(capture: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    shutil.copytree(capture, away)
    meta = load_meta(away)
    for frame in meta["frames"]:
        if frame["file_path"] == meta["test_filenames"][0]:
            frame["transform_matrix"][2][3] += 1e3
    save_meta(away, meta)
    with pytest.raises(InputError, match="No training picture shows anything of 003.png"):
        manager(away)
