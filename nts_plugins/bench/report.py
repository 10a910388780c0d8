# SPDX-License-Identifier: Apache-2.0
"""What a benchmark leaves for people and programs: OUTPUT/report.md with its plots, results.csv, summary.json."""

import csv
import io
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Sequence

from nts_plugins.bench import plots
from nts_plugins.bench.analysis import Analysis, analyse
from nts_plugins.bench.grid import Grid, Result
from nts_plugins.bench.report_text import markdown
from nts_plugins.bench.statistics import KEYS, metrics_of
from nts_plugins.files.claims import claimed
from nts_plugins.files.whole import result_file, writing

AGAIN = 0.2
"""Seconds between two looks at whether another process has finished writing its report."""


def write_report(
    folder: Path, grid: Grid, results: Sequence[Result], damaged: Sequence[Path] = (), title: str = "Feat2GS"
) -> Path:
    """Write everything, each file whole, and return the path of the report. Processes that share the folder take turns.

    Args:
        folder: OUTPUT.
        grid: what was asked for, so that the report can say what is missing.
        results: what is there.
        damaged: files of results that could not be read.
        title: of the report.

    Raises:
        InputError: where it cannot be written.
    """
    found = analyse(grid, results, damaged)
    while True:
        with writing(folder / "claims" / "report"), claimed(folder / "claims" / "report") as mine:
            if mine:
                return _write(folder, found, title)
        time.sleep(AGAIN)


def _write(folder: Path, found: Analysis, title: str) -> Path:
    pictures: Dict[str, List[str]] = {}
    short = title.partition(":")[0]
    for mode, own in found.modes.items():
        drawn = {
            f"plots/{mode}.png": plots.dots(own, found.metrics, f"{short}, {mode}"),
            f"plots/{mode}_scatter.png": plots.scatter(own, found.metrics, f"{short}, {mode}"),
        }
        for name, content in drawn.items():
            if content is not None:
                _put(folder / name, content)
                pictures.setdefault(mode, []).append(name)
    _put(folder / "results.csv", csv_text(found.results).encode())
    _put(folder / "summary.json", (json.dumps(summary(found), indent=1, allow_nan=False) + "\n").encode())
    _put(folder / "report.md", markdown(found, title, pictures).encode())
    return folder / "report.md"


def _put(path: Path, content: bytes) -> None:
    with result_file(path) as file:
        file.write(content)


def csv_text(results: Sequence[Result]) -> str:
    """One row for every cell; what a cell does not have is empty."""
    metrics = metrics_of([result.row() for result in results])
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*KEYS, *metrics, "seconds", "machine", "error"])
    for result in results:
        row = result.row()
        values = [row.get(name) for name in metrics]
        cells = ["" if value is None or math.isnan(value) else value for value in values]
        writer.writerow([*(row[key] for key in KEYS), *cells, result.seconds, result.machine, result.error or ""])
    return file.getvalue()


def summary(found: Analysis) -> Dict[str, Any]:
    """Everything that the report says, as plain values; nan is null."""
    modes = {
        mode: {
            "all_scenes": own.all_scenes,
            "scenes": own.scenes,
            "ranks": own.ranks,
            "ranked_scenes": own.ranked_scenes,
            "differences": own.differences,
            "correlations": [
                {"pictures": one, "surfaces": other, **ways} for (one, other), ways in own.correlations.items()
            ],
        }
        for mode, own in found.modes.items()
    }
    return _plain(
        {
            "settings": dict(found.grid.settings),
            "scenes": {name: dict(own) for name, own in found.grid.scenes.items()},
            "seeds": found.grid.seeds,
            "metrics": found.metrics,
            "modes": modes,
            "failed": [{**asdict(result.cell), "error": result.error} for result in found.failed],
            "missing": found.missing,
            "damaged": [str(path) for path in found.damaged],
        }
    )


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
