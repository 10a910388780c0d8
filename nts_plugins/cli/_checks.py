# SPDX-License-Identifier: Apache-2.0
"""The checks behind ``nts doctor``. Each yields findings; a check that fails itself becomes a finding as well."""

import importlib.util
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from nts_plugins import compat

Version = Tuple[int, ...]

SUPPORTED: Dict[str, Tuple[Version, Optional[Version]]] = {
    "torch": ((2, 2), None),
    "nerfstudio": ((1, 1, 5), (1, 2)),
    "gsplat": ((1, 4), (1, 6)),
    "numba": ((0, 60), None),
    "viser": ((0, 2, 7), None),
}
"""Lowest version that works, and the first that is not supported. pyproject.toml says the same; a test compares."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    state: str
    """"ok", "note" (works, but could be better) or "problem"."""
    text: str
    fix: Optional[str] = None
    """What to type or do, in one line."""
    blocks: bool = False
    """Whether training cannot run because of it."""


def examine() -> List[Finding]:
    """Run every check, in the order in which they build on each other."""
    findings: List[Finding] = []
    for check in CHECKS:
        try:
            findings.extend(check())
        except Exception as error:  # a broken installation fails in ways nobody can list
            name = check.__name__.removeprefix("check_").replace("_", " ")
            findings.append(_problem(name, _one_line(error), "fix the problems above first, then run this again", True))
    return findings


def check_python() -> Iterator[Finding]:
    supported = (3, 10) <= sys.version_info[:2] <= (3, 12)
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {_cores()} cores"
    fix = None if supported else "make a virtual environment with Python 3.10, 3.11 or 3.12"
    yield Finding("python", "ok" if supported else "problem", text, fix)


def check_distributions() -> Iterator[Finding]:
    for name, (lowest, beyond) in SUPPORTED.items():
        version = compat.version_of(name)
        requirement = f"{name}>={_text(lowest)}" + (f",<{_text(beyond)}" if beyond else "")
        fix = f"pip install '{requirement}'"
        if not version:
            yield _problem(name, "not installed", fix, blocks=True)
        elif version < lowest:
            yield _problem(name, f"{_text(version)} is too old", fix, blocks=True)
        elif beyond and version >= beyond:
            yield _problem(name, f"{_text(version)} is newer than what was tested", fix)
        else:
            yield Finding(name, "ok", _text(version))


def check_torch_device() -> Iterator[Finding]:
    import torch

    has_driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if torch.cuda.is_available():
        name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
        text = f"{name}, compute capability {major}.{minor}, torch built for CUDA {compat.cuda_of_torch()}"
        built_for = [
            arch for arch in torch.cuda.get_arch_list() if re.fullmatch(rf"(sm|compute)_{major}\d[a-z]?", arch)
        ]
        if built_for:
            yield Finding("device", "ok", text)
        else:
            fix = "install a newer torch, built for this GPU, or set CUDA_VISIBLE_DEVICES= to use the CPU"
            yield _problem("device", f"{text}, which has no kernels for this GPU", fix, blocks=True)
    elif has_driver and compat.cuda_of_torch() is None:
        fix = "install a CUDA build of torch to use the GPU; the CPU works meanwhile"
        yield Finding("device", "note", "CPU: there is an NVIDIA driver, but this torch is a CPU build", fix)
    elif has_driver:
        fix = f"update the NVIDIA driver to one for CUDA {compat.cuda_of_torch()}; the CPU works meanwhile"
        yield Finding("device", "note", "CPU: there is an NVIDIA driver, but torch finds no usable GPU", fix)
    else:
        yield Finding("device", "ok", "CPU, no NVIDIA GPU here")


def check_torchvision() -> Iterator[Finding]:
    try:
        import torchvision

        yield Finding(
            "torchvision", "ok", f"{_text(compat.version_of('torchvision'))} loads from {_folder(torchvision)}"
        )
    except Exception as error:  # it fails with RuntimeError, OSError or ImportError
        if os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD") == "0" and compat.cuda_of_torch() is None:
            fix = "unset TORCH_DEVICE_BACKEND_AUTOLOAD"
        elif compat.version_of("torch") < (2, 5) and compat.cuda_of_torch() is None:
            fix = "pip install --upgrade 'torch>=2.5' torchvision"
        else:
            fix = f"pip install --force-reinstall --no-deps torchvision=={_text(compat.torchvision_of_torch())}.*"
        yield _problem("torchvision", _one_line(error), fix, blocks=True)


DEBIAN_PACKAGES = {
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libGL.so.1": "libgl1",
    "libX11.so.6": "libx11-6",
    "libgomp.so.1": "libgomp1",
}
"""Libraries of a desktop that open3d wants, and the packages that hold them."""


def check_open3d() -> Iterator[Finding]:
    """nerfstudio's ns-export imports it when it starts; training does not need it."""
    try:
        import open3d

        yield Finding("open3d", "ok", f"{_text(compat.version_of('open3d'))} loads from {_folder(open3d)}")
    except Exception as error:  # a missing system library is an ImportError or an OSError
        missing = re.search(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object", str(error))
        fix = "pip install --force-reinstall open3d"
        if missing:
            fix = f"install the system library {missing[1]}"
            if missing[1] in DEBIAN_PACKAGES:
                fix += f"; on Debian and Ubuntu: apt-get install {DEBIAN_PACKAGES[missing[1]]}"
        yield Finding("open3d", "note", f"cannot be loaded, and ns-export needs it: {_one_line(error)}", fix)


def check_methods() -> Iterator[Finding]:
    """Load every installed nerfstudio method: one that fails to import ends every ns-* command."""
    owners: Dict[str, List[str]] = {}
    for entry, distribution in compat.method_entry_points():
        try:
            method_name = entry.load().config.method_name
            owners.setdefault(method_name, []).append(distribution)
        except Exception as error:  # whatever a stranger's package raises
            text = f"'{entry.name}' of {distribution} does not import, and no ns-* command starts: {_one_line(error)}"
            ours = distribution == "nts-plugins"
            fix = "pip install --force-reinstall nts-plugins" if ours else f"pip uninstall {distribution}"
            yield _problem("methods", text, fix, blocks=True)
    for method_name, distributions in owners.items():
        if len(distributions) > 1:
            text = f"{' and '.join(distributions)} both bring '{method_name}'; only one of them is found"
            yield Finding("methods", "note", text, f"pip uninstall {distributions[-1]}")
    ours = sorted(name for name, distributions in owners.items() if "nts-plugins" in distributions)
    if ours:
        yield Finding("methods", "ok", ", ".join(ours))
    elif not any("nts-plugins" in distribution for _, distribution in compat.method_entry_points()):
        yield _problem("methods", "nerfstudio does not find this package", "pip install nts-plugins", blocks=True)


def check_checkpoints() -> Iterator[Finding]:
    """Load what nerfstudio's own schedulers save: torch >= 2.6 refuses it unless told otherwise."""
    import numpy
    import torch

    file = io.BytesIO()
    torch.save({"last_lr": numpy.float64(0.01)}, file)
    file.seek(0)
    try:
        torch.load(file)
        yield Finding("checkpoints", "ok", "those of this package and of nerfstudio's own methods load")
    except Exception:  # pickle.UnpicklingError, and RuntimeError in some versions
        text = "those of this package load; torch >= 2.6 refuses those of nerfstudio's own methods"
        yield Finding("checkpoints", "note", text, "pip install 'torch<2.6' if you need to load them")


def check_gsplat_kernels() -> Iterator[Finding]:
    import torch

    name = "gsplat kernels"
    if not torch.cuda.is_available():
        yield Finding(name, "ok", "not needed without a CUDA device")
        return
    if importlib.util.find_spec("gsplat.csrc") is not None or _gsplat_build_exists():
        yield Finding(name, "ok", "built")
        return
    nvcc = _nvcc_version()
    if nvcc is None:
        fix = f"install the CUDA toolkit {compat.cuda_of_torch()} so that nvcc is on PATH, or set CUDA_VISIBLE_DEVICES="
        yield _problem(name, "not built, and there is no nvcc to build them", fix, blocks=True)
    elif nvcc[0] != int((compat.cuda_of_torch() or "0").split(".", maxsplit=1)[0]):
        fix = f"install the CUDA toolkit {compat.cuda_of_torch()} and put its nvcc first on PATH"
        yield _problem(name, f"nvcc is of CUDA {_text(nvcc)}, torch of CUDA {compat.cuda_of_torch()}", fix, blocks=True)
    else:
        text = "will compile on first use, once: 5 to 30 minutes"
        yield Finding(name, "note", text, "python -c 'import gsplat.cuda._backend' compiles them now")


def check_cpu_kernels() -> Iterator[Finding]:
    from llvmlite import binding

    from nts_plugins.kernels.vectors import LANES

    features = binding.get_host_cpu_features()
    known = ("avx512f", "avx2", "fma", "sse4.2", "neon", "sve")
    present = [feature for feature in known if features.get(feature)]
    text = (
        f"vectors of {LANES} floats on {binding.get_host_cpu_name()} ({', '.join(present) or 'no vector unit known'})"
    )
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        yield _problem("cpu kernels", "NUMBA_DISABLE_JIT turns the compiler off", "unset NUMBA_DISABLE_JIT")
    elif "x86" in platform.machine().lower() and "avx2" not in present:
        yield Finding("cpu kernels", "note", f"{text}; without AVX2 training takes several times as long")
    else:
        yield Finding("cpu kernels", "ok", text)


def check_kernel_cache() -> Iterator[Finding]:
    from nts_plugins.kernels import _cache

    text = f"compiled once, then kept in {_cache.location()}"
    if not _cache.FALLBACK:
        yield Finding("kernel cache", "ok", text)
    else:
        text += ", since numba can write neither beside the package nor to the home folder; temporary files get lost"
        yield Finding("kernel cache", "note", text, "export NUMBA_CACHE_DIR=FOLDER, a folder that you can write to")


def check_threads() -> Iterator[Finding]:
    from nts_plugins.kernels.threads import thread_count

    used, cores = thread_count(), _cores()
    text = f"{used} of {cores} cores"
    if used < cores and os.environ.get("OMP_NUM_THREADS"):
        yield Finding("threads", "note", f"{text}: OMP_NUM_THREADS={used}", "unset OMP_NUM_THREADS")
    elif os.environ.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        text += ": OMP_WAIT_POLICY=ACTIVE lets idle threads take the cores of working ones"
        yield Finding("threads", "note", text, "export OMP_WAIT_POLICY=PASSIVE")
    else:
        yield Finding("threads", "ok", text)


def check_lpips() -> Iterator[Finding]:
    file, _ = compat.lpips_backbone("alex")
    if file.exists():
        yield Finding("lpips", "ok", f"backbone weights in {file}")
    else:
        text = "backbone weights are missing, so ns-eval reports PSNR and SSIM only"
        yield Finding("lpips", "note", text, f"put torchvision's {file.name} into {file.parent}")


def check_programs() -> Iterator[Finding]:
    for name, purpose in (
        ("ffmpeg", "ns-render writes videos with it"),
        ("colmap", "ns-process-data finds poses with it"),
    ):
        path = shutil.which(name)
        if path:
            yield Finding(name, "ok", path)
        else:
            yield Finding(name, "note", f"not found; {purpose}", f"install {name} with your system's package manager")


def check_backend() -> Iterator[Finding]:
    """Choose the backend as training will, and let it draw: values and gradients must be those of the reference."""
    import torch

    from nts_plugins.cli._selftest import compare_with_reference
    from nts_plugins.rasterization import BackendUnavailable, available_backends, select_backend

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, reason in available_backends().items():
        if reason is not None:
            yield Finding(f"backend {name}", "ok", f"not used: {reason}")
    try:
        chosen = select_backend(device)
    except BackendUnavailable as error:
        yield _problem("backend", _one_line(error), "unset NTS_BACKEND", blocks=True)
        return
    start = time.perf_counter()
    try:
        error_image, error_gradient = compare_with_reference(chosen, device)
    except Exception as error:  # compilers and drivers fail in many ways
        fix = "look for a problem above; if there is none, report this with the output of nts doctor --json"
        yield _problem("backend", f"{chosen} cannot draw: {_one_line(error)}", fix, blocks=True)
        return
    seconds = time.perf_counter() - start
    errors = f"errors {error_image:.0e}, gradients {error_gradient:.0e}"
    text = f"{chosen} on {device}; test drawing in {seconds:.1f} s, {errors}"
    if error_image > 1e-4 or error_gradient > 1e-3:
        yield _problem("backend", f"draws wrong pictures: {text}", "report this with nts doctor --json", blocks=True)
    elif chosen == "reference":
        yield Finding("backend", "note", f"{text}; it is there to compare with, and slow", "unset NTS_BACKEND")
    else:
        yield Finding("backend", "ok", text)


CHECKS: Tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_distributions,
    check_torch_device,
    check_torchvision,
    check_open3d,
    check_methods,
    check_checkpoints,
    check_gsplat_kernels,
    check_cpu_kernels,
    check_kernel_cache,
    check_threads,
    check_lpips,
    check_programs,
    check_backend,
)


def _problem(name: str, text: str, fix: str, blocks: bool = False) -> Finding:
    return Finding(name, "problem", text, fix, blocks)


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def _one_line(error: BaseException) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first if len(first) <= 200 else first[:197] + "..."


def _folder(module: object) -> str:
    return str(Path(module.__file__).parent)  # type: ignore[attr-defined]


def _cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gsplat_build_exists() -> bool:
    from torch.utils import cpp_extension

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root())
    return any(root.glob("**/gsplat_cuda/gsplat_cuda.*"))


def _nvcc_version() -> Optional[Version]:
    """Release of the nvcc on PATH; None without one that runs."""
    try:
        done = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"release (\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else None
