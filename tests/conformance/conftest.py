# SPDX-License-Identifier: Apache-2.0
"""What every registered method is put through: one tiny capture whose frames have times, and a short training each."""

from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, List, NamedTuple, Tuple

import pytest
import torch

from tests import runs
from tests.captures import write_capture, write_regions

STEPS = 130
WARM_START = 99
"""Of these, of methods that have one. No other option has this number."""

# Adds, removes and resets splats within those steps, and visits every resolution.
BUSY = {
    "densify": [
        *("--pipeline.model.densify.refine-start-iter", "5"),
        *("--pipeline.model.densify.refine-every", "10"),
        *("--pipeline.model.densify.reset-every", "100"),
        *("--pipeline.model.densify.max-splats", "150"),
    ],
    "mcmc": ["--pipeline.model.mcmc.refine-start-iter", "5", "--pipeline.model.mcmc.refine-every", "10"],
    "resolution_schedule": ["--pipeline.model.resolution-schedule", "5"],
    "sh_degree_interval": ["--pipeline.model.sh-degree-interval", "15"],
    "texture": ["--pipeline.model.texture.start-step", "30", "--pipeline.model.texture.field.hidden", "16"],
    "motion": [
        *("--pipeline.model.motion.start-step", "20", "--pipeline.model.motion.field.hidden", "16"),
        *("--pipeline.model.motion.field.plane-resolutions", "8"),
    ],
    "num_random": ["--pipeline.model.num-random", "200"],
}


DECODED = ("splatfacto-nts-dynamic", "splatfacto-nts-surface")
"""Methods that are trained with what is otherwise an option: where a scene moves, and beside another head."""


def registered_methods() -> List[str]:
    """Names of the methods that this package offers to nerfstudio."""
    entries = metadata.entry_points(group="nerfstudio.method_configs")
    return sorted({entry.name for entry in entries if entry.value.startswith("nts_plugins.")})


def busy_options(method: str) -> List[str]:
    """Options that make a few steps do what takes thousands by default, for what settings the method has."""
    return list(_busy_options(method))


@cache
def _busy_options(method: str) -> Tuple[str, ...]:
    pipeline = runs.parse(method).pipeline
    model = pipeline.model
    left_out = "densify" if hasattr(model, "warm_start") else None  # Such splats stay as many as they are.
    used = [setting for setting in BUSY if hasattr(model, setting) and setting != left_out]
    busy = [option for setting in used for option in BUSY[setting]]
    if method in DECODED:
        busy += ["--pipeline.model.pixel-decoder.features", "4", "--pipeline.model.pixel-decoder.hidden", "8"]
    if hasattr(model, "language"):
        busy += ["--pipeline.model.language.start-step", "10", "--pipeline.model.language.autoencoder.epochs", "3"]
        busy += ["--pipeline.model.language.sparse.words", "8"]
    if getattr(model, "splats_stop_step", None) is not None:
        busy += ["--pipeline.model.splats-stop-step", "110"]
    if hasattr(pipeline.datamanager, "codec"):
        busy += ["--pipeline.datamanager.codec.name", "tests.encoders.small:block_codec"]
        busy += ["--pipeline.model.alignment-start", "110"]
    if hasattr(model, "warm_start"):
        busy += ["--pipeline.model.warm-start", str(WARM_START), "--pipeline.model.pose-steps", "15"]
        if model.mode != "free":
            busy += ["--pipeline.datamanager.features.name", "iuvrgb"]
        busy += ["--pipeline.model.refine-test-poses.steps", "3", "--pipeline.datamanager.stride", "4"]
    for head in model.heads:
        busy += [f"--pipeline.model.heads.{head}.start-step", "10"]
    if pipeline.datamanager.train_views is not None:
        busy += ["--pipeline.datamanager.train-views", "6"]
    return tuple(busy)


def first_of_its_kind(method: str) -> bool:
    """Whether no method before it has the same model, strategy and options that are heads: presets of one method differ
    in numbers, and what code does with any numbers need not be tried with each."""
    return next(name for name in registered_methods() if _kind(name) == _kind(method)) == method


@cache
def _kind(name: str) -> Tuple[Any, ...]:
    model = runs.parse(name).pipeline.model
    fit = model.language.fit if hasattr(model, "language") else None
    reads_out = getattr(model, "mode", "free") != "free"
    return type(model), model.strategy, fit, reads_out, tuple(sorted(model.heads)), name in DECODED


class Trained(NamedTuple):
    """A method after a short training."""

    method: str
    folder: Path
    trainer: Any
    losses: List[float]
    initial_count: int


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = write_capture(tmp_path_factory.mktemp("conformance") / "capture", moving=True)
    write_regions(folder)
    return folder


@pytest.fixture(scope="session", params=registered_methods())
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def trained(method: str, capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    output = tmp_path_factory.mktemp("outputs")
    trainer = runs.trainer(method, capture, output, STEPS, *busy_options(method))
    count = trainer.pipeline.model.num_points
    losses: List[float] = []
    original = trainer.pipeline.get_train_loss_dict

    def recorded(step: int) -> Any:
        result = original(step=step)
        losses.append(float(sum(result[1].values()).detach()))
        return result

    trainer.pipeline.get_train_loss_dict = recorded
    trainer.train()
    del trainer.pipeline.get_train_loss_dict
    return Trained(method, trainer.base_dir, trainer, losses, count)
