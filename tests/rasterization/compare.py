# SPDX-License-Identifier: Apache-2.0
"""Compare a backend with the float64 reference, and know which pixels float32 may decide differently.

A splat appears in a pixel or not by thresholds (alpha, transmittance, tile rectangle). Near a threshold rounding
decides, and the picture jumps. Such pixels are found here in float64 and left out of every comparison.
"""

from dataclasses import replace
from typing import Dict

import torch
from torch import Tensor

from nts_plugins.rasterization import Raster, Rules, installed_rules, rasterize, reference
from nts_plugins.rasterization._types import Settings
from nts_plugins.rasterization.textures import EXTENT, Seen, sampler, splat_points

from .scenes import Scene, generator

_RELATIVE = 1e-3
"""How near an alpha may come to a threshold. Float32 projection moves an alpha by some 1e-5."""
_RELATIVE_TRANSMITTANCE = 2e-2
"""The same for transmittance, where an alpha near its cap of 0.999 magnifies errors a hundred times."""


def settings_of(scene: Scene, rules: Rules, **options) -> Settings:
    """The backend-level settings of a scene."""
    return Settings(width=scene.width, height=scene.height, rules=rules, **options)


@torch.no_grad()
def undecided_pixels(scene: Scene, rules: Rules, antialiased: bool = False) -> Tensor:
    """[C, H, W] whether rounding may change which splats a pixel shows, or which of them get a gradient."""
    scene = scene.to(torch.float64)
    inner, outer = (_perturbed(scene, rules, antialiased, factor) for factor in (1 - 1e-5, 1 + 1e-5))
    settings = settings_of(scene, rules, antialiased=antialiased)
    rows, columns = slice(0, scene.height), slice(0, scene.width)
    pixels = reference.pixel_centres(rows, columns, scene.gaussians.means)
    tiles = (pixels // rules.tile_size).long()
    masks = []
    for camera in range(scene.viewmats.shape[0]):
        order = torch.argsort(outer.depths[camera], stable=True)
        order = order[outer.visible[camera][order]]
        means2d, conics = outer.means2d[camera, order], outer.conics[camera, order]
        first, last = reference.tile_rectangles(means2d - 1e-3, outer.radii[camera, order], settings)
        first_, last_ = reference.tile_rectangles(means2d + 1e-3, outer.radii[camera, order], settings)
        maybe = _inside(tiles, first, last_)
        first, last = reference.tile_rectangles(means2d + 1e-3, inner.radii[camera, order], settings)
        first_, last_ = reference.tile_rectangles(means2d - 1e-3, inner.radii[camera, order], settings)
        surely = _inside(tiles, first, last_) & inner.visible[camera, order]

        dx, dy = (means2d - pixels[:, None]).unbind(dim=-1)
        squares, product = 0.5 * (conics[:, 0] * dx**2 + conics[:, 2] * dy**2), conics[:, 1] * dx * dy
        exponent = squares + product
        strength = outer.opacities[camera, order] * torch.exp(-exponent)
        faint = strength < rules.alpha_min * (1 - _RELATIVE)
        undecided = (maybe & ~surely & ~faint).any(dim=1)
        near = ((strength / rules.alpha_min - 1).abs() < _RELATIVE) | (
            (strength / rules.alpha_cap - 1).abs() < _RELATIVE
        )
        near |= (exponent < 1e-5 * squares) & ~faint
        undecided |= (near & maybe).any(dim=1)
        if scene.textures is not None:
            strength, near_edge = _with_texture(scene, camera, pixels, order, strength)
            unsteady = (strength / rules.alpha_min - 1).abs() < _RELATIVE
            unsteady |= (strength / rules.alpha_cap - 1).abs() < _RELATIVE
            undecided |= ((unsteady | near_edge) & maybe & ~faint).any(dim=1)
            faint |= strength < rules.alpha_min
        alpha = torch.where(maybe & ~faint, strength.clamp_max(rules.alpha_cap), torch.zeros_like(strength))
        transmittance = torch.cumprod(1 - alpha, dim=1)
        undecided |= ((transmittance / rules.transmittance_stop - 1).abs() < _RELATIVE_TRANSMITTANCE).any(dim=1)
        masks.append(undecided.reshape(scene.height, scene.width))
    return torch.stack(masks)


def _with_texture(
    scene: Scene, camera: int, pixels: Tensor, splats: Tensor, strength: Tensor
) -> "tuple[Tensor, Tensor]":
    """[P, M] strengths with the residuals of opacity, and whether a ray meets a splat at the edge of a texel, where a
    texture ends or its slope jumps."""
    textures, view = scene.textures, (scene.viewmats[camera], scene.Ks[camera])
    residuals = sampler(textures, scene.gaussians, *view, Seen(torch.empty(0), torch.empty))(pixels, splats)
    points = splat_points(scene.gaussians.select(splats), *view, pixels)
    places = (points / EXTENT + 1) / 2 * (textures.resolution - 1)
    near_edge = ((places - places.round()).abs() < 1e-4).any(dim=-1) & torch.isin(splats, textures.splats)
    return strength + residuals.opacity, near_edge


def _perturbed(scene: Scene, rules: Rules, antialiased: bool, factor: float) -> reference.Projection:
    """The projection with splats a little larger or smaller, for the decisions that depend on size and opacity."""
    gaussians = scene.gaussians
    gaussians = replace(gaussians, scales=gaussians.scales * factor, opacities=gaussians.opacities * factor)
    options = {"eps2d": 0.3 * factor, "near_plane": 0.01 / factor, "antialiased": antialiased}
    return reference.project(gaussians, scene.viewmats, scene.Ks, settings_of(scene, rules, **options))


def _inside(tiles: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """[P, M] whether a pixel's tile lies in a splat's rectangle of tiles."""
    return ((first <= tiles[:, None]) & (tiles[:, None] < last)).all(dim=-1)


def pictures(raster: Raster) -> Dict[str, Tensor]:
    """The pictures of a raster by name."""
    named = {"colors": raster.colors, "alphas": raster.alphas, "depth": raster.depth, "channels": raster.channels}
    return {name: picture for name, picture in named.items() if picture is not None}


def pixel_scale(raster: Raster, options: dict) -> Dict[str, Tensor]:
    """How much a pixel of each picture counts: 1, and the opacity for expected depth.

    Expected depth divides by the opacity 1 - T, of which float32 keeps few digits in nearly empty pixels.
    """
    ones = torch.ones_like(raster.alphas.detach())
    scales = {name: ones for name in pictures(raster)}
    if options.get("depth") == "expected":
        scales["depth"] = raster.alphas.detach()
    return scales


def upstream(raster: Raster, weight: Dict[str, Tensor], seed: int = 0) -> Dict[str, Tensor]:
    """Random gradients of the pictures in float64, the same for every backend, times a weight for each pixel."""
    g = generator(seed)
    return {
        name: torch.randn(picture.shape, generator=g, dtype=torch.float64) * weight[name]
        for name, picture in pictures(raster).items()
    }


def draw(scene: Scene, **options) -> "tuple[Raster, Dict[str, Tensor]]":
    """Draw fresh leaves of a scene: the raster and the leaves."""
    scene, leaves = scene.leaves()
    return rasterize(**scene.arguments(), **options), leaves


def pull_back(raster: Raster, leaves: Dict[str, Tensor], gradients: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Gradients of all leaves, and of ``means2d`` and its ``absgrad`` where the raster has them, in float64 on CPU."""
    means2d = raster.info["means2d"]
    if means2d.requires_grad:
        means2d.retain_grad()
    loss = sum((picture * gradients[name].to(picture)).sum() for name, picture in pictures(raster).items())
    if loss.requires_grad:
        loss.backward()
    found = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    if means2d.grad is not None:
        found["means2d"] = means2d.grad
    if hasattr(means2d, "absgrad"):
        found["absgrad"] = means2d.absgrad
    return {name: value.detach().double().cpu() for name, value in found.items()}


def value_errors(found: Raster, expected: Raster, weight: Dict[str, Tensor]) -> Dict[str, float]:
    """Largest weighted difference of each picture, relative to the picture's range where that is above 1."""
    errors = {}
    for name, picture in pictures(expected).items():
        difference = (pictures(found)[name].detach().double().cpu() - picture.detach()) * weight[name]
        errors[name] = difference.abs().amax().item() / max(1.0, picture.detach().abs().amax().item())
    return errors


def gradient_errors(found: Dict[str, Tensor], expected: Dict[str, Tensor], scene: Scene) -> Dict[str, float]:
    """Root mean square difference of each gradient, relative to the gradient's own size.

    The gradient of a round splat's quaternion is zero but for rounding, so that quaternions are measured against the
    effect of scaling the splats, which moves the same covariances.
    """
    errors = {}
    for name, gradient in expected.items():
        size = gradient.norm().item()
        if name == "quats":
            size = max(size, (expected["scales"] * scene.gaussians.scales.detach().cpu()).norm().item())
        errors[name] = (found[name] - gradient).norm().item() / (size or 1.0)
    return errors


def worst_errors(made: Scene, antialiased: bool = False) -> "tuple[float, float]":
    """Largest error of a picture, and of a gradient, of the CPU kernels."""
    options = {"antialiased": antialiased, "depth": "accumulated", "absgrad": True}
    decided = ~undecided_pixels(made, installed_rules(), antialiased)[..., None]
    exact, exact_leaves = draw(made.to(torch.float64), backend="reference", **options)
    weights = {key: decided * scale for key, scale in pixel_scale(exact, options).items()}
    gradients = upstream(exact, weights)
    found, leaves = draw(made, backend="cpu", **options)
    values = value_errors(found, exact, weights)
    expected = pull_back(exact, exact_leaves, gradients)
    return max(values.values()), max(gradient_errors(pull_back(found, leaves, gradients), expected, made).values())
