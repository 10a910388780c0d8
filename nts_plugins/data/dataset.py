# SPDX-License-Identifier: Apache-2.0
"""Photographs as splatting needs them: pinhole, at the size asked for, and one clear error for each that cannot be."""

from typing import Dict, List, Literal, Optional, Tuple

import numpy as np
import numpy.typing as npt
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from nts_plugins.data import checks, pictures
from nts_plugins.data._undistort import Undistortion, area_resize
from nts_plugins.errors import InputError


class SplatDataset(InputDataset):
    """Images and the undistorted cameras they belong to.

    ``cameras`` are pinhole cameras of the pictures that :meth:`get_data` returns, from the start: nothing waits for the
    pictures to be loaded. Where a lens has distortion, pictures and masks are undistorted and cropped; :meth:`align`
    does the same to any other map that was made from the file on disk.

    Args:
        dataparser_outputs: what to read, from any nerfstudio dataparser.
        scale_factor: size of the pictures relative to the files; each pixel is the mean of those it covers.
        open_files: look at the files now. Without, only the cameras are known to be good.

    Raises:
        InputError: for a missing or unreadable file, a size that is not the camera's, a camera that is no pinhole
            camera, and a pose that is not finite.
    """

    def __init__(
        self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0, *, open_files: bool = True
    ) -> None:
        if open_files:
            checks.check_files(dataparser_outputs.image_filenames, "image")
            checks.check_files(dataparser_outputs.mask_filenames or [], "mask")
        checks.check_cameras(dataparser_outputs.cameras, dataparser_outputs.image_filenames)
        checks.check_scale_factor(scale_factor)
        super().__init__(dataparser_outputs, scale_factor=1.0)
        self.scale_factor = scale_factor
        self.exclude_batch_keys_from_device = ["image", "mask"]  # nerfstudio changes the list, which its class shares.
        self._file_sizes = [_size(self.cameras, index) for index in range(len(self))]
        for path, size in zip(self.image_filenames, self._file_sizes, strict=True) if open_files else ():
            checks.check_size(path, pictures.image_size(path), size)
        self._undistortions: List[Optional[Undistortion]] = []
        self.cameras = self._pinhole_cameras(self.cameras)

    def _pinhole_cameras(self, cameras: Cameras) -> Cameras:
        """The cameras after resizing and undistortion, without distortion parameters; fills ``_undistortions``."""
        known: Dict[Tuple, Optional[Undistortion]] = {}
        intrinsics, sizes = [], []
        for index in range(len(self)):
            K = cameras[index].get_intrinsics_matrices().numpy().astype(np.float64)
            width, height = self._scaled_size(index)
            full_width, full_height = _size(cameras, index)
            K[0] *= width / full_width
            K[1] *= height / full_height
            distortion = np.zeros(6)
            if cameras.distortion_params is not None:
                distortion = cameras.distortion_params[index].numpy().astype(np.float64)
            # Most captures have one lens: its warp is computed, and held, once.
            key = (K.tobytes(), distortion.tobytes(), width, height)
            if key not in known:
                known[key] = self._undistortion(index, K, distortion, width, height)
            warp = known[key]
            self._undistortions.append(warp)
            intrinsics.append(K if warp is None else warp.K)
            sizes.append((width, height) if warp is None else (warp.width, warp.height))
        Ks = torch.from_numpy(np.array(intrinsics).reshape(-1, 3, 3)).float()
        size = torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2)
        return Cameras(
            camera_to_worlds=cameras.camera_to_worlds,
            fx=Ks[:, 0, 0:1],
            fy=Ks[:, 1, 1:2],
            cx=Ks[:, 0, 2:3],
            cy=Ks[:, 1, 2:3],
            width=size[:, 0:1],
            height=size[:, 1:2],
            camera_type=cameras.camera_type,
            times=cameras.times,
            metadata=cameras.metadata,
        )

    def _undistortion(self, index: int, K: npt.NDArray, distortion: npt.NDArray, w: int, h: int):
        try:
            return Undistortion.for_camera(K, distortion, w, h)
        except ValueError as error:
            raise InputError(f"The camera of {self.image_filenames[index]} cannot be used: {error}") from error

    def _scaled_size(self, index: int) -> Tuple[int, int]:
        width, height = self._file_sizes[index]
        return max(1, int(width * self.scale_factor)), max(1, int(height * self.scale_factor))

    def file_size(self, image_idx: int) -> Tuple[int, int]:
        """Width and height of the file on disk."""
        return self._file_sizes[image_idx]

    def is_undistorted(self, image_idx: int) -> bool:
        """Whether a picture was warped, so that it is not the whole file any more."""
        return self._undistortions[image_idx] is not None

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """The undistorted picture, [H, W, 3] or, with an alpha channel, [H, W, 4]; uint8."""
        image = pictures.read_image(self.image_filenames[image_idx])
        size = self._scaled_size(image_idx)
        if size != self._file_sizes[image_idx]:
            image = area_resize(image, size)
        warp = self._undistortions[image_idx]
        return image if warp is None else warp.apply(image)

    def get_image_uint8(self, image_idx: int) -> Tensor:
        """The picture as :meth:`get_numpy_image` gives it.

        Unlike nerfstudio's, pictures with an alpha channel keep it although the dataparser names an ``alpha_color``:
        the model puts that colour behind them. So training can vary the background, and nothing has to be painted in
        the colour of the background, floating in front of it.
        """
        return torch.from_numpy(self.get_numpy_image(image_idx))

    def get_image_float32(self, image_idx: int) -> Tensor:
        """The same in [0, 1]."""
        return self.get_image_uint8(image_idx).float() / 255.0

    def align(self, image_idx: int, values: npt.NDArray, *, labels: bool = False) -> npt.NDArray:
        """Bring a map that was made from the file on disk into register with the picture: resize and undistort it.

        Args:
            image_idx: which picture.
            values: [H, W] or [H, W, C], any resolution of the whole file.
            labels: take the nearest value instead of mixing neighbours; for ids, masks and depth.
        """
        import cv2

        size = self._scaled_size(image_idx)
        if values.shape[1::-1] != size:
            channels = values.shape[2:]
            mixing = cv2.INTER_AREA if values.shape[1] > size[0] else cv2.INTER_LINEAR
            mode = cv2.INTER_NEAREST_EXACT if labels else mixing
            values = cv2.resize(values, size, interpolation=mode).reshape(size[1], size[0], *channels)
        warp = self._undistortions[image_idx]
        return values if warp is None else warp.apply(values, labels=labels)

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> Dict:
        """One picture and what belongs to it.

        Returns:
            image_idx, image [H, W, 3 or 4] uint8 or float32 in [0, 1], mask [H, W, 1] bool where there is one, and
            whatever :meth:`get_metadata` adds.
        """
        image = self.get_image_uint8(image_idx) if image_type == "uint8" else self.get_image_float32(image_idx)
        data = {"image_idx": image_idx, "image": image}
        mask = self.mask(image_idx)
        if mask is not None:
            data["mask"] = mask
            if self.mask_color:
                color = torch.tensor(self.mask_color, dtype=torch.float32)
                color = (color * 255).to(torch.uint8) if image_type == "uint8" else color
                data["image"] = torch.where(data["mask"], image[..., :3], color)
        data.update(self.get_metadata(data))
        return data

    def mask(self, image_idx: int) -> Optional[Tensor]:
        """[H, W, 1] bool, which pixels of the picture count; None where all do."""
        if self._dataparser_outputs.mask_filenames is None:
            return None
        path = self._dataparser_outputs.mask_filenames[image_idx]
        mask = pictures.read_mask(path)
        if mask.shape[1::-1] != self._file_sizes[image_idx]:
            raise InputError(
                f"The mask {path} is {mask.shape[1]}x{mask.shape[0]} pixels, but its image "
                f"{self.image_filenames[image_idx]} is {'x'.join(map(str, self._file_sizes[image_idx]))}. "
                f"Save the mask at the size of the image."
            )
        covered = self.align(image_idx, mask.astype(np.float32))
        return torch.from_numpy(covered > 0.5).unsqueeze(-1)


def _size(cameras: Cameras, index: int) -> Tuple[int, int]:
    return int(cameras.width[index]), int(cameras.height[index])
