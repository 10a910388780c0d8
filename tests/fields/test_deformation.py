# SPDX-License-Identifier: Apache-2.0
"""Space-time planes and the field that moves splats: values, gradients, and what their regularisers punish."""

import pytest
import torch

from nts_plugins.fields.deformation import DeformationField, DeformationFieldConfig
from nts_plugins.fields.regions import Region
from nts_plugins.fields.spacetime import SpaceTimePlanes
from nts_plugins.gaussians.rotations import compose, rotation_matrices


def some_planes(**options) -> SpaceTimePlanes:
    planes = SpaceTimePlanes(**{"channels": 2, "resolution": 3, "moments": 5, **options}).double()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in planes.parameters():
            each.copy_(torch.randn(each.shape, generator=g, dtype=torch.float64))
    return planes


def test_at_texels_the_planes_are_multiplied() -> None:
    """Texel (i, j, k) of space at texel m of time, by hand."""
    planes = some_planes()
    i, j, k, m = 0, 2, 1, 3
    point = torch.tensor([[i, j, k]], dtype=torch.float64) - 1.0
    space, time = planes.space.features, planes.time
    x, y, z = time[0, m, i], time[1, m, j], time[2, m, k]
    expected = torch.cat([space[0, j, i] * x * y, space[1, k, j] * y * z, space[2, i, k] * z * x])
    torch.testing.assert_close(planes(point, m / 4)[0], expected)


def test_between_moments_time_is_linear_and_ends_hold() -> None:
    planes = some_planes()
    with torch.no_grad():
        planes.time[1:] = 1.0  # A product of two lines would not be linear.
    points = torch.rand(7, 3, dtype=torch.float64) * 2 - 1
    middle = planes(points, 0.375)[:, :2]
    torch.testing.assert_close(middle, (planes(points, 0.25)[:, :2] + planes(points, 0.5)[:, :2]) / 2)
    assert torch.equal(planes(points, 1.7), planes(points, 1.0)) and torch.equal(planes(points, -1), planes(points, 0))
    still = some_planes(moments=1)
    assert torch.equal(still(points, 0.2), still(points, 0.9))


def test_gradients_of_planes() -> None:
    planes, points = some_planes(), torch.rand(4, 3, dtype=torch.float64) * 2 - 1

    def read(space: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        values = {"space.features": space, "time": time}
        return torch.func.functional_call(planes, values, (points, 0.3))

    inputs = (planes.space.features.detach().requires_grad_(), planes.time.detach().requires_grad_())
    assert torch.autograd.gradcheck(read, inputs)


def test_the_kernel_reads_what_torch_reads() -> None:
    exact = some_planes(channels=8, resolution=6)
    fast = SpaceTimePlanes(channels=8, resolution=6, moments=5)
    fast.load_state_dict({name: value.float() for name, value in exact.state_dict().items()})
    points = torch.rand(300, 3, dtype=torch.float64) * 2 - 1
    found, expected = fast(points.float(), 0.6), exact(points, 0.6)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    for name, value in exact.named_parameters():
        torch.testing.assert_close(fast.get_parameter(name).grad.double(), value.grad, atol=1e-3, rtol=1e-4)


def test_what_stands_still_is_smooth_and_what_does_not_is_punished() -> None:
    planes = SpaceTimePlanes(channels=8, resolution=4, moments=6)
    with torch.no_grad():
        planes.space.features.fill_(0.3)
    assert {name: float(value) for name, value in planes.roughness().items()} == {"space": 0, "time": 0, "change": 0}
    with torch.no_grad():
        planes.time += torch.linspace(0, 1, 6)[:, None, None]
    steady = planes.roughness()
    assert float(steady["time"]) < 1e-12 and float(steady["space"]) == 0
    assert float(steady["change"]) == pytest.approx(0.5)
    with torch.no_grad():
        planes.time[:, 3] += 0.5
        planes.space.features[:, 2] += 1.0
    # Second differences of a spike of 0.5: 0.5, -1, 0.5, of which one is cut off by no end here, over four.
    assert float(planes.roughness()["time"]) == pytest.approx((0.25 + 1 + 0.25) / 4)
    assert float(planes.roughness()["space"]) == pytest.approx(2 / 3)


def small_field(**options) -> DeformationField:
    config = DeformationFieldConfig(plane_channels=8, plane_resolutions=(4, 8), moments=4, hidden=16, **options)
    torch.manual_seed(0)
    return DeformationField(config, Region("box", (1.0, 0.0, 0.0), 2.0))


def test_it_begins_at_rest_and_can_leave_it() -> None:
    field, places = small_field(), torch.randn(20, 3, requires_grad=True)
    moved = field(places, 0.4)
    assert not moved.shift.any() and not moved.growth.any()
    assert torch.equal(moved.turn, torch.tensor([1.0, 0, 0, 0]).expand(20, 4))
    (moved.shift.sum() + moved.turn[:, 1:].sum() + moved.growth.sum()).backward()
    assert places.grad is None and field.decoder[-1].weight.grad.any()


def test_shifts_are_in_units_of_the_region_and_change_with_time() -> None:
    field = small_field()
    with torch.no_grad():
        field.decoder[-1].bias[0] = 0.25
    assert torch.equal(field(torch.zeros(1, 3), 0.5).shift, torch.tensor([[0.5, 0.0, 0.0]]))
    with torch.no_grad():
        field.decoder[-1].weight.normal_()
        for planes in field.planes:
            planes.time[:, -1] += 1.0
    places = torch.randn(5, 3)
    assert not torch.allclose(field(places, 0.0).shift, field(places, 1.0).shift)


def test_gradients_of_the_field() -> None:
    field = small_field(layers=1).double()
    with torch.no_grad():
        field.decoder[-1].weight.normal_(std=0.1)
    places = torch.randn(3, 3, dtype=torch.float64)
    names = [name for name, _ in field.named_parameters() if name.startswith("decoder") or name == "planes.0.time"]

    def moved(*values: torch.Tensor) -> torch.Tensor:
        return torch.cat(torch.func.functional_call(field, dict(zip(names, values, strict=True)), (places, 0.6)), dim=1)

    inputs = tuple(field.get_parameter(name).detach().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(moved, inputs, fast_mode=True)


def test_quaternions_compose_like_their_matrices() -> None:
    first, second = torch.randn(2, 9, 4, dtype=torch.float64, requires_grad=True).unbind()
    expected = rotation_matrices(second) @ rotation_matrices(first)
    torch.testing.assert_close(rotation_matrices(compose(second, first)), expected)
    lengths = second.norm(dim=-1) * first.norm(dim=-1)
    torch.testing.assert_close(compose(second, first).norm(dim=-1), lengths)
    assert torch.autograd.gradcheck(compose, (second.detach().requires_grad_(), first.detach().requires_grad_()))
