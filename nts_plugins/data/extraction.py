# SPDX-License-Identifier: Apache-2.0
"""Features of all pictures of a scene, one picture in memory at a time."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, List, Sequence, Tuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nts_plugins.data import checks
from nts_plugins.data.dataset import SplatDataset
from nts_plugins.data.features import FeatureStore, key_of
from nts_plugins.encoders.base import RegionEncoder


@dataclass
class Outcome:
    """What became of each picture, by name."""

    made: List[str] = field(default_factory=list)
    there: List[str] = field(default_factory=list)
    """Had features before, or got them from another worker."""
    elsewhere: List[str] = field(default_factory=list)
    """Another worker is at them."""
    empty: List[str] = field(default_factory=list)
    """Of those that were made: nothing was found in them."""


class ScenePictures(Sequence[Tuple[str, Callable[[], npt.NDArray[np.uint8]]]]):
    """Name and pixels of every picture of a scene, held-out ones too, as training reads them.

    Args:
        dataparser: a nerfstudio dataparser's config, ``data`` included.
        scale: size of the pictures relative to the files.

    Raises:
        InputError: for whatever is wrong with the capture.
    """

    def __init__(self, dataparser: Any, scale: float = 1.0) -> None:
        self._places: List[Tuple[SplatDataset, int]] = []
        known = set()
        with checks.explained(dataparser.data):
            parser = dataparser.setup()
            for split in ("train", "val", "test"):
                dataset = SplatDataset(parser.get_dataparser_outputs(split=split), scale)
                for index, path in enumerate(dataset.image_filenames):
                    if path not in known:
                        known.add(path)
                        self._places.append((dataset, index))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: Any) -> Any:
        dataset, index = self._places[number]
        return dataset.image_filenames[index].name, lambda: dataset.get_numpy_image(index)

    def path(self, number: int) -> Path:
        """The file of a picture."""
        dataset, index = self._places[number]
        return dataset.image_filenames[index]

    def align(self, number: int, ids: npt.NDArray) -> npt.NDArray:
        """Ids [H, W] that were made from the file on disk, in register with the picture: as they are, at whatever
        resolution, where the picture is the whole file."""
        dataset, index = self._places[number]
        return dataset.align(index, ids, labels=True) if dataset.is_undistorted(index) else ids


def extract(
    pictures: Sequence[Tuple[str, Callable[[], npt.NDArray[np.uint8]]]],
    store: FeatureStore,
    encoder: Callable[[], RegionEncoder],
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Make the features of all pictures that have none yet.

    Any number of processes may do so at once, in one folder: each takes what no other is at. Whoever is killed leaves
    whole files, and nothing of the picture it was at.

    Args:
        pictures: name and a function that reads [H, W, 3 or 4] uint8.
        store: where the features go.
        encoder: makes the encoder, if there is something to do.
        tell: called with how many pictures are done, of how many.

    Raises:
        InputError: of the encoder, and where nothing can be written.
    """
    outcome, loaded = Outcome(), None
    for number, (name, read) in enumerate(pictures):
        tell(number, len(pictures))
        pixels = read()
        key = key_of(pixels)
        if key in store:
            outcome.there.append(name)
            continue
        loaded = loaded or encoder()  # Before anything is written: it may be missing.
        with store.claim(key) as mine:
            if not mine or key in store:
                (outcome.elsewhere if not mine else outcome.there).append(name)
                continue
            regions = loaded.encode(as_seen(pixels))
            store.write(key, regions, name)
        outcome.made.append(name)
        if len(regions.features) == 0:
            outcome.empty.append(name)
    tell(len(pictures), len(pictures))
    return outcome


def as_seen(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """[H, W, 3 or 4] uint8 to [H, W, 3] in [0, 1]; what is transparent is black, as around a mask."""
    values = torch.from_numpy(pixels.astype(np.float32) / 255.0)
    return values if values.shape[2] == 3 else values[..., :3] * values[..., 3:]
