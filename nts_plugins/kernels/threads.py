# SPDX-License-Identifier: Apache-2.0
"""Run a kernel on several cores without a threading layer.

A kernel is compiled with ``nogil=True`` and takes its work piece by piece from a shared counter. Here the calling
thread and a few helpers call it at once. That needs no OpenMP: nothing spins beside torch's own pool, no
process-wide thread count is changed, and the viewer's thread may draw while training runs, which crashes numba's
default layer.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List

import numpy as np
import torch

_cores = os.cpu_count() or 1
_pool = ThreadPoolExecutor(max_workers=max(1, _cores - 1), thread_name_prefix="nts-kernel")
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
    helpers = [_pool.submit(kernel, counter, *arguments) for _ in range(thread_count() - 1)]
    kernel(counter, *arguments)
    for helper in helpers:
        # A helper that never got to start has nothing left to do; waiting for it would only cost time.
        if not helper.cancel():
            helper.result()
