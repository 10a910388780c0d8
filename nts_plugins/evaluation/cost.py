# SPDX-License-Identifier: Apache-2.0
"""What a model costs: the time of a picture, and the size of what drawing needs."""

import statistics
import time
from typing import Callable, List, Tuple, TypeVar

import torch
from torch import nn

Picture = TypeVar("Picture")

DRAWINGS = 5
"""A picture is drawn at most so often, and the median counts: one drawing may meet whatever else the machine does."""
SECONDS = 0.1
"""No further drawing is begun after this long, so that evaluation on a slow machine takes no longer than it must."""


def timed(draw: Callable[[], Picture], device: torch.device) -> Tuple[float, Picture]:
    """Seconds that a drawing takes, and what the first one drew.

    The device's queue is emptied before and after each drawing. Draw once before: the first drawing of all loads or
    compiles kernels.
    """
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds: List[float] = []
    pictures: List[Picture] = []
    while len(seconds) < DRAWINGS and sum(seconds) < SECONDS:
        synchronize()
        start = time.perf_counter()
        picture = draw()
        synchronize()
        seconds.append(max(time.perf_counter() - start, 1e-9))
        pictures = pictures or [picture]
    return statistics.median(seconds), pictures[0]


def megabytes(model: nn.Module, without: Tuple[str, ...] = ()) -> float:
    """Size of a model's parameters and buffers as they are kept, which is float32, in 1e6 bytes.

    Args:
        without: beginnings of the names of what is not counted.
    """
    state = [*model.named_parameters(), *model.named_buffers()]
    return sum(value.numel() * value.element_size() for name, value in state if not name.startswith(without)) / 1e6
