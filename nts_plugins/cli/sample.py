# SPDX-License-Identifier: Apache-2.0
"""``nts sample SCENE DIR``: make a capture to train on, with nothing to download."""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, Literal, Optional, Tuple

import tyro

from nts_plugins.errors import InputError
from nts_plugins.samples import SampleConfig

_DEFAULT = SampleConfig()
_STAGES = {"scene": "Scene", "light": "Light", "pictures": "Pictures", "seed points": "Seed points"}


@dataclass
class Sample:
    """Make a sample capture to train on: pictures, cameras, seed points, exact depth, normals and named masks.

    Nothing is downloaded. Equal options make equal files, and a finished sample is not made again. At the end it says
    how to train on it.
    """

    scene: tyro.conf.Positional[Literal["gallery", "dancer"]]
    """What to make: an art gallery, or a dancer in a studio, filmed from all around."""
    folder: tyro.conf.Positional[Path]
    """Folder to make."""
    views: Optional[int] = None
    """Photographs to take, held-out ones included: 60 of the gallery, 200 of the dancer."""
    test_every: Optional[int] = None
    """Every so many views one is held out for evaluation; 0 holds none out. 8 in the gallery, 7 of the dancer."""
    size: Optional[str] = None
    """Width and height of the pictures, pixels: 480x360 of the gallery, 240x240 of the dancer."""
    seed: int = _DEFAULT.seed
    """Changes the textures' noise, the seed points and the wobble of the gallery's walk."""
    dynamic: bool = False
    """Let some things of the gallery move, and give each view a time from 0 to 1. The dancer always moves."""
    cameras: Optional[int] = None
    """Where things move: how many film at once, each along its share of the way. 1 in the gallery, 10 around the
    dancer."""
    fov: Optional[float] = None
    """Field of view, degrees: 72 along the width in the gallery, 46 along the shorter side of the dancer."""
    samples: int = _DEFAULT.samples
    """Rays along each side of a pixel, for smooth edges."""
    points: Optional[int] = None
    """Seed points to aim for: 12000 in the gallery, 6000 of the dancer."""
    pixel_noise: float = _DEFAULT.pixel_noise
    """Error of the features that seed points are triangulated from, pixels."""
    outliers: float = _DEFAULT.outliers
    """Fraction of seed points that are wrong matches."""
    threads: Optional[int] = None
    """Threads to use; all cores by default. The files do not depend on it."""
    overwrite: bool = False
    """Replace another sample that is in the folder."""

    def run(self) -> int:
        """Write the sample and say what to do with it. Raises InputError when it cannot be written."""
        from nts_plugins.samples import PhotographMissing, SampleError, write_sample

        try:
            config = self._config()
        except ValueError as error:
            raise InputError(str(error)) from error
        try:
            with _progress() as progress:
                written = write_sample(
                    self.folder, config, overwrite=self.overwrite, threads=self.threads, progress=progress
                )
        except (SampleError, PhotographMissing) as error:
            raise InputError(str(error)) from error
        held_out = sum(config.is_test(view) for view in range(config.views))
        state = "is ready" if written else "was there already, complete; nothing was done"
        print(f"{self.folder} {state}: {config.views} views, {held_out} of them held out.")
        if held_out == 0:
            print("ns-eval will score the views that were trained on: a lower --test-every holds some out.")
        elif config.dynamic and len({config.time(view) for view in range(config.views) if config.is_test(view)}) == 1:
            print("All held-out views show one moment: another --test-every spreads them.")
        method = "splat-dynamic" if config.dynamic else "splat"
        print(f"Train on it with: ns-train {method} --data {self.folder}")
        return 0

    def _config(self) -> SampleConfig:
        width, height = parse_size(self.size) if self.size is not None else (None, None)
        return SampleConfig.of(
            self.scene,
            views=self.views,
            test_every=self.test_every,
            width=width,
            height=height,
            seed=self.seed,
            dynamic=self.dynamic or None,
            cameras=self.cameras,
            fov=self.fov,
            samples=self.samples,
            points=self.points,
            pixel_noise=self.pixel_noise,
            outliers=self.outliers,
        )


def parse_size(text: str) -> Tuple[int, int]:
    """Width and height from "480x360".

    Raises:
        ValueError: for anything else, showing how it should look.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"--size {text} is not a size. Write width x height in pixels, as in 480x360.")
    return int(parts[0]), int(parts[1])


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars with the time left, one a stage; where there is no terminal, only what they show at the end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        Elapsed(),
        TextColumn("left"),
        Remaining(),
    )
    with Progress(*columns) as bars:
        tasks: Dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            # From the first news on: what cannot begin, or is done already, shows no bars.
            if not tasks:
                tasks.update({each: bars.add_task(text, total=None, start=False) for each, text in _STAGES.items()})
            if not bars.tasks[tasks[stage]].started:
                bars.start_task(tasks[stage])
            bars.update(tasks[stage], completed=done, total=total)

        yield tell
