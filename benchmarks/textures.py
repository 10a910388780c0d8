# SPDX-License-Identifier: Apache-2.0
"""What textures gain: the same splats trained with and without, on the same seeds, scored on held-out views.

    python -m benchmarks.textures
    python -m benchmarks.textures --cases nerf_chair:0.5 nerf_chair:0.5:8 --iterations 2000 --seeds 1 2

A case is a scene, the scale of its pictures and, if few of them are to be trained on, how many: nerf_chair:0.5:8. Both
methods run in turn, seed by seed, so that an interruption leaves pairs. Start it again afterwards: what is finished is
not measured again. Of each pair a picture is kept: held-out photographs, and both methods' drawings beside them.
"""

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import tyro
from PIL import Image

from benchmarks import quality
from benchmarks._report import Report, find_row

METRICS = ("PSNR", "SSIM", "LPIPS")


@dataclass
class Options:
    """Measure what textures gain."""

    cases: Tuple[str, ...] = (
        *("nerf_chair:0.5", "nerf_chair:0.5:8", "fox:0.5", "llff_fern:0.5", "llff_fern:0.5:3", "gallery:0.5"),
    )
    """Scene, scale and, if not all, number of training views, as scene:scale:views."""
    seeds: Tuple[int, ...] = (1, 2, 3)
    """Seeds of training."""
    iterations: int = 7000
    """Iterations of each training."""
    plain: str = "splat"
    """The method without textures."""
    textured: str = "splatfacto-nts"
    """The method with textures."""
    options: str = ""
    """Options of ns-train for both, as one string."""
    textured_options: str = ""
    """Options for the one with textures alone."""
    work: Path = quality.REPOSITORY / "outputs" / "benchmarks"
    """Folder of runs, logs and pictures."""
    name: str = "textures"
    """Name of the result."""
    force: bool = False
    """Forget what an earlier run of the same name measured."""


@dataclass(frozen=True)
class Run:
    """One training."""

    case: str
    method: str
    seed: int


def main(options: Options) -> None:
    """Measure every pair, writing the report after each training."""
    report = Report(options.name, f"{options.textured} against {options.plain}")
    settings = {name: getattr(options, name) for name in ("iterations", "options", "textured_options")}
    rows = report.earlier_rows("Trainings", settings, options.force)
    runs = [
        Run(case, method, seed)
        for case in options.cases
        for seed in options.seeds
        for method in (options.plain, options.textured)
    ]
    left = [run for run in runs if find_row(rows, **asdict(run)) is None]
    for number, run in enumerate(left, start=1):
        print(f"[{number}/{len(left)}] {run.method} on {run.case}, seed {run.seed}", flush=True)
        row = measure(options, run)
        if row is None:
            continue
        rows.append({"case": run.case, "method": run.method, "seed": run.seed, **row, **report.origin()})
        print(f"      {row['PSNR']:.2f} dB, SSIM {row['SSIM']:.3f}, {row['splats']} splats, {row['ms']:.0f} ms")
        write(report, options, rows)
    for case, seed in dict.fromkeys((row["case"], row["seed"]) for row in rows):
        save_pair(options, case, seed)
    print(f"written to {write(report, options, rows)}; pictures in {options.work / 'pictures'}")


def single(options: Options, run: Run) -> Tuple[quality.Options, quality.Case]:
    """The measurement of one training."""
    scene, scale, views = (*run.case.split(":"), "", "")[:3]
    chosen = f"--pipeline.datamanager.train-views {views}" if views else ""
    own = options.textured_options if run.method == options.textured else ""
    alone = quality.Options(
        method=run.method,
        method_options=f"--machine.seed {run.seed} {chosen} {options.options} {own}",
        work=options.work,
        name=f"{options.name}_{run.method}_{views or 'all'}_{run.seed}_{options.iterations}",
    )
    return alone, quality.Case.parse(f"{scene}:{scale or 1}")


def measure(options: Options, run: Run) -> Optional[Dict[str, Any]]:
    """Train and evaluate; None where the scene is not on this machine."""
    alone, case = single(options, run)
    data = quality.locate(case, options.work)
    if data is None:
        return None
    if options.force:
        quality.forget(alone, case)
    return quality.measure(alone, case, data, [options.iterations])


def save_pair(options: Options, case: str, seed: int) -> None:
    """Some held-out views: photograph, without and with textures, row by row. Nothing where either is missing."""
    drawn = []
    for method in (options.plain, options.textured):
        folder = quality.evaluated(*single(options, Run(case, method, seed)), options.iterations)
        drawn.append(quality.some_of(sorted(folder.glob("*_img_*.png"))))
    if not all(drawn):
        return
    rows = []
    for paths in zip(*drawn, strict=True):
        plain, textured = (Image.open(path).convert("RGB") for path in paths)
        half = plain.width // 2
        row = Image.new("RGB", (3 * half, plain.height))
        row.paste(plain, (0, 0))
        row.paste(textured.crop((half, 0, 2 * half, textured.height)), (2 * half, 0))
        rows.append(row)
    quality.save_sheet(rows, options.work / "pictures" / f"{options.name}_{case.replace(':', '_')}_{seed}.png")


def write(report: Report, options: Options, rows: List[Dict[str, Any]]) -> Path:
    """Write the gains, and every training."""
    report.tables.clear()
    note = (
        f"Mean and standard deviation over seeds, after {options.iterations} iterations, on held-out views. A gain is "
        "the mean of the differences between two trainings of the same seed. *times*: an iteration with textures "
        "takes so many times as long as one without, median of the last hundred each."
    )
    gains = report.table("Gains", note)
    for case in dict.fromkeys(row["case"] for row in rows):
        pairs = pairs_of(rows, case, options)
        if pairs:
            gains.rows.append(gain(case, pairs))
    report.table("Trainings", "One row a training.").rows = rows
    return report.write()


def pairs_of(rows: List[Dict[str, Any]], case: str, options: Options) -> List[Tuple[Dict[str, Any], Dict[str, Any]]]:
    """Rows without and with textures of the same case and seed."""
    pairs = []
    for seed in sorted({row["seed"] for row in rows if row["case"] == case}):
        plain, textured = (
            find_row(rows, case=case, method=method, seed=seed) for method in (options.plain, options.textured)
        )
        if plain is not None and textured is not None:
            pairs.append((plain, textured))
    return pairs


def gain(case: str, pairs: List[Tuple[Dict[str, Any], Dict[str, Any]]]) -> Dict[str, Any]:
    """One row of the table of gains."""
    row: Dict[str, Any] = {"case": case, "image": pairs[0][0]["image"], "seeds": len(pairs)}
    for metric in METRICS:
        if any(metric not in each for pair in pairs for each in pair):
            continue
        digits = 2 if metric == "PSNR" else 4
        row[f"{metric} without"] = spread([plain[metric] for plain, _ in pairs], digits)
        row[f"{metric} with"] = spread([textured[metric] for _, textured in pairs], digits)
        row[f"{metric} gain"] = spread(
            [textured[metric] - plain[metric] for plain, textured in pairs], digits, sign="+"
        )
    row["splats without"] = round(statistics.mean(plain["splats"] for plain, _ in pairs))
    row["splats with"] = round(statistics.mean(textured["splats"] for _, textured in pairs))
    row["times"] = statistics.mean(textured["ms"] / plain["ms"] for plain, textured in pairs)
    return row


def spread(values: List[float], digits: int, sign: str = "") -> str:
    """Mean and standard deviation, as text."""
    mean = f"{statistics.mean(values):{sign}.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
