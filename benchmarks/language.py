# SPDX-License-Identifier: Apache-2.0
"""How well phrases are found: ways to put language into splats, on exact masks with real embeddings.

    python -m benchmarks.language
    python -m benchmarks.language --scenes table --fits lift lift-median --noises exact --seeds 1

Scenes are the gallery and a table with scanned objects (YCB), whose instance masks and names are exact. What each
object is said to look like are embeddings of 36 objects, and of 776 views of them, by OpenCLIP ViT-B-16 of LAION-2B;
its phrases are real, too, and have nothing to do with what is in the picture. Splats are trained once a scene and seed;
each way then fits language to the same splats, and is scored on held-out views. Start it again after an interruption:
what is finished is not measured again.

Noises: ``exact``, every view says of an object what the others say; ``views``, a real view of the object in each
picture; ``noisy``, random directions, as far off as real views are (a cosine of 0.72).
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from PIL import Image

from benchmarks import quality
from benchmarks._commands import run_command
from benchmarks._language import fitted, trained_splats
from benchmarks._report import Report, find_row
from benchmarks._table import write_table
from benchmarks.textures import spread
from nts_plugins.data.features import FeatureStore, key_of
from nts_plugins.data.labels import LabelFolder, Outlined, bounds
from nts_plugins.encoders.base import Regions

OBJECTS = {
    "stuffed bear": 34, "tea in a glass": 24, "red apple": 17, "paper napkin": 29, "hooves": 32, "yellow desk": 16,
    "three cookies": 26, "tesla door handle": 7, "pink ice cream": 19, "wavy noodles": 1, "bed": 3,
}  # fmt: skip
"""Phrases, and the object whose embedding beats the canonical phrases for it, while no other one's here does."""
BEHIND = (15, 2, 0, 12)
"""Objects that are none of the phrases: what walls, floors and furniture are said to look like."""
REAL_COSINE = 0.72
"""Of a view's embedding with that of its object, in the mean over the 776 views."""
LEAST_PIXELS = 20
"""Of an object in a held-out view, below which it is not asked for there."""
FITS: Dict[str, str] = {
    "lift": "--pipeline.model.language.fit lift",
    "lift-median": "--pipeline.model.language.fit lift --pipeline.model.language.lift.rule median",
    "lift-gate": "--pipeline.model.language.fit lift --pipeline.model.language.lift.gate True",
    "lift-median-gate": "--pipeline.model.language.fit lift --pipeline.model.language.lift.rule median "
    "--pipeline.model.language.lift.gate True",
    "sparse": "--pipeline.model.language.fit sparse",
    "autoencoder": "--pipeline.model.language.fit autoencoder",
}
PROTOCOLS = ("strict", "lerf-ovs-2d", "lerf-ovs-3d")


@dataclass
class Options:
    """Measure language."""

    scenes: Tuple[str, ...] = ("table", "gallery")
    """table, gallery."""
    fits: Tuple[str, ...] = tuple(FITS)
    """Ways to fit language."""
    noises: Tuple[str, ...] = ("exact", "views", "noisy")
    """What is said of objects, see above."""
    seeds: Tuple[int, ...] = (1, 2, 3)
    """Of splats and of noise."""
    iterations: int = 2000
    """Of splats."""
    steps: int = 1000
    """Of language, for ways that are trained."""
    views: int = 48
    """Photographs of a scene, an eighth of them held out."""
    size: str = "240x180"
    """Of the photographs."""
    zoom: int = 2
    """Answers are drawn so many times as large: protocols smooth over windows that are meant for larger pictures."""
    work: Path = quality.REPOSITORY / "outputs" / "benchmarks"
    """Folder of captures, runs and logs."""
    name: str = "language"
    """Name of the result."""
    force: bool = False
    """Forget what an earlier run of the same name measured."""


class Space:
    """The real embeddings, and phrases of theirs."""

    def __init__(self, shared: Path) -> None:
        with np.load(shared / "open_vocab" / "fastlgs_ex" / "teatime_clip.npz") as file:
            self.phrases, self.text = file["text_names"], file["text_feat"]
            self.objects = F.normalize(torch.from_numpy(file["auto_feat"].astype(np.float32)), dim=1)
            views = F.normalize(torch.from_numpy(file["ext_feat"].astype(np.float32)), dim=1)
            # Views are of the object whose colour they have.
            of = [tuple(color) for color in file["ext_rgb"].tolist()]
            self.views = [
                views[[number for number, color in enumerate(of) if color == tuple(own)]]
                for own in file["auto_rgb"].tolist()
            ]

    def table(self, path: Path) -> Path:
        """A table of the phrases, as nts query reads it."""
        np.savez(path, phrases=self.phrases, vectors=self.text)
        return path

    def said(self, objects: List[int], noise: str, generator: torch.Generator) -> torch.Tensor:
        """[M, C] what one picture says of objects."""
        exact = self.objects[objects]
        if noise == "exact":
            return exact
        if noise == "views":
            own = [self.views[each] for each in objects]
            return torch.stack([rows[torch.randint(len(rows), (1,), generator=generator)[0]] for rows in own])
        aside = torch.randn(exact.shape, generator=generator)
        aside = F.normalize(aside - (aside * exact).sum(dim=1, keepdim=True) * exact, dim=1)
        return REAL_COSINE * exact + (1 - REAL_COSINE**2) ** 0.5 * aside


@dataclass(frozen=True)
class InstanceLabels(LabelFolder):
    """Exact masks as labels: ids of ``instances``, some of which have a phrase."""

    phrases: Dict[int, str]

    @classmethod
    def of_capture(cls, folder: Path, phrases: Dict[int, str]) -> "InstanceLabels":
        return cls({path.stem: path for path in sorted((folder / "instances").iterdir())}, phrases)

    def _outlined(self, source: Path, size: Optional[Tuple[int, int]]) -> List[Outlined]:
        picture = Image.open(source)
        least = LEAST_PIXELS
        if size is not None:
            least *= size[0] * size[1] / (picture.width * picture.height)
            picture = picture.resize(size, Image.Resampling.NEAREST)
        ids = np.asarray(picture)
        masks = {phrase: ids == number for number, phrase in self.phrases.items()}
        return [Outlined(phrase, mask, bounds(mask)) for phrase, mask in masks.items() if mask.sum() >= least]

    def _categories(self, source: Path) -> List[str]:
        return list(self.phrases.values())


def main(options: Options) -> None:
    """Measure every way on every scene, writing the report after each."""
    report = Report(options.name, "Language: phrases found on exact masks with real embeddings")
    names = ("iterations", "steps", "views", "size", "zoom")
    settings = {name: getattr(options, name) for name in names}
    rows = report.earlier_rows("Fits", settings, options.force)
    runs = [
        (scene, seed, noise, fit)
        for seed in options.seeds
        for scene in options.scenes
        for noise in options.noises
        for fit in options.fits
    ]
    left = [
        run for run in runs if find_row(rows, **dict(zip(("scene", "seed", "noise", "fit"), run, strict=True))) is None
    ]
    space = Space(quality.captures_folder())
    for number, run in enumerate(left, start=1):
        print(f"[{number}/{len(left)}] {', '.join(map(str, run))}", flush=True)
        rows.append({**measure(options, space, *run), **report.origin()})
        shown = ("seconds", "strict mIoU", "strict loc", "lerf-ovs-2d mIoU", "lerf-ovs-3d mIoU")
        print("      " + ", ".join(f"{name} {rows[-1][name]:.3g}" for name in shown), flush=True)
        write(report, options, rows)
    print(f"written to {write(report, options, rows)}")


def measure(options: Options, space: Space, scene: str, seed: int, noise: str, fit: str) -> Dict[str, Any]:
    """Fit language to a scene's splats and score it; one row."""
    from nts_plugins.models._language_scores import language_scores

    data, objects, phrases = _scene(options, scene)
    runs = options.work / "runs"
    log = options.work / "logs" / f"{options.name}_{data.name}_{seed}_splat.log"
    output = runs / f"{options.name}_{seed}_{options.iterations}"
    checkpoint = trained_splats(data, output, options.iterations, seed, log)
    store = _regions(options, space, data, objects, noise, seed)
    table = space.table(options.work / "phrases.npz")
    start = time.perf_counter()
    more = ["--pipeline.model.language.text-weights", str(table), *FITS[fit].split()]
    output = runs / f"{options.name}_{fit}"
    trainer, seconds = fitted(data, output, store.name, checkpoint, store, options.steps, seed, more)
    model, dataset = trainer.pipeline.model.eval(), trainer.pipeline.datamanager.eval_dataset
    total = time.perf_counter() - start
    dataset.metadata["labels"] = InstanceLabels.of_capture(data, phrases)
    dataset.cameras.rescale_output_resolution(options.zoom)
    scores = language_scores(model, dataset, PROTOCOLS)
    row: Dict[str, Any] = {"scene": scene, "seed": seed, "noise": noise, "fit": fit, "seconds": seconds}
    for protocol in PROTOCOLS:
        row[f"{protocol} mIoU"] = scores[f"{protocol}_miou"]
        if f"{protocol}_localisation" in scores:
            row[f"{protocol} loc"] = scores[f"{protocol}_localisation"]
    words = sum(each.numel() * each.element_size() for each in model.head.fit.state_dict().values())
    codes = model.gauss_params["language"]
    size = (codes.numel() * codes.element_size() + words) / 1e6
    return {**row, "MB": size, "splats": len(codes), "whole run s": total}


def _scene(options: Options, scene: str) -> Tuple[Path, Dict[int, int], Dict[int, str]]:
    """The capture, the embedding of each instance, and the phrase of those that have one."""
    width, height = map(int, options.size.split("x"))
    folder = options.work / "data" / f"{scene}_{options.views}_{options.size}"
    if scene == "table":
        write_table(folder, quality.captures_folder() / "ycb", options.views, (width, height))
    else:
        command = ["nts", "sample", "gallery", str(folder), "--views", str(options.views), "--size", options.size]
        run_command(command, options.work / "logs" / f"{folder.name}.log")
    about = json.loads((folder / "instances.json").read_text())
    wanted = [
        int(number)
        for number, each in about.items()
        if each.get("category", "object") == "object" and each["name"] not in ("table", "room")
    ]
    phrases = dict(zip(wanted, OBJECTS, strict=False))
    objects = {
        int(number): OBJECTS[phrases[int(number)]] if int(number) in phrases else BEHIND[int(number) % len(BEHIND)]
        for number in about
    }
    return folder, objects, phrases


def _regions(options: Options, space: Space, data: Path, objects: Dict[int, int], noise: str, seed: int) -> Path:
    """A folder of features: exact masks on all three levels, each with noise of its own."""
    folder = options.work / "features" / f"{data.name}_{noise}_{seed}"
    store = FeatureStore(folder, f"ViT-B-16 laion2b_s34b_b88k / exact masks / {noise} {seed}")
    generator = torch.Generator().manual_seed(seed)
    for path in sorted((data / "images").iterdir()):
        picture = np.asarray(Image.open(path).convert("RGB"))
        ids = torch.from_numpy(np.asarray(Image.open(data / "instances" / path.name)).astype(np.int64))
        present = [int(number) for number in ids.unique() if int(number) in objects]
        row = torch.full((int(ids.max()) + 1,), -1)
        row[present] = torch.arange(len(present))
        levels = [torch.where(row[ids] >= 0, row[ids] + level * len(present), -1) for level in range(3)]
        said = [space.said([objects[number] for number in present], noise, generator) for _ in range(3)]
        if key_of(picture) not in store:
            store.write(key_of(picture), Regions(torch.stack(levels).int(), torch.cat(said)), path.name)
    return folder


def write(report: Report, options: Options, rows: List[Dict[str, Any]]) -> Path:
    """Write means over seeds, and every fit."""
    report.tables.clear()
    note = (
        f"Mean and standard deviation over seeds, on held-out views. Splats were trained for {options.iterations} "
        f"iterations; ways that are trained had {options.steps} steps. *s*: of the fit alone. *MB*: what language adds."
    )
    table = report.table("Ways", note)
    everything = Options()  # Rows of earlier commands count, too.
    for scene in everything.scenes:
        for noise in everything.noises:
            for fit in everything.fits:
                own = [row for row in rows if (row["scene"], row["noise"], row["fit"]) == (scene, noise, fit)]
                if not own:
                    continue
                cells: Dict[str, Any] = {"scene": scene, "noise": noise, "fit": fit, "seeds": len(own)}
                for protocol in PROTOCOLS:
                    for score in ("mIoU", "loc"):
                        name = f"{protocol} {score}"
                        if name in own[0]:
                            cells[name] = spread([row[name] for row in own], 3)
                cells["s"] = spread([row["seconds"] for row in own], 1)
                table.add(**cells, MB=round(sum(row["MB"] for row in own) / len(own), 2))
    report.table("Fits", "One row a fit.").rows = rows
    return report.write()


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main(tyro.cli(Options, description=__doc__))
