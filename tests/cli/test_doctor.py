# SPDX-License-Identifier: Apache-2.0
"""nts doctor: every problem is noticed, named and comes with one line that fixes it."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Iterator, List

import pytest
import torch

from nts_plugins import compat
from nts_plugins.cli import _checks, _selftest
from nts_plugins.cli._checks import Finding
from nts_plugins.cli.doctor import Doctor, as_json, as_text, can_train

REPOSITORY = Path(__file__).resolve().parents[2]


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def assert_problem(finding: Finding, fix: str, blocks: bool = True) -> None:
    assert finding.state == "problem" and finding.blocks == blocks, finding
    assert finding.fix is not None and fix in finding.fix, finding
    assert "\n" not in finding.text + finding.fix


# ------------------------------------------------------------------------------------------------- the report


def test_report_in_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        Finding("python", "ok", "3.11"),
        Finding("ffmpeg", "note", "not found", "install ffmpeg"),
        Finding("torch", "problem", "not installed", "pip install torch", blocks=True),
    ]
    monkeypatch.setattr("nts_plugins.cli.doctor.examine", lambda: findings)
    assert Doctor().run() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "  ok       python  3.11",
        "  note     ffmpeg  not found",
        "                   fix: install ffmpeg",
        "  PROBLEM  torch   not installed",
        "                   fix: pip install torch",
        "Training CANNOT run here; 1 problem to fix, see above.",
    ]
    monkeypatch.setattr("nts_plugins.cli.doctor.examine", lambda: findings[:2])
    assert Doctor().run() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Training can run here."


def test_report_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("numba", "problem", "too new", "pip install numba", blocks=False)]
    monkeypatch.setattr("nts_plugins.cli.doctor.examine", lambda: findings)
    assert Doctor(json=True).run() == 0
    report = json.loads(capsys.readouterr().out)
    assert report["can_train"] is True
    assert report["findings"] == [
        {"name": "numba", "state": "problem", "text": "too new", "fix": "pip install numba", "blocks": False}
    ]


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_something_odd() -> Iterator[Finding]:
        yield Finding("first", "ok", "seen")
        raise RuntimeError("line one\nline two")

    monkeypatch.setattr(_checks, "CHECKS", (check_something_odd,))
    findings = _checks.examine()
    assert findings[-1] == Finding(
        "something odd", "problem", "line one", "fix the problems above first, then run this again", True
    )
    assert not can_train(findings)


def test_on_this_machine() -> None:
    """The real thing, as a user starts it: training can run here, and the JSON says with which backend."""
    code = "import sys; from nts_plugins.cli.doctor import Doctor; sys.exit(Doctor(json=True).run())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["can_train"] is True
    by_name = {finding["name"]: finding for finding in report["findings"]}
    assert by_name["backend"]["text"].startswith(("cpu on cpu", "gsplat on cuda", "reference on"))
    assert "splat" in by_name["methods"]["text"]
    assert all(finding["fix"] for finding in report["findings"] if finding["state"] == "problem")


# ------------------------------------------------------------------------------------------------- what is installed


def test_supported_versions_are_those_of_pyproject() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    for name, (lowest, beyond) in _checks.SUPPORTED.items():
        limits = ">=" + ".".join(map(str, lowest)) + (",<" + ".".join(map(str, beyond)) if beyond else "")
        assert f'"{name}{limits}"' in text, f"{name}{limits}"


@pytest.mark.parametrize(
    ("name", "version", "state", "text"),
    [
        ("gsplat", (), "problem", "not installed"),
        ("gsplat", (1, 3), "problem", "1.3 is too old"),
        ("gsplat", (1, 6, 0), "problem", "1.6.0 is newer than what was tested"),
        ("gsplat", (1, 5, 3), "ok", "1.5.3"),
        ("numba", (), "problem", "not installed"),
        ("torch", (2, 1, 2), "problem", "2.1.2 is too old"),
        ("nerfstudio", (1, 2, 0), "problem", "1.2.0 is newer than what was tested"),
    ],
)
def test_versions(monkeypatch: pytest.MonkeyPatch, name: str, version: tuple, state: str, text: str) -> None:
    installed = {"torch": (2, 5, 1), "nerfstudio": (1, 1, 5), "gsplat": (1, 4, 0), "numba": (0, 61), "viser": (0, 2, 7)}
    installed[name] = version
    monkeypatch.setattr(compat, "version_of", installed.__getitem__)
    found = {finding.name: finding for finding in _checks.check_distributions()}
    assert (found[name].state, found[name].text) == (state, text)
    assert [other.state for other in found.values() if other.name != name] == ["ok"] * 4
    if state == "problem":
        assert found[name].fix.startswith(f"pip install '{name}>=")
        assert found[name].blocks == ("newer" not in text)


def test_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(_checks.check_python()).state == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 9, 1, "final", 0))
    assert "virtual environment" in only(_checks.check_python()).fix


def hide_module(monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    """Make ``import name`` fail with a message, whether or not it was imported before."""

    class Refuse:
        @staticmethod
        def find_spec(asked: str, path: object = None, target: object = None) -> None:
            if asked == name:
                raise RuntimeError(message)

    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuse, *sys.meta_path])


@pytest.mark.parametrize(
    ("version", "cuda", "autoload", "fix"),
    [
        ((2, 13, 0), "13.0", None, "pip install --force-reinstall --no-deps torchvision==0.28.*"),
        ((2, 4, 1), None, None, "pip install --upgrade 'torch>=2.5' torchvision"),
        ((2, 13, 0), None, "0", "unset TORCH_DEVICE_BACKEND_AUTOLOAD"),
    ],
)
def test_torchvision_mismatch(
    monkeypatch: pytest.MonkeyPatch, version: tuple, cuda: str, autoload: str, fix: str
) -> None:
    hide_module(monkeypatch, "torchvision", "operator torchvision::nms does not exist")
    monkeypatch.setattr(compat, "version_of", lambda name: version)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("TORCH_DEVICE_BACKEND_AUTOLOAD", raising=False)
    if autoload:
        monkeypatch.setenv("TORCH_DEVICE_BACKEND_AUTOLOAD", autoload)
    finding = only(_checks.check_torchvision())
    assert finding.text == "operator torchvision::nms does not exist"
    assert_problem(finding, fix)


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ("libusb-1.0.so.0: cannot open shared object file", "on Debian and Ubuntu: apt-get install libusb-1.0-0"),
        ("libodd.so.7: cannot open shared object file: No such file", "install the system library libodd.so.7"),
        ("anything else", "pip install --force-reinstall open3d"),
    ],
)
def test_open3d_without_system_libraries(monkeypatch: pytest.MonkeyPatch, message: str, fix: str) -> None:
    hide_module(monkeypatch, "open3d", message)
    finding = only(_checks.check_open3d())
    assert finding.state == "note" and finding.fix.endswith(fix) and not finding.blocks
    assert finding.text == f"cannot be loaded, and ns-export needs it: {message}"


def plugin(method_name: str, error: str = "") -> SimpleNamespace:
    def load() -> SimpleNamespace:
        if error:
            raise ImportError(error)
        return SimpleNamespace(config=SimpleNamespace(method_name=method_name))

    return SimpleNamespace(name=method_name, load=load)


def test_plugin_that_breaks_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = [(plugin("splat"), "nts-plugins"), (plugin("lerf", "No module named 'open_clip'"), "lerf")]
    monkeypatch.setattr(compat, "method_entry_points", lambda: plugins)
    broken, ours = _checks.check_methods()
    assert_problem(broken, "pip uninstall lerf")
    assert "No module named 'open_clip'" in broken.text
    assert (ours.state, ours.text) == ("ok", "splat")


def test_two_plugins_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = [(plugin("splat"), "nts-plugins"), (plugin("splat"), "other")]
    monkeypatch.setattr(compat, "method_entry_points", lambda: plugins)
    clash, _ = _checks.check_methods()
    assert clash.state == "note" and clash.fix == "pip uninstall other"


def test_package_that_nerfstudio_does_not_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "method_entry_points", lambda: [])
    assert_problem(only(_checks.check_methods()), "pip install nts-plugins")


def test_checkpoints_that_torch_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_file: object) -> None:
        raise RuntimeError("Weights only load failed")

    monkeypatch.setattr(torch, "load", refuse)
    finding = only(_checks.check_checkpoints())
    assert finding.state == "note" and "torch<2.6" in finding.fix


# ------------------------------------------------------------------------------------------------- the machine


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, architectures: List[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (12, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
    monkeypatch.setattr(torch.version, "cuda", "12.8")


def test_gpu_that_torch_was_not_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, ["sm_80", "sm_90"])
    assert_problem(only(_checks.check_torch_device()), "install a newer torch")
    pretend_gpu(monkeypatch, ["sm_80", "sm_120"])
    assert only(_checks.check_torch_device()).state == "ok"


@pytest.mark.parametrize(
    ("cuda", "fix"), [(None, "install a CUDA build of torch"), ("12.8", "update the NVIDIA driver")]
)
def test_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch, cuda: str, fix: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    finding = only(_checks.check_torch_device())
    assert finding.state == "note" and fix in finding.fix


@pytest.mark.parametrize(
    ("nvcc", "state", "words"),
    [
        (None, "problem", "so that nvcc is on PATH"),
        ((11, 8), "problem", "install the CUDA toolkit 12.8"),
        ((12, 4), "note", "python -c 'import gsplat.cuda._backend'"),
    ],
)
def test_gsplat_that_must_compile(monkeypatch: pytest.MonkeyPatch, nvcc: tuple, state: str, words: str) -> None:
    pretend_gpu(monkeypatch, ["sm_120"])
    monkeypatch.setattr(_checks, "_gsplat_build_exists", lambda: False)
    monkeypatch.setattr(_checks, "_nvcc_version", lambda: nvcc)
    finding = only(_checks.check_gsplat_kernels())
    assert finding.state == state and words in finding.fix
    assert finding.blocks == (state == "problem")


def test_gsplat_build_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert not _checks._gsplat_build_exists()
    (tmp_path / "py311_cu128" / "gsplat_cuda").mkdir(parents=True)
    (tmp_path / "py311_cu128" / "gsplat_cuda" / "gsplat_cuda.so").touch()
    assert _checks._gsplat_build_exists()


def test_nvcc_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _checks._nvcc_version() is None
    program = tmp_path / "nvcc"
    program.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.4, V12.4.131'\n")
    program.chmod(0o755)
    assert _checks._nvcc_version() == (12, 4)


def test_compiler_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    # A kernel that is imported while the compiler is off stays uncompiled, for the tests that follow too.
    importlib.import_module("nts_plugins.rasterization.cpu")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert_problem(only(_checks.check_cpu_kernels()), "unset NUMBA_DISABLE_JIT", blocks=False)


def test_kernel_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from nts_plugins.kernels import _cache

    found = only(_checks.check_kernel_cache())
    assert found.state == "ok" and str(_cache.location()) in found.text
    monkeypatch.setattr(_cache, "FALLBACK", True)
    found = only(_checks.check_kernel_cache())
    assert found.state == "note" and (found.fix or "").startswith("export NUMBA_CACHE_DIR=")


def test_threads_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nts_plugins.kernels.threads.thread_count", lambda: 1)
    monkeypatch.setattr(_checks, "_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert only(_checks.check_threads()).fix == "unset OMP_NUM_THREADS"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert only(_checks.check_threads()).fix == "export OMP_WAIT_POLICY=PASSIVE"


def test_lpips_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "alexnet.pth"
    monkeypatch.setattr(compat, "lpips_backbone", lambda net: (file, "address"))
    missing = only(_checks.check_lpips())
    assert missing.state == "note" and missing.fix == f"put torchvision's alexnet.pth into {tmp_path}"
    file.touch()
    assert only(_checks.check_lpips()).state == "ok"


def test_missing_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", {"ffmpeg": "/usr/bin/ffmpeg"}.get)
    ffmpeg, colmap = _checks.check_programs()
    assert (ffmpeg.state, ffmpeg.text) == ("ok", "/usr/bin/ffmpeg")
    assert colmap.state == "note" and "colmap" in colmap.fix


# ------------------------------------------------------------------------------------------------- the backend


def last_of(check: Callable[[], Iterator[Finding]]) -> Finding:
    return list(check())[-1]


def test_unknown_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NTS_BACKEND", "bogus")
    finding = last_of(_checks.check_backend)
    assert "NTS_BACKEND=bogus" in finding.text
    assert_problem(finding, "unset NTS_BACKEND")


def test_reference_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("NTS_BACKEND", "reference")
    finding = last_of(_checks.check_backend)
    assert finding.state == "note" and finding.fix == "unset NTS_BACKEND"


def test_backend_that_draws_wrong_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("NTS_BACKEND", "reference")
    right = _selftest._draw

    def wrong(backend: str, device: str, dtype: torch.dtype) -> List[torch.Tensor]:
        return [tensor * (1.01 if dtype == torch.float32 else 1.0) for tensor in right(backend, device, dtype)]

    monkeypatch.setattr(_selftest, "_draw", wrong)
    finding = last_of(_checks.check_backend)
    assert finding.text.startswith("draws wrong pictures")
    assert_problem(finding, "report this")


def test_backend_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError("compiler crashed")

    monkeypatch.setattr(_selftest, "compare_with_reference", fail)
    finding = last_of(_checks.check_backend)
    assert "compiler crashed" in finding.text
    assert_problem(finding, "nts doctor --json")


def test_selftest_draws_something() -> None:
    image, *gradients = _selftest._draw("reference", "cpu", torch.float64)
    assert image.shape == (1, 34, 48, 3)
    assert 0.1 < float(image.mean()) < 1.0
    assert all(float(gradient.abs().max()) > 1e-3 for gradient in gradients)
    assert max(_selftest.compare_with_reference("reference", "cpu")) < 1e-5


def test_text_and_json_agree() -> None:
    findings = [Finding("a", "ok", "b")]
    assert json.loads(as_json(findings))["can_train"] is can_train(findings)
    assert "Training can run here." in as_text(findings)
