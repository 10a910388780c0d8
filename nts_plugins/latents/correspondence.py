# SPDX-License-Identifier: Apache-2.0
"""Which places in two pictures of a scene show the same, and how much that says of their latents.

Latent Radiance Fields (Zhou, Liu, Luo, Huang, ICLR 2025, arXiv 2502.09613), stage I. The paper takes matches from
structure from motion. Here they come from depth, as trained splats of any method draw it: then every latent has one,
and not only those at corners of things.
"""

from dataclasses import dataclass
from typing import List, Tuple

import torch
from torch import Tensor

CLOSE = 0.02
"""Relative difference up to which two views' depths are of the same place."""


@dataclass(frozen=True)
class PosedPicture:
    """A photograph with its camera, and how far away things are."""

    picture: Tensor
    """[H, W, 3] uint8."""
    depth: Tensor
    """[H, W] along the viewing axis, scene units; 0 where it is not known."""
    viewmat: Tensor
    """[4, 4] world to camera, OpenCV axes."""
    K: Tensor
    """[3, 3] intrinsics, pixels, pixel centres at +0.5."""


def pose_distances(viewmats: Tensor) -> Tensor:
    """[V, V] how far apart cameras are: ``||P_i^-1 P_j - I||_F`` of their poses P, camera to world.

    0 for the same pose, symmetric. The paper's weights come from this "absolute pose error" (its authors, in answers);
    lengths are in units of the median distance of two cameras, which is ours.

    Args:
        viewmats: [V, 4, 4] world to camera, rigid.
    """
    viewmats = viewmats.double()
    relative = viewmats[:, None] @ torch.linalg.inv(viewmats)[None]
    lengths = relative[..., :3, 3].norm(dim=-1)
    apart = lengths[lengths > 1e-6 * lengths.max()]
    unit = apart.median() if len(apart) else lengths.new_ones(())
    turned = relative[..., :3, :3] - torch.eye(3, dtype=torch.float64)
    return (turned.square().sum(dim=(-2, -1)) + (lengths / unit).square()).sqrt().float()


def pair_weights(distances: Tensor) -> Tensor:
    """1 / (1 + distance): latents of views that are far apart may differ more. The paper does not say how it goes from
    distances to weights; this is ours."""
    return 1.0 / (1.0 + distances)


def places_in(here: PosedPicture, there: PosedPicture, points: Tensor) -> Tuple[Tensor, Tensor]:
    """Where another view shows what one view shows.

    Args:
        here: a view.
        there: another one.
        points: [M, 2] pixel coordinates (x, y) in it, pixel centres at +0.5.

    Returns:
        [M, 2] pixel coordinates there; and [M] bool, whether both views see the same place: depth is known here and
        there, and that of the place differs by at most :data:`CLOSE` from what is seen there.
    """
    depth = _at(here.depth, points)
    rays = torch.cat([points, torch.ones_like(points[:, :1])], dim=1) @ torch.linalg.inv(here.K).T
    homogeneous = torch.cat([rays * depth[:, None], torch.ones_like(depth[:, None])], dim=1)
    seen = homogeneous @ (there.viewmat @ torch.linalg.inv(here.viewmat)).T
    distance = seen[:, 2]
    ahead = distance > 0
    pixels = seen[:, :3] @ there.K.T
    pixels = pixels[:, :2] / torch.where(ahead, distance, torch.ones_like(distance))[:, None]
    height, width = there.depth.shape
    inside = ((pixels >= 0) & (pixels < pixels.new_tensor([width, height]))).all(dim=1)
    truth = _at(there.depth, torch.where(inside[:, None], pixels, torch.zeros_like(pixels)))
    same = (truth > 0) & ((truth - distance).abs() <= CLOSE * truth)
    return pixels, (depth > 0) & ahead & inside & same


def _at(values: Tensor, points: Tensor) -> Tensor:
    """[M] of a map [H, W] in the pixels that points lie in."""
    height, width = values.shape
    columns, rows = points.floor().long().unbind(dim=1)
    return values[rows.clamp(0, height - 1), columns.clamp(0, width - 1)]


def neighbours(distances: Tensor, count: int) -> List[List[int]]:
    """For each view the ``count`` nearest others, nearest first.

    Args:
        distances: [V, V] of :func:`pose_distances`.
    """
    order = (distances + torch.diag(distances.new_full((len(distances),), float("inf")))).argsort(dim=1)
    return [row[: min(count, len(distances) - 1)] for row in order.tolist()]
