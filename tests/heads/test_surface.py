# SPDX-License-Identifier: Apache-2.0
"""The surface head: its losses fall on a model that learns, and each is what its formula says."""

import math
from typing import Any, Dict

import pytest
import torch

from nts_plugins.data.cameras import view_of
from nts_plugins.data.pyramid import Targets
from nts_plugins.errors import InputError
from nts_plugins.gaussians.strategies import DefaultConfig
from nts_plugins.heads.surface import NEAREST, SurfaceHead, SurfaceHeadConfig, smoothness
from nts_plugins.losses import flattening_loss
from nts_plugins.models.splat import SplatModel, SplatModelConfig
from tests.models.scenes import HEIGHT, WIDTH, Steps, camera, make_model, picture

SOLID: Dict[str, Any] = {
    "num_downscales": 0,
    "densify": DefaultConfig(refine_start_iter=1000),
    "initial_opacity": 0.9,
    "initial_scale": 1.0,
}
"""Settings of a model that hides what is behind it from the start."""


def with_head(**options: object) -> SplatModel:
    head = SurfaceHeadConfig(**options)  # type: ignore[arg-type]
    return make_model(SplatModelConfig(heads={"surface": head}, **SOLID))


def test_outputs_are_pictures() -> None:
    outputs = with_head().eval().get_outputs_for_camera(camera())
    solid = outputs["accumulation"] > 0.5
    assert outputs["surface_depth"].shape == (HEIGHT, WIDTH, 1)
    # The mean of inverse depths and the mean of depths lie close together where one thing is in the pixel.
    ratio = (outputs["surface_depth"] / outputs["depth"])[solid]
    assert 0.9 < float(ratio.median()) < 1.1
    for name in ("surface_normals", "surface_depth_normals"):
        assert outputs[name].shape == (HEIGHT, WIDTH, 3)
        assert 0 <= float(outputs[name].min()) and float(outputs[name].max()) <= 1
    away = -camera().camera_to_worlds[0, :3, 2]
    assert float(((2 * outputs["surface_normals"] - 1)[solid.expand(-1, -1, 3)].view(-1, 3) @ away).mean()) < -0.2


def test_training_makes_splats_flat_and_surfaces_consistent() -> None:
    before, after = (with_head(consistency=0.2, flatness=0.1), with_head(consistency=0.2, flatness=0.1))
    steps = Steps(after, lr=2e-2)
    first = {}
    before.optimizers = Steps(before).optimizers
    for name, model in (("before", before), ("after", after)):
        if name == "after":
            steps.run(60)
        outputs = model.train().get_outputs(camera())
        first[name] = model.get_loss_dict(outputs, picture())
    for term in ("surface_flatness", "surface_consistency"):
        assert float(first["after"][term]) < 0.8 * float(first["before"][term]), term
    assert math.isfinite(float(first["after"]["surface_distortion"]))


def test_losses_are_their_formulas() -> None:
    head = SurfaceHead(SurfaceHeadConfig(), name="s", metadata={})
    normals, around = torch.zeros(4, 5, 3), torch.zeros(4, 5, 3)
    normals[..., 2], around[1:3, 1:4, 0] = -0.8, -1.0
    outputs = {
        "s_normals": (normals + 1) / 2,
        "s_depth_normals": (around + 1) / 2,
        "s_distortion": torch.full((4, 5, 1), 2.0),
        "accumulation": torch.full((4, 5, 1), 0.9, requires_grad=True),
    }
    grey = Targets({"image": torch.full((4, 5, 3), 0.5)}, 1, "cpu")
    losses = head.losses(outputs, grey)
    # Six of twenty pixels have a depth normal, at right angles to the splats'.
    assert float(losses["s_consistency"]) == pytest.approx(0.05 * 0.9 * 6 / 20)
    assert float(losses["s_distortion"]) == pytest.approx(100 * 2.0)
    assert not losses["s_consistency"].requires_grad, "less opacity is no way to agree"
    agreeing = {**outputs, "s_depth_normals": (around.roll(2, dims=-1) + 1) / 2}
    assert float(head.losses(agreeing, grey)["s_consistency"]) == pytest.approx(0.05 * 0.1 * 6 / 20)


def test_edges_count_less() -> None:
    image = torch.zeros(3, 6, 3)
    image[:, 3:] = 0.5
    expected = torch.ones(3, 6)
    expected[:, 2:4] = math.exp(-0.5)
    torch.testing.assert_close(smoothness(image)[..., 0], expected)
    torch.testing.assert_close(smoothness(image.transpose(0, 1))[..., 0], expected.T)


def test_distortion_does_not_depend_on_the_unit_of_the_scene() -> None:
    model = with_head()
    head = model.heads["surface"]
    view = view_of(camera(), camera().camera_to_worlds)
    channels, alphas = torch.rand(HEIGHT, WIDTH, 12), torch.full((HEIGHT, WIDTH, 1), 0.9)
    channels[..., 3:6] = torch.tensor([0.0, 0.0, 0.3])
    channels[..., 11] = 0.12
    first = head.outputs(channels, alphas, view)
    scaled = channels.clone()
    scaled[..., 3:6] /= 7
    scaled[..., 6:] /= 49
    second = head.outputs(scaled, alphas, view)
    torch.testing.assert_close(second["surface_depth"], 7 * first["surface_depth"])
    torch.testing.assert_close(second["surface_distortion"], first["surface_distortion"])
    assert float(first["surface_distortion"].max()) > 0 and NEAREST == 0.05


def test_flattening_moves_the_smallest_axis_alone() -> None:
    scales = torch.tensor([[0.0, math.log(2.0), math.log(8.0)], [0.0, 0.0, 1.0]], requires_grad=True)
    loss = flattening_loss(scales)
    assert float(loss) == pytest.approx((0.5 + 1.0) / 2)
    loss.backward()
    assert scales.grad is not None
    assert float(scales.grad[0, 0]) == pytest.approx(0.25) and not scales.grad[0, 1:].any()
    assert float(scales.grad[1].sum()) == pytest.approx(0.5) and float(scales.grad[1, 2]) == 0


def test_the_head_cannot_be_kept_from_moving_splats() -> None:
    with pytest.raises(InputError, match="trains nothing but geometry"):
        with_head(trains_geometry=False)


def test_before_its_first_step_the_model_is_the_one_without() -> None:
    plain = make_model(SplatModelConfig(**SOLID))
    waiting = with_head(start_step=4)
    assert torch.equal(Steps(plain).run(4), (steps := Steps(waiting)).run(4))
    assert torch.equal(plain.means, waiting.means)
    steps.run(1)
    assert "surface_flatness" in waiting.get_loss_dict(waiting.train().get_outputs(camera()), picture())
