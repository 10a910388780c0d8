# SPDX-License-Identifier: Apache-2.0
"""Second stage of the CPU backend: the splats of every tile, and the pictures that they make, front to back."""

import functools
import math
from typing import Any, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from nts_plugins.kernels import blocks, composite, composite_gradient, tiles
from nts_plugins.kernels import records as entry_records
from nts_plugins.kernels.gradients import once_differentiable
from nts_plugins.kernels.threads import run, thread_count
from nts_plugins.rasterization._cpu_projection import View, as_array, flat
from nts_plugins.rasterization._types import Rules, Settings


class TileLists(NamedTuple):
    """The splats of each tile, nearest first, see ``kernels.tiles``: M entries in T tiles."""

    offsets: np.ndarray  # [T + 1]
    local: np.ndarray  # [M * LOCAL] float32
    words: np.ndarray  # the same memory as int32
    slots: np.ndarray  # [M]
    first_slot: np.ndarray  # [N + 1]


def tile_lists(view: View, settings: Settings) -> TileLists:
    n, (columns, rows) = len(view.radii), tile_grid(settings)
    packed = np.empty(n * tiles.PACKED, np.float64)
    rects, areas = np.empty((n, 4), np.int32), np.empty(n, np.int32)
    arrays = view.centres.numpy(), view.conics.detach().numpy(), as_array(view.opacities), as_array(view.radii)
    run(tiles.bound_splats, *arrays, settings.width, settings.height, packed, rects, areas)
    first_mask = running_sums(areas)
    masks, touched = np.empty(first_mask[-1], np.int32), np.empty(n, np.int64)
    order, spans = np.empty(n, np.int32), np.empty((n, 2), np.int32)
    tile_counts = np.zeros(columns * rows, np.int64)
    run(
        tiles.mask_and_sort, packed, rects, first_mask, as_array(view.depths), columns,
        masks, touched, tile_counts, order, spans,
    )  # fmt: skip
    first_slot, offsets = running_sums(touched), running_sums(tile_counts)
    local, slots = np.empty(offsets[-1] * tiles.LOCAL, np.float32), np.empty(offsets[-1], np.int32)
    words = local.view(np.int32)
    # Every piece walks through all splats: no more pieces than keep the threads busy to the end.
    pieces = 1 if thread_count() == 1 else 3 * thread_count()
    run(
        tiles.fill_tiles, packed, rects, first_mask, masks, first_slot, order, spans, np.count_nonzero(areas),
        columns, rows, math.ceil(rows / pieces), offsets, local, words, slots,
    )  # fmt: skip
    return TileLists(offsets, local, words, slots, first_slot)


def running_sums(counts: np.ndarray) -> np.ndarray:
    """[K + 1] int64: 0, then the sum of the first, of the first two, ... of K counts."""
    sums = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=sums[1:])
    return sums


def tile_grid(settings: Settings) -> Tuple[int, int]:
    return math.ceil(settings.width / tiles.TILE), math.ceil(settings.height / tiles.TILE)


@functools.lru_cache
def constants(rules: Rules) -> np.ndarray:
    return blocks.compositing_constants(rules.alpha_cap, rules.alpha_min, rules.transmittance_stop)


class Composite(torch.autograd.Function):
    """Differentiable with respect to means2d, conics, opacities, values and background, and to vectors, planes and rays
    of the skin, which are None where no splat has a texture."""

    @staticmethod
    def forward(
        ctx: Any, means2d, conics, opacities, values, background, vectors, planes, rays, lists, settings, absgrad, skin
    ):
        width, height, channels = settings.width, settings.height, values.shape[1]
        backdrop = flat_backdrop(background, channels)
        image, behind = np.empty(height * width * channels, np.float32), np.empty(height * width, np.float32)
        used = np.zeros(len(lists.offsets) - 1, np.int64)
        drawn = (
            *(lists.local, lists.words, lists.offsets, flat(values), channels, width, height),
            *(backdrop, constants(settings.rules)),
        )
        if skin is None:
            run(composite.composite_forward, *drawn, image, behind, used)
        else:
            run(skin.forward_kernel, *drawn, *skin.arrays(vectors, planes, rays), image, behind, used)
        # Through torch, which then finds out when one of them is changed before the gradient is asked for.
        ctx.save_for_backward(conics, opacities, values, background, vectors, planes, rays)
        ctx.drawn = (lists, used, behind)
        ctx.shape, ctx.settings, ctx.absgrad, ctx.skin = (height, width, channels), settings, absgrad, skin
        return torch.from_numpy(image).view(height, width, channels), 1.0 - torch.from_numpy(behind).view(height, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_image, grad_alphas):
        conics, opacities, values, background, *texture = ctx.saved_tensors
        conics, opacities = conics.detach().numpy(), as_array(opacities)
        lists, used, behind = ctx.drawn
        height, width, channels = ctx.shape
        n, size = len(opacities), entry_records.RECORD + entry_records.whole_vectors(channels, 4)
        records = np.empty(len(lists.slots) * size, np.float32)
        drawn = (
            *(lists.local, lists.words, lists.slots, lists.offsets, used, flat(values), channels, width, height),
            *(flat_backdrop(background, channels), constants(ctx.settings.rules)),
        )
        incoming, of_texture = (flat(grad_image), flat(grad_alphas)), (None, None, None)
        if ctx.skin is None:
            run(composite_gradient.composite_backward, *drawn, *incoming, records)
        else:
            of_texture = ctx.skin.pull_back(texture, drawn, lists.first_slot, incoming, records)
        grad_means2d, grad_abs = np.empty((n, 2), np.float32), np.empty((n, 2), np.float32)
        grad_conics = np.empty((n, 3), np.float64)
        grad_opacities, grad_values = np.empty(n, np.float32), np.empty(n * channels, np.float32)
        run(
            entry_records.gather_gradients, lists.first_slot, records, conics, opacities, channels,
            grad_means2d, grad_abs, grad_conics, grad_opacities, grad_values,
        )  # fmt: skip
        if ctx.absgrad is not None:
            ctx.absgrad += torch.from_numpy(grad_abs)
        grad_background = None
        if ctx.needs_input_grad[4]:
            # Not through BLAS, whose sums depend on the number of threads on some machines.
            pixels = grad_image.reshape(-1, channels).numpy()
            summed = np.einsum("p,pc->c", behind, pixels, dtype=np.float64)
            grad_background = torch.from_numpy(summed.astype(np.float32))
        by_splat = (torch.from_numpy(array) for array in (grad_means2d, grad_conics, grad_opacities))
        grad_values = torch.from_numpy(grad_values).view(n, channels)
        return (*by_splat, grad_values, grad_background, *of_texture, None, None, None, None)


def flat_backdrop(background: Optional[Tensor], channels: int) -> np.ndarray:
    """The background of all channels, black where none is given."""
    return np.zeros(channels, np.float32) if background is None else as_array(background)
