# SPDX-License-Identifier: Apache-2.0
"""Everything that depends on a version of nerfstudio, gsplat, torch, torchvision, numpy or viser. Nothing else asks.

The module itself imports only the standard library, because torch calls :func:`make_torchvision_importable` at the
end of its own import.
"""

import importlib.util
from importlib import metadata
from pathlib import Path

_torchvision_ops = None
"""Keeps the operator definitions of :func:`make_torchvision_importable` alive for the life of the process."""


def make_torchvision_importable() -> None:
    """Let a CPU-only torch import a torchvision whose compiled part was built for CUDA.

    The registry's only torchvision wheels for Linux link against CUDA. Beside a CPU build of torch their extension
    cannot be loaded, and ``import torchvision`` (which nerfstudio does) then dies with "operator torchvision::nms
    does not exist" although everything that nerfstudio uses of it is plain Python. Declaring the two operators that
    torchvision wants to describe is enough. torch calls this function through its ``torch.backends`` entry point
    (torch >= 2.5; ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` turns it off). Where torch has CUDA, or torchvision is absent
    or loads, nothing is changed. Never raises: an exception here would break ``import torch``.
    """
    global _torchvision_ops  # noqa: PLW0603 - torch.library drops the definitions with the object
    try:
        import torch

        if torch.version.cuda is not None or _torchvision_ops is not None:
            return
        spec = importlib.util.find_spec("torchvision")
        if spec is None or not spec.submodule_search_locations:
            return
        extension = next(Path(spec.submodule_search_locations[0]).glob("_C*"), None)
        if extension is None:
            return
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _torchvision_ops = library
    except Exception:  # noqa: BLE001 - see the docstring
        return


def version_of(distribution: str) -> tuple[int, ...]:
    """Release numbers of an installed distribution, ``(1, 4, 0)`` for gsplat 1.4.0; ``()`` when it is not installed."""
    try:
        text = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ()
    numbers = []
    for part in text.split("+")[0].split("."):
        digits = "".join(character for character in part if character.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
