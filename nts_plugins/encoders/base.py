# SPDX-License-Identifier: Apache-2.0
"""What an encoder is asked for, whatever model answers."""

from dataclasses import dataclass
from typing import List, Protocol, Sequence, Tuple, runtime_checkable

import torch
from torch import Tensor

LEVELS = ("subpart", "part", "whole")
"""Sizes of regions, from small to large: what Segment Anything's mask decoder answers for one point, in its order.
LangSplat (Qin et al. 2024) calls them s, m and l."""

NOTHING = -1
"""Of a pixel that lies in no region."""


@dataclass(frozen=True)
class Regions:
    """The regions of one picture, on each level, and a feature of each.

    Raises:
        ValueError: where the shapes do not belong together, or an id has no feature.
    """

    ids: Tensor
    """[L, H, W] int32: for each level the row of ``features`` that a pixel belongs to, or :data:`NOTHING`."""
    features: Tensor
    """[M, C], unit length, of the regions of all levels."""
    levels: Tuple[str, ...] = LEVELS
    """Names of the L levels."""

    def __post_init__(self) -> None:
        if self.ids.ndim != 3 or len(self.ids) != len(self.levels) or self.features.ndim != 2:
            raise ValueError(
                f"Ids [L, H, W] of {len(self.levels)} levels and features [M, C] are wanted, not "
                f"{tuple(self.ids.shape)} and {tuple(self.features.shape)}."
            )
        if self.ids.numel() and not NOTHING <= int(self.ids.min()) <= int(self.ids.max()) < len(self.features):
            raise ValueError(
                f"Ids lie between {NOTHING} and {len(self.features) - 1}, not between {int(self.ids.min())} and "
                f"{int(self.ids.max())}."
            )

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width in pixels."""
        return int(self.ids.shape[1]), int(self.ids.shape[2])

    def resized(self, size: Tuple[int, int]) -> "Regions":
        """The same at another height and width: each pixel takes what lies at its centre."""
        if size == self.size:
            return self
        rows, columns = (
            ((torch.arange(new) + 0.5) * (old / new)).long() for old, new in zip(self.size, size, strict=True)
        )
        return Regions(
            self.ids[:, rows.to(self.ids.device)][:, :, columns.to(self.ids.device)], self.features, self.levels
        )

    def to(self, device: torch.device) -> "Regions":
        """The same on another device."""
        return Regions(self.ids.to(device), self.features.to(device), self.levels)


class Encoder(Protocol):
    """Whatever makes vectors."""

    @property
    def name(self) -> str:
        """Says all that the vectors depend on. Up to the first " / " it is the name of their space: vectors of two
        spaces must not be compared."""
        ...

    @property
    def width(self) -> int:
        """C, length of a vector."""
        ...


@runtime_checkable
class ImageEncoder(Encoder, Protocol):
    """Pictures to vectors."""

    @property
    def picture_size(self) -> int:
        """Side of the square pictures that it wants, in pixels."""
        ...

    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """[B, 3, S, S] colours in [0, 1] to [B, C] vectors of unit length. No gradient."""
        ...


@runtime_checkable
class DenseEncoder(Encoder, Protocol):
    """Pictures to maps of vectors."""

    def encode_map(self, picture: Tensor) -> Tensor:
        """[H, W, 3] colours in [0, 1] to [h, w, C] float32. No gradient.

        The map is of the whole picture, of whatever size: vector (i, j) is of what lies around pixel
        ((i + 0.5) H / h, (j + 0.5) W / w), where the centre of the first pixel is at (0.5, 0.5).

        Raises:
            InputError: where the picture is smaller than what one vector is of.
        """
        ...


@runtime_checkable
class TextEncoder(Encoder, Protocol):
    """Phrases to vectors of the space of some encoder of pictures, whose name it has."""

    def encode_phrases(self, phrases: Sequence[str]) -> Tensor:
        """T phrases to [T, C] vectors of unit length. No gradient.

        Raises:
            InputError: where a phrase is empty, or longer than the model reads.
        """
        ...


@runtime_checkable
class MaskGenerator(Protocol):
    """Pictures to regions."""

    @property
    def name(self) -> str:
        """Says which model with which weights and settings."""
        ...

    def masks(self, picture: Tensor) -> List["LevelMasks"]:
        """[H, W, 3] colours in [0, 1] to masks on every level of :data:`LEVELS`."""
        ...


@dataclass(frozen=True)
class LevelMasks:
    """Regions of one level that a generator found; they may overlap."""

    masks: Tensor
    """[n, H, W] bool."""
    scores: Tensor
    """[n], the higher the better."""


@runtime_checkable
class RegionEncoder(Encoder, Protocol):
    """Pictures to regions with features."""

    def encode(self, picture: Tensor) -> Regions:
        """[H, W, 3] colours in [0, 1] to the regions of all levels."""
        ...
