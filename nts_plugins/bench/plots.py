# SPDX-License-Identifier: Apache-2.0
"""Pictures of a report, as .png. matplotlib comes with nerfstudio; no window is opened."""

import io
import math
from typing import Any, List, Optional, Sequence, Tuple

from nts_plugins.bench.analysis import Mode
from nts_plugins.bench.report_text import NAMES
from nts_plugins.bench.statistics import PICTURES, SURFACES, kind, more_is_better

MOST = 6
"""Panels side by side; metrics beyond are in the tables."""
BEST, OTHER = "#b5472f", "#31587a"


def dots(mode: Mode, metrics: Sequence[str], title: str) -> Optional[bytes]:
    """Features below each other, with their means and intervals, a panel for every metric; None where there is nothing
    to show."""
    shown = [name for name in metrics if any(own[name].count for own in mode.all_scenes.values())][:MOST]
    if not shown:
        return None
    names = list(mode.all_scenes)
    figure, panels = _figure(1, len(shown), 2.6, 1.2 + 0.28 * len(names))
    for metric, panel in zip(shown, panels[0], strict=True):
        found = [mode.all_scenes[name][metric] for name in names]
        there = [each.mean for each in found if each.count]
        best = max(there) if more_is_better(metric) else min(there)
        for place, each in enumerate(found):
            if each.count:
                half = 0.0 if math.isnan(each.half) else each.half
                color = BEST if each.mean == best and len(there) > 1 else OTHER
                panel.errorbar(each.mean, place, xerr=half, fmt="o", ms=5, capsize=2, lw=1.2, color=color)
        panel.set_yticks(range(len(names)), names if panel is panels[0][0] else [])
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_title(f"{_label(metric)} ({'more' if more_is_better(metric) else 'less'} is better)", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return _png(figure)


def scatter(mode: Mode, metrics: Sequence[str], title: str) -> Optional[bytes]:
    """Metrics of pictures against those of surfaces, a point for every features and scene, with the correlations; None
    where there is nothing to show. Of pictures, the metrics of the first prefix."""
    pictures = [name for name in metrics if kind(name) in PICTURES]
    columns = [name for name in pictures if name.rpartition("_")[0] == pictures[0].rpartition("_")[0]]
    surfaces = [name for name in metrics if kind(name) in SURFACES][:MOST]
    if not columns or not surfaces or not mode.correlations:
        return None
    figure, panels = _figure(len(surfaces), len(columns), 2.8, 2.6 * len(surfaces))
    scenes = list(mode.scenes)
    for row, other in zip(panels, surfaces, strict=True):
        for panel, one in zip(row, columns, strict=True):
            for number, scene in enumerate(scenes):
                points = _points(mode, one, other, scene)
                if points:
                    x, y, names = zip(*points, strict=True)
                    panel.scatter(x, y, s=16, color=f"C{number % 10}", label=scene)
                    for place in range(len(names)) if len(scenes) == 1 else ():
                        panel.annotate(names[place], (x[place], y[place]), fontsize=5)
            found = mode.correlations.get((one, other), {}).get("pooled")
            if found is not None and not math.isnan(found.pearson):
                panel.set_title(f"r {found.pearson:.2f}, ρ {found.spearman:.2f}, n {found.points}", fontsize=8)
            panel.set_xlabel(_label(one), fontsize=8)
            panel.set_ylabel(_label(other), fontsize=8)
    if 1 < len(scenes) <= 10:
        panels[0][0].legend(fontsize=5)
    figure.suptitle(f"{title}; r and ρ above 0: better in both", fontsize=10)
    return _png(figure)


def _points(mode: Mode, one: str, other: str, scene: str) -> List[Tuple[float, float, str]]:
    first, second = mode.points[one], mode.points[other]
    return [
        (first[name][scene], second[name][scene], name)
        for name in first
        if scene in first[name] and scene in second.get(name, {})
    ]


def _label(metric: str) -> str:
    return f"{metric.rpartition('_')[0].replace('_', ' ')} {NAMES[kind(metric)]}".strip()


def _figure(rows: int, columns: int, width: float, height: float) -> Tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + width * columns, height), dpi=120, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    return figure, panels


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()
