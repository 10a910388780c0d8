# SPDX-License-Identifier: Apache-2.0
"""How far away pixels' things are: of depth files, predictions and seed points, in register and in the scene's unit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from nts_plugins.data.dataset import SplatDataset
from nts_plugins.data.pointmaps import (
    FEWEST_SEEDS,
    PREDICTION,
    not_hidden,
    pointmaps,
    read_depth,
    source_of,
    true_depth,
    view_of_all,
)
from nts_plugins.errors import InputError
from nts_plugins.surfaces.depth_views import DepthView

SIZE = (48, 36)
FOCAL = 50.0
NORMAL, OFFSET = np.array([0.3, -0.2, 1.0]), -3.0
"""The plane that all cameras see: NORMAL . x = OFFSET. They look along -z."""


def plane_depth(position: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Depth of the plane for rays (x, y, 1) of a camera that looks along -z with y up; OpenCV's y points down."""
    return (OFFSET - position @ NORMAL) / (x * NORMAL[0] - y * NORMAL[1] - NORMAL[2])


def rays_of(meta: Dict[str, Any]) -> Tuple[np.ndarray, np.ndarray]:
    """x and y at depth 1 behind the pixels of the file, undistorted (OpenCV's model, inverted)."""
    columns, rows = np.meshgrid(np.arange(meta["w"]) + 0.5, np.arange(meta["h"]) + 0.5)
    K = np.array([[meta["fl_x"], 0, meta["cx"]], [0, meta["fl_y"], meta["cy"]], [0, 0, 1]])
    lens = np.array([meta.get(name, 0.0) for name in ("k1", "k2", "p1", "p2")])
    places = np.stack([columns, rows], axis=-1).reshape(-1, 1, 2).astype(np.float64)
    x, y = cv2.undistortPoints(places, K, lens).reshape(*columns.shape, 2).transpose(2, 0, 1)
    return x, y


POSITIONS = np.array([[-0.6, 0.1, 0.2], [0.0, -0.1, 0.0], [0.5, 0.2, 0.1]])


def write_plane(
    folder: Path, lens: Optional[Dict[str, float]] = None, unit: float = 1000.0, suffix: str = ".npy"
) -> Any:
    """Three pictures before the plane with their depth, in thousandths; returns a dataparser's config."""
    (folder / "images").mkdir(parents=True)
    meta: Dict[str, Any] = {"w": SIZE[0], "h": SIZE[1], "fl_x": FOCAL, "fl_y": 52.0, "cx": 25.0, "cy": 17.5}
    meta.update(camera_model="OPENCV", frames=[], **(lens or {}))
    x, y = rays_of(meta)
    for number, position in enumerate(POSITIONS):
        pose = np.eye(4)
        pose[:3, 3] = position
        depth = plane_depth(position, x, y) * unit
        frame = {"file_path": f"images/{number}.png", "depth_file_path": f"images/{number}_depth{suffix}"}
        Image.new("RGB", SIZE).save(folder / frame["file_path"])
        if suffix == ".npy":
            np.save(folder / frame["depth_file_path"], depth)
        else:
            cv2.imwrite(str(folder / frame["depth_file_path"]), np.round(depth).astype(np.uint16))
        meta["frames"].append({**frame, "transform_matrix": pose.tolist()})
    names = [frame["file_path"] for frame in meta["frames"]]
    meta.update({f"{split}_filenames": names for split in ("train", "val", "test")})
    (folder / "transforms.json").write_text(json.dumps(meta))
    return NerfstudioDataParserConfig(
        data=folder, auto_scale_poses=False, orientation_method="none", center_method="none"
    )


def dataset_of(config: Any, scale_factor: float = 1.0, **metadata: Any) -> SplatDataset:
    outputs = config.setup().get_dataparser_outputs(split="train")
    outputs.metadata.update(metadata)
    return SplatDataset(outputs, scale_factor)


def truth_of(view: DepthView) -> torch.Tensor:
    """Depth of the plane as the view's own camera says, wherever the dataset took it."""
    rays = (view.pixels() - view.K[:2, 2]) / view.K.diag()[:2]
    position = (-view.viewmat[:3, :3].T @ view.viewmat[:3, 3]).double().numpy()
    return torch.from_numpy(plane_depth(position, *rays.double().numpy().T)).float().view(view.size)


def half_a_pixel(view: DepthView) -> float:
    """How much the plane's depth changes within half a pixel, both ways together."""
    truth = truth_of(view)
    return 0.5 * float(truth.diff(dim=0).abs().max() + truth.diff(dim=1).abs().max())


def seeds_of_plane(count: int = 1500, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    xy = generator.uniform([-3, -2.5], [3, 2.5], (count, 2))
    return torch.from_numpy(np.column_stack([xy, (OFFSET - xy @ NORMAL[:2]) / NORMAL[2]])).float()


# ---- depth files


@pytest.mark.parametrize("suffix", [".npy", ".png"])
def test_depth_files_are_read_in_their_unit(tmp_path: Path, suffix: str) -> None:
    dataset = dataset_of(write_plane(tmp_path / "plane", suffix=suffix))
    assert source_of(dataset) == "depth"
    maps = pointmaps(dataset)
    assert len(maps) == 3
    for each in maps:
        assert each.view.depth.dtype == each.confidence.dtype == torch.float32
        torch.testing.assert_close(
            each.view.depth, truth_of(each.view), atol=1e-5 if suffix == ".npy" else 6e-4, rtol=0
        )
        assert torch.equal(each.confidence, torch.full((36, 48), 1.0)), "all alike"
        on_plane = each.view.points_at(each.view.pixels()).double().numpy() @ NORMAL
        np.testing.assert_allclose(on_plane, OFFSET, atol=1e-2)
    views = true_depth(dataset)
    assert views is not None and torch.equal(views[1].depth, maps[1].view.depth)


def test_the_scale_of_the_scene_and_the_unit_of_files_are_taken_into_account(tmp_path: Path) -> None:
    config = write_plane(tmp_path / "plane", unit=100.0)
    config = replace(config, auto_scale_poses=True, scale_factor=0.5, depth_unit_scale_factor=1e-2)
    dataset = dataset_of(config)
    scale = dataset._dataparser_outputs.dataparser_scale
    assert scale == pytest.approx(0.5 / 0.6)
    for position, each in zip(POSITIONS, pointmaps(dataset), strict=True):
        # The camera's place is scaled with the scene, so it has to be brought back to the plane's unit.
        mine = -each.view.viewmat[:3, :3].T @ each.view.viewmat[:3, 3]
        np.testing.assert_allclose(mine.numpy() / scale, position, atol=1e-5)
        unscaled = DepthView(each.view.depth / scale, each.view.viewmat.clone(), each.view.K)
        unscaled.viewmat[:3, 3] /= scale
        torch.testing.assert_close(unscaled.depth, truth_of(unscaled), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale_factor", [1.0, 0.5, 0.37])
@pytest.mark.parametrize("lens", [None, {"k1": -0.12, "k2": 0.03, "p1": 0.002, "p2": -0.003}])
def test_depth_stays_in_register_with_pictures(tmp_path: Path, scale_factor: float, lens: Optional[dict]) -> None:
    dataset = dataset_of(write_plane(tmp_path / "plane", lens), scale_factor)
    for number, each in enumerate(pointmaps(dataset)):
        assert each.view.size == dataset.get_image_uint8(number).shape[:2]
        # The nearest of the file's pixels is taken, which is up to half a pixel of the picture away.
        error = (each.view.depth - truth_of(each.view)).abs()
        assert float(error.max()) < 1.05 * half_a_pixel(each.view) * (1 if lens is None else 2)


def test_unknown_depth_is_zero_and_unsure(tmp_path: Path) -> None:
    config = write_plane(tmp_path / "plane")
    path = config.data / "images" / "1_depth.npy"
    depth = np.load(path)
    depth[0], depth[1], depth[2], depth[3] = np.nan, np.inf, -5.0, 0.0
    np.save(path, depth)
    each = pointmaps(dataset_of(config))[1]
    assert not each.view.depth[:4].any() and not each.confidence[:4].any()
    assert (each.view.depth[4:] > 0).all() and (each.confidence[4:] == 1.0).all()


def test_depth_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    folder = tmp_path
    np.save(folder / "flat.npy", np.zeros(7))
    np.save(folder / "objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    (folder / "empty.npy").write_bytes(b"")
    (folder / "text.npy").write_bytes(b"depth: 3 m")
    (folder / "text.png").write_bytes(b"depth: 3 m")
    Image.new("RGB", (4, 3)).save(folder / "colour.png")
    for name in ("flat.npy", "objects.npy", "empty.npy", "text.npy", "text.png", "colour.png", "none.npy", "none.png"):
        with pytest.raises(InputError, match=f"depth file .*{name} cannot be read"):
            read_depth(folder / name)
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(folder / "eight.png")
    assert read_depth(folder / "eight.png")[2, 3] == 11.0


def test_without_any_depth_there_is_an_error(tmp_path: Path) -> None:
    config = write_plane(tmp_path / "plane")
    np.save(config.data / "images" / "2_depth.npy", np.zeros((36, 48)))
    with pytest.raises(InputError, match="2_depth.npy holds no depth above zero"):
        pointmaps(dataset_of(config))
    bare = dataset_of(config, depth_filenames=None)
    assert source_of(bare) == "points" and true_depth(bare) is None
    for source, message in (
        (None, "neither a prediction, nor depth files, nor seed points"),
        ("depth", "names no depth files"),
        ("prediction", "There is no prediction. .*prediction-data"),
    ):
        with pytest.raises(InputError, match=message):
            pointmaps(bare, source)  # type: ignore[arg-type]


# ---- predictions


def predicted(config: Any, size: Tuple[int, int], seed: int = 0) -> Dict[Path, Tuple[np.ndarray, np.ndarray]]:
    """Of the plane at another resolution, and how sure of it: more and more from the first map to the last."""
    meta = json.loads((config.data / "transforms.json").read_text())
    ratio = np.array([size[0] / meta["w"], size[1] / meta["h"]])
    coarse = {"w": size[0], "h": size[1], "fl_x": meta["fl_x"] * ratio[0], "fl_y": meta["fl_y"] * ratio[1]}
    coarse.update(cx=meta["cx"] * ratio[0], cy=meta["cy"] * ratio[1])
    sure = np.random.default_rng(seed).random((3, size[1], size[0])).astype(np.float32)
    return {
        config.data / frame["file_path"]: (plane_depth(place, *rays_of(coarse)).astype(np.float32), number + own)
        for number, (frame, place, own) in enumerate(zip(meta["frames"], POSITIONS, sure, strict=True))
    }


@pytest.mark.parametrize("size", [SIZE, (24, 18), (96, 72)])
def test_a_prediction_is_taken_before_depth_files(tmp_path: Path, size: Tuple[int, int]) -> None:
    config = write_plane(tmp_path / "plane", unit=1.0)  # Files with a thousandth of the depth.
    dataset = dataset_of(config, **{PREDICTION: predicted(config, size)})
    assert source_of(dataset) == "prediction"
    for each in pointmaps(dataset):
        error = (each.view.depth - truth_of(each.view)).abs()
        pixel = max(1.0, SIZE[0] / size[0])
        assert float(error.max()) < (1e-5 if size == SIZE else 1.05 * pixel * half_a_pixel(each.view))
    assert float(pointmaps(dataset, "depth")[0].view.depth.max()) < 0.01


def test_confidences_are_shares_of_the_scene(tmp_path: Path) -> None:
    config = write_plane(tmp_path / "plane")
    prediction = predicted(config, SIZE)
    maps = pointmaps(dataset_of(config, **{PREDICTION: prediction}))
    ranks = torch.cat([each.confidence.reshape(-1) for each in maps])
    values = torch.cat([torch.from_numpy(sure).reshape(-1) for _, sure in prediction.values()])
    assert torch.equal(ranks.argsort(), values.argsort()), "the order is that of the whole scene"
    count = len(ranks)
    assert float(ranks.min()) == pytest.approx(1 / count, rel=1e-3)
    assert float(ranks.max()) == pytest.approx(1, rel=1e-5)
    assert float((ranks >= 0.4).float().mean()) == pytest.approx(0.6, abs=1e-3)
    assert [float(each.confidence.mean()) for each in maps] == pytest.approx([1 / 6, 1 / 2, 5 / 6], abs=1e-3)
    # Only their order counts, and equal ones are no surer than each other.
    odd = {path: (depth, np.exp(5 * sure) - 90.0) for path, (depth, sure) in prediction.items()}
    for one, other in zip(maps, pointmaps(dataset_of(config, **{PREDICTION: odd})), strict=True):
        torch.testing.assert_close(one.confidence, other.confidence, atol=1e-3, rtol=0)
    coarse = {path: (depth, np.floor(sure)) for path, (depth, sure) in prediction.items()}
    found = pointmaps(dataset_of(config, **{PREDICTION: coarse}))
    for each, expected in zip(found, (1 / 3, 2 / 3, 1.0), strict=True):
        torch.testing.assert_close(each.confidence, torch.full((36, 48), expected))


def test_pixels_without_predicted_depth_have_no_share(tmp_path: Path) -> None:
    config = write_plane(tmp_path / "plane")
    prediction = predicted(config, SIZE)
    for depth, sure in prediction.values():
        depth[:18] = 0.0
        depth[0] = -1.0
        sure[:18] = 100.0  # What is said of nothing.
    for number, each in enumerate(pointmaps(dataset_of(config, **{PREDICTION: prediction}))):
        assert not each.view.depth[:18].any() and not each.confidence[:18].any()
        assert float(each.confidence[18:].mean()) == pytest.approx((2 * number + 1) / 6, abs=2e-3)


# ---- between seed points


def test_between_seed_points_of_a_plane_depth_is_exact(tmp_path: Path) -> None:
    """1 / depth of a plane is linear in pixels."""
    dataset = dataset_of(write_plane(tmp_path / "plane"), depth_filenames=None, points3D_xyz=seeds_of_plane())
    for each in pointmaps(dataset):
        error = ((each.view.depth - truth_of(each.view)) / truth_of(each.view)).abs()
        assert float(error[6:-6, 6:-6].max()) < 1e-4
        # Beyond the outermost points it is the nearest one's depth.
        assert float(error.max()) < 0.25 and (each.view.depth > 0).all()
        assert 0 < float(each.confidence.min()) and float(each.confidence.max()) <= 1


@pytest.mark.parametrize("scale_factor", [0.5])
def test_seed_points_are_in_register_with_resized_and_undistorted_pictures(tmp_path: Path, scale_factor: float) -> None:
    config = write_plane(tmp_path / "plane", {"k1": -0.12, "k2": 0.03})
    dataset = dataset_of(config, scale_factor, depth_filenames=None, points3D_xyz=seeds_of_plane())
    for number, each in enumerate(pointmaps(dataset)):
        assert each.view.size == dataset.get_image_uint8(number).shape[:2]
        error = ((each.view.depth - truth_of(each.view)) / truth_of(each.view)).abs()
        assert float(error[5:-5, 5:-5].max()) < 1e-4


def test_pixels_near_seed_points_are_surer(tmp_path: Path) -> None:
    dataset = dataset_of(write_plane(tmp_path / "plane"), depth_filenames=None, points3D_xyz=seeds_of_plane(60))
    each = pointmaps(dataset)[1]
    pixels, depth = each.view.project(seeds_of_plane(60))
    pixels = pixels[each.view.in_view(seeds_of_plane(60)) & (depth > 0)]
    away = torch.cdist(each.view.pixels(), pixels).amin(dim=1)
    surest_first = away[each.confidence.reshape(-1).argsort(descending=True)]
    assert float(surest_first.diff().min()) > -1e-3 and float(surest_first[-1]) > 5


def test_seed_points_behind_others_are_dropped(tmp_path: Path) -> None:
    """Some points lie far behind the plane, and are seen through the gaps between its points."""
    config, seeds = write_plane(tmp_path / "plane"), seeds_of_plane()
    behind = seeds_of_plane(40, seed=1) + torch.tensor([0.0, 0.0, -4.0])
    alone, both = (
        pointmaps(dataset_of(config, depth_filenames=None, points3D_xyz=points))
        for points in (seeds, torch.cat([seeds, behind]))
    )
    for one, other in zip(alone, both, strict=True):
        assert one.view.in_view(behind).sum() > 10
        # A cell may have a point of behind alone.
        same = (one.view.depth - other.view.depth).abs() < 1e-3
        assert float(same.float().mean()) > 0.95


def test_which_points_are_hidden_by_hand() -> None:
    """A picture of 20 by 10 pixels with 8 points has cells of 10 pixels a side."""
    places = np.array([[1.0, 1], [9, 9], [5, 5], [2, 8], [11, 1], [19, 9], [15, 5], [12, 2]])
    depths = np.array([1.0, 1.1, 1.2, 5.0, 4.0, 4.4, 4.5, 40.0])
    assert not_hidden(places, depths, (10, 20)).tolist() == [True, True, False, False, True, True, False, False]
    assert not_hidden(places[:0], depths[:0], (10, 20)).shape == (0,)
    assert not_hidden(places[:1], depths[:1], (10, 20)).tolist() == [True]


def test_points_on_one_line_still_say_something(tmp_path: Path) -> None:
    along = torch.linspace(-0.8, 0.8, 30)
    line = torch.stack([along, torch.zeros(30), torch.full((30,), -3.0)], dim=1)
    dataset = dataset_of(write_plane(tmp_path / "plane"), depth_filenames=None, points3D_xyz=line)
    middle = pointmaps(dataset)[1]
    torch.testing.assert_close(middle.view.depth, torch.full((36, 48), 3.0), atol=1e-4, rtol=0)


def test_a_view_with_too_few_seed_points_is_named(tmp_path: Path) -> None:
    config = write_plane(tmp_path / "plane")
    lone = torch.tensor([[0.0, 0.0, -3.0], [0.2, 0.0, -3.0], [0.0, 0.2, -3.0]])
    seeds = torch.cat([lone, lone + torch.tensor([0.0, 0.0, 9.0])])  # Behind the cameras.
    with pytest.raises(InputError, match=rf"0.png has 3 of 6 seed points in view; at least {FEWEST_SEEDS}"):
        pointmaps(dataset_of(config, depth_filenames=None, points3D_xyz=seeds))
    with pytest.raises(InputError, match="nothing says where the pixels' things are"):
        pointmaps(dataset_of(config, depth_filenames=None, points3D_xyz=torch.zeros(0, 3)))


def test_cameras_are_those_of_the_pictures(tmp_path: Path) -> None:
    dataset = dataset_of(write_plane(tmp_path / "plane"), 0.5)
    for (viewmat, K), position in zip(view_of_all(dataset), POSITIONS, strict=True):
        np.testing.assert_allclose((-viewmat[:3, :3].T @ viewmat[:3, 3]).numpy(), position, atol=1e-6)
        assert K.diag().tolist() == [25.0, 26.0, 1.0] and K[:2, 2].tolist() == [12.5, 8.75]
