# SPDX-License-Identifier: Apache-2.0
"""Benchmarks measure what they say, keep what they measured, and say where."""

import json
import time
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest
import torch

from benchmarks import _report, accuracy, peak, rasterizer, scenes
from benchmarks._measure import Sample, Timings, alternate, forward_backward, single, stopwatch
from benchmarks._report import Report, Table
from benchmarks._stages import project
from nts_plugins.errors import InputError
from nts_plugins.rasterization import installed_rules, reference
from nts_plugins.rasterization._types import Settings


def test_stopwatch_tells_work_from_waiting() -> None:
    _, waited = stopwatch(time.sleep, 0.05)
    assert waited.wall >= 0.05 and waited.cpu < 0.04
    result, worked = stopwatch(lambda: sum(range(2_000_000)))
    assert result == 1999999000000 and worked.cpu > 0.005


def test_candidates_take_turns() -> None:
    order: List[str] = []

    def work(name: str):
        def run() -> Iterator[Tuple[str, Sample]]:
            order.append(name)
            yield "part", Sample(cpu=float(len(order)), wall=0.5)

        return run

    timings = alternate({"a": work("a"), "b": work("b")}, repeats=3, warm_up=1)
    assert order == ["a", "b"] * 4
    assert [sample.cpu for sample in timings.samples["a part"]] == [3.0, 5.0, 7.0]
    assert timings.cpu_ms("a part") == 5000.0 and timings.wall_ms("b part") == 500.0


def test_ratio_is_taken_inside_a_round() -> None:
    timings = Timings()
    for speed in (1.0, 10.0, 2.0):  # The machine is slower in the second round; the ratio stays.
        timings.add("slow", Sample(3.0 * speed, 0.0))
        timings.add("fast", Sample(1.0 * speed, 0.0))
    assert timings.ratio("slow", "fast") == pytest.approx(3.0)


def test_forward_and_backward_are_timed_apart() -> None:
    leaf = torch.ones(3, requires_grad=True)
    parts = dict(forward_backward(lambda: leaf * 2, torch.ones(3))())
    assert list(parts) == ["forward", "backward"] and leaf.grad.tolist() == [2.0, 2.0, 2.0]
    recorded = []
    list(single("draw", lambda: recorded.append(torch.is_grad_enabled()))())
    assert recorded == [False]


def test_table() -> None:
    table = Table("Title", "note")
    table.add(a=1, b=0.123456)
    table.add(a=2000.4, c=True)
    table.add(b=4.2e-6)
    assert table.markdown().splitlines() == [
        "## Title",
        "",
        "note",
        "",
        "| a | b | c |",
        "| --- | --- | --- |",
        "| 1 | 0.123 | – |",
        "| 2000 | – | True |",
        "| – | 4.2e-06 | – |",
    ]


def test_report_is_not_overwritten(tmp_path: Path) -> None:
    report = Report("speed", "Speed", folder=tmp_path)
    report.check_free(force=False)
    report.table("Table").add(value=1.5)
    assert report.write() == tmp_path / "speed.md"
    content = json.loads((tmp_path / "speed.json").read_text())
    assert content["tables"][0]["rows"] == [{"value": 1.5}]
    assert content["machine"]["cores"] >= 1 and content["machine"]["cpu"]
    assert content["versions"]["torch"].startswith("2.") and content["date"].endswith("UTC")
    assert "python -m" in content["command"]
    with pytest.raises(InputError, match="speed.json exists. Use --name"):
        report.check_free(force=False)
    report.check_free(force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speed.json", "speed.md"]


def test_pairs_are_those_of_the_reference() -> None:
    scene = scenes.room(300, "trained", 40, 24)
    settings = Settings(width=40, height=24, rules=installed_rules())
    view = reference.project(
        scene.gaussians.to(torch.float64), *(m.double() for m in (scene.viewmats, scene.Ks)), settings
    )
    splats = torch.argsort(view.depths[0], stable=True)
    splats = splats[view.visible[0, splats]]
    first, last = reference.tile_rectangles(view.means2d[0, splats], view.radii[0, splats], settings)
    pixels = reference.pixel_centres(slice(0, 24), slice(0, 40), view.means2d)
    tiles = (pixels // settings.rules.tile_size)[:, None]
    listed = ((first <= tiles) & (tiles < last)).all(dim=-1)
    # Weights with the opacity of splats that a pixel's tile does not list set to nothing.
    count = 0
    for pixel, inside in zip(pixels, listed, strict=True):
        chosen = splats[inside]
        weights, _ = reference.splat_weights(
            pixel[None], view.means2d[0, chosen], view.conics[0, chosen], view.opacities[0, chosen], settings.rules
        )
        count += int((weights > 0).sum())
    assert accuracy.count_pairs(project(scene)) == pytest.approx(count, rel=2e-3)
    assert count > 5000


def test_errors_of_the_kernels_are_small_and_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scenes.room(300, "trained", 40, 24)
    upstream = rasterizer.upstream_of(scene)
    errors = accuracy.composite_errors(project(scene), upstream)
    assert 0 < errors.pixel < 1e-5 and 0 < errors.gradient < 1e-5 and errors.excluded < 0.05
    whole = accuracy.rasterize_errors(scene, upstream)
    assert 0 < whole.pixel < 1e-6 and whole.excluded < 0.05
    projected = project(scene)
    monkeypatch.setattr(type(projected), "draw", lambda self: type(self).draw_baseline(self) * 1.001)
    wrong = accuracy.composite_errors(projected, upstream)
    assert wrong.pixel > 1e-4 and wrong.gradient > 5e-4


def test_peak_is_plausible() -> None:
    assert 1e9 < peak.fma_peak(seconds=0.05) < 1e12


def test_masks_cover_the_picture() -> None:
    ids = rasterizer.mask_map(60, 40, 20)
    assert ids.shape == (1, 40, 60) and ids.unique().tolist() == list(range(20))


def test_whole_benchmark_runs_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every part, in seconds: two hundred splats, a tiny picture, one round."""
    monkeypatch.setattr(_report, "FOLDER", tmp_path)
    threads = torch.get_num_threads()
    rasterizer.main(rasterizer.Options(splats=(200,), images=((48, 32),), repeats=1, name="small"))
    assert torch.get_num_threads() == threads
    content = json.loads((tmp_path / "small.json").read_text())
    titles = [table["title"] for table in content["tables"]]
    assert titles == [
        "Compositing by splats and pixels",
        "Compositing by channels",
        "Threads",
        "Whole rasterize",
        "Lifting",
        "Accuracy",
    ]
    by_title = {table["title"]: table["rows"] for table in content["tables"]}
    assert all(row["ratio forward"] > 0 for row in by_title["Whole rasterize"])
    assert all(row["bit-identical"] for row in by_title["Threads"])
    assert [row["channels"] for row in by_title["Compositing by channels"]] == [3, 1, 2, 4, 8, 16, 32, 64]
    with pytest.raises(InputError):
        rasterizer.main(rasterizer.Options(name="small"))
