# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's commands inside the test's own process, because starting each anew costs ten seconds."""

import json
from pathlib import Path
from typing import Any, Dict, List

import tyro

COMMON = ["--vis", "tensorboard", "--timestamp", "run", "--logging.local-writer.enable", "False"]


def parse(method: str, *arguments: str) -> Any:
    """The config that ``ns-train METHOD ARGUMENTS`` builds."""
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    return tyro.cli(AnnotatedBaseConfigUnion, args=[method, *arguments])


def arguments(capture: Path, output: Path, steps: int, *extra: str) -> List[str]:
    """Command line of a short quiet training. What follows the name of a dataparser must be its own options."""
    where = ["--data", str(capture), "--output-dir", str(output), "--max-num-iterations", str(steps)]
    return [*where, *COMMON, *extra]


def train(method: str, capture: Path, output: Path, steps: int, *extra: str) -> Path:
    """``ns-train``; returns the run's folder."""
    from nerfstudio.scripts.train import main

    config = parse(method, *arguments(capture, output, steps, *extra))
    forget_writers()
    main(config)
    return config.get_base_dir()


def trainer(method: str, capture: Path, output: Path, steps: int, *extra: str) -> Any:
    """A trainer that is set up and has not begun."""
    import torch

    config = parse(method, *arguments(capture, output, steps, *extra))
    config.pipeline.datamanager.data = config.data
    torch.manual_seed(config.machine.seed)
    forget_writers()
    made = config.setup(local_rank=0, world_size=1)
    made.setup()
    return made


def forget_writers() -> None:
    """nerfstudio's writers are global, and each run adds its own."""
    from nerfstudio.utils import profiler, writer

    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()
    profiler.PROFILER.clear()


def evaluate(run: Path, output: Path, pictures: "Path | None" = None) -> Dict[str, float]:
    """``ns-eval``; returns the results."""
    from nerfstudio.scripts.eval import ComputePSNR

    ComputePSNR(load_config=run / "config.yml", output_path=output, render_output_path=pictures).main()
    return json.loads(output.read_text())["results"]


def load(run: Path, mode: str = "test") -> Any:
    """The pipeline of a run, as ns-eval, ns-render, ns-export and ns-viewer load it."""
    from nerfstudio.utils.eval_utils import eval_setup

    return eval_setup(run / "config.yml", test_mode=mode)[1]  # type: ignore[arg-type]


def checkpoint(run: Path) -> Path:
    """The run's only checkpoint."""
    (path,) = (run / "nerfstudio_models").glob("*.ckpt")
    return path
