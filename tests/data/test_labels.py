# SPDX-License-Identifier: Apache-2.0
"""Labels of LERF-OVS and 3D-OVS: polygons and masks of small pictures, by hand."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import pytest
import torch
from PIL import Image

from nts_plugins.data.labels import LerfOvsLabels, ThreeDOvsLabels, bounds, inside, stem
from nts_plugins.errors import InputError


def square(x1: float, y1: float, x2: float, y2: float) -> List[List[float]]:
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def outlined(category: str, x1: float, y1: float, x2: float, y2: float) -> Dict[str, Any]:
    """An object with all the keys of LERF-OVS's files."""
    keys = {"group": 1, "layer": 1.0, "area": (x2 - x1) * (y2 - y1), "iscrowd": False, "note": ""}
    return {"category": category, "segmentation": square(x1, y1, x2, y2), "bbox": [x1, y1, x2, y2], **keys}


def write_lerf(folder: Path, name: str, objects: Sequence[Dict[str, Any]], size: Tuple[int, int] = (20, 10)) -> Path:
    """A label file as LERF-OVS has it, beside a copy of the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    info = {"description": "", "folder": "", "name": f"{name}.jpg", "width": size[0], "height": size[1], "depth": 3}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"info": info, "objects": list(objects)}))
    Image.new("RGB", size).save(folder / f"{name}.jpg")
    return path


def test_objects_of_a_category_are_one_label_with_a_box_each(tmp_path: Path) -> None:
    cups = [outlined("cup", 1, 1, 5, 4), outlined("pan", 0, 0, 20, 10), outlined(" cup ", 12, 6, 14, 8)]
    write_lerf(tmp_path, "frame_00002", cups)
    labels = LerfOvsLabels.find(tmp_path)
    for name in ("frame_00002", "frame_00002.jpg", "frame_00002.png"):
        cup, pan = labels.of(name) or []
        assert (cup.category, pan.category) == ("cup", "pan")
        wanted = torch.zeros(10, 20, dtype=torch.bool)
        wanted[1:4, 1:5] = wanted[6:8, 12:14] = True
        assert cup.mask.dtype == torch.bool and torch.equal(cup.mask, wanted) and pan.mask.all()
        assert cup.boxes == ((1, 1, 5, 4), (12, 6, 14, 8)) and pan.boxes == ((0, 0, 20, 10),)
    assert labels.of("frame_00003") is None
    assert labels.categories() == ("cup", "pan")


def test_outlines_are_drawn_at_the_size_asked_for(tmp_path: Path) -> None:
    write_lerf(tmp_path, "a", [outlined("cup", 1, 1, 5, 4)])
    (cup,) = LerfOvsLabels.find(tmp_path).of("a", size=(40, 30)) or []
    assert cup.mask.shape == (30, 40) and cup.boxes == ((2, 3, 10, 12),)
    assert int(cup.mask.sum()) == 8 * 9 and cup.mask[3:12, 2:10].all()


def test_pixels_are_inside_by_their_centres() -> None:
    mask = inside(np.array(square(0.6, 0, 2.4, 1)), (4, 2))
    assert mask.tolist() == [[False, True, False, False], [False] * 4]
    triangle = inside(np.array([[0.0, 0], [4, 0], [0, 4]]) + 0.1, (4, 4))
    assert triangle.tolist() == [[x + y < 4 for x in range(4)] for y in range(4)], "centres with x + y up to 4.2"
    assert not inside(np.zeros((2, 2)), (4, 2)).any()
    assert bounds(mask) == (1, 0, 2, 1)


def test_labels_belong_to_pictures_by_the_name_that_they_give(tmp_path: Path) -> None:
    """The order of files, and what they are called, change nothing; nor does a picture that is missing in between."""
    objects = {f"frame_{number:05d}": [outlined("cup", number, 1, number + 2, 4)] for number in (9, 2, 5)}
    for name, each in objects.items():
        write_lerf(tmp_path / "one", name, each)
    for number, (name, each) in enumerate(sorted(objects.items())):
        write_lerf(tmp_path / "two", name, each).rename(tmp_path / "two" / f"{9 - number}.json")
    one, two = LerfOvsLabels.find(tmp_path / "one"), LerfOvsLabels.find(tmp_path / "two")
    images = [Path(f"images/frame_{number:05d}.jpg") for number in (5, 1, 9, 2)]
    assert one.choose(images) == two.choose(images) == [3, 0, 2]
    for name in objects:
        (first,), (second,) = one.of(name) or [], two.of(name) or []
        assert torch.equal(first.mask, second.mask) and first.boxes == second.boxes
    assert one.categories() == two.categories()


def test_labels_are_found_after_being_pickled(tmp_path: Path) -> None:
    write_lerf(tmp_path, "a", [outlined("cup", 1, 1, 5, 4)])
    labels = LerfOvsLabels.find(tmp_path)
    for same in (pickle.loads(pickle.dumps(labels)), copy.deepcopy(labels)):
        assert same == labels and [each.boxes for each in same.of("a") or []] == [((1, 1, 5, 4),)]


def test_aligned_labels_have_the_boxes_of_their_masks(tmp_path: Path) -> None:
    """A crop of two rows and six columns: what is cut away is left out, and the rest moves."""
    write_lerf(tmp_path, "a", [outlined("cup", 1, 1, 5, 4), outlined("cup", 4, 2, 9, 6), outlined("pan", 0, 0, 3, 9)])
    (cup,) = LerfOvsLabels.find(tmp_path).of("a", align=lambda values: values[2:, 6:]) or []
    assert cup.category == "cup" and cup.boxes == ((0, 0, 3, 4),)
    assert cup.mask.shape == (8, 14) and int(cup.mask.sum()) == 12


def broken(**changes: Any) -> Dict[str, Any]:
    return {**outlined("cup", 1, 1, 5, 4), **changes}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds no labels of LERF-OVS"),
        (json.dumps({"info": {"name": "a.jpg", "width": 4}, "objects": []}), "holds no labels of LERF-OVS"),
        (json.dumps({"info": {"name": "a.jpg", "width": 4, "height": 0}, "objects": []}), "holds no labels"),
        (broken(segmentation=[1.0, 2.0, 3.0]), "Object 0 of .*one polygon"),
        (broken(segmentation=[[1, 2], [3]]), "Object 0"),
        (broken(bbox=[1, 2, 3]), "'bbox'"),
        (broken(category=None), "'category'"),
        ({"category": "cup"}, "Object 0"),
    ],
)
def test_files_that_are_not_labels_are_an_error(tmp_path: Path, text: Any, message: str) -> None:
    path = write_lerf(tmp_path, "a", [text] if isinstance(text, dict) else [])
    if isinstance(text, str):
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        LerfOvsLabels.find(tmp_path)


def test_labels_that_are_missing_or_twice_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no labels"):
        LerfOvsLabels.find(tmp_path)
    write_lerf(tmp_path, "a", []).rename(tmp_path / "b.json")
    labels = LerfOvsLabels.find(tmp_path)
    with pytest.raises(InputError, match="labels the picture a, of which the scene has no camera"):
        labels.choose([Path("b.jpg")])
    with pytest.raises(InputError, match="several pictures named a"):
        labels.choose([Path("left/a.jpg"), Path("right/a.jpg")])
    write_lerf(tmp_path, "a", [])
    with pytest.raises(InputError, match="both label the picture a"):
        LerfOvsLabels.find(tmp_path)


def test_points_in_names_stay() -> None:
    assert [stem(name) for name in ("a.b.JPG", "a.b", "frame_1", "x/y.png")] == ["a.b", "a.b", "frame_1", "y"]


def write_segmentations(folder: Path, views: Dict[str, Dict[str, np.ndarray]], classes: Sequence[str]) -> Path:
    """Labels as 3D-OVS has them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(classes) + "\n\n")
    for view, masks in views.items():
        (folder / view).mkdir()
        for name, mask in masks.items():
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / view / f"{name}.png")
    return folder


def corner(height: int = 4, width: int = 6) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[: height // 2, : width // 3] = True
    return mask


def test_masks_of_classes_belong_to_views_by_number_or_name(tmp_path: Path) -> None:
    masks = {"red apple": corner(), "table": ~corner()}
    folder = write_segmentations(tmp_path / "s", {"2": masks, "07": {"table": corner()}}, ["table", "red apple"])
    images = [Path(f"images/{number:02d}.jpg") for number in (7, 0, 2)]
    labels = ThreeDOvsLabels.find(folder, images)
    assert labels.categories() == ("table", "red apple") and labels.choose(images) == [2, 0]
    table, apple = labels.of("02.jpg") or []
    assert table.category == "table" and np.array_equal(table.mask, ~corner()) and table.boxes == ()
    assert apple.category == "red apple" and np.array_equal(apple.mask, corner())
    assert [each.category for each in labels.of("07") or []] == ["table"] and labels.of("00") is None
    larger = (labels.of("02", size=(12, 8)) or [])[1]
    assert np.array_equal(larger.mask, corner(8, 12))
    assert pickle.loads(pickle.dumps(labels)) == labels


def test_what_is_wrong_with_segmentations(tmp_path: Path) -> None:
    images = [Path("00.jpg"), Path("3.jpg"), Path("03.jpg")]

    def fails(message: str, views: Dict[str, Dict[str, np.ndarray]], classes: Sequence[str] = ("table",)) -> None:
        fails.count += 1  # type: ignore[attr-defined]
        folder = write_segmentations(tmp_path / str(fails.count), views, classes)  # type: ignore[attr-defined]
        with pytest.raises(InputError, match=message):
            ThreeDOvsLabels.find(folder, images)

    fails.count = 0  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"no list of classes .*classes\.txt"):
        ThreeDOvsLabels.find(tmp_path, images)
    fails("no labelled views", {})
    fails("labels no picture of its own: there is none named 1", {"1": {"table": corner()}})
    fails("none named 003", {"003": {"table": corner()}})
    fails("labels no picture of its own", {"0": {"table": corner()}, "00": {"table": corner()}})
    fails(r"would be table\.png", {"0": {"chair": corner()}})
    fails("names no class", {"0": {"chair": corner()}}, [])
