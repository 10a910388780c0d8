# SPDX-License-Identifier: Apache-2.0
"""The splats of a probe: one for each pixel of the training pictures, or one for each square of them."""

from dataclasses import dataclass
from typing import Iterable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from nts_plugins.surfaces.depth_views import DepthView

HALF_FROM = 1 << 25
"""Numbers in features, from which they are kept in half precision."""


@dataclass(frozen=True)
class ProbePoints:
    """What is known of N splats before anything is trained."""

    positions: Tensor
    """[N, 3], scene units."""
    views: Tensor
    """[N] number of the picture that a splat is of."""
    pixels: Tensor
    """[N, 2] where in it, (x, y), pixel centres at +0.5."""
    colors: Optional[Tensor] = None
    """[N, 3] in [0, 1], where pictures were read."""
    features: Optional[Tensor] = None
    """[N, C], likewise; C is 0 where there are none."""
    control: bool = False
    """Whether the features are of no network."""

    def __len__(self) -> int:
        return len(self.positions)


def joined(parts: Iterable[Tensor], count: int, exact: bool) -> Tensor:
    """[count, C] of features [M, C] of one picture after the other, of which one is in memory at a time.

    Args:
        parts: see above; all have the same C.
        count: rows of all together.
        exact: keep float32. Else many numbers (:data:`HALF_FROM`) are kept in half precision.
    """
    whole, row = None, 0
    for part in parts:
        if whole is None:
            half = not exact and count * part.shape[1] > HALF_FROM
            whole = torch.empty(count, part.shape[1], dtype=torch.float16 if half else torch.float32)
        whole[row : row + len(part)] = part
        row += len(part)
    return torch.zeros(count, 0) if whole is None else whole


def grid_of(size: Tuple[int, int], stride: int) -> Tuple[Tensor, Tensor]:
    """Rows [M] and columns [M] of pixels, one in the middle of each square of ``stride`` pixels a side.

    Args:
        size: height and width; what is left at the lower and right edges has squares of its own.
        stride: at least 1.
    """
    sides = [(torch.arange(0, side, stride) + stride // 2).clamp_max(side - 1) for side in size]
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    return rows.reshape(-1), columns.reshape(-1)


def chosen_pixels(view: DepthView, confidence: Tensor, stride: int, least_confidence: float) -> Tuple[Tensor, Tensor]:
    """Rows and columns of the pixels that get a splat: of a grid, those whose depth is known and sure enough.

    Args:
        view: of a training picture.
        confidence: [H, W] in [0, 1].
        stride: see :func:`grid_of`.
        least_confidence: share of the scene's pixels, the least sure ones, that are left out.
    """
    rows, columns = grid_of(view.size, stride)
    sure = (view.depth[rows, columns] > 0) & (confidence[rows, columns] >= least_confidence)
    return rows[sure], columns[sure]


def lone_views(views: Sequence[DepthView]) -> List[int]:
    """Numbers of views that show nothing that another one has in view, too, hidden or not."""
    lone = []
    for number, view in enumerate(views):
        rows, columns = grid_of(view.size, max(1, min(view.size) // 32))
        pixels = torch.stack([columns, rows], dim=1) + 0.5
        points = view.points_at(pixels[view.depth[rows, columns] > 0])
        if not any(bool(other.in_view(points).any()) for other in views if other is not view):
            lone.append(number)
    return lone
