# SPDX-License-Identifier: Apache-2.0
"""Lifting on photographs: what a network sees in each is lifted into splats, and held against what it sees in others.

    pip install ai-edge-litert
    python -m benchmarks.photographs

DeepLab (MobileNetV2, the 20 classes of PASCAL VOC and background) looks at every photograph of fox by itself. The masks
of training photographs are lifted; every eighth photograph is held out. How well what is lifted agrees with the
network's own masks there is compared with the masks of the nearest training photographs, brought into the held-out view
by the splats' depth, on the same pixels.

The network knows no foxes, and what it calls this one goes by where it is seen from: a dog from the left, a cat from
the front. Splats cannot: they have one name from everywhere. So masks are also lifted as VOC's own groups of classes
(animals, vehicles, things of a household, people).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from benchmarks import quality
from benchmarks._language import fitted, trained_splats
from benchmarks._report import Report
from nts_plugins.data.cameras import View, pixel_rays, view_of
from nts_plugins.data.extraction import ScenePictures
from nts_plugins.data.features import FeatureStore, key_of
from nts_plugins.encoders.base import Regions
from nts_plugins.errors import InputError
from nts_plugins.queries.question import Question

MODEL = "deeplabv3_mnv2_pascal_quant.tflite"
CLASSES = tuple(range(21))
GROUPS = (0, 1, 1, 2, 1, 3, 1, 1, 2, 3, 2, 3, 2, 2, 1, 4, 3, 2, 3, 1, 3)
"""Of each class: background, vehicles, animals, things of a household, people."""
LABELS = {"classes": CLASSES, "groups": GROUPS}
WIDTH = 64
"""Length of a label's vector. They are at right angles to each other."""
SAME_SURFACE = 0.05
"""Two views see the same point where its depth differs by less than this share from what is drawn there."""
FITS = {
    "lift": "",
    "lift-median": "--pipeline.model.language.lift.rule median",
    "lift-gate": "--pipeline.model.language.lift.gate True",
}
DATAPARSER = ("nerfstudio-data", "--eval-mode", "interval", "--eval-interval", "8")


@dataclass
class Options:
    """Measure lifted masks of photographs."""

    scene: str = "fox"
    """Folder of ../shared/data, or of the one that NTS_TEST_DATA names."""
    scale: float = 0.5
    """Size of the pictures relative to the files."""
    fits: Tuple[str, ...] = tuple(FITS)
    """Ways to lift."""
    iterations: int = 2000
    """Of splats."""
    seed: int = 1
    """Of splats."""
    neighbours: int = 2
    """Training photographs that are compared, the nearest ones."""
    work: Path = quality.REPOSITORY / "outputs" / "benchmarks"
    """Folder of runs and logs."""
    name: str = "photographs"
    """Name of the result."""
    force: bool = False
    """Write over an earlier result."""


class DeepLab:
    """Pictures [H, W, 3] uint8 to labels [H, W]. The network sees every picture as a square of 513 pixels.

    Args:
        path: file of the network.
        labels: of its classes.
    """

    def __init__(self, path: Path, labels: Sequence[int]) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise InputError("DeepLab runs in ai-edge-litert: pip install ai-edge-litert") from error
        if not path.is_file():
            raise InputError(f"There is no {path}.")
        self.labels = torch.tensor(labels)
        self._interpreter = Interpreter(str(path), num_threads=2)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def __call__(self, picture: np.ndarray) -> Tensor:
        height, width = picture.shape[:2]
        square = torch.from_numpy(picture[..., :3]).permute(2, 0, 1)[None].float()
        square = F.interpolate(square, tuple(self._input["shape"][1:3]), mode="bilinear", antialias=True)
        self._interpreter.set_tensor(self._input["index"], (square + 0.5).byte().permute(0, 2, 3, 1).numpy())
        self._interpreter.invoke()
        found = torch.from_numpy(self._interpreter.get_tensor(self._output)).reshape(1, 1, *square.shape[2:])
        return self.labels[F.interpolate(found.float(), (height, width), mode="nearest-exact")[0, 0].long()]


def main(options: Options) -> None:
    """Lift every way, and write how well it agrees."""
    report = Report(options.name, "Photographs: masks of a network, lifted into splats")
    report.check_free(options.force)
    folder = quality.captures_folder()
    data, scale = folder / options.scene, ["--pipeline.datamanager.camera-res-scale-factor", str(options.scale)]
    label = f"{options.scene}_{options.scale:g}"
    vectors = torch.linalg.qr(torch.randn(WIDTH, len(CLASSES), generator=torch.Generator().manual_seed(0))).Q.T
    output = options.work / "runs" / f"{options.name}_{label}_{options.seed}_{options.iterations}"
    log = options.work / "logs" / f"{options.name}_{label}_splat.log"
    splats = trained_splats(data, output, options.iterations, options.seed, log, [*scale, *DATAPARSER])
    table = report.table(
        "Agreement",
        "With the network's own masks of held-out photographs: share of pixels with the same label, and mean over "
        "labels of intersection over union. *lifted* against *nearest*, the "
        f"{options.neighbours} nearest training photographs, on the pixels that these see; *everywhere*: of what is "
        "lifted, on all pixels. *better*: held-out photographs on which what is lifted agrees at least as well.",
    )
    for name, labels in LABELS.items():
        network = DeepLab(folder / "weights" / "google_coral" / MODEL, labels)
        own = vectors[: max(labels) + 1].contiguous()
        features = _features(options, data, network, own, options.work / "features" / f"{options.name}_{label}_{name}")
        for fit in options.fits:
            more = [*scale, *FITS[fit].split(), *DATAPARSER]
            trainer, seconds = fitted(data, output, f"{name}_{fit}", splats, features, 1, options.seed, more)
            scores = _agreement(options, trainer.pipeline, network, own)
            table.add(labels=name, fit=fit, **scores, s=round(seconds, 1))
            print(table.rows[-1], flush=True)
    print(f"written to {report.write()}")


def _features(options: Options, data: Path, network: DeepLab, vectors: Tensor, folder: Path) -> Path:
    """Masks as regions of one level, whose features are the vectors of labels."""
    parser = tyro.cli(_parsers(), args=list(DATAPARSER))
    parser.data = data
    store = FeatureStore(folder, f"{len(vectors)} labels of PASCAL VOC / {MODEL}")
    for name, read in ScenePictures(parser, options.scale):
        picture = read()
        if key_of(picture) not in store:
            store.write(key_of(picture), Regions(network(picture)[None].int(), vectors, ("class",)), name)
    return folder


def _parsers() -> Any:
    from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion

    return AnnotatedDataParserUnion


@torch.no_grad()
def _agreement(options: Options, pipeline: Any, network: DeepLab, vectors: Tensor) -> Dict[str, Any]:
    """Scores of what is lifted, and of the nearest training photographs."""
    model, datamanager = pipeline.model.eval(), pipeline.datamanager
    train, held_out = datamanager.train_dataset, datamanager.eval_dataset
    phrases = tuple(str(number) for number in range(len(vectors)))
    question = Question(phrases, ("",), torch.cat([vectors, vectors.new_zeros(1, WIDTH)]))
    lifted, nearest, everywhere, better = Score.none(), Score.none(), Score.none(), 0
    for index in range(len(held_out)):
        camera = held_out.cameras[index : index + 1]
        own = network(held_out.get_numpy_image(index))
        found = model.relevancy(camera, question)[0][0].argmax(dim=-1)
        everywhere.add(found, own)
        depth = model.get_outputs(camera)["depth"][..., 0]
        here, there = Score.none(), Score.none()
        for number in _nearest(camera, train.cameras, options.neighbours):
            other = train.cameras[number : number + 1]
            classes = network(train.get_numpy_image(number))
            seen, values = _brought(view_of(camera, camera.camera_to_worlds[..., :3, :4]), depth,
                                    view_of(other, other.camera_to_worlds[..., :3, :4]),
                                    model.get_outputs(other)["depth"][..., 0], classes)  # fmt: skip
            there.add(values[seen], own[seen])
            here.add(found[seen], own[seen])
        lifted, nearest = lifted + here, nearest + there
        better += here.pixels >= there.pixels
    scores: Dict[str, Any] = {}
    for name in ("pixels", "mIoU"):
        for what, score in (("lifted", lifted), ("nearest", nearest), ("everywhere", everywhere)):
            scores[f"{name} {what}"] = round(score.pixels if name == "pixels" else score.miou, 4)
    return {**scores, "better": f"{better} of {len(held_out)}"}


@dataclass
class Score:
    """Agreement of label maps."""

    met: Tensor
    """[21, 21] how often which label met which."""

    @staticmethod
    def none() -> "Score":
        return Score(torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64))

    def add(self, found: Tensor, true: Tensor) -> None:
        pairs = true.reshape(-1) * len(CLASSES) + found.reshape(-1)
        self.met += torch.bincount(pairs, minlength=self.met.numel()).view_as(self.met)

    def __add__(self, other: "Score") -> "Score":
        return Score(self.met + other.met)

    @property
    def pixels(self) -> float:
        return float(self.met.diagonal().sum() / self.met.sum())

    @property
    def miou(self) -> float:
        both = self.met.diagonal()
        either = self.met.sum(dim=0) + self.met.sum(dim=1) - both
        return float((both[either > 0] / either[either > 0]).mean())


def _nearest(camera: Cameras, others: Cameras, count: int) -> List[int]:
    distances = (others.camera_to_worlds[:, :3, 3] - camera.camera_to_worlds[0, :3, 3]).norm(dim=1)
    return [int(number) for number in distances.argsort()[:count]]


def _brought(view: View, depth: Tensor, other: View, other_depth: Tensor, classes: Tensor) -> Tuple[Tensor, Tensor]:
    """[H, W] which pixels of a view another one sees, too, and [H, W] the classes that it has there."""
    points = pixel_rays(view.Ks[0], view.width, view.height) * depth[..., None]
    world = torch.linalg.inv(view.viewmats[0])
    points = points @ world[:3, :3].T + world[:3, 3]
    points = points @ other.viewmats[0, :3, :3].T + other.viewmats[0, :3, 3]
    pixels = points @ other.Ks[0].T
    places = (pixels[..., :2] / pixels[..., 2:].clamp_min(1e-6)).floor().long()
    columns, rows = places.unbind(-1)
    inside = (columns >= 0) & (columns < other.width) & (rows >= 0) & (rows < other.height) & (points[..., 2] > 0)
    rows, columns = rows.clamp(0, other.height - 1), columns.clamp(0, other.width - 1)
    drawn = other_depth[rows, columns]
    return inside & ((drawn - points[..., 2]).abs() < SAME_SURFACE * drawn), classes[rows, columns]


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main(tyro.cli(Options, description=__doc__))
