# SPDX-License-Identifier: Apache-2.0
"""Latent radiance fields, stage by stage, beside splats of colours.

    python -m benchmarks.latents
    python -m benchmarks.latents --scenes llff_fern --seeds 1

On real captures with the real codec TAEF2: splats of latents under the codec's own decoder; with the codec tuned to
correspondences (stage I); with the decoder aligned (stage III); with both. Beside them what the codec makes of the
photographs themselves, splats of colours at full resolution, and splats of colours that were trained on photographs of
an eighth of the size. All are scored on held-out photographs at full size. Start it again after an interruption: scenes
that are finished are not measured again. Pictures go below the folder of work.
"""

import os
import re
import shutil
import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Tuple

import tyro

from benchmarks import quality
from benchmarks._commands import Usage, run_command
from benchmarks._report import Report, find_row
from benchmarks.textures import spread

SCORES = {"psnr": 2, "ssim": 3, "lpips": 3}
"""Score to its digits. The last one is left out where its weights are missing."""


@dataclass
class Options:
    """Measure latent radiance fields."""

    scenes: Tuple[str, ...] = ("llff_fern", "fountain_p11", "fox")
    """Captures with a transforms.json."""
    seeds: Tuple[int, ...] = (1,)
    """Of all trainings."""
    scale: float = 0.5
    """Size of the photographs relative to the files."""
    colors: int = 1500
    """Iterations of splats of colours."""
    field: int = 1500
    """Iterations of splats of latents."""
    alignment: int = 500
    """Iterations of the decoder after them."""
    tuning: int = 500
    """Steps of stage I, on this scene alone."""
    work: Path = quality.REPOSITORY / "outputs" / "benchmarks"
    """Folder of captures, runs and logs."""
    name: str = "latents"
    """Name of the result."""
    force: bool = False
    """Forget what an earlier run of the same name measured."""


def main(options: Options) -> None:
    """Measure every scene, writing the report after each."""
    report = Report(options.name, "Latent radiance fields: what each stage gains")
    settings = {name: getattr(options, name) for name in ("scale", "colors", "field", "alignment", "tuning")}
    rows = report.earlier_rows("Scenes", settings, options.force)
    for seed in options.seeds:
        for scene in options.scenes:
            if find_row(rows, scene=scene, seed=seed) is None:
                print(f"{scene}, seed {seed}", flush=True)
                rows.append({"scene": scene, "seed": seed, **measure(options, scene, seed), **report.origin()})
                write(report, options, rows)
    print(f"written to {write(report, options, rows)}")


def measure(options: Options, scene: str, seed: int) -> Dict[str, Any]:
    """Everything about one scene; one row."""
    shared = quality.captures_folder()
    folder = options.work / "latents" / f"{options.name}_{scene}_{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # A codec that is there would not be tuned again.
    logged = partial(_logged, folder / "logs")
    weights = shared / "weights" / "taef2"

    def trained(method: str, run: str, iterations: int, *more: str) -> Tuple[Path, Usage]:
        config = folder / scene / method / run / "config.yml"
        command = ["ns-train", method, "--data", str(shared / scene), "--output-dir", str(folder), "--timestamp", run]
        command += ["--vis", "tensorboard", "--machine.seed", str(seed), "--max-num-iterations", str(iterations)]
        command += ["--steps-per-eval-image", "1000000", "--steps-per-eval-all-images", "1000000", *more]
        return config, logged(run, command)

    full, eighth = (f"{options.scale * part:g}" for part in (1, 1 / 8))
    scaled = "--pipeline.datamanager.camera-res-scale-factor"
    row: Dict[str, Any] = {}
    colors, usage = trained("splat", "colors", options.colors, scaled, full)
    row.update(_scored(colors, "colours", options.scale, folder / "pictures"))
    row["colours s"], row["colours MiB"] = usage.seconds, usage.peak_mib
    row["colours ms"] = _milliseconds(folder / "logs" / "colors.log", options.colors)
    small, _ = trained("splat", "colors_eighth", options.colors, scaled, eighth)
    row.update(_scored(small, "colours / 8", options.scale, folder / "pictures"))
    tuned = folder / "codec"
    command = ["nts", "tune-codec", "--runs", str(colors), "--output-dir", str(tuned), "--codec.weights", str(weights)]
    usage = logged("tune", [*command, "--tuning.steps", str(options.tuning)])
    row["stage I s"], row["stage I MiB"] = usage.seconds, usage.peak_mib
    for name, codec in (("raw", weights), ("stage I", tuned)):
        more = [scaled, full, "--pipeline.datamanager.codec.weights", str(codec)]
        more += ["--pipeline.model.alignment-start", str(options.field)]
        run = "latents" if codec is weights else "latents_tuned"
        config, usage = trained("latent-radiance-field", run, options.field + options.alignment, *more)
        both = "stage III" if name == "raw" else "both"
        found = _evaluated(config, options.scale, folder / "pictures" / run)
        for score in (each for each in SCORES if each in found):
            row[f"{name} {score}"] = found[f"raw_{score}"]
            row[f"{both} {score}"] = found[score]
            row[f"ceiling of {name} {score}"] = found[f"ceiling_{score}"]
        row[f"{both} s"], row[f"{both} MiB"] = usage.seconds, usage.peak_mib
        if codec is weights:
            row["latents ms"] = _milliseconds(folder / "logs" / f"{run}.log", options.field)
    return row


def _logged(logs: Path, run: str, command: List[str]) -> Usage:
    start = time.perf_counter()
    usage = run_command(command, logs / f"{run}.log")
    print(f"    {run}: {time.perf_counter() - start:.0f} s", flush=True)
    return usage


def _milliseconds(log: Path, until: int) -> float:
    """Of an iteration, as ns-train says of the second half of those before one."""
    said = re.findall(r"^(\d+) \([\d.]+%\)\s+(?:(\d+) s, )?([\d.]+) ms", log.read_text(errors="replace"), re.MULTILINE)
    # A line is printed again while it scrolls up.
    times = {int(step): 1000 * int(seconds or 0) + float(rest) for step, seconds, rest in said}
    return statistics.median(time for step, time in times.items() if until / 2 <= step < until)


def _scored(config: Path, name: str, scale: float, pictures: Path) -> Dict[str, float]:
    found = _evaluated(config, scale, pictures / config.parent.name)
    return {f"{name} {score}": found[score] for score in SCORES if score in found}


def _evaluated(config: Path, scale: float, pictures: Path) -> Dict[str, float]:
    """What ns-eval reports of a run, on photographs of some size, whatever it was trained on."""
    from nerfstudio.utils.eval_utils import eval_setup

    def at_full_size(run: Any) -> Any:
        run.pipeline.datamanager.camera_res_scale_factor = scale
        return run

    pictures.mkdir(parents=True, exist_ok=True)
    pipeline = eval_setup(config, test_mode="test", update_config_callback=at_full_size)[1]
    return pipeline.get_average_eval_image_metrics(output_path=pictures)


def write(report: Report, options: Options, rows: List[Dict[str, Any]]) -> Path:
    """Write means over seeds, and every scene."""
    report.tables.clear()
    note = (
        f"PSNR / SSIM / LPIPS, if its weights were there, of held-out photographs at {options.scale:g} of the files' "
        f"size. Splats of colours: {options.colors} iterations; of latents {options.field}, the decoder "
        f"{options.alignment} more; stage I {options.tuning} steps on the same scene. One in eight training "
        "photographs is kept from splats of latents."
    )
    table = report.table("Stages", note)
    kinds = ("raw", "stage I", "stage III", "both", "ceiling of raw", "ceiling of stage I", "colours", "colours / 8")
    for scene in dict.fromkeys(row["scene"] for row in rows):
        own = [row for row in rows if row["scene"] == scene]
        cells = {
            kind: " / ".join(
                spread([row[f"{kind} {score}"] for row in own], digits)
                for score, digits in SCORES.items()
                if all(f"{kind} {score}" in row for row in own)
            )
            for kind in kinds
        }
        table.add(scene=scene, seeds=len(own), **cells)
    report.table("Scenes", "One row a scene and seed; seconds of whole commands, start included.").rows = rows
    return report.write()


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main(tyro.cli(Options, description=__doc__))
