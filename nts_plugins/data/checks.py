# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a capture, each said in one clear message before anything is written."""

import json
import math
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Sequence, Tuple

import numpy as np
import torch
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras, CameraType

from nts_plugins.errors import InputError

_HOW_TO_MAKE_DATA = (
    "Give --data a folder with a transforms.json (ns-process-data makes one from photos), or name another format "
    "at the end of the command, such as colmap or blender-data."
)
_HOW_TO_MAKE_PINHOLE = (
    "Undistort the pictures to pinhole cameras first (`colmap image_undistorter`; for 360 degree pictures "
    "`ns-process-data images --camera-type equirectangular`)."
)


@contextmanager
def explained(data: Any) -> Iterator[None]:
    """Turn what a dataparser raises about its input into an InputError that names the data."""
    try:
        yield
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"Cannot read the data: {error}. {_HOW_TO_MAKE_DATA}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"The data {data} holds a file that is not valid JSON: {error}.") from error
    except KeyError as error:
        raise InputError(f"The data {data} lacks the entry {error}.") from error
    except ZeroDivisionError as error:
        raise InputError(
            f"The cameras of {data} are all at one place, so their distances give no scale. Take the poses as they "
            f"are: end the command with nerfstudio-data --auto-scale-poses False."
        ) from error
    except AssertionError as error:
        if not str(error):
            raise
        raise InputError(f"The data {data} cannot be used: {str(error).strip()}") from error
    except (ValueError, RuntimeError, NotImplementedError) as error:
        # What nerfstudio's dataparsers raise for a COLMAP folder without its files, a lens they do not know, or lists
        # of pictures that do not belong together.
        raise InputError(f"The data {data} cannot be used: {str(error).strip() or type(error).__name__}") from error


def transforms_file(data: Path) -> Path:
    """transforms.json of a nerfstudio capture, which is named by its folder or by the file itself."""
    return data if data.suffix == ".json" else data / "transforms.json"


def check_transforms_file(data: Path) -> None:
    """Look through a nerfstudio capture's transforms.json, so that a message can name the frame that is wrong.

    Args:
        data: the folder of the capture, or the file itself.

    Raises:
        InputError: where the file is missing, is no JSON, lists no frame, names points that are not there, has a frame
            without a usable pose, or cameras that are no pinhole cameras.
    """
    path = transforms_file(data)
    if not path.is_file():
        raise InputError(f"There is no file {path.absolute()}. {_HOW_TO_MAKE_DATA}")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from error
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not frames or not isinstance(frames, list):
        raise InputError(f"{path} lists no images. It needs an entry 'frames' with at least one image and its pose.")
    points = path.parent / str(meta.get("ply_file_path", ""))
    if "ply_file_path" in meta and not points.is_file():
        raise InputError(
            f"There is no file of seed points {points}. Check 'ply_file_path' in {path}; without that entry training "
            f"starts from random splats."
        )
    if "camera_model" in meta:
        _check_model(str(meta["camera_model"]), path)
    for index, frame in enumerate(frames):
        name = frame.get("file_path") if isinstance(frame, dict) else None
        if not isinstance(name, str):
            raise InputError(f"Frame {index} of {path} has no 'file_path' that names its picture.")
        # nerfstudio reads the model of the whole file alone, and would take such a frame for a pinhole's.
        if str(frame.get("camera_model")) in CAMERA_MODEL_TO_TYPE:
            _check_model(str(frame["camera_model"]), f"{name} in {path}")
        _check_pose(frame.get("transform_matrix"), f"{name} in {path}")


def _check_model(name: str, where: object) -> None:
    kind = CAMERA_MODEL_TO_TYPE.get(name)
    if kind is None:
        known = ", ".join(key for key, value in CAMERA_MODEL_TO_TYPE.items() if value == CameraType.PERSPECTIVE)
        raise InputError(f"{where} names the unknown camera_model {name!r}. Pinhole models are {known}.")
    if kind != CameraType.PERSPECTIVE:
        raise InputError(
            f"{where} has the camera_model {name}, but splatting draws pinhole cameras. {_HOW_TO_MAKE_PINHOLE}"
        )


def _check_pose(matrix: Any, name: str) -> None:
    try:
        pose = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        pose = np.zeros(0)
    if pose.shape != (4, 4):
        raise InputError(f"The frame {name} has no 'transform_matrix' of 4x4 numbers.")
    if not np.isfinite(pose).all():
        raise InputError(f"The pose of {name} is not finite (NaN or infinity). Remove the frame or find its pose anew.")
    turn = pose[:3, :3]
    if np.abs(turn.T @ turn - np.eye(3)).max() > 0.02 or np.linalg.det(turn) < 0:
        raise InputError(
            f"The pose of {name} is not a rotation: the first three columns of its 'transform_matrix' are not of "
            f"length 1 and at right angles, or mirror the picture. Find its pose anew."
        )
    if np.abs(pose[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise InputError(f"The pose of {name} has the last row {pose[3].tolist()} instead of 0 0 0 1.")


def check_files(paths: Sequence[Path], kind: str) -> None:
    """Every file exists. ``kind`` is what to call them."""
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        hint = "Check the paths that the data names."
        reduced = re.fullmatch(r".*_(\d+)", Path(missing[0]).parent.name)
        if reduced and not Path(missing[0]).parent.is_dir():
            factor = 1 / int(reduced[1])
            hint = (
                f"A downscale factor needs a folder of pictures made beforehand. Without one, shrink them while they "
                f"are read: --pipeline.datamanager.camera-res-scale-factor {factor:g}."
            )
        raise InputError(f"The {kind} {missing[0]}{more} does not exist. {hint}")


def check_cameras(cameras: Cameras, names: Sequence[Path]) -> None:
    """Every camera is a pinhole camera with a finite pose and a positive focal length."""
    kinds = cameras.camera_type.reshape(-1).tolist()
    for name, kind in zip(names, kinds, strict=True):
        if kind != CameraType.PERSPECTIVE.value:
            raise InputError(
                f"The camera of {name} is {CameraType(kind).name}, but splatting draws pinhole cameras. "
                f"{_HOW_TO_MAKE_PINHOLE}"
            )
    finite = torch.isfinite(cameras.camera_to_worlds).flatten(1).all(dim=1)
    focal = torch.cat([cameras.fx, cameras.fy], dim=-1)
    principal = torch.cat([cameras.cx, cameras.cy], dim=-1)
    usable = (torch.isfinite(focal) & (focal > 0) & torch.isfinite(principal)).all(dim=-1)
    for name, has_pose, has_lens in zip(names, finite.tolist(), usable.tolist(), strict=True):
        if not has_pose:
            raise InputError(f"The pose of {name} is not finite (NaN or infinity). Remove it or find its pose anew.")
        if not has_lens:
            raise InputError(f"The camera of {name} needs finite intrinsics and focal lengths above zero.")


def check_scale_factor(scale_factor: float) -> None:
    """Pictures are made smaller, never larger."""
    if not (math.isfinite(scale_factor) and 0.0 < scale_factor <= 1.0):
        raise InputError(
            f"camera_res_scale_factor={scale_factor:g} is not in (0, 1]: 0.5 halves the width and the height."
        )


def check_size(path: Path, size: Tuple[int, int], camera: Tuple[int, int]) -> None:
    """The picture has the size its camera says; both are (width, height)."""
    if size == camera:
        return
    hint = "Check 'w' and 'h', or the downscale factor."
    if size == camera[::-1]:
        hint = "The two are swapped: the file is probably rotated by its EXIF tag. Rotate its pixels and save it."
    raise InputError(
        f"The image {path} is {size[0]}x{size[1]} pixels, but its camera is {camera[0]}x{camera[1]}. {hint}"
    )
