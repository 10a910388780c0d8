# SPDX-License-Identifier: Apache-2.0
"""The examples do what their first lines say."""

import importlib.util
from pathlib import Path
from types import ModuleType

from PIL import Image

FOLDER = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name[:2]}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_draw_splats(tmp_path: Path) -> None:
    load("01_draw_splats").main(tmp_path / "splats.png")
    with Image.open(tmp_path / "splats.png") as picture:
        assert picture.size == (960, 240)
        assert len(picture.getcolors(maxcolors=10**6)) > 100


def test_learn_a_photograph(tmp_path: Path) -> None:
    module = load("02_learn_a_photograph")
    start = module.main(tmp_path / "start.png", steps=1)
    assert module.main(tmp_path / "cat.png", steps=40, count=800, width=96) > start + 5


def test_lift_masks() -> None:
    assert load("03_lift_masks").main() == 1.0


def test_every_example_is_tested() -> None:
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names == {"01_draw_splats", "02_learn_a_photograph", "03_lift_masks"}
