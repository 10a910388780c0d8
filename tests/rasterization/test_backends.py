# SPDX-License-Identifier: Apache-2.0
"""Every backend draws what the float64 reference draws, and sends back the same gradients."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from nts_plugins.kernels.lifting import square_edge
from nts_plugins.kernels.threads import kernels_only, thread_count
from nts_plugins.rasterization import GSPLAT_1_5, Rules, installed_rules, lift, lift_ids, rasterize

from .compare import (
    draw,
    gradient_errors,
    pixel_scale,
    pull_back,
    undecided_pixels,
    upstream,
    value_errors,
    worst_errors,
)
from .conftest import Backend
from .scenes import Scene, empty_scenes, extreme_scenes, generator, half_behind, needles, ordinary_scenes, scene

ORDINARY, EMPTY, EXTREME = ordinary_scenes(), empty_scenes(), extreme_scenes()


def skip_other_rules(backend: Backend, rules: Rules) -> None:
    if not backend.draws(rules):
        pytest.skip(f"the installed gsplat does not draw {rules.name}")


def lift_options(scene: Scene, backend: Backend, rules: Rules) -> dict:
    moved = scene.to(backend.device)
    return {
        "gaussians": moved.gaussians,
        "viewmats": moved.viewmats,
        "Ks": moved.Ks,
        "backend": backend.name,
        "rules": rules,
    }


@pytest.mark.parametrize("antialiased", [False, True], ids=["classic", "antialiased"])
@pytest.mark.parametrize("name", ORDINARY)
def test_values_and_gradients(backend: Backend, rules: Rules, name: str, antialiased: bool) -> None:
    """Pictures and gradients of every differentiable input, of means2d, and absgrad."""
    skip_other_rules(backend, rules)
    made = ORDINARY[name]()
    # On most GPUs gsplat cannot record absgrad for so many channels, see test_gsplat_plumbing.
    options = {"rules": rules, "antialiased": antialiased, "absgrad": name != "64 channels"}
    options["depth"] = "expected" if antialiased else "accumulated"
    decided = ~undecided_pixels(made, rules, antialiased)[..., None]
    assert decided.double().mean() > 0.9, "too little of the picture is compared"

    exact, exact_leaves = draw(made.to(torch.float64), backend="reference", **options)
    scales = pixel_scale(exact, options)
    # The gradient of a quotient divides by the opacity twice.
    gradients = upstream(exact, {key: decided * scale**2 for key, scale in scales.items()})
    expected = pull_back(exact, exact_leaves, gradients)

    plain, plain_leaves = draw(made, backend="reference", **options)
    found, leaves = draw(made.to(backend.device), backend=backend.name, **options)
    weights = {key: decided * scale for key, scale in scales.items()}
    attained = value_errors(plain, exact, weights)
    for key, error in value_errors(found, exact, weights).items():
        assert error <= backend.allowed(backend.value_error, attained[key]), f"{key} is off by {error:.1e}"

    attained = gradient_errors(pull_back(plain, plain_leaves, gradients), expected, made)
    for key, error in gradient_errors(pull_back(found, leaves, gradients), expected, made).items():
        assert error <= backend.allowed(backend.gradient_error, attained[key]), (
            f"the gradient of {key} is off by {error:.1e}"
        )


@pytest.mark.parametrize("antialiased", [False, True], ids=["classic", "antialiased"])
def test_cpu_keeps_the_digits_of_needles(antialiased: bool) -> None:
    """Conics rounded to float32 would cost 4e-5 in values and 2e-4 in gradients here."""
    of_values, of_gradients = worst_errors(needles(), antialiased)
    assert of_values <= 2e-6 and of_gradients <= 1e-5


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_visible(backend: Backend, rules: Rules, name: str) -> None:
    skip_other_rules(backend, rules)
    made = EMPTY[name]().to(backend.device)
    raster, leaves = draw(made, backend=backend.name, rules=rules, depth="expected", absgrad=True)
    cameras = made.viewmats.shape[0]
    shape = (cameras, made.height, made.width)
    assert raster.alphas.shape == (*shape, 1) and not raster.alphas.any()
    assert raster.depth.shape == (*shape, 1) and not raster.depth.any()
    background = torch.zeros(cameras, 3) if made.background is None else made.background.cpu()
    assert torch.equal(raster.colors.detach().cpu(), background[:, None, None].expand(*shape, 3))
    if made.channels is not None:
        expected = made.channel_background.cpu()[:, None, None].expand(*shape, -1)
        assert torch.equal(raster.channels.detach().cpu(), expected)

    gradients = pull_back(raster, leaves, upstream(raster, {key: torch.ones(1) for key in _picture_names(made)}))
    for key, gradient in gradients.items():
        assert bool(gradient.any()) == key.endswith("background"), key


def _picture_names(made: Scene) -> "list[str]":
    return ["colors", "alphas", "depth"] + (["channels"] if made.channels is not None else [])


@pytest.mark.parametrize("antialiased", [False, True], ids=["classic", "antialiased"])
@pytest.mark.parametrize("name", EXTREME)
def test_extremes_stay_finite(backend: Backend, rules: Rules, name: str, antialiased: bool) -> None:
    skip_other_rules(backend, rules)
    options = {"rules": rules, "antialiased": antialiased, "depth": "expected", "absgrad": True}
    made = EXTREME[name]().to(backend.device)
    raster, leaves = draw(made, backend=backend.name, **options)
    weight = pixel_scale(raster, options)
    gradients = pull_back(raster, leaves, upstream(raster, {key: value.cpu() for key, value in weight.items()}))
    assert torch.isfinite(raster.colors).all() and torch.isfinite(raster.depth).all()
    assert (raster.alphas >= 0).all() and (raster.alphas < 1).all()
    for key, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), f"the gradient of {key}"


def test_info_is_what_strategies_read(backend: Backend, rules: Rules) -> None:
    skip_other_rules(backend, rules)
    made = scene(50, cameras_=2, width=40, height=20)
    expected = draw(made.to(torch.float64), backend="reference", rules=rules)[0].info
    info = draw(made.to(backend.device), backend=backend.name, rules=rules)[0].info
    assert (info["width"], info["height"], info["n_cameras"]) == (40, 20, 2)
    assert (info["tile_size"], info["tile_width"], info["tile_height"]) == (16, 3, 2)
    assert info["gaussian_ids"] is None and info["camera_ids"] is None
    assert info["radii"].shape == ((2, 50, 2) if rules.radii_per_axis else (2, 50))
    assert info["radii"].dtype == torch.int32
    assert torch.equal(info["radii"].cpu(), expected["radii"])
    visible = (expected["conics"] != 0).any(dim=-1)
    assert 0 < visible.sum() < visible.numel()
    for key in ("means2d", "depths", "conics", "opacities"):
        torch.testing.assert_close(
            info[key].detach().cpu()[visible].double(), expected[key].detach()[visible], rtol=1e-4, atol=1e-5
        )
    assert not info["means2d"].is_leaf and info["means2d"].requires_grad


@pytest.mark.parametrize("part", ["colors", "alphas", "depth", "channels"])
def test_gradient_of_one_picture_alone(backend: Backend, part: str) -> None:
    """A loss on one picture leaves the others without any gradient, which is not the same as one of zeros."""
    made = scene(60, sh_degree=1, channels=2)
    decided = ~undecided_pixels(made, installed_rules())[..., None]
    results = []
    for cast, name in ((torch.float64, "reference"), (backend.device, backend.name)):
        raster, leaves = draw(made.to(cast), backend=name, depth="accumulated")
        gradient = torch.randn(getattr(raster, part).shape, generator=generator(3), dtype=torch.float64) * decided
        (getattr(raster, part) * gradient.to(raster.colors)).sum().backward()
        zeros = {key: torch.zeros(leaf.shape, dtype=torch.float64) for key, leaf in leaves.items()}
        results.append({key: zeros[key] if leaf.grad is None else leaf.grad.cpu() for key, leaf in leaves.items()})
    for key, expected in results[0].items():
        assert (results[1][key] - expected).norm() <= 2 * backend.gradient_error * max(expected.norm(), 1e-9), key


def test_no_gradient_is_recorded_when_none_is_asked_for(backend: Backend) -> None:
    made = scene(50, channels=2).to(backend.device)
    raster = rasterize(**made.arguments(), backend=backend.name, depth="expected")
    assert not raster.colors.requires_grad
    drawn, _ = draw(made, backend=backend.name, depth="expected")
    with torch.no_grad():
        silent, _ = draw(made, backend=backend.name, depth="expected")
    assert not silent.colors.requires_grad
    for key in ("colors", "alphas", "depth", "channels"):
        assert torch.equal(getattr(silent, key), getattr(drawn, key).detach())


@pytest.mark.parametrize("width", [1, 2, 3, 8, 17, 64])
def test_lift(backend: Backend, rules: Rules, width: int) -> None:
    """lift is the transpose of rasterize: w^T F, for any width, in undisturbed pixels."""
    skip_other_rules(backend, rules)
    made = scene(100, cameras_=2, width=35, height=18)
    decided = ~undecided_pixels(made, rules)[..., None]
    features = torch.randn(2, 18, 35, width, generator=generator(1)) * decided
    exact_scene = made.to(torch.float64)
    exact = lift(
        exact_scene.gaussians, exact_scene.viewmats, exact_scene.Ks, features.double(), backend="reference", rules=rules
    )
    found = lift(features=features.to(backend.device), **lift_options(made, backend, rules))
    assert found.features.shape == (100, width) and found.weights.shape == (100,)
    assert (found.features.cpu() - exact.features).norm() <= backend.gradient_error * exact.features.norm()
    # The weights cannot leave a pixel out, so that they are compared through a map of ones and zeros as well.
    ones = lift(features=decided.float().to(backend.device), **lift_options(made, backend, rules)).features
    exact_ones = lift(
        exact_scene.gaussians, exact_scene.viewmats, exact_scene.Ks, decided.double(), backend="reference", rules=rules
    )
    assert (ones.cpu() - exact_ones.features).norm() <= backend.gradient_error * exact_ones.features.norm()
    everything = lift(features=torch.ones(2, 18, 35, 1, device=backend.device), **lift_options(made, backend, rules))
    torch.testing.assert_close(everything.features[:, 0], everything.weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("edge, width, height", [(1, 75, 50), (2, 200, 130), (4, 400, 300)])
def test_lift_in_squares_of_tiles(edge: int, width: int, height: int) -> None:
    """The CPU kernels gather what a splat has in a square of tiles, whose size depends on the picture's. One half is
    behind the first camera, the other behind the second; results are the same bits for any number of threads."""
    assert square_edge(-(-width // 16), -(-height // 16)) == edge
    made = half_behind(scene(60, width=width, height=height))
    about = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0])) @ made.viewmats
    made = replace(made, viewmats=torch.cat([made.viewmats, about]), Ks=made.Ks.expand(2, 3, 3))
    features = torch.randn(2, height, width, 5, generator=generator(1))
    features *= ~undecided_pixels(made, installed_rules())[..., None]
    where = {"viewmats": made.viewmats, "Ks": made.Ks}
    exact = lift(
        made.gaussians.to(torch.float64),
        made.viewmats.double(),
        made.Ks.double(),
        features.double(),
        backend="reference",
    )
    found = lift(made.gaussians, features=features, backend="cpu", **where)
    assert (found.features - exact.features).norm() <= 1e-5 * exact.features.norm()
    assert (exact.weights[::2] > 0).any() and (exact.weights[1::2] > 0).any()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        again = lift(made.gaussians, features=features, backend="cpu", **where)
        assert torch.equal(again.features, found.features) and torch.equal(again.weights, found.weights)


def test_lift_ids_is_lift_of_the_one_hot_map(backend: Backend, rules: Rules) -> None:
    skip_other_rules(backend, rules)
    made = scene(100, cameras_=2, width=35, height=18)
    ids = torch.randint(-2, 7, (2, 18, 35), generator=generator(2))
    one_hot = torch.nn.functional.one_hot(ids.clamp_min(-1) + 1, 9)[..., 1:].float()
    options = lift_options(made, backend, rules)
    dense = lift(features=one_hot.to(backend.device), **options).features.cpu()
    found = lift_ids(ids=ids.to(backend.device), n_ids=8, **options)
    assert (found.n_splats, found.n_ids) == (100, 8)
    assert found.splats.dtype == found.ids.dtype == torch.int64
    torch.testing.assert_close(found.to_sparse().to_dense().cpu(), dense, rtol=1e-5, atol=1e-6)
    assert (found.weights > 0).all(), "entries without weight are left out"
    keys = found.splats * 8 + found.ids
    assert (keys[1:] > keys[:-1]).all(), "entries are sorted by splat, then by id, each once"


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8], ids=str)
def test_lift_ids_takes_any_integers(backend: Backend, dtype: torch.dtype) -> None:
    made = scene(40, width=20, height=20)
    ids = torch.randint(0, 200, (1, 20, 20), generator=generator(2))
    options = lift_options(made, backend, installed_rules())
    expected, found = (lift_ids(ids=ids.to(backend.device, kind), **options) for kind in (torch.int64, dtype))
    # Not to the bit: on CUDA sums depend on the order in which threads come to them.
    torch.testing.assert_close(found.to_sparse().to_dense(), expected.to_sparse().to_dense(), rtol=1e-5, atol=1e-6)


def test_lift_takes_any_numbers(backend: Backend) -> None:
    made = scene(40, width=20, height=20)
    features = torch.randint(0, 200, (1, 20, 20, 3), generator=generator(2), dtype=torch.uint8).to(backend.device)
    options = lift_options(made, backend, installed_rules())
    expected, found = (lift(features=each, **options) for each in (features.float(), features))
    torch.testing.assert_close(found.features, expected.features, rtol=1e-4, atol=1e-4)


def test_lift_in_inference_mode(backend: Backend) -> None:
    with torch.inference_mode():
        made = scene(40, width=20, height=20)
        features = torch.ones(1, 20, 20, 3, device=backend.device)
        found = lift(features=features, **lift_options(made, backend, installed_rules()))
    assert found.weights.sum() > 0
    torch.testing.assert_close(found.features, found.weights[:, None].expand(-1, 3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", EMPTY)
def test_lift_of_nothing(backend: Backend, name: str) -> None:
    made = EMPTY[name]()
    shape = (made.viewmats.shape[0], made.height, made.width)
    options = lift_options(made, backend, installed_rules())
    lifted = lift(features=torch.ones(*shape, 4, device=backend.device), **options)
    assert lifted.features.shape == (len(made.gaussians), 4) and not lifted.features.any() and not lifted.weights.any()
    ids = lift_ids(ids=torch.zeros(shape, dtype=torch.long, device=backend.device), **options)
    assert len(ids.splats) == len(ids.ids) == len(ids.weights) == 0 and ids.n_ids == 1
    nowhere = lift_ids(ids=torch.full(shape, -1, device=backend.device), **options)
    assert len(nowhere.weights) == 0 and nowhere.n_ids == 0


def _everything(made: Scene, backend: Backend, rules: Rules) -> "list[torch.Tensor]":
    """All outputs and gradients of a scene."""
    raster, leaves = draw(made.to(backend.device), backend=backend.name, rules=rules, absgrad=True, depth="expected")
    gradients = pull_back(raster, leaves, upstream(raster, {key: torch.ones(1) for key in _picture_names(made)}))
    features = torch.randn(*raster.alphas.shape[:3], 5, generator=generator(4)).to(backend.device)
    ids = (features[..., 0] * 3).long()
    options = lift_options(made, backend, rules)
    lifted, by_id = lift(features=features, **options), lift_ids(ids=ids, **options)
    pictures = [raster.colors, raster.alphas, raster.depth, raster.channels]
    return [
        *(picture.detach() for picture in pictures),
        *gradients.values(),
        *(lifted.features, lifted.weights, by_id.splats, by_id.ids, by_id.weights),
    ]


def _skip_unless_deterministic(backend: Backend) -> None:
    if backend.name == "gsplat":
        pytest.skip("gsplat adds gradients with atomics, in no fixed order")


def test_thread_count_changes_no_bit(backend: Backend) -> None:
    _skip_unless_deterministic(backend)
    if backend.name == "reference":
        pytest.skip("torch promises no such thing")
    made = scene(400, sh_degree=3, channels=5, cameras_=2, width=70, height=50)
    results = []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        results.append(_everything(made, backend, GSPLAT_1_5))
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert torch.equal(first, second)


def test_kernels_use_all_threads_in_threads_that_start_while_training() -> None:
    """torch's own count is one in them, and the viewer draws in such a thread."""
    torch.set_num_threads(2)
    count = thread_count()
    with kernels_only(), ThreadPoolExecutor(1) as pool:
        assert torch.get_num_threads() == 1
        assert thread_count() == pool.submit(thread_count).result() == count
        with kernels_only():
            assert thread_count() == count
    assert torch.get_num_threads() == 2


def test_two_threads_may_draw_at_once(backend: Backend) -> None:
    """As the viewer does while training runs: same bits as drawing one after the other, and no crash."""
    _skip_unless_deterministic(backend)
    torch.set_num_threads(2)
    scenes = [scene(300, sh_degree=1, channels=3, width=50, height=40, seed=seed) for seed in (30, 31)]
    alone = [_everything(made, backend, installed_rules()) for made in scenes]
    with ThreadPoolExecutor(2) as pool:
        jobs = [(index, pool.submit(_everything, scenes[index], backend, installed_rules())) for index in (0, 1) * 5]
        for index, job in jobs:
            for found, expected in zip(job.result(), alone[index], strict=True):
                assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["quats", "opacities", "sh"])
def test_cpu_notices_a_change_before_the_gradient(name: str) -> None:
    """An optimizer's step between drawing and ``backward`` would otherwise give gradients of neither state."""
    made, tensors = scene(30, sh_degree=1, seed=40).leaves()
    picture = rasterize(**made.arguments(), backend="cpu").colors
    with torch.no_grad():
        tensors[name].add_(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        picture.sum().backward()


def test_cpu_makes_up_no_second_derivatives() -> None:
    """A penalty on the gradient would otherwise be lost without a word."""
    made, tensors = scene(30, seed=41).leaves()
    picture = rasterize(**made.arguments(), backend="cpu").colors
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(picture.sum(), tensors["means"], create_graph=True)
