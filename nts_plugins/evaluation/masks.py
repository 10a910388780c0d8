# SPDX-License-Identifier: Apache-2.0
"""From maps to masks: means over windows, thresholds, majorities. What protocols of evaluation are made of."""

from typing import Optional, Tuple

import torch
from torch import Tensor

RELATIVE_THRESHOLD = 0.4
"""Of clip(2 u - 1, 0, 1), where u is a map between its least and its greatest value: u > 0.7."""
STABLE = 0.4
"""Share of its pixels that a mask may lose from one threshold to the next, and be stable; Occam's LGS. (VALA: 0.3)"""
STABLE_SHARES = (0.005, 0.9)
"""Share of the picture that a stable mask covers at least and at most; Occam's LGS and VALA."""


def intersection_over_union(found: Tensor, truth: Tensor) -> float:
    """IoU of two bool masks of one shape; 0 where both are empty, since nothing was found."""
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 0.0


def window_mean(maps: Tensor, before: int, after: int, valid: Optional[Tensor] = None, reflect: bool = False) -> Tensor:
    """Mean over the valid pixels of a square window around each pixel, at a cost that does not depend on its side.

    Args:
        maps: [..., H, W].
        before: pixels of the window on the left and above.
        after: pixels on the right and below; the side is before + 1 + after.
        valid: as ``maps``, bool; None for all.
        reflect: continue pictures beyond their edges as mirrors do, without repeating the edge itself, so that all
            windows are whole. Without, windows end where the picture does.

    Returns:
        As ``maps``; 0 where a window has no valid pixel.
    """
    if valid is None or bool(valid.all()):
        # Windows are of the same sizes in all maps.
        totals, counts = maps.double(), torch.ones_like(maps[(0,) * (maps.ndim - 2)], dtype=torch.float64)
    else:
        totals, counts = torch.where(valid, maps, 0).double(), valid.double()
    for dim in (-2, -1):
        length = maps.shape[dim]
        middle = torch.arange(length, device=maps.device)
        first, last = (middle - before).clamp_min(0), (middle + after + 1).clamp_max(length)
        if reflect:
            mirrored = _mirrored(length, before, after, maps.device)
            totals, counts = _at(totals, dim, mirrored), _at(counts, dim, mirrored)
            first, last = middle, middle + before + after + 1
        totals, counts = _sums(totals, dim, first, last), _sums(counts, dim, first, last)
    return torch.where(counts > 0, totals / counts.clamp_min(1), 0).to(maps.dtype)


def relative_mask(maps: Tensor, valid: Optional[Tensor] = None, threshold: float = RELATIVE_THRESHOLD) -> Tensor:
    """Where clip(2 u - 1, 0, 1) is above a threshold, with u = (m - min m) / (max m - min m) of each map m.

    Args:
        maps: [L, ...].
        valid: as ``maps``, bool: what counts, and can be found; None for all.
        threshold: in [0, 1).

    Returns:
        As ``maps``, bool. A map of a single value has nothing above it: its mask is empty.
    """
    valid = torch.ones_like(maps, dtype=torch.bool) if valid is None else valid
    shape = (-1, *[1] * (maps.ndim - 1))
    low = torch.where(valid, maps, torch.inf).flatten(1).amin(dim=1).reshape(shape)
    high = torch.where(valid, maps, -torch.inf).flatten(1).amax(dim=1).reshape(shape)
    some = high > low
    low, span = torch.where(some, low, 0), torch.where(some, high - low, 1)
    return ((2 * (maps - low) / span - 1).clamp(0, 1) > threshold) & valid & some


def majority(masks: Tensor, reach: int = 3, skip_last: bool = False) -> Tensor:
    """What more than half of the pixels say in a square window around each pixel, as far as it lies in the picture.

    Args:
        masks: [..., H, W] bool.
        reach: pixels on each side: 3 for a window of 7 x 7.
        skip_last: no window reads the last row and the last column; those pixels get what their neighbours say.

    Returns:
        As ``masks``.
    """
    totals, counts = masks.int(), torch.ones_like(masks[(0,) * (masks.ndim - 2)], dtype=torch.int32)
    for dim in (-2, -1):
        length = masks.shape[dim]
        middle = torch.arange(length, device=masks.device)
        first, last = (middle - reach).clamp_min(0), (middle + reach + 1).clamp_max(length - int(skip_last))
        totals, counts = (_sums(each, dim, torch.minimum(first, last), last) for each in (totals, counts))
    return torch.where(counts > 0, 2 * totals > counts, masks)


def stable_threshold(values: Tensor, pixels: int, stable: float = STABLE) -> Optional[Tuple[float, float]]:
    """The threshold about which a mask changes least: in the middle of the last range of them that hardly change it.

    Thresholds are 0.01 to 0.99. From each to the next one a mask loses a share of its pixels, its sensitivity. (Masks
    of higher thresholds lie within those of lower ones: their IoU, and the ratio of their pixel counts, are one
    number.) A threshold is stable where its sensitivity is below ``stable`` and its mask covers a share of the picture
    in :data:`STABLE_SHARES`. Our reading of Occam's LGS and of VALA, whose scans are published as programs only.

    Args:
        values: [P] relevancies.
        pixels: of the picture, at least P.
        stable: see above.

    Returns:
        The threshold, and the mean sensitivity of the range whose middle it is; None where no threshold is stable.
    """
    thresholds = torch.arange(1, 100, device=values.device).to(values.dtype) / 100
    below = torch.bincount(torch.bucketize(values, thresholds), minlength=100)
    counts = below.flip(0).cumsum(0).flip(0)[1:].double()
    lost = 1 - counts[1:] / counts[:-1].clamp_min(1)
    share = counts[:-1] / pixels
    good = ((lost < stable) & (share >= STABLE_SHARES[0]) & (share <= STABLE_SHARES[1])).tolist()
    if True not in good:
        return None
    last = first = len(good) - 1 - good[::-1].index(True)
    while first > 0 and good[first - 1]:
        first -= 1
    return float(thresholds[(first + last) // 2]), float(lost[first : last + 1].mean())


def _mirrored(length: int, before: int, after: int, device: torch.device) -> Tensor:
    """Which places of a line continue it on both sides: 2 1 [0 1 2] 1 0."""
    period = max(2 * (length - 1), 1)
    places = torch.arange(-before, length + after, device=device) % period
    return torch.where(places < length, places, period - places)


def _sums(maps: Tensor, dim: int, first: Tensor, last: Tensor) -> Tensor:
    """Along one of the last two dimensions, sums from each ``first`` to before each ``last``."""
    sums = maps.cumsum(dim)
    sums = torch.cat([torch.zeros_like(sums.narrow(dim, 0, 1)), sums], dim=dim)
    return _at(sums, dim, last) - _at(sums, dim, first)


def _at(maps: Tensor, dim: int, places: Tensor) -> Tensor:
    """``index_select`` along one of the last two dimensions, which is slow along the very last."""
    return maps[..., places] if dim == -1 else maps.index_select(dim, places)
