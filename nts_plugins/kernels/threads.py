# SPDX-License-Identifier: Apache-2.0
"""Run a kernel on several cores without a threading layer.

A kernel is compiled with ``nogil=True`` and takes its work piece by piece, see ``pieces``. Here the calling
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

from nts_plugins.kernels._cache import njit
from nts_plugins.kernels.pieces import STRIDE, counters
from nts_plugins.kernels.vectors import fetch_add, pause, peek

_LOOKS = 1500
"""How often a waiting thread looks before it sleeps; each time takes 20 to 50 ns."""
_RESTING = -1
"""What the first counter, that of the calling thread, says while there is nothing to draw."""

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


def share_with_torch() -> None:
    """Let torch's operations use all threads again, within :func:`kernels_only` and until it ends: for networks beside
    which everything else takes no time."""
    with _lock:
        if _shared:
            torch.set_num_threads(_shared[0])


def run(kernel: Callable[..., Any], *arguments: Any) -> None:
    """Call ``kernel(share, *arguments)`` in every thread until its work is used up.

    The kernel draws pieces with ``pieces.next_piece(share, pieces)``. Pieces must be independent and write to their own
    places, so that results do not depend on the number of threads. While one thread has the helpers, others call their
    kernels alone.
    """
    wanted = thread_count() - 1
    if wanted < 1 or not _team.free.acquire(blocking=False):
        kernel((counters(1), 0), *arguments)
        return
    calls: List[_Call] = []
    try:
        counts = _team.counters[: (1 + wanted) * STRIDE]
        counts[:] = 0
        for number, helper in enumerate(_team.first(wanted), start=1):
            calls.append(_Call(kernel, ((counts, number), *arguments)))
            helper.put(calls[-1])
        kernel((counts, 0), *arguments)
    finally:
        for call in calls:
            call.finish()
        _team.counters[0] = _RESTING
        _team.free.release()
    for call in calls:
        if call.error is not None:
            raise call.error


class _Call:
    """A kernel's call in a helper. Who takes ``_ticket`` first decides: the helper starts, or the owner goes on."""

    def __init__(self, kernel: Callable[..., Any], arguments: Tuple[Any, ...]) -> None:
        self.kernel, self.arguments = kernel, arguments
        self.error: Optional[BaseException] = None
        self.running = np.ones(1, np.int64)
        self._ticket, self._finished = threading.Lock(), threading.Lock()
        self._finished.acquire()

    def __call__(self) -> None:
        if not self._ticket.acquire(blocking=False):
            return
        try:
            self.kernel(*self.arguments)
        except BaseException as error:
            self.error = error
        finally:
            self._finished.release()

    def finish(self) -> None:
        """Wait for the helper, unless it never got to start: then nothing is left for it to do."""
        if self._ticket.acquire(blocking=False):
            return
        _look(self.running, _LOOKS)
        self._finished.acquire()


class _Team:
    """The helpers, and the counters from which they and one calling thread draw."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self.counters = counters(_cores)
        self.counters[0] = _RESTING
        self._helpers: List[SimpleQueue[_Call]] = []

    def first(self, count: int) -> "List[SimpleQueue[_Call]]":
        """What so many helpers take their calls from; starts those that do not exist yet."""
        while len(self._helpers) < count:
            calls: SimpleQueue[_Call] = SimpleQueue()
            threading.Thread(target=_help, args=(calls, self.counters), name="nts-kernel", daemon=True).start()
            self._helpers.append(calls)
        return self._helpers[:count]


def _help(calls: "SimpleQueue[_Call]", counts: np.ndarray) -> None:
    """What a helper does: one call after the other."""
    ended = np.zeros(1, np.int64)
    while True:
        _rest(ended, counts, _LOOKS)
        call = calls.get()
        call()
        ended = call.running
        del call  # It holds arrays.


@njit(nogil=True, cache=True)
def _look(running: np.ndarray, looks: int) -> None:
    """Wait until a helper's call has ended, but not longer than ``looks`` times."""
    for _ in range(looks):
        if peek(running, 0) == 0:
            return
        pause()


@njit(nogil=True, cache=True)
def _rest(running: np.ndarray, counts: np.ndarray, looks: int) -> None:
    """Tell that a call has ended, then wait for the next kernel to draw its first piece, ``looks`` times at most.

    Both are told and seen where nobody holds the interpreter's lock: the owner here, the helper when the kernel draws
    its first piece. A thread that finds the lock taken goes to sleep, and that costs more than the work of a helper.
    """
    fetch_add(running, 0, -peek(running, 0))
    for _ in range(looks):
        if peek(counts, 0) <= 0:
            break
        pause()
    for _ in range(looks):
        if peek(counts, 0) > 0:
            return
        pause()


_team = _Team()


def _forget() -> None:
    """A forked process has none of the threads, and a lock that another thread held would stay locked in it."""
    global _lock, _team
    _lock, _team = threading.Lock(), _Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
