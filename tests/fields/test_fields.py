# SPDX-License-Identifier: Apache-2.0
"""Regions, tri-planes and decoders: what lies where, how many numbers there are, and what gets a gradient."""

import pytest
import torch

from nts_plugins.fields.networks import Mlp, Siren, frequencies
from nts_plugins.fields.regions import Region
from nts_plugins.fields.texture import TextureField, TextureFieldConfig
from nts_plugins.fields.triplane import TriPlanes


def count(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def test_a_box_fills_the_field_and_what_is_outside_goes_to_its_side() -> None:
    region = Region("box", (1.0, 2.0, 3.0), 2.0)
    points = torch.tensor([[1.0, 2.0, 3.0], [3.0, 0.0, 3.0], [9.0, 2.0, 3.0]])
    assert torch.equal(region(points), torch.tensor([[0.0, 0, 0], [1, -1, 0], [1, 0, 0]]))


def test_without_bounds_everything_has_its_place() -> None:
    """Inside the ball lengths are halved; outside, direction and order of distances are kept, within the cube."""
    region = Region("unbounded", (1.0, 0.0, 0.0), 2.0)
    direction = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -2.0]), dim=0)
    distances = torch.tensor([0.0, 1.0, 2.0, 4.0, 100.0, 1e6])
    found = region(torch.tensor([1.0, 0.0, 0.0]) + distances[:, None] * direction)
    lengths = found @ direction
    torch.testing.assert_close(found, lengths[:, None] * direction)
    # 2 - 1 / distance, in radii, and halved: Mip-NeRF 360, equation 10.
    torch.testing.assert_close(lengths, torch.tensor([0.0, 0.25, 0.5, 0.75, 0.99, 1 - 1e-6]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        region(torch.tensor([3.0, 1e-4, 0.0])), region(torch.tensor([3.0, 0.0, 0.0])), atol=1e-4, rtol=0
    )


def test_regions_are_kept_in_checkpoints() -> None:
    found = Region("box")
    found.load_state_dict(Region("box", (1.0, 2.0, 3.0), 4.0).state_dict())
    assert found.center.tolist() == [1.0, 2.0, 3.0] and float(found.radius) == 4.0


def test_planes_are_read_where_points_project_to() -> None:
    planes = TriPlanes(channels=2, resolution=5)
    with torch.no_grad():
        # Each plane holds its two coordinates, so that a bilinear reading gives them back.
        line = torch.linspace(-1, 1, 5)
        planes.features[..., 0], planes.features[..., 1] = line[None, None, :], line[None, :, None]
    points = torch.tensor([[0.1, -0.7, 0.9], [1.0, -1.0, 0.0]])
    x, y, z = points.unbind(dim=1)
    torch.testing.assert_close(planes(points), torch.stack([x, y, y, z, z, x], dim=1))


def test_frequencies() -> None:
    value = torch.tensor([[0.3, -1.2]])
    expected = [value, value.sin(), value.cos(), (2 * value).sin(), (2 * value).cos()]
    torch.testing.assert_close(frequencies(value, 2), torch.cat(expected, dim=1))


def test_a_siren_is_sines_of_linear_layers() -> None:
    network, values = Siren(4, 3, hidden=8, layers=2, first_frequency=15.0), torch.randn(6, 4)
    first, second, last = network.linear
    expected = last(torch.sin(second(torch.sin(15 * first(values)))))
    torch.testing.assert_close(network(values), expected)
    assert first.weight.abs().max() <= 1 / 4 and second.weight.abs().max() <= (6 / 8) ** 0.5


@pytest.mark.parametrize(
    ("sizes", "opacity", "color"),
    [
        # nts.md, section 2: objects, DTU, unbounded scenes and the MCMC extension, as released.
        ({"texels": 8}, 29360, 43664),
        ({"texels": 6}, 27812, 39020),
        ({"texels": 4}, 26264, 34376),
        ({"texels": 2, "hidden": 512, "opacity_layers": 4}, 820748, 315428),
    ],
)
def test_as_many_numbers_as_the_paper(sizes: dict, opacity: int, color: int) -> None:
    field = TextureField(TextureFieldConfig(**sizes), Region())
    assert count(field.opacity_planes) + count(field.color_planes) == 3_538_944
    assert (count(field.opacity_decoder), count(field.color_decoder)) == (opacity, color)


def small_field(**options) -> TextureField:
    torch.manual_seed(0)
    return TextureField(TextureFieldConfig(**{"plane_resolution": 8, "hidden": 16, **options}), Region())


def some_splats(m: int = 7) -> "tuple[torch.Tensor, torch.Tensor]":
    g = torch.Generator().manual_seed(1)
    return torch.randn(m, 3, generator=g), torch.nn.functional.normalize(torch.randn(m, 3, generator=g), dim=1)


def test_opacity_does_not_see_the_view_and_colour_does() -> None:
    field, (centers, directions) = small_field(texels=3), some_splats()
    found, other = field(centers, directions), field(centers, -directions)
    assert found.shape == (7, 3, 3, 2, 4)
    assert torch.equal(found[..., 3], other[..., 3]) and not torch.allclose(found[..., :3], other[..., :3])


def test_colour_need_not_see_the_view() -> None:
    field, (centers, directions) = small_field(direction_frequencies=None), some_splats()
    assert torch.equal(field(centers, directions), field(centers, -directions))


def test_vectors_are_bounded_where_texels_are_not_taken_tanh_of() -> None:
    centers, directions = some_splats()
    for kind, bounded in (("vectors", True), ("product", False)):
        field = small_field(texel_activation=kind)
        with torch.no_grad():
            field.color_decoder[-1].bias.fill_(3.0)
        assert bool(field(centers, directions).abs().max() <= 1) == bounded


def test_only_the_field_gets_a_gradient() -> None:
    field, (centers, directions) = small_field(), some_splats()
    centers.requires_grad_()
    directions.requires_grad_()
    field(centers, directions).square().sum().backward()
    assert centers.grad is None and directions.grad is None
    assert all(each.grad is not None and each.grad.any() for each in field.parameters())


@pytest.mark.parametrize("kind", ["vectors", "product"])
def test_it_can_start_at_zero_and_leave_it(kind: str) -> None:
    field, splats = small_field(starts_at_zero=True, texel_activation=kind), some_splats()
    vectors = field(*splats)
    assert not vectors[:, :, :, 1].any() and vectors[:, :, :, 0].abs().min() > 0.05
    (vectors[:, 0, :, None, 0] * vectors[:, 1, None, :, 1]).sum().backward()
    assert field.color_decoder[-1].bias.grad.any() and field.opacity_decoder.linear[-1].bias.grad.any()


def test_time() -> None:
    field, splats = small_field(time_frequencies=3), some_splats()
    early, late = (torch.full((len(splats[0]), 1), time) for time in (0.1, 0.8))
    assert not torch.allclose(field(*splats, early), field(*splats, late))
    with pytest.raises(ValueError, match="needs the time"):
        field(*splats)
    assert count(Mlp(5, 2, hidden=4, layers=1)) == 5 * 4 + 4 + 4 * 2 + 2
