# SPDX-License-Identifier: Apache-2.0
"""Which models extract features, and how; nothing heavy is imported, for commands that must answer at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional


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
