# SPDX-License-Identifier: Apache-2.0
"""``nts bench`` as a user types it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from nts_plugins.bench.grid import Results
from nts_plugins.cli.bench import FAILED
from nts_plugins.cli.main import USER_ERROR, main

QUICK = ["--work", "tests.bench.work:quick"]


@pytest.fixture
def scenes(tmp_path: Path) -> List[str]:
    """Two of them, as the command takes them."""
    folders = [tmp_path / "data" / name for name in ("fox", "lion")]
    for folder in folders:
        folder.mkdir(parents=True)
    return ["--scenes", *map(str, folders)]


def bench(folder: Path, *extra: str) -> int:
    return main(["bench", "feat2gs", "--output-dir", str(folder), *extra])


def test_a_benchmark_and_its_report(scenes: List[str], tmp_path: Path, capsys) -> None:
    folder = tmp_path / "out"
    options = [*scenes, *QUICK, "--seeds", "2", "--workers", "2", "--train-views", "6", "fox=3"]
    options += ["--scene-options", "fox= --c  'd e'"]
    options += ["--options= --a  'b c'", "--features", "iuv", "radio"]
    assert bench(folder, *options) == 0
    said = capsys.readouterr().out
    assert f"{folder / 'report.md'}: 28 of 28 cells." in said.replace("\n", "")
    assert {"report.md", "results.csv", "summary.json", "cells", "plots"} <= {path.name for path in folder.iterdir()}
    found, _ = Results(folder).all()
    assert len(found) == 2 * 2 * (3 * 2 + 1)
    data = tmp_path / "data"
    for each in found:
        views = {"fox": 3, "lion": 6}[each.cell.scene]
        own = {"scene_options": "--c 'd e'"} if each.cell.scene == "fox" else {}
        assert each.scene_settings == {"data": str(data / each.cell.scene), "train_views": views, **own}
        assert each.settings == {
            "work": "tests.bench.work:quick", "dataparser": "nerfstudio-data", "options": "--a 'b c'",
        }  # fmt: skip
    # Once more, written otherwise: nothing is done.
    assert bench(folder, *options[:-4], "--options=--a 'b c'", "--features", "iuv", "radio") == 0
    said = capsys.readouterr().out
    assert "28 of 28 cells" in said and "psnr" not in said
    # Other settings are refused.
    for other, message in (("--options=--b", "options was"), ("--train-views=6", "train_views was 3 and is 6"),
                           ("--scene-options=fox=--c 1", "scene_options was")):  # fmt: skip
        assert bench(folder, *options, other) == USER_ERROR
        assert message in capsys.readouterr().err
    assert len(Results(folder).all()[0]) == 28


def test_cells_that_fail_are_said_and_left_for_the_next_start(scenes: List[str], tmp_path: Path, capsys) -> None:
    folder = tmp_path / "out"
    options = [*scenes, *QUICK, "--seeds", "1", "--modes", "geometry", "--features", "iuv", "wrong"]
    assert bench(folder, *options) == FAILED
    said = capsys.readouterr().out
    assert "2 of 4 cells" in said and "tried again at the next start: fox / wrong / geometry / seed 1" in said
    assert "There are no features wrong." in (folder / "report.md").read_text()
    # An option that was mistyped is put right: what failed with it is no reason to refuse.
    for path in (folder / "cells").glob("*iuv*"):
        path.unlink()
    assert bench(folder, *options[:-1], "radio", "--options=--other 1") == 0


def test_only_the_report(scenes: List[str], tmp_path: Path, capsys) -> None:
    folder = tmp_path / "out"
    assert bench(folder, "--report-only") == USER_ERROR
    assert f"There are no results in {folder}" in capsys.readouterr().err and not folder.exists()
    assert bench(folder, *scenes, *QUICK, "--seeds", "2", "--modes", "all", "free", "--features", "iuv") == 0
    results = Results(folder)
    missing, damaged = results.all()[0][:2]
    results.path(missing.cell).unlink()
    results.path(damaged.cell).write_text("{")
    (folder / "report.md").unlink()
    before = sorted(path.name for path in (folder / "cells").iterdir())
    assert bench(folder, "--report-only") == 0
    assert sorted(path.name for path in (folder / "cells").iterdir()) == before, "nothing was run"
    assert "6 of 8 cells" in capsys.readouterr().out
    text = (folder / "report.md").read_text()
    assert "**2 cells are missing**" in text and "Damaged files" in text
    # Results of different settings are no table.
    path = results.path(results.all()[0][0].cell)
    path.write_text(path.read_text().replace('"nerfstudio-data"', '"colmap"'))
    assert bench(folder, "--report-only") == USER_ERROR and "dataparser was" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--modes", "geometry", "colour"], "colour"),
        (["--features", "none"], "is no name of features"),
        (["--workers", "0"], "--workers is 0"),
        (["--threads", "0"], "--threads is 0"),
        (["--gpus", "1"], "--gpus is 1"),
        (["--train-views", "six"], "--train-views six is no number"),
        (["--train-views", "fox=0"], "is no number"),
        (["--train-views", "bear=3"], "names bear"),
        (["--train-views", "3", "4"], "says twice"),
        (["--scene-options=--a 1"], "names no scene"),
        (["--scene-options", "bear=--a 1"], "--scene-options names bear"),
        (["--scene-options", "fox=--a 1", "fox=--b 1"], "says twice what is for fox"),
        (["--scene-options", "fox=--a 'b"], "No closing quotation"),
        (["--options=--a 'b"], "No closing quotation"),
        (["--dataparser", "x 'b"], "--dataparser"),
        (["--work", "nowhere:work"], "nowhere:work cannot be loaded"),
        (["--work", "nowhere"], "package.module:function"),
    ],
)
def test_what_the_user_has_to_change(
    scenes: List[str], tmp_path: Path, capsys, options: List[str], message: str
) -> None:
    folder = tmp_path / "out"
    try:
        code = bench(folder, *scenes, *QUICK, *options)
    except SystemExit as error:  # tyro's own messages end the program
        code = int(error.code or 0)
    said = capsys.readouterr()
    assert code == USER_ERROR and message in said.err and not folder.exists()
    if said.err.startswith("nts:"):
        assert len(said.err.strip().splitlines()) == 1


def test_scenes_that_are_none(scenes: List[str], tmp_path: Path, capsys) -> None:
    folder, file = tmp_path / "out", tmp_path / "file"
    file.write_text("")
    for some, message in (([], "no scenes"), (["--scenes", str(tmp_path / "gone")], "no scene"),
                          (["--scenes", str(file)], "it is no folder")):  # fmt: skip
        assert bench(folder, *some, *QUICK) == USER_ERROR
        assert message in capsys.readouterr().err
    other = tmp_path / "more" / "fox"
    other.mkdir(parents=True)
    assert bench(folder, *scenes, str(other), *QUICK) == USER_ERROR
    assert "Two scenes are called fox" in capsys.readouterr().err
    (tmp_path / "more" / "fox2").symlink_to(other)
    assert bench(folder, *scenes, str(tmp_path / "more" / "fox2"), *QUICK, "--seeds", "1", "--modes", "free") == 0
    assert {each.cell.scene for each in Results(folder).all()[0]} == {"fox", "lion", "fox2"}


def test_ray_that_is_not_installed(scenes: List[str], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert bench(tmp_path / "out", *scenes, *QUICK, "--executor", "ray") == USER_ERROR
    assert "nts-plugins[ray]" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_room_is_light() -> None:
    """Neither the command nor what workers import first loads torch, which reads its number of threads then."""
    code = """
import json, sys
import nts_plugins.cli.main
first = sorted(sys.modules)
import nts_plugins.bench.executors, nts_plugins.bench.ray_executor, nts_plugins.bench.driver
import nts_plugins.bench.report, nts_plugins.bench.plots
print(json.dumps([first, sorted(sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    first, then = json.loads(done.stdout.splitlines()[-1])
    assert not {"torch", "numpy", "scipy", "nerfstudio", "nts_plugins.bench.grid"} & set(first)
    heavy = {"torch", "nerfstudio", "matplotlib", "pandas", "ray", "gsplat", "numba"}
    assert not heavy & set(then)
    assert not [name for name in then if name.startswith(("nts_plugins.models", "nts_plugins.heads"))]
