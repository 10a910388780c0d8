# SPDX-License-Identifier: Apache-2.0
"""Scenes with outlined objects as nerfstudio reads them: LERF-OVS and 3D-OVS.

Labelled pictures are what is evaluated. ``metadata["labels"]`` of their dataset is the
:class:`~nts_plugins.data.labels.LabelFolder` that knows what has been outlined.

nerfstudio imports this module while it puts together its list of dataparsers, for each of its commands. So nothing here
imports a datamanager, which needs that list, nor what takes long. Class paths are written into every run's config.yml:
they are a public interface.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import List, Literal, NamedTuple, Optional, Sequence, Type

import numpy as np
import torch
import tyro
from nerfstudio.cameras.camera_utils import auto_orient_and_center_poses
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser, ColmapDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from numpy.typing import NDArray

from nts_plugins.data import checks, pictures
from nts_plugins.data.labels import LabelFolder, LerfOvsLabels, ThreeDOvsLabels
from nts_plugins.errors import InputError


@dataclass
class LerfOvsDataParserConfig(ColmapDataParserConfig):
    """A scene of LERF-OVS: photographs, COLMAP's model of them, and labels beside the scenes' folder."""

    _target: Type = field(default_factory=lambda: LerfOvsDataParser)
    data: Path = Path()
    """The scene's folder, with images and sparse/0."""
    labels: Optional[Path] = None
    """Folder of the scene's labels; None for ../label/SCENE, seen from the scene's own folder."""
    hold_out: bool = True
    """Keep labelled pictures out of training. The programs behind published numbers train on them, too: False does."""
    colmap_path: Path = Path("sparse/0")
    """COLMAP's model, seen from the scene's folder."""
    downscale_factor: Optional[int] = 1
    """None looks for smaller pictures where they are large, and asks whether to make some. Better leave it at 1, and
    let --pipeline.datamanager.camera-res-scale-factor make them smaller."""
    # Labels alone decide what is held out.
    eval_mode: tyro.conf.Suppress[Literal["fraction", "filename", "interval", "all"]] = "interval"
    train_split_fraction: tyro.conf.Suppress[float] = 0.9
    eval_interval: tyro.conf.Suppress[int] = 8


class LerfOvsDataParser(ColmapDataParser):
    """nerfstudio's parser of COLMAP's models, where labels say which pictures are evaluated.

    Pictures come in the order of their names, whatever COLMAP's numbers of them are. Lists of pictures
    (``test_list.txt``), which nerfstudio's parser would go by, are not looked at.

    Raises:
        InputError: for what is missing in the scene, or is not what it should be.
    """

    config: LerfOvsDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        data = _folder(self.config.data)
        model = data / self.config.colmap_path
        if not any((model / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt")):
            raise InputError(
                f"There is no COLMAP model (cameras.bin, images.bin, points3D.bin) in {model}. LERF-OVS comes with one "
                f"in sparse/0; name another one with --colmap-path."
            )
        labels = self._labels(data)
        with checks.explained(data):
            outputs = super()._generate_dataparser_outputs(split, **kwargs)
        return _labelled(outputs, split, labels)

    def _get_image_indices(self, image_filenames: Sequence[Path], split: str) -> NDArray[np.int64]:
        labels = self._labels(_folder(self.config.data))
        return np.array(_split(image_filenames, labels, split, self.config.hold_out, self.config.data), np.int64)

    def _labels(self, data: Path) -> LerfOvsLabels:
        folder = self.config.labels or data.parent / "label" / data.name
        if not folder.is_dir():
            raise InputError(
                f"There is no folder of labels {folder.absolute()}. LERF-OVS keeps them in label/SCENE beside the "
                f"scenes; name another folder with --labels."
            )
        return LerfOvsLabels.find(folder)


@dataclass
class ThreeDOvsDataParserConfig(DataParserConfig):
    """A scene of 3D-OVS: photographs, LLFF's poses of them, and masks of classes in some views."""

    _target: Type = field(default_factory=lambda: ThreeDOvsDataParser)
    data: Path = Path()
    """The scene's folder, with images, segmentations and poses_bounds.npy."""
    labels: Optional[Path] = None
    """Folder of the masks, with its classes.txt; None for segmentations, seen from the scene's own folder."""
    hold_out: bool = True
    """Keep labelled pictures out of training. The programs behind published numbers train on them, too: False does."""
    images_path: Path = Path("images")
    """The photographs, seen from the scene's folder, of any size."""
    orientation_method: Literal["pca", "up", "vertical", "none"] = "up"
    """What becomes the z axis: the mean upward direction of the cameras, or another one."""
    center_method: Literal["poses", "focus", "none"] = "poses"
    """What becomes the origin: the middle of the cameras, or what they look at."""
    auto_scale_poses: bool = True
    """Scale the scene so that cameras are at coordinates from -1 to 1."""


class ThreeDOvsDataParser(DataParser):
    """Cameras from poses_bounds.npy. There are no seed points.

    Raises:
        InputError: for what is missing in the scene, or is not what it should be.
    """

    config: ThreeDOvsDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        data = _folder(self.config.data)
        llff = read_llff(data / "poses_bounds.npy")
        images = _images(data / self.config.images_path)
        if len(images) != len(llff.poses):
            raise InputError(
                f"{data / 'poses_bounds.npy'} has {len(llff.poses)} poses, and {data / self.config.images_path} has "
                f"{len(images)} pictures. The poses are those of the pictures in the order of their names: there must "
                f"be as many."
            )
        folder = self.config.labels or data / "segmentations"
        if not folder.is_dir():
            raise InputError(
                f"There is no folder of masks {folder.absolute()}. 3D-OVS keeps them in segmentations; name another "
                f"folder with --labels."
            )
        labels = ThreeDOvsLabels.find(folder, images)
        poses, transform = auto_orient_and_center_poses(
            torch.from_numpy(llff.poses).float(),
            method=self.config.orientation_method,
            center_method=self.config.center_method,
        )
        scale = 1.0
        if self.config.auto_scale_poses:
            with checks.explained(data):
                scale = 1.0 / float(poses[:, :3, 3].abs().max())
        poses[:, :3, 3] *= scale
        sizes = np.array([pictures.image_size(path) for path in images], np.float64)
        _check_shapes(images, sizes, llff)
        # Lenses are those of pictures of LLFF's size; the files may be smaller.
        focal = torch.from_numpy(llff.focal[:, None] * sizes / llff.sizes).float()
        middle, whole = torch.from_numpy(sizes / 2).float(), torch.from_numpy(sizes).to(torch.int64)
        which = torch.tensor(_split(images, labels, split, self.config.hold_out, data), dtype=torch.int64)
        cameras = Cameras(
            camera_to_worlds=poses[which, :3, :4],
            fx=focal[which, 0:1],
            fy=focal[which, 1:2],
            cx=middle[which, 0:1],
            cy=middle[which, 1:2],
            width=whole[which, 0:1],
            height=whole[which, 1:2],
            camera_type=CameraType.PERSPECTIVE,
        )
        outputs = DataparserOutputs(
            image_filenames=[images[index] for index in which.tolist()],
            cameras=cameras,
            scene_box=SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])),
            dataparser_scale=scale,
            dataparser_transform=transform,
        )
        return _labelled(outputs, split, labels)


class Llff(NamedTuple):
    """What poses_bounds.npy of N pictures says."""

    poses: NDArray[np.float64]
    """[N, 4, 4] camera to world, OpenGL axes (x right, y up, z backward)."""
    sizes: NDArray[np.float64]
    """[N, 2] width and height of the pictures that the focal lengths are of."""
    focal: NDArray[np.float64]
    """[N] pixels."""
    bounds: NDArray[np.float64]
    """[N, 2] depth of the nearest and of the farthest point."""


def read_llff(path: Path) -> Llff:
    """Cameras as LLFF (Mildenhall et al. 2019) keeps them: 17 numbers a picture.

    The first 15 are a 3 x 5 matrix, row by row. Its first three columns are the camera's axes, which point down, right
    and backward; then come its place, and height, width and focal length. The last two are bounds of depth.

    Raises:
        InputError: where the file is missing or holds something else.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path.absolute()} with the cameras of the pictures, as LLFF writes it.")
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is damaged: {error}.") from error
    if values.ndim != 2 or values.shape[1] != 17 or not len(values) or not np.isfinite(values.astype(float)).all():
        raise InputError(f"{path} should hold 17 finite numbers for each picture, and holds {list(values.shape)}.")
    matrices = values[:, :15].astype(np.float64).reshape(-1, 3, 5)
    down, right, backward, place = (matrices[:, :, column] for column in range(4))
    poses = np.broadcast_to(np.eye(4), (len(values), 4, 4)).copy()
    poses[:, :3] = np.stack([right, -down, backward, place], axis=2)
    turns = poses[:, :3, :3]
    bent = np.abs(turns.transpose(0, 2, 1) @ turns - np.eye(3)).max(axis=(1, 2)) > 0.02
    wrong = np.flatnonzero(bent | (np.linalg.det(turns) < 0))
    if len(wrong):
        raise InputError(f"Pose {wrong[0]} of {path} is not a rotation: its axes are not at right angles, or mirrored.")
    height, width, focal = (matrices[:, row, 4] for row in range(3))
    if not (matrices[:, :, 4] > 0).all():
        raise InputError(f"{path} needs heights, widths and focal lengths above zero.")
    return Llff(poses, np.stack([width, height], axis=1), focal, values[:, 15:].astype(np.float64))


def _folder(data: Path) -> Path:
    """The scene's folder with a name of its own, even where it was called '.'. Links are not followed."""
    folder = Path(os.path.abspath(data))
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. Give --data the folder of a scene.")
    return folder


def _images(folder: Path) -> List[Path]:
    suffixes = (".jpg", ".jpeg", ".png")
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    images = [path for path in found if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    if not images:
        raise InputError(f"There are no pictures ({', '.join(suffixes)}) in {folder}. Name a folder by --images-path.")
    return images


def _check_shapes(images: Sequence[Path], sizes: NDArray[np.float64], llff: Llff) -> None:
    """Pictures may be smaller than LLFF's, but not of another shape: rounding to whole pixels changes a little."""
    ratios = sizes / llff.sizes
    for path, size, wanted, ratio in zip(images, sizes, llff.sizes, ratios, strict=True):
        if abs(ratio[0] / ratio[1] - 1) > 0.02:
            raise InputError(
                f"The image {path} is {size[0]:.0f}x{size[1]:.0f} pixels, but its pose is one of "
                f"{wanted[0]:.0f}x{wanted[1]:.0f}. It may be rotated by its EXIF tag, or cropped."
            )


def _split(images: Sequence[Path], labels: LabelFolder, split: str, hold_out: bool, data: Path) -> List[int]:
    """Numbers of a split's pictures, in the order of their names; "val" and "test" are the same."""
    labelled = labels.choose(images)
    if split != "train":
        return labelled
    kept = set(range(len(images))) - set(labelled if hold_out else [])
    if not kept:
        raise InputError(
            f"All pictures of {data} are labelled, so that none is left to train on. Train on labelled ones, too: "
            f"--hold-out False."
        )
    return sorted(kept, key=lambda index: str(images[index]))


def _labelled(outputs: DataparserOutputs, split: str, labels: LabelFolder) -> DataparserOutputs:
    return outputs if split == "train" else replace(outputs, metadata={**outputs.metadata, "labels": labels})


lerf_ovs = DataParserSpecification(
    config=LerfOvsDataParserConfig(), description="Scenes of LERF-OVS, with the labels of LangSplat."
)
three_d_ovs = DataParserSpecification(
    config=ThreeDOvsDataParserConfig(), description="Scenes of 3D-OVS, with LLFF's poses and masks of classes."
)
