# SPDX-License-Identifier: Apache-2.0
"""The gsplat backend without a GPU: gsplat's two functions are played by the reference, everything else is real."""

import sys
from types import SimpleNamespace
from typing import Optional

import pytest
import torch

from nts_plugins.rasterization import GSPLAT_1_4, GSPLAT_1_5, BackendUnavailable, _api, installed_rules, lift, lift_ids

from .compare import draw, pictures, pixel_scale, pull_back, upstream
from .fake_gsplat import FakeGsplat
from .scenes import empty_scenes, facing, generator, ordinary_scenes, scene, textured

gsplat_cuda = pytest.importorskip("nts_plugins.rasterization.gsplat_cuda")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGsplat:
    fake = FakeGsplat()
    monkeypatch.setattr(gsplat_cuda.gsplat.rendering, "rasterization", fake.rasterization)
    for name in ("spherical_harmonics", "fully_fused_projection", "isect_tiles", "isect_offset_encode"):
        monkeypatch.setattr(gsplat_cuda.gsplat, name, getattr(fake, name))
    monkeypatch.setattr(gsplat_cuda, "_require_extension", lambda: None)
    monkeypatch.setattr(_api, "select_backend", lambda device, backend=None: backend)
    return fake


@pytest.mark.parametrize("depth", [None, "accumulated", "expected"])
@pytest.mark.parametrize("name", ["trained", "init", "three cameras", "channels per camera", "seven colour channels"])
def test_same_as_the_reference(fake: FakeGsplat, name: str, depth: str) -> None:
    """Concatenation, slicing, backgrounds and gradients: what comes back is what the reference draws."""
    made = ordinary_scenes()[name]()
    options = {"depth": depth, "absgrad": True, "antialiased": depth == "expected", "near_plane": 3.2}
    expected, expected_leaves = draw(made, backend="reference", **options)
    found, leaves = draw(made, backend="gsplat", **options)
    upstreams = upstream(expected, pixel_scale(expected, options))
    expected_gradients, gradients = (
        pull_back(expected, expected_leaves, upstreams),
        pull_back(found, leaves, upstreams),
    )
    assert len(fake.calls) == 1, "everything goes through one call"
    assert fake.calls[0]["channel_chunk"] >= fake.calls[0]["colors"].shape[-1] + (depth is not None)
    assert pictures(found).keys() == pictures(expected).keys()
    for key, picture in pictures(expected).items():
        torch.testing.assert_close(pictures(found)[key], picture, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for key, gradient in expected_gradients.items():
        assert (gradients[key] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-4, key


@pytest.mark.parametrize("given", ["neither", "background", "channel_background"])
def test_backgrounds_reach_their_channels(fake: FakeGsplat, given: str) -> None:
    made = scene(5, color_channels=3, channels=4, seed=3)
    options = made.arguments()
    options.update({name: None for name in ("background", "channel_background") if name != given})
    expected, found = (_api.rasterize(**options, backend=backend) for backend in ("reference", "gsplat"))
    assert (fake.calls[0]["backgrounds"] is None) == (given == "neither")
    torch.testing.assert_close(found.colors, expected.colors)
    torch.testing.assert_close(found.channels, expected.channels)


@pytest.mark.parametrize("name", [name for name in empty_scenes() if "textured" not in name])
def test_nothing_to_draw(fake: FakeGsplat, name: str) -> None:
    made = empty_scenes()[name]()
    raster, _ = draw(made, backend="gsplat", depth="expected")
    assert not raster.alphas.any()
    if made.background is not None:
        assert torch.equal(raster.colors[0, 0, 0].detach(), made.background[0])


def test_a_splat_at_the_camera_spoils_no_gradient(fake: FakeGsplat) -> None:
    """Its viewing direction has no length; gsplat itself would return NaN for every mean."""
    made = facing([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]], colors=torch.ones(2, 3))
    g = generator(0)
    gaussians = type(made.gaussians)(
        *(getattr(made.gaussians, name) for name in ("means", "quats", "scales", "opacities")),
        sh=torch.randn(2, 4, 3, generator=g),
    )
    raster, leaves = draw(type(made)(gaussians, made.viewmats, made.Ks, 17, 17), backend="gsplat")
    raster.colors.sum().backward()
    for key, leaf in leaves.items():
        assert torch.isfinite(leaf.grad).all(), key


def test_double_precision_is_drawn_in_single(fake: FakeGsplat) -> None:
    raster, leaves = draw(scene(20, sh_degree=1, channels=2).to(torch.float64), backend="gsplat")
    (raster.colors.sum() + raster.channels.sum()).backward()
    assert raster.colors.dtype == torch.float32
    assert all(leaf.grad.dtype == torch.float64 for leaf in leaves.values())


def test_lift(fake: FakeGsplat) -> None:
    made = scene(60, cameras_=2, width=20, height=18)
    features = torch.randn(2, 18, 20, 5, generator=generator(1))
    expected, found = (
        lift(made.gaussians, made.viewmats, made.Ks, features, backend=backend) for backend in ("reference", "gsplat")
    )
    torch.testing.assert_close(found.features, expected.features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-4, atol=1e-5)
    assert not found.features.requires_grad


def test_lift_in_inference_mode(fake: FakeGsplat) -> None:
    """It is made of a gradient, which tensors of inference mode cannot have."""
    with torch.inference_mode():
        made = scene(30, width=20, height=20)
        features = torch.ones(1, 20, 20, 3)
        found = lift(made.gaussians, made.viewmats, made.Ks, features, backend="gsplat")
    assert found.weights.sum() > 0
    torch.testing.assert_close(found.features, found.weights[:, None].expand(-1, 3))


def test_lift_ids_goes_through_chunks_of_the_ids_that_are_seen(fake: FakeGsplat) -> None:
    made = scene(60, cameras_=2, width=20, height=18)
    ids = torch.randint(0, 70, (2, 18, 20), generator=generator(1)) * 3
    ids[1] = 5
    ids[:, :2] = -1
    expected, found = (
        lift_ids(made.gaussians, made.viewmats, made.Ks, ids, n_ids=300, backend=backend)
        for backend in ("reference", "gsplat")
    )
    assert torch.equal(found.splats, expected.splats) and torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-4, atol=1e-6)
    assert [call["viewmats"].shape[0] for call in fake.calls] == [1, 1, 1, 1], "70 ids in 3 chunks, then 1 id"
    assert max(call["colors"].shape[-1] for call in fake.calls) == 32


def test_wide_values_are_split_where_shared_memory_ends(fake: FakeGsplat) -> None:
    """On a GPU with 99 KiB for a block, gsplat's backward kernel takes 65 channels and fails with 128."""
    fits, too_wide = scene(5, channels=62), scene(5, channels=100)
    draw(fits, backend="gsplat", absgrad=True)
    assert fake.calls[-1]["channel_chunk"] == 65
    raster, _ = draw(too_wide, backend="gsplat")
    assert fake.calls[-1]["channel_chunk"] == 64
    assert raster.channels.shape[-1] == 100
    with pytest.raises(ValueError, match="absgrad needs all channels in one pass, which holds 65"):
        draw(too_wide, backend="gsplat", absgrad=True)


def test_other_rules_are_refused(fake: FakeGsplat) -> None:
    other = GSPLAT_1_5 if installed_rules() == GSPLAT_1_4 else GSPLAT_1_4
    with pytest.raises(BackendUnavailable, match=other.name):
        draw(scene(5), backend="gsplat", rules=other)


@pytest.mark.parametrize("module", [SimpleNamespace(_C=None), None], ids=["no compiler", "fails to import"])
def test_a_missing_extension_is_named(monkeypatch: pytest.MonkeyPatch, module: Optional[SimpleNamespace]) -> None:
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", module)
    monkeypatch.setattr(_api, "select_backend", lambda device, backend=None: backend)
    gsplat_cuda._require_extension.cache_clear()
    with pytest.raises(BackendUnavailable, match="install the CUDA toolkit"):
        draw(scene(5), backend="gsplat")


def test_textures_need_triton(fake: FakeGsplat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("_gsplat_textured", "_triton_textured"):
        monkeypatch.delitem(sys.modules, f"nts_plugins.rasterization.{name}", raising=False)
    with pytest.raises(BackendUnavailable, match="Install the package triton"):
        draw(textured(scene(5, seed=3)), backend="gsplat")
