# SPDX-License-Identifier: Apache-2.0
"""Where training starts: splats made from seed points, or from nothing but a cube.

Both functions return the parameters a trainer keeps, under nerfstudio's names, as plain float32 tensors on the seed
points' device: ``means`` [N, 3], ``scales`` [N, 3] (log), ``quats`` [N, 4] (w, x, y, z, unit), ``opacities`` [N, 1]
(logit), ``features_dc`` [N, 3] and ``features_rest`` [N, K - 1, 3] (spherical harmonics, K = (degree + 1)^2).
Random numbers come from torch's global generator.
"""

import math
from typing import Dict, Optional

import torch
from torch import Tensor

from nts_plugins.errors import InputError

SH_CONSTANT = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi))."""
NEIGHBOURS = 3
LONE_POINT_SCALE = 0.1
"""Scale, in scene units, where no neighbour tells one. nerfstudio's cameras lie within the unit cube."""
SMALLEST_SPACING = 1e-4
"""Scales are at least this part of the median one, so that near-duplicates do not start as invisible specks."""


def rgb_to_sh(rgb: Tensor) -> Tensor:
    """Constant spherical harmonics coefficient of a colour in [0, 1]. Differentiable."""
    return (rgb - 0.5) / SH_CONSTANT


def sh_to_rgb(coefficient: Tensor) -> Tensor:
    """The inverse of :func:`rgb_to_sh`. Differentiable."""
    return coefficient * SH_CONSTANT + 0.5


def from_points(
    xyz: Tensor, rgb: Optional[Tensor] = None, *, sh_degree: int = 3, opacity: float = 0.1, scale: float = 1.0
) -> Dict[str, Tensor]:
    """One splat at each seed point, as wide as its distance to its neighbours (3DGS, section 5.1).

    Args:
        xyz: [N, 3] positions, scene units.
        rgb: [N, 3] colours from 0 to 255, integer or float; None (or no rows) is grey.
        sh_degree: 0 to 3; what is above the constant band starts at zero.
        opacity: in (0, 1), of every splat.
        scale: factor on the mean distance to the three nearest neighbours.

    Raises:
        InputError: no points, points that are not finite, colours that do not match the points, an opacity or a scale
            out of range.
    """
    if not 0.0 < opacity < 1.0:
        raise InputError(f"Splats cannot start with an opacity of {opacity}; it must lie between 0 and 1.")
    if not 0.0 < scale < math.inf:
        raise InputError(f"Splats cannot start {scale} times as wide as their spacing; that must be above 0.")
    if xyz.ndim != 2 or xyz.shape[-1] != 3 or len(xyz) == 0:
        raise InputError(f"Seed points have shape {tuple(xyz.shape)}, expected [N, 3] with N > 0.")
    broken = int((~torch.isfinite(xyz)).any(dim=-1).sum())
    if broken:
        raise InputError(f"{broken} of {len(xyz)} seed points are not finite (NaN or infinite). Remove them.")
    if rgb is None or len(rgb) == 0:
        rgb = torch.full_like(xyz, 127.5, dtype=torch.float32)
    if rgb.shape != xyz.shape:
        raise InputError(f"Seed colours have shape {tuple(rgb.shape)}, but seed points have {tuple(xyz.shape)}.")
    n = len(xyz)
    means = xyz.detach().float().clone()
    spacing = (neighbour_distance(means) * scale).log()
    return {
        "means": means,
        "scales": spacing[:, None].repeat(1, 3),
        "quats": torch.nn.functional.normalize(torch.randn(n, 4), dim=-1).to(means.device),
        "opacities": torch.full((n, 1), math.log(opacity / (1.0 - opacity)), device=means.device),
        "features_dc": rgb_to_sh(rgb.detach().to(means) / 255.0),
        "features_rest": torch.zeros(n, (sh_degree + 1) ** 2 - 1, 3, device=means.device),
    }


def random_in_cube(
    count: int = 50_000, side: float = 10.0, *, sh_degree: int = 3, opacity: float = 0.1, scale: float = 1.0
) -> Dict[str, Tensor]:
    """Splats of random colour, spread evenly over a cube around the origin, for scenes without seed points.

    Args:
        count: number of splats.
        side: length of the cube's edges, scene units.
        sh_degree: see :func:`from_points`, as for ``opacity`` and ``scale``.

    Raises:
        InputError: a count or a side that is not positive.
    """
    if count < 1 or side <= 0:
        raise InputError(f"Cannot spread {count} splats over a cube of side {side}: both must be positive.")
    xyz = (torch.rand(count, 3) - 0.5) * side
    return from_points(xyz, torch.rand(count, 3) * 255.0, sh_degree=sh_degree, opacity=opacity, scale=scale)


def neighbour_distance(xyz: Tensor) -> Tensor:
    """Mean distance [N] of each point [N, 3] to its three nearest neighbours at other places; always positive.

    Points at one place share a distance, fewer than four places use what neighbours there are, and a single place
    gets 0.1. Runs on the CPU; not differentiable.
    """
    import numpy as np
    from scipy.spatial import KDTree

    places, of_point = np.unique(xyz.detach().double().cpu().numpy(), axis=0, return_inverse=True)
    k = min(NEIGHBOURS, len(places) - 1)
    if k == 0:
        distance = np.full(len(places), LONE_POINT_SCALE)
    else:
        distance = KDTree(places).query(places, k=k + 1)[0][:, 1:].mean(axis=1)
        distance = np.maximum(distance, SMALLEST_SPACING * np.median(distance))
    return torch.from_numpy(distance[of_point.reshape(-1)]).to(xyz)
