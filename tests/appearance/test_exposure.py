# SPDX-License-Identifier: Apache-2.0
from typing import List

import pytest
import torch
from torch import Tensor

from nts_plugins.appearance.exposure import Exposure, expose
from nts_plugins.models.splat import SplatModelConfig
from tests.captures import ring_pose
from tests.models.scenes import Steps, camera, make_model, picture


def pose(x: float) -> Tensor:
    """A camera at x that looks along z."""
    matrix = torch.eye(4)[:3]
    matrix[0, 3] = x
    return matrix


def three_cameras(log_factors: List[float]) -> Exposure:
    """Exposures of cameras at 0, 1 and 10."""
    exposure = Exposure(3)
    with torch.no_grad():
        exposure.log_factors += torch.tensor(log_factors)[:, None]
    for index, x in enumerate((0.0, 1.0, 10.0)):
        exposure(pose(x), index)
    return exposure


def test_training_photographs_have_their_own_factors_around_one() -> None:
    exposure = three_cameras([0.1, 0.3, 0.2])
    logs = [torch.log(exposure(pose(0.0), index)) for index in range(3)]
    torch.testing.assert_close(torch.stack(logs)[:, 0], torch.tensor([-0.1, 0.1, 0.0]))


def test_gradients_reach_one_photograph() -> None:
    exposure = three_cameras([0.1, 0.3, 0.2])
    exposure(pose(1.0), 1).sum().backward()
    grad = exposure.log_factors.grad
    assert grad is not None and bool((grad[1] != 0).all()) and not bool(grad[[0, 2]].any())


def test_other_cameras_have_what_photographs_nearby_have() -> None:
    exposure = three_cameras([0.0, 0.3, -0.3])
    for index, x in enumerate((0.0, 1.0, 10.0)):
        torch.testing.assert_close(exposure.nearby(pose(x)), torch.exp(exposure.log_factors[index]))
    halfway = float(torch.log(exposure.nearby(pose(0.5)))[0])
    assert halfway == pytest.approx(0.15, abs=1e-3)
    turned = ring_pose(0.0)[:3]
    assert bool(torch.isfinite(exposure.nearby(turned)).all())


def test_no_factors_before_training() -> None:
    torch.testing.assert_close(Exposure(3).nearby(pose(0.0)), torch.ones(3))
    torch.testing.assert_close(Exposure(0).nearby(pose(0.0)), torch.ones(3))


@pytest.mark.parametrize("background", ([0.0, 0.0, 0.0], [0.2, 0.4, 1.0]))
def test_expose_leaves_the_background(background: List[float]) -> None:
    splats, alpha = torch.rand(4, 5, 3), torch.rand(4, 5, 1)
    behind, factors = torch.tensor(background), torch.tensor([0.5, 1.0, 2.0])
    actual = expose(splats * alpha + (1 - alpha) * behind, factors, alpha, behind)
    torch.testing.assert_close(actual, splats * alpha * factors + (1 - alpha) * behind)


def photograph(angle: float) -> Tensor:
    return picture(angle)["image"].float() / 255


def exposed_model(**options: object):
    config = SplatModelConfig(num_downscales=0, sh_degree=0, exposure=True, **options)  # type: ignore[arg-type]
    return make_model(config)


def test_a_model_learns_how_bright_photographs_are() -> None:
    model = exposed_model()
    steps = Steps(model.train(), lr=2e-2)
    darker, brighter = {"image": photograph(0.0) * 0.6}, {"image": photograph(0.6)}
    for _ in range(60):
        for index, angle, batch in ((0, 0.0, darker), (1, 0.6, brighter)):
            outputs = model.get_outputs(camera(angle, index))
            loss = model.get_loss_dict(outputs, dict(batch))["main_loss"]
            loss.backward()
            for optimizer in steps.optimizers.values():
                optimizer.step()
                optimizer.zero_grad()
    dark, bright = (model.eval().get_outputs(camera(angle))["rgb"] for angle in (0.02, 0.58))
    ratio = float(bright.mean() / dark.mean()) / float(photograph(0.6).mean() / photograph(0.0).mean())
    assert 1.4 < ratio < 2.0  # 1.67 in the photographs

    loaded = exposed_model()
    loaded.load_state_dict(model.state_dict())
    torch.testing.assert_close(loaded.eval().get_outputs(camera(0.02))["rgb"], dark)


def test_who_learns_exposure() -> None:
    assert "exposure" in exposed_model().get_param_groups()
    assert make_model().exposure is None and "exposure" not in make_model().get_param_groups()
    alpha = make_model(SplatModelConfig(num_downscales=0, exposure=True), has_alpha=True)
    assert not alpha.exposes and "exposure" not in alpha.get_param_groups()
