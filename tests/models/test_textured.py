# SPDX-License-Identifier: Apache-2.0
"""Splats with textures: the backbone to the bit until they begin, and a field that learns from then on."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from nts_plugins.appearance.neural_texture import NeuralTextureConfig
from nts_plugins.data.cameras import view_of
from nts_plugins.errors import InputError
from nts_plugins.fields.texture import TextureFieldConfig
from nts_plugins.gaussians.strategies import DefaultConfig
from nts_plugins.heads.pixel_decoder import PixelDecoderConfig
from nts_plugins.models.splat import SplatModelConfig
from nts_plugins.models.textured import EXPORTER, TexturedModel, TexturedModelConfig
from nts_plugins.rasterization import coverage
from tests.models.scenes import Steps, camera, make_model, picture

BUSY = DefaultConfig(refine_start_iter=3, refine_every=5, grow_grad2d=1e-6, reset_every=50, max_splats=150)


def texture(**options) -> NeuralTextureConfig:
    field = TextureFieldConfig(texels=4, plane_resolution=16, hidden=16, **options.pop("field", {}))
    return NeuralTextureConfig(**{"field": field, "start_step": 10, **options})


def config(strategy: str = "default", **options) -> TexturedModelConfig:
    return TexturedModelConfig(num_downscales=0, densify=BUSY, strategy=strategy, texture=texture(**options))


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_the_backbone_to_the_bit_until_textures_begin(strategy: str) -> None:
    plain = make_model(SplatModelConfig(num_downscales=0, densify=BUSY, strategy=strategy))
    expected = Steps(plain).run(10)
    model = make_model(config(strategy))
    steps = Steps(model)
    assert torch.equal(steps.run(10), expected)
    for name, value in plain.gauss_params.items():
        assert torch.equal(model.gauss_params[name], value), name
    before = model.texture.field.color_planes.features.clone()
    steps.run(3)
    assert not torch.equal(model.texture.field.color_planes.features, before)


def test_textures_learn_what_splats_cannot() -> None:
    """Few splats that may not multiply: with textures they come nearer to the photographs."""
    still = DefaultConfig(refine_start_iter=10**6, reset_every=10**6)
    losses = []
    for make in (
        SplatModelConfig(num_downscales=0, densify=still),
        TexturedModelConfig(
            num_downscales=0, densify=still, texture=texture(start_step=20, field={"starts_at_zero": True})
        ),
    ):
        steps = Steps(make_model(make, seeds=12))
        steps.run(150)
        losses.append(steps.run(12).mean())
    assert losses[1] < 0.97 * losses[0]


def test_hidden_splats_have_no_texture() -> None:
    """Those behind an opaque wall, in a model as in what it draws."""
    model = make_model(config(start_step=0, least_coverage=0.01))
    with torch.no_grad():
        model.gauss_params["opacities"].fill_(20.0)
        model.gauss_params["scales"].fill_(-0.7)
    made = model.train()
    made.get_outputs(camera())
    some = set(made.drawn_textures.splats.tolist())
    made.config.texture.least_coverage = 0.0
    made.get_outputs(camera())
    everything = set(made.drawn_textures.splats.tolist())
    assert some < everything
    with torch.no_grad():
        view = view_of(camera(), camera().camera_to_worlds)
        covered = coverage(made._gaussians(made.splat_params()), *view.camera)
    assert some == {i for i in everything if covered[i] >= 0.01}


def test_a_checkpoint_holds_the_textures() -> None:
    model = make_model(config())
    Steps(model).run(25)
    other = make_model(config(), seeds=9, random_region=((9.0, 9.0, 9.0), 1.0))
    assert float(other.texture.field.region.radius) != float(model.texture.field.region.radius)
    other.load_state_dict(model.state_dict())
    pictures = [each.eval().get_outputs_for_camera(camera())["rgb"] for each in (model, other)]
    assert torch.equal(*pictures)
    with pytest.raises(InputError, match="texture"):
        make_model(SplatModelConfig(num_downscales=0)).load_state_dict(model.state_dict())


def test_the_field_is_trained_by_its_own_optimizer_and_splats_by_theirs() -> None:
    model = make_model(config())
    groups = model.get_param_groups()
    assert {id(each) for each in groups["texture_field"]} == {id(each) for each in model.texture.parameters()}
    assert not any("texture" in name for name in model.get_gaussian_param_groups())
    steps = Steps(model)
    steps.run(11)
    losses = model.train().get_loss_dict(model(camera()), picture())
    assert {"texture_opacity", "texture_color"} <= set(losses)
    assert model.drawn_textures is None, "it would keep the graph of a step"


def test_looking_at_it_costs_no_graph() -> None:
    model = make_model(config())
    Steps(model).run(15)
    model.eval()
    outputs = model.get_outputs_for_camera(camera())
    assert not outputs["rgb"].requires_grad and model.drawn_textures is None
    plain = model.texture.config.start_step
    model.texture.config.start_step = 10**6
    assert not torch.equal(model.get_outputs_for_camera(camera())["rgb"], outputs["rgb"])
    model.texture.config.start_step = plain
    assert isinstance(model, TexturedModel)


def test_export_says_what_a_file_cannot_hold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(config())
    monkeypatch.delitem(sys.modules, EXPORTER, raising=False)
    assert torch.equal(model.shs_0, model.features_dc)
    assert "no textures" not in capsys.readouterr().out, "the viewer looks at every property"
    monkeypatch.setitem(sys.modules, EXPORTER, ModuleType(EXPORTER))
    assert torch.equal(model.shs_0, model.features_dc)
    said = " ".join(capsys.readouterr().out.split())
    assert "holds splats, and no textures" in said and "pixel decoder" not in said
    decoded = make_model(replace(config(), pixel_decoder=PixelDecoderConfig(features=4)))
    assert torch.equal(decoded.shs_0, decoded.features_dc)
    assert "what the pixel decoder adds" in " ".join(capsys.readouterr().out.split())
