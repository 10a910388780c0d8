# SPDX-License-Identifier: Apache-2.0
"""Which splats have a texture, from when on, how strong it is, and what it costs."""

from dataclasses import replace

import pytest
import torch

from nts_plugins.appearance.neural_texture import NeuralTexture, NeuralTextureConfig
from nts_plugins.errors import InputError
from nts_plugins.fields.texture import TextureFieldConfig
from nts_plugins.gaussians import Gaussians

SMALL = TextureFieldConfig(texels=3, plane_resolution=8, hidden=8)
CENTER = torch.tensor([0.0, 0.0, -4.0])


def made(**options) -> NeuralTexture:
    torch.manual_seed(0)
    return NeuralTexture(NeuralTextureConfig(field=SMALL, **{"start_step": 10, **options}), (0.0, 0.0, 0.0), 1.0)


def splats(opacities: "list[float]") -> Gaussians:
    n, g = len(opacities), torch.Generator().manual_seed(1)
    return Gaussians(
        means=torch.randn(n, 3, generator=g),
        quats=torch.randn(n, 4, generator=g),
        scales=0.1 + torch.rand(n, 3, generator=g),
        opacities=torch.tensor(opacities),
        colors=torch.rand(n, 3, generator=g),
    )


def test_only_visible_splats_that_are_opaque_enough() -> None:
    radii = torch.tensor([[1, 2], [3, 4], [0, 0], [9, 9]])
    textures = made().textures(splats([0.9, 0.05, 0.9, 0.06]), CENTER, 10, radii)
    assert textures.splats.tolist() == [0, 3] and textures.vectors.shape == (2, 3, 3, 2, 4)
    assert made().textures(splats([0.01]), CENTER, 10, torch.ones(1, 2)) is None


def test_splats_that_make_up_little_of_a_picture_have_none() -> None:
    seen, coverage = torch.ones(3, 2), torch.tensor([0.02, 0.0, 30.0])
    some = made(least_coverage=0.1).textures(splats([0.9] * 3), CENTER, 10, seen, coverage=coverage)
    assert some.splats.tolist() == [2]
    assert len(made(least_coverage=0.1).textures(splats([0.9] * 3), CENTER, 10, seen)) == 3
    assert len(made().textures(splats([0.9] * 3), CENTER, 10, seen, coverage=coverage)) == 3


def test_from_the_first_step_on() -> None:
    seen = torch.ones(2, 2)
    assert made().textures(splats([0.5, 0.5]), CENTER, 9, seen) is None
    assert made().textures(splats([0.5, 0.5]), CENTER, 10, seen).amplitudes == (1, 1, 1, 0.2)
    ramp = made(ramp_steps=4)
    assert [ramp.strength_at(step) for step in (9, 10, 11, 13, 14, 99)] == [0.0, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert ramp.textures(splats([0.5, 0.5]), CENTER, 11, seen).amplitudes == (0.4, 0.4, 0.4, pytest.approx(0.08))


def test_planes_by_area() -> None:
    flat = replace(splats([0.5, 0.5]), scales=torch.tensor([[0.1, 0.2, 1e-6], [1e-9, 0.3, 0.1]]))
    seen = torch.ones(2, 2)
    weights = made(plane_weights="area").textures(flat, CENTER, 10, seen).weights
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), atol=2e-5, rtol=0)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))
    round_ = replace(flat, scales=torch.tensor([[0.1, 0.2, 0.19], [0.2, 0.1, 0.3]]))
    single = made(plane_weights="face").textures(round_, CENTER, 10, seen)
    assert single.faces.tolist() == [1, 2] and single.weights is None and single.n_planes == 1
    assert made().textures(flat, CENTER, 10, seen).weights is None


def test_textures_fade_in_with_opacity() -> None:
    seen = torch.ones(3, 2)
    weights = made(fades_in=True).textures(splats([0.06, 0.09, 0.5]), CENTER, 10, seen).weights
    torch.testing.assert_close(weights.sum(dim=1), torch.tensor([0.2, 0.8, 1.0]))


def test_the_cost_is_the_mean_of_texels() -> None:
    """Of those that would be made, which they are not."""
    texture = made(opacity_penalty=0.5, color_penalty=0.25)
    textures = texture.textures(splats([0.5, 0.9]), CENTER, 10, torch.ones(2, 2))
    planes = [textures.vectors[:, k, :, None, 0] * textures.vectors[:, (k + 1) % 3, None, :, 1] for k in range(3)]
    texels = torch.stack(planes).abs()
    losses = texture.losses(textures)
    torch.testing.assert_close(losses["texture_color"], 0.25 * texels[..., :3].mean())
    torch.testing.assert_close(losses["texture_opacity"], 0.5 * 0.2 * texels[..., 3].mean())
    sum(losses.values()).backward()
    assert texture.field.color_planes.features.grad.any()
    # Where opacity costs something, a texture does not save it: a plane of 6 x 6 standard deviations covers 36 / 2 pi
    # times as much as a splat of the same opacity.
    price = torch.tensor(0.1)
    assert texture.losses(textures, price) == losses
    charging = made(opacity_penalty=0.5, color_penalty=0.25, charges_opacity=True)
    assert charging.losses(textures) == losses
    more = charging.losses(textures, price)["texture_opacity"] - losses["texture_opacity"]
    torch.testing.assert_close(more, 0.1 * 36 / (2 * torch.pi) * 0.2 * texels[..., 3].mean())
    one = replace(textures, weights=torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.5, 0.0]]))
    more = charging.losses(one, price)["texture_opacity"] - losses["texture_opacity"]
    shown = (texels[1, 0, ..., 3].mean() + 0.5 * texels[1, 1, ..., 3].mean()) / 2
    torch.testing.assert_close(more, 0.1 * 36 / (2 * torch.pi) * 0.2 * shown)


def test_making_one_draws_no_random_number() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    NeuralTexture(NeuralTextureConfig(field=SMALL), (0.0, 0.0, 0.0), 1.0)
    assert torch.equal(torch.rand(3), expected)


def test_cameras_are_seen_off_their_place_in_training_alone() -> None:
    """By as much as cameras lie apart, so that colours do not change faster with the view than photographs can tell."""
    texture = NeuralTexture(NeuralTextureConfig(field=SMALL, start_step=0, camera_noise=0.5), (0.0, 0.0, 0.0), 1.0, 2.0)
    given, seen = splats([0.5] * 2000), torch.ones(2000, 2)
    directions = []
    texture.field.forward = lambda centers, toward, time: directions.append(toward) or torch.zeros(2000, 3, 3, 2, 4)
    for training in (True, False):
        texture.train(training).textures(given, torch.tensor([0.0, 0.0, -100.0]), 0, seen)
    noisy, exact = directions
    torch.testing.assert_close(exact, torch.nn.functional.normalize(given.means + torch.tensor([0, 0, 100.0]), dim=1))
    # Seen from a hundred units away, half of a spacing of two is a hundredth.
    assert float((noisy - exact)[:, :2].std()) == pytest.approx(0.01, rel=0.1)


def test_penalties_weigh_more_where_there_are_fewer_photographs() -> None:
    config = NeuralTextureConfig(field=SMALL, start_step=10)

    def costs(views: int, penalty_views: "int | None") -> "list[float]":
        torch.manual_seed(0)
        mine = NeuralTexture(replace(config, penalty_views=penalty_views), (0.0, 0.0, 0.0), 1.0, views=views)
        textures = mine.textures(splats([0.9, 0.9]), CENTER, 10, torch.ones(2, 2))
        return [float(each) for each in mine.losses(textures).values()]

    usual = costs(8, None)
    assert min(usual) > 0 and costs(100, 100) == pytest.approx(usual)
    assert costs(8, 100) == pytest.approx([12.5 * each for each in usual])
    with pytest.raises(InputError, match="penalty_views is 0"):
        costs(8, 0)
