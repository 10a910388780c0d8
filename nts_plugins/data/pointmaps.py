# SPDX-License-Identifier: Apache-2.0
"""How far away each pixel's thing is: from a network's prediction, from depth files, or from between seed points."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Tuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nts_plugins.data.cameras import view_of
from nts_plugins.data.dataset import SplatDataset
from nts_plugins.errors import InputError
from nts_plugins.surfaces.depth_views import DepthView

PREDICTION = "prediction"
"""Name in a dataset's metadata of what is predicted: a picture's file to its depth [h, w], of the whole file at any
resolution, scene units, and to how sure that is, [h, w]."""

Source = Literal["prediction", "depth", "points"]

FEWEST_SEEDS = 4
"""Seed points in view, below which there is nothing to draw lines between."""
HIDDEN = 0.9
"""A seed point is hidden where another one, in the same cell of the picture, has less than so much of its depth."""


@dataclass(frozen=True)
class Pointmap:
    """What one picture's pixels show, in the scene."""

    view: DepthView
    confidence: Tensor
    """[H, W] in [0, 1]: the share of the scene's pixels that are no surer; 0 where depth is not known."""


def source_of(dataset: SplatDataset) -> Source:
    """The best that a dataset has."""
    if dataset.metadata.get(PREDICTION) is not None:
        return "prediction"
    return "depth" if dataset.metadata.get("depth_filenames") else "points"


def pointmaps(dataset: SplatDataset, source: Optional[Source] = None) -> Tuple[Pointmap, ...]:
    """Depth of all pixels of a dataset's pictures, in the frame and the unit of its cameras.

    Args:
        dataset: of the pictures, which need not be read for it.
        source: where depth comes from. ``prediction`` is that of a dataparser of predictions. ``depth`` are files that
            the dataparser names (``depth_file_path`` in transforms.json). ``points`` draws lines of 1 / depth between
            the seed points of each view that no other one hides. None takes the first of these that is there.

    Raises:
        InputError: where there is no such source, or a view has nothing of it.
    """
    source = source or source_of(dataset)
    read = {"prediction": _predicted, "depth": _from_files, "points": _between_seeds}[source](dataset)
    depths, confidences = zip(*read, strict=True)
    ranks = _shares([np.where(depth > 0, sure, -np.inf) for depth, sure in read])
    cameras = view_of_all(dataset)
    return tuple(
        Pointmap(
            DepthView(torch.from_numpy(depth), *camera),
            torch.from_numpy(np.where(depth > 0, rank, 0.0).astype(np.float32)),
        )
        for depth, rank, camera in zip(depths, ranks, cameras, strict=True)
    )


def view_of_all(dataset: SplatDataset) -> "list[Tuple[Tensor, Tensor]]":
    """World-to-camera matrix [4, 4] and intrinsics [3, 3] of each picture."""
    found = []
    for number in range(len(dataset)):
        camera = dataset.cameras[number : number + 1]
        view = view_of(camera, camera.camera_to_worlds)
        found.append((view.viewmats[0], view.Ks[0]))
    return found


def true_depth(dataset: SplatDataset) -> "Optional[Tuple[DepthView, ...]]":
    """Measured depth of all pictures, where the dataparser names files of it."""
    if not dataset.metadata.get("depth_filenames"):
        return None
    return tuple(each.view for each in pointmaps(dataset, "depth"))


def _predicted(dataset: SplatDataset) -> Any:
    predicted = dataset.metadata.get(PREDICTION)
    if predicted is None:
        raise InputError("There is no prediction. End the command with prediction-data, and give --data its file.")
    found = []
    for number, path in enumerate(dataset.image_filenames):
        depth, sure = (dataset.align(number, each, labels=True) for each in predicted[path])
        found.append((np.maximum(depth, 0.0), sure))
    return found


def _from_files(dataset: SplatDataset) -> Any:
    files = dataset.metadata.get("depth_filenames")
    if not files:
        raise InputError(
            "The data names no depth files. Give each frame of transforms.json a 'depth_file_path' (16-bit .png in "
            "millimetres, or .npy)."
        )
    scale = dataset.metadata["depth_unit_scale_factor"] * dataset._dataparser_outputs.dataparser_scale
    found = []
    for number, path in enumerate(files):
        depth = dataset.align(number, read_depth(Path(path)), labels=True) * np.float32(scale)
        if not (depth > 0).any():
            raise InputError(f"The depth file {path} holds no depth above zero.")
        found.append((depth, (depth > 0).astype(np.float32)))
    return found


def read_depth(path: Path) -> NDArray[np.float32]:
    """[H, W] of a depth file, in its own unit; 0 where it says nothing.

    Raises:
        InputError: where it cannot be read, or holds no map.
    """
    import cv2

    try:
        values = np.load(path) if path.suffix == ".npy" else cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"The depth file {path} cannot be read: {error}.") from error
    if values is None or values.ndim != 2:
        raise InputError(f"The depth file {path} cannot be read as a map [H, W]: a .png of one channel, or a .npy.")
    return np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0.0)


def _between_seeds(dataset: SplatDataset) -> Any:
    seeds = dataset.metadata.get("points3D_xyz")
    if seeds is None or not len(seeds):
        raise InputError(
            "The data has neither a prediction, nor depth files, nor seed points: nothing says where the pixels' "
            "things are. nts predict makes a prediction; 'ply_file_path' in transforms.json names seed points."
        )
    found = []
    for number, (viewmat, K) in enumerate(view_of_all(dataset)):
        size = int(dataset.cameras.height[number]), int(dataset.cameras.width[number])
        pixels, depth = DepthView(torch.zeros(size), viewmat, K).project(seeds.float())
        inside = (depth > 0) & (pixels >= 0).all(dim=1) & (pixels < torch.tensor([size[1], size[0]])).all(dim=1)
        places, depths = pixels[inside].double().numpy(), depth[inside].double().numpy()
        seen = not_hidden(places, depths, size)
        if seen.sum() < FEWEST_SEEDS:
            raise InputError(
                f"{dataset.image_filenames[number].name} has {int(seen.sum())} of {len(seeds)} seed points in view; "
                f"at least {FEWEST_SEEDS} are needed to know how far away its pixels are."
            )
        found.append(_interpolated(places[seen], depths[seen], size))
    return found


def not_hidden(places: NDArray, depths: NDArray, size: Tuple[int, int]) -> NDArray[np.bool_]:
    """[P] which seed points no other one hides: in cells as wide as points lie apart, those near the nearest.

    Args:
        places: [P, 2] pixels (x, y).
        depths: [P].
        size: height and width of the picture.
    """
    if not len(places):
        return np.zeros(0, bool)
    cell = 2.0 * np.sqrt(size[0] * size[1] / len(places))
    columns, rows = np.floor(places / cell).astype(np.int64).T
    cells = rows * (int(size[1] / cell) + 2) + columns
    nearest = np.full(cells.max() + 1, np.inf)
    np.minimum.at(nearest, cells, depths)
    return depths * HIDDEN <= nearest[cells]


def _interpolated(places: NDArray, depths: NDArray, size: Tuple[int, int]) -> Any:
    """[H, W] depth, linear in 1 / depth between points, the nearest point's outside of them; and how near points are,
    in units of their distance from each other."""
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
    from scipy.spatial import KDTree, QhullError

    grid = np.stack(np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5), axis=-1)
    nearest = NearestNDInterpolator(places, 1.0 / depths)(grid)
    try:
        inverse = LinearNDInterpolator(places, 1.0 / depths)(grid)
    except QhullError:  # All points on one line.
        inverse = np.full(size, np.nan)
    inverse = np.where(np.isfinite(inverse), inverse, nearest)
    away = KDTree(places).query(grid)[0]
    spacing = np.sqrt(size[0] * size[1] / len(places))
    return (1.0 / inverse).astype(np.float32), np.exp(-away / spacing).astype(np.float32)


def _shares(values: "list[NDArray]") -> "list[NDArray]":
    """Of each number the share of all finite ones that are no larger: 1 where all are alike."""
    together = np.concatenate([each.reshape(-1) for each in values])
    finite = np.sort(together[np.isfinite(together)])

    def share(each: NDArray) -> NDArray:
        return np.searchsorted(finite, each, "right") / max(len(finite), 1)

    return [share(each) for each in values]
