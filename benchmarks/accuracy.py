# SPDX-License-Identifier: Apache-2.0
"""Differences between the CPU kernels and the float64 reference, at the sizes that are timed."""

from dataclasses import dataclass
from typing import Iterator, List, Tuple

import torch
from torch import Tensor

from benchmarks import baseline, scenes
from benchmarks._stages import Projected, project
from nts_plugins.rasterization import rasterize, reference

ALPHA_MARGIN = 1e-4
"""How near an alpha may come to a threshold, relatively, before float32 may decide otherwise than float64."""
TRANSMITTANCE_MARGIN = 5e-3
"""The same for transmittance, where every alpha near its cap of 0.999 magnifies errors a thousand times."""


@dataclass(frozen=True)
class Errors:
    """How far the kernels are from the reference."""

    pixel: float
    """Difference of pixel values: the largest for compositing, the median for whole drawings."""
    gradient: float
    """Root mean square of the difference over that of the gradient, the worst of all tensors."""
    plain_gradient: float
    """The same for the reference in float32: what plain arithmetic loses on these splats."""
    excluded: float
    """Share of pixels left out because rounding decides (compositing), or off by more than 2e-6 (whole drawings)."""


def composite_errors(projected: Projected, upstream: Tensor) -> Errors:
    """Errors of compositing alone, in pixels that float32 and float64 cannot decide differently."""
    undecided, _ = examine_pixels(projected)
    upstream = upstream * ~undecided[..., None]
    picture = projected.draw()
    picture.backward(upstream)
    doubles = [leaf.detach().double().requires_grad_() for leaf in projected.leaves]
    settings = projected.settings
    expected, _ = reference.composite(*doubles, projected.radii, projected.depths.double(), settings)
    expected.backward(upstream.double())
    error = (picture.detach() - expected.detach()).abs().amax(dim=-1)
    pairs = [(leaf.grad, double.grad) for leaf, double in zip(projected.leaves, doubles, strict=True)]
    singles = [leaf.detach().to(torch.float32, copy=True).requires_grad_() for leaf in projected.leaves]
    # Denormal numbers, of which a plain drawing makes many, would take minutes.
    with baseline.denormals_flushed():
        reference.composite(*singles, projected.radii, projected.depths, settings)[0].backward(upstream)
    plain = [(leaf.grad, double.grad) for leaf, double in zip(singles, doubles, strict=True)]
    largest, share = float(error[~undecided].max()), float(undecided.double().mean())
    return Errors(largest, _worst_rms(pairs), _worst_rms(plain), share)


def rasterize_errors(scene: scenes.Scene, upstream: Tensor) -> Errors:
    """Errors of whole drawings. Rounding of the projection moves a few splats into or out of a pixel; such pixels, and
    those that compositing cannot decide, send no gradient."""
    undecided, _ = examine_pixels(project(scene))
    rasters, leaves = [], []
    for backend, dtype in (("cpu", torch.float32), ("reference", torch.float64), ("reference", torch.float32)):
        each = scene.to(dtype)
        gaussians = each.gaussians.map(lambda tensor: tensor.clone().requires_grad_())
        size = scene.width, scene.height
        rasters.append(rasterize(gaussians, each.viewmats, each.Ks, *size, sh_degree=3, backend=backend).colors[0])
        leaves.append([getattr(gaussians, name) for name in ("means", "quats", "scales", "opacities", "sh")])
    error = (rasters[0] - rasters[1]).detach().abs().amax(dim=-1)
    undecided |= error > 2e-6
    for picture in rasters:
        picture.backward(upstream.to(picture.dtype) * ~undecided[..., None])
    actual, expected, plain = ([leaf.grad for leaf in each] for each in leaves)
    rms, plain_rms = (_worst_rms(list(zip(each, expected, strict=True))) for each in (actual, plain))
    return Errors(float(error.median()), rms, plain_rms, float((error > 2e-6).double().mean()))


def count_pairs(projected: Projected) -> int:
    """How often a splat contributes to a pixel."""
    return examine_pixels(projected)[1]


@torch.no_grad()
def examine_pixels(projected: Projected) -> Tuple[Tensor, int]:
    """[H, W] whether rounding may decide which splats a pixel shows, and how many splats all pixels show together."""
    settings, rules = projected.settings, projected.settings.rules
    undecided = torch.zeros(settings.height, settings.width, dtype=torch.bool)
    pairs = 0
    for rows, columns, alpha, squares, exponent in _tiles(projected):
        faint = alpha < rules.alpha_min
        near = ((alpha / rules.alpha_min - 1).abs() < ALPHA_MARGIN) | (
            (alpha / rules.alpha_cap - 1).abs() < ALPHA_MARGIN
        )
        near |= (exponent < 1e-5 * squares) & ~faint
        transmittance = torch.cumprod(1 - alpha.clamp_max(rules.alpha_cap) * ~(faint | (exponent < 0)), dim=1)
        close = ((transmittance / rules.transmittance_stop - 1).abs() < TRANSMITTANCE_MARGIN) & ~faint
        shown = ~faint & (exponent >= 0) & (transmittance > rules.transmittance_stop)
        pairs += int(shown.sum())
        # What comes after the stop cannot change a pixel any more.
        reached = torch.cat(
            [torch.ones_like(shown[:, :1]), transmittance[:, :-1] > rules.transmittance_stop / 2], dim=1
        )
        flags = ((near | close) & reached).any(dim=1)
        undecided[rows, columns] = flags.view(rows.stop - rows.start, columns.stop - columns.start)
    return undecided, pairs


def _tiles(projected: Projected) -> Iterator[Tuple[slice, slice, Tensor, Tensor, Tensor]]:
    """Of every tile that is not empty: pixel rows, pixel columns, and in float64 over [pixels, splats front to back]
    the uncapped alpha, the exponent's square terms and the exponent."""
    settings = projected.settings
    side = settings.rules.tile_size
    across = -(-settings.width // side)
    means2d, conics, opacities, _ = (leaf.detach().double() for leaf in projected.leaves)
    lists, counts = baseline.tile_lists(projected.means2d, projected.radii, projected.depths, settings)
    for tile, splats in enumerate(lists.split(counts.tolist())):
        if len(splats) == 0:
            continue
        left, top = side * (tile % across), side * (tile // across)
        rows, columns = slice(top, min(top + side, settings.height)), slice(left, min(left + side, settings.width))
        dx, dy = (means2d[splats] - reference.pixel_centres(rows, columns, means2d)[:, None]).unbind(dim=-1)
        a, b, c = conics[splats].unbind(dim=-1)
        squares = 0.5 * (a * dx * dx + c * dy * dy)
        exponent = squares + b * dx * dy
        yield rows, columns, opacities[splats] * torch.exp(-exponent), squares, exponent


def _worst_rms(pairs: List[Tuple[Tensor, Tensor]]) -> float:
    worst = 0.0
    for actual, expected in pairs:
        size = float(expected.square().mean().sqrt())
        # Turning a round splat changes nothing: such a gradient is zero, and relative to zero everything is large.
        if size > 1e-9:
            worst = max(worst, float((actual.double() - expected).square().mean().sqrt()) / size)
    return worst
