# SPDX-License-Identifier: Apache-2.0
"""The trainer around its loop: what it does when it cannot save, and on which device it trains."""

import errno
import os
from pathlib import Path
from typing import Any, Callable

import pytest
import torch

from nts_plugins import compat
from nts_plugins.errors import InputError
from nts_plugins.training import checkpoints
from tests import runs
from tests.captures import write_capture

OPTIONS = ("--steps-per-save", "3", "--pipeline.model.num-downscales", "0")


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "capture", views=4)


def fail_from(call: int, monkeypatch: pytest.MonkeyPatch, until: int = 10**9) -> None:
    """Let saving fail from one call to another, as on a disk that fills and is emptied."""
    calls = []
    original = torch.save

    def save(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        if call <= len(calls) < until:
            raise OSError(28, "No space left on device")
        original(*arguments, **options)

    monkeypatch.setattr(checkpoints.torch, "save", save)


def test_a_full_disk_costs_neither_the_run_nor_the_last_checkpoint(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    fail_from(2, monkeypatch)
    with pytest.raises(InputError, match="No space left on device.*Earlier checkpoints are untouched"):
        runs.train("splat", capture, tmp_path / "outputs", 11, *OPTIONS)
    (run,) = (tmp_path / "outputs").glob("capture/splat/*")
    assert torch.load(runs.checkpoint(run), weights_only=True)["step"] == 3
    assert "No space left" in capsys.readouterr().out
    assert not list(run.rglob("*.partial"))


def test_a_disk_that_is_emptied_in_time_costs_nothing(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_from(2, monkeypatch, until=3)
    run = runs.train("splat", capture, tmp_path / "outputs", 11, *OPTIONS)
    assert torch.load(runs.checkpoint(run), weights_only=True)["step"] == 10


def test_all_checkpoints_are_kept_on_demand(capture: Path, tmp_path: Path) -> None:
    keep = ("--save-only-latest-checkpoint", "False")
    run = runs.train("splat", capture, tmp_path / "outputs", 8, *OPTIONS, *keep)
    steps = sorted(int(path.stem[5:]) for path in (run / "nerfstudio_models").iterdir())
    assert steps == [3, 6, 7]


def test_without_a_gpu_it_trains_on_the_cpu(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    trainer = runs.trainer("splat", capture, tmp_path / "outputs", 1)
    assert trainer.device == "cpu" and "training on the cpu" in " ".join(capsys.readouterr().out.split())
    assert "device_type: cpu" in (trainer.base_dir / "config.yml").read_text()


@pytest.mark.parametrize("requested,expected", [("cpu", "cpu"), ("cuda", "cpu"), ("cuda:1", "cpu"), ("mps", "cpu")])
def test_usable_device(requested: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert compat.usable_device(requested) == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compat.usable_device("cuda:1") == "cuda:1"


def test_evaluating_while_training_does_not_change_it(capture: Path, tmp_path: Path) -> None:
    often = ("--steps-per-eval-batch", "2", "--steps-per-eval-image", "3", "--steps-per-eval-all-images", "5")
    random = ("--pipeline.model.background-color", "random")
    with_eval = runs.train("splat", capture, tmp_path / "with", 12, *random, *often)
    without = runs.train("splat", capture, tmp_path / "without", 12, *random)
    states = [torch.load(runs.checkpoint(run), weights_only=True)["pipeline"] for run in (with_eval, without)]
    for name, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, states[1][name]), name


def test_a_saved_config_trains_again(capture: Path, tmp_path: Path) -> None:
    """``ns-train splat --load-config`` of an earlier run."""
    run = runs.train("splat", capture, tmp_path / "outputs", 4, *OPTIONS)
    from nerfstudio.scripts.train import main

    config = runs.parse("splat", "--load-config", str(run / "config.yml"))
    runs.forget_writers()
    main(config)
    assert torch.load(runs.checkpoint(run), weights_only=True)["step"] == 3


def test_learning_rate_of_positions_follows_the_scene(capture: Path, tmp_path: Path) -> None:
    trainer = runs.trainer("splat-paper", capture, tmp_path / "outputs", 1)
    extent = trainer.pipeline.datamanager.train_dataset.metadata["camera_extent"]
    rate = trainer.config.optimizers["means"]["optimizer"].lr
    assert trainer.optimizers.optimizers["means"].param_groups[0]["lr"] == pytest.approx(rate * extent)


def test_a_full_disk_at_the_start_leaves_no_run(capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="Cannot write the run to .*No space left.*--output-dir"):
        runs.train("splat", capture, tmp_path / "outputs", 5, *OPTIONS)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    "place",
    [
        "nerfstudio.utils.writer.setup_event_writer",
        "nerfstudio.data.dataparsers.base_dataparser.DataparserOutputs.save_dataparser_transform",
    ],
)
def test_a_disk_that_fills_while_the_run_begins_leaves_no_run(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(place, full)
    with pytest.raises(InputError, match="Cannot write the run to .*No space left"):
        runs.train("splat", capture, tmp_path / "outputs", 5, *OPTIONS)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["schedulers"].pop("means"), "lacks the schedules means"),
        (lambda state: state["optimizers"].update(extra={}), "optimizers that are unknown here, extra"),
        (lambda state: state["pipeline"].update({"datamanager.x": torch.ones(1)}), "unknown here, datamanager.x"),
        (lambda state: state["optimizers"]["means"]["state"][0].update(exp_avg=torch.ones(2, 3)), "optimizer means"),
        (lambda state: state["pipeline"]["_model._extra_state"].pop("strategy"), "lacks .*strategy"),
        (lambda state: state["pipeline"].update({"_model.exposure.log_factors": torch.ones(9, 3)}), "9 photographs"),
    ],
    ids=["schedule", "optimizer", "entry", "moments", "strategy", "photographs"],
)
def test_checkpoints_that_do_not_fit_are_explained(
    capture: Path, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    run = runs.train("splat", capture, tmp_path / "outputs", 5, *OPTIONS)
    state = torch.load(runs.checkpoint(run), weights_only=True)
    change(state)
    other = tmp_path / "other.ckpt"
    torch.save(state, other)
    with pytest.raises(InputError, match=f"Cannot go on from {other}, which was trained with splat.*{message}.*config"):
        runs.train("splat", capture, tmp_path / "again", 9, *OPTIONS, "--load-checkpoint", str(other))
    assert not list(tmp_path.glob("again/**/config.yml"))


def test_training_needs_iterations(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        runs.train("splat", capture, tmp_path / "outputs", 0)
    printed = capsys.readouterr()
    assert "max-num-iterations is 0" in f"{caught.value}{printed.out}{printed.err}"


def test_an_option_that_the_recipe_cannot_train_is_explained(capture: Path, tmp_path: Path) -> None:
    """The paper's presets have no optimizer for what the paper does not have."""
    options = ("--pipeline.model.pixel-decoder.features", "4")
    with pytest.raises(InputError, match="splatfacto-nts-blender-paper has no optimizer for pixels, pixels_features"):
        runs.trainer("splatfacto-nts-blender-paper", capture, tmp_path, 1, *options)
    assert not list(tmp_path.rglob("*.yml"))
