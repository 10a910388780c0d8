# SPDX-License-Identifier: Apache-2.0
"""ns-viewer in a real browser: the page opens, the scene is drawn, outputs switch, the mouse turns the view.

NTS_SCREENSHOTS names a folder that keeps the screenshots, to look at them.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from nts_plugins.files import ply
from nts_plugins.viewer.looks import TEXTURE_LOOKS
from tests import captures, runs
from tests.asking import phrase_table, true_splats, with_splats

from .browser import ViewerPage, open_viewer, serve, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captures.write_capture(tmp_path_factory.mktemp("capture") / "blobs", views=12, size=(96, 72), points=400)


@pytest.fixture(scope="module")
def run(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With textures, so that the menu has all its entries."""
    texture = ("--pipeline.model.texture.start-step", "40", "--pipeline.model.texture.field.hidden", "16")
    return runs.train("splatfacto-nts", capture, tmp_path_factory.mktemp("outputs"), 120, *texture)


def keep(page: ViewerPage, name: str) -> None:
    folder = os.environ.get("NTS_SCREENSHOTS")
    if folder:
        page.page.screenshot(path=str(Path(folder) / f"{name}.png"))


def colourfulness(picture: np.ndarray) -> float:
    """Mean distance between a pixel's strongest and weakest colour."""
    return float((picture.max(axis=-1) - picture.min(axis=-1)).mean())


def shows_scene(picture: np.ndarray) -> bool:
    """Many different colours, light and dark: neither an empty canvas nor a flat background."""
    coarse = (picture[::4, ::4] * 15).round().astype(int).reshape(-1, 3)
    return len(np.unique(coarse, axis=0)) > 40 and float(picture.std()) > 0.05


def difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).mean())


def returned(now: np.ndarray, first: np.ndarray, other: np.ndarray) -> bool:
    """Back at ``first`` from ``other``. On a busy machine ``first`` may be a coarse drawing, equalled by none later."""
    return 3 * difference(now, first) < difference(now, other)


def test_trained_scene_in_the_viewer(chromium: str, run: Path, tmp_path: Path) -> None:
    with serve(["ns-viewer", "--load-config", str(run / "config.yml")], tmp_path) as served:
        with open_viewer(chromium, served) as page:
            # Before the first drawing arrives, little photographs at the cameras are there already, on grey.
            rgb = page.settled(lambda now: shows_scene(now) and colourfulness(now) > 0.05, "the saturated blobs")
            keep(page, "rgb")

            assert {"rgb", "depth", "accumulation"} <= set(page.options("Output type"))
            shown = {"rgb": rgb}
            for name in ("depth", "accumulation"):
                page.choose("Output type", name)
                before = list(shown.values())
                shown[name] = page.settled(
                    lambda now, before=before: (
                        shows_scene(now) and min(difference(now, each) for each in before) > 0.01
                    ),
                    f"the output {name}",
                )
                keep(page, name)

            page.choose("Output type", "rgb")
            page.settled(lambda now: difference(now, rgb) < 0.01, "the colours to come back")
            assert page.options("Show") == ["Scene", *TEXTURE_LOOKS]
            for name in ("Texture opacity", "Splat outlines"):
                page.choose("Show", name)
                look = page.settled(lambda now: difference(now, rgb) > 0.003, name)
                keep(page, name.replace(" ", "_"))
            page.choose("Show", "Scene")
            page.settled(lambda now: returned(now, rgb, look), "the scene to come back")
            page.slide("Splat size, %", "Home")
            page.settled(lambda now: difference(now, rgb) > 0.01, "the splats to shrink")
            keep(page, "small")
            page.slide("Splat size, %", "End")
            page.settled(lambda now: difference(now, rgb) < 0.01, "the splats to grow back")
            page.drag(120, 40)
            page.settled(lambda now: shows_scene(now) and difference(now, rgb) > 0.01, "the view to turn")
            keep(page, "turned")
            assert page.errors == []
        served.assert_healthy()


def test_viewer_while_training(chromium: str, capture: Path, tmp_path: Path) -> None:
    """The viewer's thread draws while training runs, and training goes on while somebody turns the view."""
    command = ["ns-train", "splat", "--data", str(capture), "--output-dir", str(tmp_path), "--vis", "viewer"]
    with serve(command, tmp_path) as served:
        with open_viewer(chromium, served) as page:
            wait_until(lambda: shows_scene(page.picture()), 120, "the scene to be drawn during training", served)
            began = step_shown(page)
            for _ in range(4):
                page.drag(40, 15)
            wait_until(lambda: step_shown(page) > began + 30, 120, "training to go on", served)
            assert shows_scene(page.picture())
            keep(page, "training")
            assert page.errors == []
        served.assert_healthy()


def step_shown(page: ViewerPage) -> int:
    """The training step that the control panel shows."""
    found = re.search(r"Step:\s*(\d+)", page.page.inner_text("body"))
    return int(found[1]) if found else 0


def test_the_time_slider_moves_the_scene(chromium: str, tmp_path: Path) -> None:
    capture = captures.write_capture(tmp_path / "blobs", views=12, size=(96, 72), points=400, moving=True)
    options = ["--pipeline.model.motion.start-step", "30", "--pipeline.model.motion.field.plane-resolutions", "16"]
    # The everyday rate is for thousands of steps.
    options += ["--optimizers.motion.optimizer.lr", "1e-2"]
    run = runs.train("splat-dynamic", capture, tmp_path / "outputs", 200, *options)
    with serve(["ns-viewer", "--load-config", str(run / "config.yml")], tmp_path) as served:
        with open_viewer(chromium, served) as page:
            first = page.settled(lambda now: shows_scene(now) and colourfulness(now) > 0.05, "the saturated blobs")
            keep(page, "time_0")
            page.slide("Time", "End")
            last = page.settled(lambda now: shows_scene(now) and difference(now, first) > 0.005, "the last moment")
            keep(page, "time_1")
            page.slide("Time", "Home")
            page.settled(lambda now: returned(now, first, last), "the first moment to come back")
            assert page.errors == []
        served.assert_healthy()


def test_the_panel_of_language_answers(chromium: str, tmp_path: Path) -> None:
    """A phrase is typed, and what is not found becomes grey, is hidden, and comes back."""
    capture = captures.write_capture(tmp_path / "blobs", views=12, size=(96, 72))
    captures.write_regions(capture)
    splats, table = tmp_path / "blobs.ply", phrase_table(tmp_path / "phrases.npz")
    ply.write(splats, true_splats())
    run = runs.train("langsplat", capture, tmp_path / "outputs", 10, *with_splats(splats, table))
    with serve(["ns-viewer", "--load-config", str(run / "config.yml")], tmp_path) as served:
        with open_viewer(chromium, served) as page:
            page.page.set_viewport_size({"width": 900, "height": 1500})  # The panel is below all others.
            scene = page.settled(lambda now: shows_scene(now) and colourfulness(now) > 0.05, "the saturated blobs")
            page.choose("Show it as", "Highlight")
            page.write("Has to beat", "green;blue")  # Features here are at right angles to all else.
            page.write("Look for", "red")
            red = page.settled(lambda now: colourfulness(now) < 0.8 * colourfulness(scene), "others to become grey")
            keep(page, "language_highlight")
            said = page.read("Answer:")
            assert re.fullmatch(r"Answer: \d+ of \d+ splats, the best [01]\.\d{3}", said), said
            assert page.ends("Threshold, 1/100") == ["-10", "20"]
            page.choose("Show it as", "Select")
            page.settled(lambda now: difference(now, red) > 0.005 and difference(now, scene) > 0.003, "a selection")
            keep(page, "language_select")
            page.choose("Show it as", "Only what is found")
            only = page.settled(lambda now: difference(now, red) > 0.005, "others to vanish")
            keep(page, "language_only")
            page.write("Look for", "a phrase that is not in the table")
            page.settled(lambda now: returned(now, scene, only), "the scene to come back")
            said = page.read("Answer:")
            assert "phrases.npz has no vectors of a phrase that is not in the table." in said, said
            assert "It has those of" in said and "things" in said
            keep(page, "language_error")
            assert page.errors == []
        served.assert_healthy()
