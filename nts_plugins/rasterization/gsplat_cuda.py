# SPDX-License-Identifier: Apache-2.0
"""rasterize, lift and lift_ids on CUDA, through gsplat's public functions (1.4 and 1.5). It computes in float32.

Everything a pixel can show goes through one call of ``gsplat.rendering.rasterization``: colours are evaluated first and
joined with the further channels, and depth rides along as gsplat's own last channel. ``lift`` is the gradient of that
call with respect to the joined values, which is the sum of alpha T times the upstream map. gsplat's backward kernel
finds T by dividing its way to the front, so in opaque pixels the weights are off by up to some 1e-4 of themselves.
"""

import functools
import importlib
from typing import Any, Dict, List, Literal, Optional, Tuple

import gsplat
import gsplat.rendering
import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import reference, sh
from nts_plugins.rasterization._backends import BackendUnavailable
from nts_plugins.rasterization._types import Lifted, LiftedIds, Raster, Settings
from nts_plugins.rasterization.rules import installed_rules
from nts_plugins.rasterization.textures import TextureSource

_WIDTHS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513)
"""Numbers of channels for which gsplat compiles its kernels; it pads others to the next power of two."""

_SMALLEST_SHARED_MEMORY = 99 * 1024
"""Bytes that a block of any GPU since Ampere may use, for versions of torch that cannot tell."""

_RenderMode = Literal["RGB", "RGB+D", "RGB+ED"]
_RENDER_MODES: Dict[Optional[str], _RenderMode] = {None: "RGB", "accumulated": "RGB+D", "expected": "RGB+ED"}

_IDS_AT_ONCE = 31
"""Columns of the one-hot map that go through one lift, which adds a column: 32 is a width without padding."""


def rasterize(
    gaussians: Gaussians,
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    settings: Settings,
    channels: Optional[Tensor] = None,  # [N, E] or [C, N, E]
    background: Optional[Tensor] = None,  # [C, D]
    channel_background: Optional[Tensor] = None,  # [C, E]
    textures: Optional[TextureSource] = None,
) -> Raster:
    """Draw; the arguments are those of :func:`nts_plugins.rasterization.rasterize`, already checked there.

    Raises:
        BackendUnavailable: when gsplat's CUDA extension, or Triton for textures, is missing, or other rules than its
            own are asked for.
        ValueError: when ``absgrad`` is asked for with more channels than fit into one pass on this GPU.
    """
    gaussians, viewmats = gaussians.to(torch.float32), viewmats.float()
    if len(gaussians) == 0:
        # There is nothing to launch a kernel on, and the background alone costs nothing.
        return reference.rasterize(gaussians, viewmats, Ks, settings, channels, background, channel_background)
    _require(settings)
    values, color_width = _view_colors(gaussians, viewmats, settings.sh_degree), gaussians.color_channels
    if channels is not None:
        channels = channels.float()
        if values.ndim != channels.ndim:
            cameras = viewmats.shape[0]
            values, channels = (part.expand(cameras, *part.shape[-2:]) for part in (values, channels))
        values = torch.cat([values, channels], dim=-1)
    backgrounds = _join_backgrounds(values, background, channel_background, color_width)
    if textures is None:
        pictures, alphas, info = _draw(gaussians, values, viewmats, Ks, settings, backgrounds)
    else:
        drawn = _textured().draw(gaussians, values, viewmats, Ks, settings, backgrounds, textures, lift)
        pictures, alphas, info = drawn
    return Raster(
        colors=pictures[..., :color_width],
        alphas=alphas,
        depth=None if settings.depth is None else pictures[..., -1:],
        channels=None if channels is None else pictures[..., color_width : values.shape[-1]],
        info=info,
    )


def lift(gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, settings: Settings, features: Tensor) -> Lifted:
    """Carry feature maps [C, H, W, D] back to the splats; see :func:`nts_plugins.rasterization.lift`."""
    gaussians = gaussians.detach().to(torch.float32)
    if len(gaussians) == 0:
        return Lifted(features.new_zeros((0, features.shape[-1]), dtype=torch.float32), gaussians.opacities)
    # Whatever the caller has switched off: this needs a graph, and tensors of inference mode cannot be part of one.
    _require(settings)
    with torch.inference_mode(False), torch.enable_grad():
        gaussians = gaussians.map(torch.clone)
        ones = torch.ones((*features.shape[:-1], 1), device=features.device)
        maps = torch.cat([features.detach().float(), ones], dim=-1)
        values = torch.zeros(len(gaussians), maps.shape[-1], device=gaussians.device, requires_grad=True)
        pictures, _, _ = _draw(gaussians, values, viewmats.detach().float().clone(), Ks.clone(), settings, None)
        (sums,) = torch.autograd.grad(pictures, values, maps)
    return Lifted(features=sums[:, :-1], weights=sums[:, -1])


def lift_ids(
    gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, settings: Settings, ids: Tensor, n_ids: int
) -> LiftedIds:
    """Carry id maps [C, H, W] back to the splats; see :func:`nts_plugins.rasterization.lift_ids`.

    A few columns of the one-hot map at a time, and only those of ids that the camera sees. gsplat can also list the
    splats of every pixel, but only all at once: in several rounds it forgets which pixels had already stopped.
    """
    ids = ids.long()
    keys: List[Tensor] = [ids.new_zeros(0)]
    parts: List[Tensor] = [gaussians.means.new_zeros(0, dtype=torch.float32)]
    for camera in range(ids.shape[0]):
        view = slice(camera, camera + 1)
        seen = torch.unique(ids[camera])
        for chunk in seen[seen >= 0].split(_IDS_AT_ONCE):
            one_hot = (ids[view, ..., None] == chunk).float()
            table = lift(gaussians, viewmats[view], Ks[view], settings, one_hot).features
            splats, columns = table.nonzero(as_tuple=True)
            keys.append(splats * n_ids + chunk[columns])
            parts.append(table[splats, columns])
    unique, position = torch.unique(torch.cat(keys), return_inverse=True)
    weights = parts[0].new_zeros(len(unique)).index_add_(0, position, torch.cat(parts))
    columns = max(n_ids, 1)
    return LiftedIds(unique // columns, unique % columns, weights, n_splats=len(gaussians), n_ids=n_ids)


def _textured() -> Any:
    """The module that draws textures.

    Raises:
        BackendUnavailable: where Triton is missing, which comes with torch for Linux and not with every other torch.
    """
    try:
        return importlib.import_module("nts_plugins.rasterization._gsplat_textured")
    except ImportError as error:
        raise BackendUnavailable(
            "Textures on a GPU are drawn by Triton kernels, and Triton is not installed. Install the package triton, "
            "or choose the backend 'reference', which is slow."
        ) from error


def _require(settings: Settings) -> None:
    """gsplat's extension is there, and its rules are those asked for.

    Raises:
        BackendUnavailable: where that is not so.
    """
    _require_extension()
    if settings.rules != installed_rules():
        raise BackendUnavailable(
            f"The gsplat backend draws by the installed gsplat's rules ({installed_rules().name}), not by "
            f"{settings.rules.name}. Leave rules unset, or choose the backend 'reference'."
        )


def _draw(
    gaussians: Gaussians,
    values: Tensor,  # [N, W] or [C, N, W]
    viewmats: Tensor,
    Ks: Tensor,
    settings: Settings,
    backgrounds: Optional[Tensor],  # [C, W]
) -> Tuple[Tensor, Tensor, Dict[str, Any]]:
    """Values [C, H, W, W'] (with depth as the last one when asked for), alphas [C, H, W, 1] and gsplat's record."""
    width = values.shape[-1] + (settings.depth is not None)
    widest = _widest_pass(gaussians.device)
    if settings.absgrad and width > widest:
        raise ValueError(
            f"absgrad needs all channels in one pass, which holds {widest} on this GPU; {width} are asked for. "
            f"Draw the further channels in a call of their own without absgrad."
        )
    return gsplat.rendering.rasterization(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=values,
        viewmats=viewmats,
        Ks=Ks.detach().float(),
        width=settings.width,
        height=settings.height,
        near_plane=settings.near_plane,
        far_plane=settings.far_plane,
        radius_clip=settings.radius_clip,
        eps2d=settings.eps2d,
        packed=False,
        tile_size=settings.rules.tile_size,
        backgrounds=backgrounds,
        render_mode=_RENDER_MODES[settings.depth],
        absgrad=settings.absgrad,
        rasterize_mode="antialiased" if settings.antialiased else "classic",
        channel_chunk=max(width if width <= widest else _power_of_two(widest), 1),
    )


def _view_colors(gaussians: Gaussians, viewmats: Tensor, sh_degree: Optional[int]) -> Tensor:
    """Colours [N, D] or [C, N, D], with gsplat's kernel for the three channels that it is made for."""
    if gaussians.colors is not None:
        return gaussians.colors
    assert sh_degree is not None
    if gaussians.color_channels != 3:
        everything = torch.ones(viewmats.shape[0], len(gaussians), dtype=torch.bool, device=gaussians.device)
        return sh.view_colors(gaussians, viewmats, sh_degree, everything)
    directions = sh.view_directions(gaussians, viewmats)
    coefficients = sh.coefficients(gaussians).expand(viewmats.shape[0], -1, -1, -1)
    # A splat exactly at the camera has no direction. It is never drawn, but its gradient would be 0 / 0.
    elsewhere = (directions != 0).any(dim=-1)
    return (gsplat.spherical_harmonics(sh_degree, directions, coefficients, masks=elsewhere) + 0.5).clamp_min(0.0)


def _join_backgrounds(
    values: Tensor, background: Optional[Tensor], channel_background: Optional[Tensor], color_width: int
) -> Optional[Tensor]:
    """Backgrounds [C, W] of colours and channels together, black where one is not given; None where neither is."""
    given = background if background is not None else channel_background
    if given is None:
        return None
    widths = (color_width, values.shape[-1] - color_width)
    parts = [
        given.new_zeros(given.shape[0], width) if part is None else part
        for part, width in zip((background, channel_background), widths, strict=True)
    ]
    return torch.cat(parts, dim=-1).float()


def _widest_pass(device: torch.device) -> int:
    """Most channels that gsplat's backward kernel can take at once: it keeps a tile of splats in shared memory."""
    shared = _SMALLEST_SHARED_MEMORY
    if device.type == "cuda":
        shared = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", shared)
    # Per splat of the tile: index, centre, opacity and conic, and its values, four bytes each. Widths between two of
    # the list are padded to the next power of two, which is in the list as well.
    return max(width for width in _WIDTHS if 16 * 16 * 4 * (7 + width) <= shared)


def _power_of_two(width: int) -> int:
    """The largest power of two that is not above ``width``."""
    return 1 << (width.bit_length() - 1)


@functools.lru_cache(maxsize=1)
def _require_extension() -> None:
    """Load gsplat's CUDA extension, which gsplat compiles once on first use.

    Raises:
        BackendUnavailable: when it can neither be loaded nor compiled.
    """
    # Importing this module is what compiles; where there is no compiler it sets None, where one fails it raises.
    try:
        extension, cause = importlib.import_module("gsplat.cuda._backend")._C, None
    except (ImportError, OSError, RuntimeError) as error:
        extension, cause = None, error
    if extension is None:
        raise BackendUnavailable(
            "gsplat's CUDA extension can neither be loaded nor compiled: install the CUDA toolkit (nvcc, CUDA_HOME) of "
            "your torch's CUDA version, or a gsplat wheel built for this torch. `nts doctor` says more."
        ) from cause
