# SPDX-License-Identifier: Apache-2.0
"""Cameras and depth that a network predicts from photographs, as one ``.npz`` file.

docs/prediction-files.md describes the file for whoever writes one with another program.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from nts_plugins.errors import InputError, describe
from nts_plugins.files.whole import result_file

FORMAT = "nts-plugins prediction"
VERSION = 1
_ARRAYS = ("names", "viewmats", "Ks", "sizes", "depths", "confidences")


@dataclass(frozen=True)
class Prediction:
    """What a network says of the photographs of one scene.

    Raises:
        InputError: where something does not belong together, or is not finite.
    """

    names: Tuple[str, ...]
    """Paths of the N photographs, relative to the file, in any order."""
    viewmats: NDArray[np.float64]
    """[N, 4, 4] world to camera, OpenCV axes, rigid; lengths in a unit of the prediction's own."""
    Ks: NDArray[np.float64]
    """[N, 3, 3] pinhole intrinsics without skew, in pixels of the photographs, pixel centres at +0.5."""
    sizes: NDArray[np.int64]
    """[N, 2] width and height of the photographs."""
    depths: NDArray[np.float32]
    """[N, h, w] along the viewing axis, of whole photographs at any resolution; 0 where nothing is predicted."""
    confidences: NDArray[np.float32]
    """[N, h, w], the higher the surer, on any scale. Only their order counts."""
    source: str = ""
    """The model that predicted, with its weights."""
    licence: str = ""
    """Of these weights, which may bind what is made with them."""

    def __post_init__(self) -> None:
        count = len(self.names)
        shapes = {
            "viewmats": (count, 4, 4),
            "Ks": (count, 3, 3),
            "sizes": (count, 2),
            "depths": (count, *self.depths.shape[1:]),
            "confidences": self.depths.shape,
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InputError(
                    f"The prediction's {name} have shape {list(getattr(self, name).shape)}; {list(shape)} is wanted."
                )
            if not np.isfinite(getattr(self, name)).all():
                raise InputError(f"The prediction's {name} hold numbers that are not finite.")
        if count == 0 or self.depths.ndim != 3:
            raise InputError("The prediction needs depths [N, h, w] of at least one photograph.")
        if len(set(self.names)) != count:
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise InputError(f"The prediction names photographs twice: {describe(twice)}.")
        turns = self.viewmats[:, :3, :3]
        bent = np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2)) > 1e-3
        bent |= np.abs(self.viewmats[:, 3] - (0, 0, 0, 1)).max(axis=1) > 1e-6
        wrong = np.flatnonzero(bent | (np.linalg.det(turns) < 0))
        if len(wrong):
            raise InputError(f"The prediction's camera of {self.names[wrong[0]]} is not rigid.")
        lenses = self.Ks * [[1, 0, 1], [0, 1, 1], [0, 0, 0]] + np.diag([0.0, 0.0, 1.0])
        off = np.abs(self.Ks - lenses).max(axis=(1, 2)) > 1e-6
        wrong = np.flatnonzero(off | (self.Ks[:, 0, 0] <= 0) | (self.Ks[:, 1, 1] <= 0))
        if len(wrong):
            raise InputError(
                f"The prediction's intrinsics of {self.names[wrong[0]]} are not [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] "
                f"with fx and fy above 0."
            )
        empty = [name for name, depth in zip(self.names, self.depths, strict=True) if not (depth > 0).any()]
        if empty:
            raise InputError(f"The prediction has no depth of {describe(empty)}.")

    def rows(self, names: Sequence[str]) -> "Prediction":
        """That of some photographs, in this order.

        Raises:
            InputError: naming those that nothing is predicted of.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise InputError(f"Nothing is predicted of {describe(missing)}.")
        which = [self.names.index(name) for name in names]
        arrays = {name: getattr(self, name)[which] for name in _ARRAYS[1:]}
        return Prediction(tuple(names), **arrays, source=self.source, licence=self.licence)


def save(path: Path, prediction: Prediction) -> None:
    """Write a prediction, whole or not at all. Depths and confidences lose what float16 does not hold, but where values
    are outside of its range.

    Raises:
        InputError: where the file cannot be written.
    """
    arrays: Dict[str, NDArray] = {name: np.asarray(getattr(prediction, name)) for name in _ARRAYS}
    for name in ("depths", "confidences"):
        arrays[name] = _small(arrays[name])
    with result_file(path) as file:
        np.savez_compressed(
            file,
            format=np.array(f"{FORMAT} {VERSION}"),
            **arrays,  # type: ignore[arg-type]
            source=np.array(prediction.source),
            licence=np.array(prediction.licence),
        )


def load(path: Path) -> Prediction:
    """Read a prediction.

    Raises:
        InputError: where the file is missing or damaged, lacks something, or holds what does not belong together.
    """
    if not path.is_file():
        raise InputError(f"There is no prediction {path}.")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name")
        with file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read as an .npz file: {error}.") from error
    found = str(arrays.get("format", ""))
    if found != f"{FORMAT} {VERSION}":
        raise InputError(
            f"{path} says that its format is {found!r}, and {FORMAT} {VERSION} is read. docs/prediction-files.md "
            f"describes it."
        )
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing == ["confidences"]:
        raise InputError(
            f"{path} has depths without confidences. Where all depths are equally good, write ones of their shape."
        )
    if missing:
        raise InputError(f"{path} lacks {describe(missing)}.")
    try:
        return Prediction(
            tuple(str(name) for name in arrays["names"]),
            viewmats=arrays["viewmats"].astype(np.float64),
            Ks=arrays["Ks"].astype(np.float64),
            sizes=arrays["sizes"].astype(np.int64),
            depths=arrays["depths"].astype(np.float32),
            confidences=arrays["confidences"].astype(np.float32),
            source=str(arrays.get("source", "")),
            licence=str(arrays.get("licence", "")),
        )
    except (TypeError, ValueError) as error:  # An InputError is a ValueError.
        raise InputError(f"{path} cannot be used. {error}") from error


def _small(values: NDArray) -> NDArray:
    limits = np.finfo(np.float16)
    present = np.abs(values[values != 0])
    fits = not present.size or (present.max() <= limits.max and present.min() >= limits.tiny)
    return values.astype(np.float16 if fits else np.float32)
