# SPDX-License-Identifier: Apache-2.0
"""Local textures on splats: where a ray meets a splat, and what its texture shows there, in plain torch.

Source: Wang, Wang, Mihajlovic, Tang 2025 (Neural Texture Splatting, arXiv 2511.18873); the point where a ray meets a
splat is that of Yu et al. 2024 (Gaussian Opacity Fields). Written to be read: the reference backend draws with it, and
every other backend is tested against that.
"""

from dataclasses import dataclass, replace
from typing import Any, Callable, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.gaussians.rotations import rotation_matrices
from nts_plugins.rasterization._types import Settings

EXTENT = 3.0
"""A texture covers this many standard deviations on each side of its splat's centre; beyond, it is 0."""


@dataclass(frozen=True)
class Textures:
    """Residuals of colour (red, green, blue) and opacity on M of N splats, each on P planes through its centre: the
    three that its axes span, or a single one of them.

    Plane k is spanned by the splat's own axes k and k + 1 (xy, yz, zx). Its T x T texels are products of one vector
    along each axis, the rank-one part of a CANDECOMP/PARAFAC factorisation: texel (i, j) of plane k is
    ``vectors[k, i, 0] * vectors[(k + 1) % P, j, 1]``, channel by channel. The first and the last texel lie at -+3
    standard deviations, and between texels a plane is interpolated linearly. A texture is the weighted sum of the
    planes at the point in which the ray comes nearest to the splat's centre, measured in standard deviations.
    """

    vectors: Tensor
    """[M, P (3 or 1), T, 2 (as the first axis of a plane, as the second), 4 (red, green, blue, opacity)]; T >= 2."""
    splats: Tensor
    """[M] int64: which splat each of them is on; no splat has two."""
    weights: Optional[Tensor] = None
    """[M, P] of the planes; None takes their mean."""
    faces: Optional[Tensor] = None
    """[M] int64 which plane, 0 to 2, each texture is on where it has a single one; None where it has all three."""
    product_tanh: bool = False
    """Take tanh of every texel, after the product, as the paper does. The products of bounded vectors are bounded too,
    and then two interpolations of vectors and a product give the interpolation of texels, which is much less work."""
    amplitudes: Tuple[float, float, float, float] = (1.0, 1.0, 1.0, 0.2)
    """Factors on the four channels, after tanh. The paper's."""
    moves_splats: bool = False
    """Let gradients pass through the point to positions, sizes and rotations. The paper takes it as given."""

    def __len__(self) -> int:
        return len(self.splats)

    @property
    def n_planes(self) -> int:
        """P, 3 or 1."""
        return self.vectors.shape[1]

    @property
    def resolution(self) -> int:
        """T, texels along each axis."""
        return self.vectors.shape[2]

    def plane_weights(self) -> Tensor:
        """[M, P] the weights, also where none are given."""
        if self.weights is not None:
            return self.weights
        return self.vectors.new_full((len(self), self.n_planes), 1 / self.n_planes)

    def axes(self) -> Optional[Tensor]:
        """[M, 3] a splat's axes in the order in which the plane of its texture comes first; None with three planes."""
        if self.faces is None:
            return None
        return (self.faces[:, None] + torch.arange(3, device=self.faces.device)) % 3

    def map(self, function: Callable[[Tensor], Tensor]) -> "Textures":
        """The same with ``function`` applied to vectors and weights."""
        weights = None if self.weights is None else function(self.weights)
        return replace(self, vectors=function(self.vectors), weights=weights)

    def select(self, index: Tensor) -> "Textures":
        """The textures picked by a boolean mask [M] or by integer indices."""
        vectors, splats, weights, faces = (
            None if each is None else each[index] for each in (self.vectors, self.splats, self.weights, self.faces)
        )
        return replace(self, vectors=vectors, splats=splats, weights=weights, faces=faces)


class Seen(NamedTuple):
    """What one camera draws of N splats, so that textures are made only for those that are seen."""

    radii: Tensor
    """[N, 2] in pixels, half width and half height, 0 where the camera does not draw a splat."""
    coverage: Callable[[], Tensor]
    """[N] how much of the picture each splat makes up without textures, as ``rasterization.coverage`` has it; found out
    when it is asked for."""


TextureSource = Union[Textures, Callable[[Seen], Optional[Textures]]]
"""Textures, the same for every camera; or a function that is called once for each camera and gives that camera's."""


def textures_of(source: Optional[TextureSource], seen: Seen) -> Optional[Textures]:
    """The textures of a camera; None where there are none."""
    if source is None or isinstance(source, Textures):
        return source
    textures = source(seen)
    if textures is None or len(textures) == 0:
        return None
    check_textures(textures, len(seen.radii), values=False)
    return textures


def seen_by(
    lift: Callable[..., Any], gaussians: Gaussians, viewmat: Tensor, K: Tensor, radii: Tensor, settings: Settings
) -> Seen:
    """What a camera draws with these radii, for backends that know nothing better than their ``lift``."""

    @torch.no_grad()
    def coverage() -> Tensor:
        alone = replace(settings, depth=None, absgrad=False)
        pixels = gaussians.means.new_ones(1, settings.height, settings.width, 1)
        return lift(gaussians.detach(), viewmat.detach()[None], K[None], alone, pixels).weights

    return Seen(radii, coverage)


def check_textures(textures: Textures, n_splats: int, values: bool = True) -> None:
    """Shapes, and on the CPU, if wanted, the numbers of the splats too.

    Raises:
        ValueError: naming what does not fit.
    """
    vectors, splats, weights, faces = textures.vectors, textures.splats, textures.weights, textures.faces
    for name, value in (("splats", splats), ("weights", weights), ("faces", faces)):
        if value is not None and value.device != vectors.device:
            raise ValueError(f"Textures.{name} is on '{value.device}', but the vectors are on '{vectors.device}'.")
    if splats.ndim != 1 or splats.is_floating_point() or splats.dtype == torch.bool:
        raise ValueError(f"Textures.splats has shape {tuple(splats.shape)} and {splats.dtype}, expected [M] integers.")
    m, planes = len(splats), 3 if faces is None else 1
    if vectors.ndim != 5 or (len(vectors), vectors.shape[1], *vectors.shape[3:]) != (m, planes, 2, 4):
        raise ValueError(f"Textures.vectors has shape {tuple(vectors.shape)}, expected [{m}, {planes}, T, 2, 4].")
    if vectors.shape[2] < 2:
        raise ValueError(f"Textures.vectors has {vectors.shape[2]} texels along an axis; at least 2 are needed.")
    if weights is not None and weights.shape != (m, planes):
        raise ValueError(f"Textures.weights has shape {tuple(weights.shape)}, expected [{m}, {planes}].")
    if faces is not None and (faces.shape != (m,) or faces.dtype != torch.int64):
        raise ValueError(f"Textures.faces has shape {tuple(faces.shape)} and {faces.dtype}, expected [{m}] int64.")
    if splats.device.type != "cpu" or m == 0 or not values:
        return
    if int(splats.min()) < 0 or int(splats.max()) >= n_splats:
        raise ValueError(f"Textures.splats must lie from 0 to {n_splats - 1}.")
    if len(torch.unique(splats)) < m:
        raise ValueError("Textures.splats names a splat twice.")
    if faces is not None and (int(faces.min()) < 0 or int(faces.max()) > 2):
        raise ValueError("Textures.faces must be 0, 1 or 2.")


def splat_points(gaussians: Gaussians, viewmat: Tensor, K: Tensor, pixels: Tensor) -> Tensor:
    """[P, N, 3] points in which the rays of P pixels come nearest to the centres of N splats.

    In a splat's own frame, in units of its standard deviations: with the ray o + t d carried there, o' = S^-1 R^T
    (o - mean) and d' = S^-1 R^T d, it is o' - (o'.d' / d'.d') d'. Differentiable with respect to means, quats, scales
    and viewmat.

    Args:
        gaussians: N splats.
        viewmat: [4, 4] world to camera, OpenCV axes.
        K: [3, 3] pinhole intrinsics in pixels.
        pixels: [P, 2] x, y.
    """
    viewmat, K = viewmat.to(gaussians.means.dtype), K.to(gaussians.means.dtype)
    slopes = (pixels - K[[0, 1], [2, 2]]) / K[[0, 1], [0, 1]]
    rays = torch.cat([slopes, torch.ones_like(slopes[:, :1])], dim=-1)  # [P, 3] in the camera's frame
    to_splat = (rotation_matrices(gaussians.quats) / gaussians.scales[:, None, :]).transpose(-1, -2)  # [N, 3, 3]
    from_camera = to_splat @ viewmat[:3, :3].T
    centres = gaussians.means @ viewmat[:3, :3].T + viewmat[:3, 3]
    origins = -(from_camera @ centres[:, :, None])[..., 0]  # [N, 3]
    directions = torch.einsum("nij,pj->pni", from_camera, rays)  # [P, N, 3]
    along = (origins * directions).sum(dim=-1) / directions.square().sum(dim=-1)
    return origins - along[..., None] * directions


def splat_rays(textures: Textures, gaussians: Gaussians, viewmat: Tensor, K: Tensor) -> Tensor:
    """[M, 17] float64: how a camera's rays meet the splats that have textures, fit for arithmetic in float32.

    A ray at the offset (x, y) in pixels from a splat's centre has the direction d = c + x s + y t in the splat's own
    frame, in standard deviations (of whatever length), and meets the splat at d x w / d.d with w = x (s x c) + y (t x
    c). The columns are the centre in pixels (2), s, t, c, s x c and t x c. It is the point of :func:`splat_points`,
    which on flat splats is a small difference of large numbers. Where a texture has a single plane, the frame's axes
    are turned so that this plane is xy.

    Differentiable with respect to means, quats, scales and viewmat where ``textures.moves_splats``.
    """
    with torch.set_grad_enabled(textures.moves_splats and torch.is_grad_enabled()):
        chosen = textures.splats
        means, quats = gaussians.means[chosen].double(), gaussians.quats[chosen].double()
        scales, viewmat, K = gaussians.scales[chosen].double(), viewmat.double(), K.detach().double()
        to_splat = (rotation_matrices(quats) / scales[:, None, :]).transpose(-1, -2)
        axes = textures.axes()
        if axes is not None:
            to_splat = to_splat.gather(1, axes[..., None].expand(-1, -1, 3))
        to_splat = to_splat @ viewmat[:3, :3].T
        centres = means @ viewmat[:3, :3].T + viewmat[:3, 3]
        focal, principal = K[[0, 1], [0, 1]], K[[0, 1], [2, 2]]
        depth = centres[:, 2:]
        means2d = focal * centres[:, :2] / depth + principal
        middle = (to_splat @ centres[..., None])[..., 0]
        # The point does not depend on how long directions are, and tiny splats' would overflow.
        middle, length = middle / middle.norm(dim=1, keepdim=True).detach(), middle.norm(dim=1).detach()
        steps = to_splat[..., :2] * (depth[:, None] / focal)  # [M, 3, 2]
        turns = torch.linalg.cross(steps, middle[..., None].expand_as(steps), dim=1)
        steps = steps / length[:, None, None]
        columns = (means2d, steps[..., 0], steps[..., 1], middle, turns[..., 0], turns[..., 1])
        return torch.cat(columns, dim=-1)


def sample(textures: Textures, points: Tensor) -> Tensor:
    """[pixels, M, 4] what M textures show at points [pixels, M, 3] in standard deviations; 0 outside of a plane.

    Differentiable with respect to vectors, weights and points.
    """
    axes = textures.axes()
    if axes is not None:
        points = points.gather(2, axes.expand_as(points))
    last = textures.resolution - 1
    places = (points / EXTENT + 1) / 2 * last  # in texels
    inside = (places >= 0) & (places <= last)
    low = places.detach().floor().clamp(0, last - 1)
    fraction = (places - low)[..., None]
    low = low.long()
    m = torch.arange(len(textures), device=points.device)
    weights, planes = textures.plane_weights(), textures.n_planes
    total = points.new_zeros((*points.shape[:2], 4))
    for k in range(planes):
        after = (k + 1) % 3
        texels = textures.vectors[:, k, :, None, 0] * textures.vectors[:, after % planes, None, :, 1]  # [M, T, T, 4]
        texels = texels.tanh() if textures.product_tanh else texels
        i, j, a, b = low[..., k], low[..., after], fraction[..., k, :], fraction[..., after, :]
        first = texels[m, i, j] * (1 - b) + texels[m, i, j + 1] * b
        second = texels[m, i + 1, j] * (1 - b) + texels[m, i + 1, j + 1] * b
        plane = (first * (1 - a) + second * a) * (inside[..., k] & inside[..., after])[..., None]
        total = total + plane * weights[:, k, None]
    return total * total.new_tensor(textures.amplitudes)


class _Capped(torch.autograd.Function):
    """Values cut to a cap, with the gradient of ``Residuals.change``."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, cap: float) -> Tensor:
        ctx.save_for_backward(values > cap)
        return values.clamp_max(cap)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None]:  # type: ignore[override]
        (cut,) = ctx.saved_tensors
        return torch.where(cut, grad.clamp_min(0.0), grad), None


class Residuals(NamedTuple):
    """What textures change of S splats in P pixels."""

    colors: Tensor
    """[P, S, 3] added to red, green and blue."""
    opacity: Tensor
    """[P, S] added to alpha."""
    textured: Tensor
    """[S] bool, which splats have a texture; the residuals of the others are 0."""

    def change(self, alpha: Tensor, cap: float) -> Tensor:
        """Alphas [P, S] with the residuals, cut to the cap.

        A gradient that would lower the alpha of a splat with a texture passes the cut. Such splats lie at the cap in
        many pixels, not only near their centre, and nothing else would tell them that they cover too much. In the
        program of Wang et al. 2025 all gradients pass; one that would raise an alpha there has nothing to gain.
        """
        alpha = alpha + self.opacity
        return torch.where(self.textured, _Capped.apply(alpha, cap), alpha.clamp_max(cap))


def sampler(
    source: Optional[TextureSource], gaussians: Gaussians, viewmat: Tensor, K: Tensor, seen: Seen
) -> Optional[Callable[[Tensor, Tensor], Residuals]]:
    """A function of pixels [P, 2] and splats [S] (indices into N) that gives the residuals of one camera; None where no
    splat has a texture."""
    textures = textures_of(source, seen)
    if textures is None:
        return None
    place = torch.full((len(gaussians),), -1, device=textures.splats.device)
    place[textures.splats] = torch.arange(len(textures), device=place.device)

    def residuals(pixels: Tensor, splats: Tensor) -> Residuals:
        own = place[splats]
        chosen = own >= 0
        # A small difference of large numbers: in float32 it would lose several digits.
        own_splats = gaussians.select(splats[chosen]).to(torch.float64)
        points = splat_points(own_splats, viewmat, K, pixels.double()).to(pixels.dtype)
        points = points if textures.moves_splats else points.detach()
        mine = textures.select(own[chosen])
        found = pixels.new_zeros(len(pixels), len(splats), 4)
        found = found.index_copy(1, chosen.nonzero()[:, 0], sample(mine, points))
        return Residuals(found[..., :3], found[..., 3], chosen)

    return residuals
