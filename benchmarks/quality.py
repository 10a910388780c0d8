# SPDX-License-Identifier: Apache-2.0
"""Quality over time: ``ns-train splat`` to a number of iterations, ``ns-eval``, on to the next number, and so on.

    python -m benchmarks.quality
    python -m benchmarks.quality --cases fox:0.5 gallery:1 --marks 1000 7000
    python -m benchmarks.quality --method-options="--pipeline.model.strategy mcmc" --name quality_mcmc

A case is a scene and the scale of its pictures. ``SAMPLES`` are made on the spot; the others are real captures in
../shared/data, or in the folder that NTS_TEST_DATA names, and are left out where that is missing. Start it again after
an interruption: what is finished is not measured again, and training goes on from the last mark.
"""

import json
import os
import shlex
import shutil
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
import tyro
from PIL import Image

from benchmarks._commands import run_command
from benchmarks._report import Report
from nts_plugins.errors import InputError, describe
from nts_plugins.evaluation.metrics import psnr

REPOSITORY = Path(__file__).resolve().parent.parent
PARSERS = {"nerf_chair": ["blender-data", "--alpha-color", "black"]}
"""Dataparser of scenes that are not in nerfstudio's own format."""
SAMPLES = {
    "gallery": ["gallery"],
    "gallery-dynamic": ["gallery", "--dynamic", "--views", "200"],
    "gallery-filmed": ["gallery", "--dynamic", "--views", "200", "--cameras", "4"],
    "dancer": ["dancer"],
}
"""Scenes that are made on the spot, with their options of ``nts sample``. What moves in the gallery is filmed by one
camera, or by four at once. In 60 pictures of one the pendulum is up to 9 cm farther in the next one, and each thing is
in view in a few only."""
RIM = 0.03
"""Share of width and height on each side that "PSNR inside" leaves out."""
PICTURES = 3
"""Test views in the picture that is kept for looking at."""


@dataclass
class Options:
    """Measure quality over time."""

    cases: Tuple[str, ...] = (
        *("gallery:1", "fox:0.5", "fox:1", "lund_street:0.5", "llff_fern:0.5", "nerf_chair:0.5", "nerf_chair:1"),
    )
    """Scene and scale of its pictures, as scene:scale."""
    marks: Tuple[int, ...] = (1000, 2000, 7000)
    """Iterations after which to evaluate."""
    method: str = "splat"
    """Method to train."""
    method_options: str = ""
    """Options of ns-train, as one string."""
    work: Path = REPOSITORY / "outputs" / "benchmarks"
    """Folder of runs, logs and pictures. Pictures show other people's photographs: do not publish them unasked."""
    name: str = "quality"
    """Name of the result."""
    force: bool = False
    """Measure the cases again where they are finished; other cases of the result stay."""


@dataclass(frozen=True)
class Case:
    """A scene at a scale."""

    scene: str
    scale: float

    @staticmethod
    def parse(text: str) -> "Case":
        scene, _, scale = text.partition(":")
        try:
            return Case(scene, float(scale or 1))
        except ValueError as error:
            raise InputError(f"--cases {text}: expected scene:scale, as in fox:0.5") from error

    @property
    def label(self) -> str:
        return f"{self.scene}_{self.scale:g}"


@dataclass
class Stage:
    """What training from one mark to the next took. Kept beside the run, so that an interruption loses nothing."""

    iterations: int
    command_seconds: float
    """Wall time of the ns-train process."""
    loop_seconds: float
    """From the first iteration to the end of the last."""
    milliseconds: float
    """Of an iteration, median of the last hundred."""
    peak_mib: int


@dataclass
class Progress:
    """Rows that are finished, and how fast it goes."""

    rows: List[Dict[str, Any]] = field(default_factory=list)
    spent: float = 0.0
    iterations: int = 0

    def find(self, case: Case, mark: int) -> Optional[Dict[str, Any]]:
        keys = (case.scene, case.scale, mark)
        return next((row for row in self.rows if (row["scene"], row["scale"], row["iterations"]) == keys), None)

    def time_left(self, iterations: int) -> str:
        """Guess from the iterations done so far; "unknown" before the first."""
        if self.iterations == 0:
            return "unknown"
        return f"about {iterations * self.spent / self.iterations / 60:.0f} min"


def main(options: Options) -> None:
    """Measure every case at every mark, writing the report after each."""
    report = Report(options.name, f"Quality over time: {options.method}")
    report.provenance["method"] = f"{options.method} {options.method_options}".strip()
    cases = [
        (case, data) for case in map(Case.parse, options.cases) if (data := locate(case, options.work)) is not None
    ]
    if not cases:
        raise InputError(f"None of the cases {describe(list(options.cases))} can be measured here.")
    progress = Progress(rows=finished_rows(report))
    if options.force:
        again = {(case.scene, case.scale) for case, _ in cases}
        progress.rows = [row for row in progress.rows if (row["scene"], row["scale"]) not in again]
    marks = sorted(set(options.marks))
    to_do = [(case, data, mark) for case, data in cases for mark in marks if progress.find(case, mark) is None]
    for case in {case.label: case for case, _, _ in to_do}.values() if options.force else ():
        forget(options, case)
    for number, (case, data, mark) in enumerate(to_do, start=1):
        left = sum(each - previous_mark(marks, each) for _, _, each in to_do[number - 1 :])
        print(
            f"[{number}/{len(to_do)}] {case.label} to {mark} iterations; left: {progress.time_left(left)}", flush=True
        )
        start = time.perf_counter()
        row = measure(options, case, data, [each for each in marks if each <= mark])
        progress.rows.append({**row, **report.origin()})
        progress.spent += time.perf_counter() - start
        progress.iterations += mark - previous_mark(marks, mark)
        write(report, progress)
        print(
            f"      {row['PSNR']:.2f} dB, SSIM {row['SSIM']:.3f}, {row['splats']} splats, {row['ms']:.0f} ms/iteration"
        )
    print(f"written to {write(report, progress)}; pictures in {options.work / 'pictures'}")


def previous_mark(marks: List[int], mark: int) -> int:
    """The mark before this one, 0 before the first."""
    return max((each for each in marks if each < mark), default=0)


def finished_rows(report: Report) -> List[Dict[str, Any]]:
    """Rows of an earlier, perhaps interrupted, measurement of the same name.

    Raises:
        InputError: when that measured something else.
    """
    path, earlier = report.paths()[0], report.earlier()
    if earlier is None:
        return []
    if earlier.get("method") != report.provenance["method"]:
        raise InputError(
            f"{path} holds '{earlier.get('method')}', not '{report.provenance['method']}'. "
            f"Use --name for another result."
        )
    return earlier["tables"][0]["rows"]


def write(report: Report, progress: Progress) -> Path:
    """Write all finished rows, by scene, scale and iterations."""
    note = (
        "Held-out views, every pixel; *PSNR inside* leaves out a rim of 3 % on each side, which in fox is black where "
        "undistorting left nothing (no scene looks like that). *training s*: first to last iteration, all marks before "
        "included; *commands s*: the same with starting, reading and saving. *ms*: one iteration, median of the last "
        "hundred. *peak MiB*: of ns-train. The command is that of the last run, which may have measured some cases "
        "only; with its `--cases`, each row is what the commit that it names gave, on that processor."
    )
    report.tables.clear()
    table = report.table("Held-out views", note)
    table.rows = sorted(progress.rows, key=lambda row: (row["scene"], row["scale"], row["iterations"]))
    return report.write()


def locate(case: Case, work: Path) -> Optional[Path]:
    """Folder of the scene's data; makes a sample where one is asked for. None, with a notice, where it is missing."""
    if case.scene in SAMPLES:
        folder = work / "data" / case.scene
        scene, *options = SAMPLES[case.scene]
        command = ["nts", "sample", scene, str(folder), *options]
        run_command(command, work / "logs" / f"{case.scene}.log")
        return folder
    folder = captures_folder() / case.scene
    if folder.is_dir():
        return folder
    print(f"{case.scene} is left out: there is no {folder}. NTS_TEST_DATA names another folder of captures.")
    return None


def captures_folder() -> Path:
    """Where captures and other real data lie."""
    return Path(os.environ.get("NTS_TEST_DATA") or REPOSITORY.parent / "shared" / "data")


def run_folder(options: Options, case: Case) -> Path:
    """Where nerfstudio keeps this run."""
    return options.work / "runs" / options.name / case.label / options.method / "run"


def forget(options: Options, case: Case) -> None:
    """Remove the run of a case: what it was trained with may not be what is asked for now."""
    shutil.rmtree(run_folder(options, case), ignore_errors=True)


def measure(options: Options, case: Case, data: Path, marks: List[int]) -> Dict[str, Any]:
    """Train to the last of ``marks``, from whichever of them is reached already, evaluate, and return the row."""
    stages = [train(options, case, data, previous_mark(marks, mark), mark) for mark in marks]
    results, pictures = evaluate(options, case, marks[-1])
    width, height = Image.open(pictures[0]).size
    sheet = [Image.open(each).convert("RGB") for each in some_of(pictures)]
    save_sheet(sheet, options.work / "pictures" / f"{options.name}_{case.label}_{marks[-1]}.png")
    row = {
        "scene": case.scene,
        "scale": case.scale,
        "image": f"{width // 2}x{height}",
        "iterations": marks[-1],
        "PSNR": results["psnr"],
        "PSNR inside": statistics.mean(inner_psnr(picture) for picture in pictures),
        "SSIM": results["ssim"],
        "splats": round(results["gaussian_count"]),
        "training s": round(sum(stage.loop_seconds for stage in stages), 1),
        "ms": stages[-1].milliseconds,
        "commands s": round(sum(stage.command_seconds for stage in stages), 1),
        "peak MiB": max(stage.peak_mib for stage in stages),
    }
    return {**row, "LPIPS": results["lpips"]} if "lpips" in results else row


def train(options: Options, case: Case, data: Path, begin: int, end: int) -> Stage:
    """``ns-train`` from ``begin`` iterations to ``end``, unless that is done."""
    folder = run_folder(options, case)
    record = folder / f"stage-{end}.json"
    if record.exists():
        return Stage(**json.loads(record.read_text()))
    command = [
        "ns-train",
        options.method,
        "--data",
        str(data),
        "--output-dir",
        str(options.work / "runs" / options.name),
    ]
    command += ["--experiment-name", case.label, "--timestamp", "run", "--vis", "tensorboard"]
    command += ["--max-num-iterations", str(end), "--pipeline.datamanager.camera-res-scale-factor", str(case.scale)]
    # Saved at the end alone: an interrupted stage then starts from the mark before it, and its time stays whole.
    command += ["--steps-per-save", "100000000", "--steps-per-eval-image", "0", "--steps-per-eval-all-images", "0"]
    command += ["--load-dir", str(folder / "nerfstudio_models")] if begin > 0 else []
    command += [*shlex.split(options.method_options), *PARSERS.get(case.scene, [])]
    started = time.time()
    usage = run_command(command, options.work / "logs" / f"{options.name}_{case.label}_{end}_train.log")
    loop, milliseconds = read_times(folder, started)
    stage = Stage(end, usage.seconds, loop, milliseconds, usage.peak_mib)
    record.write_text(json.dumps(asdict(stage)))
    return stage


def read_times(folder: Path, started: float) -> Tuple[float, float]:
    """Seconds of the training loop, and milliseconds of an iteration at its end, from nerfstudio's own log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = [path for path in folder.glob("events.out.tfevents.*") if path.stat().st_mtime >= started - 1]
    accumulator = EventAccumulator(str(max(files, key=lambda path: path.stat().st_mtime)), size_guidance={"scalars": 0})
    accumulator.Reload()
    events = accumulator.Scalars("Train Iter (time)")
    loop = events[-1].wall_time - events[0].wall_time + events[0].value
    return loop, 1e3 * statistics.median(event.value for event in events[-100:])


def evaluate(options: Options, case: Case, mark: int) -> Tuple[Dict[str, float], List[Path]]:
    """``ns-eval``; returns the mean metrics and the pictures, photograph left, drawn right."""
    pictures = evaluated(options, case, mark)
    label, output = pictures.name, pictures.with_name(f"{pictures.name}.json")
    shutil.rmtree(pictures, ignore_errors=True)
    command = ["ns-eval", "--load-config", str(run_folder(options, case) / "config.yml"), "--output-path", str(output)]
    run_command([*command, "--render-output-path", str(pictures)], options.work / "logs" / f"{label}_eval.log")
    return json.loads(output.read_text())["results"], sorted(pictures.glob("*_img_*.png"))


def inner_psnr(picture: Path) -> float:
    """PSNR of one of ns-eval's pictures, photograph left and drawn right, without a rim of 3 % on each side."""
    both = torch.from_numpy(np.asarray(Image.open(picture).convert("RGB"), np.float32) / 255)
    height, width = both.shape[0], both.shape[1] // 2
    rows, columns = round(RIM * height), round(RIM * width)
    inside = slice(rows, height - rows), slice(columns, width - columns)
    return float(psnr(both[:, width:][inside], both[:, :width][inside]))


def evaluated(options: Options, case: Case, mark: int) -> Path:
    """Where the held-out views of a case are drawn, photograph left, drawn right."""
    return options.work / "eval" / f"{options.name}_{case.label}_{mark}"


def some_of(pictures: List[Path]) -> List[Path]:
    """A few pictures, evenly chosen."""
    step = max(1, len(pictures) // PICTURES)
    return pictures[step // 2 :: step][:PICTURES]


def save_sheet(rows: List[Image.Image], path: Path) -> None:
    """Pictures one below the other."""
    sheet = Image.new("RGB", (max(each.width for each in rows), sum(each.height for each in rows)))
    top = 0
    for each in rows:
        sheet.paste(each, (0, top))
        top += each.height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
