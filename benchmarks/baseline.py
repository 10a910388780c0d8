# SPDX-License-Identifier: Apache-2.0
"""What the kernels are measured against: the best rasterizer that stock PyTorch operators make on a CPU.

Tiles of 16 x 16 pixels, one after the other; inside a tile every operation runs over [pixels, splats] at once, and
autograd does the rest. Written as well as that allows, so that a ratio to it means something:

- tile lists come from two sorts, not from a loop over tiles;
- every parameter is gathered for all tiles in one operation: its backward is one scatter, not one per tile;
- the exponent is a sum of two squares, each a small matrix product of pixel coordinates and splat coefficients;
- masks are made by ``threshold`` and ``sign``, several times faster than ``where`` and comparisons;
- a tile is worked off in slices that fit the second-level cache, and ends as soon as all of its pixels are opaque;
- denormals are flushed to zero while it runs (``denormals_flushed``), which alone can make it ten times faster.

Same values and gradients as ``nts_plugins.rasterization.reference``; a test compares them.
"""

import math
from contextlib import contextmanager
from typing import Iterator, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.nn.functional import hardtanh, linear, threshold

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import Rules, installed_rules
from nts_plugins.rasterization._types import Settings
from nts_plugins.rasterization.reference import project, tile_rectangles
from nts_plugins.rasterization.sh import view_colors

SLICE = 256
"""Splats that a tile treats at once: 256 x 256 floats are 256 KiB."""


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Flush denormal numbers to zero inside the block, and go back to the setting before it."""
    before = float(torch.tensor([1e-40]) * 1.0) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class Image(NamedTuple):
    """What one camera sees."""

    values: Tensor
    """[H, W, D]"""
    transmittance: Tensor
    """[H, W]"""


def rasterize(
    gaussians: Gaussians,
    viewmats: Tensor,  # [1, 4, 4]
    Ks: Tensor,  # [1, 3, 3]
    width: int,
    height: int,
    rules: Optional[Rules] = None,
) -> Image:
    """Draw the colours of the splats for one camera, on black. Differentiable like the reference."""
    degree = None if gaussians.sh is None else int(gaussians.sh_bands**0.5) - 1
    settings = Settings(width=width, height=height, rules=rules or installed_rules(), sh_degree=degree)
    radii, means2d, depths, conics, opacities = project(gaussians, viewmats, Ks, settings)
    visible = (radii > 0).all(dim=-1)
    colors = view_colors(gaussians, viewmats, degree, visible)
    return composite(means2d[0], conics[0], opacities[0], colors[0], radii[0], depths[0], settings)


def composite(
    means2d: Tensor,  # [N, 2]
    conics: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    values: Tensor,  # [N, D]
    radii: Tensor,  # [N, 2]
    depths: Tensor,  # [N]
    settings: Settings,
) -> Image:
    """Blend projected splats front to back. Differentiable with respect to the first four arguments."""
    side = settings.rules.tile_size
    across = math.ceil(settings.width / side)
    splats, counts = tile_lists(means2d, radii, depths, settings)
    tile = torch.repeat_interleave(torch.arange(len(counts)), counts)
    corners = side * torch.stack([tile % across, torch.div(tile, across, rounding_mode="floor")], dim=1)
    entries = _entries(means2d, conics, opacities, values, splats, corners)
    rows, row = [], []
    for index, part in enumerate(entries.split(counts.tolist(), dim=1)):
        left, top = side * (index % across), side * (index // across)
        columns, lines = min(side, settings.width - left), min(side, settings.height - top)
        drawn, transmittance = _composite_tile(part, columns, lines, settings.rules)
        row.append(torch.cat([drawn, transmittance], dim=1).view(lines, columns, -1))
        if len(row) == across:
            rows.append(torch.cat(row, dim=1))
            row = []
    picture = torch.cat(rows)
    return Image(picture[..., :-1], picture[..., -1])


def tile_lists(means2d: Tensor, radii: Tensor, depths: Tensor, settings: Settings) -> Tuple[Tensor, Tensor]:
    """For every tile, row by row, its splats front to back: all lists joined, and the length of each."""
    side = settings.rules.tile_size
    across, down = math.ceil(settings.width / side), math.ceil(settings.height / side)
    with torch.no_grad():
        order = torch.argsort(depths, stable=True)
        order = order[(radii[order] > 0).all(dim=1)]
        first, last = tile_rectangles(means2d[order], radii[order], settings)
        wide, high = (last - first).clamp_min(0).unbind(dim=1)
        repeats = wide * high
        owner = torch.repeat_interleave(torch.arange(len(order)), repeats)
        place = torch.arange(len(owner)) - torch.repeat_interleave(repeats.cumsum(0) - repeats, repeats)
        x = first[owner, 0] + place % wide[owner]
        y = first[owner, 1] + torch.div(place, wide[owner], rounding_mode="floor")
        tile = y * across + x
        by_tile = torch.argsort(tile, stable=True)
        return order[owner[by_tile]], torch.bincount(tile, minlength=across * down)


def _entries(
    means2d: Tensor, conics: Tensor, opacities: Tensor, values: Tensor, splats: Tensor, corners: Tensor
) -> Tensor:
    """What a tile needs of each of its splats, [6 + D, M]: two linear forms, the logarithm of the opacity, values.

    With u = u1 x + u2 y + u0 and v = v2 y + v0 of a pixel at (x, y) in its tile, the exponent is u^2 + v^2.
    ``corners`` [M, 2] are the tiles' upper left pixels.
    """
    a, b, c = conics.unbind(dim=1)
    # Splats that are not drawn have zero conics; they are in no tile, and a one keeps their gradients finite.
    drawn = a > 0
    a = torch.where(drawn, a, 1.0)
    u1 = (0.5 * a).sqrt()
    u2 = 0.5 * b / u1
    v2 = torch.where(drawn, 0.5 * c - u2 * u2, 1.0).clamp_min(1e-12).sqrt()
    log_opacity = torch.where(drawn, opacities, 1.0).log()
    table = torch.cat([means2d, torch.stack([u1, u2, v2, log_opacity], dim=1), values], dim=1)
    part = table[splats].T
    x, y = part[:2] - corners.T
    u1, u2, v2 = part[2:5]
    forms = torch.stack([u1, u2, -(u1 * x + u2 * y), v2, -(v2 * y)])
    return torch.cat([forms, part[5:]]).contiguous()


def _composite_tile(entries: Tensor, columns: int, lines: int, rules: Rules) -> Tuple[Tensor, Tensor]:
    """Values [P, D] and transmittance [P, 1] of a tile from its splats, [6 + D, M] front to back."""
    x = (torch.arange(columns, dtype=entries.dtype) + 0.5).repeat(lines)
    y = (torch.arange(lines, dtype=entries.dtype) + 0.5).repeat_interleave(columns)
    basis = torch.stack([x, y, torch.ones_like(x)], dim=1)
    transmittance = entries.new_ones(len(x), 1)
    live = transmittance
    drawn = entries.new_zeros(len(x), len(entries) - 6)
    for part in entries.split(SLICE, dim=1):
        u, v = basis @ part[:3], basis[:, 1:] @ part[3:5]
        logarithm = torch.addcmul(torch.addcmul(part[5], u, u, value=-1), v, v, value=-1)
        # exp is many times slower where its result underflows; -20 is far below what counts.
        alpha = torch.exp(hardtanh(logarithm, -20.0, math.log(rules.alpha_cap)))
        alpha = threshold(alpha, rules.alpha_min, 0.0)
        after = torch.cumprod(torch.cat([live, 1 - alpha], dim=1), dim=1)
        with torch.no_grad():
            goes_on = threshold(after[:, 1:], rules.transmittance_stop, 0.0).sign()
        weights = alpha * after[:, :-1] * goes_on
        drawn = drawn + linear(weights, part[6:])
        # The weights add up to what no longer passes; so the splat that was left out at the stop leaves no trace.
        transmittance = transmittance - weights.sum(dim=1, keepdim=True)
        live = after[:, -1:] * goes_on[:, -1:]
        if not bool(live.any()):
            break
    return drawn, transmittance
