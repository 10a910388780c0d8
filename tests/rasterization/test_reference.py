# SPDX-License-Identifier: Apache-2.0
"""The reference itself: its gradients by finite differences, and its stages against gsplat's own torch code."""

import math
from dataclasses import replace

import pytest
import torch

from nts_plugins import compat
from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import GSPLAT_1_4, Rules, rasterize, reference, sh

from .compare import draw, settings_of, undecided_pixels
from .scenes import Scene, facing, generator, look_at, scene


def small_scene(color_channels: int, sh_degree: "int | None", seed: int) -> Scene:
    """Six splats, two cameras and 7 x 5 pixels, none of them near a threshold that finite differences could cross."""
    made = scene(
        6,
        color_channels=color_channels,
        sh_degree=sh_degree,
        channels=2,
        cameras_=2,
        width=7,
        height=5,
        seed=seed,
    )
    gaussians = replace(made.gaussians, means=0.5 * made.gaussians.means, scales=0.4 * made.gaussians.scales + 0.15)
    return replace(made, gaussians=gaussians).to(torch.float64)


@pytest.mark.parametrize("antialiased", [False, True], ids=["classic", "antialiased"])
@pytest.mark.parametrize(("color_channels", "sh_degree", "seed"), [(3, 3, 0), (2, 1, 1), (3, None, 2)])
def test_gradients_by_finite_differences(
    rules: Rules, color_channels: int, sh_degree: "int | None", seed: int, antialiased: bool
) -> None:
    made = small_scene(color_channels, sh_degree, seed)
    assert not undecided_pixels(made, rules, antialiased).any(), "choose another seed"
    _, leaves = made.leaves()

    def pictures(*values: torch.Tensor) -> "tuple[torch.Tensor, ...]":
        given = dict(zip(leaves, values, strict=True))
        gaussians = Gaussians(**{name: given[name] for name in Gaussians.__dataclass_fields__ if name in given})
        arguments = {**made.arguments(), **{name: given[name] for name in given if hasattr(made, name)}}
        arguments["gaussians"] = gaussians
        raster = rasterize(**arguments, backend="reference", rules=rules, antialiased=antialiased, depth="expected")
        return raster.colors, raster.alphas, raster.depth, raster.channels

    assert all(picture.std() > 0.01 for picture in pictures(*leaves.values())), "there must be something to see"
    assert torch.autograd.gradcheck(pictures, tuple(leaves.values()), fast_mode=True, rtol=1e-5, atol=1e-7)


def test_absgrad_sums_what_single_pixels_send_back(rules: Rules) -> None:
    made = scene(8, width=18, height=9, seed=3).to(torch.float64)
    gradients = torch.randn(1, 9, 18, 3, generator=generator(0), dtype=torch.float64)
    raster, _ = draw(made, backend="reference", rules=rules, absgrad=True)
    means2d = raster.info["means2d"]
    means2d.retain_grad()
    (raster.colors * gradients).sum().backward(retain_graph=True)
    gradient, absgrad = means2d.grad.clone(), means2d.absgrad.clone()
    total, absolute = torch.zeros_like(gradient), torch.zeros_like(gradient)
    for weight in (raster.colors * gradients).sum(dim=-1).flatten():
        (single,) = torch.autograd.grad(weight, means2d, retain_graph=True)
        total, absolute = total + single, absolute + single.abs()
    torch.testing.assert_close(gradient, total)
    torch.testing.assert_close(absgrad, absolute)
    assert (absgrad > 1.1 * gradient.abs()).any(), "otherwise the two are not told apart"


def test_spherical_harmonics_are_orthonormal() -> None:
    """By Gauss-Legendre quadrature in z and a uniform one around it, which is exact for these polynomials."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(8)
    z = torch.tensor(nodes)[:, None]
    angle = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    radius = (1 - z**2).sqrt()
    directions = torch.stack(torch.broadcast_tensors(radius * angle.cos(), radius * angle.sin(), z), dim=-1)
    basis = sh.sh_basis(directions, 3)
    products = torch.einsum("zai,zaj,z->ij", basis, basis, torch.tensor(weights)) * (2 * math.pi / 16)
    torch.testing.assert_close(products, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics_are_those_of_gsplat(degree: int) -> None:
    torch_impl = pytest.importorskip("gsplat.cuda._torch_impl")
    directions = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator(0), dtype=torch.float64), dim=-1)
    coefficients = torch.randn(50, 16, 3, generator=generator(1), dtype=torch.float64)
    expected = torch_impl._spherical_harmonics(degree, directions, coefficients)
    basis = sh.sh_basis(directions, degree)
    found = torch.einsum("nk,nkd->nd", basis, coefficients[:, : basis.shape[-1]])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(compat.version_of("gsplat")[:2] != (1, 4), reason="compares with the torch code of gsplat 1.4")
@pytest.mark.parametrize("antialiased", [False, True])
def test_projection_is_that_of_gsplat(antialiased: bool) -> None:
    from gsplat.cuda import _torch_impl

    made = scene(300, cameras_=2, width=40, height=30, seed=4).to(torch.float64)
    gaussians = made.gaussians
    covariances, _ = _torch_impl._quat_scale_to_covar_preci(gaussians.quats, gaussians.scales, True, False)
    radii, means2d, depths, conics, compensations = _torch_impl._fully_fused_projection(
        *(gaussians.means, covariances, made.viewmats, made.Ks, 40, 30),
        near_plane=3.0,
        calc_compensations=antialiased,
    )
    settings = settings_of(made, GSPLAT_1_4, near_plane=3.0, antialiased=antialiased)
    found = reference.project(gaussians, made.viewmats, made.Ks, settings)
    assert torch.equal(found.radii, radii[..., None].expand_as(found.radii))
    drawn = radii > 0
    assert torch.equal(found.visible, drawn) and 0 < drawn.sum() < drawn.numel()
    torch.testing.assert_close(found.means2d[drawn], means2d[drawn])
    torch.testing.assert_close(found.depths[drawn], depths[drawn])
    torch.testing.assert_close(found.conics[drawn], conics[drawn])
    opacities = gaussians.opacities.expand_as(depths)
    opacities = opacities * compensations if antialiased else opacities
    torch.testing.assert_close(found.opacities[drawn], opacities[drawn])


def test_camera_centres() -> None:
    eyes = torch.tensor([[1.0, 2.0, -3.0], [0.5, -4.0, 1.0]])
    viewmats = torch.stack([look_at(eye.tolist()) for eye in eyes])
    torch.testing.assert_close(sh.camera_centres(viewmats), eyes)
    torch.testing.assert_close(sh.camera_centres(viewmats), torch.inverse(viewmats)[:, :3, 3])


def test_tile_rectangle_cuts_a_splat_as_gsplat_does() -> None:
    """By the rule of gsplat 1.4 an opaque splat still has alpha 0.011 at three sigma, where its tiles may end."""
    # In pixels, blur included. gsplat 1.4 adds 0.1 to a round variance, so that the radius is just 16.
    deviation = math.sqrt((15.99 / 3) ** 2 - 0.1)
    scale = math.sqrt(deviation**2 - 0.3) * 4 / 32
    made = facing([[-0.0625, 0.0, 4.0]], size=33, focal=32.0, scales=[[scale] * 3], opacities=[1.0])
    raster = rasterize(**made.arguments(), backend="reference", rules=GSPLAT_1_4)
    assert raster.info["means2d"][0, 0, 0].item() == 16.0 and raster.info["radii"].item() == 16
    inside, outside = raster.alphas[0, 16, 31:, 0].tolist()
    assert inside == pytest.approx(math.exp(-0.5 * (15.5 / deviation) ** 2), rel=2e-3)
    assert outside == 0.0 and math.exp(-0.5 * (16.5 / deviation) ** 2) > 2 / 255


def test_gradients_reach_a_splat_through_every_camera() -> None:
    """Two cameras drawn together send back the sum of what each sends back alone."""
    made = scene(30, cameras_=2, sh_degree=2, seed=6).to(torch.float64)
    gradients = torch.randn(2, 23, 37, 3, generator=generator(0), dtype=torch.float64)

    def means_gradient(index: slice) -> torch.Tensor:
        part = replace(made, viewmats=made.viewmats[index], Ks=made.Ks[index], background=made.background[index])
        raster, leaves = draw(part, backend="reference")
        (raster.colors * gradients[index]).sum().backward()
        return leaves["means"].grad

    together = means_gradient(slice(0, 2))
    torch.testing.assert_close(together, means_gradient(slice(0, 1)) + means_gradient(slice(1, 2)))
