# SPDX-License-Identifier: Apache-2.0
"""What goes through the door to pixels, and what comes back."""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from torch import Tensor


@dataclass(frozen=True)
class Rules:
    """The constants in which versions of gsplat differ; :mod:`nts_plugins.rasterization.rules` holds the table."""

    name: str
    alpha_cap: float
    """Largest opacity of a splat in a pixel. Above it geometry and opacity get no gradient; with a texture, one that
    lowers it alone, see ``textures.Residuals.change``."""
    opacity_aware_extent: bool
    """False: a square of 3 sigma of the longer axis. True: per axis min(3.33, sqrt(2 ln(255 o))) sigma."""
    radii_per_axis: bool
    """Whether ``info["radii"]`` is [C, N, 2] rather than [C, N]."""
    alpha_min: float = 1.0 / 255.0
    """A splat fainter than this in a pixel is skipped there."""
    transmittance_stop: float = 1e-4
    """A pixel is finished before the splat that would bring its transmittance to this or below."""
    tile_size: int = 16
    """Pixels along the side of a tile, whose splats are listed together; ``info`` names it."""


@dataclass(frozen=True)
class Settings:
    """How to draw; one value for all cameras of a call. Checked by :func:`nts_plugins.rasterization.rasterize`."""

    width: int
    height: int
    rules: Rules
    sh_degree: Optional[int] = None
    """Spherical harmonics degree to evaluate; None when the Gaussians carry plain colours."""
    depth: Optional[str] = None
    """None, "accumulated" (sum of alpha T z) or "expected" (that, divided by the accumulated opacity)."""
    antialiased: bool = False
    """Multiply opacities by sqrt(det / det of the blurred covariance), Mip-Splatting's compensation."""
    absgrad: bool = False
    """Also leave the sum of absolute pixel gradients in ``info["means2d"].absgrad`` after backward."""
    near_plane: float = 0.01
    """Splats whose centre is nearer to the camera's plane are not drawn, scene units."""
    far_plane: float = 1e10
    """The same for farther ones."""
    eps2d: float = 0.3
    """Pixels squared added to the diagonal of every projected covariance."""
    radius_clip: float = 0.0
    """Splats whose pixel radius is this or less are not drawn."""


@dataclass(frozen=True)
class Raster:
    """Pictures of C cameras and the record that densification reads."""

    colors: Tensor
    """[C, H, W, D]"""
    alphas: Tensor
    """[C, H, W, 1] accumulated opacity, 1 - final transmittance."""
    depth: Optional[Tensor] = None
    """[C, H, W, 1] depth along the camera's z axis, scene units; "expected" depth is 0 where nothing was hit."""
    channels: Optional[Tensor] = None
    """[C, H, W, E]"""
    info: Dict[str, Any] = field(default_factory=dict)
    """gsplat's record: means2d [C, N, 2] (grad retained by strategies), radii, depths [C, N], conics [C, N, 3],
    opacities [C, N], gaussian_ids None, camera_ids None, width, height, n_cameras, tile_size, tile_width,
    tile_height."""


@dataclass(frozen=True)
class Lifted:
    """What :func:`lift` gives each splat, summed over pixels and cameras."""

    features: Tensor
    """[N, D] sum of alpha T times the feature of the pixel."""
    weights: Tensor
    """[N] sum of alpha T. features / weights is the weighted mean."""


@dataclass(frozen=True)
class LiftedIds:
    """The sparse splat x id weights that :func:`lift_ids` collects: M entries sorted by splat, then by id."""

    splats: Tensor
    """[M] int64 row, the splat."""
    ids: Tensor
    """[M] int64 column, the id."""
    weights: Tensor
    """[M] sum of alpha T over the pixels that carry the id."""
    n_splats: int
    n_ids: int

    def to_sparse(self) -> Tensor:
        """The same as a torch sparse COO tensor [n_splats, n_ids]."""
        import torch

        indices = torch.stack([self.splats, self.ids])
        size = (self.n_splats, self.n_ids)
        return torch.sparse_coo_tensor(indices, self.weights, size, check_invariants=False).coalesce()
