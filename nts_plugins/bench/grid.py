# SPDX-License-Identifier: Apache-2.0
"""The cells of a benchmark, and the files that keep what came of each.

OUTPUT/cells/<slug>.json is one cell's result, there whole or not at all. Nothing else is remembered of a benchmark, so
whoever finds the files goes on where another one stopped.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from nts_plugins import __version__
from nts_plugins.errors import InputError, describe
from nts_plugins.files.whole import result_file, writing

MODES = ("geometry", "texture", "all", "free")
"""What is read out of features; in the last one, nothing."""
FREE, NO_FEATURES = "free", "none"
"""The mode without features, and what its cells have as their name."""
PLAIN = re.compile(r"[a-z0-9][a-z0-9.+-]*(_[a-z0-9.+-]+)*")
LONGEST = 40
"""Letters of a name in a slug; longer ones are cut."""


@dataclass(frozen=True)
class Cell:
    """One training and what is measured of it."""

    scene: str
    features: str
    """Name of what the probe reads; :data:`NO_FEATURES` where it reads nothing."""
    mode: str
    seed: int

    @property
    def slug(self) -> str:
        """Name of the cell's files: readable, and another one for every other cell, also where capitals are not told
        from small letters."""
        parts = (self.scene, self.features, self.mode, f"seed{self.seed}")
        slug = "__".join(_readable(part) for part in parts)
        if all(PLAIN.fullmatch(part) and len(part) <= LONGEST for part in parts):
            return slug
        return f"{slug}__{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]}"

    def __str__(self) -> str:
        return f"{self.scene} / {self.features} / {self.mode} / seed {self.seed}"


def _readable(name: str) -> str:
    name = re.sub(r"[^A-Za-z0-9.+_-]+|_{2,}", "-", name)[:LONGEST]
    return re.sub(r"^[^A-Za-z0-9]+", "", name) or "x"


@dataclass(frozen=True)
class Grid:
    """All cells of a request."""

    scenes: Mapping[str, Mapping[str, Any]]
    """Name of each scene to what its cells are told of it: where it lies and the like."""
    features: Tuple[str, ...]
    modes: Tuple[str, ...]
    seeds: int
    """How often everything is repeated; seeds are 1, 2, ..."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What all cells are told."""

    def __post_init__(self) -> None:
        """Raises InputError for a grid that has no cells, or names that mean nothing."""
        if unknown := [mode for mode in self.modes if mode not in MODES]:
            raise InputError(f"There is no mode {describe(unknown)}; modes are {', '.join(MODES)}.")
        if self.seeds < 1:
            raise InputError(f"--seeds is {self.seeds}; everything runs at least once.")
        if not self.scenes:
            raise InputError("There are no scenes. Name the folder of each after --scenes.")
        if not self.modes:
            raise InputError(f"There are no modes. Name some of {', '.join(MODES)} after --modes.")
        if set(self.modes) != {FREE} and not self.features:
            raise InputError(f"There are no features to probe, which only mode {FREE} does without.")
        if wrong := [name for name in self.features if not name.strip() or name == NO_FEATURES]:
            raise InputError(f"{wrong[0]!r} is no name of features.")

    def cells(self) -> List[Cell]:
        """Every cell once: all of the first seed, scene by scene, before any of the second."""
        found = [
            Cell(scene, name, mode, seed)
            for seed in range(1, self.seeds + 1)
            for scene in self.scenes
            for mode in self.modes
            for name in ((NO_FEATURES,) if mode == FREE else self.features)
        ]
        return list(dict.fromkeys(found))

    def settings_of(self, cell: Cell) -> Dict[str, Any]:
        """What a cell's work is told: of all cells, and of the scene."""
        return {**self.settings, **self.scenes[cell.scene]}


@dataclass(frozen=True)
class Result:
    """What came of a cell."""

    cell: Cell
    settings: Mapping[str, Any]
    """It was run with these, of all cells."""
    scene_settings: Mapping[str, Any]
    """Likewise of the scene."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Empty where it failed."""
    seconds: float = 0.0
    error: Optional[str] = None
    """Why it failed, for the user."""
    trace: str = ""
    """Where in the code, unless the error is one that the user can put right."""
    machine: str = ""
    version: str = __version__
    """Of this package."""

    def row(self) -> Dict[str, Any]:
        """The cell and its metrics, flat."""
        return {**asdict(self.cell), **self.metrics}


class Results:
    """The results below a folder.

    Args:
        folder: OUTPUT; made when the first result is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells = folder / "cells"

    def path(self, cell: Cell) -> Path:
        """The file of a cell's result."""
        return self.cells / f"{cell.slug}.json"

    def claim(self, cell: Cell) -> Path:
        """The file by which a process says that it works at a cell."""
        return self.folder / "claims" / cell.slug

    def write(self, result: Result) -> None:
        """Keep a result, in place of an earlier one of the cell.

        Raises:
            InputError: where it cannot be written.
        """
        content = asdict(result)
        content["metrics"] = {name: value if math.isfinite(value) else None for name, value in result.metrics.items()}
        with result_file(self.path(result.cell)) as file:
            file.write((json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    def read(self, cell: Cell) -> Optional[Result]:
        """A cell's result; None where there is none, or it is damaged."""
        try:
            result = _parsed(self.path(cell).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return result if result.cell == cell else None

    def all(self) -> Tuple[List[Result], List[Path]]:
        """Every result there is, in the order of their files' names, and the files that are damaged."""
        found, damaged = [], []
        for path in sorted(self.cells.glob("*.json")):
            if path.name.startswith("."):
                continue
            try:
                result = _parsed(path.read_text(encoding="utf-8"))
                if self.path(result.cell) != path:
                    raise ValueError("it is a copy of another cell's")
                found.append(result)
            except (OSError, ValueError):
                damaged.append(path)
        return found, damaged

    def prepare(self) -> None:
        """Make the folder. Raises InputError where that cannot be done."""
        with writing(self.folder):
            self.cells.mkdir(parents=True, exist_ok=True)


def _parsed(text: str) -> Result:
    """Raises ValueError for what no result says."""
    try:
        content = json.loads(text)
        cell = Cell(**content["cell"])
        named = all(isinstance(each, str) for each in (cell.scene, cell.features, cell.mode))
        metrics = {name: math.nan if value is None else float(value) for name, value in content["metrics"].items()}
        result = Result(**{**content, "cell": cell, "metrics": metrics})
        mappings = (result.settings, result.scene_settings)
        right = named and type(cell.seed) is int and all(isinstance(each, dict) for each in mappings)
        right = right and isinstance(result.seconds, (int, float)) and isinstance(result.error, (str, type(None)))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no result: {error}") from error
    if not right:
        raise ValueError("no result: a value is of the wrong kind")
    return result


def check_settings(grid: Grid, results: Iterable[Result], folder: Path) -> None:
    """Whether results may stand beside those of a grid: numbers of two settings are never put into one table.

    Results of cells that failed are not asked: whoever mistypes an option puts it right, and goes on.

    Raises:
        InputError: naming the settings that differ, and one of the results.
    """
    for result in results:
        if result.error is not None:
            continue
        pairs = [(result.settings, grid.settings)]
        if result.cell.scene in grid.scenes:
            pairs.append((result.scene_settings, grid.scenes[result.cell.scene]))
        others = [other for there, here in pairs for other in _differences(there, here)]
        if others:
            raise InputError(
                f"{folder} holds results of other settings: {describe(others)} ({result.cell}). Choose another "
                f"--output-dir, or remove {folder / 'cells'} to begin anew."
            )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> List[str]:
    plain = json.loads(json.dumps(dict(here)))  # as a file gives it back: lists for tuples
    names = [name for name in dict.fromkeys([*plain, *there]) if there.get(name) != plain.get(name)]
    return [f"{name} was {there.get(name)!r} and is {plain.get(name)!r}" for name in names]


def grid_of(results: Sequence[Result]) -> Grid:
    """The smallest grid in which all results lie; what failed says nothing of settings.

    Raises:
        InputError: where there are none.
    """
    if not results:
        raise InputError("There are no results yet.")
    first = sorted(results, key=lambda result: result.error is not None)  # those that did not fail first
    cells = [result.cell for result in results]
    scenes = {}
    for result in first:
        scenes.setdefault(result.cell.scene, result.scene_settings)
    return Grid(
        scenes=scenes,
        features=tuple(sorted({cell.features for cell in cells} - {NO_FEATURES})),
        modes=tuple(mode for mode in MODES if any(cell.mode == mode for cell in cells)),
        seeds=max(cell.seed for cell in cells),
        settings=first[0].settings,
    )
