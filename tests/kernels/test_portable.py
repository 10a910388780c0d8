# SPDX-License-Identifier: Apache-2.0
"""The same kernels as other processors run them: compiled for eight lanes, with and without fused multiply-add."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

REPOSITORY = Path(__file__).resolve().parents[2]

PROGRAM = """
import torch
from nts_plugins.kernels import vectors
from nts_plugins.losses import l1_and_ssim, ssim_reference
from nts_plugins.rasterization import lift, lift_ids
from tests.rasterization.compare import worst_errors
from tests.rasterization.scenes import needles, scene

assert vectors.LANES == 8
for made in (scene(200, sh_degree=3, channels=5, seed=1), needles()):
    of_values, of_gradients = worst_errors(made)
    assert of_values <= 2e-6 and of_gradients <= 1e-5

size = (len(made.viewmats), made.height, made.width)
for lifted in (
    [lift(made.gaussians, made.viewmats, made.Ks, torch.ones(*size, 7), backend=name) for name in ("cpu", "reference")],
    [
        lift_ids(made.gaussians, made.viewmats, made.Ks, torch.arange(size[2]).expand(size) // 9, backend=name)
        for name in ("cpu", "reference")
    ],
):
    totals = [float(each.weights.sum()) for each in lifted]
    assert totals[0] > 1 and abs(totals[0] / totals[1] - 1) < 1e-4
pictures = torch.rand(2, 40, 50, 3)
assert abs(float(l1_and_ssim(*pictures)[1] - ssim_reference(*pictures))) < 1e-5
print("drawn with", vectors.LANES)
"""


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="others have one kind of vectors")
@pytest.mark.parametrize(("processor", "needs"), [("x86-64", "sse2"), ("haswell", "avx2")])
def test_kernels_of_other_processors(processor: str, needs: str, tmp_path: Path) -> None:
    """x86-64 has neither AVX nor fused multiply-add, haswell has both and no AVX-512."""
    if not binding.get_host_cpu_features().get(needs):
        pytest.skip(f"this processor has no {needs}")
    portable = {"NUMBA_CPU_NAME": processor, "NTS_CPU_LANES": "8", "NUMBA_CACHE_DIR": str(tmp_path)}
    environment = {**os.environ, **portable, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "drawn with 8" in done.stdout, done.stderr
