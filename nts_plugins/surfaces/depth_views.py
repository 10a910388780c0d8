# SPDX-License-Identifier: Apache-2.0
"""Cameras that know how far away what they see is: the points of their pixels, and what two of them both see."""

from dataclasses import dataclass
from typing import Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class DepthView:
    """A pinhole camera with a depth of each pixel."""

    depth: Tensor
    """[H, W] along the viewing axis, scene units; 0 where it is not known."""
    viewmat: Tensor
    """[4, 4] world to camera, OpenCV axes, rigid."""
    K: Tensor
    """[3, 3] intrinsics, pixels, pixel centres at +0.5."""

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width."""
        return int(self.depth.shape[0]), int(self.depth.shape[1])

    def pixels(self) -> Tensor:
        """[H W, 2] (x, y) centres of all pixels, row by row."""
        rows, columns = (torch.arange(side).to(self.depth) + 0.5 for side in self.size)
        return torch.stack([columns.repeat(len(rows)), rows.repeat_interleave(len(columns))], dim=1)

    def depth_at(self, pixels: Tensor) -> Tensor:
        """[M] depth of the pixels that places [M, 2] (x, y) lie in; 0 outside of the picture."""
        inside = ((pixels >= 0) & (pixels < pixels.new_tensor(self.size[::-1]))).all(dim=1)
        columns, rows = torch.where(inside[:, None], pixels, 0.0).floor().long().unbind(dim=1)
        return torch.where(inside, self.depth[rows, columns], 0.0)

    def points_at(self, pixels: Tensor) -> Tensor:
        """[M, 3] what is seen at places [M, 2] (x, y), world frame; the camera's own place where depth is not known."""
        rays = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1) @ torch.linalg.inv(self.K).T
        return (rays * self.depth_at(pixels)[:, None] - self.viewmat[:3, 3]) @ self.viewmat[:3, :3]

    def project(self, points: Tensor) -> Tuple[Tensor, Tensor]:
        """Places [M, 2] (x, y) and depth [M] of points [M, 3]; places mean nothing where depth is not above 0."""
        local = points @ self.viewmat[:3, :3].T + self.viewmat[:3, 3]
        depth = local[:, 2]
        pixels = local @ self.K.T
        return pixels[:, :2] / torch.where(depth > 0, depth, 1.0)[:, None], depth

    def in_view(self, points: Tensor) -> Tensor:
        """[M] bool: which points lie within the picture, hidden or not."""
        return self._within(*self.project(points))

    def _within(self, pixels: Tensor, depth: Tensor) -> Tensor:
        return (depth > 0) & ((pixels >= 0) & (pixels < pixels.new_tensor(self.size[::-1]))).all(dim=1)


def places_in(here: DepthView, there: DepthView, pixels: Tensor, tolerance: float) -> Tuple[Tensor, Tensor]:
    """Where another view shows what one view shows.

    Args:
        here: a view.
        there: another one.
        pixels: [M, 2] places (x, y) in the first.
        tolerance: largest difference of two depths of one place, relative to what is seen there.

    Returns:
        [M, 2] places in the second; and [M] bool, whether both see the same: depth is known here and there, and what is
        seen there is as far away as what is seen here.
    """
    places, distance = there.project(here.points_at(pixels))
    seen = there.depth_at(torch.where(distance[:, None] > 0, places, -1.0))
    known = (here.depth_at(pixels) > 0) & (seen > 0)
    return places, known & ((seen - distance).abs() <= tolerance * seen)


def covisible(view: DepthView, others: Sequence[DepthView], tolerance: float = 0.01) -> Tensor:
    """[H, W] bool: where some other view sees what a view sees.

    With two or three photographs of a scene, a test view also shows what none of them has: what a method makes up there
    says nothing about it. Feat2GS (Chen et al., CVPR 2025) leaves such pixels out.

    Args:
        view: whose pixels are asked about.
        others: the training views.
        tolerance: see :func:`places_in`. (Feat2GS takes 0.01 in the unit of its scenes.)
    """
    pixels = view.pixels()
    found = torch.zeros(len(pixels), dtype=torch.bool, device=view.depth.device)
    for other in others:
        found |= places_in(view, other, pixels, tolerance)[1]
    return found.reshape(view.size)


def splatted_depth(view: DepthView, others: Sequence[DepthView], closing: int = 1) -> Tensor:
    """[H, W] depth of a view as others have seen it: the nearest of their points in each pixel; 0 where there is none.

    Small gaps between points are closed, as wide as points lie apart, from the nearest points around them.

    Args:
        view: the camera; its depth is not looked at.
        others: the training views.
        closing: reach of that, pixels.
    """
    height, width = view.size
    nearest = torch.full((height * width,), torch.inf, device=view.depth.device, dtype=view.depth.dtype)
    for other in others:
        pixels, depth = view.project(other.points_at(other.pixels()[other.depth.reshape(-1) > 0]))
        inside = view._within(pixels, depth)
        columns, rows = pixels[inside].floor().long().unbind(dim=1)
        nearest.scatter_reduce_(0, rows * width + columns, depth[inside], "amin")
    drawn = nearest.view(height, width)
    if closing:
        window = 2 * closing + 1
        # A gap is closed where points lie on both sides of it: dilate by the nearest, then keep what erosion leaves.
        filled = -F.max_pool2d(-drawn[None, None], window, 1, closing)
        solid = F.max_pool2d((~torch.isfinite(filled)).to(drawn), window, 1, closing)[0, 0] < 0.5
        drawn = torch.where(torch.isfinite(drawn), drawn, torch.where(solid, filled[0, 0], torch.inf))
    return torch.where(torch.isfinite(drawn), drawn, 0.0)
