# SPDX-License-Identifier: Apache-2.0
"""A bar with the time that is left."""

from contextlib import contextmanager
from typing import Callable, Iterator, Tuple

Tell = Callable[[int, int], None]
"""Is called with how much is done, of how much."""
Say = Callable[[str], None]


@contextmanager
def progress(what: str) -> Iterator[Tuple[Tell, Say]]:
    """A bar on the terminal while the body runs, which gets a function for its state and one for messages."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total), bars.console.print
