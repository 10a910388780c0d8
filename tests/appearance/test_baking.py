# SPDX-License-Identifier: Apache-2.0
"""Baked textures: those that a camera at the same place sees, for all splats, and the side that cameras see of each."""

from typing import List

import pytest
import torch
from torch import Tensor

from nts_plugins.appearance import baking
from nts_plugins.appearance.neural_texture import NeuralTexture, NeuralTextureConfig
from nts_plugins.fields.texture import TextureFieldConfig
from nts_plugins.gaussians import Gaussians

EYE = torch.tensor([0.0, 0.0, -4.0])


def splats(means: List[List[float]], opacity: float = 0.9) -> Gaussians:
    n = len(means)
    return Gaussians(
        means=torch.tensor(means),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(n, 4),
        scales=torch.full((n, 3), 0.1),
        opacities=torch.full((n,), opacity),
        colors=torch.rand(n, 3),
    )


def made(**options) -> NeuralTexture:
    torch.manual_seed(0)
    field = TextureFieldConfig(texels=2, plane_resolution=8, hidden=8, **options.pop("field", {}))
    texture = NeuralTexture(NeuralTextureConfig(field=field, start_step=10, **options), (0.0, 0.0, 0.0), 1.0).eval()
    texture.field.color_planes.features.data.normal_()
    return texture


def camera(position: List[float], turned: bool = False) -> baking.Camera:
    """Looks along z, or against it."""
    viewmat = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0] if turned else [1.0, 1.0, 1.0, 1.0]))
    viewmat[:3, 3] = -viewmat[:3, :3] @ torch.tensor(position)
    return viewmat[None], torch.tensor([[[20.0, 0.0, 10.0], [0.0, 20.0, 10.0], [0.0, 0.0, 1.0]]]), 20, 20


@pytest.mark.parametrize("plane_weights", ["mean", "area", "face"])
def test_baked_is_what_a_camera_there_sees_for_all_splats_that_have_a_texture(
    plane_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texture = made(plane_weights=plane_weights)
    gaussians = splats((torch.rand(23, 3) - 0.5).tolist())
    gaussians.opacities[5] = 0.01
    seen = torch.zeros(23, 2)
    seen[::2] = 3.0
    by_camera = texture.textures(gaussians, EYE, 10, seen)
    monkeypatch.setattr(baking, "AT_ONCE", 7)
    for eyes in (EYE, EYE.expand(23, 3)):
        baked = baking.bake(texture, gaussians, eyes, 10)
        assert baked is not None and by_camera is not None
        assert baked.splats.tolist() == [index for index in range(23) if index != 5]
        own = torch.isin(baked.splats, by_camera.splats)
        torch.testing.assert_close(baked.vectors[own], by_camera.vectors, atol=1e-6, rtol=1e-5)
        for values, of_camera in ((baked.weights, by_camera.weights), (baked.faces, by_camera.faces)):
            assert (values is None) == (of_camera is None)
            if values is not None:
                torch.testing.assert_close(values[own], of_camera)
        assert (baked.weights is None) == (plane_weights != "area")
        assert (baked.faces is None) == (plane_weights != "face")
        assert baked.amplitudes == by_camera.amplitudes


def test_another_side_looks_different_where_the_field_sees_directions() -> None:
    gaussians = splats((torch.rand(5, 3) - 0.5).tolist())
    for frequencies, same in ((2, False), (None, True)):
        texture = made(field={"direction_frequencies": frequencies})
        front, back = (baking.bake(texture, gaussians, eye, 10) for eye in (EYE, -EYE))
        assert front is not None and back is not None
        assert torch.equal(front.vectors, back.vectors) == same


def test_there_is_nothing_to_bake_before_textures_begin_or_without_solid_splats() -> None:
    assert baking.bake(made(), splats([[0.0, 0.0, 0.0]]), EYE, 9) is None
    assert baking.bake(made(), splats([[0.0, 0.0, 0.0]], opacity=0.04), EYE, 10) is None


def toward(gaussians: Gaussians, eyes: Tensor) -> Tensor:
    return torch.nn.functional.normalize(gaussians.means - eyes, dim=1)


def test_a_splat_is_seen_from_where_cameras_show_it() -> None:
    """One camera before a wall sees the splat in front, one behind it the other; what neither shows is seen from the
    middle between them."""
    wall = [[x / 10, y / 10, 0.0] for x in range(-9, 10) for y in range(-9, 10)]
    gaussians = splats([[0.0, 0.0, -0.5], [0.0, 0.0, 0.5], [0.0, 9.0, 0.0], *wall])
    cameras = [camera([0.0, 0.0, -4.0]), camera([1.0, 0.0, 4.0], turned=True)]
    directions = toward(gaussians, baking.usual_eyes(gaussians, cameras, backend="reference"))
    expected = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, -3.5], [-0.5, 9.0, 0.0]])
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(directions[:3], expected, atol=0.05, rtol=0)


def test_cameras_count_by_how_much_of_a_splat_they_show() -> None:
    gaussians = splats([[0.0, 0.0, 0.0]])
    near, far = camera([0.0, 0.0, -1.0]), camera([0.0, 0.0, 8.0], turned=True)
    eyes = baking.usual_eyes(gaussians, [near, far], backend="reference")
    torch.testing.assert_close(toward(gaussians, eyes), torch.tensor([[0.0, 0.0, 1.0]]))
