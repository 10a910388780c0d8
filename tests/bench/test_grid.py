# SPDX-License-Identifier: Apache-2.0
"""Cells, their names, and the files of what came of them."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

import pytest

from nts_plugins.bench.grid import Cell, Grid, Result, Results, check_settings, grid_of
from nts_plugins.errors import InputError

SCENES: Dict[str, Dict[str, Any]] = {"fox": {"data": "/d/fox", "train_views": 6}, "cat": {"data": "/d/cat"}}


def grid(**changes: Any) -> Grid:
    values: Dict[str, Any] = {"scenes": SCENES, "features": ("iuv", "radio"), "modes": ("geometry", "free"), "seeds": 2}
    return Grid(**{**values, "settings": {"options": "--a 1"}, **changes})


def result(cell: Cell, **changes: Any) -> Result:
    values: Dict[str, Any] = {"settings": {"options": "--a 1"}, "scene_settings": SCENES[cell.scene]}
    return Result(**{"cell": cell, **values, "metrics": {"psnr": 20.5}, "seconds": 3.0, **changes})


def test_every_scene_of_the_first_seed_comes_before_the_second() -> None:
    cells = grid().cells()
    assert [str(cell) for cell in cells[:6]] == [
        "fox / iuv / geometry / seed 1",
        "fox / radio / geometry / seed 1",
        "fox / none / free / seed 1",
        "cat / iuv / geometry / seed 1",
        "cat / radio / geometry / seed 1",
        "cat / none / free / seed 1",
    ]
    assert cells[6:] == [replace(cell, seed=2) for cell in cells[:6]]


def test_what_is_named_twice_is_run_once() -> None:
    assert len(grid(features=("iuv", "iuv"), modes=("free", "free", "all")).cells()) == 2 * 2 * 2


def test_cells_are_told_of_their_scene() -> None:
    assert grid().settings_of(Cell("fox", "iuv", "all", 1)) == {"options": "--a 1", "data": "/d/fox", "train_views": 6}


ODD = ["iuv", "IUV", "dinov2_b14+iuvrgb", "dinov2_b14 iuvrgb", "package.module:function", "package.module-function",
       "package.module/function", "package_module:function", "..", "a/../b", "", "_", "__", "a__b", "a_", "a_b",
       "x" * 300, "x" * 301, "мера", "特征", "特點", "CON", ".hidden", "-x", "a.json", "a\nb", "a\0b"]  # fmt: skip


def test_slugs_are_readable_file_names_and_differ(tmp_path: Path) -> None:
    assert Cell("fox", "dinov2_b14+iuvrgb", "geometry", 1).slug == "fox__dinov2_b14+iuvrgb__geometry__seed1"
    assert "package.module-function" in Cell("fox", "package.module:function", "geometry", 1).slug
    cells = [Cell(scene, name, "all", seed) for scene in ODD for name in ODD for seed in (1, 11)]
    cells += [Cell("a", "b__c", "all", 1), Cell("a__b", "c", "all", 1), Cell("a", "b", "all__seed1", 1)]
    slugs = [cell.slug.lower() for cell in cells]  # some file systems do not tell capitals
    assert len(set(slugs)) == len(set(cells))
    for slug in set(slugs):
        assert len(slug) < 200 and slug[0].isalnum() and "/" not in slug
    for slug in slugs[:50]:
        (tmp_path / slug).write_text("")
    assert len(list(tmp_path.iterdir())) == 50


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"modes": ("geometry", "colour")}, "no mode colour"),
        ({"modes": ()}, "no modes"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"scenes": {}}, "no scenes"),
        ({"features": ()}, "no features"),
        ({"features": ("iuv", "none")}, "'none' is no name"),
        ({"features": (" ",)}, "is no name"),
    ],
)
def test_grids_without_meaning(changes: Dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        grid(**changes)


def test_the_free_mode_needs_no_features() -> None:
    assert [cell.features for cell in grid(features=(), modes=("free",), seeds=1).cells()] == ["none", "none"]


# ---- results as files


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    results = Results(tmp_path)
    cell, failed = Cell("fox", "package.module:function", "all", 1), Cell("cat", "iuv", "all", 2)
    written = [
        result(cell, metrics={"psnr": 20.123456789012345, "lpips": math.nan}, machine="here"),
        result(failed, metrics={}, error='No "weights"\nof it.', trace="File 1"),
    ]
    for each in written:
        results.write(each)
    assert [path.name for path in results.cells.iterdir() if path.name.startswith(".")] == []
    found, damaged = results.all()
    assert not damaged and {each.cell for each in found} == {cell, failed}
    assert results.read(failed) == written[1]
    read = results.read(cell)
    assert read is not None and read.metrics["psnr"] == 20.123456789012345 and math.isnan(read.metrics["lpips"])
    assert replace(read, metrics={}) == replace(written[0], metrics={})
    assert "NaN" not in results.path(cell).read_text(), "which is no JSON"
    assert results.read(Cell("fox", "iuv", "all", 1)) is None
    assert read.row() == {"scene": "fox", "features": cell.features, "mode": "all", "seed": 1, **read.metrics}


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def broken_files(results: Results, cells: List[Cell]) -> None:
    """Each damaged in another way."""
    for cell in cells:
        results.write(result(cell))
    paths = [results.path(cell) for cell in cells]
    paths[0].write_text(paths[0].read_text()[:60])
    paths[1].write_bytes(b"")
    paths[2].write_bytes(b"\xff\xfe\x00")
    shutil.copy(paths[8], paths[3])
    edit(paths[4], metrics={"psnr": "high"})
    edit(paths[5], cell={"scene": "fox"})
    edit(paths[6], settings=None)
    paths[7].write_text("[]")


def test_damaged_results_are_named_and_are_none(tmp_path: Path) -> None:
    results = Results(tmp_path)
    cells = [Cell("fox", "iuv", "all", seed) for seed in range(1, 10)]
    broken_files(results, cells)
    found, damaged = results.all()
    assert [each.cell for each in found] == [cells[8]]
    assert sorted(damaged) == sorted(map(results.path, cells[:8]))
    assert [results.read(cell) for cell in cells[:8]] == [None] * 8


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    one = Cell("fox", "iuv", "all", 1)
    check_settings(grid(), [result(one)], tmp_path)
    with pytest.raises(InputError, match=r"options was '--a 1' and is '--a 2' \(fox / iuv / all / seed 1\)"):
        check_settings(grid(settings={"options": "--a 2"}), [result(one)], tmp_path)
    with pytest.raises(InputError, match="more was None and is 1"):
        check_settings(grid(settings={"options": "--a 1", "more": 1}), [result(one)], tmp_path)
    with pytest.raises(InputError, match="options was '--a 1' and is None"):
        check_settings(grid(settings={}), [result(one)], tmp_path)
    others = {**SCENES, "fox": {"data": "/d/fox", "train_views": 4}}
    with pytest.raises(InputError, match="train_views was 6 and is 4"):
        check_settings(grid(scenes=others), [result(one)], tmp_path)
    # Of a scene that is not asked for, nothing is known; an error says nothing of settings.
    check_settings(grid(scenes={"cat": SCENES["cat"]}), [result(one)], tmp_path)
    check_settings(grid(settings={}), [result(one, error="No such option.")], tmp_path)


def test_settings_are_compared_as_files_give_them_back(tmp_path: Path) -> None:
    results, cell = Results(tmp_path), Cell("fox", "iuv", "all", 1)
    several = {"options": "--a 1", "sizes": (1, 2)}
    results.write(result(cell, settings=several))
    check_settings(grid(settings=several), results.all()[0], tmp_path)


def test_the_grid_of_results() -> None:
    cells = [Cell("fox", "radio", "all", 2), Cell("cat", "iuv", "geometry", 1), Cell("cat", "none", "free", 1)]
    found = grid_of([result(cells[0], settings={}, error="No."), *map(result, cells[1:])])
    assert found.features == ("iuv", "radio") and found.modes == ("geometry", "all", "free") and found.seeds == 2
    assert dict(found.scenes) == {"fox": SCENES["fox"], "cat": SCENES["cat"]} and found.settings == {"options": "--a 1"}
    assert set(cells) <= set(found.cells())
    with pytest.raises(InputError, match="no results yet"):
        grid_of([])
