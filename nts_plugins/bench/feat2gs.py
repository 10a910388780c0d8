# SPDX-License-Identifier: Apache-2.0
"""The work of a cell of ``nts bench feat2gs``: a training and its evaluation, as ns-train and ns-eval do them."""

import shlex
from pathlib import Path
from typing import Any, Dict, Mapping

from nts_plugins.bench.grid import NO_FEATURES, Cell
from nts_plugins.errors import InputError

METHODS = {"geometry": "feat2gs", "texture": "feat2gs-texture", "all": "feat2gs-all", "free": "feat2gs-free"}
"""Mode to the method that has it as its preset."""
TUNED = "*"
"""Behind a name of features: they learn in the warm start, as the paper marks them."""
COSTS = ("num_rays_per_sec", "fps", "gaussian_count")
"""What is no measure of features."""


def run_cell(cell: Cell, settings: Mapping[str, Any], folder: Path) -> Dict[str, float]:
    """Train in a folder, and score as ns-eval does.

    Args:
        cell: what is trained.
        settings: ``data``, ``train_views``, ``options``, ``scene_options`` and ``dataparser`` of the command.
        folder: for the run.

    Raises:
        InputError: of the training, and where an option is none of ns-train's.
    """
    config = training_config(cell, settings, folder)
    from nerfstudio.scripts.train import main
    from nerfstudio.utils.eval_utils import eval_setup

    _forget_writers()
    main(config)
    pipeline: Any = eval_setup(config.get_base_dir() / "config.yml", test_mode="test")[1]
    metrics = pipeline.get_average_eval_image_metrics()
    return {name: value for name, value in metrics.items() if name not in COSTS}


def training_config(cell: Cell, settings: Mapping[str, Any], folder: Path) -> Any:
    """The config that ns-train would build.

    Raises:
        InputError: where an option is none of its.
    """
    import tyro
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    words = [METHODS[cell.mode], "--data", str(settings["data"]), "--output-dir", str(folder)]
    words += ["--experiment-name", "run", "--timestamp", "run", "--machine.seed", str(cell.seed)]
    # No viewer waits for somebody to close it, and no picture is scored on the way.
    words += ["--vis", "tensorboard", "--logging.local-writer.enable", "False"]
    words += ["--steps-per-eval-image", "1000000", "--steps-per-eval-all-images", "1000000"]
    if cell.features != NO_FEATURES:
        words += ["--pipeline.datamanager.features.name", cell.features.removesuffix(TUNED)]
    if cell.features.endswith(TUNED):
        words += ["--pipeline.model.tune-features", "True"]
    if settings.get("train_views") is not None:
        words += ["--pipeline.datamanager.train-views", str(settings["train_views"])]
    for name in ("options", "scene_options", "dataparser"):
        words += shlex.split(str(settings.get(name) or ""))
    try:
        return tyro.cli(AnnotatedBaseConfigUnion, args=words, prog="ns-train")  # type: ignore[arg-type]
    except SystemExit as error:
        raise InputError(f"ns-train does not take {shlex.join(words)}.") from error


def _forget_writers() -> None:
    """nerfstudio's writers are global, and each run of a process would add its own."""
    from nerfstudio.utils import profiler, writer

    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()
    profiler.PROFILER.clear()
