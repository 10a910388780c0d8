# SPDX-License-Identifier: Apache-2.0
"""Splats that move: the static scene to the bit until they begin, and motion that is learned from then on."""

import sys
from types import ModuleType

import pytest
import torch

from nts_plugins.appearance.neural_texture import NeuralTextureConfig
from nts_plugins.data.cameras import view_of
from nts_plugins.errors import InputError
from nts_plugins.fields.deformation import DeformationFieldConfig
from nts_plugins.fields.texture import TextureFieldConfig
from nts_plugins.gaussians.strategies import DefaultConfig
from nts_plugins.models.dynamic import (
    DynamicSplatModelConfig,
    DynamicTexturedModel,
    DynamicTexturedModelConfig,
    MotionConfig,
)
from nts_plugins.models.splat import SplatModelConfig
from nts_plugins.models.textured import EXPORTER
from nts_plugins.rasterization import Seen
from tests.captures import blobs, moved
from tests.models.scenes import Steps, camera, make_model, picture

BUSY = DefaultConfig(refine_start_iter=3, refine_every=5, grow_grad2d=1e-6, reset_every=50, max_splats=150)
STILL = DefaultConfig(refine_start_iter=10**6, reset_every=10**6)


def motion(**options) -> MotionConfig:
    field = DeformationFieldConfig(plane_channels=8, plane_resolutions=(8,), moments=4, hidden=16)
    return MotionConfig(**{"field": field, "start_step": 10, **options})


def config(**options) -> DynamicSplatModelConfig:
    return DynamicSplatModelConfig(**{"num_downscales": 0, "densify": BUSY, "motion": motion(), **options})


def textured(**options) -> DynamicTexturedModelConfig:
    field = TextureFieldConfig(texels=4, plane_resolution=16, hidden=16, time_frequencies=3)
    texture = NeuralTextureConfig(field=field, start_step=12)
    return DynamicTexturedModelConfig(
        **{"num_downscales": 0, "densify": BUSY, "motion": motion(), "texture": texture, **options}
    )


def test_the_static_scene_to_the_bit_until_it_moves() -> None:
    plain = make_model(SplatModelConfig(num_downscales=0, densify=BUSY))
    expected = Steps(plain, moving=True).run(10)
    model = make_model(config(), moments=4)
    steps = Steps(model, moving=True)
    assert torch.equal(steps.run(10), expected)
    for name, value in plain.gauss_params.items():
        assert torch.equal(model.gauss_params[name], value), name
    assert not model.motion.decoder[-1].weight.any()
    steps.run(3)
    assert model.motion.decoder[-1].weight.any()


def test_motion_is_learned_where_the_scene_moves() -> None:
    """One camera a moment, as in a film: the rising blobs rise, and pictures become better than without motion."""
    losses = {}
    for start in (20, 10**6):
        model = make_model(config(densify=STILL, motion=motion(start_step=start)), seeds=150, moments=4)
        steps = Steps(model, moving=True)
        steps.run(240)
        losses[start] = steps.run(12).mean()
        if start == 20:
            moving = model
    assert losses[20] < 0.9 * losses[10**6]
    with torch.no_grad():
        heights = [moving.splat_params(camera(time=time))["means"][:, 2] for time in (0.0, 1.0)]
    scene = blobs()
    rising = torch.cdist(moving.gauss_params["means"], moved(scene, 0.5).means).argmin(dim=1) < len(scene) // 2
    rise = heights[1] - heights[0]
    # A few hundred steps find the way, and a part of its length.
    found = float(rise[rising].median())
    assert found > 0.05 and float(rise[~rising].median().abs()) < found / 5


def test_losses_name_what_moving_costs_and_keep_no_graph() -> None:
    model = make_model(config(), moments=4)
    Steps(model, moving=True).run(11)
    losses = model.train().get_loss_dict(model(camera(time=0.5)), picture())
    names = {"motion_amount", "motion_space", "motion_time", "motion_change"}
    assert names <= set(losses) and all(torch.isfinite(losses[name]) for name in names)
    assert model.moved is None, "it would keep the graph of a step"
    outputs = model.eval().get_outputs_for_camera(camera(time=0.5))
    assert not outputs["rgb"].requires_grad and model.moved is None


def test_a_camera_without_a_time_sees_the_first_moment() -> None:
    model = make_model(config(), moments=4)
    Steps(model, moving=True).run(30)
    model.eval()
    without, first, last = (model.get_outputs_for_camera(camera(time=time))["rgb"] for time in (None, 0.0, 1.0))
    assert torch.equal(without, first) and not torch.equal(first, last)


def test_pictures_without_times_are_refused() -> None:
    with pytest.raises(InputError, match="no different times"):
        make_model(config(), moments=0)


def test_textures_are_asked_for_where_splats_rest_and_see_the_time() -> None:
    model = make_model(textured(), moments=4)
    assert isinstance(model, DynamicTexturedModel)
    Steps(model, moving=True).run(25)
    model.eval()
    asked = []
    model.texture.field.register_forward_hook(lambda _, given, __: asked.append(given))
    with torch.no_grad():
        for time in (0.2, 0.9):
            params = model.splat_params(camera(time=time))
            gaussians = model._gaussians(params)
            assert not torch.equal(gaussians.means, model.gauss_params["means"])
            view = view_of(camera(), camera().camera_to_worlds)
            source = model.textures_for(gaussians, params, view, trains_splats=False)
            everywhere = torch.ones(len(gaussians))
            source(Seen(everywhere[:, None].expand(-1, 2), everywhere.clone))  # type: ignore[misc, operator]
    for (places, _, times), time in zip(asked, (0.2, 0.9), strict=True):
        assert {tuple(row) for row in places.tolist()} <= {tuple(row) for row in model.gauss_params["means"].tolist()}
        assert torch.equal(times, torch.full((len(places), 1), time))


def test_a_checkpoint_holds_the_motion() -> None:
    model = make_model(textured(), moments=4)
    Steps(model, moving=True).run(25)
    other = make_model(textured(), seeds=9, moments=4)
    other.load_state_dict(model.state_dict())
    other.update_to_step(model.step)
    pictures = [each.eval().get_outputs_for_camera(camera(time=0.7))["rgb"] for each in (model, other)]
    assert torch.equal(*pictures)


def test_export_writes_the_moment_that_it_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(config(export_time=1.0), moments=4)
    Steps(model, moving=True).run(30)
    model.eval()
    monkeypatch.delitem(sys.modules, EXPORTER, raising=False)
    assert model.means is model.gauss_params["means"], "at rest to everybody else"
    monkeypatch.setitem(sys.modules, EXPORTER, ModuleType(EXPORTER))
    with torch.no_grad():
        expected = model.splat_params(camera(time=1.0))
        for name in ("means", "quats", "scales"):
            assert torch.equal(getattr(model, name), expected[name])
    assert "at time 1 of [0, 1]" in " ".join(capsys.readouterr().out.split())
