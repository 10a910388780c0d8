# SPDX-License-Identifier: Apache-2.0
"""The CPU backend: torch in front of the numba kernels in :mod:`nts_plugins.kernels`.

float32 only; other dtypes are cast on the way in and gradients on the way out. Results do not depend on the number of
threads, and several Python threads may draw at once.
"""

import math
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.kernels import blocks, composite, composite_gradient, harmonics, lifting, projection, tiles
from nts_plugins.kernels import records as entry_records
from nts_plugins.kernels.threads import run, thread_count
from nts_plugins.rasterization._types import Lifted, LiftedIds, Raster, Settings
from nts_plugins.rasterization.sh import camera_centres


def rasterize(
    gaussians: Gaussians,
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    settings: Settings,
    channels: Optional[Tensor] = None,  # [N, E] or [C, N, E]
    background: Optional[Tensor] = None,  # [C, D]
    channel_background: Optional[Tensor] = None,  # [C, E]
) -> Raster:
    """Draw; the arguments are those of :func:`nts_plugins.rasterization.rasterize`, already checked there."""
    gaussians, viewmats = gaussians.to(torch.float32), viewmats.to(torch.float32)
    views = [_project(gaussians, viewmats[c], Ks[c], settings) for c in range(viewmats.shape[0])]
    means2d = _batch([view.means2d for view in views])
    absgrad = torch.zeros_like(means2d) if settings.absgrad and means2d.requires_grad else None
    if absgrad is not None:
        means2d.absgrad = absgrad  # type: ignore[attr-defined]
    n_channels = 0 if channels is None else channels.shape[-1]
    widths = [gaussians.color_channels, n_channels, 0 if settings.depth is None else 1]
    pictures, alphas = [], []
    for c, view in enumerate(views):
        columns = [_view_colors(gaussians, viewmats[c], settings.sh_degree, view.radii)]
        if channels is not None:
            columns.append(channels[c] if channels.ndim == 3 else channels)
        if settings.depth is not None:
            columns.append(view.depths[:, None])
        values = torch.cat([column.to(torch.float32) for column in columns], dim=1) if len(columns) > 1 else columns[0]
        image, alpha = _Composite.apply(
            means2d[c],
            view.conics,
            view.opacities,
            values,
            _backdrop(widths, background, channel_background, c),
            view,
            settings,
            None if absgrad is None else absgrad[c],
        )
        pictures.append(image)
        alphas.append(alpha)
    alpha = _batch(alphas)[..., None]
    colors, extra, depth = _batch(pictures).split(widths, dim=-1)
    if settings.depth == "expected":
        depth = depth / alpha.clamp_min(1e-10)
    return Raster(
        colors=colors,
        alphas=alpha,
        depth=None if settings.depth is None else depth,
        channels=None if channels is None else extra,
        info=_info(views, means2d, settings),
    )


def lift(gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, settings: Settings, features: Tensor) -> Lifted:
    """Carry feature maps [C, H, W, D] back to the splats; see :func:`nts_plugins.rasterization.lift`."""
    gaussians, width = gaussians.detach().to(torch.float32), features.shape[-1]
    sums, weights = np.zeros(len(gaussians) * width, np.float32), np.zeros(len(gaussians), np.float32)
    for c in range(viewmats.shape[0]):
        view = _project(gaussians, viewmats[c].detach(), Ks[c], settings)
        lists = _tile_lists(view, settings)
        records = np.empty(len(lists.slots) * entry_records.whole_vectors(1 + width), np.float32)
        run(
            lifting.lift_maps, lists.local, lists.words, lists.slots, lists.offsets,
            settings.width, settings.height, _constants(settings), _flat(features[c]), width, records,
        )  # fmt: skip
        run(entry_records.gather_lifted, lists.first_slot, records, width, weights, sums)
    return Lifted(features=torch.from_numpy(sums).view(-1, width), weights=torch.from_numpy(weights))


def lift_ids(
    gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, settings: Settings, ids: Tensor, n_ids: int
) -> LiftedIds:
    """Carry id maps [C, H, W] back to the splats; see :func:`nts_plugins.rasterization.lift_ids`."""
    gaussians = gaussians.detach().to(torch.float32)
    parts = [
        _lift_view_ids(_project(gaussians, viewmats[c].detach(), Ks[c], settings), ids[c], settings)
        for c in range(viewmats.shape[0])
    ]
    if len(parts) == 1:
        splats, columns, weights = parts[0]
    else:
        keys = torch.cat([splats * n_ids + columns for splats, columns, _ in parts])
        unique, place = torch.unique(keys, return_inverse=True)
        weights = torch.zeros(len(unique)).index_add_(0, place, torch.cat([weights for _, _, weights in parts]))
        splats, columns = unique // max(n_ids, 1), unique % max(n_ids, 1)
    return LiftedIds(splats, columns, weights, n_splats=len(gaussians), n_ids=n_ids)


# --- projection and colour -----------------------------------------------------------------------------------------


class _View(NamedTuple):
    """N splats in the image plane of one camera; everything is zero for those that are not drawn."""

    radii: Tensor  # [N, 2] int32
    means2d: Tensor  # [N, 2]
    depths: Tensor  # [N]
    conics: Tensor  # [N, 3]
    opacities: Tensor  # [N]


def _project(gaussians: Gaussians, viewmat: Tensor, K: Tensor, settings: Settings) -> _View:
    means2d, depths, conics, opacities, radii = _Project.apply(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, viewmat, K.detach(), settings
    )
    return _View(radii, means2d, depths, conics, opacities)


def _camera_array(viewmat: Tensor, K: Tensor, settings: Settings) -> np.ndarray:
    """The camera as the projection kernels read it, see ``projection.CAMERA``."""
    pose = viewmat.detach()[:3].double().numpy().ravel()
    fx, fy, cx, cy = (float(K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    plain = [
        *(fx, fy, cx, cy, settings.width, settings.height, settings.near_plane, settings.far_plane),
        *(settings.eps2d, settings.radius_clip, settings.rules.alpha_min, float(settings.antialiased)),
    ]
    for focal, centre, size in ((fx, cx, settings.width), (fy, cy, settings.height)):
        margin = 0.15 * size / focal
        plain += [-centre / focal - margin, (size - centre) / focal + margin]
    return np.concatenate([pose, np.array(plain, np.float64)])


class _Project(torch.autograd.Function):
    """Differentiable with respect to means, quats, scales, opacities and viewmat."""

    @staticmethod
    def forward(ctx: Any, means, quats, scales, opacities, viewmat, K, settings):
        arrays = [_numpy(t) for t in (means, quats, scales, opacities)]
        camera = _camera_array(viewmat, K, settings)
        n = len(arrays[0])
        means2d, depths = np.empty((n, 2), np.float32), np.empty(n, np.float32)
        conics, seen = np.empty((n, 3), np.float32), np.empty(n, np.float32)
        radii = np.empty((n, 2), np.int32)
        rule = settings.rules.opacity_aware_extent
        run(projection.project_forward, *arrays, camera, rule, means2d, depths, conics, seen, radii)
        ctx.saved = (arrays, camera, radii)
        outputs = [torch.from_numpy(array) for array in (means2d, depths, conics, seen, radii)]
        ctx.mark_non_differentiable(outputs[-1])
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads):
        arrays, camera, radii = ctx.saved
        n = len(radii)
        incoming = [_numpy(grad) for grad in grads[:4]]
        outgoing = [np.empty_like(array) for array in arrays]
        pieces = np.zeros((max(1, math.ceil(n / projection.PIECE)), 12), np.float64)
        run(projection.project_backward, *arrays, camera, radii, *incoming, *outgoing, pieces)
        grad_viewmat = None
        if ctx.needs_input_grad[4]:
            grad_viewmat = torch.zeros(4, 4)
            grad_viewmat[:3] = torch.from_numpy(pieces.sum(axis=0).reshape(3, 4))
        return (*(torch.from_numpy(array) for array in outgoing), grad_viewmat, None, None)


def _view_colors(gaussians: Gaussians, viewmat: Tensor, degree: Optional[int], radii: Tensor) -> Tensor:
    """Colours [N, D] seen from one camera."""
    if gaussians.colors is not None:
        return gaussians.colors
    assert gaussians.sh is not None and degree is not None
    rest = gaussians.sh_rest
    if rest is not None and (degree + 1) ** 2 <= gaussians.sh.shape[1]:
        rest = None  # No band of it is read, so it gets no gradient either.
    return _Harmonics.apply(gaussians.means, camera_centres(viewmat[None])[0], gaussians.sh, rest, radii, degree)


class _Harmonics(torch.autograd.Function):
    """Differentiable with respect to means, the camera's centre and both parts of the coefficients."""

    @staticmethod
    def forward(ctx: Any, means, centre, first, rest, radii, degree):
        n, _, channels = first.shape
        rest_bands = 0 if rest is None else rest.shape[1]
        flat_rest = np.empty(0, np.float32) if rest is None else _flat(rest)
        inputs = (_numpy(means), _numpy(centre), _numpy(radii), _flat(first), first.shape[1], flat_rest, rest_bands)
        colors = np.empty(n * channels, np.float32)
        run(harmonics.colors_forward(channels), *inputs, channels, degree, colors)
        ctx.saved = (inputs, channels, degree, colors)
        return torch.from_numpy(colors).view(n, channels)

    @staticmethod
    def backward(ctx: Any, grad_colors):
        inputs, channels, degree, colors = ctx.saved
        means, _, _, first, first_bands, rest, rest_bands = inputs
        n = len(means)
        grad_first, grad_rest, grad_means = np.empty_like(first), np.empty_like(rest), np.empty_like(means)
        pieces = np.zeros((max(1, math.ceil(n / harmonics.PIECE)), 3), np.float64)
        run(
            harmonics.colors_backward(channels), *inputs, channels, degree, colors, _flat(grad_colors),
            grad_first, grad_rest, grad_means, pieces,
        )  # fmt: skip
        return (
            torch.from_numpy(grad_means),
            torch.from_numpy(pieces.sum(axis=0).astype(np.float32)),
            torch.from_numpy(grad_first).view(n, first_bands, channels),
            torch.from_numpy(grad_rest).view(n, rest_bands, channels) if rest_bands else None,
            None,
            None,
        )


# --- compositing ---------------------------------------------------------------------------------------------------


class _TileLists(NamedTuple):
    """The splats of each tile, nearest first, see ``kernels.tiles``: M entries in T tiles."""

    offsets: np.ndarray  # [T + 1]
    local: np.ndarray  # [M * LOCAL] float32
    words: np.ndarray  # the same memory as int32
    slots: np.ndarray  # [M]
    first_slot: np.ndarray  # [N + 1]


def _tile_lists(view: _View, settings: Settings) -> _TileLists:
    n, (columns, rows) = len(view.radii), _tile_grid(settings)
    packed = np.empty(n * tiles.PACKED, np.float64)
    rects, areas = np.empty((n, 4), np.int32), np.empty(n, np.int32)
    arrays = [_numpy(t) for t in (view.means2d, view.conics, view.opacities, view.radii)]
    run(tiles.bound_splats, *arrays, settings.width, settings.height, packed, rects, areas)
    first_mask = _running_sums(areas)
    masks, touched, order = np.empty(first_mask[-1], np.int32), np.empty(n, np.int64), np.empty(n, np.int32)
    tile_counts = np.zeros(columns * rows, np.int64)
    run(
        tiles.mask_and_sort, packed, rects, first_mask, _numpy(view.depths), columns,
        masks, touched, tile_counts, order,
    )  # fmt: skip
    first_slot, offsets = _running_sums(touched), _running_sums(tile_counts)
    local, slots = np.empty(offsets[-1] * tiles.LOCAL, np.float32), np.empty(offsets[-1], np.int32)
    words = local.view(np.int32)
    # Every piece walks through all splats: no more pieces than keep the threads busy to the end.
    pieces = 1 if thread_count() == 1 else 4 * thread_count()
    run(
        tiles.fill_tiles, packed, rects, first_mask, masks, first_slot, order, np.count_nonzero(areas),
        columns, rows, math.ceil(rows / pieces), offsets, local, words, slots,
    )  # fmt: skip
    return _TileLists(offsets, local, words, slots, first_slot)


def _running_sums(counts: np.ndarray) -> np.ndarray:
    """[K + 1] int64: 0, then the sum of the first, of the first two, ... of K counts."""
    sums = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=sums[1:])
    return sums


def _tile_grid(settings: Settings) -> Tuple[int, int]:
    return math.ceil(settings.width / tiles.TILE), math.ceil(settings.height / tiles.TILE)


def _constants(settings: Settings) -> np.ndarray:
    rules = settings.rules
    return blocks.compositing_constants(rules.alpha_cap, rules.alpha_min, rules.transmittance_stop)


class _Composite(torch.autograd.Function):
    """Differentiable with respect to means2d, conics, opacities, values and background."""

    @staticmethod
    def forward(ctx: Any, means2d, conics, opacities, values, background, view, settings, absgrad):
        width, height, channels = settings.width, settings.height, values.shape[1]
        lists = _tile_lists(view, settings)
        flat_values = _flat(values)
        backdrop = np.zeros(channels, np.float32) if background is None else _numpy(background)
        image, behind = np.empty(height * width * channels, np.float32), np.empty(height * width, np.float32)
        used = np.zeros(len(lists.offsets) - 1, np.int64)
        run(
            composite.composite_forward, lists.local, lists.words, lists.offsets, flat_values, channels, width, height,
            backdrop, _constants(settings), image, behind, used,
        )  # fmt: skip
        ctx.saved = (lists, _flat(means2d), _numpy(opacities), flat_values, backdrop, used, behind)
        ctx.shape, ctx.settings, ctx.absgrad = (height, width, channels), settings, absgrad
        return torch.from_numpy(image).view(height, width, channels), 1.0 - torch.from_numpy(behind).view(height, width)

    @staticmethod
    def backward(ctx: Any, grad_image, grad_alphas):
        lists, means2d, opacities, values, backdrop, used, behind = ctx.saved
        height, width, channels = ctx.shape
        n, size = len(opacities), entry_records.RECORD + entry_records.whole_vectors(channels)
        records = np.empty(len(lists.slots) * size, np.float32)
        run(
            composite_gradient.composite_backward, lists.local, lists.words, lists.slots, lists.offsets, used, means2d,
            values, channels, width, height, backdrop, _constants(ctx.settings), _flat(grad_image), _flat(grad_alphas),
            records,
        )  # fmt: skip
        grad_means2d, grad_abs, grad_conics = (np.empty((n, columns), np.float32) for columns in (2, 2, 3))
        grad_opacities, grad_values = np.empty(n, np.float32), np.empty(n * channels, np.float32)
        run(
            entry_records.gather_gradients, lists.first_slot, records, opacities, channels,
            grad_means2d, grad_abs, grad_conics, grad_opacities, grad_values,
        )  # fmt: skip
        if ctx.absgrad is not None:
            ctx.absgrad += torch.from_numpy(grad_abs)
        grad_background = None
        if ctx.needs_input_grad[4]:
            grad_background = torch.from_numpy(behind) @ grad_image.reshape(-1, channels)
        by_splat = (torch.from_numpy(array) for array in (grad_means2d, grad_conics, grad_opacities))
        return (*by_splat, torch.from_numpy(grad_values).view(n, channels), grad_background, None, None, None)


def _backdrop(
    widths: List[int], background: Optional[Tensor], channel_background: Optional[Tensor], camera: int
) -> Optional[Tensor]:
    """One background for colours, channels and depth together; None where all of it is black."""
    if background is None and channel_background is None:
        return None
    given = [background, channel_background, None]
    parts = [
        torch.zeros(width) if value is None else value[camera].to(torch.float32)
        for width, value in zip(widths, given, strict=True)
    ]
    return torch.cat(parts)


# --- lifting ids ---------------------------------------------------------------------------------------------------


def _lift_view_ids(view: _View, ids: Tensor, settings: Settings) -> Tuple[Tensor, Tensor, Tensor]:
    """Splats, ids and weights of one camera, sorted by splat, then by id."""
    lists, width, height = _tile_lists(view, settings), settings.width, settings.height
    flat_ids = ids.detach().to(torch.int64).contiguous().view(-1).numpy()
    n_tiles, n_entries, n = len(lists.offsets) - 1, len(lists.slots), len(lists.first_slot) - 1
    counts = np.zeros(n_tiles, np.int64)
    run(lifting.count_tile_ids, flat_ids, width, height, counts)
    first_cell = np.concatenate([[0], np.cumsum(np.diff(lists.offsets) * counts)])
    cells = np.empty(first_cell[-1], np.float32)
    slot_cell, slot_tile = np.empty(n_entries, np.int64), np.empty(n_entries, np.int32)
    tile_ids = np.empty(n_tiles * tiles.TILE * tiles.TILE, np.int64)
    run(
        lifting.lift_tile_ids, lists.local, lists.words, lists.slots, lists.offsets, width, height,
        _constants(settings), flat_ids, counts, first_cell, slot_cell, slot_tile, tile_ids, cells,
    )  # fmt: skip
    room = np.concatenate([[0], np.cumsum(counts[slot_tile])])[lists.first_slot]
    out_ids, out_weights = np.empty(room[-1], np.int64), np.empty(room[-1], np.float32)
    kept = np.zeros(n, np.int64)
    run(
        lifting.merge_ids, lists.first_slot, slot_cell, slot_tile, counts, tile_ids, cells,
        room, out_ids, out_weights, kept,
    )  # fmt: skip
    splats = np.repeat(np.arange(n), kept)
    places = np.arange(len(splats)) + np.repeat(room[:-1] - (np.cumsum(kept) - kept), kept)
    return torch.from_numpy(splats), torch.from_numpy(out_ids[places]), torch.from_numpy(out_weights[places])


# --- shared --------------------------------------------------------------------------------------------------------


def _batch(tensors: List[Tensor]) -> Tensor:
    """The tensors of all cameras, stacked; that of a single camera as it is, since copies cost as much as kernels."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)


def _numpy(tensor: Tensor) -> np.ndarray:
    """The tensor as a contiguous array; floats as float32."""
    tensor = tensor.detach()
    return (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).contiguous().numpy()


def _flat(tensor: Tensor) -> np.ndarray:
    return _numpy(tensor).reshape(-1)


def _info(views: List[_View], means2d: Tensor, settings: Settings) -> Dict[str, Any]:
    """The record that gsplat's strategies read, with ``radii`` in the shape of the rules' gsplat version."""
    radii = _batch([view.radii for view in views])
    columns, rows = _tile_grid(settings)
    return {
        "means2d": means2d,
        "radii": radii if settings.rules.radii_per_axis else radii.amax(dim=-1),
        "depths": _batch([view.depths for view in views]),
        "conics": _batch([view.conics for view in views]),
        "opacities": _batch([view.opacities for view in views]),
        "gaussian_ids": None,
        "camera_ids": None,
        "width": settings.width,
        "height": settings.height,
        "n_cameras": len(views),
        "tile_size": settings.rules.tile_size,
        "tile_width": columns,
        "tile_height": rows,
    }
