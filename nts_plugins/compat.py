# SPDX-License-Identifier: Apache-2.0
"""Everything that depends on a version of nerfstudio, gsplat, torch, torchvision, transformers, numpy or viser. Nothing
else asks.

The module itself imports only the standard library, because torch calls :func:`make_torchvision_importable` at the
end of its own import.
"""

import functools
import importlib.util
import sys
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Iterator, Optional

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
    except Exception:
        return


@functools.cache
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


def cuda_of_torch() -> Optional[str]:
    """The version of CUDA that torch was built for; None for a CPU build."""
    import torch

    return torch.version.cuda


def torchvision_of_torch() -> tuple[int, int]:
    """The release of torchvision that belongs to the installed torch: 0.15 to torch 2.0, 0.16 to 2.1, and so on."""
    return 0, version_of("torch")[1] + 15


def method_entry_points() -> "list[tuple[metadata.EntryPoint, str]]":
    """What nerfstudio will load as methods when an ns-* command starts, each with the distribution that brings it."""
    return [
        (entry, distribution.metadata["Name"])
        for distribution in metadata.distributions()
        for entry in distribution.entry_points
        if entry.group == "nerfstudio.method_configs"
    ]


@contextmanager
def point_clouds_without_open3d() -> Iterator[None]:
    """While nerfstudio's dataparsers run: read their seed points with trimesh instead of open3d.

    They import open3d for nothing but its reader of .ply files. That takes a second, and fails on machines that lack
    libraries for screens and USB cameras (libGL, libX11, libusb). Nothing is replaced where open3d is imported already.
    """
    if "open3d" in sys.modules:
        yield
        return
    stand_in = ModuleType("open3d")
    stand_in.io = SimpleNamespace(read_point_cloud=_read_point_cloud)  # type: ignore[attr-defined]
    sys.modules["open3d"] = stand_in
    try:
        yield
    finally:
        del sys.modules["open3d"]


def _read_point_cloud(path: str) -> SimpleNamespace:
    """Points [N, 3] and colours [N, 3] from 0 to 1, or no colours [0, 3], like open3d's point cloud."""
    import numpy
    import trimesh

    from nts_plugins.errors import InputError

    try:
        cloud = trimesh.load(path, process=False)
    except Exception as error:  # trimesh raises whatever its parsers stumble over
        raise InputError(
            f"The seed points {path} cannot be read: {str(error).rstrip('.!')}. Make the file again."
        ) from error
    # A cloud of points has colours, a mesh has them in its visual, and a file without points has neither.
    points = numpy.asarray(getattr(cloud, "vertices", ()), numpy.float64).reshape(-1, 3)
    colors = getattr(cloud, "colors", getattr(getattr(cloud, "visual", None), "vertex_colors", ()))
    colors = numpy.asarray(colors, numpy.float64).reshape(-1, 4)[: len(points), :3]
    # nerfstudio cuts colour * 255 to whole numbers; the quarter keeps rounding from making them one less.
    return SimpleNamespace(points=points, colors=(colors + 0.25).clip(0, 255) / 255)


def let_paths_sweep_time() -> None:
    """In ``ns-render interpolate``: let the path go from time 0 to time 1. Does nothing in any other command.

    nerfstudio's spiral and its viewer's paths carry times; its interpolated path forgets those of the cameras.
    """
    render: Any = sys.modules.get("nerfstudio.scripts.render")
    if render is None or hasattr(render.get_interpolated_camera_path, "sweeps_time"):
        return
    original = render.get_interpolated_camera_path

    @functools.wraps(original)
    def sweeping(cameras: Any, *args: Any, **kwargs: Any) -> Any:
        path = original(cameras, *args, **kwargs)
        if cameras.times is not None and path.times is None:
            path.times = path.fx.new_tensor(range(len(path)))[:, None] / max(len(path) - 1, 1)
        return path

    sweeping.sweeps_time = True  # type: ignore[attr-defined]
    render.get_interpolated_camera_path = sweeping


def let_viewers_start_beside_other_processes() -> None:
    """Keep viser 0.2.7 from stopping when any process of the machine ends while it starts.

    It looks at all of them, for one that serves its web page during its own development, and is not prepared for one
    that is gone before it has looked. Then it looks again; the answer only spares it from asking whether the page is
    up to date.
    """
    from viser import _client_autobuild

    original = getattr(_client_autobuild, "_check_viser_yarn_running", None)
    if original is None or hasattr(original, "looks_again"):
        return

    @functools.wraps(original)
    def patient() -> bool:
        import psutil

        for _ in range(20):
            try:
                return original()
            except psutil.NoSuchProcess:
                continue
        return False

    patient.looks_again = True  # type: ignore[attr-defined]
    _client_autobuild._check_viser_yarn_running = patient


def allow_nerfstudio_checkpoints() -> None:
    """Let ``torch.load`` read nerfstudio's own checkpoints where it refuses unknown classes (torch >= 2.6).

    nerfstudio 1.1.5 calls ``torch.load`` without ``weights_only=False``, and its schedulers store numpy scalars, so
    ns-eval, ns-render, ns-viewer and ns-export fail on what ns-train wrote. This adds the three harmless numpy names
    to torch's list of permitted globals; checkpoints of this package need none of them. ``torch.load`` stays as it is.
    """
    import numpy
    import torch

    if not hasattr(torch.serialization, "add_safe_globals"):
        return  # torch < 2.4 has no such list, and loads everything.
    multiarray = importlib.import_module(f"numpy.{'_core' if hasattr(numpy, '_core') else 'core'}.multiarray")
    allowed: list = [multiarray.scalar, numpy.dtype]
    # numpy >= 1.25 has one class for every dtype; pickles name them.
    allowed += [type(numpy.dtype(kind)) for kind in ("float64", "float32", "int64")]
    # A checkpoint written under numpy 1 names numpy.core, one written under numpy 2 names numpy._core.
    allowed += [(multiarray.scalar, f"numpy.{name}.multiarray.scalar") for name in ("core", "_core")]
    try:
        torch.serialization.add_safe_globals(allowed)
    except (TypeError, AttributeError):  # torch < 2.6 takes no (class, name) pairs, and needs none.
        torch.serialization.add_safe_globals([item for item in allowed if not isinstance(item, tuple)])


def usable_device(requested: str) -> str:
    """The device to train on: the one asked for, or the CPU where torch finds no such device.

    nerfstudio asks for CUDA unless told otherwise, so a machine without a GPU must not need an extra flag.

    Args:
        requested: "cuda", "mps" or "cpu", with an index or without.
    """
    import torch

    kind = requested.split(":", maxsplit=1)[0]
    present = {
        "cuda": torch.cuda.is_available,
        "mps": lambda: getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available(),
    }
    return requested if kind not in present or present[kind]() else "cpu"


def fused_adam_devices() -> tuple[str, ...]:
    """Kinds of device on which ``torch.optim.Adam(fused=True)`` exists in the installed torch."""
    return ("cuda", "cpu") if version_of("torch") >= (2, 4) else ("cuda",)


def let_open_clip_tokenize(tokenizer: Any) -> None:
    """Let a tokenizer of open_clip work with the transformers that is installed.

    open_clip 2 calls tokenizers of transformers by ``batch_encode_plus``, which transformers 5 no longer has: there a
    tokenizer is called itself. Those that are open_clip's own stay as they are.
    """
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None and not hasattr(inner, "batch_encode_plus"):
        inner.batch_encode_plus = inner.__call__


def lpips_backbone(net: str) -> tuple[Path, str]:
    """The file of weights that torchvision wants for the network behind LPIPS, and where it would download it from.

    Args:
        net: "alex", "vgg" or "squeeze".
    """
    import torch
    import torchvision.models

    weights = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}[net]
    url = getattr(torchvision.models, weights).DEFAULT.url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1], url
