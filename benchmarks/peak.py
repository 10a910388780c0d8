# SPDX-License-Identifier: Apache-2.0
"""The most that one core can calculate: fused multiply-adds on registers, as fast as they go.

    python -m benchmarks.peak

Everything else is a fraction of this. The kernel is made of the same vectors as the rasterizer's.
"""

import time

import numpy as np
from numba import njit

from nts_plugins.kernels.vector_math import fma
from nts_plugins.kernels.vectors import LANES, load, splat, store

CHAINS = 10
"""Sums that do not depend on each other: enough to hide the latency of two units of four to five cycles."""
_F = np.float32


@njit(nogil=True, cache=True)
def _multiply_add(values, rounds):
    """``rounds`` times ten fused multiply-adds of LANES floats. The sums stay bounded: x -> x / 2 + 1."""
    half, one = splat(_F(0.5), LANES), splat(_F(1.0), LANES)
    s0, s1, s2 = load(values, 0, LANES), load(values, 1, LANES), load(values, 2, LANES)
    s3, s4, s5 = load(values, 3, LANES), load(values, 4, LANES), load(values, 5, LANES)
    s6, s7, s8, s9 = (load(values, 6, LANES), load(values, 7, LANES), load(values, 8, LANES), load(values, 9, LANES))
    for _ in range(rounds):
        s0, s1, s2 = fma(s0, half, one), fma(s1, half, one), fma(s2, half, one)
        s3, s4, s5 = fma(s3, half, one), fma(s4, half, one), fma(s5, half, one)
        s6, s7, s8, s9 = fma(s6, half, one), fma(s7, half, one), fma(s8, half, one), fma(s9, half, one)
    store(values, 0, s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7 + s8 + s9)


def fma_peak(seconds: float = 0.5) -> float:
    """Floating point operations per second of one core, the best of several short runs; an FMA counts as two."""
    values = np.linspace(0.0, 1.0, 64, dtype=np.float32)
    _multiply_add(values, 10)
    rounds, best, until = 200_000, 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < until:
        start = time.process_time()
        _multiply_add(values, rounds)
        best = max(best, 2.0 * CHAINS * LANES * rounds / max(time.process_time() - start, 1e-9))
    return best


if __name__ == "__main__":
    print(f"{fma_peak() / 1e9:.0f} GFLOP/s of one core, vectors of {LANES} floats")
