# SPDX-License-Identifier: Apache-2.0
"""What benchmarks of language share: splats that are trained once, and language that is fitted to them."""

import time
from pathlib import Path
from typing import Any, Sequence, Tuple

import torch
import tyro

from benchmarks._commands import run_command


def trained_splats(
    data: Path, output: Path, iterations: int, seed: int, log: Path, options: Sequence[str] = ()
) -> Path:
    """The checkpoint of splats, trained unless it is there.

    Args:
        data: the scene.
        output: folder of runs.
        iterations, seed: of the training.
        log: where ns-train's messages go.
        options: more of ns-train's.
    """
    folder = output / data.name / "splat" / "run" / "nerfstudio_models"
    checkpoint = folder / f"step-{iterations - 1:09d}.ckpt"
    if not checkpoint.is_file():
        command = ["ns-train", "splat", "--data", str(data), "--output-dir", str(output), "--timestamp", "run"]
        command += ["--vis", "tensorboard", "--machine.seed", str(seed), "--max-num-iterations", str(iterations)]
        run_command([*command, *options], log)
    return checkpoint


def fitted(
    data: Path, output: Path, name: str, checkpoint: Path, features: Path, steps: int, seed: int, options: Sequence[str]
) -> Tuple[Any, float]:
    """A run that has fitted language to splats, and the seconds that this took without what comes before and after.

    Args:
        data: the scene.
        output: folder of runs.
        name: of this one.
        checkpoint: of the splats.
        features: folder of them, of the scene's pictures.
        steps, seed: of the fit.
        options: more of ns-train's.
    """
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    arguments = ["--data", str(data), "--output-dir", str(output), "--timestamp", name]
    arguments += ["--vis", "tensorboard", "--logging.local-writer.enable", "False", "--machine.seed", str(seed)]
    arguments += ["--max-num-iterations", str(steps)]
    arguments += ["--steps-per-save", "1000000", "--steps-per-eval-image", "1000000"]
    arguments += ["--pipeline.model.load-splats", str(checkpoint), "--pipeline.datamanager.features", str(features)]
    config = tyro.cli(AnnotatedBaseConfigUnion, args=["langsplat", *arguments, *options])  # type: ignore[arg-type]
    config.pipeline.datamanager.data = config.data
    torch.manual_seed(seed)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    start = time.perf_counter()
    trainer.train()
    return trainer, time.perf_counter() - start
