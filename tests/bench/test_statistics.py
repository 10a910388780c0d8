# SPDX-License-Identifier: Apache-2.0
"""Means, intervals, differences, ranks and correlations, against numbers known otherwise."""

import math
from typing import Any, Dict, List, Sequence

import numpy as np
import pytest
from scipy import stats

from nts_plugins.bench.statistics import (
    correlation,
    difference,
    estimate,
    kind,
    means,
    metrics_of,
    more_is_better,
    ranks,
    summarise,
)


def row(scene: str = "fox", features: str = "iuv", seed: int = 1, mode: str = "geometry", **metrics: Any) -> Dict:
    return {"scene": scene, "features": features, "mode": mode, "seed": seed, **metrics}


def grid(values: Dict[str, Dict[str, Sequence[float]]], metric: str = "psnr") -> List[Dict]:
    """Rows of features to scene to a number for every seed."""
    return [
        row(scene, features, seed, **{metric: value})
        for features, scenes in values.items()
        for scene, numbers in scenes.items()
        for seed, value in enumerate(numbers, start=1)
    ]


# ---- directions


@pytest.mark.parametrize(
    "name, better",
    [
        ("psnr", True), ("published_psnr", True), ("masked_psnr", True), ("refined_ssim", True), ("SSIM", True),
        ("lpips", False), ("masked_lpips", False), ("accuracy", False), ("gt_completeness", False), ("distance", False),
        ("splats", None), ("psnr_std", None), ("", None),
    ],
)  # fmt: skip
def test_which_way_is_better(name: str, better: Any) -> None:
    assert more_is_better(name) is better


def test_kinds_and_names_of_metrics() -> None:
    assert kind("refined_masked_psnr") == kind("psnr") == "psnr"
    assert metrics_of([row(psnr=1.0), row(ssim=2.0, psnr=3.0, lpips=1.0)]) == ["psnr", "ssim", "lpips"]


# ---- means and intervals


def test_one_scene_has_students_interval_over_seeds() -> None:
    found = summarise(grid({"iuv": {"fox": [1.0, 2.0, 3.0]}}), "psnr")
    # t of 2 degrees of freedom at 0.975 is 4.3027; the standard error is 1 / sqrt(3).
    assert (found.mean, found.scenes, found.count, found.method) == (2.0, 1, 3, "t over seeds")
    assert found.high - 2.0 == pytest.approx(2.484138, abs=1e-5) and found.low == pytest.approx(4.0 - found.high)
    assert found.half == pytest.approx(2.484138, abs=1e-5)
    assert summarise(grid({"iuv": {"fox": [1.0, 2.0, 3.0]}}), "psnr", level=0.5).half == pytest.approx(
        0.816497 / math.sqrt(3), abs=1e-5
    )


def test_one_number_has_no_interval() -> None:
    found = summarise(grid({"iuv": {"fox": [7.0]}}), "psnr")
    assert (found.mean, found.scenes, found.count, found.method) == (7.0, 1, 1, "none")
    assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.half)


def test_the_mean_is_that_of_the_scenes() -> None:
    found = summarise(grid({"iuv": {"fox": [1.0, 1.0, 1.0], "cat": [4.0]}}), "psnr")
    assert (found.mean, found.scenes, found.count, found.method) == (2.5, 2, 4, "bootstrap")


def test_with_a_seed_each_the_interval_is_students_over_scenes() -> None:
    values = [1.0, 2.5, 3.0, 7.0]
    found = estimate([[value] for value in values], draws=200_000)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, rel=0.01)
    two = estimate([[1.0], [2.0]], draws=200_000)
    assert two.half == pytest.approx(12.7062 * 0.5, rel=0.01), "two scenes say next to nothing"


def test_seeds_are_not_scenes() -> None:
    """The same numbers, repeated, are not more numbers."""
    few = estimate([[1.0], [2.0], [4.0]])
    many = estimate([[1.0] * 10, [2.0] * 10, [4.0] * 10])
    assert many.half == pytest.approx(few.half, rel=1e-9) and (many.scenes, many.count) == (3, 30)
    flat = estimate([[1.0, 2.0, 3.0] * 10])
    assert flat.half < 0.4


def test_seeds_that_differ_widen_the_interval() -> None:
    still, moving = estimate([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]), estimate([[0.0, 2.0], [0.0, 2.0], [0.0, 2.0]])
    assert still.half == 0.0
    # Drawing 2 of 2 seeds has variance 1/2 a scene, of three scenes 1/6, times 3/2; t of 2 degrees is 4.3027.
    assert moving.half == pytest.approx(4.3027 * 0.5, rel=0.05)


def test_uneven_seeds_are_drawn_from_their_own_scene() -> None:
    """With padding among what is drawn, the zeros would show."""
    found = estimate([[10.0], [10.0, 10.0, 10.0, 10.0]])
    assert found.mean == 10.0 and found.half == pytest.approx(0.0, abs=1e-12)


def test_the_same_rows_say_the_same() -> None:
    rows = grid({"iuv": {"fox": [1.0, 2.0], "cat": [2.0, 5.0], "dog": [3.0, 3.5]}})
    assert summarise(rows, "psnr") == summarise(rows, "psnr")
    assert summarise(rows, "psnr").half != summarise(rows, "psnr", seed=1).half


@pytest.mark.parametrize("scenes, seeds, spread, noise", [(5, 3, 1.0, 0.3), (3, 2, 1.0, 1.0), (30, 1, 2.0, 0.1),
                                                          (1, 3, 0.0, 1.0), (2, 2, 1.0, 0.1)])  # fmt: skip
def test_intervals_hold_the_truth_as_often_as_they_say(scenes: int, seeds: int, spread: float, noise: float) -> None:
    generator = np.random.default_rng(7)
    held, trials = 0, 600
    for _ in range(trials):
        values = 20 + generator.normal(0, spread, (scenes, 1)) + generator.normal(0, noise, (scenes, seeds))
        found = estimate(values.tolist(), draws=300)
        held += found.low <= 20 <= found.high
    assert 0.93 <= held / trials <= (0.995 if noise >= spread else 0.98)


# ---- differences


def test_a_difference_is_over_what_both_have() -> None:
    iuv = grid({"iuv": {"fox": [1.0, 2.0], "cat": [5.0]}})
    radio = grid({"radio": {"fox": [2.0, 4.0, 100.0], "dog": [50.0]}})
    found = difference(radio, iuv, "psnr")
    assert found.estimate.mean == 1.5 and (found.estimate.scenes, found.estimate.count) == (1, 2)
    # 1 and 2: mean 1.5, standard error 0.5, t of one degree of freedom 12.706.
    assert found.estimate.half == pytest.approx(12.7062 * 0.5, abs=1e-3) and found.better is None
    assert difference(iuv, radio, "psnr").estimate.mean == -1.5
    nothing = difference(iuv, [], "psnr")
    assert math.isnan(nothing.estimate.mean) and nothing.better is None


def test_a_paired_difference_sees_what_intervals_apart_do_not() -> None:
    """Scenes are 10 dB apart, features 0.3."""
    generator = np.random.default_rng(3)
    levels = {f"scene{number}": 15.0 + 2.0 * number for number in range(6)}
    noise = lambda: generator.normal(0, 0.05, 3)  # noqa: E731
    iuv = grid({"iuv": {scene: list(level + noise()) for scene, level in levels.items()}})
    radio = grid({"radio": {scene: list(level + 0.3 + noise()) for scene, level in levels.items()}})
    apart = [summarise(rows, "psnr") for rows in (iuv, radio)]
    assert apart[0].high > apart[1].low + 3, "they overlap"
    found = difference(radio, iuv, "psnr")
    assert found.better is True and 0.2 < found.estimate.low < 0.3 < found.estimate.high < 0.4
    assert difference(iuv, radio, "psnr").better is False


def test_no_difference_is_seldom_seen_where_there_is_none() -> None:
    generator = np.random.default_rng(5)
    seen = 0
    for _ in range(300):
        one, other = (
            grid({name: {f"s{k}": list(10.0 * k + generator.normal(0, 1, 3)) for k in range(4)}}) for name in ("a", "b")
        )
        seen += difference(one, other, "psnr", draws=200).better is not None
    assert seen <= 0.06 * 300


def test_less_is_better_for_some() -> None:
    for metric, better in (("psnr", False), ("lpips", True), ("masked_accuracy", True), ("splats", None)):
        low, high = (grid({name: {"fox": [v, v + 0.01, v]}}, metric) for name, v in (("a", 1.0), ("b", 2.0)))
        assert difference(low, high, metric).better is better


# ---- ranks


def test_ranks_are_within_scenes_and_ties_share() -> None:
    rows = grid({
        "a": {"fox": [3.0, 5.0], "cat": [10.0]},  # 4, 10
        "b": {"fox": [4.0], "cat": [30.0]},
        "c": {"fox": [1.0], "cat": [20.0]},
    })  # fmt: skip
    found, scenes = ranks(rows, "psnr")
    # fox: a and b tie for 1 and 2, c 3. cat: b 1, c 2, a 3.
    assert found == {"a": (1.5 + 3) / 2, "b": (1.5 + 1) / 2, "c": 2.5} and scenes == 2
    lower = [
        {**{key: each[key] for key in ("scene", "features", "seed", "mode")}, "lpips": each["psnr"]} for each in rows
    ]
    assert ranks(lower, "lpips")[0] == {"a": (2.5 + 1) / 2, "b": (2.5 + 3) / 2, "c": 1.5}


def test_scenes_that_some_lack_rank_nobody() -> None:
    rows = grid({"a": {"fox": [1.0], "cat": [9.0]}, "b": {"fox": [2.0]}})
    assert ranks(rows, "psnr") == ({"a": 2.0, "b": 1.0}, 1)
    apart = grid({"a": {"fox": [1.0]}, "b": {"cat": [2.0]}})
    found, scenes = ranks(apart, "psnr")
    assert scenes == 0 and all(math.isnan(rank) for rank in found.values())
    assert ranks([], "psnr") == ({}, 0)
    assert math.isnan(ranks(grid({"a": {"fox": [1.0]}}, "splats"), "splats")[0]["a"])


# ---- correlations


def points(x: Sequence[float], y: Sequence[float], second: str = "ssim", scene: str = "fox") -> List[Dict]:
    pairs = enumerate(zip(x, y, strict=True))
    return [row(scene, f"f{number}", psnr=a, **{second: b}) for number, (a, b) in pairs]


def test_correlations_are_scipys() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(0, 1, 12)
    y = x + generator.normal(0, 1, 12)
    x[3] = x[5]
    found = correlation(points(x, y), "psnr", "ssim")
    assert found.pearson == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)
    assert (found.points, found.features, found.scenes) == (12, 12, 1)
    for value, (low, high) in ((found.pearson, found.pearson_interval), (found.spearman, found.spearman_interval)):
        assert -1 <= low < value < high <= 1 and high - low > 0.1
    assert correlation(points(x, y), "psnr", "ssim") == found


def test_positive_means_that_better_goes_with_better() -> None:
    x = [1.0, 2.0, 3.0, 4.0, 5.0]
    for second, sign in (("ssim", 1), ("accuracy", -1), ("splats", 1)):
        found = correlation(points(x, [2 * value for value in x], second), "psnr", second)
        assert found.pearson == pytest.approx(sign) and found.spearman == pytest.approx(sign)
        assert found.pearson_interval == pytest.approx((sign, sign))
    found = correlation(points(x, [value**5 for value in x]), "psnr", "ssim")
    assert found.spearman == pytest.approx(1.0) and found.pearson < 0.95


def test_what_scenes_have_in_common_is_no_agreement_of_features() -> None:
    """Features that disagree in each of two scenes, of which one is easier in both metrics."""
    rows = points([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0])
    rows += points([101.0, 102.0, 103.0, 104.0], [104.0, 103.0, 102.0, 101.0], scene="cat")
    pooled, within = (correlation(rows, "psnr", "ssim", within_scenes=each) for each in (False, True))
    assert pooled.pearson > 0.9 and within.pearson == pytest.approx(-1.0) and within.spearman == pytest.approx(-1.0)
    assert (within.points, within.features, within.scenes) == (8, 4, 2)


def test_points_are_means_over_seeds_of_what_has_both() -> None:
    rows = [row(features="a", seed=1, psnr=1.0, ssim=1.0), row(features="a", seed=2, psnr=3.0, ssim=2.0)]
    rows += [row(features="b", psnr=5.0), row(features="c", ssim=5.0), row("cat", "b", ssim=1.0)]
    assert means(rows, "psnr") == {"a": {"fox": 2.0}, "b": {"fox": 5.0}}
    assert correlation(rows, "psnr", "ssim").points == 1


def test_a_feature_is_drawn_with_all_its_scenes() -> None:
    """Ten scenes of four features are four, not forty: the interval stays as wide."""
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])
    one = correlation(points(x, y), "psnr", "ssim")
    ten = correlation([each for k in range(10) for each in points(x, y, scene=f"s{k}")], "psnr", "ssim")
    assert ten.pearson == pytest.approx(one.pearson) and (ten.points, ten.features) == (40, 4)
    assert ten.pearson_interval == pytest.approx(one.pearson_interval)


@pytest.mark.parametrize(
    "x, y",
    [([], []), ([1.0], [1.0]), ([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]), ([0.1] * 5, [0.3] * 5),
     ([math.nan, 1.0], [1.0, 2.0]), ([math.nan], [math.nan])],
)  # fmt: skip
@pytest.mark.parametrize("within", [False, True])
def test_undefined_is_nan_and_never_an_exception(x: List[float], y: List[float], within: bool) -> None:
    rows = points(x, y)
    found = correlation(rows, "psnr", "ssim", within_scenes=within)
    assert math.isnan(found.pearson) and math.isnan(found.spearman)
    assert all(map(math.isnan, (*found.pearson_interval, *found.spearman_interval)))
    assert math.isnan(summarise(rows, "gone").mean) and summarise(rows, "gone").method == "none"
    assert math.isnan(difference(rows, rows, "gone").estimate.mean)
    ranks(rows, "psnr")
    summarise(rows, "psnr")


def test_two_or_three_features_have_a_correlation_and_no_interval() -> None:
    found = correlation(points([1.0, 2.0, 3.0], [1.0, 2.0, 2.5]), "psnr", "ssim")
    assert found.pearson > 0.9 and math.isnan(found.pearson_interval[0]) and found.points == 3


def test_scenes_without_spread_have_no_correlation_within() -> None:
    rows = [row(scene, name, psnr=value, ssim=value) for name in "abcde" for scene, value in (("s", 0.1), ("t", 0.7))]
    assert correlation(rows, "psnr", "ssim").pearson == pytest.approx(1.0)
    found = correlation(rows, "psnr", "ssim", within_scenes=True)
    assert math.isnan(found.pearson) and math.isnan(found.spearman)
