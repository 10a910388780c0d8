# SPDX-License-Identifier: Apache-2.0
"""gsplat's public functions computed by the reference, so that the way we call them is tested without a GPU.

Arguments are bound to the signatures of the installed gsplat, and shapes are checked as its documentation states them.
"""

import inspect
import math
from dataclasses import replace
from typing import Any, Dict, List

import gsplat
import gsplat.rendering
import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import installed_rules, reference, sh
from nts_plugins.rasterization._types import Settings

_RASTERIZATION = inspect.signature(gsplat.rendering.rasterization)
_SPHERICAL_HARMONICS = inspect.signature(gsplat.spherical_harmonics)
_PROJECTION = inspect.signature(gsplat.fully_fused_projection)
_TILES = inspect.signature(gsplat.isect_tiles)
_OFFSETS = inspect.signature(gsplat.isect_offset_encode)
_WIDEST = 513


class FakeGsplat:
    """Stands in for gsplat; ``calls`` records the arguments of every call of ``rasterization``."""

    def __init__(self) -> None:
        self.calls: List[Dict[str, Any]] = []

    def rasterization(self, *args: Any, **kwargs: Any) -> "tuple[Tensor, Tensor, dict]":
        bound = _RASTERIZATION.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        self.calls.append(given)
        n, cameras = given["means"].shape[0], given["viewmats"].shape[0]
        assert n > 0, "an empty scene must not reach a kernel"
        colors, backgrounds = given["colors"], given["backgrounds"]
        assert given["sh_degree"] is None and not given["packed"]
        assert colors.shape[:-1] in ((n,), (cameras, n))
        assert backgrounds is None or backgrounds.shape == (cameras, colors.shape[-1])
        for name in ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks"):
            assert given[name].dtype == torch.float32, name
        assert not given["Ks"].requires_grad

        gaussians = Gaussians(
            given["means"], given["quats"], given["scales"], given["opacities"], colors=torch.ones(n, 1)
        )
        settings = Settings(
            rules=installed_rules(),
            antialiased=given["rasterize_mode"] == "antialiased",
            **{name: given[name] for name in ("width", "height", "near_plane", "far_plane", "radius_clip", "eps2d")},
        )
        projection = reference.project(gaussians, given["viewmats"], given["Ks"], settings)
        colors = colors.expand(cameras, n, -1)
        if given["render_mode"] != "RGB":
            colors = torch.cat([colors, projection.depths[..., None]], dim=-1)
            if backgrounds is not None:
                backgrounds = torch.cat([backgrounds, torch.zeros(cameras, 1)], dim=-1)
        chunks = math.ceil(colors.shape[-1] / given["channel_chunk"])
        assert colors.shape[-1] <= _WIDEST or chunks > 1
        absgrad = torch.zeros_like(projection.means2d) if given["absgrad"] else None
        pictures = []
        for camera in range(cameras):
            picture = reference.composite(
                projection.means2d[camera],
                projection.conics[camera],
                projection.opacities[camera],
                colors[camera],
                projection.radii[camera],
                projection.depths[camera],
                settings,
                None if backgrounds is None else backgrounds[camera],
                None if absgrad is None else absgrad[camera],
            )
            pictures.append(picture)
        rendered, alphas = (torch.stack(parts) for parts in zip(*pictures, strict=True))
        if given["render_mode"] == "RGB+ED":
            depth = rendered[..., -1:] / alphas.clamp_min(1e-10)
            rendered = torch.cat([rendered[..., :-1], depth], dim=-1)
        if absgrad is not None and chunks == 1:
            projection.means2d.absgrad = absgrad
        return rendered, alphas, reference._info(projection, settings)

    def fully_fused_projection(self, *args: Any, **kwargs: Any) -> "tuple[Tensor, ...]":
        given = _PROJECTION.bind(*args, **kwargs).arguments
        rules = installed_rules()
        names = ("width", "height", "near_plane", "far_plane", "radius_clip", "eps2d")
        settings = Settings(rules=rules, **{name: given[name] for name in names})
        n = len(given["means"])
        opacities = given.get("opacities", torch.ones(n))
        gaussians = Gaussians(given["means"], given["quats"], given["scales"], opacities, colors=torch.ones(n, 1))
        found = reference.project(gaussians, given["viewmats"], given["Ks"], settings)
        compensations = None
        if given["calc_compensations"]:
            softened = reference.project(gaussians, given["viewmats"], given["Ks"], replace(settings, antialiased=True))
            compensations = softened.opacities / opacities
        radii = found.radii if rules.radii_per_axis else found.radii.amax(dim=-1)
        return radii, found.means2d, found.depths, found.conics, compensations

    def isect_tiles(self, *args: Any, **kwargs: Any) -> "tuple[Tensor, Tensor, Tensor]":
        given = _TILES.bind(*args, **kwargs).arguments
        means2d, radii, depths = (given[name] for name in ("means2d", "radii", "depths"))
        columns, rows, size = given["tile_width"], given["tile_height"], given["tile_size"]
        cameras, n = depths.shape
        radii = radii if radii.ndim == 3 else radii[..., None].expand(cameras, n, 2)
        settings = Settings(columns * size, rows * size, installed_rules())
        first, last = reference.tile_rectangles(means2d.detach(), radii, settings)
        crossings = []
        for camera in range(cameras):
            for splat in torch.argsort(depths[camera], stable=True).tolist():
                if (radii[camera, splat] > 0).all():
                    (left, top), (right, bottom) = first[camera, splat].tolist(), last[camera, splat].tolist()
                    for row in range(top, bottom):
                        for column in range(left, right):
                            crossings.append((camera * columns * rows + row * columns + column, camera * n + splat))
        crossings.sort(key=lambda each: each[0])
        tiles, members = torch.tensor(crossings, dtype=torch.int64).reshape(-1, 2).T.contiguous()
        return torch.zeros(cameras, n), tiles, members.int()

    def isect_offset_encode(self, *args: Any, **kwargs: Any) -> Tensor:
        given = _OFFSETS.bind(*args, **kwargs).arguments
        cameras, columns, rows = given["n_cameras"], given["tile_width"], given["tile_height"]
        tiles = torch.arange(cameras * columns * rows)
        return torch.searchsorted(given["isect_ids"], tiles).int().view(cameras, rows, columns)

    def spherical_harmonics(self, *args: Any, **kwargs: Any) -> Tensor:
        bound = _SPHERICAL_HARMONICS.bind(*args, **kwargs)
        bound.apply_defaults()
        degree, directions, coefficients, masks = bound.arguments.values()
        assert (degree + 1) ** 2 <= coefficients.shape[-2] and coefficients.shape[-1] == 3
        assert directions.shape[:-1] == coefficients.shape[:-2] == masks.shape
        # gsplat divides by the length without a guard, and leaves masked colours uninitialised.
        directions = torch.where(masks[..., None], directions, torch.ones_like(directions))
        basis = sh.sh_basis(directions / directions.norm(dim=-1, keepdim=True), degree)
        colors = (basis[..., None] * coefficients[..., : basis.shape[-1], :]).sum(dim=-2)
        return torch.where(masks[..., None], colors, torch.full_like(colors, math.nan).detach())
