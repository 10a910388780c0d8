# SPDX-License-Identifier: Apache-2.0
"""Pictures with the regions that an encoder found in them, extracted on the way where they are missing.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Type

import numpy as np
import numpy.typing as npt
from nerfstudio.utils.rich_utils import CONSOLE

from nts_plugins.data.datamanager import SplatDatamanager, SplatDatamanagerConfig
from nts_plugins.data.dataset import SplatDataset
from nts_plugins.data.extraction import extract
from nts_plugins.data.features import FeatureStore, default_folder, key_of, stores_below
from nts_plugins.encoders.base import RegionEncoder, Regions
from nts_plugins.encoders.settings import OpenClipSettings, SamSettings, name_of_regions
from nts_plugins.errors import InputError, describe

AGAIN = 5.0
"""Seconds after which features are looked for again that another worker makes."""


@dataclass(frozen=True)
class RegionFile:
    """The regions of one picture, which stay on the disk until they are asked for."""

    store: FeatureStore
    key: str

    def read(self) -> Regions:
        """See :meth:`~nts_plugins.data.features.FeatureStore.read`."""
        return self.store.read(self.key)


@dataclass(frozen=True)
class SceneRegions:
    """What the regions of a scene's training pictures have in common, and how to get at them."""

    encoder: str
    """Name of what made their features."""
    levels: Tuple[str, ...]
    width: int
    """C, length of a feature."""
    files: Tuple[RegionFile, ...]
    """Of the training pictures, in their order."""

    def features(self) -> "Iterator[Any]":
        """[M, C] of all regions of each picture, one picture in memory at a time."""
        for file in self.files:
            yield file.read().features


class RegionDataset(SplatDataset):
    """A dataset whose batches say where the regions of their picture are: ``regions``, a :class:`RegionFile`.

    Without a ``store``, which the datamanager gives to it, they say nothing.
    """

    store: Optional[FeatureStore] = None
    _keys: Dict[int, str]

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        image = super().get_numpy_image(image_idx)
        if self.store is not None:
            self.__dict__.setdefault("_keys", {})[image_idx] = key_of(image)
        return image

    def get_metadata(self, data: Dict) -> Dict:
        own = {} if self.store is None else {"regions": RegionFile(self.store, self._keys[data["image_idx"]])}
        return {**super().get_metadata(data), **own}


@dataclass
class RegionDatamanagerConfig(SplatDatamanagerConfig):
    """Settings of :class:`RegionDatamanager`."""

    _target: Type = field(default_factory=lambda: RegionDatamanager)
    features: Optional[Path] = None
    """Folder of the pictures' features, which nts features makes. None takes what lies in ``features`` of the scene's
    folder; what is missing there is extracted before training, with the models below."""
    clip: OpenClipSettings = field(default_factory=OpenClipSettings)
    """What regions are shown to."""
    sam: SamSettings = field(default_factory=SamSettings)
    """What draws them."""
    tallest: int = 1080
    """Pictures of more rows are made smaller before regions are looked for."""


class RegionDatamanager(SplatDatamanager):
    """The shared datamanager, whose batches have ``regions`` in training, and whose metadata a :class:`SceneRegions`.

    Raises:
        InputError: also where features are missing and cannot be extracted.
    """

    config: RegionDatamanagerConfig

    @property
    def dataset_type(self) -> Type[SplatDataset]:
        return RegionDataset

    def create_train_dataset(self) -> SplatDataset:
        dataset = super().create_train_dataset()
        if self.test_mode == "val":
            assert isinstance(dataset, RegionDataset)
            dataset.store = self._store()
        return dataset

    def setup_train(self) -> None:
        super().setup_train()
        if self.test_mode != "val":
            return
        files = [batch["regions"] for batch in self.cached_train]
        self._complete(files)
        self._check_found(files)
        first = files[0].read()
        self.train_dataset.metadata["regions"] = SceneRegions(
            files[0].store.encoder, first.levels, first.features.shape[1], tuple(files)
        )

    @property
    def _own_encoder(self) -> str:
        """Name of the encoder that the settings describe."""
        return name_of_regions(self.config.clip.name, self.config.sam.name, self.config.tallest)

    def _store(self) -> FeatureStore:
        """The features that are there, or a place for those that are to be made.

        Raises:
            InputError: where several would do, and where a folder was named that holds features of another model.
        """
        data = self.config.data or self.config.dataparser.data
        if self.config.features is not None:
            return self._named(self.config.features)
        fits = [store for store in stores_below(data) if self._fits(store.encoder)]
        if len(fits) > 1:
            raise InputError(
                f"{data} has features of several encoders. Say which with --pipeline.datamanager.features: "
                f"{describe([store.folder for store in fits])}."
            )
        if not fits:
            return FeatureStore(default_folder(data, self._own_encoder), self._own_encoder)
        CONSOLE.print(f"Features are of {fits[0].encoder!r}, in {fits[0].folder}.", markup=False)
        return fits[0]

    def _named(self, folder: Path) -> FeatureStore:
        encoder = FeatureStore.encoder_of(folder)
        if encoder is None:
            raise InputError(f"There are no features in {folder}. nts features extracts them.")
        if not self._fits(encoder):
            raise InputError(
                f"{folder} holds features of {encoder!r}, and the settings describe {self._own_encoder!r}. Leave out "
                f"--pipeline.datamanager.clip, .sam and .tallest to take these, or --pipeline.datamanager.features to "
                f"have others."
            )
        return FeatureStore(folder, encoder)

    def _fits(self, encoder: str) -> bool:
        """Whether features are what the settings ask for. Settings as they always are ask for nothing: whoever leaves
        them so takes what is there."""
        config, usual = self.config, RegionDatamanagerConfig()
        if (config.sam.name, config.tallest) != (usual.sam.name, usual.tallest):
            return encoder == self._own_encoder
        return config.clip.name == usual.clip.name or encoder.startswith(f"{config.clip.name} / ")

    def _complete(self, files: List[RegionFile]) -> None:
        """Extract what is missing, where the features are of the encoder that the settings describe."""
        store, dataset = files[0].store, self.train_dataset
        names = [path.name for path in dataset.image_filenames]
        pictures = [(file.key, name) for file, name in zip(files, names, strict=True)]
        for file in files:
            if file.key in store:
                store.count(file.key)  # Damage is better noticed before the rest is extracted than after.
        if all(file.key in store for file in files):
            return
        if store.encoder != self._own_encoder or self.config.features is not None:
            store.check(pictures)
        from nts_plugins.progress import progress

        encoder, waits = cache(self._encoder), False
        with progress("Pictures") as (tell, _):
            while missing := [number for number, file in enumerate(files) if file.key not in store]:
                if not waits:
                    about = f"{len(missing)} of {len(files)} pictures have no features in {store.folder}"
                    CONSOLE.print(f"{about}: extracting them.", markup=False)
                outcome = extract([_lazily(dataset, names, number) for number in missing], store, encoder, tell)
                if not outcome.elsewhere:
                    break
                if not waits:
                    CONSOLE.print(f"Another worker is at {describe(outcome.elsewhere)}: waiting for it.")
                waits = True
                time.sleep(AGAIN)
        store.check(pictures)

    def _check_found(self, files: List[RegionFile]) -> None:
        """All files can be read, and there is something in them.

        Raises:
            InputError: where that is not so.
        """
        names = [path.name for path in self.train_dataset.image_filenames]
        empty = [name for file, name in zip(files, names, strict=True) if file.store.count(file.key) == 0]
        if len(empty) == len(files):
            raise InputError(
                f"None of the {len(files)} training pictures has a region in {files[0].store.folder}: there is nothing "
                f"to learn language from. Remove the folder and extract anew, with other --sam settings where Segment "
                f"Anything found nothing."
            )
        if empty:
            CONSOLE.print(f"[yellow]No region was found in {describe(empty)}: language comes from the other pictures.")

    def _encoder(self) -> RegionEncoder:
        from nts_plugins.encoders.regions import masked_regions

        config = self.config
        return masked_regions(config.sam, config.clip, config.tallest, self.device, "--pipeline.datamanager.")


def _lazily(dataset: SplatDataset, names: List[str], number: int) -> Any:
    return names[number], lambda: dataset.get_numpy_image(number)
