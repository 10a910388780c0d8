# SPDX-License-Identifier: Apache-2.0
"""How threads share out a kernel's work: each begins with a range of its own and then helps the others with theirs.

A thread thus has the same tiles, or the same splats, in one kernel after the other and in one picture after the other,
and finds in its own cache what it wrote before. Drawing pieces from one counter cost two threads an eighth of
compositing.
"""

from typing import Tuple

import numpy as np

from nts_plugins.kernels.vectors import fetch_add, helper, peek

STRIDE = 8
"""int64 from one thread's counter to the next: a cache line, so that threads do not slow each other down."""

Share = Tuple[np.ndarray, int]
"""What a kernel is handed first: the counters of all threads [threads * STRIDE], zeros at the start, and whose thread
this is."""


def counters(threads: int) -> np.ndarray:
    """Fresh counters for so many threads."""
    return np.zeros(threads * STRIDE, np.int64)


@helper
def next_piece(share, pieces):
    """A piece from 0 to ``pieces`` - 1 that nobody has had yet; ``pieces`` when there is none left."""
    counts, own = share
    threads = counts.shape[0] // STRIDE
    for turn in range(threads):
        thread = (own + turn) % threads
        first, last = thread * pieces // threads, (thread + 1) * pieces // threads
        if first + peek(counts, thread * STRIDE) < last:
            piece = first + fetch_add(counts, thread * STRIDE, 1)
            if piece < last:
                return piece
    return pieces


@helper
def pieces_of(count, size):
    """How many pieces of ``size`` hold ``count`` things."""
    return (count + size - 1) // size
