# SPDX-License-Identifier: Apache-2.0
"""What people have outlined in pictures, as LERF-OVS and 3D-OVS keep it.

Labels belong to pictures by name, never by a place in a list: with one frame missing, all places after it would be
another picture's, without a word.
"""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from numpy.typing import NDArray

from nts_plugins.data import pictures
from nts_plugins.errors import InputError, describe
from nts_plugins.evaluation.open_vocabulary import Box, Label

if TYPE_CHECKING:
    from nts_plugins.data.dataset import SplatDataset

Size = Tuple[int, int]
"""Width and height, pixels."""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
"""Of pictures. What else comes after a point belongs to the name."""


class Outlined(NamedTuple):
    """One object in a picture."""

    category: str
    mask: NDArray[np.bool_]
    """[H, W]"""
    box: Optional[Box]
    """None where nobody drew one."""


@dataclass(frozen=True)
class LabelFolder(ABC):
    """Where the labels of a scene are. Reads them when asked, so that it can be copied and pickled at no cost."""

    sources: Dict[str, Path]
    """By the name of a picture without its suffix."""

    def of(
        self,
        name: str,
        size: Optional[Size] = None,
        align: Optional[Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = None,
    ) -> Optional[List[Label]]:
        """The labels of a picture, one a category, in the order of the file.

        Args:
            name: of the picture's file, with or without suffix.
            size: of the masks; None for the size at which people drew.
            align: what has been done to the picture since, done to a map [H, W] uint8 of the whole file. Boxes are then
                those around each object's aligned mask, since a lens bends the sides of those that people drew; what
                the aligned picture does not show any more is left out.

        Returns:
            None for a picture without labels.

        Raises:
            InputError: for a file that cannot be understood.
        """
        source = self.sources.get(stem(name))
        if source is None:
            return None
        masks: Dict[str, NDArray[np.bool_]] = {}
        boxes: Dict[str, List[Box]] = {}
        for category, mask, box in self._outlined(source, size):
            if align is not None:
                mask = align(mask.astype(np.uint8)) > 0
                if not mask.any():
                    continue
                box = None if box is None else bounds(mask)
            masks[category] = masks[category] | mask if category in masks else mask
            boxes.setdefault(category, []).extend([] if box is None else [box])
        return [
            Label(category, torch.from_numpy(np.ascontiguousarray(mask)), tuple(boxes[category]))
            for category, mask in masks.items()
        ]

    def in_register(self, dataset: "SplatDataset", index: int) -> Optional[List[Label]]:
        """The labels of a dataset's picture, at its size and with its undistortion; None where it has none.

        Where the picture is the whole file, outlines are drawn at the picture's size, and boxes are those of the file.
        """
        path = Path(dataset.image_filenames[index])
        if stem(path.name) not in self.sources:
            return None
        if not dataset.is_undistorted(index):
            return self.of(path.name, (int(dataset.cameras.width[index]), int(dataset.cameras.height[index])))
        return self.of(path.name, pictures.image_size(path), lambda values: dataset.align(index, values, labels=True))

    def categories(self) -> Tuple[str, ...]:
        """All categories of the scene, each once, picture by picture in the order of their names."""
        found = (category for name in sorted(self.sources) for category in self._categories(self.sources[name]))
        return tuple(dict.fromkeys(found))

    def choose(self, images: Sequence[Path]) -> List[int]:
        """Which of a scene's pictures are labelled, in the order of their names.

        Raises:
            InputError: where a labelled picture is not there, or twice.
        """
        places: Dict[str, List[int]] = {}
        for index, path in enumerate(images):
            places.setdefault(stem(Path(path).name), []).append(index)
        missing = [name for name in sorted(self.sources) if name not in places]
        if missing:
            raise InputError(
                f"{self.sources[missing[0]]} labels the picture {describe(missing)}, of which the scene has no camera. "
                f"Numbers over the other pictures could be compared with nothing: use the scene's own reconstruction, "
                f"or take the label away."
            )
        twice = [name for name in self.sources if len(places[name]) > 1]
        if twice:
            raise InputError(f"The scene has several pictures named {describe(twice)}; labels name one. Rename them.")
        return [places[name][0] for name in sorted(self.sources)]

    @abstractmethod
    def _outlined(self, source: Path, size: Optional[Size]) -> List[Outlined]:
        """The objects of a picture, with masks at the size asked for."""

    @abstractmethod
    def _categories(self, source: Path) -> List[str]:
        """The categories of a picture, without reading its masks."""


@dataclass(frozen=True)
class LerfOvsLabels(LabelFolder):
    """LangSplat's labels of LERF's scenes: a JSON file a picture, with a polygon and a box an object."""

    @classmethod
    def find(cls, folder: Path) -> "LerfOvsLabels":
        """The labels in a folder, by the names of pictures that they give themselves (``info.name``).

        Raises:
            InputError: where there are none, or two of one picture.
        """
        sources: Dict[str, Path] = {}
        for path in sorted(folder.glob("*.json")):
            name = stem(str(_read(path)["info"]["name"]))
            if name in sources:
                raise InputError(f"{sources[name]} and {path} both label the picture {name}. Keep one of them.")
            sources[name] = path
        if not sources:
            raise InputError(f"There are no labels (*.json) in {folder.absolute()}.")
        return cls(sources)

    def _outlined(self, source: Path, size: Optional[Size]) -> List[Outlined]:
        data = _read(source)
        drawn = int(data["info"]["width"]), int(data["info"]["height"])
        width, height = size or drawn
        scale = np.array([width / drawn[0], height / drawn[1]])
        found = []
        for each in data["objects"]:
            polygon = np.array(each["segmentation"], np.float64).reshape(-1, 2) * scale
            corners = np.array(each["bbox"], np.float64).reshape(2, 2) * scale
            box = (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
            found.append(Outlined(each["category"].strip(), inside(polygon, (width, height)), box))
        return found

    def _categories(self, source: Path) -> List[str]:
        return [each["category"].strip() for each in _read(source)["objects"]]


@dataclass(frozen=True)
class ThreeDOvsLabels(LabelFolder):
    """3D-OVS's labels: a folder a view, with a black and white picture a class. Nobody drew boxes."""

    classes: Tuple[str, ...]

    @classmethod
    def find(cls, folder: Path, images: Sequence[Path]) -> "ThreeDOvsLabels":
        """The labels in a folder ``segmentations``.

        Args:
            folder: with classes.txt, and a folder for each labelled view.
            images: the scene's pictures. A view is the picture of the same name; where there is none, the one of the
                same number, since folders are called 0, 1, 2 and pictures 00, 01, 02.

        Raises:
            InputError: where classes or views are missing, or a view is of no picture.
        """
        path = folder / "classes.txt"
        if not path.is_file():
            raise InputError(f"There is no list of classes {path.absolute()}; it has one class a line.")
        classes = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        classes = tuple(dict.fromkeys(line for line in classes if line))
        names = [stem(Path(image).name) for image in images]
        numbers: Dict[int, List[str]] = {}
        for name in names:
            if name.isdecimal():
                numbers.setdefault(int(name), []).append(name)
        sources: Dict[str, Path] = {}
        for view in sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")):
            same = numbers.get(int(view.name), []) if view.name.isdecimal() else []
            name = view.name if view.name in names else same[0] if len(same) == 1 else None
            if name is None or name in sources:
                raise InputError(
                    f"{view} labels no picture of its own: there is none named {view.name}, nor a single one of that "
                    f"number. Name the folder like its picture, without the suffix."
                )
            if not any((view / f"{each}.png").is_file() for each in classes):
                raise InputError(
                    f"{view} has a mask of none of the classes in {path}; the first one would be {classes[0]}.png."
                    if classes
                    else f"{path} names no class; it needs one a line."
                )
            sources[name] = view
        if not sources:
            raise InputError(f"There are no labelled views in {folder.absolute()}: folders of masks, one a picture.")
        return cls(sources, classes)

    def _outlined(self, source: Path, size: Optional[Size]) -> List[Outlined]:
        from PIL import Image

        found = []
        for category in self._categories(source):
            mask = pictures.read_mask(source / f"{category}.png")
            if size is not None and mask.shape[::-1] != size:
                resized = Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
                mask = np.asarray(resized) > 0
            found.append(Outlined(category, mask, None))
        return found

    def _categories(self, source: Path) -> List[str]:
        return [each for each in self.classes if (source / f"{each}.png").is_file()]


def inside(polygon: NDArray[np.float64], size: Size) -> NDArray[np.bool_]:
    """[H, W]: pixels whose centre lies in a polygon.

    Args:
        polygon: [P, 2] x and y in pixels from the picture's upper left corner, where the first pixel begins. With fewer
            than three corners it holds no pixel.
        size: of the picture.
    """
    from skimage.draw import polygon2mask

    if len(polygon) < 3:
        return np.zeros(size[::-1], bool)
    # scikit-image has the centre of the first pixel at 0.
    return polygon2mask(size[::-1], polygon[:, ::-1] - 0.5)


def bounds(mask: NDArray[np.bool_]) -> Box:
    """The box around the pixels of a mask [H, W] that is not empty, at their outer edges."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def stem(name: str) -> str:
    """A picture's name without folders and without the suffix of a picture: points in names stay."""
    path = Path(name)
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


def _read(path: Path) -> Dict[str, Any]:
    """A file of LERF-OVS whose entries are what they should be."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"The labels {path} are not valid JSON: {error}.") from error
    try:
        info, objects = data["info"], data["objects"]
        usable = str(info["name"]) and int(info["width"]) > 0 and int(info["height"]) > 0 and isinstance(objects, list)
    except (KeyError, TypeError, ValueError):
        usable = False
    if not usable:
        raise InputError(
            f"{path} holds no labels of LERF-OVS: they have 'info' with the name, width and height of a picture, and "
            f"a list of 'objects'."
        )
    for number, each in enumerate(objects):
        try:
            polygon, box = np.array(each["segmentation"], np.float64), np.array(each["bbox"], np.float64)
            good = isinstance(each["category"], str) and each["category"].strip() and box.shape == (4,)
            good = good and (polygon.size == 0 or polygon.ndim == 2 and polygon.shape[1] == 2)
            good = good and np.isfinite(polygon).all() and np.isfinite(box).all()
        except (KeyError, TypeError, ValueError):
            good = False
        if not good:
            raise InputError(
                f"Object {number} of {path} needs a 'category', a 'segmentation' that is one polygon [[x, y], ...] and "
                f"a 'bbox' [x1, y1, x2, y2]."
            )
    return data
