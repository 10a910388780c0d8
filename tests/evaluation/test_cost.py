# SPDX-License-Identifier: Apache-2.0
"""The time of a picture with a clock that the test turns, and the size of a model counted by hand."""

from typing import List

import pytest
import torch
from torch import nn

from nts_plugins.evaluation import cost


def timed(durations: List[float], monkeypatch: pytest.MonkeyPatch) -> "tuple[float, int, int]":
    """Time drawings that take so long; returns the time, which drawing was kept, and how many there were."""
    now, drawn = [0.0], []

    def draw() -> int:
        now[0] += durations[len(drawn)]
        drawn.append(len(drawn))
        return drawn[-1]

    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    seconds, picture = cost.timed(draw, torch.device("cpu"))
    return seconds, picture, len(drawn)


def test_the_median_of_several_drawings_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, picture, count = timed([0.010, 0.011, 0.050, 0.012, 0.009], monkeypatch)
    assert (seconds, picture, count) == (pytest.approx(0.011), 0, 5)


@pytest.mark.parametrize(("durations", "count"), [([3.0], 1), ([0.06, 0.06], 2)])
def test_slow_pictures_are_drawn_less_often(
    durations: List[float], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, _, drawn = timed(durations, monkeypatch)
    assert (seconds, drawn) == (pytest.approx(durations[0]), count)


def test_size_by_hand() -> None:
    model = nn.Sequential(nn.Linear(9, 10), nn.BatchNorm1d(10))
    # 9 x 10 + 10 weights; 2 x 10 weights, 2 x 10 float buffers and one int64.
    assert cost.megabytes(model) == pytest.approx((4 * 100 + 4 * 40 + 8) / 1e6)
    assert cost.megabytes(model, without=("1.",)) == pytest.approx(400 / 1e6)
