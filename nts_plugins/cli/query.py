# SPDX-License-Identifier: Apache-2.0
"""``nts query``: ask a run for things by name."""

import json
import math
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, Dict, Iterator, List, Literal, Optional, Tuple

from nts_plugins.errors import InputError
from nts_plugins.queries.phrases import CANONICAL, Language, split, split_negatives

ABOUT = "answer.json"


@dataclass
class Query:
    """Ask a run of langsplat for things by name: pictures of how relevant each pixel is, masks, overlays, the splats
    that were found, and boxes around them.

    The output folder gets a folder for each phrase, with NAME_relevancy.png (relevancy from 0 to 1 as 16-bit grey),
    NAME_mask.png and NAME_overlay.png of every view, and splats.ply of what was found; and answer.json about all of
    it.
    """

    load_config: Path
    """The run's config.yml."""
    prompts: str
    """A phrase, or several with ';' between them."""
    output_dir: Path = Path("query")
    """Folder of the answer; it is there whole or not at all."""
    negatives: str = ""
    """What all phrases have to beat, separated likewise; by default object; things; stuff; texture, or for each phrase
    the same in the language that its script tells."""
    language: Optional[Language] = None
    """Beat the same in this language instead, for all phrases: scripts do not tell German, French and Spanish from
    English. The text tower must read it."""
    views: Literal["test", "train", "none"] = "test"
    """Cameras to draw from, where there is no camera path."""
    camera_path: Optional[Path] = None
    """A camera path of the viewer (.json), as for ns-render camera-path."""
    level: str = "best"
    """On which size of things to look (subpart, part, whole); best takes that of the best match, a phrase at a time."""
    threshold: float = 0.0
    """By how much the cosine of a phrase must beat that of what it has to beat; 0.0405 is the 0.6 of publications whose
    temperature is 10."""
    smoothing: int = 1
    """Side of the square, in pixels and odd, over which relevancy is averaged; 29 in LangSplatV2, 1 not at all."""
    exact: bool = False
    """Cosines of the mean feature of a pixel, as LangSplat has them, instead of the mean of cosines. Slower, and the
    same but where a pixel shows several things."""
    weights: Optional[Path] = None
    """A file of the text tower's weights, or a table of phrases (.npz with phrases and vectors); by default what the
    run was trained with."""
    frame: Literal["capture", "training"] = "capture"
    """Of the boxes: that of the data, as before nerfstudio turned, moved and scaled it; or that of splats.ply."""
    overwrite: bool = False
    """Replace an answer that is there."""

    def run(self) -> int:
        """Ask, draw and write. Raises InputError for what the user has to change."""
        import numpy as np

        from nts_plugins.cli._runs import capture_from_training, load_run
        from nts_plugins.files.whole import whole_folder, writing
        from nts_plugins.models.language import LanguageModel
        from nts_plugins.queries.relevancy import from_margin

        self._check()
        pipeline = load_run(self.load_config)
        model = pipeline.model
        if not isinstance(model, LanguageModel):
            raise InputError(f"{self.load_config} is of a method whose splats know no language. Train langsplat.")
        head = model.head
        if self.level not in ("best", *head.levels):
            raise InputError(f"--level is {self.level!r}; it must be best, {', '.join(head.levels)}.")
        if self.weights is not None:
            head.config.text_weights = self.weights
        canonical = ";".join(CANONICAL[self.language]) if self.language else ""
        question = head.ask(self.prompts, self.negatives.strip() or canonical)
        least = from_margin(self.threshold)
        of_splats = model.splat_relevancy(question)  # [N, L, Q]
        best = of_splats.amax(dim=0) if len(of_splats) else of_splats.new_zeros(of_splats.shape[1:])
        fixed = None if self.level == "best" else list(head.levels).index(self.level)
        levels = [fixed if fixed is not None else int(each) for each in best.argmax(dim=0)]
        to_frame = np.eye(4)
        if self.frame == "capture":
            to_frame = capture_from_training(pipeline.datamanager.train_dataparser_outputs)
        answer: Dict[str, Any] = {
            "encoder": head.encoder,
            "threshold": self.threshold,
            "frame": self.frame,
            "phrases": {},
        }
        target = self.output_dir.expanduser().absolute()
        with writing(f"the answer to {target}"), whole_folder(target) as work:
            folders = _folders(work, question.phrases)
            for number, (phrase, level) in enumerate(zip(question.phrases, levels, strict=True)):
                found = of_splats[:, level, number] > least
                boxes, splats = _found(
                    model, found, of_splats[:, level, number], folders[number] / "splats.ply", to_frame
                )
                answer["phrases"][phrase] = {
                    "folder": folders[number].name,
                    "negatives": list(question.beaten_by(number)),
                    "level": head.levels[level],
                    "best": float(best[level, number]),
                    "splats": splats,
                    "boxes": boxes,
                    "views": {},
                }
            for name, camera in self._cameras(pipeline):
                self._draw(model, camera, name, question, levels, least, folders, answer)
            _write_json(work / ABOUT, answer)
        for phrase, own in answer["phrases"].items():
            found = f"{own['splats']} splats in {len(own['boxes'])} places"
            print(f"{phrase}: {found}, best {own['best']:.3f} ({own['level']})")
        print(f"The answer is in {target}.")
        return 0

    def _check(self) -> None:
        from nts_plugins.files.whole import check_folder

        split(self.prompts)
        if split_negatives(self.negatives) and self.language:
            raise InputError(
                f"--negatives are what phrases have to beat, and so are the canonical phrases of --language "
                f"{self.language}. Give one of the two."
            )
        target = self.output_dir.expanduser().absolute()
        check_folder(target, "an answer", (ABOUT, *_folders_of(target)), ABOUT, self.overwrite)
        if self.smoothing < 1 or self.smoothing % 2 == 0:
            raise InputError(f"--smoothing is {self.smoothing}; the side of a square around a pixel is odd.")
        if not math.isfinite(self.threshold):
            raise InputError(f"--threshold is {self.threshold}; it must be a number, a difference of cosines.")
        if self.camera_path is not None and not self.camera_path.is_file():
            raise InputError(f"There is no camera path {self.camera_path}.")

    def _cameras(self, pipeline: Any) -> Iterator[Tuple[str, Any]]:
        """Name and camera of each view, with a bar while they are drawn."""
        from nts_plugins.progress import progress

        if self.camera_path is not None:
            cameras = _path(self.camera_path)
            names = [f"{number:05d}" for number in range(len(cameras))]
        elif self.views == "none":
            return
        else:
            manager = pipeline.datamanager
            dataset = manager.eval_dataset if self.views == "test" else manager.train_dataset
            cameras, names = dataset.cameras, _names(dataset.image_filenames)
        with progress("Views") as (tell, _):
            for number, name in enumerate(names):
                tell(number, len(names))
                yield name, cameras[number : number + 1]
            tell(len(names), len(names))

    def _draw(
        self, model: Any, camera: Any, name: str, question: Any, levels: List[int], least: float, folders: List[Path],
        answer: Dict[str, Any],
    ) -> None:  # fmt: skip
        from nts_plugins.evaluation.masks import window_mean
        from nts_plugins.queries.overlays import heat

        relevancy, there = model.relevancy(camera, question, self.exact)
        rgb = model.get_outputs_for_camera(camera)["rgb"].cpu()
        for number, (phrase, level) in enumerate(zip(question.phrases, levels, strict=True)):
            own = relevancy[level, ..., number].cpu()
            around = self.smoothing // 2
            own = window_mean(own, around, around) if around else own
            found = (own > least) & there[level].cpu()
            _save(folders[number] / f"{name}_relevancy.png", (own * 65535).round().numpy().astype("uint16"))
            _save(folders[number] / f"{name}_mask.png", (found * 255).numpy().astype("uint8"))
            overlay = heat(rgb, own + (0.5 - least))
            _save(folders[number] / f"{name}_overlay.png", (overlay * 255).round().numpy().astype("uint8"))
            row, column = divmod(int(own.argmax()), own.shape[1])
            answer["phrases"][phrase]["views"][name] = {
                "best": float(own.max()),
                "at": [column, row],
                "pixels": int(found.sum()),
            }


def _folders_of(target: Path) -> List[str]:
    """Names of the folders of an answer that is there."""
    try:
        phrases = json.loads((target / ABOUT).read_text(encoding="utf-8"))["phrases"]
        return [str(each["folder"]) for each in phrases.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _folders(work: Path, phrases: Tuple[str, ...]) -> List[Path]:
    """A folder for each phrase, of a name that any file system takes."""
    folders: List[Path] = []
    for phrase in phrases:
        words = "".join(letter if letter.isalnum() else "_" for letter in phrase)[:60]
        taken = {folder.name.lower() for folder in folders}
        names = chain([words], (f"{words}_{number}" for number in count(2)))
        name = next(each for each in names if each.lower() not in taken)
        folder = work / name
        folder.mkdir()
        folders.append(folder)
    return folders


def _names(paths: List[Path]) -> List[str]:
    """A name for each picture: that of its file, and of its folder too where files share a name."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{path.parent.name}_{stem}"
        for stem, path in zip(stems, paths, strict=True)
    ]


def _found(model: Any, found: Any, relevancy: Any, path: Path, to_frame: Any) -> Tuple[List[Dict[str, Any]], int]:
    """Write the splats that were found, without those too faint to be drawn, and say where they are, and how many."""
    from nts_plugins.files import ply
    from nts_plugins.surfaces.places import places_of

    values = {name: value.detach()[found] for name, value in model.gauss_params.items() if name in ply.VALUES}
    params = ply.exported({**values, "relevancy": relevancy[found]})
    ply.write(path, params)
    places = places_of(params["means"].numpy(), params["opacities"].reshape(-1).sigmoid().numpy())
    boxes = []
    for place in places:
        corners = place.corners() @ to_frame[:3, :3].T + to_frame[:3, 3]
        boxes.append(
            {
                "corners": corners.round(6).tolist(),
                "splats": len(place.members),
                "best": float(params["relevancy"][place.members].max()),
            }
        )
    return boxes, len(params["means"])


def _path(path: Path) -> Any:
    from nerfstudio.cameras.camera_paths import get_path_from_json

    try:
        return get_path_from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is no camera path of nerfstudio's viewer: {error!r}") from error


def _save(path: Path, pixels: Any) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)


def _write_json(path: Path, values: Dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
