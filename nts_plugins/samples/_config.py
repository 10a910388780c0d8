# SPDX-License-Identifier: Apache-2.0
"""What one may choose about a sample scene. Standard library only: the command line reads it for its help."""

from dataclasses import asdict, dataclass
from typing import Any, Dict, Optional

SCENES: Dict[str, Dict[str, Any]] = {
    "gallery": {},
    "dancer": {
        # 20 moments and every eighth view would hold out views of 5 moments only; with 7 they go through all of them.
        **{"views": 200, "dynamic": True, "cameras": 10, "test_every": 7},
        **{"width": 240, "height": 240, "fov": 46.0, "points": 6000},
    },
}
"""What can be made, and which options of it begin with other values than those below."""


@dataclass(frozen=True)
class SampleConfig:
    """Options of a sample; :meth:`of` begins with those of its scene. Equal options make equal bytes.

    Raises:
        ValueError: when an option is out of its range, naming it.
    """

    views: int = 60
    """Photographs to take along the way, held-out ones included."""
    test_every: int = 8
    """Every so many views one is held out for evaluation; 0 holds none out."""
    width: int = 480
    """Pixels."""
    height: int = 360
    """Pixels."""
    seed: int = 0
    """Changes the textures' noise, the seed points and the wobble of the gallery's walk; never where things are."""
    dynamic: bool = False
    """Some objects move, and each view has a time in [0, 1]."""
    cameras: int = 1
    """When things move: how many film at once, each its share of the way, so that so many views show each moment."""
    fov: float = 72.0
    """Field of view, degrees: along the width in the gallery, along the shorter side of the dancer."""
    samples: int = 3
    """Anti-aliasing: samples along each side of a pixel, so 3 is nine rays."""
    points: int = 12_000
    """Seed points to aim for; small captures give fewer. 0 writes none."""
    pixel_noise: float = 0.5
    """Standard deviation, pixels, of the feature positions that the seed points are triangulated from."""
    outliers: float = 0.02
    """Fraction of seed points that are wrong matches."""
    scene: str = "gallery"
    """One of ``SCENES``."""

    @classmethod
    def of(cls, scene: str, **options: Any) -> "SampleConfig":
        """Options of a scene; those that are not given, or None, are as they suit it."""
        given = {name: value for name, value in options.items() if value is not None}
        return cls(**{**SCENES.get(scene, {}), **given, "scene": scene})

    def __post_init__(self) -> None:
        if self.scene not in SCENES:
            raise ValueError(f"There is no sample {self.scene!r}, only {', '.join(SCENES)}.")
        limits = {
            "views": (1, 100_000),
            "test_every": (0, 100_000),
            "width": (8, 8192),
            "height": (8, 8192),
            "seed": (0, 2**32 - 1),
            "cameras": (1, 100_000),
            "fov": (20.0, 120.0),
            "samples": (1, 16),
            "points": (0, 10_000_000),
            "pixel_noise": (0.0, 10.0),
            "outliers": (0.0, 0.5),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"The {self.scene}'s {name} is {value}, but must be between {low} and {high}.")
        if SCENES[self.scene].get("dynamic") and not self.dynamic:
            raise ValueError(f"The {self.scene} always moves: dynamic cannot be off.")
        if self.test_every == 1:
            raise ValueError("test_every=1 would hold every view out and leave none to train on; use 0 or 2 and more.")
        if self.cameras > 1 and not self.dynamic:
            raise ValueError(f"cameras={self.cameras} film what moves; nothing does without dynamic.")
        if self.cameras > 1 and self.views < 2 * self.cameras:
            raise ValueError(
                f"{self.views} views are too few for cameras={self.cameras}, which need two each: take at least "
                f"{2 * self.cameras}, or fewer cameras."
            )
        if self.views % self.cameras:
            raise ValueError(f"{self.views} views cannot be shared evenly by cameras={self.cameras}.")

    @property
    def has_photographs(self) -> bool:
        """Whether photographs of scikit-image's package are to be seen, whose sources have to be named."""
        return self.scene == "gallery"

    def is_test(self, view: int) -> bool:
        """Whether a view is held out: the middle one of every ``test_every``, in the order of the files."""
        return self.test_every > 0 and view % self.test_every == self.test_every // 2

    def time(self, view: int) -> Optional[float]:
        """Time of a view in [0, 1]; None when nothing moves."""
        moments = self.views // self.cameras
        return view % moments / max(moments - 1, 1) if self.dynamic else None

    def to_json(self) -> Dict[str, Any]:
        """The options as plain values."""
        return asdict(self)
