# SPDX-License-Identifier: Apache-2.0
"""Everything that a report says of results, as numbers: for tables, for plots and for other programs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from nts_plugins.bench import statistics
from nts_plugins.bench.grid import FREE, MODES, NO_FEATURES, Cell, Grid, Result
from nts_plugins.bench.statistics import PICTURES, SURFACES, Correlation, Difference, Estimate, kind

CONTROL = "iuv"
"""Features without a model behind them, which others are compared with."""

Table = Dict[str, Dict[str, Estimate]]
"""Features to metric to its mean."""


@dataclass
class Differences:
    """Features of a mode compared with one thing."""

    against: str
    against_mode: str
    of: Dict[str, Dict[str, Difference]]
    """Features to metric."""


@dataclass
class Mode:
    """What is said of a mode."""

    all_scenes: Table
    scenes: Dict[str, Table]
    ranks: Dict[str, Dict[str, float]]
    """Metric to features to the mean rank."""
    ranked_scenes: Dict[str, int]
    """Metric to the scenes that its ranks are over."""
    differences: List[Differences]
    correlations: Dict[Tuple[str, str], Dict[str, Correlation]]
    """A metric of pictures and one of surfaces to "pooled" and, where there are several scenes, "within scenes"."""
    points: Dict[str, Dict[str, Dict[str, float]]]
    """Metric to features to scene to the mean over seeds."""


@dataclass
class Analysis:
    """All of a benchmark."""

    grid: Grid
    results: List[Result]
    """In the order of the grid; those that are not of it last."""
    metrics: List[str]
    """Those whose direction is known: of pictures, then of surfaces."""
    modes: Dict[str, Mode]
    failed: List[Result]
    missing: List[Cell]
    damaged: List[Path] = field(default_factory=list)

    @property
    def rows(self) -> List[Dict[str, Any]]:
        """One for every cell that did not fail."""
        return [result.row() for result in self.results if result.error is None]


def analyse(grid: Grid, results: Sequence[Result], damaged: Sequence[Path] = ()) -> Analysis:
    """Look at results from all sides.

    Args:
        grid: what was asked for.
        results: what there is, also of cells outside the grid.
        damaged: files that could not be read.
    """
    cells = grid.cells()
    place = {cell: number for number, cell in enumerate(cells)}
    ordered = sorted(results, key=lambda result: (place.get(result.cell, len(cells)), _order(result.cell)))
    there = {result.cell for result in ordered}
    rows = [result.row() for result in ordered if result.error is None]
    found = Analysis(
        grid=grid,
        results=ordered,
        metrics=known_metrics(rows),
        modes={},
        failed=[result for result in ordered if result.error is not None],
        missing=[cell for cell in cells if cell not in there],
        damaged=list(damaged),
    )
    for mode in MODES:
        own = [row for row in rows if row["mode"] == mode]
        if own:
            found.modes[mode] = _mode(mode, own, rows, found.metrics)
    return found


def known_metrics(rows: Sequence[Dict[str, Any]]) -> List[str]:
    """Metrics that have a value and a known direction: of pictures first, each with those of the same prefix."""
    kinds = [*PICTURES, *SURFACES]
    names = [
        name
        for name in statistics.metrics_of(rows)
        if kind(name) in kinds and any(statistics.value_of(row, name) is not None for row in rows)
    ]
    prefixes = list(dict.fromkeys(name.rpartition("_")[0] for name in names))

    def order(name: str) -> Tuple[bool, int, int]:
        return kind(name) in SURFACES, prefixes.index(name.rpartition("_")[0]), kinds.index(kind(name))

    return sorted(names, key=order)


def _order(cell: Cell) -> Tuple[int, str, int, str]:
    return cell.seed, cell.scene, MODES.index(cell.mode) if cell.mode in MODES else len(MODES), cell.features


def _mode(mode: str, rows: List[Dict[str, Any]], everything: List[Dict[str, Any]], metrics: List[str]) -> Mode:
    ranked = {metric: statistics.ranks(rows, metric) for metric in metrics}
    scenes = list(dict.fromkeys(row["scene"] for row in rows))
    several = len({row["features"] for row in rows}) > 1  # One says nothing of what features have in common.
    pairs = [(one, other) for one in metrics if kind(one) in PICTURES for other in metrics if kind(other) in SURFACES]
    ways = {"pooled": False, "within scenes": True} if len(scenes) > 1 else {"pooled": False}
    references = [(CONTROL, mode), (NO_FEATURES, FREE)]
    return Mode(
        all_scenes=_table(rows, metrics),
        scenes={scene: _table([row for row in rows if row["scene"] == scene], metrics) for scene in scenes},
        ranks={metric: ranks for metric, (ranks, _) in ranked.items()},
        ranked_scenes={metric: count for metric, (_, count) in ranked.items()},
        differences=[
            compared
            for features, other_mode in references
            if (compared := _differences(rows, everything, features, other_mode, metrics)) is not None
        ],
        correlations={
            pair: {way: statistics.correlation(rows, *pair, within_scenes=within) for way, within in ways.items()}
            for pair in pairs
            if several and statistics.correlation(rows, *pair, draws=1).points
        },
        points={metric: statistics.means(rows, metric) for metric in metrics},
    )


def _table(rows: List[Dict[str, Any]], metrics: List[str]) -> Table:
    return {
        features: {metric: statistics.summarise(own, metric) for metric in metrics}
        for features, own in _by_features(rows).items()
    }


def _by_features(rows: List[Dict[str, Any]]) -> Dict[str, List[Dict[str, Any]]]:
    found: Dict[str, List[Dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["features"], []).append(row)
    return found


def _differences(
    rows: List[Dict[str, Any]], everything: List[Dict[str, Any]], features: str, mode: str, metrics: List[str]
) -> Optional[Differences]:
    """None where there is nothing to compare."""
    reference = [row for row in everything if row["features"] == features and row["mode"] == mode]
    others = {name: own for name, own in _by_features(rows).items() if name not in (features, NO_FEATURES)}
    if not reference or not others:
        return None
    return Differences(
        against=features,
        against_mode=mode,
        of={
            name: {metric: statistics.difference(own, reference, metric) for metric in metrics}
            for name, own in others.items()
        },
    )
