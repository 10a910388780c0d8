# SPDX-License-Identifier: Apache-2.0
"""Splats that are read out of features: what each mode trains, the warm start, poses, what is kept and measured."""

import math
from dataclasses import replace
from typing import Any, Dict, List, Optional, Set

import pytest
import torch
from torch import Tensor

from nts_plugins.data.cameras import view_of
from nts_plugins.data.probe_data import ProbeScene
from nts_plugins.errors import InputError
from nts_plugins.evaluation.images import compare, compare_inside
from nts_plugins.evaluation.poses import PoseRefinement
from nts_plugins.gaussians.initialise import neighbour_distance, rgb_to_sh
from nts_plugins.method_configs.feat2gs import probe_model
from nts_plugins.models.probe import ProbeModel, ProbeModelConfig
from nts_plugins.probe.points import ProbePoints
from nts_plugins.probe.readout import READ_OUT
from nts_plugins.surfaces.depth_views import DepthView
from tests.captures import blobs
from tests.models.scenes import HEIGHT, WIDTH, Steps, camera, make_model, picture

ATTRIBUTES = {"means", "scales", "quats", "opacities", "features_dc", "features_rest"}
COUNT = 60


def points(channels: int = 5, control: bool = False, count: int = COUNT) -> ProbePoints:
    """At the blobs, with features that are linear in places and colours, and noise."""
    scene, generator = blobs(), torch.Generator().manual_seed(5)
    which = torch.randint(len(scene), (count,), generator=generator)
    positions = scene.means[which] + 0.05 * torch.randn(count, 3, generator=generator)
    known = torch.cat([positions, scene.colors[which]], dim=1)  # type: ignore[index]
    features = known @ torch.randn(6, channels, generator=generator)
    return ProbePoints(
        positions,
        torch.arange(count) % 4,
        torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT]),
        scene.colors[which],  # type: ignore[index]
        features,
        control,
    )


def scene_of(known: Optional[ProbePoints], truth: Any = None, unit: float = 1.0) -> ProbeScene:
    return ProbeScene(lambda: known, lambda: truth, unit, known)  # type: ignore[arg-type, return-value]


def probe_of(mode: Any = "geometry", known: Optional[ProbePoints] = None, **settings: Any) -> ProbeModel:
    config = probe_model(mode, **{"warm_start": 3, "pose_steps": 2, **settings})
    return make_model(config, probe=scene_of(known or points()))  # type: ignore[return-value]


def kept(model: ProbeModel) -> Dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def changed(before: Dict[str, Tensor], after: Dict[str, Tensor]) -> Set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def of_networks(names: Any) -> Set[str]:
    return {f"readout.networks.{name}" for name in names}


def batch_of(**more: Any) -> Dict[str, Any]:
    half = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    half[:, WIDTH // 2 :] = True
    return {**picture(), "covisible": half, **more}


# ---- where splats begin


def test_splats_begin_as_the_pixels_are() -> None:
    known = points()
    model = probe_of("free", known)
    params = dict(model.gauss_params.items())
    assert params.keys() == ATTRIBUTES
    assert torch.equal(params["means"], known.positions)
    torch.testing.assert_close(params["scales"], neighbour_distance(known.positions).log()[:, None].repeat(1, 3))
    assert torch.equal(params["quats"], torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(COUNT, 1))
    torch.testing.assert_close(torch.sigmoid(params["opacities"]), torch.full((COUNT, 1), 0.1))
    torch.testing.assert_close(params["features_dc"], rgb_to_sh(known.colors))  # type: ignore[arg-type]
    assert params["features_rest"].shape == (COUNT, 15, 3) and not params["features_rest"].any()


# ---- what is trained


@pytest.mark.parametrize("mode", READ_OUT)
def test_each_mode_trains_its_networks_and_what_they_do_not_say(mode: Any) -> None:
    model = probe_of(mode, warm_start=2)
    read, free = set(READ_OUT[mode]), ATTRIBUTES - set(READ_OUT[mode])
    groups = model.get_param_groups()
    assert set(groups) == {*ATTRIBUTES, "camera_opt"}
    for name in read:
        assert groups[name] == list(model.readout.networks[name].parameters())
    for name in free:
        assert groups[name] == [model.gauss_params[name]]
    steps, before = Steps(model), kept(model)
    steps.run(2)
    warm = kept(model)
    if mode != "free":
        own = {name.rsplit(".", 2)[0] for name in changed(before, warm) if name.startswith("readout")}
        assert own == of_networks(read)
        # Nothing that is trained freely moves, since no picture was drawn.
        assert changed(before, warm) <= {*(f"gauss_params.{name}" for name in read), *before} - {
            *(f"gauss_params.{name}" for name in free),
            "camera_optimizer.pose_adjustment",
        }
    steps.run(6)
    moved = changed(warm, kept(model))
    assert {name.rsplit(".", 2)[0] for name in moved if name.startswith("readout")} == of_networks(read)
    assert {f"gauss_params.{name}" for name in ATTRIBUTES} <= moved
    assert len(model.gauss_params["means"]) == COUNT


def test_the_warm_start_draws_nothing_and_teaches_networks_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    model = probe_of("all", warm_start=400)
    monkeypatch.setattr(model, "_draw", lambda *args, **kwargs: pytest.fail("A picture was drawn."))
    targets = {name: model.gauss_params[name].detach().clone() for name in ATTRIBUTES}
    losses = Steps(model, lr=1e-2).run(400)
    assert losses[-20:].mean() < 0.2 * losses[:5].mean()
    found = model.eval().splat_params()
    assert float((found["means"] - targets["means"]).abs().mean()) < 0.25 * float(targets["means"].abs().mean())
    # The loss is what the networks said, in the sum of means over values.
    model.train()
    expected = sum((found[name] - targets[name]).abs().mean() for name in ATTRIBUTES)
    assert float(model.get_loss_dict({}, {})["warm_start"]) == pytest.approx(float(expected), rel=1e-5)


def test_networks_may_begin_at_the_mean() -> None:
    first, mean = (probe_of("all", mean_start=start).eval().splat_params() for start in (False, True))
    targets = probe_of("free").gauss_params
    for name in ATTRIBUTES:
        middle = targets[name].mean(dim=0)
        shift = (mean[name] - first[name]).detach()
        # The same for all splats: what first weights make of features stays.
        torch.testing.assert_close(shift, shift[:1].expand_as(shift), atol=1e-5, rtol=0)
        assert (mean[name].mean(dim=0) - middle).abs().max() < 1, name
    assert (mean["scales"] - targets["scales"]).abs().mean() < 0.5 * (first["scales"] - targets["scales"]).abs().mean()


def test_a_warm_step_may_look_at_some_splats(monkeypatch: pytest.MonkeyPatch) -> None:
    model = probe_of(warm_batch=10)
    seen: List[int] = []
    original = model.readout.regression_loss

    def noted(features: Tensor, targets: Dict[str, Tensor]) -> Tensor:
        seen.append(len(features))
        assert all(len(each) == len(features) for each in targets.values())
        return original(features, targets)

    monkeypatch.setattr(model.readout, "regression_loss", noted)
    Steps(model).run(3)
    assert seen == [10, 10, 10]
    model.config.warm_batch = 10 * COUNT
    model.step = 0
    model.get_loss_dict({}, {})
    assert seen[-1] == COUNT


def test_optimizers_go_on_from_the_warm_start() -> None:
    model = probe_of(warm_start=3)
    steps = Steps(model)
    steps.run(3)
    weight = model.readout.networks["means"][0].weight
    moment = steps.optimizers["means"].state[weight]["exp_avg"].clone()
    assert moment.abs().max() > 0
    steps.run(1)
    state = steps.optimizers["means"].state[weight]
    assert int(state["step"]) == 4
    torch.testing.assert_close(state["exp_avg"], 0.9 * moment + 0.1 * weight.grad)  # type: ignore[operator]


def test_poses_move_for_a_while_after_the_warm_start() -> None:
    model = probe_of(warm_start=2, pose_steps=3)
    steps = Steps(model)
    places = [model.camera_optimizer.pose_adjustment.detach().clone()]
    for _ in range(8):
        steps.run(1)
        places.append(model.camera_optimizer.pose_adjustment.detach().clone())
    moves = [not torch.equal(first, second) for first, second in zip(places, places[1:], strict=False)]
    assert moves == [False] * 2 + [True] * 3 + [False] * 3


@pytest.mark.parametrize("control, expected", [(True, True), (False, False)])
def test_controls_keep_their_scales(control: bool, expected: bool) -> None:
    model = probe_of(known=points(control=control), warm_start=1)
    steps = Steps(model)
    steps.run(2)
    model.train()
    model.step_cb(type("Some", (), {"optimizers": steps.optimizers})(), 2)
    losses = model.get_loss_dict(model(camera()), picture())
    assert ("scale_anchor" in losses) is expected
    if expected:
        drift = (model.splat_params()["scales"] - model.start_values()["scales"]).abs().mean()
        assert float(losses["scale_anchor"]) == pytest.approx(0.1 * float(drift)) and float(drift) > 0


def test_tuned_features_learn_in_the_warm_start_only() -> None:
    known = points()
    model = probe_of(known=known, warm_start=4, tune_features=True)
    assert model.get_param_groups()["features"] == [model.features]
    steps = Steps(model)
    steps.run(4)
    assert not torch.equal(model.features, known.features)  # type: ignore[arg-type]
    tuned = model.features.detach().clone()  # type: ignore[union-attr]
    steps.run(4)
    assert torch.equal(model.features, tuned)  # type: ignore[arg-type]
    assert "features" in model.state_dict() and "features" not in probe_of().state_dict()


# ---- what is kept


def test_features_may_be_of_half_precision() -> None:
    half = replace(points(), features=points().features.half())  # type: ignore[union-attr]
    model = probe_of(known=half)
    assert model.features is half.features
    assert torch.isfinite(Steps(model).run(5)).all()
    assert probe_of(known=half, tune_features=True).features.dtype == torch.float32  # type: ignore[union-attr]


def test_networks_speak_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = probe_of(warm_start=1)
    steps, calls = Steps(model), []
    steps.run(1)
    original = model.readout.forward
    monkeypatch.setattr(model.readout, "forward", lambda features: (calls.append(len(features)), original(features))[1])
    steps.run(3)
    assert calls == [COUNT] * 3
    model.eval()
    first, second = model.get_outputs_for_camera(camera()), model.get_outputs_for_camera(camera())
    assert calls == [COUNT] * 4 and torch.equal(first["rgb"], second["rgb"])


@pytest.mark.parametrize("tuned", [False, True])
def test_a_checkpoint_draws_the_same_without_pictures(tuned: bool) -> None:
    model = probe_of("all", warm_start=2, tune_features=tuned)
    Steps(model).run(5)
    state = {name: value.clone() if isinstance(value, Tensor) else value for name, value in model.state_dict().items()}
    expected = model.eval().get_outputs_for_camera(camera())["rgb"]
    config = probe_model("all", warm_start=2, tune_features=tuned)
    other: Any = make_model(config, probe=scene_of(None))
    assert other.num_points == 1
    other.load_state_dict(state)
    assert other.num_points == COUNT
    assert torch.equal(other.eval().get_outputs_for_camera(camera())["rgb"], expected)
    again = probe_of("all", warm_start=2, tune_features=tuned)
    again.load_state_dict(state)
    assert torch.equal(again.eval().get_outputs_for_camera(camera())["rgb"], expected)


def test_networks_are_as_wide_as_features_or_as_they_are_told() -> None:
    widths = [probe_of(hidden=hidden).readout.networks["means"][0].out_features for hidden in (None, 7)]
    assert widths == [5, 7]


def test_a_checkpoint_of_another_mode_is_refused() -> None:
    with pytest.raises(InputError, match="of the mode geometry, and this run is of the mode texture"):
        probe_of("texture").load_state_dict(probe_of("geometry").state_dict())


def test_a_checkpoint_of_other_features_is_refused() -> None:
    with pytest.raises(InputError, match="trained with other settings"):
        probe_of(known=points(channels=4)).load_state_dict(probe_of().state_dict())


# ---- what is measured


def trained(**settings: Any) -> ProbeModel:
    model = probe_of("free", pose_steps=0, refine_test_poses=PoseRefinement(steps=20), **settings)
    Steps(model, lr=2e-2).run(60)
    return model.eval()


def test_the_protocol_compares_what_both_have_seen() -> None:
    model, batch = trained(), batch_of()
    outputs = model.get_outputs_for_camera(camera())
    metrics, _ = model.get_image_metrics_and_images(outputs, batch)
    target, mask = batch["image"] / 255, batch["covisible"]
    assert metrics["covisible"] == 0.5
    inside = compare_inside(outputs["rgb"], target, mask)
    assert {name: metrics[f"masked_{name}"] for name in inside} == pytest.approx(inside, abs=1e-5)
    error = (outputs["rgb"] - target)[:, WIDTH // 2 :].square().mean()
    assert metrics["masked_psnr"] == pytest.approx(-10 * math.log10(float(error)), abs=1e-3)
    assert compare(outputs["rgb"], target).items() <= metrics.items()
    # Poses are refined where ns-eval asks, and not whenever training shows a picture.
    assert not any(name.startswith(("refined", "published")) for name in metrics)


def test_refined_poses_make_up_for_a_shift() -> None:
    model = trained()
    model.config.refine_test_poses = PoseRefinement(steps=60, turn_rate=1e-3, shift_rate=3e-3)
    off = camera()
    off.camera_to_worlds = off.camera_to_worlds + torch.tensor([[[0.0] * 3 + [0.06], [0.0] * 4, [0.0] * 3 + [0.03]]])
    model.zero_grad()
    splats = {name: value.detach().clone() for name, value in model.gauss_params.items()}
    truth = model.get_outputs_for_camera(camera())["rgb"]
    everything = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    batch = {"image": truth, "image_idx": 0, "covisible": everything, "camera": off}
    metrics, pictures = model.get_image_metrics_and_images(model.get_outputs_for_camera(off), batch)
    assert metrics["refined_psnr"] > metrics["psnr"] + 3
    # With a mask of all pixels the three are one.
    for name in ("psnr", "ssim"):
        values = [metrics[f"{kind}_{name}"] for kind in ("refined", "refined_masked", "published")]
        assert values == pytest.approx([values[0]] * 3, abs=1e-5)
    assert pictures["img"].shape == (HEIGHT, 4 * WIDTH, 3)
    for name, value in model.gauss_params.items():
        assert torch.equal(value, splats[name]) and value.grad is None, name


def test_black_pixels_make_published_numbers_high() -> None:
    model, few = trained(), torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    few[:, : WIDTH // 8] = True
    model.config.refine_test_poses = PoseRefinement(steps=0)
    batch = {**batch_of(camera=camera()), "covisible": few}
    metrics, _ = model.get_image_metrics_and_images(model.get_outputs_for_camera(camera()), batch)
    assert metrics["refined_psnr"] == pytest.approx(metrics["psnr"], abs=1e-4)
    assert metrics["published_psnr"] == pytest.approx(metrics["refined_masked_psnr"] + 10 * math.log10(8), abs=1e-3)


def test_places_are_compared_with_those_of_their_own_pixels() -> None:
    view = view_of(camera(), camera().camera_to_worlds)
    truth = DepthView(2.5 + 0.5 * torch.rand(HEIGHT, WIDTH), view.viewmats[0], view.Ks[0])
    pixels = truth.pixels()[::7]
    own = truth.points_at(pixels)
    known = ProbePoints(own, torch.zeros(len(own)).long(), pixels, torch.rand(len(own), 3), torch.rand(len(own), 4))
    model: Any = make_model(probe_model("free"), probe=scene_of(known, (truth,), unit=0.25))
    model.gauss_params["opacities"].data[::9] = -9.0  # These do not count.
    shift = 0.02 * torch.randn(len(own), 3, generator=torch.Generator().manual_seed(0))
    model.gauss_params["means"].data += shift
    model.gauss_params["means"].data[::9] += 100.0
    found = model.further_metrics(None, None)
    assert found.keys() == {"accuracy", "completeness", "distance"}
    seen = torch.ones(len(own), dtype=torch.bool)
    seen[::9] = False
    # In units of the data, four of which are one of the scene.
    assert found["distance"] == pytest.approx(float(shift[seen].norm(dim=1).mean()) / 0.25, rel=0.05)
    assert 0 < found["accuracy"] <= found["distance"]
    model.gauss_params["means"].data = 2.0 * own + 1.0  # Another frame and scale.
    assert model.further_metrics(None, None)["distance"] < 1e-4
    assert make_model(probe_model("free"), probe=scene_of(known)).further_metrics(None, None) == {}  # type: ignore


# ---- what is refused


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"warm_start": -1}, "warm-start"),
        ({"pose_steps": -1}, "pose-steps"),
        ({"hidden": 0}, "hidden"),
        ({"num_downscales": 1}, "num-downscales"),
        ({"exposure": True}, "exposure"),
        ({"strategy": "mcmc"}, "mcmc"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: Dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        probe_of(**settings)


@pytest.mark.parametrize("mode", ["geometry", "texture", "all"])
def test_modes_that_read_need_features(mode: Any) -> None:
    with pytest.raises(InputError, match=f"{mode} reads splats out of features"):
        probe_of(mode, points(channels=0))
    assert ProbeModelConfig().mode == "geometry"
