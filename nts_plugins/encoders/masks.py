# SPDX-License-Identifier: Apache-2.0
"""Which of many overlapping masks are kept, and how the kept ones become one id a pixel.

The rules are those of LangSplat (Qin et al., CVPR 2024, section 3.1 and its program), which compares masks two by two;
here the areas that all pairs have in common come at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nts_plugins.encoders.base import NOTHING


@dataclass(frozen=True)
class CleanUp:
    """When a mask goes (LangSplat's program)."""

    largest_overlap: float = 0.8
    """Intersection over union with a better mask, above which a mask is a copy of it."""
    least_score: float = 0.7
    """At or below which a mask is not believed."""
    inside: float = 0.85
    """Share of a mask that lies in another, from which it counts as inside of it ..."""
    covered: float = 0.5
    """... if it covers less than this share of the other. Then it is a smaller part, and belongs on another level."""
    fewest: int = 3
    """So many of the best masks are kept where scores, or lying inside another, would leave none at all."""


def intersections(masks: Tensor) -> Tensor:
    """[n, n] float64, number of pixels that masks [n, H, W] have in common; the diagonal holds their areas.

    Pixels that lie in the same masks are of one kind, and a picture has a hundredth as many kinds as pixels. A kind is
    the sum, bit by bit, of random numbers of 64 bits, one for each mask; that two of ten thousand kinds have the same
    sum happens once in 10^11 pictures.
    """
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-(2**63), 2**63 - 1, (len(masks),), generator=generator).to(masks.device)
    flat = masks.reshape(len(masks), -1)
    kinds = torch.zeros(flat.shape[1], dtype=torch.int64, device=masks.device)
    for mask, number in zip(flat, numbers, strict=True):
        kinds ^= mask * number
    _, kind, counts = kinds.unique(return_inverse=True, return_counts=True)
    example = torch.zeros_like(counts).scatter_(0, kind, torch.arange(len(kind), device=masks.device))
    inside = flat[:, example].double()
    return (inside * counts) @ inside.T


def kept(masks: Tensor, scores: Tensor, rules: CleanUp = CleanUp()) -> Tensor:
    """Which masks are kept, best first.

    Args:
        masks: [n, H, W] bool.
        scores: [n], the higher the better.
        rules: when a mask goes.

    Returns:
        [k] indices into the masks, by falling score. Empty masks are never kept.
    """
    alive = torch.nonzero(masks.flatten(1).any(dim=1))[:, 0]
    order = alive[scores[alive].argsort(descending=True, stable=True)]
    if len(order) == 0:
        return order
    scores, common = scores[order], intersections(masks[order])
    areas = common.diagonal()
    overlap = common / (areas[:, None] + areas[None, :] - common)
    is_copy = (overlap.triu(diagonal=1) > rules.largest_overlap).any(dim=0)
    # Entry (i, j): mask j is a part of mask i.
    is_part_of = (common >= rules.inside * areas[None, :]) & (common < rules.covered * areas[:, None])
    better = torch.ones_like(is_part_of).triu(diagonal=1)
    best = torch.arange(len(order), device=order.device) < rules.fewest
    keep = ~is_copy
    for good in (
        scores > rules.least_score,
        ~(is_part_of & better).any(dim=0),
        ~(is_part_of & ~better).any(dim=0),
    ):
        keep &= good if bool(good.any()) else best
    return order[keep]


def painted(masks: Tensor, first: int = 0) -> Tensor:
    """One id a pixel: the last mask that covers it, as LangSplat's program paints them.

    Args:
        masks: [n, H, W] bool.
        first: id of the first mask; the others follow.

    Returns:
        [H, W] int32, :data:`NOTHING` where no mask is.
    """
    ids = torch.full(masks.shape[1:], NOTHING, dtype=torch.int32, device=masks.device)
    for number, mask in enumerate(masks):
        ids[mask] = first + number
    return ids
