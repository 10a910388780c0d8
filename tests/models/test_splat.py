# SPDX-License-Identifier: Apache-2.0
"""The conductor: what it draws, what it trains, and what it refuses."""

import io
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.scene_box import OrientedBox

from nts_plugins.data.cameras import view_of, world_to_camera
from nts_plugins.errors import InputError
from nts_plugins.gaussians import Gaussians
from nts_plugins.gaussians.strategies import DefaultConfig, MCMCConfig
from nts_plugins.losses import needle_loss
from nts_plugins.models.splat import SplatModelConfig
from nts_plugins.rasterization import rasterize
from tests.captures import ring_pose
from tests.models.scenes import HEIGHT, WIDTH, Steps, camera, make_model, picture

BUSY = DefaultConfig(refine_start_iter=3, refine_every=5, grow_grad2d=1e-6, reset_every=20, max_splats=200)
"""Densifies, prunes and resets within a few steps."""


def config(**values) -> SplatModelConfig:
    return SplatModelConfig(**{"num_downscales": 0, **values})


def test_it_draws_what_the_rasterizer_draws() -> None:
    model = make_model(config(background_color="white")).eval()
    model.step = 5000
    model.gauss_params["features_rest"].data.normal_(std=0.2)
    outputs = model.get_outputs_for_camera(camera())
    raster = rasterize(
        Gaussians(
            means=model.means,
            quats=model.quats,
            scales=model.scales.exp(),
            opacities=model.opacities.sigmoid()[:, 0],
            sh=torch.cat([model.features_dc[:, None], model.features_rest], dim=1),
        ),
        world_to_camera(ring_pose(0.3)[None, :3]),
        view_of(camera(), camera().camera_to_worlds).Ks,
        WIDTH,
        HEIGHT,
        sh_degree=3,
        background=torch.ones(3),
        depth="expected",
        backend="reference",
    )
    torch.testing.assert_close(outputs["rgb"], raster.colors[0].clamp(0, 1), atol=2e-5, rtol=0)
    torch.testing.assert_close(outputs["accumulation"], raster.alphas[0], atol=2e-5, rtol=0)
    hit = raster.alphas[0] > 0.01
    torch.testing.assert_close(outputs["depth"][hit], raster.depth[0][hit], atol=1e-3, rtol=1e-3)
    assert 1.5 < float(outputs["depth"][hit].mean()) < 4.5
    assert list(outputs)[0] == "rgb" and outputs["background"].shape == (HEIGHT, WIDTH, 3)


def test_views_look_where_the_camera_looks() -> None:
    """A point in front of an OpenGL camera, up and to its right, lies in the picture's upper right."""
    pose = torch.eye(4)[None, :3]
    viewmat, point = world_to_camera(pose)[0], torch.tensor([0.5, 0.25, -2.0, 1.0])
    x, y, z, _ = viewmat @ point
    assert x > 0 and y < 0 and z == 2.0
    made = camera()
    half = view_of(made, made.camera_to_worlds, factor=2)
    full = view_of(made, made.camera_to_worlds)
    assert (half.width, half.height) == (24, 18)
    torch.testing.assert_close(half.Ks[0, :2], full.Ks[0, :2] / 2)
    assert int(made.width) == WIDTH
    moved = made.camera_to_worlds.clone().requires_grad_()
    view_of(made, moved).viewmats.square().sum().backward()
    assert moved.grad is not None and moved.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", [CameraType.FISHEYE, CameraType.EQUIRECTANGULAR])
def test_only_pinhole_cameras_are_drawn(kind: CameraType) -> None:
    with pytest.raises(InputError, match=f"pinhole cameras, and {kind.name}"):
        make_model().eval().get_outputs_for_camera(camera(kind=kind))


def test_the_viewers_thread_survives_a_fisheye_preview() -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = make_model().eval()
    fisheye = camera(kind=CameraType.FISHEYE)
    with ThreadPoolExecutor(1) as viewer:
        shown = viewer.submit(model.get_outputs_for_camera, fisheye).result()
    assert torch.equal(shown["rgb"], model.get_outputs_for_camera(camera())["rgb"])
    assert int(fisheye.camera_type) == CameraType.FISHEYE.value


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_training_learns_the_picture(strategy: str, mode: str) -> None:
    mcmc = MCMCConfig(refine_start_iter=3, refine_every=10, noise_lr=1e3)
    calm = DefaultConfig(refine_start_iter=3, refine_every=10, reset_every=1000, max_splats=120)
    model = make_model(config(strategy=strategy, densify=calm, mcmc=mcmc, rasterize_mode=mode))
    losses = Steps(model, lr=2e-2).run(60)
    assert losses[-8:].mean() < 0.6 * losses[:8].mean()
    assert model.num_points != 50
    for value in model.gauss_params.values():
        assert len(value) == model.num_points and torch.isfinite(value).all()


def test_absolute_gradients_are_asked_for_when_the_strategy_wants_them() -> None:
    model = make_model(config(densify=DefaultConfig(absgrad=True, refine_start_iter=3, refine_every=5)))
    Steps(model).run(8)
    assert model.strategy_state.counts["step"] == 5


def test_resolution_and_degree_rise_on_schedule() -> None:
    model = make_model(SplatModelConfig(num_downscales=2, resolution_schedule=10, sh_degree_interval=7)).train()
    sizes, degrees = [], []
    for step in (0, 9, 10, 19, 20, 500):
        model.step = step
        sizes.append(model._factor(400, 300))
        degrees.append(model.appearance.degree_at(step))
    assert sizes == [4, 4, 2, 2, 1, 1] and degrees == [0, 1, 1, 2, 2, 3]
    model.step = 0
    assert model._factor(36, 48) == 2, "a picture is not shrunk below what SSIM can look at"
    assert model.eval()._factor(400, 300) == 1


def test_each_resolution_trains_with_targets_of_its_size() -> None:
    model = make_model(SplatModelConfig(num_downscales=1, resolution_schedule=4))
    assert torch.isfinite(Steps(model).run(8)).all()


def test_higher_harmonics_wait_for_their_degree() -> None:
    model = make_model(config(sh_degree_interval=4))
    steps = Steps(model)
    steps.run(4)
    assert model.gauss_params["features_rest"].grad is None and not model.features_rest.any()
    steps.run(1)
    assert model.features_rest[:, :3].any() and not model.features_rest[:, 3:].any()


@pytest.mark.parametrize("color,expected", [("black", 0.0), ("white", 1.0)])
def test_background(color: str, expected: float) -> None:
    model = make_model(config(background_color=color))
    model.gauss_params["opacities"].data.fill_(-20.0)
    for mode in (model.eval(), model.train()):
        assert torch.equal(mode.get_outputs(camera())["rgb"].detach(), torch.full((HEIGHT, WIDTH, 3), expected))


def test_random_background_changes_in_training_only() -> None:
    model = make_model(config(background_color="random"))
    model.gauss_params["opacities"].data.fill_(-20.0)
    model.set_background(torch.tensor([0.1, 0.2, 0.3]))
    assert torch.allclose(model.eval().get_outputs_for_camera(camera())["rgb"][3, 5], torch.tensor([0.1, 0.2, 0.3]))
    first, second = (model.train().get_outputs(camera())["rgb"] for _ in range(2))
    assert not torch.allclose(first, second)


def test_the_viewers_background_is_for_the_viewer_alone() -> None:
    """The viewer sets it whenever it draws, also while training goes on."""
    model = make_model(config(background_color="black"))
    model.gauss_params["opacities"].data.fill_(-20.0)
    model.set_background(torch.tensor([0.1, 0.2, 0.3]))
    assert not model.train().get_outputs(camera())["rgb"].any()
    assert torch.allclose(model.eval().get_outputs_for_camera(camera())["rgb"][3, 5], torch.tensor([0.1, 0.2, 0.3]))
    model.background.restore()
    assert not model.get_outputs_for_camera(camera())["rgb"].any()


def test_transparent_pictures_are_put_on_the_background_of_the_step() -> None:
    model = make_model(config(background_color="random")).train()
    model.gauss_params["opacities"].data.fill_(-20.0)
    outputs = model.get_outputs(camera())
    clear = torch.cat([picture()["image"], torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.uint8)], dim=-1)
    loss = model.get_loss_dict(outputs, {"image": clear, "image_idx": 0})["main_loss"]
    assert float(loss) == pytest.approx(0.0, abs=1e-5)


def test_masked_pixels_do_not_train() -> None:
    model = make_model().train()
    nothing = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    loss = model.get_loss_dict(model.get_outputs(camera()), {**picture(), "mask": nothing})["main_loss"]
    assert float(loss) == pytest.approx(0.0, abs=1e-6)
    half = nothing.clone()
    half[:, : WIDTH // 2] = True
    outputs = model.get_outputs(camera())
    outputs["rgb"].retain_grad()
    model.get_loss_dict(outputs, {**picture(), "mask": half})["main_loss"].backward()
    assert outputs["rgb"].grad[:, : WIDTH // 2].any() and not outputs["rgb"].grad[:, WIDTH // 2 :].any()


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_masked_pictures_train_in_nerfstudios_order(strategy: str) -> None:
    """nerfstudio asks for metrics, then for losses, with the same batch."""
    model = make_model(config(strategy=strategy)).train()
    mask = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[:, : WIDTH // 2] = True
    batch, outputs = {**picture(), "mask": mask}, model.get_outputs(camera())
    metrics = model.get_metrics_dict(outputs, batch)
    assert not metrics["psnr"].requires_grad
    model.get_loss_dict(outputs, batch, metrics)["main_loss"].backward()
    assert model.gauss_params["features_dc"].grad.any()


def test_other_degrees_are_refused() -> None:
    with pytest.raises(InputError, match="sh-degree is 4"):
        make_model(config(sh_degree=4))


def test_crop_box_shows_what_is_inside() -> None:
    model = make_model().eval()
    whole = model.get_outputs_for_camera(camera())["accumulation"]
    box = OrientedBox.from_params((0.5, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 4.0, 4.0))
    part = model.get_outputs_for_camera(camera(), obb_box=box)
    assert 0 < float(part["accumulation"].sum()) < float(whole.sum())
    empty = OrientedBox.from_params((9.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    nothing = model.get_outputs_for_camera(camera(), obb_box=empty)
    assert nothing.keys() == part.keys() and not nothing["accumulation"].any()
    assert torch.isfinite(nothing["depth"]).all()


def test_poses_are_refined_when_asked() -> None:
    model = make_model(config(camera_optimizer=CameraOptimizerConfig(mode="SO3xR3")))
    Steps(model).run(4)
    assert model.camera_optimizer.pose_adjustment.abs().sum(dim=-1).gt(0).all()


def test_needles_cost() -> None:
    assert float(needle_loss(torch.zeros(3, 3), 10.0)) == 0.0
    long = torch.tensor([[0.0, 0.0, 20.0]]).mul(torch.log(torch.tensor(10.0)) / 10)
    assert float(needle_loss(long, 10.0)) == pytest.approx(0.1 * (100 - 10), rel=1e-4)
    model = make_model(config(use_scale_regularization=True, max_gauss_ratio=1.0, scale_regularization_every=2))
    outputs = model.train().get_outputs(camera())
    assert "scale_reg" in model.get_loss_dict(outputs, picture())
    model.step = 1
    assert "scale_reg" not in model.get_loss_dict(model.get_outputs(camera()), picture())


def test_evaluation_metrics_have_the_same_keys_for_every_picture() -> None:
    model = make_model().eval()
    keys = []
    for angle in (0.0, 1.0):
        metrics, images = model.get_image_metrics_and_images(
            model.get_outputs_for_camera(camera(angle)), picture(angle)
        )
        keys.append(sorted(metrics))
        assert all(isinstance(value, float) and value == value for value in metrics.values())
        assert images["img"].shape == (HEIGHT, 2 * WIDTH, 3)
    assert keys[0] == keys[1] and {"psnr", "ssim", "gaussian_count"} <= set(keys[0])


def test_state_survives_a_file_with_another_number_of_splats() -> None:
    trained = make_model(config(densify=BUSY))
    Steps(trained).run(18)
    assert trained.num_points != 50
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh = make_model(config(densify=BUSY), seeds=20)
    parameters = dict(fresh.gauss_params)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert fresh.num_points == trained.num_points and fresh.step == trained.step
    assert all(fresh.gauss_params[name] is value for name, value in parameters.items()), "optimizers hold these"
    for name, statistic in trained.strategy_state.per_splat.items():
        assert torch.equal(fresh.strategy_state.per_splat[name], statistic)
    outputs = [model.eval().get_outputs_for_camera(camera())["rgb"] for model in (trained, fresh)]
    assert torch.equal(*outputs)


def test_a_checkpoint_of_other_settings_is_refused() -> None:
    with pytest.raises(InputError, match=r"features_rest has shape \[50, 15, 3\] there, and \[50, 3, 3\] here"):
        make_model(config(sh_degree=1)).load_state_dict(make_model().state_dict())
    state = make_model().state_dict()
    del state["gauss_params.quats"]
    with pytest.raises(InputError, match="lacks the entries gauss_params.quats"):
        make_model().load_state_dict(state)


def test_a_changed_strategy_starts_with_a_fresh_memory() -> None:
    trained = make_model(config(densify=BUSY))
    Steps(trained).run(6)
    changed = make_model(config(strategy="mcmc"))
    changed.load_state_dict(trained.state_dict())
    assert changed.strategy_state.per_splat == {} and changed.num_points == trained.num_points


def test_random_start_fills_the_region_in_view() -> None:
    options = config(random_init=True, num_random=400, random_scale=2.0)
    model = make_model(options, random_region=((10.0, 0.0, 0.0), 3.0))
    low, high = model.means.min(dim=0).values, model.means.max(dim=0).values
    assert model.num_points == 400
    torch.testing.assert_close((low + high).detach() / 2, torch.tensor([10.0, 0.0, 0.0]), atol=0.1, rtol=0)
    torch.testing.assert_close((high - low).detach(), torch.full((3,), 6.0), atol=0.2, rtol=0)


@pytest.mark.parametrize("name,alpha_color,expected", [("auto", 1.0, 1.0), ("data", 1.0, 1.0), ("auto", None, 0.0)])
def test_the_background_is_that_of_the_data(name: str, alpha_color: "float | None", expected: float) -> None:
    color = None if alpha_color is None else [alpha_color] * 3
    model = make_model(config(background_color=name), alpha_color=color)
    for mode in (True, False):
        shown = model.train(mode).get_outputs(camera())["background"].reshape(-1, 3)[0]
        assert torch.equal(shown, torch.full((3,), expected))


def test_pictures_with_alpha_train_on_any_background() -> None:
    white = {"alpha_color": [1.0, 1.0, 1.0], "has_alpha": True}
    model = make_model(config(background_color="auto"), **white)
    first, second = (model.train().get_outputs(camera())["background"] for _ in range(2))
    assert not torch.equal(first, second)
    assert bool((model.eval().get_outputs(camera())["background"] == 1.0).all())
    fixed = make_model(config(background_color="data"), **white)
    assert bool((fixed.train().get_outputs(camera())["background"] == 1.0).all())


def test_what_the_exporter_reads() -> None:
    model = make_model()
    assert model.colors.shape == (50, 3) and model.shs_0.shape == (50, 3) and model.shs_rest.shape == (50, 15, 3)
    expected = make_model().gauss_params["features_dc"] * 0.28209479177387814 + 0.5
    torch.testing.assert_close(model.colors, expected)
    assert float(model.colors.min()) >= -1e-6 and float(model.colors.max()) <= 1 + 1e-6


def test_positions_move_in_proportion_to_the_scene() -> None:
    assert make_model(camera_extent=7.0).learning_rate_scales() == {"means": 7.0}
    assert make_model(camera_extent=7.0).strategy_state.scene_scale == 7.0


def test_few_seed_points_go_farther_before_more_are_added() -> None:
    """make_model starts with 50."""
    model = make_model(config(sparse_seeds=200), camera_extent=7.0)
    assert model.learning_rate_scales() == {"means": 14.0}
    assert model.strategy.config.refine_start_iter == 2 * model.config.densify.refine_start_iter
    assert make_model(config(sparse_seeds=40)).learning_rate_scales() == {"means": 1.0}
    assert make_model(config(sparse_seeds=10**6)).learning_rate_scales() == {"means": 3.0}
    assert make_model(config(sparse_seeds=200, strategy="mcmc")).learning_rate_scales() == {"means": 1.0}


def test_no_more_numbers_in_splats_than_in_pictures() -> None:
    """The everyday preset's limit, from what the datamanager says of the pictures; heads do not count."""
    auto = config(densify=DefaultConfig(max_splats="auto"), sh_degree=3)
    assert make_model(auto, training_numbers=3 * 59_000).strategy.config.max_splats == 3000
    assert make_model(auto).strategy.config.max_splats is None


def test_controls_change_what_the_viewer_shows_and_nothing_else() -> None:
    """The viewer draws in a thread of its own."""
    model = make_model().eval()
    codes = torch.linspace(-3, 3, model.num_points)[:, None]
    model.gauss_params["opacities"].data.copy_(codes)

    def drawn_by_the_viewer() -> torch.Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(model.get_outputs_for_camera, camera()).result()["accumulation"]

    plain = model.get_outputs_for_camera(camera())["accumulation"]
    assert torch.equal(drawn_by_the_viewer(), plain)
    for slider, value in ((model.controls.size, 50), (model.controls.faintest, 60)):
        slider.gui_handle = SimpleNamespace(value=value)
        shown = drawn_by_the_viewer()
        assert (shown <= plain + 1e-5).all() and shown.mean() < 0.9 * plain.mean()
        assert torch.equal(model.get_outputs_for_camera(camera())["accumulation"], plain)
        slider.gui_handle = None


def test_the_viewer_shows_fewer_harmonics_on_demand() -> None:
    model = make_model(config(sh_degree_interval=1)).eval()
    model.step = 10
    model.gauss_params["features_rest"].data.normal_()
    model.controls.degree.gui_handle = SimpleNamespace(value=0)
    with ThreadPoolExecutor(1) as pool:
        shown = pool.submit(model.get_outputs_for_camera, camera()).result()["rgb"]
    model.gauss_params["features_rest"].data.zero_()
    torch.testing.assert_close(shown, model.get_outputs_for_camera(camera())["rgb"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("setting", [{"ssim_lambda": 5.0}, {"num_downscales": -1}, {"sh_degree_interval": -1}])
def test_settings_out_of_range_are_named(setting: dict) -> None:
    (name,) = setting
    with pytest.raises(InputError, match=f"--pipeline.model.{name.replace('_', '-')} is .*; it must be"):
        make_model(config(**setting))


def test_opacity_costs_a_part_of_the_pictures_loss() -> None:
    costly = config(densify=DefaultConfig(opacity_cost=0.5))
    model = make_model(costly, training_numbers=59 * 200)
    model.step = costly.densify.refine_stop_iter
    losses = model.get_loss_dict(model.get_outputs(camera()), picture())
    share = model.opacities.sigmoid().sum() / 200
    torch.testing.assert_close(losses["opacity_cost"], 0.5 * losses["main_loss"] * share)
    model.eval()
    assert "opacity_cost" not in model.get_loss_dict(model.get_outputs(camera()), picture())
    for free in (make_model(costly), make_model(config(strategy="mcmc"), training_numbers=59 * 200)):
        assert "opacity_cost" not in free.get_loss_dict(free.get_outputs(camera()), picture())
