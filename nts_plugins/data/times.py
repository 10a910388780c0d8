# SPDX-License-Identifier: Apache-2.0
"""When each picture of a moving scene was taken.

Methods see times from 0, the first moment of a capture, to 1, the last one. nerfstudio's ``dnerf-data`` brings them so.
Its ``nerfstudio-data`` leaves out what frames of transforms.json say under ``"time"``; it is read here.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from nts_plugins.errors import InputError


def with_times(outputs: DataparserOutputs, transforms: Optional[Path] = None) -> DataparserOutputs:
    """What a dataparser gave, with a time for each camera where the capture names times.

    Args:
        outputs: of one split; not changed.
        transforms: the capture's transforms.json, where it is one; None where the dataparser itself knows of times.

    Raises:
        InputError: where some frames have a time and others none, or a time is no number or, from a dataparser, not
            in [0, 1].
    """
    if transforms is None:
        _check_range(outputs.cameras, outputs.image_filenames)
        return outputs
    times = read_times(transforms)
    if times is None:
        return outputs
    # nerfstudio puts smaller pictures, of the same names, in folders of their own.
    by_name = {path.name: time for path, time in times.items()}
    chosen = [times.get(Path(path), by_name[Path(path).name]) for path in outputs.image_filenames]
    return replace(outputs, cameras=replace(outputs.cameras, times=torch.tensor(chosen)[:, None]))


def read_times(transforms: Path) -> Optional[Dict[Path, float]]:
    """The time of each picture that a transforms.json names, in [0, 1]; None where no frame has one.

    Frame numbers and seconds are common, too: times that do not all lie in [0, 1] are rescaled, so that the earliest of
    the whole file, held-out frames included, is 0 and the latest is 1.

    Raises:
        InputError: as of :func:`with_times`.
    """
    frames: List[Dict[str, Any]] = json.loads(transforms.read_text(encoding="utf-8"))["frames"]
    without = [frame["file_path"] for frame in frames if "time" not in frame]
    if len(without) == len(frames):
        return None
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise InputError(
            f"{transforms} has frames with a 'time' and others without: {without[0]}{more}. Give each frame one, or "
            f"none of them."
        )
    times = {transforms.parent / frame["file_path"]: _number(frame, transforms) for frame in frames}
    first, last = min(times.values()), max(times.values())
    if 0.0 <= first and last <= 1.0:
        return times
    return {path: (time - first) / max(last - first, 1e-12) for path, time in times.items()}


def _number(frame: Dict[str, Any], transforms: Path) -> float:
    time = frame["time"]
    if isinstance(time, bool) or not isinstance(time, (int, float)) or not math.isfinite(time):
        raise InputError(f"The 'time' of {frame['file_path']} in {transforms} is {time!r}; it must be a finite number.")
    return float(time)


def _check_range(cameras: Cameras, names: List[Path]) -> None:
    if cameras.times is None:
        return
    for name, time in zip(names, cameras.times.reshape(-1).tolist(), strict=True):
        if not 0.0 <= time <= 1.0:
            raise InputError(
                f"The time of {name} is {time:g}; it must lie in [0, 1], from the first moment to the last."
            )


def moments(cameras: Cameras) -> int:
    """How many different times the cameras have; 0 where they have none."""
    return 0 if cameras.times is None else len(cameras.times.unique())
