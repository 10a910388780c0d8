# SPDX-License-Identifier: Apache-2.0
"""How long language takes: cleaning masks up, lifting a scene, answering a question.

    python -m benchmarks.language_speed

A room of 100 000 trained-like splats, seen by 30 cameras of 512x384. Each view has a hundred regions on each of three
levels, whose features of 512 numbers are those of 36 things, each view's as far off as CLIP's are (a cosine of 0.72).
"""

import math
from dataclasses import dataclass
from typing import Any, Dict, List

import torch
import torch.nn.functional as F
import tyro

from benchmarks._measure import stopwatch
from benchmarks._report import Report
from benchmarks.language import REAL_COSINE
from benchmarks.scenes import Scene, room
from nts_plugins.encoders.base import Regions
from nts_plugins.encoders.masks import CleanUp, kept
from nts_plugins.language.fits import View
from nts_plugins.language.lift import Lift, LiftSettings
from nts_plugins.queries.question import Question
from nts_plugins.rasterization import rasterize

LEVELS, THINGS, WIDTH = 3, 36, 512


@dataclass
class Options:
    """Measure speed."""

    splats: int = 100_000
    """Of the room."""
    views: int = 30
    """Pictures with regions."""
    size: str = "512x384"
    """Of them, and of the answer."""
    regions: int = 100
    """Of a view on each level."""
    masks: int = 300
    """That are cleaned up."""
    repeats: int = 9
    """Of each question; the median counts."""
    name: str = "language_speed"
    """Name of the result."""


def main(options: Options) -> None:
    """Time everything once, questions several times."""
    report = Report(options.name, "Language: how long it takes")
    width, height = map(int, options.size.split("x"))
    generator = torch.Generator().manual_seed(0)
    scene = room(options.splats, width=width, height=height)
    views = [_view(options, scene, number, generator) for number in range(options.views)]
    table = report.table("Lifting", "All levels together, seconds of wall time and of the processor.")
    lifted: Any = None
    for rule, gate in (("mean", False), ("median", False), ("mean", True)):
        fit = Lift(LEVELS, WIDTH, LiftSettings(rule=rule, gate=gate))  # type: ignore[arg-type]
        fit.lift(scene.gaussians, views[:1], lambda share: None)  # kernels compile
        codes, sample = stopwatch(fit.lift, scene.gaussians, views, lambda share: None)
        table.add(rule=rule, gate=gate, wall_s=sample.wall, cpu_s=sample.cpu, words=fit.words.shape[1])
        lifted = lifted or (fit, codes)
    asked = report.table("Answering", "A phrase against four, on three levels, milliseconds: of splats, and of pixels.")
    asked.add(**_asked(options, scene, *lifted, generator))
    cleaned = report.table("Cleaning up", "Masks of a picture, one level, seconds.")
    masks = torch.rand(options.masks, 12, 16, generator=generator) > 0.8
    masks = F.interpolate(masks[None].float(), (height, width))[0] > 0
    _, sample = stopwatch(kept, masks, torch.rand(options.masks, generator=generator), CleanUp())
    cleaned.add(masks=options.masks, size=options.size, wall_s=sample.wall, cpu_s=sample.cpu)
    print(f"written to {report.write()}")


def _view(options: Options, scene: Scene, number: int, generator: torch.Generator) -> View:
    """A camera that looks a little aside, and what it is said to see: the cells of some points in the picture."""
    angle = 0.5 * (number / max(1, options.views - 1) - 0.5)
    turn = torch.eye(4)
    turn[0, 0] = turn[2, 2] = math.cos(angle)
    turn[0, 2], turn[2, 0] = math.sin(angle), -math.sin(angle)
    things = F.normalize(torch.randn(THINGS, WIDTH, generator=torch.Generator().manual_seed(1)), dim=1)
    ids: List[torch.Tensor] = []
    rows, columns = torch.meshgrid(torch.arange(scene.height), torch.arange(scene.width), indexing="ij")
    pixels = torch.stack([rows, columns], dim=-1).reshape(-1, 2).float()
    for level in range(LEVELS):
        points = torch.rand(options.regions, 2, generator=generator) * torch.tensor([scene.height, scene.width])
        nearest = torch.cdist(pixels, points).argmin(dim=1).reshape(scene.height, scene.width)
        ids.append(nearest + level * options.regions)
    own = things[torch.randint(THINGS, (LEVELS * options.regions,), generator=generator)]
    aside = F.normalize(torch.randn(own.shape, generator=generator), dim=1)
    features = F.normalize(REAL_COSINE * own + (1 - REAL_COSINE**2) ** 0.5 * aside, dim=1)
    regions = Regions(torch.stack(ids).int(), features.half())
    return turn @ scene.viewmats[0], scene.Ks[0], (scene.height, scene.width), regions


def _asked(
    options: Options, scene: Scene, fit: Lift, codes: torch.Tensor, generator: torch.Generator
) -> Dict[str, float]:
    vectors = F.normalize(torch.randn(5, WIDTH, generator=generator), dim=1)
    question = Question(("what",), ("object", "things", "stuff", "texture"), vectors)
    camera = scene.viewmats, scene.Ks, scene.width, scene.height

    def pixels(exact: bool) -> torch.Tensor:
        channels = fit.question(codes, vectors, exact)
        plain = scene.gaussians.with_colors(channels)
        raster = rasterize(plain, *camera)
        return question.relevancy(*fit.pixel_products(raster.colors[0], raster.alphas[0], vectors, exact))

    ways = {
        "splats ms": lambda: question.relevancy(fit.splat_cosines(codes, vectors)),
        "pixels ms": lambda: pixels(False),
        "pixels exact ms": lambda: pixels(True),
        "colour alone ms": lambda: rasterize(scene.gaussians, *camera),
    }
    found: Dict[str, float] = {}
    for name, way in ways.items():
        way()
        times = sorted(stopwatch(way)[1].wall for _ in range(options.repeats))
        found[name] = 1e3 * times[len(times) // 2]
    return found


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
