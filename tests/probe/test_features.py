# SPDX-License-Identifier: Apache-2.0
"""Features of all pictures in few numbers: principal components, models side by side, and places of pixels in maps."""

from typing import List

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.errors import InputError
from nts_plugins.probe.features import (
    CONTROLS,
    FeatureSource,
    at_pixels,
    concatenated,
    control,
    feature_sources,
    joint_projection,
    projected,
    resized,
)


def maps_of(*sizes: "tuple[int, int]", channels: int = 12, seed: int = 0) -> List[Tensor]:
    """Maps whose channels depend on each other and have means far from 0."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator) * torch.logspace(0, -2, channels)
    return [torch.randn(*size, channels, generator=generator) @ mixing + 5.0 * torch.arange(channels) for size in sizes]


SIZES = ((7, 9), (6, 5), (8, 8))


def test_axes_are_those_of_a_plain_decomposition_of_all_vectors() -> None:
    maps = maps_of(*SIZES)
    projection = joint_projection(maps, 4)
    torch.testing.assert_close(projection.axes.T @ projection.axes, torch.eye(4), atol=1e-5, rtol=0)
    vectors = torch.cat([each.reshape(-1, 12) for each in maps]).double().numpy()
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    for number, axis in enumerate(axes[:4]):
        ours = projection.axes[:, number].double().numpy()
        assert abs(ours @ axis) == pytest.approx(1.0, abs=1e-5)
        assert ours[np.abs(ours).argmax()] > 0
        expected = centred @ axis * np.sign(ours @ axis)
        found = np.concatenate([projection(each)[..., number].reshape(-1) for each in maps])
        np.testing.assert_allclose(found, expected, atol=2e-4)
    spread = torch.cat([projection(each).reshape(-1, 4) for each in maps]).var(dim=0)
    assert spread.tolist() == sorted(spread.tolist(), reverse=True)


def test_components_are_of_all_views_together() -> None:
    """Two views that differ from each other by more than anything within them: that is the first component."""
    generator = torch.Generator().manual_seed(0)
    near, far = torch.randn(5, 6, 3, generator=generator), torch.randn(4, 4, 3, generator=generator)
    far = far + torch.tensor([0.0, 100.0, 0.0])
    first, second = projected([near, far], 1)
    assert first.shape == (5, 6, 1) and second.shape == (4, 4, 1)
    assert float(second.min() - first.max()) > 90
    assert float((torch.cat([first.reshape(-1), second.reshape(-1)])).mean().abs()) < 1e-3


def test_equal_maps_give_equal_components_and_in_any_order_the_same() -> None:
    maps = maps_of(*SIZES)
    first, again = projected(maps, 5), projected([each.clone() for each in maps], 5)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    turned = projected(maps[::-1], 5)[::-1]
    for one, other in zip(first, turned, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=0)


def test_large_scenes_are_decomposed_in_parts() -> None:
    """Vectors beyond the first 65 536 have directions of their own, and both parts count."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn((1 << 16) + 500, 3, generator=generator) * torch.tensor([3.0, 0.1, 0.1])
    vectors[1 << 16 :, 0] = 0.0
    vectors[1 << 16 :, 1] += 60.0 * torch.tensor([1.0, -1.0]).repeat(250)
    found = joint_projection([vectors[:, None]], 2)
    torch.testing.assert_close(found.axes.abs(), torch.eye(3)[:, [1, 0]], atol=1e-2, rtol=0)
    spread = found(vectors).var(dim=0)
    torch.testing.assert_close(spread, torch.tensor([27.5, 9.0]), atol=0.0, rtol=0.05)


def test_unit_scale_is_one_factor() -> None:
    maps = [0.01 * each for each in maps_of(*SIZES)]
    plain, scaled = joint_projection(maps, 6), joint_projection(maps, 6, unit_scale=True)
    assert plain.scale == 1.0 and torch.equal(plain.axes, scaled.axes)
    together = torch.cat([scaled(each).reshape(-1) for each in maps])
    assert float(together.square().mean()) == pytest.approx(1.0, rel=1e-3)
    torch.testing.assert_close(scaled(maps[0]), plain(maps[0]) * scaled.scale)
    same = [torch.full((3, 4, 5), 0.1)]
    assert torch.equal(projected(same, 2, unit_scale=True)[0], torch.zeros(3, 4, 2)), "features that do not differ"


def test_there_are_no_more_components_than_channels() -> None:
    maps = maps_of((4, 5), channels=3)
    projection = joint_projection(maps, 256)
    assert projection.axes.shape == (3, 3) and projected(maps, 256)[0].shape == (4, 5, 3)
    # All of them: nothing is lost.
    back = projection(maps[0]) @ projection.axes.T + projection.mean
    torch.testing.assert_close(back, maps[0], atol=1e-4, rtol=0)


def test_a_projection_can_be_differentiated() -> None:
    features = torch.randn(3, 6, requires_grad=True)
    projection = joint_projection(maps_of(*SIZES, channels=6), 2)
    projection(features)[:, 0].sum().backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad, projection.axes[:, 0].expand(3, 6))


def test_one_model_is_projected_as_it_is() -> None:
    maps = maps_of(*SIZES)
    for one, other in zip(concatenated([maps], 4, True), projected(maps, 4, True), strict=True):
        assert torch.equal(one, other)


def test_models_are_put_side_by_side_in_the_finest_of_their_maps() -> None:
    fine, coarse = maps_of((8, 6), (6, 8), channels=5), maps_of((4, 3), (3, 4), channels=7, seed=1)
    coarse = [1000.0 * each for each in coarse]
    found = concatenated([fine, coarse], 4)
    assert [tuple(each.shape) for each in found] == [(8, 6, 4), (6, 8, 4)]
    # By hand: each model's components, over all of the scene from 0 to 1, the coarse ones resized.
    parts = []
    for maps in (fine, coarse):
        own = projected(maps, 4)
        low, high = torch.stack([each.min() for each in own]).min(), torch.stack([each.max() for each in own]).max()
        parts.append([(each - low) / (high - low) for each in own])
    sizes = [(8, 6), (6, 8)]
    together = [torch.cat([a, resized(b, size)], dim=-1) for a, b, size in zip(*parts, sizes, strict=True)]
    assert min(float(each.min()) for each in together) >= 0 and max(float(each.max()) for each in together) <= 1
    for one, other in zip(found, projected(together, 4), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_map_is_resized_about_pixel_centres() -> None:
    ramp = torch.arange(4.0)[None, :, None].expand(3, 4, 1)
    found = resized(ramp, (3, 8))
    assert found[0, :, 0].tolist() == pytest.approx([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    assert resized(ramp, (3, 4)) is ramp


@pytest.mark.parametrize("size", [(24, 36), (23, 31), (4, 5)])
def test_features_of_pixels_are_those_of_the_map_at_the_size_of_the_picture(size: "tuple[int, int]") -> None:
    (features,) = maps_of((6, 9), channels=3)
    expected = F.interpolate(features.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)[0]
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).reshape(-1, 2) + 0.5
    found = at_pixels(features, pixels, size)
    torch.testing.assert_close(found, expected.permute(1, 2, 0).reshape(-1, 3), atol=1e-4, rtol=0)
    some = torch.tensor([3, 17, 4])
    torch.testing.assert_close(at_pixels(features, pixels[some], size), found[some])
    assert at_pixels(features, pixels[:0], size).shape == (0, 3)


def test_controls_at_the_corners() -> None:
    size = (10, 20)
    corners = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 10.0], [20.0, 10.0], [10.0, 5.0]])
    colors = torch.tensor([[0.0, 0.5, 1.0]]).repeat(5, 1)
    places = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1], [0, 0]])
    for view, which in ((0, -1.0), (1, 0.0), (2, 1.0)):
        found = control("iuv", view, 3, corners, size, colors)
        torch.testing.assert_close(found, torch.cat([torch.full((5, 1), which), places], dim=1))
        coloured = control("iuvrgb", view, 3, corners, size, colors)
        torch.testing.assert_close(coloured[:, :3], found)
        torch.testing.assert_close(coloured[:, 3:], torch.tensor([[-1.0, 0.0, 1.0]]).repeat(5, 1))
    assert float(control("iuv", 0, 1, corners, size, colors)[0, 0]) == -1.0, "a single picture"
    assert CONTROLS == ("iuv", "iuvrgb")


# ---- names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("a", [("a", False)]),
        ("a+b+iuv", [("a", False), ("b", False), ("iuv", False)]),
        ("a+", [("a", True)]),
        ("a++b", [("a", True), ("b", False)]),
        ("a+b+", [("a", False), ("b", True)]),
    ],
)
def test_a_plus_is_between_models_or_behind_one(names: str, expected: "list[tuple[str, bool]]") -> None:
    found = feature_sources(names)
    assert found == [FeatureSource(*each) for each in expected]
    assert "+".join(each.name for each in found) == names


@pytest.mark.parametrize("names", ["", "+a", "a+++b", "iuv+", "iuvrgb++a"])
def test_names_of_nothing_are_refused(names: str) -> None:
    with pytest.raises(InputError, match="names no features: write A\\+B"):
        feature_sources(names)
