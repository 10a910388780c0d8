# SPDX-License-Identifier: Apache-2.0
"""Local textures: where rays meet splats, what is read there, and that a texture of zeros changes nothing.

Values and gradients of all backends are compared in test_backends, on the scenes with textures.
"""

from dataclasses import replace

import pytest
import torch

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import Rules, Seen, Textures, coverage, installed_rules, rasterize
from nts_plugins.rasterization._cpu_textures import texture_inputs
from nts_plugins.rasterization.textures import sample, splat_points, splat_rays

from .compare import undecided_pixels
from .scenes import Scene, facing, generator, scene, textured

CPU_BACKENDS = ("reference", "cpu")
ONE = {"vectors": torch.zeros(2, 1, 4, 2, 4)}


def some_textures(m: int, texels: int, planes: int = 3, **options) -> Textures:
    g = generator(1)
    vectors = torch.randn(m, planes, texels, 2, 4, generator=g, dtype=torch.float64)
    return Textures(vectors, torch.arange(m), **{"amplitudes": (1.0, 1.0, 1.0, 1.0), **options})


def test_rays_meet_splats_where_they_come_nearest() -> None:
    made = scene(5, seed=1).to(torch.float64)
    pixels = torch.tensor([[3.5, 7.5], [20.0, 11.0]], dtype=torch.float64)
    gaussians, viewmat, K = made.gaussians, made.viewmats[0], made.Ks[0]
    points = splat_points(gaussians, viewmat, K, pixels)
    rays = torch.cat([pixels, torch.ones(2, 1)], dim=1) @ torch.linalg.inv(K).T
    for p, ray in enumerate(rays):
        for n in range(5):
            # Along the ray, in the world and then in the splat's own frame.
            along = torch.linspace(0, 12, 200001, dtype=torch.float64)[:, None]
            world = (along * ray - viewmat[:3, 3]) @ viewmat[:3, :3]
            rotation = gaussians.select(torch.tensor([n]))
            local = to_splat(rotation, world)
            nearest = local.norm(dim=-1).argmin()
            scale = local.norm(dim=-1).max()
            assert torch.allclose(points[p, n], local[nearest], atol=1e-4 * float(scale))


def to_splat(one: Gaussians, world: torch.Tensor) -> torch.Tensor:
    """Points [K, 3] of the world in a splat's frame, in standard deviations, by the quaternion product."""
    w, vector = one.quats[0, 0], one.quats[0, 1:]
    norm = one.quats[0].norm()
    w, vector = w / norm, -vector / norm
    offset = world - one.means[0]
    cross = torch.linalg.cross(vector.expand_as(offset), offset)
    turned = offset + 2 * w * cross + 2 * torch.linalg.cross(vector.expand_as(offset), cross)
    return turned / one.scales[0]


def test_on_round_splats_the_nearest_point_is_nearest_in_the_world_too() -> None:
    made = facing([[0.3, -0.2, 2.0]]).to(torch.float64)
    pixels = torch.tensor([[8.5, 8.5]], dtype=torch.float64)  # straight ahead
    (point,) = splat_points(made.gaussians, made.viewmats[0], made.Ks[0], pixels)[0]
    assert torch.allclose(point, torch.tensor([-3.0, 2.0, 0.0], dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize("tanh", [False, True], ids=["products", "tanh"])
def test_texels_are_products_and_lie_at_equal_distances(tanh: bool) -> None:
    textures = some_textures(2, 4, product_tanh=tanh)
    # Texels of a plane lie at -3, -1, 1 and 3 standard deviations. Far out on an axis only one plane is left.
    points = torch.tensor([[[-1.0, 3.0, 5.0], [1.0, -3.0, 5.0]]], dtype=torch.float64)
    products = [
        textures.vectors[0, 0, 1, 0] * textures.vectors[0, 1, 3, 1],
        textures.vectors[1, 0, 2, 0] * textures.vectors[1, 1, 0, 1],
    ]
    expected = torch.stack([product.tanh() if tanh else product for product in products]) / 3
    assert torch.allclose(sample(textures, points)[0], expected)
    halfway = torch.tensor([[[0.0, 3.0, 5.0]] * 2], dtype=torch.float64)
    ends = torch.tensor([[[[x, 3.0, 5.0]] * 2] for x in (-1.0, 1.0)], dtype=torch.float64)
    middle = sum(sample(textures, end[None] if end.ndim == 2 else end) for end in ends) / 2
    assert torch.allclose(sample(textures, halfway), middle)


def test_weights_choose_planes() -> None:
    textures = some_textures(1, 3)
    point = torch.tensor([[[0.3, -0.8, 1.1]]], dtype=torch.float64)
    planes = [sample(replace(textures, weights=torch.eye(3, dtype=torch.float64)[k : k + 1]), point) for k in range(3)]
    assert torch.allclose(sample(textures, point), sum(planes) / 3)
    assert not torch.allclose(planes[0], planes[1])


@pytest.mark.parametrize("face", [0, 1, 2], ids=["xy", "yz", "zx"])
def test_a_single_plane_is_that_one_of_the_three(face: int) -> None:
    one = some_textures(1, 4, planes=1, faces=torch.tensor([face]))
    vectors = torch.zeros(1, 3, 4, 2, 4, dtype=torch.float64)
    vectors[:, face, :, 0], vectors[:, (face + 1) % 3, :, 1] = one.vectors[:, 0, :, 0], one.vectors[:, 0, :, 1]
    weights = torch.eye(3, dtype=torch.float64)[face : face + 1]
    three = replace(one, vectors=vectors, weights=weights, faces=None)
    point = torch.tensor([[[0.3, -0.8, 1.1]]], dtype=torch.float64)
    assert sample(one, point).any()
    torch.testing.assert_close(sample(one, point), sample(three, point))


def test_a_texture_ends_at_three_standard_deviations() -> None:
    textures = some_textures(1, 2)
    assert sample(textures, torch.full((1, 1, 3), 2.9, dtype=torch.float64)).any()
    assert not sample(textures, torch.full((1, 1, 3), 3.1, dtype=torch.float64)).any()
    assert not sample(textures, torch.tensor([[[3.1, 0.0, -3.1]]], dtype=torch.float64)).any()


@pytest.mark.parametrize("tanh", [False, True], ids=["products", "tanh"])
@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_a_texture_of_zeros_changes_no_bit(name: str, tanh: bool, rules: Rules) -> None:
    made = scene(200, sh_degree=2, channels=3, width=40, height=30, seed=3)
    plain = rasterize(**made.arguments(), backend=name, rules=rules, depth="accumulated")
    covered = textured(made, strength=0.0, product_tanh=tanh)
    found = rasterize(**covered.arguments(), backend=name, rules=rules, depth="accumulated")
    assert torch.equal(found.colors, plain.colors) and torch.equal(found.alphas, plain.alphas)
    assert torch.equal(found.channels, plain.channels) and torch.equal(found.depth, plain.depth)


def constant(made: Scene, values: "tuple[float, float, float, float]") -> Scene:
    """Textures that are everywhere the same, inside of their extent: one plane alone, of constant vectors."""
    n = len(made.gaussians)
    vectors = torch.ones(n, 3, 2, 2, 4)
    vectors[..., 0, :] = torch.tensor(values)
    weights = torch.tensor([1.0, 0.0, 0.0]).expand(n, 3)
    return replace(made, textures=Textures(vectors, torch.arange(n), weights, amplitudes=(1.0, 1.0, 1.0, 1.0)))


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_a_constant_colour_shifts_the_picture_by_what_splats_cover(name: str) -> None:
    made = facing([[0.0, 0.0, 2.0], [0.1, 0.1, 3.0]], colors=[[0.2, 0.4, 0.6], [0.5, 0.5, 0.5]], opacities=[0.3, 0.8])
    plain = rasterize(**made.arguments(), backend=name)
    found = rasterize(**constant(made, (0.3, 0.1, 0.2, 0.0)).arguments(), backend=name)
    inside = slice(5, 12)
    shift = (found.colors - plain.colors)[0, inside, inside]
    expected = plain.alphas[0, inside, inside] * torch.tensor([0.3, 0.1, 0.2])
    assert torch.allclose(shift, expected, atol=1e-6) and torch.equal(found.alphas, plain.alphas)


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_opacity_is_added_then_cut(name: str) -> None:
    made, rules = facing([[0.0, 0.0, 2.0]], opacities=[0.5]), installed_rules()
    peak = float(rasterize(**made.arguments(), backend=name).alphas[0, 8, 8])
    for residual, expected in ((0.2, peak + 0.2), (0.9, rules.alpha_cap), (-0.2, peak - 0.2), (-0.6, 0.0)):
        found = rasterize(**constant(made, (0.0, 0.0, 0.0, residual)).arguments(), backend=name)
        assert float(found.alphas[0, 8, 8]) == pytest.approx(expected, abs=1e-6)
        # Where the splat alone is too faint its texture is not read.
        assert not found.alphas[0, 0, 0].any()


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_only_gradients_that_lower_alpha_pass_its_cap(name: str) -> None:
    for sign in (1.0, -1.0):
        made, leaves = constant(facing([[0.0, 0.0, 2.0]], opacities=[0.5]), (0.0, 0.0, 0.0, 0.9)).leaves()
        alphas = rasterize(**made.arguments(), backend=name).alphas
        assert float(alphas[0, 8, 8].detach()) == pytest.approx(installed_rules().alpha_cap)
        (sign * alphas[0, 8, 8]).sum().backward()
        # A loss that falls with alpha is minimised by lowering it.
        assert leaves["opacities"].grad.any() == leaves["vectors"].grad[..., 3].any() == (sign > 0)


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_no_residual_makes_a_colour_negative(name: str) -> None:
    made = facing([[0.0, 0.0, 2.0]], colors=[[0.2, -0.3, 0.6]])
    made, leaves = constant(made, (-0.5, -0.5, -0.5, 0.0)).leaves()
    raster = rasterize(**made.arguments(), backend=name)
    alpha = float(raster.alphas[0, 8, 8].detach())
    assert torch.allclose(raster.colors[0, 8, 8].detach(), torch.tensor([0.0, -0.3, 0.1]) * alpha, atol=1e-6)
    raster.colors[0, 8, 8].sum().backward()
    # What is cut has no gradient; a colour that was negative before is left alone and keeps its own.
    assert torch.allclose(leaves["colors"].grad, torch.tensor([[0.0, alpha, alpha]]), atol=1e-6)
    assert leaves["vectors"].grad[..., 2].any() and not leaves["vectors"].grad[..., :2].any()


@pytest.mark.parametrize("planes", [3, 1])
@pytest.mark.parametrize("tanh", [False, True], ids=["products", "tanh"])
def test_gradients_by_finite_differences(tanh: bool, planes: int) -> None:
    """Those of the reference, through the point where a ray meets a splat too."""
    base = scene(6, channels=2, cameras_=2, width=7, height=5, seed=2)
    gaussians = replace(base.gaussians, means=0.5 * base.gaussians.means, scales=0.4 * base.gaussians.scales + 0.15)
    options = dict(texels=4, strength=0.5, moves_splats=True, product_tanh=tanh, planes=planes)
    made = textured(replace(base, gaussians=gaussians), **options).to(torch.float64)
    assert not undecided_pixels(made, installed_rules()).any(), "choose another seed"
    _, leaves = made.leaves()

    def pictures(*values: torch.Tensor) -> "tuple[torch.Tensor, ...]":
        given = dict(zip(leaves, values, strict=True))
        own = Gaussians(**{name: given[name] for name in Gaussians.__dataclass_fields__ if name in given})
        textures = replace(made.textures, vectors=given["vectors"], weights=given["weights"])
        arguments = {**made.arguments(), **{name: given[name] for name in given if hasattr(made, name)}}
        raster = rasterize(**{**arguments, "gaussians": own, "textures": textures}, backend="reference")
        return raster.colors, raster.alphas, raster.channels

    assert all(picture.std() > 0.01 for picture in pictures(*leaves.values())), "there must be something to see"
    assert torch.autograd.gradcheck(pictures, tuple(leaves.values()), fast_mode=True, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_splats_move_by_their_textures_only_when_told(name: str) -> None:
    """Moving a splat shifts its pattern, too; what the pattern's texels get is the same."""
    found = {}
    for moves in (False, True):
        made, leaves = textured(scene(20, seed=4), moves_splats=moves).leaves()
        rasterize(**made.arguments(), backend=name).colors.square().sum().backward()
        found[moves] = {key: leaves[key].grad.clone() for key in ("means", "scales", "quats", "vectors")}
    assert torch.equal(found[False].pop("vectors"), found[True].pop("vectors"))
    for key, gradient in found[False].items():
        assert not torch.allclose(gradient, found[True][key], rtol=1e-2), key


@pytest.mark.parametrize("planes", [3, 1])
def test_rays_of_the_cpu_and_their_gradients(planes: int) -> None:
    made, found = textured(scene(200, seed=4), planes=planes, moves_splats=True), []
    weights = torch.randn(len(made.textures), 17, generator=generator(5), dtype=torch.float64)
    for rays_of in (splat_rays, lambda *given: texture_inputs(*given)[0][2]):
        own, leaves = made.leaves()
        rays = rays_of(own.textures, own.gaussians, own.viewmats[0], own.Ks[0])
        (rays * weights).sum().backward()
        found.append([rays.detach(), *(leaves[name].grad for name in ("means", "quats", "scales", "viewmats"))])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_places_on_thin_splats_are_exact() -> None:
    """What float32 takes from the mean of a splat a millimetre thin would put colours off by 3e-6."""
    for seed in range(12):
        g = generator(seed)
        x, quats = 1.8 + 0.1 * torch.rand(1, generator=g).item(), torch.randn(1, 4, generator=g)
        splat = {"scales": [(0.3, 0.1, 0.001)], "quats": quats, "opacities": [0.8]}
        made = textured(facing([(x, 0.9, 4.0)], size=33, focal=30.0, **splat), share=1.0, product_tanh=True)
        decided = ~undecided_pixels(made, installed_rules())[..., None]
        exact = rasterize(**made.to(torch.float64).arguments(), backend="reference").colors
        found = rasterize(**made.arguments(), backend="cpu").colors
        assert ((found - exact) * decided).abs().max() <= 2e-6


def test_without_gradients_asked_for() -> None:
    made = textured(scene(50, seed=5), moves_splats=True)
    with torch.inference_mode():
        for name in CPU_BACKENDS:
            assert not rasterize(**made.arguments(), backend=name).colors.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": torch.zeros(3, 3, 4, 2, 4)}, r"Textures.vectors has shape .*expected \[2, 3, T, 2, 4\]"),
        ({"vectors": torch.zeros(2, 3, 1, 2, 4)}, "at least 2 are needed"),
        ({"weights": torch.zeros(2, 2)}, r"Textures.weights has shape \(2, 2\), expected \[2, 3\]"),
        ({"faces": torch.tensor([0, 1])}, r"Textures.vectors has shape .*expected \[2, 1, T, 2, 4\]"),
        ({**ONE, "faces": torch.tensor([[0], [1]])}, r"Textures.faces has shape .*expected \[2\] int64"),
        ({**ONE, "faces": torch.tensor([0, 3])}, "must be 0, 1 or 2"),
        ({"splats": torch.tensor([0.0, 1.0])}, r"expected \[M\] integers"),
        ({"splats": torch.tensor([0, 9])}, "must lie from 0 to 8"),
        ({"splats": torch.tensor([4, 4])}, "names a splat twice"),
    ],
)
def test_what_does_not_fit_is_named(change: dict, message: str) -> None:
    made = scene(9, seed=6)
    textures = replace(Textures(torch.zeros(2, 3, 4, 2, 4), torch.tensor([3, 5])), **change)
    with pytest.raises(ValueError, match=message):
        rasterize(**{**made.arguments(), "textures": textures})


def test_textures_are_of_three_colours() -> None:
    made = textured(scene(9, color_channels=4, seed=6))
    with pytest.raises(ValueError, match="three colours, but the Gaussians have 4"):
        rasterize(**made.arguments())


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_textures_may_be_made_for_the_splats_that_a_camera_draws(name: str) -> None:
    made = textured(scene(60, cameras_=2, seed=8), share=1.0)
    whole, asked = made.textures, []

    def source(seen: Seen) -> Textures:
        asked.append(seen.radii)
        view = (made.viewmats[len(asked) - 1 :][:1], made.Ks[len(asked) - 1 :][:1])
        torch.testing.assert_close(seen.coverage(), coverage(made.gaussians, *view, made.width, made.height))
        chosen = (seen.radii > 0).all(dim=1)[whole.splats].nonzero()[:, 0]
        return whole.select(chosen)

    found = rasterize(**{**made.arguments(), "textures": source}, backend=name)
    assert torch.equal(found.colors, rasterize(**made.arguments(), backend=name).colors)
    assert [each.shape for each in asked] == [(60, 2)] * 2 and not torch.equal(*asked)
    nothing = rasterize(**{**made.arguments(), "textures": lambda seen: None}, backend=name)
    assert torch.equal(nothing.colors, rasterize(**{**made.arguments(), "textures": None}, backend=name).colors)


def test_no_splat_has_one() -> None:
    made = scene(30, seed=7)
    none = Textures(torch.zeros(0, 3, 4, 2, 4), torch.zeros(0, dtype=torch.int64))
    for name in CPU_BACKENDS:
        covered = rasterize(**{**made.arguments(), "textures": none}, backend=name)
        assert torch.equal(covered.colors, rasterize(**made.arguments(), backend=name).colors)
