# SPDX-License-Identifier: Apache-2.0
"""The embedding head, and through it the interface of every head: it survives whatever happens to its splats."""

import copy
import io

import pytest
import torch
from nerfstudio.data.scene_box import OrientedBox
from torch import Tensor

from nts_plugins.errors import InputError
from nts_plugins.gaussians.strategies import DefaultConfig
from nts_plugins.heads.embedding import EmbeddingHeadConfig
from nts_plugins.models.splat import SplatModel, SplatModelConfig
from nts_plugins.viewer.pca import PcaColors
from tests.models.scenes import HEIGHT, WIDTH, Steps, camera, make_model, picture

GROWING = DefaultConfig(refine_start_iter=3, refine_every=5, grow_grad2d=1e-5, max_splats=120, reset_every=1000)


def with_head(**options: object) -> SplatModel:
    head = EmbeddingHeadConfig(**{"channels": 5, **options})  # type: ignore[arg-type]
    return make_model(SplatModelConfig(num_downscales=0, densify=GROWING, heads={"code": head}))


def feature_map(height: int = HEIGHT, width: int = WIDTH, channels: int = 5) -> Tensor:
    """A map that differs from left to right."""
    ramp = torch.linspace(-1, 1, width)[None, :, None].expand(height, width, channels)
    return ramp * torch.arange(1, channels + 1)


def codes(model: SplatModel) -> Tensor:
    return model.gauss_params["code"]


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (9, 12)])
@pytest.mark.parametrize("loss", ["l1", "cosine"])
def test_it_learns_maps_of_any_resolution(loss: str, size: "tuple[int, int]") -> None:
    model = with_head(loss=loss, refit_colors_every=10)
    flat = torch.ones(*size, 5) * torch.arange(1.0, 6.0)
    steps = Steps(model, lr=2e-1)
    targets = {"feature": flat}
    before = model.get_loss_dict(steps_outputs(model, steps), {**picture(), **targets})["code_loss"]
    steps.run(40, **targets)
    after = model.get_loss_dict(model.train().get_outputs(camera()), {**picture(), **targets})["code_loss"]
    # The splats do not cover the picture, so a part of the difference stays.
    assert float(after) < 0.7 * float(before)
    assert model.num_points == 120 and codes(model).shape == (120, 5)


def steps_outputs(model: SplatModel, steps: Steps) -> dict:
    model.optimizers = steps.optimizers
    return model.train().get_outputs(camera())


def test_it_draws_in_the_colours_pass_and_is_shown_as_colours() -> None:
    model = with_head()
    codes(model).data.normal_()
    model.heads["code"].colors.fit(codes(model))
    outputs = model.eval().get_outputs_for_camera(camera())
    assert outputs["code_feature"].shape == (HEIGHT, WIDTH, 5)
    assert outputs["code_pca"].shape == (HEIGHT, WIDTH, 3)
    assert 0 <= float(outputs["code_pca"].min()) and float(outputs["code_pca"].max()) <= 1
    constant = with_head()
    codes(constant).data.fill_(2.0)
    drawn = constant.eval().get_outputs_for_camera(camera())
    expected = 2.0 * drawn["accumulation"].expand(-1, -1, 5)
    torch.testing.assert_close(drawn["code_feature"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trains_geometry", [False, True])
def test_only_if_asked_it_moves_splats(trains_geometry: bool) -> None:
    model = with_head(trains_geometry=trains_geometry)
    codes(model).data.normal_()
    outputs = model.train().get_outputs(camera())
    losses = model.get_loss_dict(outputs, {**picture(), "feature": feature_map()})
    losses["code_loss"].backward()
    assert codes(model).grad.abs().sum() > 0
    moved = model.means.grad is not None and bool(model.means.grad.any())
    assert moved == trains_geometry


def test_the_picture_is_the_same_with_and_without_it() -> None:
    plain = make_model(SplatModelConfig(num_downscales=0)).eval().get_outputs_for_camera(camera())
    model = with_head()
    codes(model).data.normal_()
    torch.testing.assert_close(model.eval().get_outputs_for_camera(camera())["rgb"], plain["rgb"], atol=1e-6, rtol=0)


def test_codes_stay_with_their_splats_through_densification() -> None:
    """Each splat carries its own birth colour as its code; copies carry their parent's."""
    model = with_head(weight=0.0)
    codes(model).data[:, :3] = model.features_dc.detach()
    births = copy.deepcopy(model.features_dc.detach())
    steps = Steps(model, lr=0.0)
    steps.run(12, feature=feature_map())
    assert model.num_points > 50
    distance = (codes(model)[:, None, :3].detach() - births).abs().amax(dim=-1)
    assert float(distance.amin(dim=1).max()) == 0.0
    torch.testing.assert_close(codes(model)[:, :3], model.features_dc)


def test_codes_are_cropped_with_their_splats() -> None:
    model = with_head().eval()
    codes(model).data.fill_(1.0)
    box = OrientedBox.from_params((0.5, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 4.0, 4.0))
    outputs = model.get_outputs_for_camera(camera(), obb_box=box)
    torch.testing.assert_close(outputs["code_feature"][..., :1], outputs["accumulation"], atol=1e-5, rtol=1e-5)
    assert 0 < float(outputs["accumulation"].max())


def test_codes_and_colours_survive_a_checkpoint() -> None:
    model = with_head(refit_colors_every=5)
    Steps(model, lr=2e-2).run(12, feature=feature_map())
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = with_head()
    other.load_state_dict(torch.load(file, weights_only=True))
    first, second = (each.eval().get_outputs_for_camera(camera()) for each in (model, other))
    assert first.keys() == second.keys()
    for name in ("code_feature", "code_pca", "rgb"):
        assert torch.equal(first[name], second[name])


def test_a_checkpoint_without_the_head_is_refused() -> None:
    plain = make_model(SplatModelConfig(num_downscales=0)).state_dict()
    with pytest.raises(InputError, match="lacks the entries gauss_params.code, heads.code.colors"):
        with_head().load_state_dict(plain)
    with pytest.raises(InputError, match="unknown here, gauss_params.code"):
        make_model(SplatModelConfig(num_downscales=0)).load_state_dict(with_head().state_dict())


def test_a_head_waits_for_its_first_step() -> None:
    model = with_head(start_step=4, stop_step=6)
    steps = Steps(model)
    steps.run(4)
    assert codes(model).grad is None
    steps.run(2, feature=feature_map())
    trained = codes(model).detach().clone()
    assert trained.any()
    model.gauss_params["code"].grad = None
    outputs = model.train().get_outputs(camera())
    model.step = 6
    assert "code_loss" not in model.get_loss_dict(outputs, picture())


def test_wrong_maps_are_explained() -> None:
    model = with_head()
    with pytest.raises(InputError, match="'code' learns from maps called 'feature'"):
        model.get_loss_dict(model.train().get_outputs(camera()), picture())
    narrow = {**picture(), "feature": feature_map(channels=4)}
    with pytest.raises(InputError, match="have 4 channels, and the head 'code' has 5"):
        model.get_loss_dict(model.train().get_outputs(camera()), narrow)


def test_metrics_name_the_head() -> None:
    model = with_head().eval()
    outputs = model.get_outputs_for_camera(camera())
    assert "code_cosine" in model.get_image_metrics_and_images(outputs, {**picture(), "feature": feature_map()})[0]
    assert "code_cosine" not in model.get_image_metrics_and_images(outputs, picture())[0]


def test_colours_of_features_are_stable() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 8, generator=generator) * torch.arange(8.0, 0.0, -1.0)
    colors = PcaColors(8)
    assert torch.equal(colors(torch.zeros(4, 5, 8)), torch.full((4, 5, 3), 0.5))
    colors.fit(features)
    first = colors(features)
    assert first.shape == (500, 3) and float(first.std(dim=0).min()) > 0.1
    colors.fit(features + 0.01 * torch.randn(500, 8, generator=generator))
    assert float((colors(features) - first).abs().max()) < 0.1, "the signs of the axes must not flip"
    colors.fit(torch.full((500, 8), float("nan")))
    assert torch.isfinite(colors(features)).all()
    narrow = PcaColors(2)
    narrow.fit(features[:, :2])
    assert torch.isfinite(narrow(features[:, :2])).all()
