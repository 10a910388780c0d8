# SPDX-License-Identifier: Apache-2.0
"""Full images and their cameras, one pair a step, at next to no cost.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

import copy
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Callable, Dict, List, Literal, Optional, Tuple, Type

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.utils.rich_utils import CONSOLE

from nts_plugins import compat
from nts_plugins.data import checks, pictures
from nts_plugins.data.cameras import camera_extent, camera_spacing, region_in_view
from nts_plugins.data.dataset import SplatDataset
from nts_plugins.data.pyramid import pyramids
from nts_plugins.data.times import moments, with_times
from nts_plugins.errors import InputError

Batch = Dict


@dataclass
class SplatDatamanagerConfig(FullImageDatamanagerConfig):
    """Settings of :class:`SplatDatamanager`."""

    _target: Type = field(default_factory=lambda: SplatDatamanager)
    dataparser: AnnotatedDataParserUnion = field(
        default_factory=lambda: NerfstudioDataParserConfig(load_3D_points=True)
    )
    """Any nerfstudio dataparser. The points of the reconstruction are where the splats start."""
    camera_res_scale_factor: float = 1.0
    """Size of the pictures relative to the files: 0.5 halves width and height. Averages pixels, adapts the cameras."""
    cache_images: Literal["cpu", "gpu"] = "gpu"
    """Where pictures are kept: "gpu" is the training device, "cpu" the main memory."""
    cache_images_type: Literal["uint8", "float32"] = "uint8"
    """uint8 takes a quarter of the memory of float32, and is exact for photographs."""
    train_views: Optional[int] = None
    """Train on this many pictures, evenly chosen from first to last, for experiments with few views; None takes all.
    Seed points, and the pictures of evaluation, stay."""


class SplatDatamanager(FullImageDatamanager[SplatDataset]):
    """Yields (camera, batch) pairs of whole pictures.

    A batch holds ``image_idx``, ``image`` [H, W, 3 or 4] uint8, ``mask`` [H, W, 1] where there is one, whatever the
    dataset adds, and ``pyramids``: the same maps in smaller sizes, cached. Its tensors are the cache: never change
    them in place. ``camera.metadata["cam_idx"]`` is the image's index, in training and in evaluation.

    Which picture comes in which step depends on the step and ``train_cameras_sampling_seed`` alone, so a training that
    is resumed goes on with the same pictures as one that was never interrupted. (Not so with nerfstudio's "fps" as
    ``train_cameras_sampling_strategy``, which starts anew.)

    Raises:
        InputError: for whatever is wrong with the capture, before anything is written.
    """

    config: SplatDatamanagerConfig
    train_dataset: SplatDataset
    eval_dataset: SplatDataset

    def __init__(self, config: SplatDatamanagerConfig, *args, **kwargs) -> None:
        data = config.data or config.dataparser.data
        with checks.explained(data), compat.point_clouds_without_open3d():
            if type(config.dataparser) is NerfstudioDataParserConfig:
                checks.check_transforms_file(data)
            super().__init__(config, *args, **kwargs)
        self.includes_time = self.train_dataset.cameras.times is not None
        if self.includes_time:
            compat.let_paths_sweep_time()

    def _chosen(self, outputs: DataparserOutputs) -> DataparserOutputs:
        """Those of ``train_views`` pictures."""
        count, available = self.config.train_views, len(outputs.image_filenames)
        if count is None:
            return outputs
        if not 1 <= count <= available:
            raise InputError(
                f"--pipeline.datamanager.train-views is {count}; it must be from 1 to {available}, the number of "
                f"training pictures."
            )
        indices = torch.linspace(0, available - 1, count).round().long().tolist()

        def pick(values):
            return [values[index] for index in indices] if isinstance(values, list) else values

        return replace(
            outputs,
            image_filenames=pick(outputs.image_filenames),
            mask_filenames=pick(outputs.mask_filenames),
            cameras=outputs.cameras[torch.tensor(indices)],
            metadata={
                key: pick(value) if key.endswith("_filenames") else value for key, value in outputs.metadata.items()
            },
        )

    @property
    def dataset_type(self) -> Type[SplatDataset]:
        """The class of both datasets; a subclass that adds maps to the batch names its own."""
        return SplatDataset

    def create_train_dataset(self) -> SplatDataset:
        dataset = self._create_dataset(self._chosen(self.train_dataparser_outputs))
        if len(dataset) == 0:
            raise InputError(f"The data {self.config.data} has no training images. Check its list of images.")
        # This dictionary is the channel from the data to the model.
        poses = dataset.cameras.camera_to_worlds
        dataset.metadata["camera_extent"] = camera_extent(poses)
        sizes = dataset.cameras.height * dataset.cameras.width
        dataset.metadata["training_numbers"] = 3 * int(sizes.sum())
        dataset.metadata["random_region"] = region_in_view(poses)
        dataset.metadata["training_views"] = len(dataset)
        dataset.metadata["camera_spacing"] = camera_spacing(poses)
        dataset.metadata["moments"] = moments(dataset.cameras)
        color = self.train_dataparser_outputs.alpha_color
        opened = [] if self.test_mode == "inference" else dataset.image_filenames
        dataset.metadata["has_alpha"] = any(map(pictures.has_alpha, opened))
        dataset.metadata["alpha_color"] = None if color is None else [float(value) for value in color]
        return dataset

    def create_eval_dataset(self) -> SplatDataset:
        return self._create_dataset(self.dataparser.get_dataparser_outputs(split=self.test_split))

    def _create_dataset(self, outputs: DataparserOutputs) -> SplatDataset:
        # Rendering and exporting need the cameras alone, and work where the pictures are not, as far as the dataparser
        # does: nerfstudio-data does; colmap and blender-data open the first picture.
        opened = self.test_mode != "inference"
        parser, data = self.config.dataparser, self.dataparser.config.data
        is_transforms = type(parser) is NerfstudioDataParserConfig
        outputs = with_times(outputs, checks.transforms_file(data) if is_transforms else None)
        return self.dataset_type(outputs, self.config.camera_res_scale_factor, open_files=opened)

    def setup_train(self) -> None:
        """Read all pictures now, held-out ones too: a damaged one ends the run before its folder exists."""
        if self.test_mode != "val":
            return
        _ = self.cached_eval
        sample = self.cached_train[:: max(1, len(self.cached_train) // 8)]
        if sum("mask" not in batch and pictures.has_black_rim(batch["image"]) for batch in sample) > len(sample) // 2:
            CONSOLE.print(
                "[yellow]The photographs end in a black rim, as undistorting leaves it. No scene looks like that: the "
                "rim costs PSNR, and splats gather in front of the cameras to paint it. Crop the photographs. "
                "Masks that leave it out ('mask_path' in transforms.json) keep the splats clean, but ns-eval scores "
                "every pixel.[/yellow]"
            )
        if len(self.train_dataparser_outputs.metadata.get("points3D_xyz", ())) == 0:
            CONSOLE.print(
                "[yellow]The data has no seed points: training starts from random splats, and takes longer to become "
                "good. A reconstruction's points.ply helps, named by 'ply_file_path' in transforms.json.[/yellow]"
            )

    @cached_property
    def cached_train(self) -> List[Batch]:
        return self._read(self.train_dataset, "training")

    @cached_property
    def cached_eval(self) -> List[Batch]:
        return self._read(self.eval_dataset, "evaluation")

    @cached_property
    def _train_cameras(self) -> List[Cameras]:
        return _one_by_one(self.train_dataset.cameras, self.device)

    @cached_property
    def _eval_cameras(self) -> List[Cameras]:
        return _one_by_one(self.eval_dataset.cameras, self.device)

    def _read(self, dataset: SplatDataset, name: str) -> List[Batch]:
        """All pictures of a dataset, read by a few threads, on the device that keeps them."""
        from rich.progress import track

        def read(index: int) -> Batch:
            batch = dataset.get_data(index, image_type=self.config.cache_images_type)
            batch = {key: self._keep(value) for key, value in batch.items()}
            batch["pyramids"] = pyramids(batch)
            return batch

        count = len(dataset)
        with ThreadPoolExecutor(max_workers=self.config.max_thread_workers or 4) as executor:
            batches = executor.map(read, range(count))
            progress = track(batches, f"Reading {count} {name} images", total=count, transient=True, console=CONSOLE)
            return list(progress)

    def _keep(self, value):
        if not isinstance(value, torch.Tensor):
            return value
        if self.config.cache_images == "gpu":
            return value.to(self.device)
        # Pinned memory makes copies to a GPU faster; without one there is nothing to pin for.
        return value.pin_memory() if torch.cuda.is_available() else value

    def _pair(self, cameras: List[Cameras], batches: List[Batch], index: int) -> Tuple[Cameras, Batch]:
        # Shallow copies, so that whoever adds a key or rescales the camera does not change the cache.
        camera = copy.copy(cameras[index])
        camera.metadata = {**(camera.metadata or {}), "cam_idx": index}
        batch = dict(batches[index])
        for key, value in batch.items():
            if isinstance(value, torch.Tensor) and value.device.type != torch.device(self.device).type:
                batch[key] = value.to(self.device, non_blocking=True)
        return camera, batch

    def train_index(self, step: int) -> int:
        """Index of the training picture of a step: every picture once, in random order, then all of them anew.

        Where the model says that only some pictures count in a step (``pictures_at``), those in place of all.
        """
        pictures = self.pictures_at(step) or range(len(self.train_dataset))
        epoch, place = divmod(step, len(pictures))
        if self._order[:2] != (epoch, len(pictures)):
            order = list(pictures)
            random.Random(f"{self.config.train_cameras_sampling_seed} {epoch}").shuffle(order)
            self._order = (epoch, len(pictures), order)
        return self._order[2][place]

    pictures_at: Callable[[int], Optional[Sequence]] = staticmethod(lambda step: None)
    """The model's, once there is one."""
    _order: Tuple[int, int, List[int]] = (-1, 0, [])

    def sample_train_cameras(self) -> List[int]:
        # Farthest point sampling goes by eight cells of space, and has nothing to choose from with fewer cameras.
        if self.config.train_cameras_sampling_strategy == "fps" and len(self.train_dataset) >= 8:
            return super().sample_train_cameras()
        return list(range(len(self.train_dataset)))

    def next_train(self, step: int) -> Tuple[Cameras, Batch]:
        if self.config.train_cameras_sampling_strategy == "random":
            return self._pair(self._train_cameras, self.cached_train, self.train_index(step))
        pictures = self.pictures_at(step) or range(len(self.train_dataset))
        while True:
            index = self.train_unseen_cameras.pop(0)
            if not self.train_unseen_cameras:
                self.train_unseen_cameras = self.sample_train_cameras()
            if int(index) in pictures:
                break
        return self._pair(self._train_cameras, self.cached_train, int(index))

    def next_eval_image(self, step: int) -> Tuple[Cameras, Batch]:
        index = step % len(self.eval_dataset)
        return self._pair(self._eval_cameras, self.cached_eval, index)

    @property
    def fixed_indices_eval_dataloader(self) -> "Pairs":
        """Every evaluation picture with its camera, in order. Reads nothing yet: the viewer looks at properties."""
        return Pairs(lambda: self._eval_cameras, lambda: self.cached_eval, self._pair)

    @property
    def training_pairs(self) -> "Pairs":
        """The same of every training picture."""
        return Pairs(lambda: self._train_cameras, lambda: self.cached_train, self._pair)

    def get_train_rays_per_batch(self) -> int:
        cameras = self.train_dataset.cameras
        return int((cameras.width * cameras.height).float().mean())


class Pairs(Sequence):
    """The (camera, batch) pairs of a dataset, each made when it is asked for."""

    def __init__(
        self, cameras: Callable[[], List[Cameras]], batches: Callable[[], List[Batch]], pair: Callable[..., Any]
    ) -> None:
        self._cameras, self._batches, self._pair = cameras, batches, pair

    def __len__(self) -> int:
        return len(self._cameras())

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        return self._pair(self._cameras(), self._batches(), range(len(self))[index])


def _one_by_one(cameras: Cameras, device) -> List[Cameras]:
    """Each camera as a ``Cameras`` of one. Slicing takes longer than some training steps, so it is done once."""
    cameras = cameras.to(device)
    return [cameras[index : index + 1] for index in range(len(cameras))]
