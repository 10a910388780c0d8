# SPDX-License-Identifier: Apache-2.0
"""How much memory a probe of a splat a pixel takes, as the paper has it.

    python -m benchmarks.probe_memory

Three photographs of llff_fern at full size are 1.12 million pixels, as many splats and, for each, 256 features: of a
network that gives noise, since what they are makes no difference here. Some steps of the warm start and some with
pictures, in the mode that reads out everything, and in the one that trains nothing but geometry's networks.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Tuple

import torch
import tyro
from torch import Tensor

from benchmarks import quality
from benchmarks._commands import run_command
from benchmarks._report import Report


class Noise:
    """256 numbers for each square of 16 pixels."""

    width = 256
    name = "noise"

    def encode_map(self, picture: Tensor) -> Tensor:
        """See :class:`nts_plugins.encoders.base.DenseEncoder`."""
        rows, columns = picture.shape[0] // 16, picture.shape[1] // 16
        return torch.randn(rows, columns, self.width, generator=torch.Generator().manual_seed(0))


def noise(settings: Any, device: torch.device, option: str) -> Noise:
    """What ``--pipeline.datamanager.features.name benchmarks.probe_memory:noise`` loads."""
    return Noise()


@dataclass
class Options:
    """Measure the memory of probes."""

    methods: Tuple[str, ...] = ("feat2gs-paper", "feat2gs-all-paper")
    """What is trained."""
    warm: int = 2
    """Steps of the warm start."""
    drawn: int = 2
    """Steps after it."""
    work: Path = quality.REPOSITORY / "outputs" / "benchmarks"
    """Folder of runs and logs."""
    name: str = "probe_memory"
    """Name of the result."""


def main(options: Options) -> None:
    """Train each, and write the report."""
    report = Report(options.name, "Memory of a splat a pixel with 256 features")
    table = report.table("Memory", "The largest that the process of ns-train had, with all of Python's libraries.")
    folder = options.work / "probe_memory"
    shutil.rmtree(folder, ignore_errors=True)
    for method in options.methods:
        command = ["ns-train", method, "--data", str(quality.captures_folder() / "llff_fern")]
        command += ["--output-dir", str(folder), "--timestamp", "run", "--vis", "tensorboard"]
        command += ["--max-num-iterations", str(options.warm + options.drawn)]
        command += ["--pipeline.model.warm-start", str(options.warm), "--pipeline.datamanager.train-views", "3"]
        command += ["--pipeline.datamanager.features.name", "benchmarks.probe_memory:noise"]
        # A few steps leave networks saying nothing of sense, and splats larger than the scene. At the mean of what they
        # should say they are as large as they will be.
        command += ["--pipeline.model.mean-start", "True", "--pipeline.datamanager.unit-scale", "True"]
        command += ["--steps-per-eval-image", "1000000", "--steps-per-eval-all-images", "1000000"]
        usage = run_command(command, folder / "logs" / f"{method}.log")
        splats = _splats(folder / "llff_fern" / method / "run" / "nerfstudio_models")
        table.add(method=method, splats=splats, features=Noise.width, MiB=usage.peak_mib, seconds=round(usage.seconds))
        print(f"{method}: {splats} splats, {usage.peak_mib} MiB, {usage.seconds:.0f} s", flush=True)
        print(f"written to {report.write()}")


def _splats(folder: Path) -> int:
    (path,) = folder.glob("*.ckpt")
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return len(state["pipeline"]["_model.gauss_params.means"])


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
