# SPDX-License-Identifier: Apache-2.0
"""Which masks are kept, against the rules applied pair by pair, and what is painted."""

import pytest
import torch

from nts_plugins.encoders.base import NOTHING
from nts_plugins.encoders.masks import CleanUp, intersections, kept, painted


def boxes(*corners, size=(40, 50)):
    """Masks [n, H, W] of boxes given as top, left, bottom, right."""
    found = torch.zeros(len(corners), *size, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(found, corners, strict=True):
        mask[top:bottom, left:right] = True
    return found


def pair_by_pair(masks, scores, rules):
    """The rules as they are told, without matrices."""
    order = sorted((i for i in range(len(masks)) if masks[i].any()), key=lambda i: -float(scores[i]))
    good = [[], [], [], []]
    for place, j in enumerate(order):
        copied, inside_better, inside_worse = False, False, False
        for other, i in enumerate(order):
            if i == j:
                continue
            common = int((masks[i] & masks[j]).sum())
            area_i, area_j = int(masks[i].sum()), int(masks[j].sum())
            part = common / area_j >= rules.inside and common / area_i < rules.covered
            if other < place:
                copied |= common / (area_i + area_j - common) > rules.largest_overlap
                inside_better |= part
            else:
                inside_worse |= part
        good[0].append(not copied)
        good[1].append(float(scores[j]) > rules.least_score)
        good[2].append(not inside_better)
        good[3].append(not inside_worse)
    for rule in good[1:]:
        if not any(rule):
            rule[: rules.fewest] = [True] * min(rules.fewest, len(rule))
    return [j for place, j in enumerate(order) if all(rule[place] for rule in good)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 1.0])
def test_areas_in_common_are_counted_exactly(share):
    masks = torch.rand(9, 23, 31) < share
    flat = masks.flatten(1).long()
    assert torch.equal(intersections(masks).long(), flat @ flat.T)


def test_of_nested_squares_the_outermost_stays():
    nested = boxes((0, 0, 40, 50), (5, 5, 25, 30), (8, 8, 15, 15))
    for scores in ([0.8, 0.9, 0.95], [0.95, 0.9, 0.8]):  # a part goes whether or not it scores better
        assert kept(nested, torch.tensor(scores)).tolist() == [0]


def test_copies_and_masks_that_nobody_believes_go():
    found = boxes((0, 0, 20, 20), (0, 0, 20, 19), (25, 25, 35, 45), (25, 0, 40, 10))
    assert kept(found, torch.tensor([0.8, 0.9, 0.95, 0.7])).tolist() == [2, 1]


def test_where_none_is_believed_the_best_three_stay():
    apart = boxes(*((10 * row, 12 * column, 10 * row + 8, 12 * column + 8) for row in range(2) for column in range(3)))
    scores = torch.tensor([0.1, 0.6, 0.2, 0.5, 0.3, 0.4])
    assert kept(apart, scores).tolist() == [1, 3, 5]


def test_empty_masks_and_no_masks_leave_nothing():
    assert kept(torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0)).tolist() == []
    assert kept(torch.zeros(2, 4, 4, dtype=torch.bool), torch.ones(2)).tolist() == []
    assert kept(boxes((0, 0, 3, 3), (0, 0, 0, 0)), torch.ones(2)).tolist() == [0]


@pytest.mark.parametrize("seed", range(20))
def test_matrices_keep_what_pairs_do(seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 30, (25, 2), generator=generator)
    sizes = torch.randint(1, 20, (25, 2), generator=generator)
    found = boxes(*(torch.cat([a, a + b]).tolist() for a, b in zip(corners, sizes, strict=True)))
    scores = 0.5 + 0.5 * torch.rand(25, generator=generator)
    assert kept(found, scores).tolist() == pair_by_pair(found, scores, CleanUp())


def test_later_masks_are_painted_over_earlier_ones():
    ids = painted(boxes((0, 0, 4, 4), (2, 2, 6, 6), size=(6, 7)), first=5)
    assert ids.dtype == torch.int32
    assert ids[0, 0] == 5 and ids[3, 3] == 6 and ids[5, 5] == 6 and ids[0, 6] == NOTHING
    assert painted(boxes(size=(2, 3))).tolist() == [[NOTHING] * 3] * 2
