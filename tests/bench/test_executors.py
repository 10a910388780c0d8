# SPDX-License-Identifier: Apache-2.0
"""Cells in several processes: what comes of those that fail, die, are killed, or are done by somebody else."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import pytest

from nts_plugins.bench import driver
from nts_plugins.bench.driver import Account, run_bench, spoken
from nts_plugins.bench.executors import LocalExecutor
from nts_plugins.bench.grid import Cell, Grid, Result, Results
from nts_plugins.bench.work import Task, cores, perform
from nts_plugins.errors import InputError
from nts_plugins.files.claims import claimed
from nts_plugins.files.whole import lives
from nts_plugins.named import function_named
from tests.bench.work import metrics_of

REPOSITORY = Path(__file__).resolve().parent.parent.parent
QUICK = "tests.bench.work:quick"


def grid(features: Tuple[str, ...] = ("iuv", "radio"), seeds: int = 1, **settings: Any) -> Grid:
    return Grid({"fox": {}, "lion": {}}, features, ("geometry",), seeds, settings)


def run(folder: Path, request: Grid, work: str = QUICK, workers: int = 2, threads: Optional[int] = None) -> Account:
    return run_bench(request, Results(folder), LocalExecutor(workers, folder, threads), work)


def worked(path: Path) -> Dict[str, List[int]]:
    """Slug to the processes that worked at it."""
    found: Dict[str, List[int]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        slug, process = line.split()
        found.setdefault(slug, []).append(int(process))
    return found


def nothing_is_left(folder: Path) -> bool:
    """No claim, no folder of a cell, no half-written file."""
    left = [path for name in ("claims", "work") for path in (folder / name).glob("*")]
    return not left and not list((folder / "cells").glob(".*"))


def until(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def test_results_of_all_cells(tmp_path: Path, capsys) -> None:
    request = grid(seeds=2, count=str(tmp_path / "count"))
    account = run(tmp_path / "out", request)
    assert sorted(map(str, account.done)) == sorted(map(str, request.cells())) and not account.failed
    found, damaged = Results(tmp_path / "out").all()
    assert len(found) == 8 and not damaged
    for each in found:
        assert each.metrics == pytest.approx(metrics_of(each.cell)) and each.seconds > 0 and each.machine
        assert each.settings == request.settings and each.error is None
    processes = {process for each in worked(tmp_path / "count").values() for process in each}
    assert 1 <= len(processes) <= 2 and os.getpid() not in processes, "workers are used again"
    said = "".join(capsys.readouterr().out.split())  # The console breaks lines where it likes.
    assert "8of8" in said and "4of8," in said and "sleft" in said and "psnr" in said
    assert nothing_is_left(tmp_path / "out")
    # Once more: all is there, and nobody is started.
    again = run(tmp_path / "out", request)
    assert not again.done and len(again.there) == 8 and len(worked(tmp_path / "count")) == 8


def test_workers_share_the_cores_and_have_a_folder_each(tmp_path: Path) -> None:
    before = dict(os.environ)
    run(tmp_path, grid(), "tests.bench.work:surroundings", threads=3)
    assert dict(os.environ) == before
    found, _ = Results(tmp_path).all()
    assert len(found) == 4
    for each in found:
        assert each.error is None, each.error
        assert each.metrics["threads"] == each.metrics["numba"] == 3
        assert not each.metrics["torch"], "it was imported before the work had a say"
        assert each.metrics["infinite"] != each.metrics["infinite"]
        log = (tmp_path / "logs" / f"{each.cell.slug}.txt").read_text()
        assert "printed by Python" in log and "printed by another program" in log
    assert nothing_is_left(tmp_path)
    assert LocalExecutor(1, tmp_path).threads == cores() and LocalExecutor(1000, tmp_path).threads == 1


def test_torch_heeds_the_number_of_threads(tmp_path: Path) -> None:
    request = Grid({"fox": {}}, (), ("free",), 1)
    account = run(tmp_path, request, "tests.bench.work:torch_threads", workers=1, threads=2)
    (only,), _ = Results(tmp_path).all()
    assert account.done and only.metrics == {"threads": 2}


def test_cells_that_fail_leave_the_others_alone(tmp_path: Path, capsys) -> None:
    features = ("wrong", "dies", "broken", "iuv", "killed", "odd", "radio")
    account = run(tmp_path, grid(features, seeds=1))
    found = {(each.cell.scene, each.cell.features): each for each in Results(tmp_path).all()[0]}
    assert len(found) == 14 and len(account.failed) == 10 and len(account.done) == 4
    for scene in ("fox", "lion"):
        assert found[scene, "iuv"].error is None and found[scene, "radio"].error is None
        assert found[scene, "wrong"].error == "There are no features wrong." and not found[scene, "wrong"].trace
        assert found[scene, "broken"].error == "RuntimeError: a bug [of the probe]"
        assert 'raise RuntimeError("a bug' in found[scene, "broken"].trace
        error = str(found[scene, "dies"].error)
        assert "exit code 7" in error and "about to die" in Path(error.split("is in ")[1][:-1]).read_text()
        assert "SIGKILL, perhaps for want of memory" in str(found[scene, "killed"].error)
        assert "returned float instead of metrics" in str(found[scene, "odd"].error)
    said = "".join(capsys.readouterr().out.split())
    assert "RuntimeError:abug[oftheprobe]" in said
    assert nothing_is_left(tmp_path)


def test_cells_that_failed_are_tried_again_at_the_next_start_only(tmp_path: Path, monkeypatch) -> None:
    count = tmp_path / "count"
    request = grid(("wrong", "iuv"), count=str(count))
    assert len(run(tmp_path / "out", request).failed) == 2
    assert Counter(map(len, worked(count).values())) == {1: 4}
    account = run(tmp_path / "out", request)
    assert len(account.failed) == 2 and len(account.there) == 2
    assert sorted(map(len, worked(count).values())) == [1, 1, 2, 2]


def test_damaged_results_are_done_anew(tmp_path: Path, capsys) -> None:
    request, results = grid(), Results(tmp_path)
    run(tmp_path, request)
    path = results.path(request.cells()[1])
    whole = path.read_text()
    path.write_text(whole[:50])
    (results.cells / "stranger.json").write_text("{}")
    capsys.readouterr()
    account = run(tmp_path, request)
    assert account.done == [request.cells()[1]] and len(account.damaged) == 2
    said = "".join(capsys.readouterr().out.split())
    assert f"{path.name}isdamaged,anditscellisdoneanew" in said and "stranger.jsonisdamaged." in said
    assert results.read(request.cells()[1]) is not None


def test_other_settings_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    run(tmp_path / "out", grid(size=1))
    with pytest.raises(InputError, match="size was 1 and is 2"):
        run(tmp_path / "out", grid(size=2, count=str(tmp_path / "count")))
    assert not (tmp_path / "count").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="Cannot write"):
        run(tmp_path / "out", grid())


@pytest.mark.parametrize(
    "name, message",
    [
        ("tests.bench.work", "is written package.module:function"),
        ("tests.bench.nowhere:quick", "No module named"),
        ("tests.bench.work:nothing", "no attribute"),
        ("tests.bench.work:NOT_A_FUNCTION", "is no function"),
    ],
)
def test_work_that_is_none(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        function_named(name, "work")
    outcome = perform(name, Task(Cell("fox", "iuv", "all", 1), {}), tmp_path)
    assert message in str(outcome.error)


def test_a_caller_that_stops_leaves_no_process(tmp_path: Path) -> None:
    count = tmp_path / "count"
    request = grid(seeds=3, count=str(count), seconds=0.2)
    tasks: Iterator[Task] = (Task(cell, request.settings) for cell in request.cells())
    outcomes = LocalExecutor(2, tmp_path).run(QUICK, tasks)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    processes = {process for each in worked(count).values() for process in each}
    assert processes and not any(map(lives, processes))
    assert not list((tmp_path / "work").glob("*"))


# ---- several benchmarks at once, and benchmarks that are killed

PROGRAM = """
import sys
from pathlib import Path
from tests.bench.test_executors import grid, run
folder, count, seconds, work = sys.argv[1:]
request = grid(("iuv", "radio", "dino"), 2, count=count, seconds=float(seconds))
account = run(Path(folder), request, work)
print("account", len(account.done), len(account.there), len(account.elsewhere), flush=True)
"""


def start(folder: Path, count: Path, seconds: float, work: str = QUICK) -> "subprocess.Popen[str]":
    """A benchmark of 12 cells in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(count), str(seconds), work]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)


def accounts(process: "subprocess.Popen[str]") -> List[int]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return [int(word) for word in out.splitlines()[-1].split()[1:]]


def request_of(count: Path, seconds: float) -> Grid:
    return grid(("iuv", "radio", "dino"), 2, count=str(count), seconds=seconds)


def test_two_benchmarks_share_the_cells(tmp_path: Path) -> None:
    folder, count = tmp_path / "out", tmp_path / "count"
    both = [start(folder, count, 1.0) for _ in range(2)]
    (done, there, elsewhere), (done2, there2, elsewhere2) = map(accounts, both)
    assert done + done2 == 12 and done > 0 and done2 > 0
    assert done + there + elsewhere == done2 + there2 + elsewhere2 == 12
    assert Counter(map(len, worked(count).values())) == {1: 12}, "nothing was done twice"
    assert len(Results(folder).all()[0]) == 12 and nothing_is_left(folder)


def test_cells_of_others_are_left_to_them(tmp_path: Path) -> None:
    request, results = grid(), Results(tmp_path)
    with claimed(results.claim(request.cells()[0])) as mine:
        assert mine
        account = run(tmp_path, request)
    assert account.elsewhere == [request.cells()[0]] and len(account.done) == 3
    assert run(tmp_path, request).done == [request.cells()[0]]


def processes_of(count: Path) -> Set[int]:
    return {process for each in worked(count).values() for process in each}


def test_a_benchmark_that_was_killed_goes_on(tmp_path: Path) -> None:
    folder, count = tmp_path / "out", tmp_path / "count"
    process = start(folder, count, 0.5)
    until(lambda: len(list((folder / "cells").glob("[!.]*.json"))) >= 3)
    process.kill()
    process.wait()
    until(lambda: not any(map(lives, processes_of(count))), 30)  # Its workers notice by themselves.
    found, damaged = Results(folder).all()
    done = len(found)
    assert 3 <= done < 12 and not damaged
    assert len(list((folder / "claims").iterdir())) > 0, "nobody could let go of them"
    account = run(folder, request_of(count, 0.5))
    assert len(account.there) == done and len(account.done) == 12 - done and not account.elsewhere
    times = Counter(map(len, worked(count).values()))
    assert set(times) <= {1, 2} and times[2] <= 2, "only what was under way was done again"
    assert len(Results(folder).all()[0]) == 12 and nothing_is_left(folder)


def test_a_result_that_comes_while_a_cell_is_claimed_is_not_made_again(tmp_path: Path, monkeypatch) -> None:
    """Another process finishes between the look at the result and the claim."""
    request, results, count = grid(count=str(tmp_path / "count")), Results(tmp_path / "out"), tmp_path / "count"
    first = request.cells()[0]

    @contextmanager
    def slow(path: Path) -> Iterator[bool]:
        if path == results.claim(first):
            results.write(Result(first, request.settings, {}, {"psnr": 1.0}))
        with claimed(path) as mine:
            yield mine

    monkeypatch.setattr(driver, "claimed", slow)
    account = run(tmp_path / "out", request)
    assert account.there == [first] and len(account.done) == 3 and first.slug not in worked(count)
    assert nothing_is_left(tmp_path / "out")


def test_workers_do_not_outlive_a_benchmark_that_was_killed(tmp_path: Path) -> None:
    """Nor do the processes that they started, however long their work would take."""
    count = tmp_path / "count"
    process = start(tmp_path / "out", count, 0, "tests.bench.work:with_child")
    until(lambda: len(processes_of(count)) == 4)
    process.kill()
    process.wait()
    until(lambda: not any(map(_runs, processes_of(count))), 20)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=lambda sign: sign.name)
def test_a_benchmark_that_is_stopped_stops_everything(tmp_path: Path, sign: signal.Signals) -> None:
    """As the ``nts`` command does it: a polite kill unwinds like Ctrl-C. Processes that workers started end as well."""
    folder, count = tmp_path / "out", tmp_path / "count"
    program = "import signal; signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
    program += "signal.signal(signal.SIGINT, signal.default_int_handler)\n" + PROGRAM
    command = [sys.executable, "-c", program, str(folder), str(count), "0", "tests.bench.work:with_child"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    until(lambda: len(processes_of(count)) == 4)  # two workers and a child of each
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt" in err
    until(lambda: not any(map(_runs, processes_of(count))), 10)
    assert nothing_is_left(folder) and not Results(folder).all()[0]


def _runs(process: int) -> bool:
    """Whether a process is there, and more than an entry that nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return lives(process) and not Path("/proc/self/stat").exists()


def test_times_as_people_say_them() -> None:
    assert [spoken(each) for each in (5, 89, 125, 3600, 9000)] == ["5 s", "89 s", "2 min", "60 min", "2.5 h"]
