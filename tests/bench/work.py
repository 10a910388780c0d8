# SPDX-License-Identifier: Apache-2.0
"""Work for benchmarks that takes no time, and misbehaves where it is asked to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Mapping

from nts_plugins.bench.grid import Cell
from nts_plugins.errors import InputError

QUALITY = {"iuv": 0.0, "radio": 2.0, "dino": 1.0}


def metrics_of(cell: Cell) -> Dict[str, float]:
    """Known numbers of a cell."""
    value = QUALITY.get(cell.features, 0.5) + 0.1 * cell.seed + 3.0 * len(cell.scene)
    return {"psnr": 10 + value, "ssim": 0.01 * value, "accuracy": 5.0 - 0.1 * value}


def quick(cell: Cell, settings: Mapping[str, Any], folder: Path) -> Dict[str, float]:
    """Known numbers; what it does besides depends on the name of the features, and of the scene's settings."""
    if (count := settings.get("count")) is not None:  # who worked at what, seen by all processes
        with open(count, "a") as file:
            file.write(f"{cell.slug} {os.getpid()}\n")
    if (seconds := settings.get("seconds")) is not None:
        time.sleep(seconds)
    if cell.features == "wrong":
        raise InputError("There are no features wrong.")
    if cell.features == "broken":
        raise RuntimeError("a bug [of the probe]")
    if cell.features == "dies":
        print("about to die", flush=True)
        os._exit(7)
    if cell.features == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.features == "odd":
        return 3.0  # type: ignore[return-value]
    return metrics_of(cell)


def surroundings(cell: Cell, settings: Mapping[str, Any], folder: Path) -> Dict[str, float]:
    """Where it finds itself."""
    assert folder.is_dir() and not list(folder.iterdir())
    (folder / "scratch.txt").write_text("anything")
    print("printed by Python")
    os.system("echo printed by another program")
    return {
        "pid": os.getpid(),
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "numba": int(os.environ["NUMBA_NUM_THREADS"]),
        "torch": float("torch" in sys.modules),
        "infinite": float("inf"),
    }


def torch_threads(cell: Cell, settings: Mapping[str, Any], folder: Path) -> Dict[str, float]:
    """What torch makes of it."""
    import torch

    return {"threads": torch.get_num_threads()}


def with_child(cell: Cell, settings: Mapping[str, Any], folder: Path) -> Dict[str, float]:
    """Starts a process of its own, and never ends."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(settings["count"], "a") as file:
        file.write(f"{cell.slug} {os.getpid()}\n{cell.slug} {child.pid}\n")
    time.sleep(600)
    return {}


def checking(number: int) -> int:
    """No work, but a function."""
    return number


NOT_A_FUNCTION = 3
