# SPDX-License-Identifier: Apache-2.0
"""How codecs learn; nothing heavy is imported, for commands that must answer at once."""

from dataclasses import dataclass


@dataclass
class TuningSettings:
    """How a codec is tuned."""

    steps: int = 1000
    """Each looks at one square of two pictures."""
    crop: int = 16
    """Latents along a side of the square."""
    lr: float = 1e-4
    """Of Adam; it falls to a tenth."""
    correspondence: float = 0.1
    """l1 of :mod:`nts_plugins.latents.tuning`, of the mean over places and channels."""
    prior: float = 1e-6
    """l0, for codecs that say how sure they are."""
    original: float = 1e-3
    """l2; both are summed over channels."""
    neighbours: int = 8
    """A view is compared with one of so many nearest ones."""
    seed: int = 0
    """Of the order of squares."""


@dataclass
class AlignmentSettings:
    """How a decoder is aligned with latents as splats draw them."""

    steps: int = 10000
    """Each looks at a square of one picture that splats were trained on, and of one that they were not."""
    crop: int = 32
    """Latents along a side of the square, at most."""
    lr: float = 1e-4
    """Of Adam; it falls to a tenth."""
    seed: int = 0
    """Of the order of squares."""
