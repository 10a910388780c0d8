# SPDX-License-Identifier: Apache-2.0
"""A report as Markdown: tables as papers have them, and what may be read from them."""

import math
from typing import Dict, Iterable, List, Mapping, Optional, Sequence

from nts_plugins.bench.analysis import Analysis, Differences, Mode, Table
from nts_plugins.bench.grid import FREE, Cell
from nts_plugins.bench.statistics import SURFACES, Correlation, Difference, Estimate, kind, more_is_better
from nts_plugins.errors import describe

NAMES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "accuracy": "Acc", "completeness": "Comp",
         "distance": "Dist"}  # fmt: skip
NOTHING = "–"
READING = """## How to read this

* Means are over scenes of the means over seeds. ± is half of a 95 % interval. Over several scenes it is that of a
  bootstrap of scenes, and of seeds within them, and says where the mean over other such scenes would be. In a single
  scene it is that of its seeds, and says where the mean over other seeds would be. Nothing is claimed of one number.
* The best is **bold**, the second <u>underlined</u>, both as they are printed. That says nothing about chance.
* Differences are over the same scenes and seeds, so that what a scene makes hard for all cancels. **Bold** is better
  and *italic* is worse beyond the interval. Each interval holds by itself: of twenty comparisons where nothing differs,
  one is expected to say that it does.
* Ranks: 1 is the best, and ties share. They are within scenes, and their mean is over the scenes in which no features
  lack the metric.
* Correlations are over one point for every features and scene, and positive where what is better in pictures is better
  in 3D. In brackets are 95 % intervals of a bootstrap over features; there is none for fewer than four. "Within scenes"
  takes each scene's mean off first, so that easy scenes, or large ones, make no correlation."""


def markdown(found: Analysis, title: str, plots: Mapping[str, Sequence[str]]) -> str:
    """The report.

    Args:
        found: what it says.
        title: at its top.
        plots: mode to the paths of its pictures, relative to the report.
    """
    parts = [f"# {title}", *_head(found), READING]
    for mode, own in found.modes.items():
        parts += [f"## {mode.capitalize()}", *_of_mode(mode, own, found.metrics), *_pictures(mode, plots.get(mode, ()))]
    if found.modes:
        parts.append("## Scene by scene")
    for mode, own in found.modes.items():
        for scene, table in own.scenes.items():
            parts += [f"### {_plain(scene)}, {mode}", means_table(table, found.metrics, intervals=False)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _head(found: Analysis) -> List[str]:
    grid, done = found.grid, len(found.results) - len(found.failed)
    asked = len(grid.cells())
    hours = sum(result.seconds for result in found.results) / 3600
    parts = [
        f"{done} cells have results; {asked} are asked for: {len(grid.scenes)} scenes, "
        f"{len(grid.features)} features, {len(grid.modes)} modes, {grid.seeds} seeds. {hours:.2f} hours of work."
    ]
    told = [f"* {name}: `{_code(value)}`" for name, value in grid.settings.items() if value]
    for scene, own in grid.scenes.items():
        # Where its data lie says nothing to readers elsewhere.
        said = [f"{name} `{_code(value)}`" for name, value in own.items() if value and name != "data"]
        told += [f"* {_plain(scene)}: {', '.join(said)}"] if said else []
    if told:
        parts.append("\n".join(told))
    if found.failed:
        why: Dict[str, List[Cell]] = {}
        for each in found.failed:
            why.setdefault(str(each.error).splitlines()[0], []).append(each.cell)
        lines = [f"* {_plain(error)} ({_plain(describe(cells))})" for error, cells in why.items()]
        parts += [f"**{len(found.failed)} cells failed**, and are in no table:", "\n".join(lines)]
    if found.missing:
        parts.append(f"**{len(found.missing)} cells are missing**: {_plain(describe(found.missing))}.")
    if found.damaged:
        parts.append(
            f"Damaged files, of which nothing is known: {_plain(describe([path.name for path in found.damaged]))}."
        )
    return parts


def _of_mode(mode: str, own: Mode, metrics: Sequence[str]) -> List[str]:
    parts = [means_table(own.all_scenes, metrics)]
    if any(len({table[name].scenes for table in own.all_scenes.values()} - {0}) > 1 for name in metrics):
        parts.append(
            "Not all have the same scenes. Only those that have the most are marked; the differences are fair."
        )
    for compared in own.differences:
        other = f"`{_code(compared.against)}`" if compared.against_mode == mode else f"mode {FREE}"
        parts += [f"### Difference from {other}, {mode}", differences_table(compared, metrics)]
    if len(own.all_scenes) > 1:
        parts += [f"### Ranks, {mode}", ranks_table(own, metrics)]
    if own.correlations:
        parts += [f"### Pictures and surfaces, {mode}", correlations_table(own)]
    return parts


def _pictures(mode: str, paths: Sequence[str]) -> List[str]:
    return [f"![{mode}]({path})" for path in paths]


def means_table(table: Table, metrics: Sequence[str], intervals: bool = True) -> str:
    """One row for every features; metrics that none of them has are left out."""
    columns = [name for name in metrics if any(own[name].count for own in table.values())]
    texts: Dict[str, Dict[str, str]] = {features: {} for features in table}
    for metric in columns:
        most = max(own[metric].scenes for own in table.values())
        values = {name: own[metric].mean for name, own in table.items() if own[metric].scenes == most}
        marks = marked({name: shown(metric, value) for name, value in values.items()}, values, metric)
        for features, own in table.items():
            text = marks.get(features, "{}").format(shown(metric, own[metric].mean))
            texts[features][metric] = text + (spread(metric, own[metric]) if intervals else "")
    counts = ["scenes"] if intervals else ["seeds"]

    def count(own: Mapping[str, Estimate]) -> str:
        each = [value.scenes if intervals else value.count for value in own.values() if value.count]
        return str(max(each, default=0))

    rows = [[f"`{_code(name)}`", count(table[name]), *(texts[name][metric] for metric in columns)] for name in table]
    most_scenes = {metric: max(own[metric].scenes for own in table.values()) for metric in columns}
    fewer = {name: f" ({few} scenes)" for name, few in most_scenes.items() if few < max(most_scenes.values())}
    return _table(["features", *counts, *(header(name) + fewer.get(name, "") for name in columns)], rows)


def marked(texts: Mapping[str, str], values: Mapping[str, float], metric: str) -> Dict[str, str]:
    """How the best and the second are printed; whoever is printed alike shares the place. A row alone is not marked."""
    direction = more_is_better(metric)
    there = [name for name in texts if math.isfinite(values[name])]
    if direction is None or len(there) < 2:
        return {}
    order = sorted(there, key=lambda name: values[name], reverse=direction)
    places = list(dict.fromkeys(texts[name] for name in order))
    styles = dict(zip(places, ["**{}**", "<u>{}</u>"], strict=False)) if len(places) > 1 else {}
    return {name: styles[texts[name]] for name in there if texts[name] in styles}


def differences_table(compared: Differences, metrics: Sequence[str]) -> str:
    """One row for every features."""

    def cell(metric: str, found: Difference) -> str:
        if not found.estimate.count:
            return NOTHING
        value = shown(metric, found.estimate.mean)
        text = ("" if value.startswith("-") else "+") + value + spread(metric, found.estimate)
        return {True: f"**{text}**", False: f"*{text}*", None: text}[found.better]

    columns = [name for name in metrics if any(own[name].estimate.count for own in compared.of.values())]
    rows = [
        [f"`{_code(name)}`", _pairs(own.values()), *(cell(metric, own[metric]) for metric in columns)]
        for name, own in compared.of.items()
    ]
    return _table(["features", "scenes, cells", *map(header, columns)], rows)


def _pairs(found: Iterable[Difference]) -> str:
    most = max((each.estimate for each in found), key=lambda each: each.count)
    return f"{most.scenes}, {most.count}"


def ranks_table(own: Mode, metrics: Sequence[str]) -> str:
    """One row for every features, the best first; the last column is the mean over metrics."""
    columns = [metric for metric in metrics if own.ranked_scenes.get(metric)]
    overall: Dict[str, float] = {}
    for features in own.all_scenes:
        ranks = [own.ranks[metric][features] for metric in columns if features in own.ranks[metric]]
        overall[features] = sum(ranks) / len(ranks) if len(ranks) == len(columns) > 0 else math.nan

    def text(value: Optional[float]) -> str:
        return NOTHING if value is None or math.isnan(value) else f"{value:.2f}"

    order = sorted(overall, key=lambda name: (math.isnan(overall[name]), overall[name]))
    rows = [
        [f"`{_code(name)}`", *(text(own.ranks[metric].get(name)) for metric in columns), text(overall[name])]
        for name in order
    ]
    names = [f"{_name(metric)} ({own.ranked_scenes[metric]} scenes)" for metric in columns]
    return _table(["features", *names, "mean"], rows)


def correlations_table(own: Mode) -> str:
    """One row for every pair of metrics."""
    ways = list(dict.fromkeys(way for found in own.correlations.values() for way in found))

    def cells(found: Correlation) -> List[str]:
        return [
            _correlated(found.pearson, found.pearson_interval),
            _correlated(found.spearman, found.spearman_interval),
        ]

    rows = []
    for (one, other), found in own.correlations.items():
        some = found[ways[0]]
        about = f"{some.points} ({some.features} features, {some.scenes} scenes)"
        rows.append([f"{_name(one)}, {_name(other)}", about, *(cell for way in ways for cell in cells(found[way]))])
    names = [f"{kind_of}, {way}" if len(ways) > 1 else kind_of for way in ways for kind_of in ("Pearson", "Spearman")]
    return _table(["metrics", "n", *names], rows)


def _correlated(value: float, interval: Sequence[float]) -> str:
    if math.isnan(value):
        return NOTHING
    return f"{value:.2f}" + ("" if math.isnan(interval[0]) else f" [{interval[0]:.2f}, {interval[1]:.2f}]")


def shown(metric: str, value: float) -> str:
    """A metric's number as papers print it."""
    if not math.isfinite(value):
        return NOTHING
    if kind(metric) in SURFACES:
        return f"{value:.4g}"
    return f"{value:.2f}" if kind(metric) == "psnr" else f"{value:.4f}"


def spread(metric: str, found: Estimate) -> str:
    """Half the interval, with its sign, where there is one."""
    if math.isnan(found.half):
        return ""
    return " ± " + (f"{found.half:.2g}" if kind(metric) in SURFACES else shown(metric, found.half))


def header(metric: str) -> str:
    """A metric's name, and an arrow to where it is better."""
    return f"{_name(metric)} {'↑' if more_is_better(metric) else '↓'}"


def _name(metric: str) -> str:
    prefix = metric.rpartition("_")[0].replace("_", " ")
    return _plain(f"{prefix} {NAMES[kind(metric)]}".strip())


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    for letter in "\\`*_<>[]|#":
        text = text.replace(letter, "\\" + letter)
    return text


def _code(value: object) -> str:
    return str(value).replace("`", "'").replace("|", "\\|").replace("\n", " ")
