# SPDX-License-Identifier: Apache-2.0
"""rasterize, lift, coverage and lift_ids: the checks and defaults in front of the backends."""

import math
import operator
from typing import List, Literal, Optional

import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization._backends import load_backend, select_backend
from nts_plugins.rasterization._types import Lifted, LiftedIds, Raster, Rules, Settings
from nts_plugins.rasterization.rules import installed_rules
from nts_plugins.rasterization.textures import Textures, TextureSource, check_textures

MOST_IDS = 2**31
"""Ids that :func:`lift_ids` tells apart: products with as many splats still fit into 64 bits."""


def rasterize(
    gaussians: Gaussians,
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    *,
    sh_degree: Optional[int] = None,
    channels: Optional[Tensor] = None,  # [N, E] or [C, N, E]
    background: Optional[Tensor] = None,  # [D] or [C, D]
    channel_background: Optional[Tensor] = None,  # [E] or [C, E]
    textures: Optional[TextureSource] = None,
    depth: Optional[Literal["accumulated", "expected"]] = None,
    antialiased: bool = False,
    absgrad: bool = False,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    radius_clip: float = 0.0,
    backend: Optional[str] = None,
    rules: Optional[Rules] = None,
) -> Raster:
    """Draw Gaussians: colour, depth and any number of further channels, front to back, in one pass.

    Source: Kerbl et al. 2023 (3DGS), sections 4 and 6, with gsplat's conventions and constants.

    Differentiable with respect to every tensor of ``gaussians``, ``channels``, both backgrounds, vectors and weights of
    ``textures``, and ``viewmats``; not with respect to ``Ks``. The depth order, the set of splats in a pixel and the
    early stop carry no gradient.

    Args:
        gaussians: N splats with D colour channels.
        viewmats: world to camera, OpenCV axes.
        Ks: pinhole intrinsics in pixels, without skew.
        width: pixels.
        height: pixels.
        sh_degree: 0 to 3, degree to evaluate when the Gaussians carry ``sh``; None takes the highest of these held.
        channels: values that do not depend on the view, composited with the same weights.
        background: colour behind everything; None is black.
        channel_background: the same for ``channels``.
        textures: what some splats add to colour (D = 3) and opacity from point to point, or a function that gives it
            for the splats that a camera draws, see :data:`nts_plugins.rasterization.textures.TextureSource`. An opacity
            residual is added to alpha where the splat alone is not skipped; then alpha is cut to the cap of the rules.
            No residual makes a colour negative.
        depth: "accumulated" is the sum of alpha T z, "expected" divides it by the accumulated opacity.
        antialiased: scale opacities so that the screen-space blur keeps each splat's energy.
        absgrad: leave the absolute-value gradient in ``info["means2d"].absgrad``.
        near_plane: splats whose centre is nearer are not drawn, scene units.
        far_plane: the same for farther ones.
        eps2d: screen-space blur, pixels squared.
        radius_clip: do not draw splats of this pixel radius or less.
        backend: force one ("reference", "cpu", "gsplat"); default by NTS_BACKEND, then by device.
        rules: constants of one gsplat version; default is the installed one.

    Raises:
        ValueError: on shapes or values that do not fit, naming the argument. Values of cameras are looked at where they
            are on the CPU.
        BackendUnavailable: when the backend asked for cannot draw on this device.
    """
    width, height = _whole_number(width, "width"), _whole_number(height, "height")
    optional = {"channels": channels, "background": background, "channel_background": channel_background}
    _check_tensors(gaussians, viewmats=viewmats, Ks=Ks, **optional)
    _check_cameras(viewmats, Ks, width, height)
    cameras, n = viewmats.shape[0], len(gaussians)
    sh_degree = _choose_degree(gaussians, sh_degree)
    if depth not in (None, "accumulated", "expected"):
        raise ValueError(f"depth={depth!r} is not one of None, 'accumulated', 'expected'.")
    if channels is not None:
        if channels.shape[:-1] not in ((n,), (cameras, n)):
            raise ValueError(f"channels has shape {tuple(channels.shape)}, expected [{n}, E] or [{cameras}, {n}, E].")
        channel_background = _expand_background(channel_background, "channel_background", cameras, channels.shape[-1])
    elif channel_background is not None:
        raise ValueError("channel_background is given without channels.")
    background = _expand_background(background, "background", cameras, gaussians.color_channels)
    if textures is not None:
        if isinstance(textures, Textures):
            check_textures(textures, n)
        if gaussians.color_channels != 3:
            raise ValueError(f"textures are of three colours, but the Gaussians have {gaussians.color_channels}.")
    settings = _checked(Settings(
        width, height, rules or installed_rules(), sh_degree=sh_degree, depth=depth, antialiased=antialiased,
        absgrad=absgrad, near_plane=near_plane, far_plane=far_plane, eps2d=eps2d, radius_clip=radius_clip,
    ))  # fmt: skip
    module = load_backend(select_backend(gaussians.device, backend))
    return module.rasterize(gaussians, viewmats, Ks, settings, channels, background, channel_background, textures)


def lift(
    gaussians: Gaussians,
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    features: Tensor,  # [C, H, W, D]
    *,
    antialiased: bool = False,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    radius_clip: float = 0.0,
    backend: Optional[str] = None,
    rules: Optional[Rules] = None,
) -> Lifted:
    """The adjoint of :func:`rasterize`: carry feature maps back to the splats that make up each pixel.

    Gives every splat the sum over pixels and cameras of alpha T times the pixel's feature, and the sum of alpha T.
    With w the weights of ``rasterize``, sum(raster.channels * features) == sum(channels * lifted.features).
    Not differentiable. Arguments and errors are those of :func:`rasterize`.
    """
    _check_tensors(gaussians, viewmats=viewmats, Ks=Ks, features=features)
    height, width = _check_maps(features, "features", viewmats, 4)
    _check_cameras(viewmats, Ks, width, height)
    settings = _checked(Settings(
        width, height, rules or installed_rules(), antialiased=antialiased, near_plane=near_plane, far_plane=far_plane,
        eps2d=eps2d, radius_clip=radius_clip,
    ))  # fmt: skip
    module = load_backend(select_backend(gaussians.device, backend))
    with torch.no_grad():
        return module.lift(gaussians, viewmats, Ks, settings, features)


def coverage(
    gaussians: Gaussians,
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    *,
    antialiased: bool = False,
    backend: Optional[str] = None,
    rules: Optional[Rules] = None,
) -> Tensor:
    """How much of the pictures each splat makes up, in pixels: [N], the sum over pixels and cameras of alpha T.

    Near 0 for splats that are hidden, tiny or faint. Not differentiable. Arguments and errors are those of
    :func:`rasterize`.
    """
    width, height = _whole_number(width, "width"), _whole_number(height, "height")
    pixels = gaussians.means.new_ones(len(viewmats), height, width, 1)
    return lift(gaussians, viewmats, Ks, pixels, antialiased=antialiased, backend=backend, rules=rules).weights


def lift_ids(
    gaussians: Gaussians,
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    ids: Tensor,  # [C, H, W] integer, negative where a pixel has none
    *,
    n_ids: Optional[int] = None,
    antialiased: bool = False,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    radius_clip: float = 0.0,
    backend: Optional[str] = None,
    rules: Optional[Rules] = None,
) -> LiftedIds:
    """:func:`lift` of a one-hot map without writing the one-hot map: mask ids to sparse splat x id weights.

    Its cost does not depend on how wide the feature behind each id is: multiply the result with the table of
    features afterwards. Pixels with a negative id are left out. ``n_ids`` defaults to the largest id plus one.
    Not differentiable. Arguments and errors are those of :func:`rasterize`.
    """
    _check_tensors(gaussians, viewmats=viewmats, Ks=Ks, ids=ids)
    height, width = _check_maps(ids, "ids", viewmats, 3)
    _check_cameras(viewmats, Ks, width, height)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"ids must be integers, got {ids.dtype}.")
    ids = ids.to(torch.int64)
    largest = int(ids.max()) if ids.numel() else -1
    n_ids = largest + 1 if n_ids is None else _whole_number(n_ids, "n_ids")
    if largest >= n_ids:
        raise ValueError(f"ids holds {largest}, but n_ids={n_ids}.")
    if n_ids > MOST_IDS:
        raise ValueError(f"ids up to {n_ids - 1} are too many, {MOST_IDS} can be told apart. Number them anew from 0.")
    settings = _checked(Settings(
        width, height, rules or installed_rules(), antialiased=antialiased, near_plane=near_plane, far_plane=far_plane,
        eps2d=eps2d, radius_clip=radius_clip,
    ))  # fmt: skip
    module = load_backend(select_backend(gaussians.device, backend))
    with torch.no_grad():
        return module.lift_ids(gaussians, viewmats, Ks, settings, ids, n_ids)


def _whole_number(value: int, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be a whole number.") from None


def _check_tensors(gaussians: Gaussians, **tensors: Optional[Tensor]) -> None:
    """All of it are tensors, on the device of the Gaussians' means."""
    own = {f"Gaussians.{name}": value for name, value in vars(gaussians).items()}
    for name, tensor in (*own.items(), *tensors.items()):
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a torch tensor, got {type(tensor).__name__}.")
        if tensor.device != gaussians.device:
            raise ValueError(f"{name} is on '{tensor.device}', but the Gaussians are on '{gaussians.device}'.")


def _check_cameras(viewmats: Tensor, Ks: Tensor, width: int, height: int) -> None:
    """Shapes, and on the CPU values too: asking a GPU for them would make every training step wait for it."""
    if viewmats.ndim != 3 or viewmats.shape[0] < 1 or viewmats.shape[1:] != (4, 4):
        raise ValueError(f"viewmats has shape {tuple(viewmats.shape)}, expected [C, 4, 4] with at least one camera.")
    if Ks.shape != (viewmats.shape[0], 3, 3):
        raise ValueError(f"Ks has shape {tuple(Ks.shape)}, expected [{viewmats.shape[0]}, 3, 3].")
    if width < 1 or height < 1:
        raise ValueError(f"The image must have at least one pixel, got width={width}, height={height}.")
    if viewmats.device.type != "cpu":
        return
    for camera, (view, lens) in enumerate(zip(viewmats.detach().tolist(), Ks.detach().tolist(), strict=True)):
        _check_view(view, f"viewmats[{camera}]")
        _check_lens(lens, f"Ks[{camera}]")


def _check_view(rows: List[List[float]], name: str) -> None:
    if not all(math.isfinite(value) for row in rows for value in row):
        raise ValueError(f"{name} is not finite: {rows}.")
    if any(abs(value - expected) > 1e-3 for value, expected in zip(rows[3], (0, 0, 0, 1), strict=True)):
        raise ValueError(f"{name} is not a pose, its last row is {rows[3]} instead of 0 0 0 1.")
    (a, b, c), (d, e, f), (g, h, i) = (row[:3] for row in rows[:3])
    if abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)) < 1e-9:
        raise ValueError(f"{name} is not a pose, its rotation is singular.")


def _check_lens(rows: List[List[float]], name: str) -> None:
    if not all(math.isfinite(value) for row in rows for value in row):
        raise ValueError(f"{name} is not finite: {rows}.")
    (fx, skew, _), (shear, fy, _), last = rows
    if not (fx > 0 and fy > 0):
        raise ValueError(f"{name} has the focal lengths {fx} and {fy}, which must be above zero.")
    if max(abs(skew), abs(shear)) > 1e-4 * fx or any(abs(a - b) > 1e-4 for a, b in zip(last, (0, 0, 1), strict=True)):
        raise ValueError(
            f"{name} is not fx 0 cx, 0 fy cy, 0 0 1: splats are drawn through pinhole cameras without skew."
        )


def _checked(settings: Settings) -> Settings:
    """The same, where its numbers make sense."""
    near, far = settings.near_plane, settings.far_plane
    if not 0 < near < far:
        raise ValueError(f"near_plane={near} and far_plane={far} must be above zero, the far one farther.")
    for name in ("eps2d", "radius_clip"):
        if not 0 <= getattr(settings, name) < math.inf:
            raise ValueError(f"{name}={getattr(settings, name)} must be finite and not below zero.")
    return settings


def _choose_degree(gaussians: Gaussians, sh_degree: Optional[int]) -> Optional[int]:
    """The spherical harmonics degree to evaluate; None for plain colours."""
    if gaussians.sh is None:
        if sh_degree is not None:
            raise ValueError("sh_degree is given, but the Gaussians carry plain colors.")
        return None
    held = math.isqrt(gaussians.sh_bands) - 1
    if (held + 1) ** 2 != gaussians.sh_bands:
        raise ValueError(f"The Gaussians hold {gaussians.sh_bands} bands; a degree has 1, 4, 9 or 16 of them.")
    sh_degree = min(held, 3) if sh_degree is None else sh_degree
    if held < 0 or not 0 <= sh_degree <= min(held, 3):
        raise ValueError(
            f"sh_degree={sh_degree} asked for, but the Gaussians hold {gaussians.sh_bands} bands (degree {held}), and "
            f"degrees 0 to 3 can be drawn."
        )
    return sh_degree


def _check_maps(maps: Tensor, name: str, viewmats: Tensor, ndim: int) -> "tuple[int, int]":
    """Height and width of a map for every camera."""
    if maps.ndim != ndim or maps.shape[0] != viewmats.shape[0]:
        axes = "[C, H, W, D]" if ndim == 4 else "[C, H, W]"
        raise ValueError(f"{name} has shape {tuple(maps.shape)}, expected {axes} with C={viewmats.shape[0]}.")
    return maps.shape[1], maps.shape[2]


def _expand_background(value: Optional[Tensor], name: str, cameras: int, width: int) -> Optional[Tensor]:
    if value is None:
        return None
    if value.shape not in ((width,), (cameras, width)):
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected [{width}] or [{cameras}, {width}].")
    return value.expand(cameras, width)
