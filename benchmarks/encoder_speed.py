# SPDX-License-Identifier: Apache-2.0
"""How long features of a picture take: full-size models with random weights, as nts features asks them.

    python -m benchmarks.encoder_speed

Random weights find other regions than real ones do, and hardly any; what a region costs is therefore told by itself.
The largest model takes 4 GB of memory.
"""

import gc
from dataclasses import dataclass
from typing import Any, Callable, Tuple

import torch
import torch.nn as nn
import tyro

from benchmarks._measure import stopwatch
from benchmarks._report import Report, Table
from nts_plugins.encoders.regions import MaskedRegions, shown_alone
from nts_plugins.encoders.settings import SamSettings


@dataclass
class Options:
    """Measure speed of encoders."""

    sam: str = "vit_h"
    """Model of Segment Anything."""
    clips: Tuple[str, ...] = ("ViT-B-16", "ViT-H-14")
    """Models of open_clip; the second one has the image tower of xlm-roberta-large-ViT-H-14."""
    size: str = "640x480"
    """Of the picture."""
    crops: int = 16
    """Regions that are shown to a model of open_clip."""
    whole: bool = False
    """Also a whole picture, as it is; half an hour on two cores."""
    name: str = "encoder_speed"
    """Name of the result."""
    force: bool = False
    """Write over an earlier result."""


def main(options: Options) -> None:
    """Time every model once, after a first call."""
    report = Report(options.name, "Encoders: how long features take")
    report.check_free(options.force)
    width, height = map(int, options.size.split("x"))
    picture = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))
    note = (
        "Random weights. Seconds of wall time and of the processor. A picture is five crops of 1024 points each, by "
        "default: the first of the two rows of Segment Anything 5 times, the second 80 times."
    )
    table = report.table("Models", note)
    for model in options.clips:
        _time_clip(options, table, model, picture)
        gc.collect()
    _time_sam(options, table, picture)
    print(f"written to {report.write()}")


def _time_clip(options: Options, table: Table, model: str, picture: torch.Tensor) -> None:
    import open_clip

    from nts_plugins.encoders.clip import OpenClip

    clip = OpenClip(open_clip.create_model(model), open_clip.get_tokenizer(model), model)
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in picture.shape[:2]), indexing="ij")
    masks = torch.stack([(rows // 60 + columns // 60) % options.crops == number for number in range(options.crops)])
    clip.encode_phrases(["object"])
    _add(table, model, clip.model, f"{options.crops} regions, cut out", shown_alone, picture, masks, clip.picture_size)
    shown = shown_alone(picture, masks, clip.picture_size)
    clip.encode_pictures(shown[:1])
    _add(table, model, clip.model, f"{options.crops} regions, encoded", clip.encode_pictures, shown)
    phrases = ["a red mug", "object", "things", "stuff", "texture"]
    _add(table, model, clip.model, "a phrase and four others", clip.encode_phrases, phrases)


def _time_sam(options: Options, table: Table, picture: torch.Tensor) -> None:
    import open_clip
    from segment_anything import sam_model_registry

    from nts_plugins.encoders.clip import OpenClip
    from nts_plugins.encoders.sam import Sam

    torch.manual_seed(0)
    # All that is drawn counts: random weights believe in nothing.
    settings = SamSettings(model=options.sam, least_stability=0.0)
    settings.least_iou = -1e9  # Below what users may ask for.
    sam = Sam(sam_model_registry[options.sam](), settings)
    image, size = (picture * 255).byte().numpy(), (picture.shape[0], picture.shape[1])
    _add(table, options.sam, sam.predictor.model, "a picture, or a crop of it", sam.predictor.set_image, image)
    grid = torch.rand(settings.points_at_once, 2).numpy() * size[::-1]
    asked = lambda: sam._asked(grid, size)  # noqa: E731
    _add(table, options.sam, sam.predictor.model, f"{settings.points_at_once} points", asked)
    if options.whole:
        clip = OpenClip(open_clip.create_model("ViT-B-16"), open_clip.get_tokenizer("ViT-B-16"), "random")
        both = MaskedRegions(sam, clip)
        _add(table, options.sam, sam.predictor.model, "all of a picture", both.encode, picture)


def _add(table: Table, name: str, model: nn.Module, what: str, function: Callable[..., Any], *arguments: Any) -> None:
    with torch.no_grad():
        _, sample = stopwatch(function, *arguments)
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    table.add(model=name, parameters_M=round(millions), what=what, wall_s=sample.wall, cpu_s=sample.cpu)
    print(table.rows[-1], flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
