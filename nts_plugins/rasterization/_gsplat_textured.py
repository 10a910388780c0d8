# SPDX-License-Identifier: Apache-2.0
"""Splats with textures on a GPU: gsplat projects them and lists them by tile, and Triton composites."""

from typing import Any, Callable, Dict, Optional, Tuple

import gsplat
import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import _triton_textured as triton_textured
from nts_plugins.rasterization._types import Lifted, Settings
from nts_plugins.rasterization.textures import Textures, TextureSource, seen_by, splat_rays, textures_of


def draw(
    gaussians: Gaussians,
    values: Tensor,  # [N, W] or [C, N, W]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    settings: Settings,
    backgrounds: Optional[Tensor],  # [C, W]
    source: TextureSource,
    lift: Callable[..., Lifted],
) -> Tuple[Tensor, Tensor, Dict[str, Any]]:
    """Values [C, H, W, W'] (with depth as the last one when asked for), alphas [C, H, W, 1] and gsplat's record."""
    cameras, n, rules = viewmats.shape[0], len(gaussians), settings.rules
    Ks = Ks.detach().float()
    # From 1.5 on gsplat's radii depend on opacities.
    newer: Dict[str, Any] = {"opacities": gaussians.opacities} if rules.opacity_aware_extent else {}
    radii, means2d, depths, conics, compensations = gsplat.fully_fused_projection(
        means=gaussians.means,
        covars=None,
        quats=gaussians.quats,
        scales=gaussians.scales,
        viewmats=viewmats,
        Ks=Ks,
        width=settings.width,
        height=settings.height,
        eps2d=settings.eps2d,
        near_plane=settings.near_plane,
        far_plane=settings.far_plane,
        radius_clip=settings.radius_clip,
        packed=False,
        calc_compensations=settings.antialiased,
        **newer,
    )
    opacities = gaussians.opacities.expand(cameras, n)
    opacities = opacities * compensations if settings.antialiased else opacities
    size = rules.tile_size
    columns, rows = -(-settings.width // size), -(-settings.height // size)
    _, crossings, members = gsplat.isect_tiles(
        means2d, radii, depths, size, columns, rows, packed=False, n_cameras=cameras
    )
    offsets = gsplat.isect_offset_encode(crossings, cameras, columns, rows).reshape(cameras, -1)
    ends = torch.cat([offsets.flatten(), offsets.new_tensor([len(members)])])
    absgrad = torch.zeros_like(means2d) if settings.absgrad and means2d.requires_grad else None
    if absgrad is not None:
        means2d.absgrad = absgrad  # type: ignore[attr-defined]
    radii_per_axis = radii if radii.ndim == 3 else radii[..., None].expand(cameras, n, 2)
    pictures, alphas = [], []
    for c in range(cameras):
        of_camera = values[c] if values.ndim == 3 else values
        if settings.depth is not None:
            of_camera = torch.cat([of_camera, depths[c][:, None]], dim=1)
        background = of_camera.new_zeros(of_camera.shape[1])
        if backgrounds is not None:
            background = torch.cat([backgrounds[c], background[backgrounds.shape[1] :]])
        first = c * columns * rows
        lists = triton_textured.TileLists(
            ends[first : first + columns * rows + 1].int().contiguous(), (members - c * n).int(), columns
        )
        image, alpha = _composite(
            (means2d[c], conics[c], opacities[c], of_camera, background),
            textures_of(source, seen_by(lift, gaussians, viewmats[c], Ks[c], radii_per_axis[c], settings)),
            gaussians,
            viewmats[c],
            Ks[c],
            lists,
            settings,
            None if absgrad is None else absgrad[c],
        )
        pictures.append(image)
        alphas.append(alpha)
    image, alpha = torch.stack(pictures), torch.stack(alphas)
    if settings.depth == "expected":
        image = torch.cat([image[..., :-1], image[..., -1:] / alpha.clamp_min(1e-10)], dim=-1)
    info = {
        **{"means2d": means2d, "radii": radii, "depths": depths, "conics": conics, "opacities": opacities},
        **{"gaussian_ids": None, "camera_ids": None, "width": settings.width, "height": settings.height},
        **{"n_cameras": cameras, "tile_size": size, "tile_width": columns, "tile_height": rows},
    }
    return image, alpha, info


def _composite(
    drawn: Tuple[Tensor, ...],
    textures: Optional[Textures],
    gaussians: Gaussians,
    viewmat: Tensor,
    K: Tensor,
    lists: triton_textured.TileLists,
    settings: Settings,
    absgrad: Optional[Tensor],
) -> Tuple[Tensor, Tensor]:
    device = gaussians.device
    row_of = torch.full((len(gaussians),), -1, dtype=torch.int32, device=device)
    if textures is None:
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        textures = Textures(torch.zeros(0, 3, 2, 2, 4, device=device), nothing)
    row_of[textures.splats] = torch.arange(len(textures), dtype=torch.int32, device=device)
    kernel_settings = triton_textured.Settings(
        settings.width,
        settings.height,
        settings.rules.alpha_cap,
        settings.rules.alpha_min,
        settings.rules.transmittance_stop,
        textures.product_tanh,
        textures.moves_splats,
        textures.amplitudes,
    )
    return triton_textured.CompositeTextured.apply(
        *drawn,
        textures.vectors.float(),
        textures.plane_weights().float(),
        splat_rays(textures, gaussians, viewmat, K),
        row_of,
        lists,
        kernel_settings,
        absgrad,
    )
