# SPDX-License-Identifier: Apache-2.0
"""Features decoded once a pixel: the formula, what it must leave alone, and that it learns what splats cannot."""

import io
import math
from typing import Optional

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from torch import Tensor

from nts_plugins.data.cameras import view_of
from nts_plugins.errors import InputError
from nts_plugins.gaussians.strategies import DefaultConfig, MCMCConfig
from nts_plugins.heads.pixel_decoder import PixelDecoder, PixelDecoderConfig
from nts_plugins.heads.surface import SurfaceHeadConfig
from nts_plugins.models.splat import SplatModel, SplatModelConfig
from nts_plugins.models.textured import TexturedModelConfig
from nts_plugins.rasterization.sh import sh_basis
from nts_plugins.viewer import controls
from tests.models.scenes import HEIGHT, WIDTH, Steps, camera, make_model

STILL = DefaultConfig(refine_start_iter=10**6, reset_every=10**6)
GROWING = DefaultConfig(refine_start_iter=3, refine_every=5, grow_grad2d=1e-6, max_splats=120, reset_every=1000)


def with_decoder(densify: DefaultConfig = STILL, seeds: int = 50, **options: object) -> SplatModel:
    decoder = PixelDecoderConfig(**{"features": 5, "hidden": 8, **options})  # type: ignore[arg-type]
    return make_model(SplatModelConfig(num_downscales=0, densify=densify, heads={"pixels": decoder}), seeds=seeds)


def head_of(model: SplatModel) -> PixelDecoder:
    return model.heads["pixels"]  # type: ignore[return-value]


def shaken(model: SplatModel) -> SplatModel:
    """With a last layer that says something."""
    torch.nn.init.normal_(head_of(model).network[-1].weight)  # type: ignore[arg-type]
    torch.nn.init.normal_(head_of(model).network[-1].bias)  # type: ignore[arg-type]
    return model


def drawn(model: SplatModel) -> Tensor:
    return model.eval().get_outputs_for_camera(camera())["rgb"]


def test_each_pixel_adds_its_opacity_times_tanh_of_the_network() -> None:
    head = head_of(shaken(with_decoder(direction_degree=2))).eval()
    torch.manual_seed(1)
    shot = camera()
    view = view_of(shot, shot.camera_to_worlds)
    channels = torch.randn(HEIGHT, WIDTH, 5, requires_grad=True)
    alphas = torch.rand(HEIGHT, WIDTH, 1)
    alphas[:5] = 0.0
    outputs = head.outputs(channels, alphas, view)
    residual = 2 * outputs["pixels_added"] - 1
    row, column = 20, 11
    ray = torch.tensor([column + 0.5 - WIDTH / 2, row + 0.5 - HEIGHT / 2, float(shot.fx)]) @ view.viewmats[0, :3, :3]
    known = torch.cat([channels[row, column], alphas[row, column], sh_basis(ray / ray.norm(), 2)])
    torch.testing.assert_close(residual[row, column], alphas[row, column] * torch.tanh(head.network(known)))
    assert not residual[:5].any()
    rgb = torch.rand(HEIGHT, WIDTH, 3)
    assert torch.equal(head.picture(rgb, outputs), rgb + residual)
    residual.square().sum().backward()
    assert channels.grad is not None and float(channels.grad[5:].ne(0).float().mean()) > 0.9  # not behind a closed ReLU
    assert not channels.grad[:5].any()
    assert all(each.grad is not None and bool(each.grad.any()) for each in head.parameters())


def test_pixels_may_see_the_time() -> None:
    head = head_of(shaken(with_decoder(direction_degree=None, time_frequencies=2))).eval()
    channels, alphas = torch.randn(HEIGHT, WIDTH, 5), torch.full((HEIGHT, WIDTH, 1), 0.7)

    def added(time: Optional[float]) -> Tensor:
        shot = camera(time=time)
        return 2 * head.outputs(channels, alphas, view_of(shot, shot.camera_to_worlds))["pixels_added"] - 1

    waves = math.sin(0.4), math.cos(0.4), math.sin(0.8), math.cos(0.8)
    known = torch.cat([channels[4, 9], alphas[4, 9], torch.tensor([0.4, *waves])])
    torch.testing.assert_close(added(0.4)[4, 9], 0.7 * torch.tanh(head.network(known)))
    assert torch.equal(added(None), added(0.0)) and not torch.equal(added(0.0), added(0.4))


def test_it_begins_with_the_picture_as_it_is() -> None:
    plain = make_model(SplatModelConfig(num_downscales=0, densify=STILL))
    model = with_decoder()
    for name, value in plain.gauss_params.items():
        assert torch.equal(model.gauss_params[name], value), name
    assert torch.equal(drawn(plain), drawn(model))
    assert not torch.equal(drawn(plain), drawn(shaken(model)))


def test_pixels_learn_what_splats_cannot() -> None:
    """Few splats that may not multiply: with a decoder they come nearer to the photographs."""
    losses = []
    for model in (make_model(SplatModelConfig(num_downscales=0, densify=STILL), seeds=12), with_decoder(seeds=12)):
        steps = Steps(model)
        steps.run(150)
        losses.append(steps.run(12).mean())
    assert losses[1] < 0.9 * losses[0]


def test_splats_move_for_what_pixels_add() -> None:
    model = shaken(with_decoder())
    model.train().get_outputs(camera())["pixels_added"].sum().backward()
    for name in ("means", "opacities", "pixels_features"):
        assert bool(model.gauss_params[name].grad.any()), name
    assert model.gauss_params["features_dc"].grad is None or not model.gauss_params["features_dc"].grad.any()


def test_features_stay_with_their_splats_and_survive_a_checkpoint() -> None:
    model = with_decoder(GROWING)
    Steps(model).run(12)
    assert model.num_points > 50 and model.gauss_params["pixels_features"].shape == (model.num_points, 5)
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    other = with_decoder(GROWING)
    other.load_state_dict(torch.load(saved, weights_only=True))
    assert torch.equal(drawn(other), drawn(model))


def test_few_photographs_make_it_cost_more() -> None:
    few = PixelDecoderConfig(penalty=0.1, penalty_views=100).setup(name="pixels", metadata={"training_views": 8})
    outputs = {"pixels_added": torch.tensor([[[0.75, 0.25, 0.6]]])}
    cost = few.losses(outputs, None)["pixels_penalty"]
    torch.testing.assert_close(cost, torch.tensor(0.1 * 100 / 8 * 0.4))
    same = PixelDecoderConfig(penalty=0.1, penalty_views=None).setup(name="pixels", metadata={"training_views": 8})
    torch.testing.assert_close(same.losses(outputs, None)["pixels_penalty"], torch.tensor(0.04))


def test_only_the_scene_itself_is_added_to(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shaken(with_decoder())
    model.eval()
    monkeypatch.setattr(controls, "in_viewer", lambda: True)
    scene = drawn(model)
    model.controls.look.value = "Splat outlines"
    with_look = drawn(model)
    torch.nn.init.zeros_(head_of(model).network[-1].weight)  # type: ignore[arg-type]
    torch.nn.init.zeros_(head_of(model).network[-1].bias)  # type: ignore[arg-type]
    assert torch.equal(drawn(model), with_look)
    model.controls.look.value = controls.SCENE
    assert not torch.equal(drawn(model), scene)


def test_before_its_first_step_nothing_is_added() -> None:
    plain = make_model(SplatModelConfig(num_downscales=0, densify=STILL))
    assert torch.equal(drawn(shaken(with_decoder(start_step=9))), drawn(plain))


def test_what_is_added_is_a_picture() -> None:
    added = shaken(with_decoder()).eval().get_outputs_for_camera(camera())["pixels_added"]
    assert 0.0 < float(added.min()) < 0.5 < float(added.max()) < 1.0


def test_it_trains_beside_textures_and_surfaces_under_mcmc() -> None:
    config = TexturedModelConfig(
        num_downscales=1,
        resolution_schedule=5,
        strategy="mcmc",
        mcmc=MCMCConfig(refine_start_iter=5, refine_every=5),
        exposure=True,
        heads={"surface": SurfaceHeadConfig()},
        pixel_decoder=PixelDecoderConfig(features=3, hidden=8),
        camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"),
    )
    config.texture.start_step, config.texture.field.hidden = 4, 16
    model = make_model(config)
    losses = Steps(model).run(30)
    assert torch.isfinite(losses).all() and losses[-4:].mean() < losses[:4].mean()
    assert model.gauss_params["pixels_features"].shape == (model.num_points, 3) and model.num_points > 50


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"features": 0},
            {"hidden": 0},
            {"time_frequencies": -1},
            {"layers": -1},
            {"direction_degree": 4},
            {"trains_geometry": False},
        ),
        *({"stop_step": 9}, {"penalty": -1.0}, {"penalty": float("nan")}, {"penalty_views": 0}),
    ],
)
def test_what_cannot_be_is_explained(options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options)).replace("_", ".")):
        PixelDecoderConfig(**options).setup(name="pixels", metadata={})


def test_textured_splats_have_one_if_asked() -> None:
    without = make_model(TexturedModelConfig(num_downscales=0))
    assert "pixels_features" not in without.gauss_params and "pixels" not in without.get_param_groups()
    model = make_model(TexturedModelConfig(num_downscales=0, pixel_decoder=PixelDecoderConfig(features=7)))
    assert model.gauss_params["pixels_features"].shape == (50, 7)
    assert {"pixels", "pixels_features"} <= model.get_param_groups().keys()
