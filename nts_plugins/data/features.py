# SPDX-License-Identifier: Apache-2.0
"""Features of pictures on disk: one file a picture, found by what the picture shows and by what made the features.

A file holds int16 or int32 ids [L, H, W] and float16 features [M, C] (:class:`nts_plugins.encoders.base.Regions`) as
safetensors, which are read without being copied into memory. Files are there whole or not at all, so that whoever is
killed begins with the picture it was at.
"""

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy.typing as npt
import torch

from nts_plugins.encoders.base import Regions
from nts_plugins.errors import InputError, describe
from nts_plugins.files.claims import claimed
from nts_plugins.files.whole import result_file, writing

FORMAT = 1
"""Of the files; counts up when old ones can no longer be read."""
INDEX = "store.json"
SUFFIX = ".safetensors"
IMPORTED = " / langsplat's files"
"""Ends the name of an encoder whose regions were brought from elsewhere, and cannot be made here."""


def key_of(picture: npt.NDArray) -> str:
    """What a picture is found by: equal for equal pixels.

    Args:
        picture: [H, W, C] uint8, undistorted, as it is trained on.
    """
    digest = hashlib.sha256(repr(picture.shape).encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()[:24]


@dataclass(frozen=True)
class FeatureStore:
    """A folder of features that one encoder made.

    Args:
        folder: of the files; made when the first one is written.
        encoder: its name, which says of which space the features are and what regions depend on.

    Raises:
        InputError: where the folder holds features of another encoder, or is something else.
    """

    folder: Path
    encoder: str

    def __post_init__(self) -> None:
        found = self.encoder_of(self.folder)
        if found not in (None, self.encoder):
            raise InputError(
                f"{self.folder} holds features of {found!r}, and {self.encoder!r} is asked for. Name another folder, "
                f"or remove this one."
            )

    @staticmethod
    def encoder_of(folder: Path) -> "str | None":
        """Name of the encoder whose features a folder holds; None where there are none.

        Raises:
            InputError: where the folder is something else.
        """
        index = folder / INDEX
        if not index.is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise InputError(f"{folder} is there, and holds no features ({INDEX} is missing). Name another folder.")
            return None
        try:
            values = json.loads(index.read_text())
            encoder, version = str(values["encoder"]), values["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{index} is damaged: {error!r}. Remove {folder}, and extract the features anew."
            ) from error
        if version != FORMAT:
            raise InputError(f"{folder} has files of format {version}, and this version reads {FORMAT}. Extract anew.")
        return encoder

    def path(self, key: str) -> Path:
        """The file of a picture's features."""
        return self.folder / (key + SUFFIX)

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def claim(self, key: str) -> "AbstractContextManager[bool]":
        """Be the only one who extracts a picture's features; see :func:`nts_plugins.files.claims.claimed`."""
        self._begin()
        return claimed(self.folder / ".claims" / key)

    def write(self, key: str, regions: Regions, picture: str) -> None:
        """Keep a picture's features.

        Args:
            key: of the picture, see :func:`key_of`.
            regions: what is kept; features lose what float16 does not hold.
            picture: its name, for people.

        Raises:
            InputError: where the file cannot be written.
        """
        from safetensors.torch import save

        self._begin()
        small = len(regions.features) <= torch.iinfo(torch.int16).max
        tensors = {
            "ids": regions.ids.to(torch.int16 if small else torch.int32).cpu().contiguous(),
            "features": regions.features.to(torch.float16).cpu().contiguous(),
        }
        about = {"picture": picture, "encoder": self.encoder, "levels": json.dumps(regions.levels)}
        with result_file(self.path(key)) as file:
            file.write(save(tensors, metadata=about))

    def read(self, key: str) -> Regions:
        """A picture's regions, ids as int32; features as float16 in mapped memory.

        Raises:
            InputError: where there are none, or their file is damaged.
        """
        with self._opened(key) as file:
            levels = tuple(json.loads(file.metadata()["levels"]))
            return Regions(file.get_tensor("ids").to(torch.int32), file.get_tensor("features"), levels)

    def count(self, key: str) -> int:
        """How many regions a picture has, without reading them.

        Raises:
            InputError: where there is no file of it, or it is damaged, as far as its beginning tells.
        """
        with self._opened(key) as file:
            return int(file.get_slice("features").get_shape()[0])

    def pictures(self) -> Dict[str, str]:
        """Key of each picture that there are features of, to its name."""
        found = {}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            with self._opened(path.stem) as file:
                found[path.stem] = file.metadata()["picture"]
        return found

    def check(self, pictures: Sequence[Tuple[str, str]]) -> None:
        """Make sure that there are features of all pictures.

        Args:
            pictures: key and name of each.

        Raises:
            InputError: naming those without, and those that have changed since.
        """
        missing = [name for key, name in pictures if key not in self]
        if not missing:
            return
        known = set(self.pictures().values())
        changed = [name for name in missing if name in known]
        because = f" {describe(changed)} had features and were changed, or are read at another size." if changed else ""
        raise InputError(
            f"{len(missing)} of {len(pictures)} pictures have no features of {self.encoder!r} in {self.folder}: "
            f"{describe(missing)}.{because} {self._remedy()}"
        )

    def _remedy(self) -> str:
        if self.encoder.endswith(IMPORTED):
            return f"nts features --from-langsplat DIR --output-dir {self.folder} brings what is missing."
        return "nts features extracts what is missing."

    def _begin(self) -> None:
        index = self.folder / INDEX
        if not index.is_file():
            with writing(index):
                self.folder.mkdir(parents=True, exist_ok=True)
            with result_file(index) as file:
                file.write(json.dumps({"format": FORMAT, "encoder": self.encoder}, indent=1).encode())

    def _opened(self, key: str):
        from safetensors import SafetensorError, safe_open

        path = self.path(key)
        if not path.is_file():
            raise InputError(f"There are no features in {path}.")
        try:
            return safe_open(str(path), framework="pt")
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged: {error}. Remove it, and nts features makes it anew.") from error


def slug(encoder: str) -> str:
    """A folder's name for an encoder: readable, and another for another encoder."""
    words = "".join(letter if letter.isalnum() else "-" for letter in encoder.partition("/")[0].strip()).strip("-")
    return f"{words}-{hashlib.sha256(encoder.encode()).hexdigest()[:8]}"


def default_folder(data: Path, encoder: str) -> Path:
    """Where features of a scene are, if nobody says otherwise."""
    return (data if data.is_dir() else data.parent) / "features" / slug(encoder)


def stores_below(data: Path) -> List[FeatureStore]:
    """The features that a scene's folder has, those of each encoder."""
    folder = (data if data.is_dir() else data.parent) / "features"
    encoders = {index.parent: FeatureStore.encoder_of(index.parent) for index in sorted(folder.glob(f"*/{INDEX}"))}
    return [FeatureStore(place, encoder) for place, encoder in encoders.items() if encoder is not None]
