# SPDX-License-Identifier: Apache-2.0
"""The kernels for GPUs where there is none: Triton interprets them in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .interpreted_triton import SCENES

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]


def test_same_as_the_reference() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tests.rasterization.interpreted_triton"]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("same:")] == [
        f"same: {each}" for each in SCENES
    ]


PROGRAM = """
import inspect
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from nts_plugins.rasterization import _triton_textured as kernels

KINDS = {"columns": "i32", "width": "i32", "height": "i32", "cap": "fp32", "faintest": "fp32", "stop": "fp32"}
KINDS.update(offsets="*i32", splats="*i32", row_of="*i32", last="*i32")
SIZES = {"E": 4, "WIDE": 4, "P": 3, "T": 8, "PAD": 16, "TANH": True, "MOVES": True}
ONE = {"P": 1, "TANH": False}
for kernel, own in [(kernels._forward, {}), (kernels._backward, {}), (kernels._forward, ONE), (kernels._backward, ONE)]:
    names = list(inspect.signature(kernel.fn).parameters)
    kinds = {name: "constexpr" if name in SIZES else KINDS.get(name, "*fp32") for name in names}
    sizes = {(place,): {**SIZES, **own}[name] for place, name in enumerate(names) if name in SIZES}
    source = ASTSource(fn=kernel, signature=kinds, constexprs=sizes)
    made = compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 8})
    assert len(made.asm["cubin"]) > 10000 and made.metadata.shared <= 48 * 1024
    print("compiled")
"""


def test_compiles_for_a_gpu(tmp_path: Path) -> None:
    """Down to machine code, which the interpreter does not see."""
    pytest.importorskip("triton")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    # Triton reads the source of what it compiles, which code from the command line does not have: ours lies in a file.
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("compiled") == 4, done.stderr
