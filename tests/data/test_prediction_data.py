# SPDX-License-Identifier: Apache-2.0
"""The dataparser of predictions: cameras, depth and seed points in one frame, whatever that is, for every split."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from PIL import Image

from nts_plugins.data.dataset import SplatDataset
from nts_plugins.data.pointmaps import PREDICTION, source_of, view_of_all
from nts_plugins.data.prediction_data import PredictionDataParserConfig
from nts_plugins.errors import InputError
from nts_plugins.files.prediction import Prediction, save
from nts_plugins.surfaces.depth_views import DepthView

WIDTH, HEIGHT = 40, 30
MAP = (20, 15)
"""Width and height of the predicted depth."""


def turned(angle: float, axis: int) -> np.ndarray:
    made = np.eye(3)
    first, second = [each for each in range(3) if each != axis]
    made[first, first] = made[second, second] = math.cos(angle)
    made[first, second], made[second, first] = -math.sin(angle), math.sin(angle)
    return made


WORLD = turned(0.4, 0) @ turned(0.5, 1) @ turned(0.9, 2)
"""A network's frame is that of its first camera, not of the scene."""
NORMAL, OFFSET = WORLD @ np.array([0.1, 0.2, 1.0]), 6.0
"""All cameras see the plane NORMAL . x = OFFSET."""


def scene(count: int = 9, roll: float = 0.0) -> Prediction:
    """Cameras that look at a plane, each with a lens of its own, and the plane's depth."""
    viewmats, Ks, depths = [], [], []
    columns, rows = np.meshgrid(np.arange(MAP[0]) + 0.5, np.arange(MAP[1]) + 0.5)
    for number in range(count):
        own = (
            turned(roll, 2)
            @ turned(0.1 * math.sin(number), 0)
            @ turned(0.2 * math.cos(2 * number), 1)
            @ turned(0.05 * number, 2)
        )
        position = WORLD @ np.array([math.sin(1.3 * number), math.cos(0.7 * number), 0.1 * number])
        viewmat = np.eye(4)
        viewmat[:3, :3] = own @ WORLD.T
        viewmat[:3, 3] = -viewmat[:3, :3] @ position
        K = np.array([[35.0 + number, 0, 19.0 + 0.3 * number], [0, 36.0, 16.0], [0, 0, 1]])
        rays = np.stack([columns * WIDTH / MAP[0], rows * HEIGHT / MAP[1], np.ones_like(rows)], -1) @ np.linalg.inv(K).T
        depths.append((OFFSET - position @ NORMAL) / (rays @ viewmat[:3, :3] @ NORMAL))
        viewmats.append(viewmat)
        Ks.append(K)
    confidences = np.broadcast_to(columns, (count, MAP[1], MAP[0])).astype(np.float32)
    names = tuple(f"pictures/{number:02d}.png" for number in range(count))
    sizes = np.tile([WIDTH, HEIGHT], (count, 1))
    depths = np.array(depths, np.float32)
    assert (depths > 0).all()
    return Prediction(names, np.array(viewmats), np.array(Ks), sizes, depths, confidences)


def written(folder: Path, prediction: Prediction) -> Path:
    """The prediction, and photographs whose red and green say where in them a pixel is, and blue which it is."""
    save(folder / "prediction.npz", prediction)
    (folder / "pictures").mkdir(exist_ok=True)
    for name in prediction.names:
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        picture[..., 0], picture[..., 1] = np.arange(WIDTH), np.arange(HEIGHT)[:, None]
        picture[..., 2] = int(Path(name).stem)
        Image.fromarray(picture).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("data"), scene())


def parsed(folder: Path, split: str = "train", **options: Any) -> DataparserOutputs:
    return PredictionDataParserConfig(data=folder, **options).setup().get_dataparser_outputs(split=split)


def plane_in(outputs: DataparserOutputs) -> Tuple[torch.Tensor, float]:
    """Normal and offset of the plane in the frame of training, by what the outputs say of their frame."""
    transform, scale = outputs.dataparser_transform.double(), outputs.dataparser_scale
    normal = transform[:3, :3] @ torch.from_numpy(NORMAL)
    return normal.float(), scale * (OFFSET + float(normal @ transform[:3, 3]))


FRAMES: List[dict] = [
    {},
    {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False},
    {"orientation_method": "pca"},
    {"orientation_method": "vertical", "center_method": "focus"},
    {"center_method": "none"},
    {"orientation_method": "none", "center_method": "focus", "auto_scale_poses": False},
]


@pytest.mark.parametrize("roll", [0.0, math.pi])
@pytest.mark.parametrize("options", FRAMES, ids=str)
def test_depth_and_seed_points_lie_where_cameras_see_them(tmp_path: Path, options: dict, roll: float) -> None:
    outputs = parsed(written(tmp_path, scene(roll=roll)), **options)
    turns = outputs.cameras.camera_to_worlds[:, :3, :3]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand_as(turns), atol=1e-5, rtol=0)
    assert (torch.linalg.det(turns) > 0).all()
    normal, offset = plane_in(outputs)
    seeds = outputs.metadata["points3D_xyz"]
    torch.testing.assert_close(seeds @ normal, torch.full((len(seeds),), offset), atol=4e-3, rtol=1e-3)
    for path, (viewmat, K) in zip(outputs.image_filenames, view_of_all(SplatDataset(outputs)), strict=True):
        depth = torch.from_numpy(outputs.metadata[PREDICTION][path][0])
        coarse = torch.tensor([MAP[0] / WIDTH, MAP[1] / HEIGHT, 1.0])
        view = DepthView(depth, viewmat, coarse[:, None] * K)
        points = view.points_at(view.pixels())
        torch.testing.assert_close(points @ normal, torch.full((300,), offset), atol=4e-3, rtol=1e-3)
        # What of the seed points a camera has in view is as far away as it predicts.
        seen = seeds[view.in_view(seeds)]
        pixels, distance = view.project(seen)
        slope = max(float(depth.diff(dim=axis).abs().max()) for axis in (0, 1))
        assert len(seen) > 50 and float((view.depth_at(pixels) - distance).abs().max()) < 1.2 * slope


def test_cameras_are_those_that_are_predicted(folder: Path) -> None:
    outputs = parsed(folder, orientation_method="none", center_method="none", auto_scale_poses=False, eval_interval=0)
    prediction = scene()
    assert outputs.dataparser_scale == 1.0
    torch.testing.assert_close(outputs.dataparser_transform, torch.eye(4)[:3])
    dataset = SplatDataset(outputs)
    for number, (viewmat, K) in enumerate(view_of_all(dataset)):
        assert outputs.image_filenames[number] == folder / f"pictures/{number:02d}.png"
        assert dataset.get_image_uint8(number)[0, 0, 2] == number
        np.testing.assert_allclose(viewmat, prediction.viewmats[number], atol=1e-5)
        np.testing.assert_allclose(K, prediction.Ks[number], rtol=1e-6)
    assert outputs.cameras.width.flatten().tolist() == [WIDTH] * 9
    assert outputs.cameras.height.flatten().tolist() == [HEIGHT] * 9


def test_by_default_cameras_are_centred_and_upright_within_the_unit_cube(folder: Path) -> None:
    outputs = parsed(folder, eval_interval=0)
    positions = outputs.cameras.camera_to_worlds[:, :3, 3]
    assert float(positions.abs().max()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(positions.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    upward = outputs.cameras.camera_to_worlds[:, :3, 1].mean(dim=0)
    torch.testing.assert_close(upward / upward.norm(), torch.tensor([0.0, 0.0, 1.0]), atol=1e-4, rtol=0)
    depth = outputs.metadata[PREDICTION][outputs.image_filenames[0]][0]
    expected = scene().depths[0].astype(np.float16).astype(np.float32) * np.float32(outputs.dataparser_scale)
    np.testing.assert_allclose(depth, expected, rtol=1e-6)


def test_the_order_of_names_in_the_file_does_not_matter(folder: Path, tmp_path: Path) -> None:
    names = list(scene().names)
    shuffled = [names[number] for number in (4, 2, 8, 0, 6, 1, 3, 7, 5)]
    other = written(tmp_path, scene().rows(shuffled))
    for split in ("train", "test"):
        one, two = parsed(folder, split), parsed(other, split)
        assert [each.name for each in one.image_filenames] == [each.name for each in two.image_filenames]
        assert torch.equal(one.cameras.camera_to_worlds, two.cameras.camera_to_worlds)
        assert torch.equal(one.cameras.fx, two.cameras.fx)
        for name in ("points3D_xyz", "points3D_rgb"):
            assert torch.equal(one.metadata[name], two.metadata[name])
        maps = [[depth for depth, _ in each.metadata[PREDICTION].values()] for each in (one, two)]
        assert np.array_equal(*maps)


def test_what_is_held_out(folder: Path) -> None:
    def numbers(split: str, interval: int) -> List[int]:
        return [int(path.stem) for path in parsed(folder, split, eval_interval=interval).image_filenames]

    assert numbers("train", 8) == [0, 1, 2, 3, 5, 6, 7, 8] and numbers("val", 8) == numbers("test", 8) == [4]
    assert numbers("train", 3) == [0, 2, 3, 5, 6, 8] and numbers("test", 3) == [1, 4, 7]
    assert numbers("train", 2) == [0, 2, 4, 6, 8]
    for interval in (0, 50):  # None is held out.
        assert numbers("train", interval) == numbers("val", interval) == list(range(9))
    train, test = parsed(folder, "train"), parsed(folder, "test")
    assert train.dataparser_scale == test.dataparser_scale, "one frame for all"
    assert torch.equal(train.dataparser_transform, test.dataparser_transform)
    assert list(test.metadata[PREDICTION]) == test.image_filenames
    assert source_of(SplatDataset(test)) == "prediction"


def test_seed_points_are_the_surest_pixels_with_their_colours(folder: Path) -> None:
    outputs = parsed(folder, "train", least_confidence=0.4)
    colors = outputs.metadata["points3D_rgb"]
    assert colors.dtype == torch.uint8 and len(colors) == len(outputs.metadata["points3D_xyz"]) == 8 * 15 * 12
    # Confidence grows with the column of the map, of 20: those from the ninth on are kept.
    assert int(colors[:, 0].min()) == 17 and sorted(set(colors[:, 2].tolist())) == [0, 1, 2, 3, 5, 6, 7, 8]
    # A colour says where in which picture a point is from, and from there it is seen.
    for path, (viewmat, K) in zip(outputs.image_filenames, view_of_all(SplatDataset(outputs)), strict=True):
        own = colors[:, 2] == int(path.stem)
        pixels, _ = DepthView(torch.zeros(HEIGHT, WIDTH), viewmat, K).project(outputs.metadata["points3D_xyz"][own])
        assert torch.equal(pixels.add(1e-3).floor().long(), colors[own][:, :2].long())


def test_there_are_as_many_seed_points_as_wanted(folder: Path) -> None:
    for seeds in (1, 50, 500, 1439):
        count = len(parsed(folder, seeds=seeds).metadata["points3D_xyz"])
        assert 0.5 * seeds <= count <= seeds + 8, "a picture may have one too many"
    assert "points3D_xyz" not in parsed(folder, seeds=0).metadata
    everything = parsed(folder, least_confidence=0.0, eval_interval=0).metadata["points3D_xyz"]
    assert len(everything) == 9 * MAP[0] * MAP[1]
    views = [int(each) for each in parsed(folder, seeds=50).metadata["points3D_rgb"][:, 2]]
    assert set(views) == {0, 1, 2, 3, 5, 6, 7, 8}, "of each picture some"


def test_equal_confidences_leave_nothing_out(tmp_path: Path) -> None:
    prediction = scene()
    depths = prediction.depths.copy()
    depths[:, 0] = 0.0
    even = replace(prediction, depths=depths, confidences=np.ones_like(depths))
    outputs = parsed(written(tmp_path, even), eval_interval=0)
    assert len(outputs.metadata["points3D_xyz"]) == 9 * MAP[0] * (MAP[1] - 1), "but for what has no depth"


def test_the_file_itself_may_be_named(folder: Path) -> None:
    assert parsed(folder / "prediction.npz").image_filenames == parsed(folder).image_filenames


def same_place() -> Prediction:
    prediction = scene()
    viewmats = prediction.viewmats.copy()
    viewmats[:, :3, 3] = -viewmats[:, :3, :3] @ np.array([3.0, 0.1, 0.7])
    return replace(prediction, viewmats=viewmats)


def test_cameras_at_one_place_give_no_scale(tmp_path: Path) -> None:
    folder = written(tmp_path, same_place())
    with pytest.raises(InputError, match="all at one place, .*prediction-data --auto-scale-poses False"):
        parsed(folder)
    assert parsed(folder, auto_scale_poses=False).dataparser_scale == 1.0
    near = same_place()
    near.viewmats[0, :3, 3] += 0.01
    assert parsed(written(tmp_path, near)).dataparser_scale > 10


def test_what_the_user_has_to_change_is_said(folder: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"eval_interval": -1}, "--eval-interval and --seeds must not be below 0"),
        ({"eval_interval": 1}, "--eval-interval 1 would hold out every photograph"),
        ({"seeds": -1}, "--seeds must not be below 0"),
        ({"least_confidence": 1.0}, "--least-confidence must be at least 0 and below 1"),
        ({"least_confidence": -0.1}, "--least-confidence must be at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            parsed(folder, **options)
    with pytest.raises(InputError, match="There is no prediction .*nowhere"):
        parsed(tmp_path / "nowhere")
    with pytest.raises(InputError, match="There is no prediction .*prediction.npz"):
        parsed(tmp_path)
    other = written(tmp_path, scene())
    Image.new("RGB", (HEIGHT, WIDTH)).save(other / "pictures/03.png")
    with pytest.raises(InputError, match="03.png is 30x40 pixels, but its camera is 40x30"):
        parsed(other)
    (other / "pictures/03.png").unlink()
    with pytest.raises(InputError, match="The image .*03.png does not exist"):
        parsed(other)
