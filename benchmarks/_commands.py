# SPDX-License-Identifier: Apache-2.0
"""Run nerfstudio's commands as a user does, and account for each process."""

import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List

from nts_plugins.errors import InputError


@dataclass(frozen=True)
class Usage:
    """What a finished process took."""

    seconds: float
    """Wall time, start of the program included."""
    peak_mib: int
    """Largest resident memory. Read while the process runs, so what it took in its last twentieth second may lack."""


def run_command(command: List[str], log: Path) -> Usage:
    """Run a command that is installed beside this Python; everything it prints goes to ``log``.

    Raises:
        InputError: when it fails, with the end of what it printed.
    """
    beside = Path(sys.executable).parent / command[0]
    program = str(beside) if beside.exists() else shutil.which(command[0])
    if program is None:
        raise InputError(f"{command[0]} is not installed: pip install nts-plugins")
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen([program, *command[1:]], stdout=stream, stderr=subprocess.STDOUT)
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, _peak_mib(process.pid))
                time.sleep(0.05)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise InputError(f"'{' '.join(command)}' failed ({process.returncode}). The end of {log}:\n{tail}")
    return Usage(time.perf_counter() - start, peak or _largest_child_mib())


def _peak_mib(pid: int) -> int:
    """Largest resident memory of a running process so far; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return round(int(found[1]) / 1024) if found else 0


def _largest_child_mib() -> int:
    """The same for the largest of all children that have ended: an upper limit, and it counts this process itself,
    because Linux hands a parent's peak on to its children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
