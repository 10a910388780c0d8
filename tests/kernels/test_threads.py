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
from nts_plugins.kernels.vectors import fetch_add


@njit(nogil=True)
def count_pieces(counter: np.ndarray, pieces: int, done: np.ndarray) -> None:
    while True:
        piece = fetch_add(counter, 0, 1)  # pyright: ignore[reportCallIssue]
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


def run_many(times: int = 300, pieces: int = 50) -> None:
    for _ in range(times):
        done = np.zeros(pieces, np.int64)
        threads.run(count_pieces, pieces, done)
        assert (done == 1).all()


def test_every_piece_is_done_once_before_run_returns() -> None:
    run_many()


def test_several_threads_may_run_kernels_at_once() -> None:
    with ThreadPoolExecutor(4) as pool:
        for result in [pool.submit(run_many) for _ in range(4)]:
            result.result()


def test_a_helper_works_and_its_error_reaches_the_caller() -> None:
    caller, helped = threading.get_ident(), threading.Event()

    def kernel(counter: np.ndarray) -> None:
        if threading.get_ident() != caller:
            helped.set()
            raise ValueError("in the helper")
        assert helped.wait(30), "no helper came"

    with pytest.raises(ValueError, match="in the helper"):
        threads.run(kernel)
    run_many(20)


def test_an_error_of_the_caller_waits_for_the_helper() -> None:
    """Otherwise the helper would go on writing to arrays that the caller has given up."""
    caller, started, ended = threading.get_ident(), threading.Event(), threading.Event()

    def kernel(counter: np.ndarray) -> None:
        if threading.get_ident() == caller:
            assert started.wait(30)
            raise ValueError("in the caller")
        started.set()
        time.sleep(0.05)
        ended.set()

    with pytest.raises(ValueError, match="in the caller"):
        threads.run(kernel)
    assert ended.is_set()
    run_many(20)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork")
def test_a_forked_process_starts_helpers_of_its_own() -> None:
    run_many(5)
    process = multiprocessing.get_context("fork").Process(target=run_many, args=(50,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
