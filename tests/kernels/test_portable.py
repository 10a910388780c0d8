# SPDX-License-Identifier: Apache-2.0
"""The same kernels as other processors run them: compiled for eight lanes, with and without fused multiply-add.

Those of x86-64 run here. For Arm the three that take most of the time are compiled, and their instructions looked at.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]

PROGRAM = """
import torch
from nts_plugins.fields.networks import Mlp, Siren
from nts_plugins.kernels import vectors
from nts_plugins.losses import l1_and_ssim, ssim_reference
from nts_plugins.rasterization import lift, lift_ids
from tests.rasterization.compare import worst_errors
from tests.rasterization.scenes import needles, scene, textured

assert vectors.LANES == 8
with_textures = [textured(scene(seed=6), product_tanh=tanh, moves_splats=True) for tanh in (False, True)]
for made in (scene(200, sh_degree=3, channels=5, seed=1), needles(), *with_textures):
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
for network in (Siren(9, 5, 20, 2), Mlp(9, 5, 20, 2), Mlp(9, 5, 20, 0)):
    values = torch.randn(70, 9)
    kept = [network(values)]
    kept[0].sum().backward()
    kept += [each.grad.clone() for each in network.parameters()]
    network.zero_grad()
    exact = [network.double()(values.double())]
    exact[0].sum().backward()
    exact += [each.grad for each in network.parameters()]
    assert all(float((one - two).abs().max()) < 2e-5 * float(two.abs().max()) for one, two in zip(kept, exact))
print("drawn with", vectors.LANES)
"""


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="others have one kind of vectors")
@pytest.mark.parametrize(
    ("processor", "needs", "own"), [("x86-64", "sse2", "avx"), ("haswell", "avx2", "avx512f")], ids=lambda each: each
)
def test_kernels_of_other_processors(processor: str, needs: str, own: str, tmp_path: Path) -> None:
    """x86-64 has neither AVX nor fused multiply-add, haswell has both and no AVX-512.

    Args:
        processor: LLVM's name of it.
        needs: what this processor must have to run its code.
        own: without it this processor is of that kind itself, and all other tests run such kernels.
    """
    here = binding.get_host_cpu_features()
    if not here.get(needs):
        pytest.skip(f"this processor has no {needs}")
    if not here.get(own):
        pytest.skip("this processor is of that kind, and so are the kernels of all other tests")
    portable = {"NUMBA_CPU_NAME": processor, "NTS_CPU_LANES": "8", "NUMBA_CACHE_DIR": str(tmp_path)}
    environment = {**os.environ, **portable, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "drawn with 8" in done.stdout, done.stderr


ARM = """
import re

import torch
from llvmlite import binding

from nts_plugins.kernels import composite, composite_gradient, ssim
from nts_plugins.losses import l1_and_ssim
from tests.rasterization.compare import worst_errors
from tests.rasterization.scenes import scene

worst_errors(scene(20, seed=1))
l1_and_ssim(*torch.rand(2, 20, 20, 3, requires_grad=True))[1].backward()
binding.initialize_all_targets()
binding.initialize_all_asmprinters()
machine = binding.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu="cortex-a76", opt=3)
headers = {
    "target triple": 'target triple = "aarch64-unknown-linux-gnu"',
    "target datalayout": f'target datalayout = "{machine.target_data}"',
}
for kernel in (composite.composite_forward, composite_gradient.composite_backward, ssim.ssim_rows):
    for code in kernel.inspect_llvm().values():
        for name, header in headers.items():
            code = re.sub(rf"{name} = .*", header, code)
        module = binding.parse_assembly(re.sub(r'"target-(cpu|features)"="[^"]*"', "", code))
        passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
        passes.getModulePassManager().run(module, passes)
        instructions = machine.emit_assembly(module)
        fused = len(re.findall(r"fmla\\tv[0-9]+[.]4s", instructions))
        called = set(re.findall(r"^\\s+bl?\\t([A-Za-z_]\\w*)$", instructions, re.M))
        called = [name for name in called if not re.match(r"NRT_|_?Py|_ZN|numba_|mem(set|cpy|move)", name)]
        print("seen", kernel.py_func.__name__, fused, *called)
"""


@pytest.mark.skipif(not hasattr(binding, "create_pass_builder"), reason="this llvmlite compiles for the host only")
def test_kernels_become_neon_instructions(tmp_path: Path) -> None:
    """Four lanes an instruction, multiplication and addition fused, and no call of a mathematical function."""
    try:
        binding.initialize_all_targets()
        binding.Target.from_triple("aarch64-unknown-linux-gnu")
    except RuntimeError:
        pytest.skip("this LLVM does not know Arm")
    # What LLVM has optimised for the host may hold the host's own instructions, so it is left to the Arm compiler.
    plain = {"NUMBA_OPT": "0", "NTS_CPU_LANES": "8", "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", ARM],
        check=False,
        env={**os.environ, **plain},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    seen = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("seen")]
    assert {name for name, *_ in seen} == {"composite_forward", "composite_backward", "ssim_rows"}, done.stdout
    assert all(int(fused) > 20 and not calls for _, fused, *calls in seen), done.stdout
