# SPDX-License-Identifier: Apache-2.0
"""A ratio to the baseline means something only if the baseline draws the same picture."""

import pytest
import torch

from benchmarks import baseline, scenes
from nts_plugins.gaussians import Gaussians
from nts_plugins.gaussians.rotations import rotation_matrices
from nts_plugins.rasterization import GSPLAT_1_4, GSPLAT_1_5, Rules, rasterize
from nts_plugins.rasterization._types import Settings


def leaves_of(scene: scenes.Scene) -> Gaussians:
    return scene.to(torch.float64).gaussians.map(lambda tensor: tensor.clone().requires_grad_())


@pytest.mark.parametrize("rules", [GSPLAT_1_4, GSPLAT_1_5], ids=lambda rules: rules.name)
@pytest.mark.parametrize("kind", ["trained", "init"])
@pytest.mark.parametrize("size", [(64, 48), (37, 21)], ids=str)
def test_baseline_is_the_reference(rules: Rules, kind: scenes.Kind, size: "tuple[int, int]") -> None:
    scene = scenes.room(600, kind, *size)
    generator = torch.Generator().manual_seed(0)
    upstream = torch.randn(size[1], size[0], 4, generator=generator, dtype=torch.float64)
    results = []
    for name in ("reference", "baseline"):
        gaussians, double = leaves_of(scene), scene.to(torch.float64)
        if name == "reference":
            raster = rasterize(gaussians, double.viewmats, double.Ks, *size, backend="reference", rules=rules)
            values, alphas = raster.colors[0], raster.alphas[0]
        else:
            image = baseline.rasterize(gaussians, double.viewmats, double.Ks, *size, rules=rules)
            values, alphas = image.values, 1 - image.transmittance[..., None]
        (torch.cat([values, alphas], dim=-1) * upstream).sum().backward()
        fields = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
        results.append([values.detach(), alphas.detach(), *(field.grad for field in fields)])
    assert float(results[0][1].mean()) > 0.3, "the scene must fill the picture"
    for expected, actual in zip(*results, strict=True):
        # Turning a round splat changes nothing, so the gradient of its quaternion is rounding noise.
        scale = max(float(expected.abs().max()), 1e-3)
        torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=1e-9)


def test_baseline_works_tile_by_tile_and_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short slice makes pixels stop in the middle of a tile's list, and start nothing anew in the next slice."""
    scene = scenes.room(800, "trained", 48, 32).to(torch.float64)
    whole = baseline.rasterize(scene.gaussians, scene.viewmats, scene.Ks, 48, 32)
    monkeypatch.setattr(baseline, "SLICE", 7)
    sliced = baseline.rasterize(scene.gaussians, scene.viewmats, scene.Ks, 48, 32)
    torch.testing.assert_close(sliced.values, whole.values, rtol=0, atol=1e-12)
    torch.testing.assert_close(sliced.transmittance, whole.transmittance, rtol=0, atol=1e-12)
    assert float(whole.transmittance.min()) < 2e-4, "some pixels must stop early"


def test_nothing_in_view() -> None:
    scene = scenes.room(50, "trained", 32, 16)
    behind = Gaussians(scene.gaussians.means - 100.0, *(getattr(scene.gaussians, f) for f in ("quats", "scales")),
                       scene.gaussians.opacities, colors=torch.ones(50, 3))  # fmt: skip
    image = baseline.rasterize(behind, scene.viewmats, scene.Ks, 32, 16)
    assert float(image.values.abs().max()) == 0.0 and float(image.transmittance.min()) == 1.0


def test_tile_lists_by_hand() -> None:
    means2d = torch.tensor([[16.0, 8.0], [4.0, 4.0], [0.0, 0.0]])
    radii = torch.tensor([[3, 3], [2, 2], [0, 0]])
    settings = Settings(width=40, height=20, rules=GSPLAT_1_4)
    lists, counts = baseline.tile_lists(means2d, radii, torch.tensor([2.0, 1.0, 0.5]), settings)
    assert counts.tolist() == [2, 1, 0, 0, 0, 0]
    assert lists.tolist() == [1, 0, 0]


@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_restored(before: bool) -> None:
    def flushed() -> bool:
        return float(torch.tensor([1e-40]) * 1.0) == 0.0

    torch.set_flush_denormal(before)
    try:
        with pytest.raises(RuntimeError), baseline.denormals_flushed():
            assert flushed()
            raise RuntimeError
        assert flushed() is before
    finally:
        torch.set_flush_denormal(False)


def test_scenes_repeat_and_differ() -> None:
    first, again = (scenes.room(500, "trained", seed=3) for _ in range(2))
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert torch.equal(getattr(first.gaussians, name), getattr(again.gaussians, name))
    assert not torch.equal(first.gaussians.means, scenes.room(500, "trained", seed=4).gaussians.means)
    # Trained splats are flat along their third axis, and their opacities spread; initial ones are round and faint.
    assert float((first.gaussians.scales[:, 2] / first.gaussians.scales[:, :2].amin(dim=1)).median()) < 0.4
    initial = scenes.room(500, "init").gaussians
    assert torch.equal(initial.scales[:, 0], initial.scales[:, 2]) and set(initial.opacities.tolist()) == {
        float(torch.tensor(0.1))
    }


def test_flat_splats_lie_on_their_surface() -> None:
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    normals = torch.cat([normals, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])])
    quats = scenes._lay_flat(normals, torch.linspace(0, 6, len(normals)))
    torch.testing.assert_close(rotation_matrices(quats)[:, :, 2], normals, rtol=0, atol=1e-5)
