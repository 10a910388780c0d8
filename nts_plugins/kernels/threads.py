# SPDX-License-Identifier: Apache-2.0
"""Run a kernel on several cores without a threading layer.

A kernel is compiled with ``nogil=True`` and takes its work piece by piece from a shared counter. Here the calling
thread and a few helpers call it at once. That needs no OpenMP: nothing spins beside torch's own pool, no
process-wide thread count is changed, and the viewer's thread may draw while training runs, which crashes numba's
default layer.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import numpy as np
import torch

_pool = ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="nts-kernel")


def thread_count() -> int:
    """How many threads a kernel uses: torch's own setting, so ``torch.set_num_threads`` and OMP_NUM_THREADS hold."""
    return min(torch.get_num_threads(), os.cpu_count() or 1)


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
