# SPDX-License-Identifier: Apache-2.0
"""Features of all pictures of a scene, by one worker or by several."""

import weakref
from functools import partial
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch

from nts_plugins.data.extraction import ScenePictures, as_seen, extract
from nts_plugins.data.features import FeatureStore, key_of
from nts_plugins.encoders.base import NOTHING, RegionEncoder, Regions
from nts_plugins.errors import InputError
from tests import captures


class Brightness:
    """One region a level, bright pixels, whose feature is their mean colour; counts what it is asked for."""

    name, width = "brightness", 3

    def __init__(self) -> None:
        self.seen: List[torch.Tensor] = []

    def encode(self, picture: torch.Tensor) -> Regions:
        self.seen.append(picture)
        bright = picture.mean(dim=-1) > 0.5
        ids = torch.where(bright, 0, NOTHING).int()
        features = picture[bright].mean(dim=0, keepdim=True) if bool(bright.any()) else torch.zeros(0, 3)
        return Regions(ids.expand(3, -1, -1), torch.nn.functional.normalize(features, dim=1))


def some_pictures(count: int = 5):
    generator = np.random.default_rng(0)
    arrays = [generator.integers(0, 256, (4, 6, 3), dtype=np.uint8) for _ in range(count)]
    return [(f"{number}.png", lambda array=array: array) for number, array in enumerate(arrays)]


def test_every_picture_is_extracted_once(tmp_path: Path) -> None:
    pictures, store, encoder, told = some_pictures(), FeatureStore(tmp_path / "s", "brightness"), Brightness(), []
    assert isinstance(encoder, RegionEncoder)
    outcome = extract(pictures, store, lambda: encoder, lambda done, total: told.append((done, total)))
    assert outcome.made == [name for name, _ in pictures] and not outcome.there and not outcome.empty
    assert told[0] == (0, 5) and told[-1] == (5, 5)
    for name, read in pictures:
        assert store.pictures()[key_of(read())] == name
        torch.testing.assert_close(store.read(key_of(read())).ids, encoder.encode(as_seen(read())).ids)

    def unwanted():
        raise AssertionError("There is nothing to do.")

    assert extract(pictures, store, unwanted).there == [name for name, _ in pictures]


def test_who_is_killed_begins_with_the_picture_it_was_at(tmp_path: Path) -> None:
    class Killed(Brightness):
        def encode(self, picture):
            if len(self.seen) == 2:
                raise KeyboardInterrupt
            return super().encode(picture)

    pictures, store = some_pictures(), FeatureStore(tmp_path / "s", "brightness")
    with pytest.raises(KeyboardInterrupt):
        extract(pictures, store, Killed)
    assert len(store.pictures()) == 2
    again = Brightness()
    outcome = extract(pictures, store, lambda: again)
    assert len(again.seen) == 3 and len(outcome.there) == 2 and len(store.pictures()) == 5
    assert not any((store.folder / ".claims").iterdir())


def test_pictures_of_any_size_and_number_are_in_memory_one_at_a_time(tmp_path: Path) -> None:
    most, held = [0, 0], [[], []]

    def hold(kind: int, *values: Any) -> None:
        held[kind] = [each for each in held[kind] if each() is not None] + [weakref.ref(value) for value in values]
        most[kind] = max(most[kind], len(held[kind]))

    class Read(np.ndarray):
        """An array that may be referred to weakly."""

    def read(number: int) -> np.ndarray:
        made = np.full((4 + number % 3, 6 + number % 5, 3), number, np.uint8).view(Read)
        hold(0, made)
        return made

    class Counts:
        name, width = "brightness", 3

        def encode(self, picture: torch.Tensor) -> Regions:
            made = Brightness().encode(picture)
            hold(1, picture, made.ids, made.features)
            return made

    pictures = [(f"{number}.png", partial(read, number)) for number in range(200)]
    store = FeatureStore(tmp_path / "s", "brightness")
    assert len(extract(pictures, store, Counts).made) == 200
    # The one that is read, and the one before, which is forgotten when its successor takes its name.
    assert most[0] <= 2 and most[1] <= 6, most


def test_workers_take_different_pictures(tmp_path: Path) -> None:
    pictures, store, inner = some_pictures(), FeatureStore(tmp_path / "s", "brightness"), Brightness()

    class Slow(Brightness):
        """While it is at its first picture another worker does the rest."""

        def encode(self, picture):
            if not self.seen:
                outcomes.append(extract(pictures, store, lambda: inner))
            return super().encode(picture)

    outer, outcomes = Slow(), []
    outcomes.append(extract(pictures, store, lambda: outer))
    assert len(inner.seen) == 4 and len(outer.seen) == 1
    assert outcomes[0].elsewhere == ["0.png"] and outcomes[1].made == ["0.png"] and len(outcomes[1].there) == 4


def test_pictures_in_which_nothing_is_found_are_named(tmp_path: Path) -> None:
    black = [("black.png", lambda: np.zeros((4, 4, 3), np.uint8))]
    store = FeatureStore(tmp_path / "s", "brightness")
    assert extract(black, store, Brightness).empty == ["black.png"]
    regions = store.read(key_of(np.zeros((4, 4, 3), np.uint8)))
    assert (regions.ids == NOTHING).all() and regions.features.shape == (0, 3)


def test_what_is_transparent_is_black() -> None:
    pixels = np.full((2, 2, 4), 255, np.uint8)
    pixels[0, :, 3] = 0
    assert as_seen(pixels)[0].abs().max() == 0 and as_seen(pixels)[1].min() == 1


def test_pictures_of_a_scene_are_those_of_training(tmp_path: Path) -> None:
    blob_capture = captures.write_capture(tmp_path / "blobs")
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    pictures = ScenePictures(NerfstudioDataParserConfig(data=blob_capture))
    names = [name for name, _ in pictures]
    assert sorted(names) == sorted(path.name for path in (blob_capture / "images").iterdir())
    name, read = pictures[0]
    assert pictures.path(0).name == name and read().dtype == np.uint8
    half = ScenePictures(NerfstudioDataParserConfig(data=blob_capture), scale=0.5)
    assert half[0][1]().shape[0] == read().shape[0] // 2
    with pytest.raises(InputError, match="nowhere"):
        ScenePictures(NerfstudioDataParserConfig(data=blob_capture / "nowhere"))
