# SPDX-License-Identifier: Apache-2.0
"""LangSplat's own files of features (Qin et al. 2024), read and written.

``NAME_f.npy`` holds [M, C] float32 features of the masks of four levels (default, subpart, part, whole, in this order),
``NAME_s.npy`` [4, H, W] float32 rows of it, -1 where no mask is. "Default" is all masks at once; nothing uses it.
"""

from pathlib import Path
from typing import Optional, Tuple

import numpy as np
import torch

from nts_plugins.encoders.base import LEVELS, NOTHING, Regions
from nts_plugins.errors import InputError
from nts_plugins.files.whole import result_file

OWN_LEVELS = ("default", *LEVELS)


def paths(folder: Path, name: str) -> Tuple[Path, Path]:
    """Files of features and of ids of a picture, by its name without suffix."""
    return folder / f"{name}_f.npy", folder / f"{name}_s.npy"


def read(folder: Path, name: str) -> Optional[Regions]:
    """A picture's regions on the three levels that are used; None where neither file is there.

    Raises:
        InputError: where one of the two files is missing, or they are not what LangSplat writes.
    """
    files = paths(folder, name)
    if not any(path.exists() for path in files):
        return None
    arrays = []
    for path in files:
        if not path.is_file():
            raise InputError(f"{path} is missing beside its other half.")
        try:
            arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
        except (ValueError, OSError, EOFError) as error:
            # What numpy says of Python objects advises to let the file run what it likes.
            raise InputError(
                f"{path} is damaged, or does not hold an array of numbers as LangSplat writes it: make it anew."
            ) from error
    features, ids = arrays
    if (
        any(each.dtype.kind not in "fiu" for each in arrays)
        or features.ndim != 2
        or ids.ndim != 3
        or len(ids) != len(OWN_LEVELS)
    ):
        raise InputError(
            f"{files[0]} and {files[1]} should hold [M, C] and [{len(OWN_LEVELS)}, H, W] numbers, and hold "
            f"{list(features.shape)} {features.dtype} and {list(ids.shape)} {ids.dtype}."
        )
    ids = torch.from_numpy(np.array(ids[1:], np.float32)).round().to(torch.int64)
    if ids.numel() and not NOTHING <= int(ids.min()) <= int(ids.max()) < len(features):
        raise InputError(f"{files[1]} names rows from {int(ids.min())} to {int(ids.max())} of {len(features)}.")
    # The masks of the level that nobody uses stay behind.
    used, rows = torch.unique(ids, return_inverse=True)
    first = int(bool(len(used)) and int(used[0]) == NOTHING)
    kept = torch.from_numpy(np.array(features[used[first:].numpy()], np.float32))
    norms = kept.norm(dim=1, keepdim=True)
    return Regions((rows - first).to(torch.int32), kept / norms.clamp_min(1e-12))


def write(folder: Path, name: str, regions: Regions) -> None:
    """The two files of a picture. "Default" is the level of wholes again.

    Raises:
        InputError: where they cannot be written, or the levels are others.
    """
    if regions.levels != LEVELS:
        raise InputError(f"LangSplat's files have the levels {', '.join(LEVELS)}, and not {', '.join(regions.levels)}.")
    ids = regions.ids.float().numpy()
    arrays = regions.features.float().numpy(), np.concatenate([ids[-1:], ids])
    for path, array in zip(paths(folder, name), arrays, strict=True):
        with result_file(path) as file:
            np.save(file, array)
