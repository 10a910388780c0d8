# SPDX-License-Identifier: Apache-2.0
"""Synthetic scenes that load a rasterizer as real training does, before it and after it.

A room of 6 x 4 x 6 units with six balls. *Init-like* is what structure from motion hands over: round splats as large
as the gaps between points, all of opacity 0.1, so that no pixel ever stops early. *Trained-like* is what training
turns it into: flat discs on the surfaces, sizes spread over an order of magnitude, opacities mostly near 0 or 1, a
few floaters in the air.
"""

import math
from dataclasses import dataclass
from typing import Literal, Tuple

import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians

Kind = Literal["trained", "init"]
ROOM = (6.0, 4.0, 6.0)
"""Width, height and depth of the room; the camera stands at the front, which is open."""
BALLS = (
    *((1.2, 2.9, 4.6, 0.7), (2.4, 1.4, 3.0, 0.45), (3.1, 2.7, 2.3, 0.4)),
    *((3.6, 1.1, 4.9, 0.6), (4.4, 2.4, 3.4, 0.55), (5.1, 3.1, 5.2, 0.75)),
)
"""Centre and radius of each ball."""
SIZES: Tuple[Tuple[int, int], ...] = ((400, 300), (800, 600), (1440, 1080))


@dataclass(frozen=True)
class Scene:
    """Splats and the one camera that looks at them."""

    name: str
    gaussians: Gaussians
    viewmats: Tensor
    """[1, 4, 4]"""
    Ks: Tensor
    """[1, 3, 3]"""
    width: int
    height: int

    def to(self, dtype: torch.dtype) -> "Scene":
        """The same scene in another precision."""
        moved = self.gaussians.to(dtype), self.viewmats.to(dtype), self.Ks.to(dtype)
        return Scene(self.name, *moved, self.width, self.height)


def room(n: int, kind: Kind = "trained", width: int = 400, height: int = 300, seed: int = 0) -> Scene:
    """A room of ``n`` splats with spherical harmonics of degree 3, float32.

    About two thirds of the splats are in view. Half lie on walls, two fifths on balls, the rest float in the air.
    """
    generator = torch.Generator().manual_seed(seed)
    floating, on_balls = int(0.08 * n), int(0.42 * n)
    walls = _walls(n - floating - on_balls, generator)
    parts = [walls, _balls(on_balls, generator), _air(floating, walls[2], generator)]
    means, normals, spacing = (torch.cat(columns) for columns in zip(*parts, strict=True))
    if kind == "init":
        scales = (0.9 * spacing)[:, None].expand(n, 3)
        quats = torch.randn(n, 4, generator=generator)
        opacities = torch.full((n,), 0.1)
    else:
        along = 0.55 * spacing[:, None] * torch.exp(0.6 * torch.randn(n, 2, generator=generator))
        across = 0.08 * spacing[:, None] * torch.exp(0.5 * torch.randn(n, 1, generator=generator))
        scales = torch.cat([along, across], dim=1)
        quats = _lay_flat(normals, 2 * math.pi * torch.rand(n, generator=generator))
        opacities = torch.sigmoid(1.9 * torch.randn(n, generator=generator))
    sh = 0.1 * torch.randn(n, 16, 3, generator=generator)
    sh[:, 0] = 3.0 * torch.rand(n, 3, generator=generator) - 1.5
    # Training order has nothing to do with place: neighbours in memory must not be neighbours in space.
    shuffle = torch.randperm(n, generator=generator)
    gaussians = Gaussians(means, quats, scales.contiguous(), opacities, sh=sh).select(shuffle)
    viewmats, Ks = _camera(width, height)
    return Scene(f"{kind} {n // 1000}k" if n >= 1000 else f"{kind} {n}", gaussians, viewmats, Ks, width, height)


def _walls(n: int, generator: torch.Generator) -> Tuple[Tensor, Tensor, Tensor]:
    """Points, normals and point spacing on the five walls that the camera can see."""
    size = torch.tensor(ROOM)
    # Axis that is constant on the wall, and where along it the wall stands.
    axes, places = torch.tensor([2, 0, 0, 1, 1]), torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    areas = size.prod() / size[axes]
    wall = torch.multinomial(areas, n, replacement=True, generator=generator)
    points = torch.rand(n, 3, generator=generator)
    points[torch.arange(n), axes[wall]] = places[wall]
    normals = torch.nn.functional.one_hot(axes[wall], 3).float()
    return points * size, normals, (areas.sum() / max(n, 1)).sqrt().expand(n)


def _balls(n: int, generator: torch.Generator) -> Tuple[Tensor, Tensor, Tensor]:
    centres, radii = torch.tensor(BALLS).split([3, 1], dim=1)
    radii = radii[:, 0]
    ball = torch.multinomial(radii**2, n, replacement=True, generator=generator)
    normals = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=1)
    area = 4 * math.pi * (radii**2).sum()
    return centres[ball] + radii[ball, None] * normals, normals, (area / max(n, 1)).sqrt().expand(n)


def _air(n: int, spacing: Tensor, generator: torch.Generator) -> Tuple[Tensor, Tensor, Tensor]:
    """Points anywhere in the room, as large as those on the walls whose ``spacing`` is given."""
    points = torch.rand(n, 3, generator=generator) * torch.tensor(ROOM)
    normals = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=1)
    return points, normals, spacing[:1].expand(n)


def _lay_flat(normals: Tensor, angles: Tensor) -> Tensor:
    """Quaternions [N, 4] that turn a splat's third axis to ``normals`` after a spin by ``angles`` around it."""
    x, y, z = normals.unbind(dim=1)
    # The shortest turn from (0, 0, 1); the tiny number picks one of the equally short turns to (0, 0, -1).
    turn = torch.nn.functional.normalize(torch.stack([1 + z, 1e-6 - y, x, torch.zeros_like(z)], dim=1), dim=1)
    c, s = torch.cos(angles / 2), torch.sin(angles / 2)
    w, i, j, _ = turn.unbind(dim=1)
    return torch.stack([w * c, i * c + j * s, j * c - i * s, w * s], dim=1)


def _camera(width: int, height: int) -> Tuple[Tensor, Tensor]:
    viewmat = torch.eye(4)
    viewmat[:3, 3] = -torch.tensor([3.0, 2.0, 0.4])
    focal = 0.8 * width
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return viewmat[None], K[None]
