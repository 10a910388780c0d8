# SPDX-License-Identifier: Apache-2.0
"""What holds for every scene: drawn at random by hypothesis."""

from dataclasses import replace

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nts_plugins.gaussians.rotations import rotation_matrices
from nts_plugins.rasterization import coverage, installed_rules, lift, rasterize

from .compare import draw, gradient_errors, pixel_scale, pull_back, undecided_pixels, upstream, value_errors
from .conftest import Backend
from .scenes import Scene, generator, scene

# The backends are a fixture that holds no state, so that hypothesis may use one for all of its examples.
draws = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])

scenes = st.builds(
    scene,
    n=st.integers(0, 80),
    kind=st.sampled_from(["trained", "init"]),
    cameras_=st.integers(1, 3),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    color_channels=st.integers(1, 5),
    sh_degree=st.sampled_from([None, 0, 1, 2, 3]),
    channels=st.integers(0, 9),
    seed=st.integers(0, 10_000),
)


@draws
@given(made=scenes, antialiased=st.booleans(), depth=st.sampled_from([None, "accumulated", "expected"]))
def test_any_scene_is_drawn_as_by_the_reference(backend: Backend, made: Scene, antialiased: bool, depth: str) -> None:
    options = {"antialiased": antialiased, "depth": depth, "absgrad": True}
    decided = ~undecided_pixels(made, installed_rules(), antialiased)[..., None]
    exact, exact_leaves = draw(made.to(torch.float64), backend="reference", **options)
    weights = {key: decided * scale for key, scale in pixel_scale(exact, options).items()}
    gradients = upstream(exact, weights)
    plain, plain_leaves = draw(made, backend="reference", **options)
    found, leaves = draw(made.to(backend.device), backend=backend.name, **options)
    attained = value_errors(plain, exact, weights)
    for key, error in value_errors(found, exact, weights).items():
        assert error <= max(2 * backend.value_error, 4 * attained[key]), key
    expected = pull_back(exact, exact_leaves, gradients)
    attained = gradient_errors(pull_back(plain, plain_leaves, gradients), expected, made)
    # With a handful of splats a gradient may be what is left of two large numbers, so that the bound is loose.
    for key, error in gradient_errors(pull_back(found, leaves, gradients), expected, made).items():
        assert error <= max(1e-3, 20 * attained[key]), key


@draws
@given(made=scenes, seed=st.integers(0, 100))
def test_the_order_of_splats_does_not_matter(backend: Backend, made: Scene, seed: int) -> None:
    """Gradients come back in the order in which the splats were given."""
    made = made.to(backend.device)
    order = torch.randperm(len(made.gaussians), generator=generator(seed)).to(backend.device)
    shuffled = replace(
        made,
        gaussians=made.gaussians.select(order),
        channels=None if made.channels is None else made.channels[order],
    )
    results = []
    for each in (made, shuffled):
        raster, leaves = draw(each, backend=backend.name, depth="accumulated", absgrad=True)
        weight = {key: torch.ones(1) for key in pixel_scale(raster, {})}
        results.append((raster, pull_back(raster, leaves, upstream(raster, weight))))
    (first, gradients), (second, shuffled_gradients) = results
    for name in ("colors", "alphas", "depth", "channels"):
        if getattr(first, name) is not None:
            torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-5, atol=1e-6)
    per_splat = ("means", "quats", "scales", "opacities", "sh", "sh_rest", "colors", "channels")
    for name, gradient in gradients.items():
        if name in per_splat:
            gradient = gradient[order.cpu()]
        if name in ("means2d", "absgrad"):
            gradient = gradient[:, order.cpu()]
        scale = gradient.abs().max().item() if gradient.numel() else 1.0
        torch.testing.assert_close(shuffled_gradients[name], gradient, rtol=1e-4, atol=1e-4 * scale + 1e-7)


@draws
@given(made=scenes, seed=st.integers(0, 100), antialiased=st.booleans())
def test_moving_cameras_and_splats_together_changes_nothing(
    backend: Backend, made: Scene, seed: int, antialiased: bool
) -> None:
    """For colours that do not depend on the view; of spherical harmonics only the constant band is one."""
    made, exact = made.to(torch.float64), backend.name == "reference"
    random = torch.randn(7, generator=generator(seed), dtype=torch.float64)
    turn, shift = torch.nn.functional.normalize(random[:4], dim=0), random[4:]
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3], motion[:3, 3] = rotation_matrices(turn), shift
    gaussians = made.gaussians
    moved = replace(
        made,
        gaussians=replace(
            gaussians,
            means=gaussians.means @ motion[:3, :3].T + shift,
            quats=_multiply(turn, gaussians.quats),
        ),
        viewmats=made.viewmats @ torch.linalg.inv(motion),
    )
    options = {"antialiased": antialiased, "depth": "expected"}
    scales = pixel_scale(rasterize(**made.arguments(), **options, backend="reference"), options)
    options["sh_degree"] = None if gaussians.sh is None else 0
    before, after = (
        rasterize(
            **(each if exact else each.to(backend.device, torch.float32)).arguments(), **options, backend=backend.name
        )
        for each in (made, moved)
    )
    decided = ~undecided_pixels(made.to(torch.float32), installed_rules(), antialiased)[..., None]
    for name in ("colors", "alphas", "depth", "channels"):
        if getattr(before, name) is not None:
            difference = (getattr(before, name) - getattr(after, name)).cpu() * decided * scales.get(name, 1.0)
            assert difference.abs().max() < (1e-8 if exact else 50 * backend.value_error), name


def _multiply(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The quaternion [4] ``left`` times quaternions [N, 4]: first turn by ``right``, then by ``left``."""
    a, u = left[0], left[1:].expand_as(right[:, 1:])
    b, v = right[:, :1], right[:, 1:]
    return torch.cat([a * b - (u * v).sum(-1, keepdim=True), a * v + b * u + torch.linalg.cross(u, v)], dim=1)


@draws
@given(made=scenes, width=st.integers(1, 40), seed=st.integers(0, 100), antialiased=st.booleans())
def test_lift_is_the_adjoint(backend: Backend, made: Scene, width: int, seed: int, antialiased: bool) -> None:
    """<draw(values), F> = <values, lift(F)> for all values and F, and the weights are those of a map of ones."""
    made = made.to(backend.device)
    cameras, n = made.viewmats.shape[0], len(made.gaussians)
    g = generator(seed)
    values = torch.randn(n, width, generator=g).to(backend.device)
    features = torch.randn(cameras, made.height, made.width, width, generator=g).to(backend.device)
    options = {"antialiased": antialiased, "backend": backend.name}
    drawn = replace(made, channels=values, channel_background=None)
    raster = rasterize(**drawn.arguments(), **options)
    lifted = lift(made.gaussians, made.viewmats, made.Ks, features, **options)
    there = (raster.channels.double() * features.double()).sum().item()
    back = (values.double() * lifted.features.double()).sum().item()
    size = (raster.channels.double() * features.double()).abs().sum().item()
    # gsplat lifts with the transmittances of its backward kernel, which are less exact than those of the forward one.
    error = backend.gradient_error if backend.name == "gsplat" else 1e-5
    assert abs(there - back) <= error * size + 1e-6
    assert abs(lifted.weights.double().sum() - raster.alphas.double().sum()) <= error * raster.alphas.numel()
    covered = coverage(made.gaussians, made.viewmats, made.Ks, made.width, made.height, **options)
    torch.testing.assert_close(covered, lifted.weights)
