# SPDX-License-Identifier: Apache-2.0
"""The CPU backend: torch in front of the numba kernels in :mod:`nts_plugins.kernels`.

float32 only; other dtypes are cast on the way in and gradients on the way out. Results do not depend on the number of
threads, and several Python threads may draw at once.
"""

import functools
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.kernels import lifting, tiles
from nts_plugins.kernels import records as entry_records
from nts_plugins.kernels.threads import run
from nts_plugins.rasterization._cpu_composite import (
    Composite,
    TileLists,
    constants,
    running_sums,
    tile_grid,
    tile_lists,
)
from nts_plugins.rasterization._cpu_projection import View, flat, project, view_colors
from nts_plugins.rasterization._cpu_textures import texture_inputs
from nts_plugins.rasterization._types import Lifted, LiftedIds, Raster, Settings
from nts_plugins.rasterization.textures import Seen, TextureSource, textures_of


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
    """Draw; the arguments are those of :func:`nts_plugins.rasterization.rasterize`, already checked there."""
    gaussians, viewmats = gaussians.to(torch.float32), viewmats.to(torch.float32)
    views = [project(gaussians, viewmats[c], Ks[c], settings) for c in range(viewmats.shape[0])]
    means2d = _batch([view.means2d for view in views])
    absgrad = torch.zeros_like(means2d) if settings.absgrad and means2d.requires_grad else None
    if absgrad is not None:
        means2d.absgrad = absgrad  # type: ignore[attr-defined]
    n_channels = 0 if channels is None else channels.shape[-1]
    widths = [gaussians.color_channels, n_channels, 0 if settings.depth is None else 1]
    pictures, alphas = [], []
    for c, view in enumerate(views):
        columns = [view_colors(gaussians, viewmats[c], settings.sh_degree, view.radii)]
        if channels is not None:
            columns.append(channels[c] if channels.ndim == 3 else channels)
        if settings.depth is not None:
            columns.append(view.depths[:, None])
        values = torch.cat([column.to(torch.float32) for column in columns], dim=1) if len(columns) > 1 else columns[0]
        lists = tile_lists(view, settings)
        seen = Seen(view.radii, functools.partial(_coverage, lists, settings))
        texture, skin = texture_inputs(textures_of(textures, seen), gaussians, viewmats[c], Ks[c])
        image, alpha = Composite.apply(
            means2d[c],
            view.conics,
            view.opacities,
            values,
            _backdrop(widths, background, channel_background, c),
            *texture,
            lists,
            settings,
            None if absgrad is None else absgrad[c],
            skin,
        )
        pictures.append(image)
        alphas.append(alpha)
    alpha = _batch(alphas)[..., None]
    colors, extra, depth = _batch(pictures), None, None
    if channels is not None or settings.depth is not None:
        # Not for colours alone: the gradient of splitting copies all pixels.
        colors, extra, depth = colors.split(widths, dim=-1)
    if depth is not None and settings.depth == "expected":
        depth = depth / alpha.clamp_min(1e-10)
    return Raster(
        colors=colors,
        alphas=alpha,
        depth=None if settings.depth is None else depth,
        channels=None if channels is None else extra,
        info=_info(views, means2d, settings),
    )


def lift(gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, settings: Settings, features: Tensor) -> Lifted:
    """Carry feature maps [C, H, W, D], C > 0, back to the splats; see :func:`nts_plugins.rasterization.lift`."""
    gaussians, width = gaussians.detach().to(torch.float32), features.shape[-1]
    sums, weights = np.empty(len(gaussians) * width, np.float32), np.empty(len(gaussians), np.float32)
    records = np.empty(0, np.float32)
    for c in range(viewmats.shape[0]):
        lists = tile_lists(project(gaussians, viewmats[c].detach(), Ks[c], settings), settings)
        records = _lift_view(lists, settings, flat(features[c].to(torch.float32)), records, c == 0, sums, weights)
    return Lifted(features=torch.from_numpy(sums).view(len(gaussians), width), weights=torch.from_numpy(weights))


def _lift_view(
    lists: TileLists,
    settings: Settings,
    features: np.ndarray,
    room: np.ndarray,
    fresh: bool,
    sums: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """Add one camera's part to sums and weights; with ``fresh``, write it to them, whatever they hold. Returns the
    memory that records went to, for the next camera's: new memory would be cleared by the system first, a twentieth of
    the time."""
    n, m = len(weights), len(lists.slots)
    width, (columns, rows) = len(sums) // max(1, n), tile_grid(settings)
    slot_square, steps, further = np.empty(m, np.int32), np.empty(m, np.int32), np.empty(n, np.int64)
    edge = lifting.square_edge(columns, rows)
    run(lifting.locate_slots, lists.slots, lists.offsets, columns, edge, slot_square)
    run(lifting.number_squares, lists.first_slot, slot_square, lifting.squares_of(columns, rows, edge), steps, further)
    first_record = running_sums(further)
    size = int(first_record[-1]) * entry_records.whole_vectors(1 + width, 4)
    records = room if len(room) >= size else np.empty(size, np.float32)
    run(
        lifting.lift_maps, lists.local, lists.words, lists.slots, lists.offsets, edge, steps, first_record,
        settings.width, settings.height, constants(settings.rules), features, width, fresh, records, sums, weights,
    )  # fmt: skip
    run(entry_records.gather_lifted, lists.first_slot, first_record, records, width, fresh, sums, weights)
    return records


def _coverage(lists: TileLists, settings: Settings) -> Tensor:
    """How much of a camera's picture each splat makes up: lifting a map of no features leaves the weights."""
    nothing, weights = np.empty(0, np.float32), np.empty(len(lists.first_slot) - 1, np.float32)
    _lift_view(lists, settings, nothing, nothing, True, nothing, weights)
    return torch.from_numpy(weights)


def lift_ids(
    gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, settings: Settings, ids: Tensor, n_ids: int
) -> LiftedIds:
    """Carry id maps [C, H, W] back to the splats; see :func:`nts_plugins.rasterization.lift_ids`."""
    gaussians = gaussians.detach().to(torch.float32)
    parts = [
        _lift_view_ids(project(gaussians, viewmats[c].detach(), Ks[c], settings), ids[c], settings)
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


def _lift_view_ids(view: View, ids: Tensor, settings: Settings) -> Tuple[Tensor, Tensor, Tensor]:
    """Splats, ids and weights of one camera, sorted by splat, then by id."""
    lists, width, height = tile_lists(view, settings), settings.width, settings.height
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
        constants(settings.rules), flat_ids, counts, first_cell, slot_cell, slot_tile, tile_ids, cells,
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


def _info(views: List[View], means2d: Tensor, settings: Settings) -> Dict[str, Any]:
    """The record that gsplat's strategies read, with ``radii`` in the shape of the rules' gsplat version."""
    radii = _batch([view.radii for view in views])
    columns, rows = tile_grid(settings)
    return {
        "means2d": means2d,
        "radii": radii if settings.rules.radii_per_axis else torch.maximum(*radii.unbind(dim=-1)),
        "depths": _batch([view.depths for view in views]),
        "conics": _batch([view.conics.to(torch.float32) for view in views]),
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
