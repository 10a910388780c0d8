# SPDX-License-Identifier: Apache-2.0
"""Compositing of splats with local textures on a GPU, in Triton: nobody needs a compiler of CUDA.

One program draws a tile of 16 x 16 pixels, a pixel a lane, and walks through the tile's splats in depth order. In the
gradient everything is added to the splats by atomic operations, so that last bits depend on the order of tiles.
"""

from typing import Any, NamedTuple, Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from nts_plugins.rasterization._triton_textures import (
    column_of,
    pull_products,
    pull_rays,
    pull_tanh,
    read_texture,
    splat_strength,
    tile_pixels,
)

RAYS = 15
"""Columns of ``textures.splat_rays`` beside the centre."""


class TileLists(NamedTuple):
    """The splats of every tile, nearest first."""

    offsets: Tensor  # [T + 1] int32: tile t, row by row, owns splats offsets[t] to offsets[t + 1]
    splats: Tensor  # [M] int32
    columns: int


@triton.jit
def _forward(
    means2d, conics, opacities, values, background, offsets, splats, row_of, rays, vectors, planes, amplitudes,
    image, behind, last, columns, width, height, cap, faintest, stop,
    E: tl.constexpr, WIDE: tl.constexpr, P: tl.constexpr, T: tl.constexpr, TANH: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    x, y = tile_pixels(tile, columns)
    inside = (x < width) & (y < height)
    px, py = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
    c = tl.arange(0, WIDE)
    through = tl.where(inside, 1.0, 0.0)
    going = inside
    total = tl.zeros((256, WIDE), tl.float32)
    final = tl.full((256,), -1, tl.int32)
    j, end = tl.load(offsets + tile), tl.load(offsets + tile + 1)
    while (j < end) & (tl.max(going.to(tl.int32), axis=0) > 0):
        splat = tl.load(splats + j)
        dx, dy, peak = splat_strength(means2d, conics, opacities, splat, px, py)
        seen = going & (tl.minimum(peak, cap) >= faintest)
        value = tl.load(values + splat * E + c, mask=c < E, other=0.0)[None, :] + tl.zeros((256, WIDE), tl.float32)
        row = tl.load(row_of + splat)
        if (row >= 0) & (tl.max(seen.to(tl.int32), axis=0) > 0):
            shown = read_texture(vectors, planes, rays, row, dx, dy, amplitudes, seen, P, T, TANH)
            peak += column_of(shown, 3, 4)
            for k in tl.static_range(3):
                floor = tl.minimum(value, 0.0)
                moved = value + column_of(shown, k, 4)[:, None]
                value = tl.where(c[None, :] == k, tl.where(moved >= floor, moved, floor), value)
        alpha = tl.minimum(peak, cap)
        seen = seen & (alpha >= faintest)
        after = through * (1.0 - alpha)
        adds = seen & (after > stop)
        total += tl.where(adds, alpha * through, 0.0)[:, None] * value
        going = going & ((seen & (after <= stop)) == 0)
        through = tl.where(adds, after, through)
        final = tl.where(adds, j, final)
        j += 1
    pixel = y * width + x
    total += through[:, None] * tl.load(background + c, mask=c < E, other=0.0)[None, :]
    tl.store(image + pixel[:, None] * E + c[None, :], total, mask=inside[:, None] & (c < E)[None, :])
    tl.store(behind + pixel, through, mask=inside)
    tl.store(last + pixel, final, mask=inside)


@triton.jit
def _backward(
    means2d, conics, opacities, values, background, offsets, splats, row_of, rays, vectors, planes, amplitudes,
    behind, last, grad_image, grad_alphas, grad_means2d, grad_abs, grad_conics, grad_opacities, grad_values,
    grad_vectors, grad_planes, grad_rays, columns, width, height, cap, faintest,
    E: tl.constexpr, WIDE: tl.constexpr, P: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr, TANH: tl.constexpr,
    MOVES: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    x, y = tile_pixels(tile, columns)
    inside = (x < width) & (y < height)
    px, py = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
    pixel, c, four = y * width + x, tl.arange(0, WIDE), tl.arange(0, 4)[None, :]
    through = tl.load(behind + pixel, mask=inside, other=1.0)
    final = tl.load(last + pixel, mask=inside, other=-1)
    wanted = inside[:, None] & (c < E)[None, :]
    grad = tl.load(grad_image + pixel[:, None] * E + c[None, :], mask=wanted, other=0.0)
    rest = tl.sum(grad * tl.load(background + c, mask=c < E, other=0.0)[None, :], axis=1)
    rest = through * (rest - tl.load(grad_alphas + pixel, mask=inside, other=0.0))
    gains = tl.load(amplitudes + tl.arange(0, 4))[None, :]
    j, start = tl.max(final, axis=0), tl.load(offsets + tile)
    while j >= start:
        splat = tl.load(splats + j)
        dx, dy, peak = splat_strength(means2d, conics, opacities, splat, px, py)
        adds = (j <= final) & (tl.minimum(peak, cap) >= faintest)
        value = tl.load(values + splat * E + c, mask=c < E, other=0.0)[None, :] + tl.zeros((256, WIDE), tl.float32)
        passes = tl.full((256, WIDE), 1.0, tl.float32)
        kept = passes
        row = tl.load(row_of + splat)
        strength = peak
        if row >= 0:
            shown = read_texture(vectors, planes, rays, row, dx, dy, amplitudes, adds, P, T, TANH)
            strength += column_of(shown, 3, 4)
            for k in tl.static_range(3):
                floor = tl.minimum(value, 0.0)
                moved = value + column_of(shown, k, 4)[:, None]
                here = c[None, :] == k
                passes = tl.where(here & (moved < floor), 0.0, passes)
                kept = tl.where(here & (moved < floor) & (value >= 0.0), 0.0, kept)
                value = tl.where(here, tl.where(moved >= floor, moved, floor), value)
        alpha = tl.minimum(strength, cap)
        adds = adds & (alpha >= faintest)
        if tl.max(adds.to(tl.int32), axis=0) > 0:
            alpha = tl.where(adds, alpha, 0.0)
            through = through / (1.0 - alpha)
            weight = alpha * through
            here = tl.sum(value * grad, axis=1)
            grad_alpha = through * here - rest / (1.0 - alpha)
            rest += weight * here
            free = tl.where(adds & ((strength <= cap) | ((row >= 0) & (grad_alpha > 0.0))), grad_alpha, 0.0)
            grad_sigma = -peak * free
            a, b, d = tl.load(conics + splat * 3), tl.load(conics + splat * 3 + 1), tl.load(conics + splat * 3 + 2)
            grad_x, grad_y = -grad_sigma * (a * dx + b * dy), -grad_sigma * (b * dx + d * dy)
            tl.atomic_add(grad_means2d + splat * 2, tl.sum(grad_x))
            tl.atomic_add(grad_means2d + splat * 2 + 1, tl.sum(grad_y))
            tl.atomic_add(grad_abs + splat * 2, tl.sum(tl.abs(grad_x)))
            tl.atomic_add(grad_abs + splat * 2 + 1, tl.sum(tl.abs(grad_y)))
            tl.atomic_add(grad_conics + splat * 3, tl.sum(0.5 * grad_sigma * dx * dx))
            tl.atomic_add(grad_conics + splat * 3 + 1, tl.sum(grad_sigma * dx * dy))
            tl.atomic_add(grad_conics + splat * 3 + 2, tl.sum(0.5 * grad_sigma * dy * dy))
            tl.atomic_add(grad_opacities + splat, -tl.sum(grad_sigma) / tl.load(opacities + splat))
            weighted = weight[:, None] * grad
            tl.atomic_add(grad_values + splat * E + c, tl.sum(weighted * kept, axis=0), mask=c < E)
            if row >= 0:
                weighted = weighted * passes
                of_shown = tl.where(four == 3, free[:, None], 0.0)
                for k in tl.static_range(3):
                    of_shown += tl.where(four == k, column_of(weighted, k, WIDE)[:, None], 0.0)
                of_shown = of_shown * gains
                if TANH:
                    s0, s1, s2 = pull_tanh(
                        vectors, planes, rays, row, dx, dy, of_shown, adds, grad_vectors, grad_planes, P, T, PAD
                    )
                else:
                    s0, s1, s2 = pull_products(
                        vectors, planes, rays, row, dx, dy, of_shown, adds, grad_vectors, grad_planes, P, T, PAD
                    )
                if MOVES:
                    pull_rays(rays, row, dx, dy, s0, s1, s2, grad_rays, T)
        j -= 1


class Settings(NamedTuple):
    """What the kernels need beside tensors."""

    width: int
    height: int
    alpha_cap: float
    alpha_min: float
    transmittance_stop: float
    tanh: bool
    moves: bool
    amplitudes: Tuple[float, float, float, float]


class CompositeTextured(torch.autograd.Function):
    """One camera's picture [H, W, E] and accumulated opacity [H, W, 1].

    Differentiable with respect to means2d [N, 2], conics [N, 3], opacities [N], values [N, E], background [E], vectors
    [M, P, T, 2, 4], planes [M, P] and rays [M, 17] (whose first two columns, the centres, are read from means2d).
    """

    @staticmethod
    def forward(
        ctx: Any, means2d, conics, opacities, values, background, vectors, planes, rays, row_of, lists, settings,
        absgrad,
    ):  # fmt: skip
        given = [each.contiguous() for each in (means2d, conics, opacities, values, background)]
        texture = [rays[:, 2:].float().contiguous(), vectors.contiguous(), planes.contiguous()]
        amplitudes = torch.tensor(settings.amplitudes, device=values.device)
        width, height, channels = settings.width, settings.height, values.shape[1]
        image, behind = values.new_empty(height, width, channels), values.new_empty(height, width)
        last = torch.empty(height, width, dtype=torch.int32, device=values.device)
        _forward[(len(lists.offsets) - 1,)](
            *given, lists.offsets, lists.splats, row_of, *texture, amplitudes, image, behind, last, lists.columns,
            width, height, settings.alpha_cap, settings.alpha_min, settings.transmittance_stop,
            E=channels, WIDE=_power(channels), P=vectors.shape[1], T=vectors.shape[2], TANH=settings.tanh, num_warps=8,
        )  # fmt: skip
        ctx.save_for_backward(*given, *texture, row_of, amplitudes, behind, last)
        ctx.lists, ctx.settings, ctx.absgrad = lists, settings, absgrad
        return image, 1.0 - behind[..., None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_image: Tensor, grad_alphas: Optional[Tensor]):
        means2d, conics, opacities, values, background, rays, vectors, planes, row_of, amplitudes, behind, last = (
            ctx.saved_tensors
        )
        settings, lists, channels = ctx.settings, ctx.lists, values.shape[1]
        grads = [torch.zeros_like(each) for each in (means2d, means2d, conics, opacities, values, vectors, planes)]
        grad_rays = rays.new_zeros(len(rays), 2 + RAYS)
        grad_image = grad_image.contiguous()
        _backward[(len(lists.offsets) - 1,)](
            means2d, conics, opacities, values, background, lists.offsets, lists.splats, row_of, rays, vectors, planes,
            amplitudes, behind, last, grad_image, grad_alphas.contiguous(), *grads, grad_rays, lists.columns,
            settings.width, settings.height, settings.alpha_cap, settings.alpha_min,
            E=channels, WIDE=_power(channels), P=vectors.shape[1], T=vectors.shape[2],
            PAD=max(16, _power(vectors.shape[2])), TANH=settings.tanh, MOVES=settings.moves, num_warps=8,
        )  # fmt: skip
        grad_means2d, grad_abs, *others, grad_vectors, grad_planes = grads
        if ctx.absgrad is not None:
            ctx.absgrad += grad_abs
        grad_background = behind.flatten() @ grad_image.view(-1, channels)
        return (
            *(grad_means2d, *others, grad_background, grad_vectors, grad_planes, grad_rays.to(torch.float64)),
            *(None, None, None, None),
        )


def _power(width: int) -> int:
    """The smallest power of two that is not below ``width``, at least 4."""
    return max(4, 1 << (width - 1).bit_length())
