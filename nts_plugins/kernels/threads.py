# SPDX-License-Identifier: Apache-2.0
"""Run a kernel on several cores without a threading layer.

A kernel is compiled with ``nogil=True`` and takes its work piece by piece from a shared counter. Here the calling
thread and a few helpers call it at once. That needs no OpenMP: no process-wide thread count is changed, and the
viewer's thread may draw while training runs, which crashes numba's default layer.

A drawing is half a dozen kernels of a millisecond or less, and waking a sleeping thread takes a tenth of that. So who
waits looks for some fifty microseconds, without the interpreter's lock, and sleeps only then.
"""

import os
import threading
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Callable, Iterator, List, Optional, Tuple

import numpy as np
import torch
from numba import njit

from nts_plugins.kernels.vectors import pause, peek

_LOOKS = 1500
"""How often a waiting thread looks before it sleeps; each time takes 20 to 50 ns."""

_cores = os.cpu_count() or 1
_lock = threading.Lock()
_shared: List[int] = []
"""What torch's thread count was before each :func:`kernels_only` that is active, the first of them first."""


def thread_count() -> int:
    """How many threads a kernel uses: torch's own setting, so ``torch.set_num_threads`` and OMP_NUM_THREADS hold."""
    with _lock:
        return min(_shared[0] if _shared else torch.get_num_threads(), _cores)


@contextmanager
def kernels_only() -> Iterator[None]:
    """Within this context kernels use all threads, and torch's own operations of this thread use one.

    A training step is a hundred small torch operations beside a dozen kernels. Sharing out 40 000 numbers gains
    nothing, and each time torch waits until all of its threads have run; on a machine that does something else too,
    that wait was measured to make a step four times slower. Threads that start meanwhile, as the viewer's does, find
    torch's count at one too; kernels use all threads there as well.
    """
    with _lock:
        _shared.append(torch.get_num_threads())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            torch.set_num_threads(_shared.pop())


def run(kernel: Callable[..., Any], *arguments: Any) -> None:
    """Call ``kernel(counter, *arguments)`` in every thread until its work is used up.

    ``counter`` is an int64 array of one zero; the kernel draws pieces with ``fetch_add(counter, 0, 1)``. Pieces must
    be independent and write to their own places, so that results do not depend on the number of threads.
    """
    counter = np.zeros(1, np.int64)
    helpers, calls = _borrow(thread_count() - 1), []
    try:
        calls += [helper.call(kernel, (counter, *arguments)) for helper in helpers]
        kernel(counter, *arguments)
    finally:
        for call in calls:
            call.finish()
        with _lock:
            _idle.extend(helpers)
    for call in calls:
        if call.error is not None:
            raise call.error


@njit(nogil=True, cache=True)
def _look(number: np.ndarray, old: int, looks: int) -> None:
    """Wait until an int64 is no longer ``old``, but not longer than ``looks`` times."""
    for _ in range(looks):
        if peek(number, 0) != old:
            return
        pause()


class _Call:
    """A kernel's call in a helper. Who takes ``_ticket`` first decides: the helper starts, or the owner goes on."""

    def __init__(self, kernel: Callable[..., Any], arguments: Tuple[Any, ...]) -> None:
        self.kernel, self.arguments = kernel, arguments
        self.error: Optional[BaseException] = None
        self._ticket, self._finished = threading.Lock(), threading.Lock()
        self._finished.acquire()
        self._running = np.ones(1, np.int64)

    def __call__(self) -> None:
        if not self._ticket.acquire(blocking=False):
            return
        try:
            self.kernel(*self.arguments)
        except BaseException as error:
            self.error = error
        finally:
            self._running[0] = 0
            self._finished.release()

    def finish(self) -> None:
        """Wait for the helper, unless it never got to start: then nothing is left for it to do."""
        if self._ticket.acquire(blocking=False):
            return
        _look(self._running, 1, _LOOKS)
        self._finished.acquire()


class _Helper:
    """A thread that makes one call after the other; one :func:`run` has it at a time."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._asked = np.zeros(1, np.int64)
        threading.Thread(target=self._work, name="nts-kernel", daemon=True).start()

    def call(self, kernel: Callable[..., Any], arguments: Tuple[Any, ...]) -> _Call:
        made = _Call(kernel, arguments)
        self._calls.put(made)
        self._asked[0] += 1
        return made

    def _work(self) -> None:
        answered = 0
        while True:
            _look(self._asked, answered, _LOOKS)
            self._calls.get()()
            answered += 1


_idle: List[_Helper] = []
_started: List[_Helper] = []


def _borrow(count: int) -> List[_Helper]:
    """Up to ``count`` helpers that nobody else has now; they go back to ``_idle``."""
    with _lock:
        while len(_idle) < count and len(_started) < _cores - 1:
            _started.append(_Helper())
            _idle.append(_started[-1])
        borrowed = _idle[:count]
        del _idle[:count]
    return borrowed


def _forget() -> None:
    """A forked process has none of the threads, and a lock that another thread held would stay locked in it."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _idle.clear()
    _started.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
