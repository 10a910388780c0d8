# SPDX-License-Identifier: Apache-2.0
"""Protocols of open-vocabulary evaluation, by hand on small maps."""

import json
import math
from typing import List, Optional

import pytest
import torch
from torch import Tensor

from nts_plugins.evaluation.masks import majority, relative_mask, stable_threshold, window_mean
from nts_plugins.evaluation.open_vocabulary import (
    PROTOCOLS_2D,
    Label,
    Row,
    aggregate,
    as_dicts,
    oracle_level,
)
from nts_plugins.evaluation.selection import evaluate_selection, select, silhouette, smooth_over_neighbours


def rectangle(height: int, width: int, x1: int, y1: int, x2: int, y2: int) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def by_definition(maps: Tensor, before: int, after: int, valid: Tensor) -> Tensor:
    """Means over windows pixel by pixel, with pictures that are mirrored as often as needed."""
    height, width = maps.shape

    def mirrored(place: int, length: int) -> int:
        while not 0 <= place < length:
            place = -place if place < 0 else 2 * (length - 1) - place
        return place

    result = torch.zeros(height, width)
    for y in range(height):
        for x in range(width):
            rows = [mirrored(each, height) for each in range(y - before, y + after + 1)]
            columns = [mirrored(each, width) for each in range(x - before, x + after + 1)]
            values = [float(maps[i, j]) for i in rows for j in columns if valid[i, j]]
            result[y, x] = sum(values) / len(values) if values else 0.0
    return result


@pytest.mark.parametrize("every", [True, False])
def test_windows_without_a_middle_see_pictures_in_mirrors(every: bool) -> None:
    torch.manual_seed(0)
    maps = torch.rand(5, 7)
    valid = torch.ones_like(maps, dtype=torch.bool) if every else torch.rand(5, 7) > 0.3
    found = window_mean(maps, 15, 14, valid, reflect=True)
    torch.testing.assert_close(found, by_definition(maps, 15, 14, valid))
    if every:
        import cv2

        # The filter that LangSplat's publication was measured with.
        torch.testing.assert_close(found, torch.from_numpy(cv2.blur(maps.numpy(), (30, 30))))


def test_windows_that_end_with_the_picture() -> None:
    maps = torch.rand(2, 40, 33, generator=torch.Generator().manual_seed(0))
    pooled = torch.nn.functional.avg_pool2d(maps[:, None], 29, stride=1, padding=14, count_include_pad=False)[:, 0]
    torch.testing.assert_close(window_mean(maps, 14, 14), pooled)
    valid = maps > 0.5
    assert (window_mean(maps, 1, 1, torch.zeros_like(valid)) == 0).all()
    line = torch.tensor([[1.0, 5.0, 9.0, 2.0]])
    found = window_mean(line, 1, 1, torch.tensor([[True, False, True, True]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 5.0, 5.5, 5.5]]))


def test_the_relative_threshold_by_hand() -> None:
    """0, 1, ..., 24 of 24: u > 0.7 from 17 on. Whatever the map's range is."""
    maps = torch.arange(25.0).reshape(1, 5, 5) / 24
    wanted = torch.zeros(25, dtype=torch.bool)
    wanted[17:] = True
    for scaled in (maps, 0.3 * maps + 0.1, torch.cat([0.5 * maps, maps])[1:]):
        assert torch.equal(relative_mask(scaled)[0].flatten(), wanted)
    # Without its three highest values: u > 0.7 of 21 steps, from 15 on.
    assert relative_mask(maps, maps < 21.5 / 24)[0].flatten().nonzero().flatten().tolist() == list(range(15, 22))
    assert not relative_mask(torch.full((1, 5, 5), 0.7)).any()
    assert not relative_mask(maps, torch.zeros_like(maps, dtype=torch.bool)).any()


def test_a_majority_is_more_than_half() -> None:
    alone = torch.zeros(9, 9, dtype=torch.bool)
    alone[4, 4] = True
    assert not majority(alone).any() and majority(~alone).all()
    # The first of four columns has windows of 2 columns, the others of 3, and half is not enough.
    half = torch.tensor([[True, False, True, True]])
    assert majority(half, reach=1)[0].tolist() == [False, True, True, True]


def test_the_release_reads_no_last_row_and_column() -> None:
    edge = torch.zeros(8, 8, dtype=torch.bool)
    edge[:, -4:] = True
    assert majority(edge)[0].tolist() == [False] * 4 + [True] * 4
    # Windows of column 4 are columns 1 to 6 then, three of which are in the mask; those of column 7 are 4 to 6.
    assert majority(edge, skip_last=True)[0].tolist() == [False] * 5 + [True] * 3
    assert majority(torch.ones(1, 1, dtype=torch.bool), skip_last=True).all(), "no neighbour says anything"


def two_levels(height: int = 128, width: int = 160) -> tuple[Tensor, Label]:
    """Level 0 shows half of an object at 0.8 and one bright pixel elsewhere; level 1 shows all of it at 0.85."""
    label = Label("cup", rectangle(height, width, 40, 24, 104, 80), ((40, 24, 104, 80),))
    relevancy = torch.full((2, height, width, 1), 0.2)
    relevancy[0, 24:80, 40:72] = 0.8
    relevancy[0, 120, 140] = 0.95
    relevancy[1, 24:80, 40:104] = 0.85
    return relevancy, label


@pytest.mark.parametrize("name", PROTOCOLS_2D)
def test_every_protocol_finds_what_is_plain(name: str) -> None:
    relevancy, label = two_levels()
    (row,) = PROTOCOLS_2D[name](relevancy, None, [label])
    assert row.category == "cup" and row.level == 1 and row.hit is True
    # Means and majorities round the corners; the others find the object itself.
    assert 0.93 < row.iou < 1.0 if name in ("lerf-ovs-2d", "langsplatv2", "oracle-level") else row.iou == 1.0
    assert 0 < row.score <= 1


def test_the_thresholds_of_protocols_differ() -> None:
    """An object that no canonical phrase is less like than: found relative to the picture, and not by r > 0.5."""
    relevancy, label = two_levels()
    faint = 0.4 * relevancy
    for name in ("lerf-ovs-2d", "langsplatv2", "3d-ovs-dynamic"):
        assert PROTOCOLS_2D[name](faint, None, [label])[0].iou > 0.9, name
    for name in ("strict", "3d-ovs"):
        (row,) = PROTOCOLS_2D[name](faint, None, [label])
        assert row.iou == 0.0 and row.hit is True and row.level == 1


def test_lerf_ovs_step_by_step() -> None:
    """The six steps of the protocol, written out for one level on a map of few pixels."""
    torch.manual_seed(1)
    relevancy = torch.rand(1, 6, 9, 1)
    mean = by_definition(relevancy[0, ..., 0], 15, 14, torch.ones(6, 9, dtype=torch.bool))
    mixed = (mean + relevancy[0, ..., 0]) / 2
    u = (mixed - mixed.min()) / (mixed.max() - mixed.min())
    mask = (2 * u - 1).clamp(0, 1) > 0.4
    smooth = torch.zeros_like(mask)
    for y in range(6):
        for x in range(9):
            window = mask[max(0, y - 3) : min(y + 4, 5), max(0, x - 3) : min(x + 4, 8)]
            smooth[y, x] = 2 * int(window.sum()) > window.numel()
    truth = torch.rand(6, 9) > 0.4
    peak = int(mean.argmax())
    y, x = peak // 9, peak % 9
    label = Label("a", truth, ((x, y, x + 1, y + 1),))
    (row,) = PROTOCOLS_2D["lerf-ovs-2d"](relevancy, None, [label])
    assert row.iou == pytest.approx(int((smooth & truth).sum()) / max(1, int((smooth | truth).sum())))
    assert row.score == pytest.approx(float(mixed.max())) and row.hit is True


def test_localisation_counts_a_tie_once() -> None:
    """A map of one value has its highest one everywhere: one hit, if any box holds the centre of a pixel."""
    relevancy, mask = torch.full((1, 8, 8, 1), 0.6), torch.ones(8, 8, dtype=torch.bool)

    def hit(*boxes) -> Optional[bool]:
        (row,) = PROTOCOLS_2D["strict"](relevancy, None, [Label("a", mask, boxes)])
        return row.hit

    assert hit((0, 0, 2, 2), (5, 5, 7, 7)) is True
    assert hit((1.6, 1.6, 2.4, 2.4)) is False, "between the centres of pixels"
    assert hit((2, 2, 1, 1)) is True, "corners in any order"
    assert hit() is None


def test_places_without_a_feature_are_never_found() -> None:
    relevancy, label = two_levels()
    valid = torch.ones(2, 128, 160, dtype=torch.bool)
    relevancy[:, :20] = 0.99
    valid[:, :20] = False
    for name, protocol in PROTOCOLS_2D.items():
        (row,) = protocol(relevancy, valid, [label])
        assert row.level == 1 and row.hit is True and row.iou > 0.93, name


@pytest.mark.parametrize("name", PROTOCOLS_2D)
def test_nothing_is_nan(name: str) -> None:
    relevancy, label = two_levels()
    empty = Label("nothing", torch.zeros(128, 160, dtype=torch.bool), ((0, 0, 1, 1),))
    nowhere = torch.zeros(2, 128, 160, dtype=torch.bool)
    both = torch.cat([relevancy, torch.full_like(relevancy, 0.3)], dim=3)
    rows = [*PROTOCOLS_2D[name](both, None, [label, empty]), *PROTOCOLS_2D[name](both, nowhere, [label, empty])]
    rows += PROTOCOLS_2D[name](both[:, :1, :1], None, [Label(each, torch.ones(1, 1) > 0) for each in "ab"])
    for row in rows:
        assert math.isfinite(row.score) and math.isfinite(row.iou)
    assert rows[1].iou == 0.0 and rows[2] == Row("cup", 0, rows[2].score, 0.0, False)
    json.dumps(as_dicts("a", rows, ["part", "whole"]), allow_nan=False)
    assert all(map(math.isfinite, aggregate({"a": rows}).values()))


def test_shapes_that_do_not_belong_together() -> None:
    relevancy, label = two_levels()
    strict = PROTOCOLS_2D["strict"]
    for arguments, message in (
        ((relevancy, None, [label, label]), "2 labels"),
        ((relevancy, torch.ones(1, 128, 160) > 0, [label]), "Valid pixels"),
        ((relevancy[:, 1:], None, [label]), "mask of 'cup'"),
    ):
        with pytest.raises(ValueError, match=message):
            strict(*arguments)


def test_the_stable_threshold_of_a_step() -> None:
    """0.2 beside 0.8: from 0.20 on the object alone is left, and after 0.79 nothing. 0.20 to 0.78 are stable."""
    values = torch.full((100,), 0.2)
    values[:30] = 0.8
    threshold, sensitivity = stable_threshold(values, 100) or (0, 0)
    assert threshold == pytest.approx(0.49) and sensitivity == 0.0
    assert stable_threshold(values[:30], 30) is None, "a mask of the whole picture is no object"
    assert stable_threshold(values, 100_000) is None, "nor is one of a few pixels"
    assert stable_threshold(values[:0], 100) is None
    # Two steps: the last stable range is that of the higher one.
    values[:10] = 0.95
    threshold, sensitivity = stable_threshold(values, 100) or (0, 0)
    assert threshold == pytest.approx((0.80 + 0.93) / 2, abs=0.006)
    assert sensitivity == 0.0


def test_the_dynamic_threshold_takes_the_level_that_changes_least() -> None:
    height, width = 40, 50
    label = Label("a", rectangle(height, width, 10, 10, 30, 30))
    relevancy = torch.full((2, height, width, 1), 0.1)
    # Each threshold between 0.5 and 0.9 loses some pixels on the first level.
    relevancy[0, 10:30, 10:30, 0] = torch.linspace(0.5, 0.9, 400).reshape(20, 20)
    relevancy[1, 10:30, 10:30] = 0.4
    (row,) = PROTOCOLS_2D["3d-ovs-dynamic"](relevancy, None, [label])
    assert row == Row("a", 1, 1.0, 1.0, None)
    # No threshold makes an object of a flat picture: then it is r > 0.5.
    (row,) = PROTOCOLS_2D["3d-ovs-dynamic"](torch.full((1, height, width, 1), 0.7), None, [label])
    assert row.iou == pytest.approx(400 / 2000)


def test_the_oracle_is_a_ceiling() -> None:
    relevancy, label = two_levels()
    relevancy[0, 24:80, 40:72] = 0.99
    (published,) = PROTOCOLS_2D["lerf-ovs-2d"](relevancy, None, [label])
    (best,) = oracle_level(relevancy, None, [label])
    assert published.level == 0 and published.iou < 0.6
    assert best.level == 1 and best.iou > 0.93 and best.hit is True


def test_means_of_pairs_pictures_and_categories() -> None:
    pictures = {
        "one": [Row("cup", 0, 0.9, 1.0, True), Row("pan", 0, 0.8, 0.3, False)],
        "two": [Row("cup", 1, 0.7, 0.5, None)],
        "three": [],
    }
    found = aggregate(pictures)
    assert found["pairs"] == 3
    assert found["miou"] == pytest.approx(0.6)
    assert found["miou_pictures"] == pytest.approx((0.65 + 0.5) / 2)
    assert found["miou_categories"] == pytest.approx((0.75 + 0.3) / 2)
    assert found["acc_25"] == 1.0 and found["acc_50"] == pytest.approx(1 / 3), "0.5 is not above 0.5"
    assert found["localisation"] == 0.5 and found["localisation_pictures"] == 0.5
    assert found["localisation_categories"] == 0.5
    assert "localisation" not in aggregate({"two": pictures["two"]})
    assert aggregate(dict(reversed(pictures.items()))) == pytest.approx(found)
    assert as_dicts("two", pictures["two"], ["part", "whole"]) == [
        {"picture": "two", "category": "cup", "level": "whole", "score": 0.7, "iou": 0.5, "hit": None}
    ]
    with pytest.raises(ValueError, match="no rows"):
        aggregate({"three": []})


def grid(side: int = 12) -> Tensor:
    """[side * side, 3]: one splat behind each pixel."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], dim=-1).reshape(-1, 3).float()


def test_the_silhouette_of_selected_splats_is_their_mask() -> None:
    means, truth = grid(), rectangle(12, 12, 3, 2, 9, 8)
    scores = torch.full((144, 2, 2), 0.1)
    scores[truth.flatten(), 1, 0] = 0.9
    scores[:, 0, 0] = torch.linspace(0.2, 0.5, 144)
    drawn: List[int] = []

    def render(chosen: Tensor) -> Tensor:
        drawn.append(int(chosen.sum()))
        return chosen.reshape(12, 12) * 0.9

    found = select(scores, means)
    assert found.levels[0] == 1 and found.splats.shape == (144, 2) and found.splats.dtype == torch.bool
    # Corners have more neighbours outside, which draw their scores below 0.8 of the range.
    inner = rectangle(12, 12, 4, 3, 8, 7)
    assert found.splats[inner.flatten(), 0].all() and not found.splats[~truth.flatten(), 0].any()
    chosen = found.splats[:, 0].reshape(12, 12)
    rows = evaluate_selection(found, ["cube", "air"], [Label("air", truth), Label("cube", chosen)], render)
    assert rows[1].iou == 1.0 and rows[1].level == 1 and rows[1].score == pytest.approx(0.9) and rows[1].hit is None
    assert rows[0].iou == 0.0 and drawn == [int(chosen.sum())], "what has one score selects nothing, and is not drawn"
    assert silhouette(torch.tensor([[9.9, 10.1]]) / 255).tolist() == [[False, True]]
    with pytest.raises(ValueError, match="not in list"):
        evaluate_selection(found, ["cube"], [Label("air", truth)], render)


def test_neighbours_by_hand() -> None:
    """Four splats in a row, two neighbours each: half one's own, half the mean of the neighbours'."""
    means = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [7, 0, 0]])
    scores = torch.tensor([0.0, 1.0, 0.0, 0.5]).reshape(4, 1, 1)
    every = torch.ones(4, 1, dtype=torch.bool)
    found = smooth_over_neighbours(scores, means, every, count=2).flatten()
    torch.testing.assert_close(found, torch.tensor([0.25, 0.5, 0.25, 0.5]))
    valid = every.clone()
    valid[1] = False
    found = smooth_over_neighbours(scores, means, valid, count=2).flatten()
    torch.testing.assert_close(found[[0, 2, 3]], torch.tensor([0.0, 0.0, 0.25]))
    assert smooth_over_neighbours(scores[:1], means[:1], every[:1]).flatten().tolist() == [0.0]
    # Splats at one place: oneself is still not among one's neighbours.
    found = smooth_over_neighbours(scores, torch.zeros(4, 3), every, count=3).flatten()
    torch.testing.assert_close(found, 0.5 * scores.flatten() + 0.5 * (1.5 - scores.flatten()) / 3)


def test_splats_without_a_feature_are_never_selected() -> None:
    means = grid(4)
    scores = torch.full((16, 1, 1), 0.2)
    scores[5:], scores[:2] = 0.9, 1.0
    valid = torch.ones(16, 1, dtype=torch.bool)
    valid[:2] = False
    found = select(scores, means, valid)
    assert not found.splats[:2].any() and found.splats.any() and found.scores[0] <= 0.9
    nothing = select(scores, means, torch.zeros_like(valid))
    assert not nothing.splats.any() and nothing.levels == [0] and nothing.scores == [0.0]
    assert select(scores[:0], means[:0]).splats.shape == (0, 1)
