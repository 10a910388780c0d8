# SPDX-License-Identifier: Apache-2.0
"""Places that two photographs of a scene see, and how often their vectors find each other."""

import json
from pathlib import Path
from typing import List, NamedTuple, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from plyfile import PlyData
from torch import Tensor

from nts_plugins.encoders.base import DenseEncoder

BORDER = 16
"""Pixels along the sides of a photograph from which no places are taken."""
CELL = 12
"""Pixels. Of the points that lie in one cell, only those near the first one are seen."""


class Views(NamedTuple):
    """Two photographs [H, W, 3] and where they see the same places, [N, 2] columns and rows in pixels."""

    pictures: Tuple[Tensor, Tensor]
    places: Tuple[Tensor, Tensor]


def photograph(scene: Path, number: int) -> Tensor:
    """[H, W, 3] in [0, 1], of one of a scene's in the order of their names."""
    frames = sorted(json.loads((scene / "transforms.json").read_text())["frames"], key=lambda frame: frame["file_path"])
    with Image.open(scene / frames[number]["file_path"]) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).float() / 255


def views(scene: Path, numbers: Tuple[int, int], count: int = 200, apart: float = 10.0) -> Views:
    """Places that are so many pixels apart, at least, in both photographs of a scene with calibrated cameras."""
    capture = json.loads((scene / "transforms.json").read_text())
    frames = sorted(capture["frames"], key=lambda frame: frame["file_path"])
    vertices = PlyData.read(scene / "points.ply")["vertex"]
    points = np.stack([vertices[axis] for axis in "xyz"], axis=1).astype(np.float64)
    seen, found = np.ones(len(points), bool), []
    pictures = tuple(photograph(scene, number) for number in numbers)
    for number, picture in zip(numbers, pictures, strict=True):
        camera = np.linalg.inv(np.array(frames[number]["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0]))
        local = points @ camera[:3, :3].T + camera[:3, 3]
        pixels = local[:, :2] / local[:, 2:] * [capture["fl_x"], capture["fl_y"]] + [capture["cx"], capture["cy"]]
        inside = (pixels > BORDER).all(axis=1) & (pixels < np.array(picture.shape[1::-1]) - BORDER).all(axis=1)
        inside &= local[:, 2] > 0
        _, cells = np.unique(np.floor(pixels / CELL), axis=0, return_inverse=True)
        first = np.full(cells.max() + 1, np.inf)
        np.minimum.at(first, cells.reshape(-1), np.where(inside, local[:, 2], np.inf))
        seen &= inside & (local[:, 2] < 1.05 * first[cells.reshape(-1)])
        found.append(pixels)
    kept: List[int] = []
    for point in np.random.default_rng(0).permutation(np.flatnonzero(seen)):
        far = all(np.hypot(*(pixels[kept] - pixels[point]).T).min(initial=np.inf) > apart for pixels in found)
        if far and len(kept) < count:
            kept.append(int(point))
    first_view, second_view = (torch.from_numpy(pixels[kept]).float() for pixels in found)
    return Views((pictures[0], pictures[1]), (first_view, second_view))


def matching_rate(encoder: DenseEncoder, seen: Views) -> float:
    """Share of the places of the first photograph whose vector is more like that of the same place in the second one
    (larger cosine) than like those of all other places there."""
    vectors = []
    for picture, places in zip(seen.pictures, seen.places, strict=True):
        size = torch.tensor(picture.shape[1::-1])
        values = encoder.encode_map(picture).permute(2, 0, 1)[None]
        read = F.grid_sample(values, (2 * places / size - 1)[None, None], padding_mode="border", align_corners=False)
        vectors.append(F.normalize(read[0, :, 0].T, dim=1))
    return float(((vectors[0] @ vectors[1].T).argmax(dim=1) == torch.arange(len(seen.places[0]))).float().mean())
