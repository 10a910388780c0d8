# SPDX-License-Identifier: Apache-2.0
"""The one place that picks a backend: by argument, else by the environment variable NTS_BACKEND, else by device."""

import importlib
import importlib.util
import os
from types import ModuleType
from typing import Dict, Optional, Union

import torch

ENVIRONMENT_VARIABLE = "NTS_BACKEND"

_MODULES = {
    "reference": "nts_plugins.rasterization.reference",
    "cpu": "nts_plugins.rasterization.cpu",
    "gsplat": "nts_plugins.rasterization.gsplat_cuda",
}


class BackendUnavailable(ValueError):
    """The backend asked for does not exist, or cannot draw on this device."""


class UnknownBackend(BackendUnavailable):
    """There is no backend of that name."""


def available_backends() -> Dict[str, Optional[str]]:
    """Every backend by name; the value is None where it can run here, else the reason why it cannot."""
    return {
        "reference": None,
        "cpu": None if importlib.util.find_spec("numba") else "numba is not installed",
        "gsplat": (
            "gsplat is not installed"
            if importlib.util.find_spec("gsplat") is None
            else None
            if torch.cuda.is_available()
            else "torch sees no CUDA device"
        ),
    }


def select_backend(device: Union[str, torch.device], backend: Optional[str] = None) -> str:
    """Name of the backend that will draw tensors on ``device``.

    Args:
        device: where the Gaussians are.
        backend: "reference", "cpu", "gsplat"; None or "auto" to ask NTS_BACKEND, then to decide by device: gsplat on
            CUDA, the CPU kernels on the CPU, the reference anywhere else.

    Raises:
        BackendUnavailable: for an unknown name, or a backend that cannot run on this device.
    """
    kind = torch.device(device).type
    source = "backend="
    if backend in (None, "auto"):
        backend = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
        source = f"{ENVIRONMENT_VARIABLE}="
    if backend == "auto":
        return {"cuda": "gsplat", "cpu": "cpu"}.get(kind, "reference")
    if backend not in _MODULES:
        raise UnknownBackend(f"Unknown backend {source}{backend}. Choose one of auto, {', '.join(_MODULES)}.")
    needed = {"cpu": "cpu", "gsplat": "cuda"}.get(backend, kind)
    if needed != kind:
        raise BackendUnavailable(
            f"Backend {source}{backend} draws tensors on '{needed}', but the Gaussians are on '{kind}'. "
            f"Move them there, or choose another backend."
        )
    reason = available_backends()[backend]
    if reason is not None:
        raise BackendUnavailable(f"Backend {source}{backend} cannot run here: {reason}. `nts doctor` says more.")
    return backend


def load_backend(name: str) -> ModuleType:
    """The module that implements ``rasterize``, ``lift`` and ``lift_ids`` for a name from :func:`select_backend`."""
    return importlib.import_module(_MODULES[name])
