# SPDX-License-Identifier: Apache-2.0
"""Where cells are worked at: what that is asked to do, and how processes of this machine do it.

An executor gets tasks one by one, whenever it has a hand free, and gives back their outcomes as they come. It knows
nothing of files of results: whoever calls it writes them, so that workers need no disk in common.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Iterator, List, Optional, Protocol

from nts_plugins.bench.work import Outcome, Task, cores, environment, perform, thread_settings
from nts_plugins.files.whole import machine

LOOK = 1.0
"""Seconds between two looks at whether workers still live. Usually the end of their pipe tells at once, but a process
that a dead worker has started may hold that open."""
PATIENCE = 5.0
"""Seconds that a worker gets to end by itself."""


class Executor(Protocol):
    """Does tasks with several workers."""

    def run(self, work: str, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """Outcomes as they come, one for every task.

        A task is taken from the iterator when a worker is free for it. A worker that dies fails its task alone. When
        the generator is closed, or anything is raised in it, every worker is stopped first.

        Args:
            work: name of the function, "package.module:function"; see :mod:`nts_plugins.bench.work`.
            tasks: may end at any time, and is not asked again then.

        Raises:
            InputError: where work cannot begin at all.
        """
        ...


class LocalExecutor:
    """Processes of this machine. Each is used for many cells, until one ends in an error that is not the user's.

    Args:
        workers: processes at once.
        folder: below it are work/<slug>, each cell's own folder while it runs, and logs/<slug>.txt, what it printed.
        threads: of each worker; by default the machine's cores are shared out evenly.
    """

    def __init__(self, workers: int, folder: Path, threads: Optional[int] = None) -> None:
        self.workers = workers
        self.folder = folder
        self.threads = threads or max(1, cores() // workers)

    def run(self, work: str, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """As :meth:`Executor.run`."""
        idle: List[_Worker] = []
        busy: List[_Worker] = []
        more = True
        try:
            while True:
                while more and len(busy) < self.workers:
                    task = next(tasks, None)
                    if task is None:
                        more = False
                        break
                    worker = idle.pop() if idle else _Worker(work, self.folder, self.threads)
                    busy.append(worker)
                    if not worker.give(task):  # It died while it had nothing to do.
                        busy[-1] = worker = _Worker(work, self.folder, self.threads)
                        worker.give(task)
                if not busy:
                    return
                wait([worker.connection for worker in busy], timeout=LOOK)
                for worker in list(busy):
                    outcome = worker.outcome()
                    if outcome is None:
                        continue
                    busy.remove(worker)
                    if worker.usable:
                        idle.append(worker)
                    else:
                        worker.stop()
                    yield outcome
        finally:
            for worker in (*idle, *busy):
                worker.kill()
            for worker in (*idle, *busy):
                worker.stop()


class _Worker:
    """A process that does one task at a time, seen from the process that gives them to it."""

    def __init__(self, work: str, folder: Path, threads: int) -> None:
        self.task: Optional[Task] = None
        self.folder = folder
        self.usable = True
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work, folder), daemon=False)
        with environment(thread_settings(threads)):  # which is inherited, and there before anything is imported
            self.process.start()
        theirs.close()

    def give(self, task: Task) -> bool:
        """Whether it got the task."""
        self.task = task
        with suppress(OSError):
            self.connection.send(task)
            return True
        self.stop()
        return self.process.exitcode is None

    def outcome(self) -> Optional[Outcome]:
        """What came of the task; None as long as that is open."""
        task = self.task
        assert task is not None
        lives = self.process.is_alive()  # Asked first: what it sent before it died is read all the same.
        try:
            if self.connection.poll():
                outcome = self.connection.recv()
                self.task, self.usable = None, not outcome.trace
                return outcome
        except (EOFError, OSError):
            self.process.join(PATIENCE)
            lives = False
        if lives:
            return None
        self.usable = False
        how, log = _how(self.process.exitcode), log_of(self.folder, task)
        return Outcome(task.cell, error=f"Its process died ({how}). What it printed is in {log}.", machine=machine())

    def kill(self) -> None:
        """End the process, and those that it started. Returns at once."""
        if self.process.pid is not None:
            with suppress(OSError, AttributeError):  # No group of its own yet, nobody there, or not on this system.
                os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.is_alive():
            self.process.kill()

    def stop(self) -> None:
        """:meth:`kill`, and wait for it."""
        self.kill()
        self.connection.close()
        self.process.join(PATIENCE)
        if self.task is not None:
            shutil.rmtree(work_folder(self.folder, self.task), ignore_errors=True)


def log_of(folder: Path, task: Task) -> Path:
    """What the work of a cell printed on this machine."""
    return folder / "logs" / f"{task.cell.slug}.txt"


def work_folder(folder: Path, task: Task) -> Path:
    """Where the work of a cell may write on this machine."""
    return folder / "work" / task.cell.slug


def _how(code: Optional[int]) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    hint = ", perhaps for want of memory" if -code == getattr(signal, "SIGKILL", 9) else ""
    try:
        return signal.Signals(-code).name + hint
    except ValueError:
        return f"signal {-code}"


def _serve(connection: Connection, work: str, folder: Path) -> None:
    """What a worker runs."""
    _leave_with_parent()
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        with _printing_into(log_of(folder, task)), _empty(work_folder(folder, task)) as own:
            outcome = perform(work, task, own)
            if outcome.trace:
                print(outcome.trace, file=sys.stderr)
        connection.send(outcome)
        if outcome.trace:  # Who knows what state it is in: a GPU after an error, for instance, is of no use any more.
            return


def _leave_with_parent() -> None:
    """Be deaf to Ctrl-C, which the parent hears, and end when it is gone, together with all that was started here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        if hasattr(os, "killpg"):
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


@contextmanager
def _printing_into(path: Path) -> Iterator[None]:
    """Everything that is printed goes into a file, also by libraries that know nothing of Python's streams."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [(stream, os.dup(number)) for stream, number in ((sys.stdout, 1), (sys.stderr, 2))]
    with open(path, "wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            for number, (stream, old) in enumerate(kept, start=1):
                stream.flush()
                os.dup2(old, number)
                os.close(old)


@contextmanager
def _empty(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
