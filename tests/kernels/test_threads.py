# SPDX-License-Identifier: Apache-2.0
"""Kernels in several threads: every piece is done once, and errors reach the caller."""

import multiprocessing
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numba import njit

from nts_plugins.kernels import threads
from nts_plugins.kernels.pieces import Share, counters, next_piece


@njit(nogil=True)
def count_pieces(share: Share, pieces: int, done: np.ndarray) -> None:
    while True:
        piece = next_piece(share, pieces)
        if piece >= pieces:
            return
        done[piece] += 1


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch):
    """Two threads even where there is one core."""
    monkeypatch.setattr(threads, "_cores", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def every_piece_is_done_once(times: int = 300, pieces: int = 50) -> bool:
    for _ in range(times):
        done = np.zeros(pieces, np.int64)
        threads.run(count_pieces, pieces, done)
        if (done != 1).any():
            return False
    return True


def test_every_piece_is_done_once_before_run_returns() -> None:
    assert every_piece_is_done_once()


def test_several_threads_may_run_kernels_at_once() -> None:
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(every_piece_is_done_once) for _ in range(4)]
        assert all(result.result() for result in results)


def test_a_helper_works_and_its_error_reaches_the_caller() -> None:
    caller, helped = threading.get_ident(), threading.Event()

    def kernel(share: Share) -> None:
        if threading.get_ident() != caller:
            helped.set()
            raise ValueError("in the helper")
        assert helped.wait(30), "no helper came"

    with pytest.raises(ValueError, match="in the helper"):
        threads.run(kernel)
    assert every_piece_is_done_once(20)


def test_an_error_of_the_caller_waits_for_the_helper() -> None:
    """Otherwise the helper would go on writing to arrays that the caller has given up."""
    caller, started, ended = threading.get_ident(), threading.Event(), threading.Event()

    def kernel(share: Share) -> None:
        if threading.get_ident() == caller:
            assert started.wait(30)
            raise ValueError("in the caller")
        started.set()
        time.sleep(0.05)
        ended.set()

    with pytest.raises(ValueError, match="in the caller"):
        threads.run(kernel)
    assert ended.is_set()
    assert every_piece_is_done_once(20)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork")
def test_a_forked_process_starts_helpers_of_its_own() -> None:
    assert every_piece_is_done_once(5)
    process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(not every_piece_is_done_once(50)))
    process.start()
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize("pieces", [0, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_whoever_comes_last_every_piece_is_drawn_once(pieces: int, members: int) -> None:
    """Threads take turns, and all but one stop early: what they leave of their ranges is drawn by the last."""
    counts = counters(members)
    drawn = [next_piece((counts, turn % members), pieces) for turn in range(min(pieces // 2, 3 * members))]
    while (piece := next_piece((counts, members - 1), pieces)) < pieces:
        drawn.append(piece)
    assert sorted(drawn) == list(range(pieces))
    assert all(next_piece((counts, each), pieces) == pieces for each in range(members))


def test_a_thread_begins_with_its_own_range() -> None:
    counts = counters(2)
    assert [next_piece((counts, 1), 10) for _ in range(6)] == [5, 6, 7, 8, 9, 0]
    assert next_piece((counts, 0), 10) == 1
