# SPDX-License-Identifier: Apache-2.0
"""How things are timed: process time of one thread, rounds that alternate between candidates, medians."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

import torch


@dataclass(frozen=True)
class Sample:
    """One run of one piece of work, in seconds."""

    cpu: float
    """Process time, all threads added up. With one thread it does not count what other programs take away."""
    wall: float


def stopwatch(function: Callable[..., Any], *arguments: Any) -> Tuple[Any, Sample]:
    """Call and time; returns the result and the sample."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = function(*arguments)
    return result, Sample(time.process_time() - cpu, time.perf_counter() - wall)


@dataclass
class Timings:
    """Samples by the name of what was timed."""

    samples: Dict[str, List[Sample]] = field(default_factory=dict)

    def add(self, name: str, sample: Sample) -> None:
        self.samples.setdefault(name, []).append(sample)

    def cpu_ms(self, name: str) -> float:
        """Median process time in milliseconds."""
        return 1e3 * statistics.median(sample.cpu for sample in self.samples[name])

    def wall_ms(self, name: str) -> float:
        """Median wall time in milliseconds."""
        return 1e3 * statistics.median(sample.wall for sample in self.samples[name])

    def ratio(self, slow: str, fast: str) -> float:
        """Median over rounds of the ratio of two process times taken in the same round.

        A machine that is shared grows slower and faster by the minute; a ratio inside a round does not notice.
        """
        pairs = zip(self.samples[slow], self.samples[fast], strict=True)
        return statistics.median(a.cpu / max(b.cpu, 1e-9) for a, b in pairs)


Work = Callable[[], Iterator[Tuple[str, Sample]]]
"""Runs one candidate once and yields a named sample for each of its parts."""


def alternate(candidates: Mapping[str, Work], repeats: int, warm_up: int = 1) -> Timings:
    """Time candidates in turn, A B A B, after ``warm_up`` rounds that do not count (compilation, caches)."""
    timings = Timings()
    for turn in range(warm_up + repeats):
        for name, work in candidates.items():
            for part, sample in work():
                if turn >= warm_up:
                    timings.add(f"{name} {part}", sample)
    return timings


def forward_backward(draw: Callable[[], torch.Tensor], upstream: torch.Tensor) -> Work:
    """Work whose parts are "forward" (``draw``) and "backward" (the gradient ``upstream`` sent back)."""

    def work() -> Iterator[Tuple[str, Sample]]:
        picture, sample = stopwatch(draw)
        yield "forward", sample
        yield "backward", stopwatch(picture.backward, upstream)[1]

    return work


def single(name: str, function: Callable[[], Any]) -> Work:
    """Work of one part, without gradients."""

    def work() -> Iterator[Tuple[str, Sample]]:
        with torch.no_grad():
            yield name, stopwatch(function)[1]

    return work
