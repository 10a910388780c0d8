# SPDX-License-Identifier: Apache-2.0
"""The work of a cell: what is trained for it, what is measured, and which options are refused."""

import math
from pathlib import Path
from typing import Any, Dict

import pytest

from nts_plugins.bench.feat2gs import METHODS, run_cell, training_config
from nts_plugins.bench.grid import Cell
from nts_plugins.errors import InputError
from tests.captures import write_capture, write_depth

FEW = "--max-num-iterations 6 --pipeline.model.warm-start 4 --pipeline.model.refine-test-poses.steps 2"


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_capture(tmp_path_factory.mktemp("data") / "capture", size=(32, 24))
    write_depth(folder)
    return folder


def settings_of(capture: Path, **values: Any) -> Dict[str, Any]:
    return {"data": str(capture), "train_views": None, "options": FEW, "dataparser": "", **values}


@pytest.mark.parametrize("mode", METHODS)
def test_a_cell_is_trained_as_its_name_says(capture: Path, tmp_path: Path, mode: str) -> None:
    features = "none" if mode == "free" else "iuv"
    settings = settings_of(capture, train_views=4, dataparser="nerfstudio-data --orientation-method none")
    config = training_config(Cell("some", features, mode, 7), settings, tmp_path)
    assert config.method_name == METHODS[mode] and config.pipeline.model.mode == mode
    assert config.pipeline.datamanager.features.name == features and config.machine.seed == 7
    assert config.pipeline.datamanager.train_views == 4 and config.max_num_iterations == 6
    assert config.pipeline.datamanager.dataparser.orientation_method == "none"
    assert config.get_base_dir().is_relative_to(tmp_path)


@pytest.mark.parametrize(("name", "model", "tuned"), [("a", "a", False), ("a*", "a", True), ("a++b*", "a++b", True)])
def test_features_marked_so_learn(capture: Path, tmp_path: Path, name: str, model: str, tuned: bool) -> None:
    config = training_config(Cell("some", name, "geometry", 1), settings_of(capture), tmp_path)
    assert config.pipeline.datamanager.features.name == model and config.pipeline.model.tune_features is tuned


def test_options_of_the_scene_come_last(capture: Path, tmp_path: Path) -> None:
    settings = settings_of(capture, scene_options="--max-num-iterations 9 --pipeline.datamanager.stride 3")
    config = training_config(Cell("some", "iuv", "all", 1), settings, tmp_path)
    assert config.max_num_iterations == 9 and config.pipeline.datamanager.stride == 3


def test_a_cell_is_scored_as_ns_eval_does(capture: Path, tmp_path: Path) -> None:
    metrics = run_cell(Cell("some", "iuvrgb", "geometry", 1), settings_of(capture), tmp_path / "a")
    assert {"psnr", "masked_ssim", "refined_masked_psnr", "published_psnr", "covisible"} <= metrics.keys()
    assert {"accuracy", "completeness", "distance"} <= metrics.keys() and "fps" not in metrics
    assert all(map(math.isfinite, metrics.values()))
    # Another one in the same process does not see what the first one left; seeds make the difference.
    again = run_cell(Cell("some", "iuvrgb", "geometry", 1), settings_of(capture), tmp_path / "b")
    other = run_cell(Cell("some", "iuvrgb", "geometry", 2), settings_of(capture), tmp_path / "c")
    assert again == metrics and other["psnr"] != metrics["psnr"]


def test_options_that_ns_train_does_not_know(capture: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--no-such-option"):
        run_cell(Cell("some", "iuv", "all", 1), settings_of(capture, options="--no-such-option 3"), tmp_path)
    assert not list(tmp_path.iterdir())
