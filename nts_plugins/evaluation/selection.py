# SPDX-License-Identifier: Apache-2.0
"""How well phrases find splats: the protocol ``lerf-ovs-3d`` of OpenGaussian (Wu et al., NeurIPS 2024) and followers.

Each phrase selects splats once for the whole scene; what only the selected ones draw, without the others in front of
them, is compared with what people have outlined. Neighbours, blend and threshold are VALA's. Numbers are not comparable
with those of pictures: LangSplat has an mIoU of 51 by ``lerf-ovs-2d``, and of 10 here.
"""

from typing import Callable, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from nts_plugins.evaluation.masks import intersection_over_union, relative_mask
from nts_plugins.evaluation.open_vocabulary import Label, Row

NEIGHBOURS = 10
BLEND = 0.5
"""Share of a smoothed score that is the neighbours' mean."""
THRESHOLD = 0.6
"""Of clip(2 u - 1, 0, 1), where u is a score between the least and the greatest of all splats: u > 0.8."""
VISIBLE = 10 / 255
"""Opacity above which a pixel belongs to the silhouette."""

SELECTION_RULE = (
    f"splats with clip(2 u - 1, 0, 1) > {THRESHOLD:g}, u of r, mixed by {BLEND:g} with the mean of {NEIGHBOURS} "
    f"neighbours, from its least to its greatest value; level of the highest mixture; drawn alone, opacity > 10/255"
)
"""In words, for files of results. r is relevancy."""

Render = Callable[[Tensor], Tensor]
"""From the splats [N] bool that are drawn, alone, to their opacity [H, W] in a picture."""


class Selection(NamedTuple):
    """The splats that each of Q phrases selects."""

    splats: Tensor
    """[N, Q] bool."""
    levels: List[int]
    """Q levels that were chosen."""
    scores: List[float]
    """Q highest smoothed scores; 0 where no splat has a feature."""


def select(scores: Tensor, means: Tensor, valid: Optional[Tensor] = None) -> Selection:
    """Splats whose smoothed score is far above the others', on the level with the highest one.

    Args:
        scores: [N, L, Q] relevancy of splats on levels.
        means: [N, 3] where splats are.
        valid: [N, L] bool, splats that have a feature; None for all.
    """
    used = torch.ones_like(scores[..., 0], dtype=torch.bool) if valid is None else valid
    splats = torch.zeros_like(scores[:, 0], dtype=torch.bool)
    levels, highest = [0] * scores.shape[2], [0.0] * scores.shape[2]
    if not used.any():
        return Selection(splats, levels, highest)
    smooth = smooth_over_neighbours(scores, means, used)
    peaks = torch.where(used[..., None], smooth, -torch.inf).amax(dim=0)
    for number, column in enumerate(peaks.T.tolist()):
        level = levels[number] = column.index(max(column))
        highest[number] = column[level]
        splats[:, number] = relative_mask(smooth[None, :, level, number], used[None, :, level], THRESHOLD)[0]
    return Selection(splats, levels, highest)


def smooth_over_neighbours(
    scores: Tensor, means: Tensor, valid: Tensor, count: int = NEIGHBOURS, blend: float = BLEND
) -> Tensor:
    """Mix each splat's scores with the mean of those of its nearest neighbours.

    Args:
        scores: [N, L, Q].
        means: [N, 3].
        valid: [N, L] bool: whose scores count.
        count: neighbours, the splat itself not among them; as many as there are.
        blend: share of the neighbours' mean.

    Returns:
        [N, L, Q]; a splat's own score where no neighbour's counts.
    """
    from scipy.spatial import KDTree

    count = min(count, len(scores) - 1)
    if count < 1:
        return scores
    # Where several splats are at one place, any of them may come first, and oneself not at all.
    places = means.detach().cpu().double().numpy()
    found = np.asarray(KDTree(places).query(places, k=count + 1, workers=-1)[1])
    oneself = found == np.arange(len(found))[:, None]
    oneself[~oneself.any(axis=1), -1] = True
    neighbours = torch.from_numpy(found[~oneself].reshape(-1, count)).to(scores.device)
    total, weight = torch.zeros_like(scores), torch.zeros_like(scores[..., :1])
    # One neighbour at a time: all of them at once would take ten times the memory of the scores.
    for column in neighbours.T:
        counts = valid[column][..., None]
        total += torch.where(counts, scores[column], 0)
        weight += counts
    return torch.where(weight > 0, (1 - blend) * scores + blend * total / weight.clamp_min(1), scores)


def silhouette(alpha: Tensor) -> Tensor:
    """[H, W] bool: where splats are seen, from the opacity [H, W] that they have when they are drawn alone."""
    return alpha > VISIBLE


def evaluate_selection(
    selection: Selection, phrases: Sequence[str], labels: Sequence[Label], render: Render
) -> List[Row]:
    """Rows of a picture: silhouettes of selected splats beside what people have outlined.

    Args:
        selection: of Q phrases.
        phrases: Q of them, among which are the labels' categories.
        labels: of the picture.
        render: draws the opacity of splats at the picture's camera; it is not asked to draw none.

    Raises:
        ValueError: for a label whose category is not among the phrases.
    """
    rows = []
    for label in labels:
        number = list(phrases).index(label.category)
        chosen = selection.splats[:, number]
        truth = label.mask.to(chosen.device)
        found = silhouette(render(chosen)) if chosen.any() else torch.zeros_like(truth)
        iou = intersection_over_union(found, truth)
        rows.append(Row(label.category, selection.levels[number], selection.scores[number], iou, None))
    return rows
