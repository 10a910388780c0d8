# SPDX-License-Identifier: Apache-2.0
"""Photographs with the cameras and the depth that a network predicts, for every method.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Literal, Tuple, Type

import numpy as np
import torch
from nerfstudio.cameras.camera_utils import auto_orient_and_center_poses
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from torch import Tensor

from nts_plugins.data import checks, pictures
from nts_plugins.data.pointmaps import PREDICTION
from nts_plugins.errors import InputError
from nts_plugins.files import prediction as files
from nts_plugins.files.prediction import Prediction
from nts_plugins.surfaces.depth_views import DepthView


@dataclass
class PredictionDataParserConfig(DataParserConfig):
    """A prediction: cameras and depth of photographs in one .npz file, see docs/prediction-files.md."""

    _target: Type = field(default_factory=lambda: PredictionDataParser)
    data: Path = Path()
    """The file, or a folder that has a prediction.npz."""
    eval_interval: int = 8
    """Every so many photographs, in the order of their names, one is held out; 0 holds out none, and then the training
    photographs are those of evaluation, too."""
    orientation_method: Literal["pca", "up", "vertical", "none"] = "up"
    """What becomes the z axis: the mean upward direction of the cameras, or another one."""
    center_method: Literal["poses", "focus", "none"] = "poses"
    """What becomes the origin: the middle of the cameras, or what they look at."""
    auto_scale_poses: bool = True
    """Scale the scene so that cameras are at coordinates from -1 to 1."""
    seeds: int = 100_000
    """Seed points for methods that start at such: so many pixels of the training photographs, evenly chosen."""
    least_confidence: float = 0.4
    """Share of their pixels, the least sure ones, that make no seed point (Depth Anything 3's number)."""


class PredictionDataParser(DataParser):
    """Cameras, seed points, and the prediction itself, in the metadata.

    Raises:
        InputError: for whatever is wrong with the file, or where a photograph is missing or of another size.
    """

    config: PredictionDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        config = self.config
        if config.eval_interval == 1:
            raise InputError("--eval-interval 1 would hold out every photograph. 0 holds out none, 2 every other one.")
        if config.eval_interval < 0 or config.seeds < 0 or not 0 <= config.least_confidence < 1:
            raise InputError(
                "--eval-interval and --seeds must not be below 0; --least-confidence must be at least 0 and below 1."
            )
        path = config.data / "prediction.npz" if config.data.is_dir() else config.data
        whole = files.load(path)
        whole = whole.rows(sorted(whole.names))
        images = [path.parent / name for name in whole.names]
        checks.check_files(images, "image")
        for image, size in zip(images, whole.sizes, strict=True):
            checks.check_size(image, pictures.image_size(image), (int(size[0]), int(size[1])))
        flip = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's y and z point the other way than OpenCV's.
        poses = torch.from_numpy(np.linalg.inv(whole.viewmats) @ flip).float()
        # The poses that come with it are not always what it makes of them: "pca" mirrors the second and third.
        _, transform = auto_orient_and_center_poses(
            poses, method=config.orientation_method, center_method=config.center_method
        )
        poses = transform @ poses
        scale = _scale(whole, poses, path) if config.auto_scale_poses else 1.0
        poses[:, :3, 3] *= scale
        chosen = self._chosen(len(images), split)
        own, own_images = whole.rows([whole.names[number] for number in chosen]), [images[each] for each in chosen]
        cameras = _cameras(own, poses[chosen])
        return DataparserOutputs(
            image_filenames=own_images,
            cameras=cameras,
            scene_box=SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])),
            dataparser_scale=scale,
            dataparser_transform=transform,
            metadata={
                PREDICTION: dict(
                    zip(own_images, zip(own.depths * np.float32(scale), own.confidences, strict=True), strict=True)
                ),
                **self._seeds(own, own_images, transform, scale),
            },
        )

    def _chosen(self, count: int, split: str) -> List[int]:
        every = self.config.eval_interval
        held_out = [number for number in range(count) if every and number % every == every // 2]
        if not held_out:
            return list(range(count))
        return held_out if split != "train" else [number for number in range(count) if number not in held_out]

    def _seeds(self, own: Prediction, images: List[Path], transform: Tensor, scale: float) -> "dict[str, Tensor]":
        """Points and their colours, in the frame of the cameras."""
        if not self.config.seeds:
            return {}
        limit = np.quantile(own.confidences[own.depths > 0], self.config.least_confidence)
        good = [(depth > 0) & (sure >= limit) for depth, sure in zip(own.depths, own.confidences, strict=True)]
        step = max(1, -(-sum(int(each.sum()) for each in good) // self.config.seeds))
        points, colors = [], []
        for number, image in enumerate(images):
            xyz, rgb = _points(own, number, image, good[number], step)
            points.append(xyz)
            colors.append(rgb)
        xyz = torch.cat(points)
        return {
            "points3D_xyz": (xyz @ transform[:, :3].T + transform[:, 3]) * scale,
            "points3D_rgb": torch.cat(colors),
        }


def _scale(whole: Prediction, poses: Tensor, path: Path) -> float:
    """What brings cameras to coordinates from -1 to 1."""
    farthest = float(poses[:, :3, 3].abs().max())
    around = float(np.median(whole.depths[whole.depths > 0])) + float(np.abs(whole.viewmats[:, :3, 3]).max())
    if farthest <= 1e-6 * around:  # no more than rounding
        raise InputError(
            f"The cameras of {path} are all at one place, so their distances give no scale. Take the poses as they "
            f"are: end the command with prediction-data --auto-scale-poses False."
        )
    return 1.0 / farthest


def _points(own: Prediction, number: int, image: Path, good: np.ndarray, step: int) -> Tuple[Tensor, Tensor]:
    depth = torch.from_numpy(own.depths[number])
    K = torch.from_numpy(own.Ks[number]).float()
    size = torch.from_numpy(own.sizes[number])
    K[:2] *= (torch.tensor(depth.shape[::-1]) / size)[:, None]
    view = DepthView(depth, torch.from_numpy(own.viewmats[number]).float(), K)
    pixels = view.pixels()[torch.from_numpy(good).reshape(-1)][::step]
    picture = torch.from_numpy(pictures.read_image(image))[..., :3]
    ratio = size / torch.tensor(depth.shape[::-1])
    columns, rows = (pixels * ratio).long().unbind(dim=1)
    return view.points_at(pixels), picture[rows, columns]


def _cameras(own: Prediction, poses: Tensor) -> Cameras:
    Ks, sizes = torch.from_numpy(own.Ks).float(), torch.from_numpy(own.sizes)
    return Cameras(
        camera_to_worlds=poses[:, :3, :4],
        fx=Ks[:, 0, 0:1],
        fy=Ks[:, 1, 1:2],
        cx=Ks[:, 0, 2:3],
        cy=Ks[:, 1, 2:3],
        width=sizes[:, 0:1],
        height=sizes[:, 1:2],
        camera_type=CameraType.PERSPECTIVE,
    )


prediction_data = DataParserSpecification(
    config=PredictionDataParserConfig(), description="Cameras and depth that a network predicts (nts predict)."
)
