# SPDX-License-Identifier: Apache-2.0
"""How well phrases find what people have outlined in pictures, by the rules that published numbers follow.

Numbers of one scene move by twenty points with the threshold, the choice of a level and the frames that were trained
on; so each rule has a name, and every number belongs to one. All rules take relevancies of pictures as
:mod:`nts_plugins.queries.relevancy` defines them, and give one row for each category that is outlined in a picture.

========================  ============================================================================================
``lerf-ovs-2d``           LangSplat's (Qin et al., CVPR 2024) evaluation of LERF-OVS, with its threshold that is
                          relative to each map
``langsplatv2``           LangSplatV2's: the same with other windows
``strict``                ours: r > 0.5, which is where a phrase beats all canonical ones; nothing relative to a picture
``3d-ovs``                the same, for 3D-OVS
``3d-ovs-dynamic``        the scan for a stable threshold of Occam's LGS and of VALA
``oracle-level``          the best level by IoU: what a perfect choice of the level would make of ``lerf-ovs-2d``
========================  ============================================================================================

Selection of splats, ``lerf-ovs-3d``, is in :mod:`nts_plugins.evaluation.selection`. Pixels without a feature have no
relevancy: windows leave them out, and no rule finds anything in them.
"""

import statistics
from dataclasses import dataclass
from functools import partial
from typing import Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from nts_plugins.evaluation.masks import (
    intersection_over_union,
    majority,
    relative_mask,
    stable_threshold,
    window_mean,
)

Box = Tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels from the picture's upper left corner; the centre of the first pixel is at 0.5."""


@dataclass(frozen=True, eq=False)
class Label:
    """Where a category is in a picture."""

    category: str
    mask: Tensor
    """[H, W] bool, all objects of the category together."""
    boxes: Tuple[Box, ...] = ()
    """One for each object; none where nobody drew any, and then there is no localisation."""


@dataclass(frozen=True)
class Row:
    """What a rule found for one category in one picture."""

    category: str
    level: int
    """The level that was chosen."""
    score: float
    """The number that it was chosen for; 0 where no level has a pixel with a feature."""
    iou: float
    """Of what was found and the label: 0 where both are empty."""
    hit: Optional[bool]
    """Whether the most relevant place lies in a box; None without boxes, and where it is not asked."""


class Candidates(NamedTuple):
    """What a rule would find for one category on each of L levels."""

    masks: Tensor
    """[L, H, W] bool."""
    scores: Tensor
    """[L]; the level with the highest score is chosen. Minus infinity where a level has nothing to offer."""
    smooth: Tensor
    """[L, H, W] smoothed relevancy, whose highest value is where the category is looked for. Minus infinity in pixels
    without a feature."""


Rule = Callable[[Tensor, Tensor], Candidates]
"""From the relevancy [L, H, W] of one category, and the pixels [L, H, W] that have a feature."""
Protocol = Callable[[Tensor, Optional[Tensor], Sequence[Label]], List[Row]]
"""From relevancies [L, H, W, Q], pixels [L, H, W] that have a feature (None for all), and Q labels, to Q rows."""


def _lerf_ovs(relevancy: Tensor, valid: Tensor) -> Candidates:
    """A = mean over 30 x 30 pixels, m = (A + r) / 2, masks relative to m, majority of 7 x 7; level of the highest m.

    The window has no middle: it reaches 15 pixels to the left and above, and 14 to the right and below, and pictures
    are mirrored at their edges, both as OpenCV's filters do. The windows of the majority leave out the last row and
    column, as those of LangSplat's program, so that numbers can be compared with published ones.
    """
    smooth = window_mean(relevancy, 15, 14, valid, reflect=True)
    return _relative(relevancy, smooth, valid, skip_last=True)


def _langsplatv2(relevancy: Tensor, valid: Tensor) -> Candidates:
    """As LERF-OVS, with windows of 29 x 29 that end where the picture does, and a majority that leaves nothing out."""
    return _relative(relevancy, window_mean(relevancy, 14, 14, valid), valid, skip_last=False)


def _relative(relevancy: Tensor, smooth: Tensor, valid: Tensor, skip_last: bool) -> Candidates:
    mixed = (smooth + relevancy) / 2
    masks = majority(relative_mask(mixed, valid), skip_last=skip_last) & valid
    return Candidates(masks, _highest(_hidden(mixed, valid)), _hidden(smooth, valid))


def _fixed(relevancy: Tensor, valid: Tensor) -> Candidates:
    """r > 0.5, not smoothed; the level, and the place, where the mean over 29 x 29 pixels is highest.

    So only what decides between levels, or names one pixel, is smoothed, against single bright pixels. Windows end
    where the picture does.
    """
    smooth = _hidden(window_mean(relevancy, 14, 14, valid), valid)
    return Candidates((relevancy > 0.5) & valid, _highest(smooth), smooth)


def _dynamic(relevancy: Tensor, valid: Tensor) -> Candidates:
    """A threshold for each level by :func:`stable_threshold`; the level with the lowest sensitivity.

    Where no level has a stable threshold: r > 0.5, as ``3d-ovs``.
    """
    fixed = _fixed(relevancy, valid)
    size = relevancy[0].numel()
    found = [stable_threshold(level[used], size) for level, used in zip(relevancy, valid, strict=True)]
    if all(each is None for each in found):
        return fixed
    thresholds, sensitivities = zip(*(each or (torch.inf, torch.inf) for each in found), strict=True)
    masks = (relevancy > relevancy.new_tensor(thresholds)[:, None, None]) & valid
    return Candidates(masks, 1 - relevancy.new_tensor(sensitivities), fixed.smooth)


def evaluate(rule: Rule, relevancy: Tensor, valid: Optional[Tensor], labels: Sequence[Label]) -> List[Row]:
    """What a rule finds for each label of a picture, on the level that it chooses itself.

    Of levels with one score, the one with the highest smoothed relevancy is chosen, and the first of those.
    A category's place is looked for on a level of its own: the one whose smoothed relevancy is highest. The pixels that
    have this value, be it one or several, hit once if the centre of any lies in any box.

    Args:
        rule: what is found on each level.
        relevancy: [L, H, W, Q] in (0, 1).
        valid: [L, H, W] bool, pixels that have a feature; None for all.
        labels: Q of them, with masks [H, W].

    Raises:
        ValueError: where the shapes do not belong together.
    """
    rows = []
    for label, found in _candidates(rule, relevancy, valid, labels):
        scores, peaks = found.scores.tolist(), _highest(found.smooth).tolist()
        level = max(range(len(scores)), key=lambda each: (scores[each], peaks[each]))
        iou = intersection_over_union(found.masks[level], label.mask.to(found.masks.device))
        hit = _hits(found.smooth[peaks.index(max(peaks))], label.boxes)
        rows.append(Row(label.category, level, _finite(scores[level]), iou, hit))
    return rows


def oracle_level(
    relevancy: Tensor, valid: Optional[Tensor], labels: Sequence[Label], rule: Rule = _lerf_ovs
) -> List[Row]:
    """What a rule would find if it knew the best level of each category: never less than :func:`evaluate` finds.

    The level is that of the highest IoU; it is a hit where the most relevant place of any level is one.
    """
    rows = []
    for label, found in _candidates(rule, relevancy, valid, labels):
        truth = label.mask.to(found.masks.device)
        ious = [intersection_over_union(mask, truth) for mask in found.masks]
        level = ious.index(max(ious))
        hits = [_hits(each, label.boxes) for each in found.smooth]
        hit = None if hits[0] is None else any(hits)
        rows.append(Row(label.category, level, _finite(float(found.scores[level])), ious[level], hit))
    return rows


PROTOCOLS_2D: Dict[str, Protocol] = {
    "lerf-ovs-2d": partial(evaluate, _lerf_ovs),
    "langsplatv2": partial(evaluate, _langsplatv2),
    "strict": partial(evaluate, _fixed),
    "3d-ovs": partial(evaluate, _fixed),
    "3d-ovs-dynamic": partial(evaluate, _dynamic),
    "oracle-level": oracle_level,
}
"""By the name under which numbers are reported."""
_RELATIVE = "clip(2 u - 1, 0, 1) > 0.4, u of (A + r) / 2 from its least to its greatest value, majority of 7 x 7"
_FIXED = "r > 0.5, not smoothed; level and place where A, the mean of r over 29 x 29 pixels, is highest"
RULES_2D: Dict[str, str] = {
    "lerf-ovs-2d": f"A of 30 x 30 pixels, mirrored at edges; {_RELATIVE}; level of the highest (A + r) / 2",
    "langsplatv2": f"A of 29 x 29 pixels, within the picture; {_RELATIVE}; level of the highest (A + r) / 2",
    "strict": _FIXED,
    "3d-ovs": _FIXED,
    "3d-ovs-dynamic": "a threshold of r for each level above which the area is stable; level of the lowest change",
    "oracle-level": "masks of lerf-ovs-2d on the level of the best IoU",
}
"""Threshold and smoothing of each in words, for files of results. r is relevancy, A its mean over a window."""


def as_dicts(
    picture: str, rows: Iterable[Row], levels: Sequence[str]
) -> List[Dict[str, Union[str, float, bool, None]]]:
    """Rows of a picture as JSON keeps them, with the names of levels."""
    return [
        {
            "picture": picture,
            "category": row.category,
            "level": levels[row.level],
            "score": row.score,
            "iou": row.iou,
            "hit": row.hit,
        }
        for row in rows
    ]


def aggregate(pictures: Mapping[str, Sequence[Row]]) -> Dict[str, float]:
    """Means of a scene.

    Args:
        pictures: the rows of each picture, by its name; pictures without rows do not count.

    Returns:
        pairs (how many rows), miou (over all pairs of picture and category, as publications report it),
        miou_pictures (mean over pictures of their means), miou_categories (over categories), acc_25 and acc_50 (shares
        of pairs whose IoU is above 0.25 and 0.5) and, where there are boxes, localisation, localisation_pictures and
        localisation_categories: shares of hits, averaged in the same three ways over the pairs that have boxes.

    Raises:
        ValueError: where there is no row.
    """
    rows = [(picture, row) for picture, found in pictures.items() for row in found]
    if not rows:
        raise ValueError("There are no rows to average.")
    result = {"pairs": float(len(rows)), **_means("miou", [(name, row, row.iou) for name, row in rows])}
    for percent in (25, 50):
        result[f"acc_{percent}"] = statistics.fmean(100 * row.iou > percent for _, row in rows)
    located = [(name, row, float(row.hit)) for name, row in rows if row.hit is not None]
    return {**result, **_means("localisation", located)} if located else result


def _means(key: str, values: Sequence[Tuple[str, Row, float]]) -> Dict[str, float]:
    by_picture: Dict[str, List[float]] = {}
    by_category: Dict[str, List[float]] = {}
    for picture, row, value in values:
        by_picture.setdefault(picture, []).append(value)
        by_category.setdefault(row.category, []).append(value)
    return {
        key: statistics.fmean(value for _, _, value in values),
        f"{key}_pictures": statistics.fmean(map(statistics.fmean, by_picture.values())),
        f"{key}_categories": statistics.fmean(map(statistics.fmean, by_category.values())),
    }


def _candidates(
    rule: Rule, relevancy: Tensor, valid: Optional[Tensor], labels: Sequence[Label]
) -> Iterable[Tuple[Label, Candidates]]:
    """Category by category, because a rule holds several maps of all levels at a time."""
    if relevancy.ndim != 4 or relevancy.shape[3] != len(labels):
        raise ValueError(f"{len(labels)} labels need relevancies [L, H, W, {len(labels)}], not {[*relevancy.shape]}.")
    used = torch.ones_like(relevancy[..., 0], dtype=torch.bool) if valid is None else valid
    if used.shape != relevancy.shape[:3]:
        raise ValueError(f"Valid pixels {[*used.shape]} are not those of relevancies {[*relevancy.shape]}.")
    for number, label in enumerate(labels):
        if label.mask.shape != relevancy.shape[1:3]:
            raise ValueError(
                f"The mask of {label.category!r} is {[*label.mask.shape]}, but maps are {[*relevancy.shape[1:3]]}."
            )
        yield label, rule(relevancy[..., number], used)


def _hits(smooth: Tensor, boxes: Sequence[Box]) -> Optional[bool]:
    """Whether any pixel with the highest value lies in any box."""
    if not boxes:
        return None
    peak = smooth.amax()
    if not torch.isfinite(peak):
        return False
    y, x = ((smooth == peak).nonzero() + 0.5).unbind(dim=1)
    return any(
        bool(((x >= min(x1, x2)) & (x <= max(x1, x2)) & (y >= min(y1, y2)) & (y <= max(y1, y2))).any())
        for x1, y1, x2, y2 in boxes
    )


def _hidden(maps: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, maps, -torch.inf)


def _highest(maps: Tensor) -> Tensor:
    return maps.flatten(1).amax(dim=1)


def _finite(score: float) -> float:
    """JSON knows no infinity."""
    return score if abs(score) < torch.inf else 0.0
