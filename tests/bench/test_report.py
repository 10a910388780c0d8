# SPDX-License-Identifier: Apache-2.0
"""What a report says: the numbers of the rows, which is best, what is not there."""

import csv
import json
import math
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import pytest
from PIL import Image

from nts_plugins.bench import report_text
from nts_plugins.bench.analysis import analyse, known_metrics
from nts_plugins.bench.grid import Cell, Grid, Result
from nts_plugins.bench.report import write_report
from nts_plugins.bench.statistics import summarise
from nts_plugins.files.claims import claimed

FEATURES = ("iuv", "radio", "dino_b16", "clip")
OFFSET = {"iuv": 0.0, "radio": 1.0, "dino_b16": 0.5, "clip": 0.25, "none": 0.1}
SCENES = ("fox", "cat")
ALL = ("psnr", "ssim", "lpips", "accuracy", "completeness", "distance")


def number(cell: Cell, metric: str) -> float:
    """Of every cell another one, with radio best in everything and noise far below what features differ by."""
    wiggle = 0.01 * math.sin(37 * cell.seed + len(cell.features) + len(metric) + ord(cell.scene[0]))
    good = OFFSET[cell.features] + {"fox": 0.0, "cat": 3.0}.get(cell.scene, 1.0) + wiggle
    kind = metric.rpartition("_")[2]
    return {"psnr": 18 + good, "ssim": 0.5 + 0.05 * good}.get(kind, 5 - 0.5 * good)


def results_of(grid: Grid, metrics: Sequence[str] = ALL, skip: Sequence[Cell] = ()) -> List[Result]:
    return [
        Result(cell, grid.settings, grid.scenes[cell.scene], {name: number(cell, name) for name in metrics}, 60.0)
        for cell in grid.cells()
        if cell not in skip
    ]


@pytest.fixture
def grid() -> Grid:
    return Grid({scene: {} for scene in SCENES}, FEATURES, ("geometry", "free"), 3, {"options": "--a 1", "work": ""})


def tables(text: str) -> Dict[str, List[List[str]]]:
    """The rows of each table, header first, by the heading above it."""
    found: Dict[str, List[List[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|") and not line.startswith("|---"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def bare(cell: str) -> str:
    return re.sub(r"\*|</?u>|`", "", cell)


def written(folder: Path, grid: Grid, results: Sequence[Result], **more: Any) -> Tuple[str, Dict]:
    path = write_report(folder, grid, results, **more)
    assert path == folder / "report.md"
    return path.read_text(encoding="utf-8"), json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_tables_have_the_numbers_of_the_rows(tmp_path: Path, grid: Grid) -> None:
    results = results_of(grid)
    text, summary = written(tmp_path, grid, results)
    found = tables(text)
    header, *rows = found["Geometry"]
    assert header == ["features", "scenes", "PSNR ↑", "SSIM ↑", "LPIPS ↓", "Acc ↓", "Comp ↓", "Dist ↓"]
    assert [bare(row[0]) for row in rows] == list(FEATURES)
    for row in rows:
        own = [each.row() for each in results if (each.cell.features, each.cell.mode) == (bare(row[0]), "geometry")]
        mean = np.mean([np.mean([each["psnr"] for each in own if each["scene"] == scene]) for scene in SCENES])
        value, half = bare(row[2]).split(" ± ")
        assert row[1] == "2" and value == f"{mean:.2f}" and half == f"{summarise(own, 'psnr').half:.2f}"
        in_json = summary["modes"]["geometry"]["all_scenes"][bare(row[0])]["psnr"]
        assert in_json["mean"] == pytest.approx(mean) and in_json["scenes"] == 2 and in_json["count"] == 6
    for scene in SCENES:
        for row in found[f"{scene}, geometry"][1:]:
            own = [each for each in results if (each.cell.features, each.cell.scene) == (bare(row[0]), scene)]
            assert bare(row[2]) == f"{np.mean([each.metrics['psnr'] for each in own]):.2f}" and row[1] == "3"
            assert bare(row[5]) == f"{np.mean([each.metrics['accuracy'] for each in own]):.4g}"
    assert [bare(row[0]) for row in found["Free"][1:]] == ["none"] and "fox, free" in found
    assert "options: `--a 1`" in text and "* work" not in text
    assert "30 cells have results; 30 are asked for" in text and "missing" not in text and "failed" not in text


def test_the_best_is_bold_and_the_second_underlined(tmp_path: Path, grid: Grid) -> None:
    text, _ = written(tmp_path, grid, results_of(grid))
    for heading in ("Geometry", "fox, geometry", "cat, geometry"):
        for row in tables(text)[heading][1:]:
            for cell in row[2:]:
                assert cell.startswith("**") == (bare(row[0]) == "radio")
                assert cell.startswith("<u>") == (bare(row[0]) == "dino_b16")
    assert "**" not in "".join(tables(text)["Free"][1]), "a row alone is not the best"


def test_marks() -> None:
    def marks(metric: str, **values: float) -> Dict[str, str]:
        texts = {name: report_text.shown(metric, value) for name, value in values.items()}
        return report_text.marked(texts, values, metric)

    assert marks("lpips", a=0.3, b=0.1, c=0.2) == {"b": "**{}**", "c": "<u>{}</u>"}
    assert marks("psnr", a=20.001, b=20.004, c=19.0) == {"a": "**{}**", "b": "**{}**", "c": "<u>{}</u>"}
    assert marks("psnr", a=20.0, b=20.0) == {} and marks("psnr", a=20.0, b=math.nan) == {}


def test_differences_ranks_and_correlations(tmp_path: Path, grid: Grid) -> None:
    text, summary = written(tmp_path, grid, results_of(grid))
    found = tables(text)
    rows = {bare(row[0]): row for row in found["Difference from `iuv`, geometry"][1:]}
    assert list(rows) == list(FEATURES[1:]), "not from itself"
    value, half = bare(rows["radio"][2]).split(" ± ")
    assert float(value) == pytest.approx(1.0, abs=0.03) and float(half) < 0.3 and rows["radio"][2].startswith("**+")
    assert rows["radio"][4].startswith("**-") and rows["radio"][1] == "2, 6"
    against_free = {bare(row[0]): row for row in found["Difference from mode free, geometry"][1:]}
    assert against_free["iuv"][2].startswith("*-") and against_free["radio"][2].startswith("**+")
    ranked = found["Ranks, geometry"]
    assert ranked[0][1] == "PSNR (2 scenes)"
    assert [(bare(row[0]), row[1], row[-1]) for row in ranked[1:]] == [
        ("radio", "1.00", "1.00"), ("dino_b16", "2.00", "2.00"), ("clip", "3.00", "3.00"), ("iuv", "4.00", "4.00"),
    ]  # fmt: skip
    correlated = {row[0]: row for row in found["Pictures and surfaces, geometry"][1:]}
    assert len(correlated) == 9 and correlated["PSNR, Acc"][1] == "8 (4 features, 2 scenes)"
    assert correlated["PSNR, Acc"][2].startswith("1.00 [") and correlated["LPIPS, Dist"][4].startswith("1.00 [")
    assert "Pictures and surfaces, free" not in found
    (psnr, *_) = summary["modes"]["geometry"]["correlations"]
    assert psnr["pictures"] == "psnr" and psnr["within scenes"]["pearson"] > 0.99
    better = summary["modes"]["geometry"]["differences"][0]["of"]["radio"]["psnr"]["better"]
    assert better is True and summary["modes"]["geometry"]["ranks"]["psnr"]["radio"] == 1


def test_what_single_scenes_were_told_is_said(tmp_path: Path, grid: Grid) -> None:
    told = {"fox": {"data": "/somewhere", "train_views": 6, "scene_options": "--a 2"}, "cat": {"data": "/elsewhere"}}
    own = replace(grid, scenes=told, settings={"options": "--a 1"})
    text, _ = written(tmp_path, own, results_of(own, ("psnr",)))
    assert {"* options: `--a 1`", "* fox: train_views `6`, scene_options `--a 2`"} <= set(text.splitlines())
    assert "* cat" not in text and "somewhere" not in text and "elsewhere" not in text


def test_one_row_a_cell(tmp_path: Path, grid: Grid) -> None:
    results = results_of(grid, ("psnr",))
    results[1] = Result(results[1].cell, grid.settings, {}, {}, 2.0, error='No "weights",\nnone at all')
    results[2] = Result(results[2].cell, grid.settings, {}, {"psnr": math.nan, "splats": 7.0}, 2.0, machine="here")
    written(tmp_path, grid, results[::-1])
    with open(tmp_path / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["scene"], row["features"], row["mode"], row["seed"]) for row in rows] == [
        (cell.scene, cell.features, cell.mode, str(cell.seed)) for cell in grid.cells()
    ]
    assert float(rows[0]["psnr"]) == results[0].metrics["psnr"] and rows[0]["splats"] == ""
    assert rows[1]["psnr"] == "" and rows[1]["error"] == 'No "weights",\nnone at all'
    assert (rows[2]["psnr"], rows[2]["splats"], rows[2]["machine"]) == ("", "7.0", "here")


def test_metrics_that_are_missing_leave_their_columns_out(tmp_path: Path, grid: Grid) -> None:
    text, summary = written(tmp_path, grid, results_of(grid, ("psnr", "ssim", "splats")))
    assert tables(text)["Geometry"][0] == ["features", "scenes", "PSNR ↑", "SSIM ↑"]
    assert "Pictures and surfaces" not in text and summary["metrics"] == ["psnr", "ssim"]
    assert not (tmp_path / "plots" / "geometry_scatter.png").exists() and "scatter" not in text
    # A metric that one of them lacks has its column, and a gap.
    results = results_of(grid)
    results = [
        Result(**{**each.__dict__, "metrics": {**each.metrics, "lpips": math.nan}})
        if each.cell.features == "clip" else each for each in results
    ]  # fmt: skip
    text, _ = written(tmp_path, grid, results)
    rows = {bare(row[0]): row for row in tables(text)["Geometry"][1:]}
    assert rows["clip"][4] == "–" and rows["radio"][4].startswith("**")
    ranked = {bare(row[0]): row for row in tables(text)["Ranks, geometry"][1:]}
    assert ranked["clip"][3] == ranked["clip"][-1] == "–" and ranked["clip"][1] == "3.00"


def test_metrics_that_some_scenes_have(tmp_path: Path, grid: Grid) -> None:
    """As where there is a true surface of one of them."""
    results = [
        Result(**{**each.__dict__, "metrics": {"psnr": each.metrics["psnr"]}}) if each.cell.scene == "cat" else each
        for each in results_of(grid, ("psnr", "accuracy"))
    ]
    text, _ = written(tmp_path, grid, results)
    found = tables(text)
    assert found["Geometry"][0] == ["features", "scenes", "PSNR ↑", "Acc ↓ (1 scenes)"]
    assert found["fox, geometry"][0][2:] == ["PSNR ↑", "Acc ↓"] and found["cat, geometry"][0][2:] == ["PSNR ↑"]
    assert "Not all have the same scenes" not in text and found["Geometry"][2][3].startswith("**")
    assert found["Ranks, geometry"][0][1:3] == ["PSNR (2 scenes)", "Acc (1 scenes)"]


def test_prefixes_are_columns_of_their_own() -> None:
    names = ("masked_psnr", "published_psnr", "published_lpips", "masked_lpips", "gt_distance", "views", "masked_ssim")
    rows = [{"scene": "fox", "features": "iuv", "mode": "all", "seed": 1, **dict.fromkeys(names, 1.0)}]
    ordered = known_metrics(rows)
    assert ordered == ["masked_psnr", "masked_ssim", "masked_lpips", "published_psnr", "published_lpips", "gt_distance"]
    assert [report_text.header(name) for name in ordered[-2:]] == ["published LPIPS ↓", "gt Dist ↓"]


def test_what_is_missing_or_failed_or_damaged_is_said(tmp_path: Path, grid: Grid) -> None:
    cells = grid.cells()
    results = results_of(grid, skip=cells[:6])
    results += [Result(cell, {}, {}, error="No weights of <x>.\nMore.") for cell in cells[:5]]
    text, summary = written(tmp_path, grid, results, damaged=[tmp_path / "cells" / "a_b.json"])
    assert "24 cells have results; 30 are asked for" in text
    assert "**5 cells failed**" in text and "No weights of \\<x\\>. (fox / iuv / geometry / seed 1, " in text
    assert text.count("No weights") == 1, "cells that failed alike are one line"
    assert "**1 cells are missing**: cat / iuv / geometry / seed 1." in text.replace("\\", "")
    assert "a\\_b.json" in text
    assert summary["failed"][0]["error"] == "No weights of <x>.\nMore." and len(summary["failed"]) == 5
    assert summary["missing"] == [{"scene": "cat", "features": "iuv", "mode": "geometry", "seed": 1}]


def test_features_of_fewer_scenes_are_not_marked(tmp_path: Path, grid: Grid) -> None:
    """radio has only the scene that is hard for all, clip the one that is easy."""
    skip = [each for each in grid.cells() if (each.features, each.scene) in (("radio", "cat"), ("clip", "fox"))]
    text, _ = written(tmp_path, grid, results_of(grid, skip=skip))
    rows = {bare(row[0]): row for row in tables(text)["Geometry"][1:]}
    assert "Not all have the same scenes" in text and (rows["radio"][1], rows["dino_b16"][1]) == ("1", "2")
    assert rows["dino_b16"][2].startswith("**") and rows["iuv"][2].startswith("<u>") and "*" not in rows["clip"][2]
    differences = {bare(row[0]): row for row in tables(text)["Difference from `iuv`, geometry"][1:]}
    assert differences["clip"][1] == "1, 3" and float(bare(differences["clip"][2]).split(" ")[0]) < 0.5


def test_plots_are_pictures(tmp_path: Path, grid: Grid) -> None:
    text, _ = written(tmp_path, grid, results_of(grid))
    linked = re.findall(r"!\[\w+\]\((.+?)\)", text)
    assert linked == ["plots/geometry.png", "plots/geometry_scatter.png", "plots/free.png"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(Path(path).name for path in linked)
    for path in linked:
        with Image.open(tmp_path / path) as picture:
            assert picture.format == "PNG"
            pixels = np.asarray(picture.convert("RGB"))
        assert min(pixels.shape[:2]) > 100 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize("seeds, features", [(1, ("iuv",)), (1, ("iuv", "radio")), (2, ("radio",))])
def test_small_benchmarks_have_a_report(tmp_path: Path, seeds: int, features: Tuple[str, ...]) -> None:
    grid = Grid({"fox": {}}, features, ("texture",), seeds)
    text, summary = written(tmp_path, grid, results_of(grid))
    row = tables(text)["Texture"][1]
    assert ("±" in row[2]) == (seeds > 1)
    own = summary["modes"]["texture"]["all_scenes"][features[0]]["psnr"]
    assert own["method"] == ("none" if seeds == 1 else "t over seeds") and (own["low"] is None) == (seeds == 1)


def test_nothing_at_all_has_a_report(tmp_path: Path, grid: Grid) -> None:
    text, summary = written(tmp_path, grid, [])
    assert "0 cells have results; 30 are asked for" in text and len(summary["missing"]) == 30 and not summary["modes"]
    failed = [Result(cell, {}, {}, error="No.") for cell in grid.cells()]
    assert "**30 cells failed**" in written(tmp_path, grid, failed)[0]


def test_names_do_not_break_tables(tmp_path: Path) -> None:
    grid = Grid({"a|b": {}, "c*d": {}}, ("x|y", "p`q", "my.module:f_g"), ("all",), 1)
    OFFSET.update({"x|y": 0.0, "p`q": 1.0, "my.module:f_g": 2.0})
    text, _ = written(tmp_path, grid, results_of(grid))
    rows = [line for line in text.splitlines() if line.startswith("| `x")]
    assert len(rows) > 2 and all("`x\\|y`" in line for line in rows)
    assert "### a\\|b, all" in text and "`my.module:f_g`" in text and "`p'q`" in text


def test_results_outside_the_grid_are_in_the_report(grid: Grid) -> None:
    other = Cell("dog", "radio", "geometry", 1)
    found = analyse(grid, [Result(other, {}, {}, {"psnr": 20.0}), *results_of(grid)])
    assert found.results[-1].cell == other and "dog" in found.modes["geometry"].scenes and not found.missing


def test_processes_take_turns(tmp_path: Path, grid: Grid) -> None:
    results = results_of(grid, ("psnr",))
    thread = threading.Thread(target=write_report, args=(tmp_path, grid, results))
    with claimed(tmp_path / "claims" / "report") as mine:
        assert mine
        thread.start()
        time.sleep(0.5)
        assert not (tmp_path / "report.md").exists()
    thread.join(60)
    assert (tmp_path / "report.md").exists() and not list((tmp_path / "claims").iterdir())
