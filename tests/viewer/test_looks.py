# SPDX-License-Identifier: Apache-2.0
"""What each entry of the viewer's menu draws, against numbers computed by hand."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Dict, Optional

import pytest
import torch
from nerfstudio.data.scene_box import OrientedBox
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.gaussians.initialise import rgb_to_sh
from nts_plugins.models.splat import SplatModelConfig
from nts_plugins.rasterization import GSPLAT_1_4, GSPLAT_1_5, Raster, Rules, Textures, TextureSource, rasterize
from nts_plugins.viewer import looks
from tests.models.scenes import Steps, camera, make_model
from tests.models.test_textured import config

COLOR = torch.tensor([0.8, 0.4, 0.2])
SIGMA = 10.0
"""Pixels."""
MIDDLE = 40


def one_splat(opacity: float = 0.9) -> Gaussians:
    """A round splat in the middle of the picture; its higher harmonics would show, if they were drawn."""
    return Gaussians(
        means=torch.tensor([[0.0, 0.0, 10.0]]),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        scales=torch.full((1, 3), SIGMA / 10),
        opacities=torch.tensor([opacity]),
        sh=rgb_to_sh(COLOR)[None, None],
        sh_rest=torch.full((1, 3, 3), 0.3),
    )


def draw(gaussians: Gaussians, textures: Optional[TextureSource], rules: Rules = GSPLAT_1_4) -> Raster:
    K = torch.tensor([[[100.0, 0.0, MIDDLE + 0.5], [0.0, 100.0, MIDDLE + 0.5], [0.0, 0.0, 1.0]]])
    size = 2 * MIDDLE + 1
    return rasterize(gaussians, torch.eye(4)[None], K, size, size, textures=textures, backend="reference", rules=rules)


def constant(colour: float, opacity: float) -> Textures:
    """The same residual everywhere; each of the three planes has a third of it."""
    vectors = torch.ones(1, 3, 2, 2, 4)
    vectors[:, :, :, 0] = torch.tensor([colour, 0.0, -colour, opacity / 0.2])
    return Textures(vectors, torch.tensor([0]))


@pytest.mark.parametrize("rules", [GSPLAT_1_4, GSPLAT_1_5], ids=lambda rules: rules.name)
@pytest.mark.parametrize("opacity", [0.9, 0.3])
def test_an_outline_is_sharp_and_lies_where_the_splat_has_faded(opacity: float, rules: Rules) -> None:
    raster = draw(*looks.outlines(one_splat(opacity), None), rules)
    row, colors = raster.alphas[0, MIDDLE, MIDDLE:, 0], raster.colors[0, MIDDLE, MIDDLE:]
    # The blur of eps2d makes it a little wider on the screen.
    edge = (2 * torch.tensor(opacity / looks.EDGE).log() * (SIGMA**2 + 0.3)).sqrt()
    inside = torch.arange(len(row)) < edge
    assert torch.equal(row > 0, inside), "nothing outside, everything inside"
    torch.testing.assert_close(row[inside], torch.full_like(row[inside], rules.alpha_cap))
    torch.testing.assert_close(colors[0], COLOR, atol=0.06, rtol=0)
    rim = colors[inside][-1]
    assert (rim > 0.5 * looks.RIM * COLOR).all() and (rim < 2.0 * looks.RIM * COLOR).all()
    assert (colors[inside].diff(dim=0) <= 1e-6).all(), "darker and darker towards the rim"


def test_a_splat_too_faint_for_an_outline_hides_nothing() -> None:
    assert draw(*looks.outlines(one_splat(0.9 * looks.EDGE), None)).alphas.max() == 0


def test_the_textures_colour_is_drawn_around_grey() -> None:
    textures = constant(0.05, 0.0)
    for source in (textures, lambda seen: textures):
        raster = draw(*looks.texture_color(one_splat(), source))
        expected = 0.5 + looks.COLOR_GAIN * torch.tensor([0.05, 0.0, -0.05])
        torch.testing.assert_close(raster.colors[0, MIDDLE, MIDDLE], 0.9 * expected, atol=1e-4, rtol=0)


def test_the_textures_opacity_is_drawn_around_grey_by_what_covers_the_picture() -> None:
    raster = draw(*looks.texture_opacity(one_splat(0.5), constant(0.3, -0.1)))
    expected = (0.5 - 0.1) * (0.5 - 0.1 * looks.OPACITY_GAIN)
    torch.testing.assert_close(raster.colors[0, MIDDLE, MIDDLE], torch.full((3,), expected), atol=1e-4, rtol=0)
    assert draw(*looks.bare(one_splat(0.5), constant(0.3, -0.1))).alphas.max() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("look", [looks.texture_color, looks.texture_opacity])
def test_without_textures_everything_is_grey(look) -> None:
    for source in (None, lambda seen: None):
        raster = draw(*look(one_splat(), source))
        torch.testing.assert_close(raster.colors, 0.5 * raster.alphas.expand_as(raster.colors))


def shown(model, name: str, box: Optional[OrientedBox] = None) -> Tensor:
    """What the viewer, which draws in a thread of its own, shows with an entry of the menu."""
    model.controls.look.gui_handle = SimpleNamespace(value=name)
    with ThreadPoolExecutor(1) as viewer:
        outputs = viewer.submit(model.get_outputs_for_camera, camera(), box).result()
    return outputs["rgb"]


@pytest.mark.parametrize("steps", [4, 25], ids=["before textures", "with textures"])
def test_the_menu_changes_what_the_viewer_shows_and_nothing_else(steps: int) -> None:
    model = make_model(config())
    Steps(model).run(steps)
    model.eval()
    rendered = model.get_outputs_for_camera(camera())["rgb"]
    box = OrientedBox(R=torch.eye(3), T=torch.zeros(3), S=torch.tensor([0.9, 9.0, 9.0]))
    pictures: Dict[str, Tensor] = {}
    assert set(model.controls.look.options) == {"Scene", *looks.TEXTURE_LOOKS}
    for name in model.controls.look.options:
        pictures[name] = shown(model, name)
        assert 0 <= pictures[name].min() and pictures[name].max() <= 1
        cropped = shown(model, name, box)
        assert not torch.equal(cropped, pictures[name]) and torch.isfinite(cropped).all()
        assert torch.equal(model.get_outputs_for_camera(camera())["rgb"], rendered)
    assert torch.equal(pictures["Scene"], rendered)
    assert torch.equal(pictures["Without textures"], rendered) == (steps < 10)
    assert torch.equal(pictures["Texture colour"], pictures["Texture opacity"]) == (steps < 10)


def test_every_method_shows_outlines() -> None:
    model = make_model(SplatModelConfig(num_downscales=0)).eval()
    assert model.controls.look.options == ["Scene", "Splat outlines"]
    assert not torch.equal(shown(model, "Splat outlines"), shown(model, "Scene"))


def test_a_measurement_around_grey_is_no_photograph() -> None:
    """Exposure brightens colours, and leaves grey what is grey."""
    options = {"exposure": True, "num_downscales": 0}
    model = make_model(type(config())(**{**vars(config()), **options}))
    Steps(model).run(4)
    model.eval()
    before = {name: shown(model, name) for name in model.controls.look.options}
    model.exposure.log_factors.data[:2] += 1.0
    for name, picture in before.items():
        changes = name not in ("Texture colour", "Texture opacity")
        assert torch.equal(shown(model, name), picture) != changes, name
