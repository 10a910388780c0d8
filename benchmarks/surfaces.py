# SPDX-License-Identifier: Apache-2.0
"""How good surfaces are: meshes of several methods, trained with the same seeds, against the true surface.

    python -m benchmarks.surfaces
    python -m benchmarks.surfaces --methods splat splat-surface --seeds 1 --iterations 2000 --views 48 --size 240x180
    python -m benchmarks.surfaces --scene table --name surfaces_table

Trains each method on a scene whose true surface is known, the gallery or a table with scanned objects, and runs
``ns-eval``, ``nts mesh`` and ``nts compare-geometry`` as a user types them. Start it again after an interruption: what
is finished is not measured again.
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Tuple

import tyro

from benchmarks import quality
from benchmarks._commands import run_command
from benchmarks._report import Report, find_row
from benchmarks._table import write_table
from benchmarks.textures import spread

SCORES = {"chamfer": ("Chamfer cm", 100.0), "f_score": ("F-score", 1.0), "normal_degrees": ("normals deg", 1.0)}
"""Score of nts compare-geometry to its column, and the factor to its unit."""


@dataclass(frozen=True)
class Scale:
    """How finely a scene is looked at, metres."""

    voxel: float
    """Side of the mesh's voxels."""
    threshold: float
    """Distance within which a point counts as right for the F-score."""
    margin: Optional[float]
    """What lies farther outside of the box around the true surface is none of the scene's."""
    region: float = 1.0
    """Factor on the cube that nts mesh fuses, so that all of the true surface lies in it."""


SCENES = {"gallery": Scale(0.02, 0.05, None), "table": Scale(0.004, 0.01, 0.02, 2.2)}


@dataclass
class Options:
    """Measure surfaces."""

    scene: Literal["gallery", "table"] = "gallery"
    """What is photographed; both have exact surfaces."""
    methods: Tuple[str, ...] = ("splat", "splat-surface", "splatfacto-nts-surface")
    """What to train; gains are against the one before."""
    seeds: Tuple[int, ...] = (1, 2, 3)
    """Seeds of training."""
    iterations: int = 7000
    """Iterations of each training."""
    views: int = 96
    """Photographs of the scene, an eighth of them held out."""
    size: str = "320x240"
    """Of the photographs."""
    options: str = ""
    """Options of ns-train for all methods, as one string."""
    work: Path = quality.REPOSITORY / "outputs" / "benchmarks"
    """Folder of runs, logs, pictures and meshes."""
    name: str = "surfaces"
    """Name of the result."""
    force: bool = False
    """Forget what an earlier run of the same name measured."""


def main(options: Options) -> None:
    """Measure every method with every seed, writing the report after each training."""
    report = Report(options.name, f"Surfaces: meshes against the true surface of the {options.scene}")
    names = ("scene", "iterations", "views", "size", "options")
    settings = {name: getattr(options, name) for name in names}
    rows = report.earlier_rows("Trainings", settings, options.force)
    runs = [(method, seed) for seed in options.seeds for method in options.methods]
    left = [run for run in runs if find_row(rows, method=run[0], seed=run[1]) is None]
    for number, (method, seed) in enumerate(left, start=1):
        print(f"[{number}/{len(left)}] {method}, seed {seed}", flush=True)
        rows.append({**measure(options, method, seed), **report.origin()})
        print("      " + ", ".join(f"{name} {rows[-1][name]:.4g}" for name in ("PSNR", "Chamfer cm", "F-score")))
        write(report, options, rows)
    print(f"written to {write(report, options, rows)}; meshes in {options.work / 'meshes'}")


def measure(options: Options, method: str, seed: int) -> Dict[str, Any]:
    """Train, evaluate, mesh and compare; one row."""
    data, scale = capture(options), SCENES[options.scene]
    single = quality.Options(
        method=method,
        method_options=f"--machine.seed {seed} {options.options}",
        work=options.work,
        name=f"{options.name}_{seed}_{options.iterations}",
    )
    case = quality.Case(data.name, 1.0)
    if options.force:
        quality.forget(single, case)
    row = quality.measure(single, case, data, [options.iterations])
    config = quality.run_folder(single, case) / "config.yml"
    label = f"{single.name}_{method}"
    mesh, scores = options.work / "meshes" / f"{label}.ply", options.work / "meshes" / f"{label}.json"
    log = options.work / "logs" / f"{label}_mesh.log"
    fuse = ["nts", "mesh", "--load-config", str(config), "--output-path", str(mesh)]
    fused = run_command([*fuse, "--voxel", str(scale.voxel), "--region", str(scale.region)], log)
    compare = ["nts", "compare-geometry", str(mesh), str(data / "surface.ply"), "--threshold", str(scale.threshold)]
    compare += [] if scale.margin is None else ["--margin", str(scale.margin)]
    compare += ["--cameras", str(data / "transforms.json"), "--output-path", str(scores)]
    run_command(compare, log.with_name(f"{label}_compare.log"))
    found = json.loads(scores.read_text())
    kept = {name: row[name] for name in ("image", "PSNR", "SSIM", "splats", "ms") if name in row}
    geometry = {column: factor * found[score] for score, (column, factor) in SCORES.items()}
    return {"method": method, "seed": seed, **kept, **geometry, "mesh s": fused.seconds, "mesh MiB": fused.peak_mib}


def capture(options: Options) -> Path:
    """Photographs and surface of the scene, made where they are not there yet."""
    data = options.work / "data" / f"{options.scene}_{options.views}_{options.size}"
    if options.scene == "table":
        width, height = (int(number) for number in options.size.split("x"))
        return write_table(data, quality.captures_folder() / "ycb", options.views, (width, height))
    sample = ["nts", "sample", "gallery", str(data), "--views", str(options.views), "--size", options.size]
    run_command(sample, options.work / "logs" / f"{data.name}.log")
    return data


def write(report: Report, options: Options, rows: List[Dict[str, Any]]) -> Path:
    """Write the methods' means, and every training."""
    report.tables.clear()
    scale = SCENES[options.scene]
    note = (
        f"Mean and standard deviation over seeds after {options.iterations} iterations; PSNR on held-out views, the "
        f"rest of the mesh (voxels of {scale.voxel:g} m) where cameras see it. F-score within "
        f"{scale.threshold:g} m. *change*: of Chamfer's mean, against the row before."
    )
    table = report.table("Methods", note)
    before: Optional[float] = None
    for method in options.methods:
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        chamfer = statistics.mean(row["Chamfer cm"] for row in own)
        cells = {"method": method, "seeds": len(own), "PSNR": spread([row["PSNR"] for row in own], 2)}
        cells.update({name: spread([row[name] for row in own], 2) for name, _ in SCORES.values()})
        change = None if before is None else f"{100 * (chamfer / before - 1):+.1f} %"
        table.add(**cells, change=change, splats=round(statistics.mean(row["splats"] for row in own)))
        before = chamfer
    report.table("Trainings", "One row a training; *ms* of an iteration, median of the last hundred.").rows = rows
    return report.write()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
