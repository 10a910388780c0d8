# SPDX-License-Identifier: Apache-2.0
"""The work of one cell, wherever it is done: a function that is imported by name, called, and never trusted.

It has the signature ``work(cell, settings, folder) -> metrics``:

* ``cell``: the :class:`~nts_plugins.bench.grid.Cell`;
* ``settings``: what :meth:`~nts_plugins.bench.grid.Grid.settings_of` says of it, plain values by name;
* ``folder``: empty, for whatever the work has to write, and removed afterwards;
* metrics: numbers by name, flat.

An InputError that it raises is what the user reads; any other exception is kept with its place in the code.
"""

import math
import os
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Optional

from nts_plugins.bench.grid import Cell
from nts_plugins.errors import InputError
from nts_plugins.files.whole import machine
from nts_plugins.named import function_named

Work = Callable[[Cell, Mapping[str, Any], Path], Mapping[str, float]]

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Read by torch, numpy and numba when they are imported, and never again."""


@dataclass(frozen=True)
class Task:
    """A cell that is to be done, and what its work is told."""

    cell: Cell
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came of a task. Plain values only, so that any process can read it."""

    cell: Cell
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    error: Optional[str] = None
    trace: str = ""
    """Where in the code, for errors that are not the user's."""
    machine: str = ""


def perform(name: str, task: Task, folder: Path) -> Outcome:
    """Do a task in this process. Whatever its work raises but KeyboardInterrupt becomes the outcome's error."""
    begin = time.perf_counter()
    metrics: Dict[str, float] = {}
    error, trace = None, ""
    try:
        metrics = _numbers(name, function_named(name, "work")(task.cell, task.settings, folder))
    except InputError as problem:
        error = str(problem) or "It failed without a word."
    except (Exception, SystemExit) as problem:
        error = "".join(traceback.format_exception_only(type(problem), problem)).strip()
        trace = traceback.format_exc()
    return Outcome(task.cell, metrics, time.perf_counter() - begin, error, trace, machine())


def _numbers(name: str, metrics: Any) -> Dict[str, float]:
    """Numbers that are no number at all, infinite ones, become nan, as they are in the files."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"{name} returned {type(metrics).__name__} instead of metrics by name")
    numbers = {str(key): float(value) for key, value in metrics.items()}
    return {key: value if math.isfinite(value) else math.nan for key, value in numbers.items()}


def thread_settings(threads: int) -> Dict[str, str]:
    """Environment of a process that is to use so many threads."""
    return dict.fromkeys(THREADS, str(threads))


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """The environment of whatever process is started in the body."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
