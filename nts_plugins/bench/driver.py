# SPDX-License-Identifier: Apache-2.0
"""Goes through the cells that have no result yet, and writes what comes of them."""

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List

from nts_plugins.bench.executors import Executor
from nts_plugins.bench.grid import Cell, Grid, Result, Results, check_settings
from nts_plugins.bench.work import Outcome, Task
from nts_plugins.files.claims import claimed
from nts_plugins.files.whole import writing
from nts_plugins.progress import progress


@dataclass
class Account:
    """What one start of a benchmark did."""

    done: List[Cell] = field(default_factory=list)
    failed: List[Result] = field(default_factory=list)
    there: List[Cell] = field(default_factory=list)
    """Had their results, or got them from another process meanwhile."""
    elsewhere: List[Cell] = field(default_factory=list)
    """Another process was at these when there was nothing else left to do."""
    damaged: List[Path] = field(default_factory=list)
    """Files that could not be read. Those of the grid's cells were made anew."""


def run_bench(grid: Grid, results: Results, executor: Executor, work: str) -> Account:
    """Do every cell of a grid that has no result, or only an error of an earlier start.

    Several processes that share the folder share out the cells among them.

    Args:
        grid: what is to be done.
        results: where results go.
        executor: who does it.
        work: name of the function that does a cell; see :mod:`nts_plugins.bench.work`.

    Raises:
        InputError: where results of other settings are there, or none can be written.
    """
    found, damaged = results.all()
    check_settings(grid, found, results.folder)
    results.prepare()
    cells = grid.cells()
    earlier = {result.cell: result for result in found}
    todo = [cell for cell in cells if cell not in earlier or earlier[cell].error is not None]
    account = Account(there=[cell for cell in cells if cell not in set(todo)], damaged=damaged)
    if not todo:
        return account
    share = _Share(grid, results, todo, earlier, account)
    with progress("Cells") as (tell, say), closing(share):
        for path in damaged:
            say(f"{path} is damaged" + (", and its cell is done anew." if path in map(results.path, todo) else "."))
        tell(0, len(todo))
        clock = _Clock(len(todo))
        with closing(executor.run(work, share.tasks())) as outcomes:  # type: ignore[type-var]
            for outcome in outcomes:
                result = share.finish(outcome)
                left = len(todo) - share.settled
                say(_plain(f"{_line(result)}; {clock.tick(left)}"))
                tell(share.settled, len(todo))
        tell(share.settled, len(todo))
    return account


class _Share:
    """The cells that this process does: claims them, one by one, and lets go of each when its result is written."""

    def __init__(
        self, grid: Grid, results: Results, todo: List[Cell], earlier: Dict[Cell, Result], account: Account
    ) -> None:
        self.grid, self.results, self.todo, self.earlier, self.account = grid, results, todo, earlier, account
        self.claims: Dict[Cell, ExitStack] = {}
        self.settled = 0

    def tasks(self) -> Iterator[Task]:
        """Cells that nobody else does. Those of others are asked about again once the rest is done: whoever had one may
        have been killed."""
        waiting = self.todo
        while waiting:
            elsewhere = []
            for cell in waiting:
                if self._has_result(cell):
                    self._settle_elsewhere(cell)
                elif not self._claim(cell):
                    elsewhere.append(cell)
                elif self._has_result(cell):  # Written while it was claimed.
                    self._let_go(cell)
                    self._settle_elsewhere(cell)
                else:
                    yield Task(cell, self.grid.settings_of(cell))
            if len(elsewhere) == len(waiting):
                self.account.elsewhere += elsewhere
                return
            waiting = elsewhere

    def finish(self, outcome: Outcome) -> Result:
        """Write a result, and let go of its cell."""
        cell = outcome.cell
        result = Result(
            cell=cell,
            settings=self.grid.settings,
            scene_settings=self.grid.scenes[cell.scene],
            metrics=outcome.metrics,
            seconds=outcome.seconds,
            error=outcome.error,
            trace=outcome.trace,
            machine=outcome.machine,
        )
        self.results.write(result)
        self._let_go(cell)
        self.settled += 1
        if result.error is None:
            self.account.done.append(cell)
        else:
            self.account.failed.append(result)
        return result

    def close(self) -> None:
        """Let go of everything."""
        for cell in list(self.claims):
            self._let_go(cell)

    def _has_result(self, cell: Cell) -> bool:
        """Whether there is a result that was not there before, or an earlier one without an error."""
        result = self.results.read(cell)
        return result is not None and (result.error is None or result != self.earlier.get(cell))

    def _settle_elsewhere(self, cell: Cell) -> None:
        self.account.there.append(cell)
        self.settled += 1

    def _claim(self, cell: Cell) -> bool:
        stack = ExitStack()
        with writing(self.results.claim(cell)):
            mine = stack.enter_context(claimed(self.results.claim(cell)))
        if mine:
            self.claims[cell] = stack
        return mine

    def _let_go(self, cell: Cell) -> None:
        self.claims.pop(cell).close()


class _Clock:
    """How long the rest will take. A bar does not know: it asks how fast the last half minute was."""

    def __init__(self, total: int) -> None:
        self.begin = time.monotonic()
        self.total = total

    def tick(self, left: int) -> str:
        """To be called after every cell."""
        done = self.total - left
        seconds = (time.monotonic() - self.begin) / max(1, done) * left
        return f"{done} of {self.total}, {spoken(seconds)} left" if left else f"{done} of {self.total}"


def spoken(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _line(result: Result) -> str:
    if result.error is not None:
        return f"{result.cell} failed: {result.error.splitlines()[0]}"
    some = ", ".join(f"{name} {value:.4g}" for name, value in list(result.metrics.items())[:3])
    return f"{result.cell}: {some or 'no metrics'} ({spoken(result.seconds)})"


def _plain(text: str) -> str:
    """For a console that would take [what is in brackets] for a style."""
    from rich.markup import escape

    return escape(text)
