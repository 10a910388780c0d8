# SPDX-License-Identifier: Apache-2.0
"""What numbers of scenes and seeds say of features. Pure functions of rows: plain dicts, one a cell.

A row has "scene", "features", "mode", "seed", and metrics by name. A metric that is missing or nan is left out, and
what cannot be said of too few numbers is nan; nothing here raises for small inputs.

How intervals are made. Seeds are repetitions within a scene, never scenes of their own: 3 seeds of 2 scenes are 2
scenes. The mean is that of the scenes' means.

* Several scenes: scenes are drawn with replacement, and then seeds within each of them (the hierarchical bootstrap).
  The spread of these means, times sqrt(S / (S - 1)) for S scenes, is a standard error; the interval is as many of them
  wide as Student's t with S - 1 degrees of freedom says. Quantiles of the drawn means would be too narrow for few
  scenes: with 5 they hold the truth 82 times of 100, with 2 at most 50. With one seed each, this is the t interval over
  scenes. With more, seeds count twice, in the scenes' means and when they are drawn, which makes it too wide rather
  than too narrow. It says where the mean over other scenes of the kind would be.
* One scene: Student's t over its seeds. It says where the mean over other seeds of this very scene would be.
* One number: no interval.
"""

import math
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Row = Mapping[str, Any]

KEYS = ("scene", "features", "mode", "seed")
"""Of a row, what is no metric."""
PICTURES: Dict[str, bool] = {"psnr": True, "ssim": True, "lpips": False}
"""Metrics of pictures to whether more is better."""
SURFACES: Dict[str, bool] = {"accuracy": False, "completeness": False, "distance": False}
"""Likewise of geometry; accuracy is the mean distance of what was made from the truth."""
LEVEL, DRAWS, SEED = 0.95, 2000, 0
FEWEST = 4
"""Features below which a correlation has no interval."""
ROUNDING = 1e-11
"""Relative size of what is left of equal numbers when one is taken off the other."""


@dataclass(frozen=True)
class Estimate:
    """A mean, and where it would be if everything were done again."""

    mean: float
    low: float
    high: float
    """The interval's ends; nan where none is claimed."""
    scenes: int
    count: int
    """Numbers that went into the mean: scenes times seeds."""
    method: str
    """Of the interval: "bootstrap", "t over seeds", or "none"."""

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Difference:
    """By how much one thing is more than another over the scenes and seeds that both have."""

    estimate: Estimate
    better: Optional[bool]
    """Whether the interval leaves no doubt that it is better, or (False) worse; None where it says neither."""


@dataclass(frozen=True)
class Correlation:
    """How well two metrics agree on features."""

    pearson: float
    pearson_interval: Tuple[float, float]
    spearman: float
    spearman_interval: Tuple[float, float]
    points: int
    """Pairs of a scene and features that have both metrics."""
    features: int
    scenes: int


def kind(metric: str) -> str:
    """The metric without what a longer name says of it: "psnr" of "refined_psnr"."""
    return metric.rpartition("_")[2].lower()


def more_is_better(metric: str) -> Optional[bool]:
    """The direction of a metric by its name; None where that is not known."""
    return {**PICTURES, **SURFACES}.get(kind(metric))


def metrics_of(rows: Iterable[Row]) -> List[str]:
    """Names of all metrics, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row if name not in KEYS))


def value_of(row: Row, metric: str) -> Optional[float]:
    """A row's number; None where it has none."""
    value = row.get(metric)
    return None if value is None or not math.isfinite(value) else float(value)


def by_scene(rows: Iterable[Row], metric: str) -> Dict[str, List[float]]:
    """The numbers of each scene that has any."""
    found: Dict[str, List[float]] = {}
    for row in rows:
        value = value_of(row, metric)
        if value is not None:
            found.setdefault(row["scene"], []).append(value)
    return found


def summarise(rows: Iterable[Row], metric: str, level: float = LEVEL, draws: int = DRAWS, seed: int = SEED) -> Estimate:
    """Mean over scenes and seeds, with an interval.

    Args:
        rows: of the same features and mode.
        metric: whose.
        level: how often the interval is to hold the truth.
        draws: of the bootstrap.
        seed: of its random numbers.
    """
    return estimate(list(by_scene(rows, metric).values()), level, draws, seed)


def estimate(groups: Sequence[Sequence[float]], level: float = LEVEL, draws: int = DRAWS, seed: int = SEED) -> Estimate:
    """:func:`summarise` of numbers that are sorted by scene already."""
    groups = [group for group in groups if len(group)]
    count = sum(map(len, groups))
    if not count:
        return Estimate(math.nan, math.nan, math.nan, 0, 0, "none")
    mean = float(np.mean([np.mean(group) for group in groups]))
    if count == 1:
        return Estimate(mean, math.nan, math.nan, 1, 1, "none")
    if len(groups) == 1:
        freedom, method = count - 1, "t over seeds"
        error = float(np.std(groups[0], ddof=1)) / math.sqrt(count)
    else:
        freedom, method = len(groups) - 1, "bootstrap"
        drawn = _drawn_means(groups, draws, np.random.default_rng(seed))
        error = float(np.sqrt(np.mean((drawn - mean) ** 2) * len(groups) / freedom))
    if error < ROUNDING * max(abs(value) for group in groups for value in group):
        error = 0.0
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return Estimate(mean, mean - half, mean + half, len(groups), count, method)


def _drawn_means(groups: Sequence[Sequence[float]], draws: int, generator: np.random.Generator) -> NDArray:
    """[draws] means over scenes that are drawn, of seeds that are drawn in each."""
    longest = max(map(len, groups))
    lengths = np.array([len(group) for group in groups])
    values = np.zeros((len(groups), longest))
    for number, group in enumerate(groups):
        values[number, : len(group)] = group
    scenes = generator.integers(len(groups), size=(draws, len(groups)))
    own = lengths[scenes][..., None]  # [draws, S, 1]
    picks = (generator.random((draws, len(groups), longest)) * own).astype(np.int64)
    drawn = values[scenes[..., None], picks] * (np.arange(longest) < own)
    return (drawn.sum(axis=2) / own[..., 0]).mean(axis=1)


def difference(
    rows: Iterable[Row],
    others: Iterable[Row],
    metric: str,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Difference:
    """By how much ``rows`` have more of a metric than ``others``, over the same scenes and seeds.

    What a scene makes hard for both, and a seed for both, cancels: two whose intervals overlap widely may differ beyond
    doubt.

    Args:
        rows: of one thing, at most one for a scene and seed.
        others: likewise of what it is compared with.
        metric: whose.
        level: as of :func:`summarise`, also draws and seed.
    """
    theirs = {(row["scene"], row["seed"]): value_of(row, metric) for row in others}
    groups: Dict[str, List[float]] = {}
    for row in rows:
        mine, other = value_of(row, metric), theirs.get((row["scene"], row["seed"]))
        if mine is not None and other is not None:
            same = abs(mine - other) <= ROUNDING * max(abs(mine), abs(other))
            groups.setdefault(row["scene"], []).append(0.0 if same else mine - other)
    found = estimate(list(groups.values()), level, draws, seed)
    direction = more_is_better(metric)
    better = None
    if direction is not None and found.low > 0:
        better = direction
    elif direction is not None and found.high < 0:
        better = not direction
    return Difference(found, better)


def means(rows: Iterable[Row], metric: str) -> Dict[str, Dict[str, float]]:
    """Features to scene to the mean over seeds."""
    values: Dict[str, Dict[str, List[float]]] = {}
    for row in rows:
        value = value_of(row, metric)
        if value is not None:
            values.setdefault(row["features"], {}).setdefault(row["scene"], []).append(value)
    return {name: {scene: float(np.mean(own)) for scene, own in scenes.items()} for name, scenes in values.items()}


def ranks(rows: Sequence[Row], metric: str) -> Tuple[Dict[str, float], int]:
    """The mean rank of features, from 1, the best, and over how many scenes that is.

    Features are ranked within each scene by their mean over seeds; those that tie share the mean of their ranks. A
    scene that some features have no number of is left out for all, since ranks among fewer are lower.

    Args:
        rows: of one mode.
        metric: whose. Of one whose direction is not known, all ranks are nan.
    """
    direction = more_is_better(metric)
    table = means(rows, metric)
    common = [scene for scene in next(iter(table.values()), {}) if all(scene in own for own in table.values())]
    if direction is None or not common:
        return dict.fromkeys(table, math.nan), 0
    values = np.array([[own[scene] for scene in common] for own in table.values()])  # [features, scenes]
    found = stats.rankdata(-values if direction else values, axis=0).mean(axis=1)
    return dict(zip(table, map(float, found), strict=True)), len(common)


def correlation(
    rows: Sequence[Row],
    first: str,
    second: str,
    within_scenes: bool = False,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Correlation:
    """How well two metrics agree on which features are good: over one point for every scene and features, the mean over
    seeds.

    Positive means that what is *better* in one is better in the other, whatever their directions; metrics whose
    direction is not known count as they are. For the interval, features are drawn with replacement, each with all its
    scenes, and quantiles taken.

    Args:
        rows: of one mode.
        first, second: metrics.
        within_scenes: take each scene's mean off first, so that scenes which are easy for all features, or larger than
            others, make no correlation.
        level: how often the interval is to hold the truth.
        draws: of the bootstrap.
        seed: of its random numbers.
    """
    one, other = means(rows, first), means(rows, second)
    points = [(name, scene) for name in one for scene in one[name] if scene in other.get(name, {})]
    names, scenes = (list(dict.fromkeys(point[axis] for point in points)) for axis in (0, 1))
    x, y = (
        np.array([table[name][scene] for name, scene in points]) * (-1.0 if more_is_better(metric) is False else 1.0)
        for table, metric in ((one, first), (other, second))
    )
    if within_scenes:
        of_scene = np.array([scenes.index(scene) for _, scene in points], np.int64)
        x, y = _centred(x, of_scene, len(scenes)), _centred(y, of_scene, len(scenes))
    pearson, spearman = float(_pearson(x, y)), float(_pearson(*map(_ranked, (x, y))))
    nothing = (math.nan, math.nan)
    intervals = [nothing, nothing]
    if len(names) >= FEWEST:
        own = [np.array([i for i, point in enumerate(points) if point[0] == name]) for name in names]
        picks = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
        drawn = [np.concatenate([own[name] for name in pick]) for pick in picks]
        intervals = [_quantiles(values, level) for values in _correlations(x, y, drawn)]
    return Correlation(pearson, intervals[0], spearman, intervals[1], len(points), len(names), len(scenes))


def _centred(values: NDArray, groups: NDArray, count: int) -> NDArray:
    """Less the mean of each group; numbers that only rounding tells apart become equal."""
    if not len(values):
        return values
    sizes = np.maximum(np.bincount(groups, minlength=count), 1)
    left = values - (np.bincount(groups, weights=values, minlength=count) / sizes)[groups]
    step = ROUNDING * np.abs(values).max() or 1.0
    return np.round(left / step) * step


def _ranked(values: NDArray) -> NDArray:
    """Ranks along the last axis, ties averaged."""
    return stats.rankdata(values, axis=-1)


def _pearson(x: NDArray, y: NDArray) -> NDArray:
    """Along the last axis; nan where one of the two does not vary, or there are fewer than two."""
    if x.shape[-1] < 2:
        return np.full(x.shape[:-1], math.nan)
    size = [np.abs(each).max(axis=-1) for each in (x, y)]
    x, y = (each - each.mean(axis=-1, keepdims=True) for each in (x, y))
    spread = [np.sqrt((each**2).sum(axis=-1)) for each in (x, y)]
    varies = (spread[0] > ROUNDING * size[0]) & (spread[1] > ROUNDING * size[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varies, np.clip((x * y).sum(axis=-1) / (spread[0] * spread[1]), -1.0, 1.0), math.nan)


def _correlations(x: NDArray, y: NDArray, drawn: List[NDArray]) -> Tuple[NDArray, NDArray]:
    """Pearson's and Spearman's of every list of points; lists of one length are done at once."""
    by_length: Dict[int, List[NDArray]] = {}
    for each in drawn:
        by_length.setdefault(len(each), []).append(each)
    blocks = [np.stack(each) for each in by_length.values()]
    plain = [_pearson(x[block], y[block]) for block in blocks]
    ranked = [_pearson(_ranked(x[block]), _ranked(y[block])) for block in blocks]
    return np.concatenate(plain), np.concatenate(ranked)


def _quantiles(values: NDArray, level: float) -> Tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
