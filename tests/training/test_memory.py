# SPDX-License-Identifier: Apache-2.0
"""A training process keeps what it frees."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from nts_plugins.training.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
def iterate():
    blocks = [np.ones(1 << 20, np.float32) for _ in range(4)]
for _ in range(3):
    iterate()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    iterate()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_memory_is_fetched_once() -> None:
    """Ten rounds of 16 MiB take no page from the system that was not taken before."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, "keep"], capture_output=True, text=True, check=True)
    pages = 10 * (16 << 20) // 4096
    assert int(done.stdout) < 0.01 * pages
