# SPDX-License-Identifier: Apache-2.0
"""Which models extract features, and how; nothing heavy is imported, for commands that must answer at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

from nts_plugins.errors import InputError

SAM_MODELS = ("vit_h", "vit_l", "vit_b")
"""Of Segment Anything, from large to small."""


@dataclass
class OpenClipSettings:
    """Which model of open_clip, with which weights."""

    model: str = "ViT-B-16"
    """Its name in open_clip."""
    pretrained: str = "laion2b_s34b_b88k"
    """The name of its weights there. With ``weights`` it may be any name: features of two names are never compared."""
    weights: Optional[Path] = None
    """A file that holds these weights. None fetches them from where open_clip knows them to be, once."""
    batch: int = 64
    """Pictures at once."""

    def __post_init__(self) -> None:
        at_least("clip.batch", self.batch, 1)

    @property
    def name(self) -> str:
        """Of the space of the vectors."""
        return f"{self.model} {self.pretrained}"


@dataclass
class SamSettings:
    """Which model of Segment Anything, and where and how it is asked."""

    model: str = "vit_h"
    """vit_h, vit_l or vit_b."""
    weights: Optional[Path] = None
    """A file of its weights. None fetches the published ones, once."""
    points_per_side: int = 32
    """So many points across a picture, and as many down."""
    points_at_once: int = 64
    """In one run of the decoder."""
    least_iou: float = 0.7
    """What SAM itself must think of a mask (0.88 in its own generator)."""
    least_stability: float = 0.85
    """Share of a mask that stays when its border is drawn more strictly or more loosely by 1 (0.95 there)."""
    largest_box_overlap: float = 0.7
    """Of the boxes of two masks, above which the lesser one goes."""
    crop_layers: int = 1
    """1 asks again in four overlapping quarters, 2 in sixteen more (0 there)."""
    smallest_region: int = 100
    """Holes and islands of fewer pixels are filled and removed (0 there)."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """See to it that there is such a model, and that numbers mean something.

        Raises:
            InputError: naming the option that does not.
        """
        if self.model not in SAM_MODELS:
            raise InputError(
                f"sam.model is wrong: Segment Anything has no model {self.model!r}. It has {', '.join(SAM_MODELS)}."
            )
        at_least("sam.points-per-side", self.points_per_side, 1)
        at_least("sam.points-at-once", self.points_at_once, 1)
        _share("sam.least-iou", self.least_iou)
        _share("sam.least-stability", self.least_stability)
        _share("sam.largest-box-overlap", self.largest_box_overlap)
        at_least("sam.crop-layers", self.crop_layers, 0)
        at_least("sam.smallest-region", self.smallest_region, 0)

    @property
    def name(self) -> str:
        """Of the model and all settings that masks depend on."""
        asked = f"{self.points_per_side} {self.least_iou:g} {self.least_stability:g} {self.largest_box_overlap:g}"
        return f"sam {self.model} {asked} {self.crop_layers} {self.smallest_region}"


@dataclass
class CodecSettings:
    """Which latent codec, with which weights."""

    name: str = "sd-kl-f8"
    """taesd, taesdxl, taesd3, taef1, taef2 (tiny ones), sd-kl-f8 (the paper's), sd-kl-f8-mse, kl-f8-d16, or a function
    of your own as package.module:function."""
    weights: Optional[Path] = None
    """The folder of its weights, as it is published. None fetches them, once."""


@dataclass
class DenseSettings:
    """Which model makes maps of features, and how."""

    name: str = "dinov2_b14"
    """Of the model, see :func:`nts_plugins.encoders.dense.known`, or a function of your own as
    package.module:function."""
    weights: Optional[Path] = None
    """A file or folder of its weights. None fetches the published ones, once."""
    longest: int = 512
    """Longer side, in pixels, of the pictures that the model is shown; smaller ones stay as they are."""
    reading: Literal["fixed", "paper"] = "fixed"
    """"paper" repeats what Feat2GS's program does otherwise than the models' own: it reads MAE's last but one block,
    and shows CLIP pictures normalised for ImageNet."""

    @property
    def space(self) -> str:
        """Name of the space of the features: all that they depend on, but for the weights."""
        return f"{self.name} {self.longest}" + (" paper" if self.reading == "paper" else "")


def name_of_regions(encoder: str, generator: str, tallest: int) -> str:
    """Of regions that a generator draws in pictures of so many rows at most, with an encoder's features."""
    return f"{encoder} / {generator} / {tallest}"


def at_least(option: str, value: int, least: int) -> None:
    """Raise InputError where a number is too small for the option that it was given by."""
    if value < least:
        raise InputError(f"{option} is {value}; it must be {least} or more.")


def _share(option: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{option} is {value:g}; it must lie between 0 and 1.")
