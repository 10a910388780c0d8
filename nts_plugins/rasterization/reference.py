# SPDX-License-Identifier: Apache-2.0
"""The definition of correct: rasterize, lift and lift_ids in plain torch, on any device, in float32 or float64.

Every other backend is tested against this one in float64, values and gradients. It is written to be read: tile by
tile, each tile as one dense [pixels, splats] table, with all gradients left to autograd. Its stages are public so that
faster kernels can be compared with them one at a time: :func:`project`, :func:`view_colors` (in ``sh``, because the
CUDA backend shares it), :func:`composite`.

Source: Kerbl et al. 2023 (3DGS), sections 4 and 6; Zwicker et al. 2002 (EWA splatting) for the projection. Constants
and conventions are gsplat's, see :class:`nts_plugins.rasterization.Rules`.
"""

import math
from typing import Callable, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.gaussians.rotations import rotation_matrices
from nts_plugins.rasterization._types import Lifted, LiftedIds, Raster, Rules, Settings
from nts_plugins.rasterization.sh import view_colors
from nts_plugins.rasterization.textures import Residuals, TextureSource, sampler, seen_by

_LARGEST_RADIUS = 1e9
"""Pixels. Larger radii would not fit into 32-bit integers; they cover every image anyway."""


class Projection(NamedTuple):
    """N splats on the image planes of C cameras. Splats that a camera does not draw are zero in every field."""

    radii: Tensor
    """[C, N, 2] int32, half width and half height in pixels of what a splat may touch. No gradient."""
    means2d: Tensor
    """[C, N, 2] centres in pixels; the middle of the first pixel is (0.5, 0.5)."""
    depths: Tensor
    """[C, N] z in the camera frame, scene units."""
    conics: Tensor
    """[C, N, 3] upper triangle of the inverse of the blurred covariance, 1 / pixels squared."""
    opacities: Tensor
    """[C, N] peak opacity, compensated for the blur when antialiased."""

    @property
    def visible(self) -> Tensor:
        """[C, N] whether a camera draws a splat."""
        return (self.radii > 0).all(dim=-1)


# --- the three functions of a backend ------------------------------------------------------------------------------


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

    Colour, channels and depth are columns of one table of values, so that they share their weights.
    """
    cameras, projection = len(viewmats), project(gaussians, viewmats, Ks, settings)
    colors = view_colors(gaussians, viewmats, settings.sh_degree, projection.visible)
    columns, backgrounds = [colors], [_or_zeros(background, colors)]
    if channels is not None:
        columns.append(channels.to(colors.dtype).expand(cameras, len(gaussians), -1))
        backgrounds.append(_or_zeros(channel_background, columns[-1]))
    if settings.depth is not None:
        columns.append(projection.depths[..., None])
        backgrounds.append(_or_zeros(None, columns[-1]))
    widths = [column.shape[-1] for column in columns]
    values, backdrop = torch.cat(columns, dim=-1), torch.cat(backgrounds, dim=-1)

    absgrad = None
    if settings.absgrad and projection.means2d.requires_grad:
        absgrad = torch.zeros_like(projection.means2d)
        projection.means2d.absgrad = absgrad  # type: ignore[attr-defined]
    views = [(gaussians, viewmats[camera], Ks[camera]) for camera in range(cameras)]
    pictures = [
        composite(
            projection.means2d[camera],
            projection.conics[camera],
            projection.opacities[camera],
            values[camera],
            projection.radii[camera],
            projection.depths[camera],
            settings,
            backdrop[camera],
            None if absgrad is None else absgrad[camera],
            sampler(textures, *views[camera], seen_by(lift, *views[camera], projection.radii[camera], settings)),
        )
        for camera in range(cameras)
    ]
    alphas = torch.stack([alpha for _, alpha in pictures])
    parts: List[Tensor] = list(torch.stack([picture for picture, _ in pictures]).split(widths, dim=-1))
    depth = parts.pop() if settings.depth is not None else None
    if depth is not None and settings.depth == "expected":
        depth = depth / alphas.clamp_min(1e-10)
    return Raster(
        colors=parts[0],
        alphas=alphas,
        depth=depth,
        channels=parts[1] if channels is not None else None,
        info=_info(projection, settings),
    )


def lift(gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, settings: Settings, features: Tensor) -> Lifted:
    """Carry feature maps [C, H, W, D] back to the splats; see :func:`nts_plugins.rasterization.lift`."""
    features = features.to(gaussians.means.dtype)
    sums = features.new_zeros(len(gaussians), features.shape[-1])
    totals = features.new_zeros(len(gaussians))
    for camera, rows, columns, splats, weights in _all_weights(gaussians, viewmats, Ks, settings):
        sums.index_add_(0, splats, weights.T @ features[camera, rows, columns].flatten(0, 1))
        totals.index_add_(0, splats, weights.sum(dim=0))
    return Lifted(features=sums, weights=totals)


def lift_ids(
    gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, settings: Settings, ids: Tensor, n_ids: int
) -> LiftedIds:
    """Carry id maps [C, H, W] back to the splats; see :func:`nts_plugins.rasterization.lift_ids`."""
    table = gaussians.means.new_zeros(len(gaussians), n_ids)
    for camera, rows, columns, splats, weights in _all_weights(gaussians, viewmats, Ks, settings):
        pixel_ids = ids[camera, rows, columns].flatten().long()
        counted = pixel_ids >= 0
        part = table.new_zeros(n_ids, len(splats)).index_add_(0, pixel_ids[counted], weights[counted])
        table.index_add_(0, splats, part.T)
    splat_index, id_index = table.nonzero(as_tuple=True)
    return LiftedIds(splat_index, id_index, table[splat_index, id_index], n_splats=len(gaussians), n_ids=n_ids)


# --- stage 1: from the scene to the image planes -------------------------------------------------------------------


def project(gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, settings: Settings) -> Projection:
    """Project splats with the EWA approximation and decide which of them each camera draws.

    The covariance goes through the Jacobian of the pinhole map. Only inside that Jacobian, x/z and y/z are clamped to
    1.3 times the field of view, where the approximation would otherwise explode.

    Args:
        gaussians: N splats.
        viewmats: [C, 4, 4] world to camera, OpenCV axes.
        Ks: [C, 3, 3] pinhole intrinsics in pixels; they get no gradient.
        settings: image size, planes, blur and rules.
    """
    dtype, rules = gaussians.means.dtype, settings.rules
    viewmats, Ks = viewmats.to(dtype), Ks.detach().to(dtype)
    size = Ks.new_tensor([settings.width, settings.height])
    focal = Ks[:, None, [0, 1], [0, 1]]  # [C, 1, 2]
    principal = Ks[:, None, [0, 1], [2, 2]]
    rotation, translation = viewmats[:, None, :3, :3], viewmats[:, None, :3, 3]  # [C, 1, ...]

    centres = (rotation @ gaussians.means[:, :, None])[..., 0] + translation  # [C, N, 3]
    depths = centres[..., 2]
    visible = (depths >= settings.near_plane) & (depths <= settings.far_plane)
    # Behind the camera the formulas below divide by numbers near zero; a harmless depth keeps gradients finite there.
    z = torch.where(visible, depths, torch.ones_like(depths))[..., None]
    slope = centres[..., :2] / z  # [C, N, 2]
    means2d = focal * slope + principal

    margin = 0.15 * size / focal
    clamped = torch.minimum(torch.maximum(slope, -principal / focal - margin), (size - principal) / focal + margin)
    jacobian = torch.cat([torch.diag_embed(focal / z), (-focal * clamped / z)[..., None]], dim=-1)  # [C, N, 2, 3]
    axes = jacobian @ rotation @ (rotation_matrices(gaussians.quats) * gaussians.scales[:, None, :])  # [C, N, 2, 3]
    covariance = axes @ axes.transpose(-1, -2)
    xx, xy, yy = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    sharp_determinant = xx * yy - xy * xy
    xx, yy = xx + settings.eps2d, yy + settings.eps2d
    determinant = xx * yy - xy * xy
    visible = visible & (determinant > 0)
    determinant = torch.where(visible, determinant, torch.ones_like(determinant))
    conics = torch.stack([yy, -xy, xx], dim=-1) / determinant[..., None]

    opacities = gaussians.opacities.expand_as(depths)
    if settings.antialiased:
        # The floor is far below what can be seen; it keeps the slope of the root finite for splats seen edge-on.
        opacities = opacities * (sharp_determinant / determinant).clamp_min(1e-12).sqrt()
    with torch.no_grad():
        extent = _extents(torch.stack([xx, yy], dim=-1), determinant, opacities, rules)
        if rules.opacity_aware_extent:
            visible = visible & (opacities >= rules.alpha_min)
        visible = visible & (extent > settings.radius_clip).any(dim=-1)
        visible = visible & ((means2d + extent > 0) & (means2d - extent < size)).all(dim=-1)
        extent = torch.where(visible[..., None], extent, torch.zeros_like(extent))
        radii = extent.nan_to_num(0.0).clamp_max(_LARGEST_RADIUS).int()
    # A radius of zero pixels is how gsplat marks what is not drawn.
    visible = (radii > 0).all(dim=-1)
    return Projection(
        radii=radii,
        means2d=torch.where(visible[..., None], means2d, torch.zeros_like(means2d)),
        depths=torch.where(visible, depths, torch.zeros_like(depths)),
        conics=torch.where(visible[..., None], conics, torch.zeros_like(conics)),
        opacities=torch.where(visible, opacities, torch.zeros_like(opacities)),
    )


def _extents(variances: Tensor, determinant: Tensor, opacities: Tensor, rules: Rules) -> Tensor:
    """Half width and half height [..., 2] in whole pixels of the rectangle outside of which a splat is not drawn."""
    if rules.opacity_aware_extent:
        # Beyond this many standard deviations the splat's alpha is below the smallest that is drawn.
        reach = (2 * torch.log((opacities / rules.alpha_min).clamp_min(1.0))).sqrt().clamp_max(3.33)
        return torch.ceil(reach[..., None] * variances.sqrt())
    half_trace = variances.mean(dim=-1)
    longest_variance = half_trace + (half_trace**2 - determinant).clamp_min(0.01).sqrt()
    return torch.ceil(3 * longest_variance.sqrt())[..., None].expand_as(variances)


# --- stage 3: front to back, one camera ----------------------------------------------------------------------------


def composite(
    means2d: Tensor,  # [N, 2]
    conics: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    values: Tensor,  # [N, E]
    radii: Tensor,  # [N, 2]
    depths: Tensor,  # [N]
    settings: Settings,
    background: Optional[Tensor] = None,  # [E]
    absgrad: Optional[Tensor] = None,  # [N, 2]
    residuals: Optional[Callable[[Tensor, Tensor], Residuals]] = None,
) -> Tuple[Tensor, Tensor]:
    """Blend the splats of one camera into a picture of values [H, W, E] and accumulated opacity [H, W, 1].

    Differentiable with respect to means2d, conics, opacities, values and background. When ``absgrad`` is given,
    backward adds to it the sum over pixels of the absolute gradients with respect to ``means2d``. ``residuals`` is
    from ``textures.sampler``: of alpha, and of the first three values, which they do not bring below 0.
    """
    if len(means2d) == 0:
        # The background alone. The sums, all 0, are there for gradients to have a way back.
        nothing = values.sum(dim=0).expand(settings.height, settings.width, -1)
        clear = (means2d.sum() + conics.sum() + opacities.sum()).expand(settings.height, settings.width, 1)
        return nothing if background is None else nothing + (1 - clear) * background, clear
    picture_rows, alpha_rows = [], []
    for rows, tiles in _tile_lists(means2d, radii, depths, settings):
        pictures, alphas = [], []
        for columns, splats in tiles:
            pixels = pixel_centres(rows, columns, means2d)
            centres = means2d[splats].expand(len(pixels), -1, -1)
            if absgrad is not None and centres.requires_grad:
                centres.register_hook(_absolute_sum(absgrad, splats))
            shown = None if residuals is None else residuals(pixels, splats)
            shape_of = (centres, conics[splats], opacities[splats], settings.rules)
            weights, transmittance = splat_weights(pixels, *shape_of, shown)
            blended = weights @ values[splats]
            if shown is not None:
                blended = blended + _blend_residuals(weights, values[splats], shown.colors)
            if background is not None:
                blended = blended + transmittance[:, None] * background
            shape = (rows.stop - rows.start, columns.stop - columns.start, -1)
            pictures.append(blended.reshape(shape[0], shape[1], values.shape[-1]))
            alphas.append((1 - transmittance).reshape(shape))
        picture_rows.append(torch.cat(pictures, dim=1))
        alpha_rows.append(torch.cat(alphas, dim=1))
    return torch.cat(picture_rows), torch.cat(alpha_rows)


def splat_weights(
    pixels: Tensor,  # [P, 2]
    means2d: Tensor,  # [M, 2] or [P, M, 2]
    conics: Tensor,  # [M, 3]
    opacities: Tensor,  # [M]
    rules: Rules,
    residuals: Optional[Residuals] = None,  # of P pixels and M splats
) -> Tuple[Tensor, Tensor]:
    """alpha T [P, M] of M splats, given front to back, in P pixels, and the transmittance [P] behind them all.

    A splat is skipped in pixels where its alpha is below ``rules.alpha_min``. A pixel stops before the splat that
    would leave it with a transmittance of ``rules.transmittance_stop`` or less. Neither decision carries a gradient,
    nor does an alpha at its cap. ``residuals.change`` does the rest to splats that are not skipped before that, which
    are skipped if alpha is too small now.
    """
    dx, dy = (means2d - pixels[:, None]).unbind(dim=-1)  # [P, M]
    exponent = 0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) + conics[:, 1] * dx * dy
    # Rounding can make a thin splat's exponent negative. gsplat skips it there; no overflow may reach backward.
    alpha = opacities * torch.exp(-exponent.clamp_min(0.0))
    seen = (exponent >= 0) & (alpha >= rules.alpha_min)
    # Once: from torch 2.14 on a second cut would let no gradient through to what already lies at the cap.
    alpha = alpha.clamp_max(rules.alpha_cap) if residuals is None else residuals.change(alpha, rules.alpha_cap)
    nothing = torch.zeros_like(alpha)
    alpha = torch.where(seen & (alpha >= rules.alpha_min), alpha, nothing)
    with torch.no_grad():
        # Transmittance never grows, so this mask holds for the first splats of a pixel and for none after them.
        drawn = torch.cumprod(1 - alpha, dim=1) > rules.transmittance_stop
    alpha = torch.where(drawn, alpha, nothing)
    behind = torch.cat([alpha.new_ones(len(alpha), 1), torch.cumprod(1 - alpha, dim=1)], dim=1)  # [P, M + 1]
    return alpha * behind[:, :-1], behind[:, -1]


def _blend_residuals(weights: Tensor, values: Tensor, residuals: Tensor) -> Tensor:
    """[P, E] what residuals [P, M, 3] of the first three of values [M, E] add to a picture with weights [P, M]."""
    colors = values[:, :3]
    floor = colors.clamp_max(0.0)
    sums = colors + residuals
    added = torch.where(sums >= floor, sums, floor) - colors
    return torch.nn.functional.pad((weights[..., None] * added).sum(dim=1), (0, values.shape[1] - 3))


def tile_rectangles(means2d: Tensor, radii: Tensor, settings: Settings) -> Tuple[Tensor, Tensor]:
    """First tile and one past the last tile, each [..., 2] (column, row), that may show a splat of these radii."""
    tile = settings.rules.tile_size
    count = means2d.new_tensor([math.ceil(settings.width / tile), math.ceil(settings.height / tile)])
    first = torch.floor(means2d / tile - radii / tile)
    last = torch.ceil(means2d / tile + radii / tile)
    zero = torch.zeros_like(count)
    return first.maximum(zero).minimum(count).long(), last.maximum(zero).minimum(count).long()


def _tile_lists(
    means2d: Tensor, radii: Tensor, depths: Tensor, settings: Settings
) -> Iterator[Tuple[slice, List[Tuple[slice, Tensor]]]]:
    """Row by row of tiles: the pixel rows, and for each tile its pixel columns and its splats front to back.

    Splats at equal depths keep the order of their indices, as gsplat's stable radix sort does.
    """
    tile = settings.rules.tile_size
    with torch.no_grad():
        order = torch.argsort(depths, stable=True)
        order = order[(radii[order] > 0).all(dim=-1)]
        first, last = tile_rectangles(means2d[order], radii[order], settings)
    for top in range(0, settings.height, tile):
        in_row = (first[:, 1] <= top // tile) & (top // tile < last[:, 1])
        tiles = []
        for left in range(0, settings.width, tile):
            in_tile = in_row & (first[:, 0] <= left // tile) & (left // tile < last[:, 0])
            tiles.append((slice(left, min(left + tile, settings.width)), order[in_tile]))
        yield slice(top, min(top + tile, settings.height)), tiles


def pixel_centres(rows: slice, columns: slice, like: Tensor) -> Tensor:
    """[P, 2] x and y of the centres of a rectangle of pixels, row by row."""
    y = torch.arange(rows.start, rows.stop, dtype=like.dtype, device=like.device) + 0.5
    x = torch.arange(columns.start, columns.stop, dtype=like.dtype, device=like.device) + 0.5
    return torch.cartesian_prod(y, x).flip(-1)


def _absolute_sum(total: Tensor, splats: Tensor):
    """A gradient hook that adds |gradient| [P, M, 2], summed over pixels, to ``total`` [N, 2]."""

    def add(gradient: Tensor) -> None:
        total.index_add_(0, splats, gradient.abs().sum(dim=0))

    return add


# --- shared by the three functions ---------------------------------------------------------------------------------


def _all_weights(
    gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, settings: Settings
) -> Iterator[Tuple[int, slice, slice, Tensor, Tensor]]:
    """Camera, pixel rows, pixel columns, splats [M] and weights [P, M] of every tile of every camera."""
    radii, means2d, depths, conics, opacities = project(gaussians, viewmats, Ks, settings)
    for camera in range(viewmats.shape[0]):
        for rows, tiles in _tile_lists(means2d[camera], radii[camera], depths[camera], settings):
            for columns, splats in tiles:
                pixels = pixel_centres(rows, columns, means2d)
                weights, _ = splat_weights(
                    pixels,
                    means2d[camera, splats],
                    conics[camera, splats],
                    opacities[camera, splats],
                    settings.rules,
                )
                yield camera, rows, columns, splats, weights


def _or_zeros(background: Optional[Tensor], values: Tensor) -> Tensor:
    """The background [C, E] of values [C, N, E], black where none is given."""
    if background is None:
        return values.new_zeros(values.shape[0], values.shape[-1])
    return background.to(values.dtype)


def _info(projection: Projection, settings: Settings) -> dict:
    """The record that gsplat's strategies read, with ``radii`` in the shape of the rules' gsplat version."""
    tile = settings.rules.tile_size
    return {
        "means2d": projection.means2d,
        "radii": projection.radii if settings.rules.radii_per_axis else projection.radii.amax(dim=-1),
        "depths": projection.depths,
        "conics": projection.conics,
        "opacities": projection.opacities,
        "gaussian_ids": None,
        "camera_ids": None,
        "width": settings.width,
        "height": settings.height,
        "n_cameras": projection.radii.shape[0],
        "tile_size": tile,
        "tile_width": math.ceil(settings.width / tile),
        "tile_height": math.ceil(settings.height / tile),
    }
