# SPDX-License-Identifier: Apache-2.0
"""The examples do what their first lines say."""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from PIL import Image

from nts_plugins.files import save
from nts_plugins.gaussians.initialise import from_points
from nts_plugins.rasterization import Textures

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


def test_draw_a_baked_scene(tmp_path: Path) -> None:
    params = from_points(
        torch.tensor([[0.0, 0.0, 3.0], [1.0, 0.0, 3.0]]), torch.tensor([[255.0, 0.0, 0.0]] * 2), scale=0.1
    )
    params["opacities"] = torch.full((2, 1), 3.0)
    green = torch.ones(1, 3, 2, 2, 4)
    green[:, :, :, 0] = torch.tensor([-1.0, 1.0, 0.0, 0.0])
    K = [[32.0, 0.0, 16.0], [0.0, 32.0, 16.0], [0.0, 0.0, 1.0]]
    view = {"viewmat": torch.eye(4).tolist(), "K": K, "width": 32, "height": 32}
    save(tmp_path / "scene", params, Textures(green, torch.tensor([0])), about={"view": view})
    load("04_draw_a_baked_scene").main(tmp_path / "scene", tmp_path / "baked.png")
    with Image.open(tmp_path / "baked.png") as picture:
        assert picture.size == (32, 32)
        textured, plain = picture.getpixel((16, 16)), picture.getpixel((26, 16))
    assert textured[1] > textured[0] and plain[0] > plain[1], "only the first splat has a green texture"


def test_every_example_is_tested() -> None:
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names == {"01_draw_splats", "02_learn_a_photograph", "03_lift_masks", "04_draw_a_baked_scene"}
