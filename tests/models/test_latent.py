# SPDX-License-Identifier: Apache-2.0
"""Splats of latents: where they are drawn and how large, which pictures train them, how the decoder is aligned with
them, and what is measured, refused and exported."""

import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from nts_plugins.appearance.background import over_background
from nts_plugins.data.cameras import view_of
from nts_plugins.data.latent_data import SceneLatents, padded_picture
from nts_plugins.encoders.latent_space import AlignedDecoder
from nts_plugins.encoders.latents import LatentCodec
from nts_plugins.encoders.tiny_codec import TinyCodec
from nts_plugins.errors import InputError
from nts_plugins.evaluation.images import compare
from nts_plugins.gaussians import Gaussians
from nts_plugins.gaussians.initialise import rgb_to_sh, sh_to_rgb
from nts_plugins.gaussians.strategies import DefaultConfig
from nts_plugins.models.latent import LatentModel, LatentModelConfig
from nts_plugins.rasterization import rasterize
from nts_plugins.training import checkpoints
from tests import runs
from tests.captures import FOCAL, ring_pose, write_capture
from tests.encoders.small import BlockCodec
from tests.encoders.test_latents import kl
from tests.models.scenes import HEIGHT, WIDTH, Steps, camera, make_model, picture

METHOD = "latent-radiance-field"
CODEC = ["--pipeline.datamanager.codec.name", "tests.encoders.small:block_codec"]
START = ["--pipeline.model.alignment-start", "12"]


def other_codec(folder: Optional[Path], option: str) -> BlockCodec:
    """Of the same size, and of another name."""
    codec = BlockCodec()
    codec.name = "other blocks"
    return codec


def kl_codec(folder: Optional[Path], option: str) -> LatentCodec:
    """An autoencoder of a latent diffusion model, small and random."""
    torch.manual_seed(0)
    return kl()


def config(**values: Any) -> LatentModelConfig:
    return LatentModelConfig(**{"num_downscales": 0, **values})


def encoded(codec: LatentCodec, image: Tensor, color: Any = None) -> Tensor:
    """[h, w, D] latents of a photograph."""
    with torch.no_grad():
        return codec.encode(padded_picture(over_background(image, color), codec.factor))[0].permute(1, 2, 0)


def scene_of(codec: LatentCodec) -> SceneLatents:
    """The four photographs that :class:`Steps` train on."""
    images = [picture(math.pi * number / 2)["image"] for number in range(4)]
    padded = [padded_picture(image / 255, codec.factor) for image in images]
    colors = [torch.nn.functional.avg_pool2d(each, codec.factor)[0].permute(1, 2, 0) for each in padded]
    return SceneLatents(codec, tuple(encoded(codec, image) for image in images), tuple(colors))


def blocks() -> BlockCodec:
    return BlockCodec().requires_grad_(False)


def latent_model(settings: Optional[LatentModelConfig] = None, **metadata: Any) -> LatentModel:
    return make_model(settings or config(), latents=scene_of(blocks()), **metadata)  # type: ignore[return-value]


def odd_camera(width: int = 49, height: int = 37, cx: float = 23.3, cy: float = 19.8) -> Cameras:
    made = Cameras(
        camera_to_worlds=ring_pose(0.3)[None, :3],
        fx=FOCAL * width,
        fy=1.1 * FOCAL * width,
        cx=cx,
        cy=cy,
        width=width,
        height=height,
        camera_type=CameraType.PERSPECTIVE,
    )
    made.metadata = {"cam_idx": 0}
    return made


class LatentSteps(Steps):
    """A training loop whose pictures come with their latents."""

    model: LatentModel

    def picture(self, angle: float, time: float) -> Dict[str, Any]:
        batch = super().picture(angle, time)
        mean = torch.nn.functional.avg_pool2d(padded_picture(batch["image"] / 255, self.model.codec.factor), 2)
        colors = mean[0].permute(1, 2, 0)
        return {**batch, "latents": encoded(self.model.codec, batch["image"]), "latent_colors": colors}


def values_of(module: torch.nn.Module) -> Dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def same(first: Dict[str, Tensor], second: Dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- what is drawn


@pytest.mark.parametrize("factor", [2, 8])
@pytest.mark.parametrize(
    "size, center", [((48, 40), (24.0, 20.0)), ((49, 37), (23.3, 19.8)), ((33, 63), (7.125, 40.6))]
)
def test_what_a_camera_sees_lies_where_its_pixel_lies(
    factor: int, size: "tuple[int, int]", center: "tuple[float, float]"
) -> None:
    codec = blocks() if factor == 2 else TinyCodec("tiny", 4).requires_grad_(False)
    model = make_model(config(), latents=SceneLatents(codec))
    made = odd_camera(*size, *center)
    full, small = view_of(made, made.camera_to_worlds), model._view(made, made.camera_to_worlds)
    assert (small.width, small.height) == tuple(math.ceil(side / factor) for side in size)
    assert (full.width, full.height) == size and torch.equal(small.viewmats, full.viewmats)
    points = torch.cat([torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) - 0.5, torch.ones(20, 1)], dim=1)

    def pixels(view: Any) -> Tensor:
        at = (points @ view.viewmats[0].T)[:, :3] @ view.Ks[0].T
        return at[:, :2] / at[:, 2:]

    assert torch.equal(pixels(small), pixels(full) / factor)
    assert float(pixels(full).std()) > 5


def test_outputs_are_as_large_as_the_photograph() -> None:
    model = latent_model().eval()
    outputs = model.get_outputs_for_camera(odd_camera())
    assert list(outputs)[0] == "rgb"
    assert {name: value.shape for name, value in outputs.items()} == {
        **dict.fromkeys(("rgb", "background", "latent_colors", "latent_pca"), (37, 49, 3)),
        **dict.fromkeys(("accumulation", "depth"), (37, 49, 1)),
        "latent": (19, 25, 4),
    }
    assert all(value.isfinite().all() for value in outputs.values())
    for name in ("rgb", "latent_colors", "latent_pca"):
        assert outputs[name].min() >= 0 and outputs[name].max() <= 1 and outputs[name].std() > 0.02


def test_the_picture_is_what_the_codec_makes_of_what_is_drawn() -> None:
    model = latent_model().eval()
    outputs = model.get_outputs_for_camera(odd_camera())
    latents = model.space.latents(outputs["latent"]).permute(2, 0, 1)[None]
    decoded = model.codec.decode(latents)[0].permute(1, 2, 0)[:37, :49]
    assert torch.equal(outputs["rgb"], decoded.clamp(0, 1))
    every_second = outputs["latent_colors"][::2, ::2]
    assert torch.equal(every_second, model.space.colors(outputs["latent"]).clamp(0, 1))
    assert torch.equal(outputs["latent_colors"][1::2, 1::2], every_second[:-1, :-1])


def test_numbers_are_those_that_the_rasterizer_draws() -> None:
    model = latent_model(alpha_color=[1.0, 1.0, 1.0]).eval()
    model.step = 5000
    model.gauss_params["features_rest"].data.normal_(std=0.1)
    outputs, made = model.get_outputs_for_camera(camera()), camera()
    raster = drawn(model, model.gauss_params, made, model.background.on_show(torch.device("cpu")))
    torch.testing.assert_close(outputs["latent"], raster, atol=2e-5, rtol=0)


def drawn(model: LatentModel, params: Any, made: Cameras, background: Tensor) -> Tensor:
    """[h, w, C] of splats, at the latents' resolution."""
    gaussians = Gaussians(
        means=params["means"],
        quats=params["quats"],
        scales=params["scales"].exp(),
        opacities=params["opacities"].sigmoid()[:, 0],
        sh=torch.cat([params["features_dc"][:, None], params["features_rest"]], dim=1),
    )
    view = model._view(made, made.camera_to_worlds)
    with torch.no_grad():
        raster = rasterize(gaussians, *view.camera, sh_degree=3, background=background, backend="reference")
    return raster.colors[0]


@pytest.mark.parametrize("color", [None, (1.0, 1.0, 1.0), (0.9, 0.2, 0.4)])
def test_where_nothing_is_the_datas_colour_is_seen(color: "tuple[float, ...] | None") -> None:
    model = latent_model(alpha_color=color).eval()
    model.gauss_params["opacities"].data.fill_(-30.0)
    outputs = model.get_outputs_for_camera(camera())
    wanted = torch.tensor(color or (0.0, 0.0, 0.0)).expand(HEIGHT, WIDTH, 3)
    torch.testing.assert_close(outputs["rgb"], wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs["background"], wanted)
    model.set_background(torch.tensor([0.1, 0.6, 0.3]))
    shown = model.get_outputs_for_camera(camera())["rgb"]
    torch.testing.assert_close(shown, torch.tensor([0.1, 0.6, 0.3]).expand_as(shown), atol=1e-5, rtol=0)
    model.background.restore()
    assert torch.equal(model.get_outputs_for_camera(camera())["rgb"], outputs["rgb"])


@pytest.mark.parametrize("normalisation", ["min-max", "bounded"])
def test_splats_begin_with_latents_of_the_seeds_colours(normalisation: str) -> None:
    model = latent_model(config(normalisation=normalisation))
    seeds = model.seed_points[1] / 255
    latents = model.space.latents(sh_to_rgb(model.features_dc)[None])[0]
    torch.testing.assert_close(latents[:, :3], seeds, atol=0.01, rtol=0)  # The fourth is no colour.
    torch.testing.assert_close(model.colors, seeds, atol=0.05, rtol=0)


# ---- training


@pytest.mark.parametrize("normalisation", ["min-max", "bounded"])
def test_training_learns_the_latents(normalisation: str) -> None:
    model = latent_model(config(normalisation=normalisation))
    before = values_of(model.decoder)
    losses = LatentSteps(model, lr=2e-2).run(40)
    assert losses[-8:].mean() < 0.7 * losses[:8].mean()
    assert same(values_of(model.decoder), before), "it waits for the alignment"


def test_colours_are_drawn_in_the_same_pass_and_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    model = latent_model(config(with_colors=True, sh_degree_interval=10))
    alone = latent_model()
    assert model.features_dc.shape == (50, 7) and model.features_rest.shape == (50, 15, 7)
    assert torch.equal(model.features_dc[:, :4], alone.features_dc)
    torch.testing.assert_close(model.colors, model.seed_points[1] / 255, atol=1e-5, rtol=0)
    behind = latent_model(config(with_colors=True), alpha_color=[0.1, 0.6, 0.3]).background.on_show(model.device)
    assert behind.shape == (7,) and behind[4:].tolist() == pytest.approx([0.1, 0.6, 0.3])
    calls: List[Any] = []
    draw = model._draw
    monkeypatch.setattr(model, "_draw", lambda *args, **more: calls.append(1) or draw(*args, **more))
    steps = LatentSteps(model, lr=2e-2)
    steps.run(60)
    assert len(calls) == 60
    model.eval()
    batch = steps.picture(0.3, 0.0)
    outputs = model.get_outputs_for_camera(camera())
    assert outputs["latent"].shape == (18, 24, 4) and outputs["rgb"].shape == (HEIGHT, WIDTH, 3)
    shown = outputs["latent_colors"][::2, ::2]
    assert torch.equal(outputs["latent_colors"][1::2, 1::2], shown)
    true = batch["latent_colors"]
    assert (shown - true).abs().mean() < 0.5 * (true - true.mean(dim=(0, 1))).abs().mean()
    assert not torch.equal(shown, model.space.colors(outputs["latent"]).clamp(0, 1)), "no guess from latents"
    assert model.drawn_numbers(camera()).shape == (18, 24, 4)
    exported = model.exported_params()
    assert torch.equal(exported["features_rest"], model.features_rest[..., 4:])
    torch.testing.assert_close(exported["features_dc"], model.features_dc[:, 4:])


def test_as_many_splats_are_allowed_for_each_number_with_colours() -> None:
    settings = config(densify=DefaultConfig(max_splats="auto"))
    alone = latent_model(settings, training_numbers=4_000_000)
    both = latent_model(replace(settings, with_colors=True), training_numbers=4_000_000)
    limits = [model.strategy.config.max_splats for model in (alone, both)]
    own = [sum(value[0].numel() for value in model.gauss_params.values()) for model in (alone, both)]
    assert limits[1] / limits[0] == pytest.approx(7 / 4 * own[0] / own[1], rel=1e-3)


@pytest.mark.parametrize("crop", [0, 7])
def test_the_alignment_trains_the_decoder_alone(crop: int) -> None:
    model = latent_model(config(alignment_start=8, alignment_crop=crop))
    steps = LatentSteps(model, lr=1e-2)
    steps.run(8)
    splats, decoder, codec = values_of(model.gauss_params), values_of(model.decoder), values_of(model.codec)
    space = {name: value.clone() for name, value in model.space.named_buffers()}
    losses = steps.run(40)
    assert losses[-8:].mean() < 0.9 * losses[:8].mean()
    assert same(values_of(model.gauss_params), splats)
    assert same(values_of(model.codec), codec) and same(codec, values_of(blocks()))
    assert same(dict(model.space.named_buffers()), space)
    after = values_of(model.decoder)
    assert not any(torch.equal(after[name], decoder[name]) for name in decoder)


def test_the_decoder_learns_from_squares_anywhere_in_the_picture() -> None:
    model = latent_model(config(alignment_start=1, alignment_crop=7)).train()
    model.step, seen = 1, torch.zeros(37, 49)
    torch.manual_seed(0)
    image = torch.randint(256, (37, 49, 3), dtype=torch.uint8)
    with torch.no_grad():
        whole = model.eval().get_outputs_for_camera(odd_camera())["latent"]
        decoded = model.decoded(whole, (37, 49), model.decoder)
        model.train()
        for _ in range(150):
            outputs = model.get_outputs(odd_camera())
            prediction, target = model._prediction_and_target(outputs, {"image": image})
            top, left = outputs["corner"].tolist()
            rows, columns = prediction.shape[:2]
            assert top % 2 == 0 and left % 2 == 0 and 13 <= rows <= 14 and 13 <= columns <= 14
            torch.testing.assert_close(prediction, decoded[top : top + rows, left : left + columns], atol=1e-5, rtol=0)
            assert torch.equal(target, image[top : top + rows, left : left + columns] * (1 / 255))
            seen[top : top + rows, left : left + columns] = 1
    assert seen.mean() > 0.8 and all(edge.any() for edge in (seen[0], seen[-1], seen[:, 0], seen[:, -1]))


def test_the_decoder_learns_pictures_with_alpha_over_the_datas_colour() -> None:
    model = latent_model(config(alignment_start=1, alignment_crop=0), alpha_color=[0.2, 1.0, 0.6], has_alpha=True)
    model.train().step = 1
    alpha = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.uint8)
    alpha[10:, 20:] = 255
    image = picture()["image"]
    _, target = model._prediction_and_target(
        model.get_outputs(camera()), {"image": torch.cat([image, alpha], dim=-1), "image_idx": 0}
    )
    torch.testing.assert_close(target[10:, 20:], image[10:, 20:] / 255)
    torch.testing.assert_close(target[:10], torch.tensor([0.2, 1.0, 0.6]).expand(10, WIDTH, 3))


def losses_of(model: LatentModel, image: Tensor, mask: Optional[Tensor]) -> Dict[str, float]:
    """Of one step, with the same part of the picture each time."""
    torch.manual_seed(0)
    batch = {"image": image, "image_idx": 0, "latents": encoded(model.codec, image)}
    batch = batch if mask is None else {**batch, "mask": mask}
    outputs = model.get_outputs(camera())
    return {name: float(value.detach()) for name, value in model.get_loss_dict(outputs, batch).items()}


@pytest.mark.parametrize("step, crop", [(0, 16), (10, 0), (10, 9)])
def test_masked_places_do_not_count(step: int, crop: int) -> None:
    model = latent_model(config(alignment_start=10, alignment_crop=crop)).train()
    model.step = step
    mask = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[7:29, 11:41] = False
    image = picture()["image"]
    covered, beside = image.clone(), image.clone()
    covered[7:29, 11:41] = torch.randint(256, (22, 30, 3), dtype=torch.uint8)
    beside[:6], beside[30:], beside[:, :10], beside[:, 42:] = 90, 90, 90, 90
    assert losses_of(model, covered, mask) == losses_of(model, image, mask)
    assert losses_of(model, covered, None) != losses_of(model, image, None)
    assert losses_of(model, beside, mask) != losses_of(model, image, mask)


def test_latents_count_where_all_of_their_pixels_do() -> None:
    model = latent_model().train()
    mask = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[:, 19:] = True  # One of two columns of the tenth latent.
    mask[9:11, 4] = True  # One pixel of four in each of two latents.
    batch = {"image": picture()["image"], "mask": mask}
    batch["latents"] = torch.ones(HEIGHT // 2, WIDTH // 2, 4)
    _, target = model._prediction_and_target(model.get_outputs(camera()), batch)
    assert not target[:, :10].any() and target[:, 10:].any(dim=-1).all()


# ---- which pictures are trained


@pytest.mark.parametrize("every, count", [(2, 9), (3, 9), (4, 17), (8, 8), (8, 100)])
def test_one_picture_in_so_many_is_kept_until_the_alignment(every: int, count: int) -> None:
    model = latent_model(config(novel_every=every, alignment_start=50))
    model.num_train_data = count
    trained = model.pictures_at(0)
    assert trained is not None and sorted(set(trained)) == list(trained)
    kept = sorted(set(range(count)) - set(trained))
    assert len(kept) in (count // every, -(-count // every))
    assert all(after - before == every for before, after in zip(kept, kept[1:], strict=False))
    assert list(model.pictures_at(49) or ()) == list(trained)
    assert model.pictures_at(50) is None and model.pictures_at(1000) is None


def test_no_picture_is_kept_where_none_is_asked_for_or_there_are_few() -> None:
    model = latent_model(config(novel_every=0))
    model.num_train_data = 100
    assert model.pictures_at(0) is None
    model = latent_model(config(novel_every=8))
    model.num_train_data = 7
    assert model.pictures_at(0) is None


def test_all_that_is_trained_on_comes_before_the_alignment_and_everything_in_it(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "capture", views=12, size=(25, 19))
    options = [*CODEC, "--pipeline.model.alignment-start", "30", "--pipeline.model.novel-every", "3"]
    pipeline = runs.trainer(METHOD, capture, tmp_path / "outputs", 100, *options).pipeline
    data, trained = pipeline.datamanager, pipeline.model.pictures_at(0)
    assert len(data.train_dataset) == 9 and len(trained) == 6
    before = [data.train_index(step) for step in range(30)]
    after = [data.train_index(step) for step in range(30, 57)]
    for epoch in range(5):
        assert sorted(before[6 * epoch : 6 * epoch + 6]) == list(trained)
    assert len({tuple(before[6 * epoch : 6 * epoch + 6]) for epoch in range(5)}) > 1
    assert set(after) == set(range(9))
    assert sorted(after[6:15]) == sorted(after[15:24]) == list(range(9)), "36 is the first step of an epoch of nine"
    for step, index in ((3, before[3]), (20, before[20]), (35, after[5]), (29, before[29]), (30, after[0])):
        assert data.train_index(step) == index, "whatever was asked for before"
        assert data.next_train(step)[1]["image_idx"] == index


# ---- a run


class Ended(NamedTuple):
    """A training that ended where the alignment begins, and one that went on from there."""

    capture: Path
    first: Path
    second: Path
    codec: LatentCodec


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("ended")
    capture = write_capture(folder / "capture", size=(49, 37))
    first = runs.train(METHOD, capture, folder / "first", 12, *CODEC, *START)
    resumed = ["--load-checkpoint", str(runs.checkpoint(first))]
    # Large steps, so that few of them change pictures.
    rate = ["--optimizers.latent-decoder.optimizer.lr", "0.01"]
    trainer = runs.trainer(METHOD, capture, folder / "second", 30, *CODEC, *START, *rate, *resumed)
    trainer.train()
    return Ended(capture, first, trainer.base_dir, trainer.pipeline.model.codec)


def saved(run: Path) -> Dict[str, Any]:
    return checkpoints.read(runs.checkpoint(run))["pipeline"]


def test_a_run_goes_on_with_the_alignment_and_its_splats_stay(ended: Ended) -> None:
    before, after = saved(ended.first), saved(ended.second)
    assert before.keys() == after.keys()
    changed = {
        name for name in before if isinstance(before[name], Tensor) and not torch.equal(before[name], after[name])
    }
    assert changed == {"_model.decoder.weights.decoder/weight", "_model.decoder.weights.decoder/bias"}
    own = AlignedDecoder(blocks()).state_dict()
    assert all(torch.equal(before[f"_model.decoder.{name}"], value) for name, value in own.items())
    assert same(values_of(ended.codec), values_of(blocks()))
    assert before["_model._extra_state"]["codec"] == "blocks" and before["_model._extra_state"]["channels"] == 4


def test_a_loaded_run_draws_as_the_trained_one(ended: Ended) -> None:
    found = runs.load(ended.second).model
    state = {name: value for name, value in found.state_dict().items() if isinstance(value, Tensor)}
    kept = saved(ended.second)
    assert all(torch.equal(value, kept[f"_model.{name}"]) for name, value in state.items())
    made = odd_camera()
    after = found.get_outputs_for_camera(made)
    before = runs.load(ended.first).model.get_outputs_for_camera(made)
    assert torch.equal(before["latent"], after["latent"]) and not torch.equal(before["rgb"], after["rgb"])


def test_raw_and_ceiling_are_of_the_codecs_own_decoder(ended: Ended, tmp_path: Path) -> None:
    pipeline = runs.load(ended.second)
    model, pairs = pipeline.model, pipeline.datamanager.fixed_indices_eval_dataloader
    found: List[Dict[str, float]] = []
    for made, batch in pairs:
        photograph = batch["image"] / 255
        codecs = model.codec.decode(model.codec.encode(padded_picture(photograph, 2)))[0].permute(1, 2, 0)
        ceiling = compare(codecs[:37, :49].clamp(0, 1), photograph)
        outputs = model.get_outputs_for_camera(made)
        metrics, pictures = model.get_image_metrics_and_images(outputs, batch)
        for name, value in ceiling.items():
            assert metrics[f"ceiling_{name}"] == pytest.approx(value, rel=1e-5)
        assert metrics["psnr"] == pytest.approx(compare(outputs["rgb"], photograph)["psnr"], rel=1e-5)
        assert abs(metrics["raw_psnr"] - metrics["psnr"]) > 0.05, "the decoder has changed"
        error = (outputs["latent"] - model.space.numbers(encoded(model.codec, batch["image"]))).square().mean()
        assert metrics["latent_psnr"] == pytest.approx(float(-10 * torch.log10(error)), rel=1e-4)
        shown = torch.cat([photograph, outputs["rgb"], codecs[:37, :49].clamp(0, 1)], dim=1)
        torch.testing.assert_close(pictures["img"], shown, atol=1e-6, rtol=0)
        found.append(metrics)
    results = runs.evaluate(ended.second, tmp_path / "results.json")
    for name in ("psnr", "raw_psnr", "raw_ssim", "ceiling_psnr", "ceiling_ssim", "latent_psnr"):
        assert results[name] == pytest.approx(sum(each[name] for each in found) / len(found), rel=1e-5)
    model.decoder.load_state_dict(AlignedDecoder(model.codec).state_dict())
    for (made, batch), metrics in zip(pairs, found, strict=True):
        own, _ = model.get_image_metrics_and_images(model.get_outputs_for_camera(made), batch)
        for name in ("psnr", "ssim"):
            assert own[name] == own[f"raw_{name}"] == metrics[f"raw_{name}"]


# ---- what is refused


@pytest.mark.parametrize(
    "values, message",
    [
        ({"exposure": True}, "no exposure.*--pipeline.model.exposure"),
        ({"num_downscales": 2}, "num-downscales are not for this method"),
        ({"background_color": "white"}, "--pipeline.model.background-color is auto or data.*--alpha-color"),
        ({"background_color": "random"}, "--pipeline.model.background-color is auto or data"),
        ({"novel_every": 1}, "--pipeline.model.novel-every must be 0 or at least 2"),
        ({"novel_every": -3}, "--pipeline.model.novel-every must be 0 or at least 2"),
        ({"alignment_crop": -1}, "--pipeline.model.alignment-crop at least 0"),
        ({"alignment_start": 0}, "--pipeline.model.alignment-start at least 1"),
    ],
)
def test_settings_that_latents_have_no_use_for_are_refused(values: Dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        latent_model(config(**values))


@pytest.mark.parametrize("color", ["auto", "data"])
def test_backgrounds_of_the_data_are_taken(color: str) -> None:
    model = latent_model(config(background_color=color), alpha_color=[1.0, 1.0, 1.0], has_alpha=True)
    white = encoded(model.codec, torch.full((4, 4, 3), 255, dtype=torch.uint8))[:1, :1]
    torch.testing.assert_close(model.background.in_training(torch.device("cpu")), model.space.numbers(white)[0, 0])


def test_a_refused_run_leaves_nothing(ended: Ended, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no exposure"):
        runs.trainer(METHOD, ended.capture, tmp_path / "outputs", 10, *CODEC, "--pipeline.model.exposure", "True")
    assert not (tmp_path / "outputs").exists()


def test_a_checkpoint_of_another_codec_is_refused(ended: Ended, tmp_path: Path) -> None:
    options = ["--pipeline.datamanager.codec.name", f"{__name__}:other_codec"]
    options += ["--load-checkpoint", str(runs.checkpoint(ended.first))]
    with pytest.raises(InputError, match="codec blocks, of 4 channels.*other blocks, of 4.*datamanager.codec.name"):
        runs.trainer(METHOD, ended.capture, tmp_path / "outputs", 40, *options)
    assert not (tmp_path / "outputs").exists()


def test_a_checkpoint_of_other_weights_is_refused() -> None:
    torch.manual_seed(0)
    first, second = (TinyCodec("taesd", 4).requires_grad_(False) for _ in range(2))
    models = [make_model(config(), latents=SceneLatents(codec)) for codec in (first, second)]
    with pytest.raises(InputError, match="codec taesd with other weights.*--pipeline.datamanager.codec.weights"):
        models[1].load_state_dict(models[0].state_dict())
    again = TinyCodec("taesd", 4).requires_grad_(False)
    again.load_state_dict(first.state_dict())
    make_model(config(), latents=SceneLatents(again)).load_state_dict(models[0].state_dict())


def test_a_checkpoint_of_other_channels_is_refused() -> None:
    wide = make_model(config(), latents=SceneLatents(TinyCodec("blocks", 16).requires_grad_(False)))
    model = latent_model()
    with pytest.raises(InputError, match="codec blocks, of 16 channels.*codec here is blocks, of 4"):
        model.load_state_dict(wide.state_dict())
    with pytest.raises(InputError, match="codec blocks, of 4 channels.*codec here is blocks, of 16"):
        wide.load_state_dict(model.state_dict())


# ---- files


def test_exported_splats_are_the_colours_of_what_is_drawn() -> None:
    model = latent_model(alpha_color=[0.9, 0.6, 0.3]).eval()
    model.step = 5000
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        numbers = 0.35 + 0.3 * torch.rand(model.num_points, 4, generator=generator)
        model.gauss_params["features_dc"].copy_(rgb_to_sh(numbers))
        rest = 0.02 * torch.randn(*model.features_rest.shape, generator=generator)
        model.gauss_params["features_rest"].copy_(rest)
        model.space.to_colors[-1] += 0.1  # Numbers of these photographs are zero where they are black.
        exported = model.exported_params()
        shown = model.get_outputs_for_camera(camera())
        behind = model.space.colors(model.background.on_show(torch.device("cpu")))
        wanted = model.space.colors(shown["latent"])
    assert exported["features_dc"].shape == (50, 3) and exported["features_rest"].shape == (50, 15, 3)
    assert sh_to_rgb(exported["features_dc"]).min() > 0.2, "nothing is clipped"
    torch.testing.assert_close(drawn(model, exported, camera(), behind), wanted, atol=5e-5, rtol=0)
    torch.testing.assert_close(shown["latent_colors"][::2, ::2], wanted.clamp(0, 1))
    assert 0.05 < float(shown["accumulation"].mean()) < 0.95 and float(wanted.std()) > 0.05
    for name in ("means", "quats", "scales", "opacities"):
        assert torch.equal(exported[name], model.gauss_params[name])


def test_nerfstudios_exporter_finds_the_same_colours() -> None:
    model = latent_model()
    model.gauss_params["features_rest"].data.normal_(std=0.1)
    exported = model.exported_params()
    assert torch.equal(model.shs_0, exported["features_dc"]) and torch.equal(model.shs_rest, exported["features_rest"])
    torch.testing.assert_close(model.colors, sh_to_rgb(exported["features_dc"]), atol=1e-6, rtol=0)
    assert model.colors.shape == (50, 3)


def test_training_that_ends_before_the_alignment_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    capture = write_capture(tmp_path / "capture")
    for steps, said in ((5, True), (6, False)):
        more = [*CODEC, "--pipeline.model.alignment-start", "5"]
        runs.train(METHOD, capture, tmp_path / str(steps), steps, *more)
        assert ("The decoder learns from step 5 on" in capsys.readouterr().out) == said


def test_poses_stay_in_the_alignment(tmp_path: Path) -> None:
    more = [*CODEC, "--pipeline.model.alignment-start", "5", "--pipeline.model.camera-optimizer.mode", "SO3xR3"]
    more += ["--optimizers.camera-opt.scheduler.warmup-steps", "1", "--steps-per-save", "5"]
    more += ["--save-only-latest-checkpoint", "False"]
    folder = runs.train(METHOD, write_capture(tmp_path / "capture"), tmp_path / "outputs", 10, *more)
    states = [checkpoints.read(path)["pipeline"] for path in sorted((folder / "nerfstudio_models").iterdir())]
    first, last = (state["_model.camera_optimizer.pose_adjustment"] for state in (states[-2], states[-1]))
    assert first.abs().sum() > 0 and torch.equal(first, last)


def test_kept_pictures_are_kept_however_others_are_drawn(tmp_path: Path) -> None:
    more = [*CODEC, "--pipeline.model.alignment-start", "20", "--pipeline.model.novel-every", "3"]
    more += ["--pipeline.datamanager.train-cameras-sampling-strategy", "fps"]
    capture = write_capture(tmp_path / "capture", views=12, size=(25, 19))
    pipeline = runs.trainer(METHOD, capture, tmp_path / "outputs", 40, *more).pipeline
    drawn = [pipeline.datamanager.next_train(step)[1]["image_idx"] for step in range(40)]
    assert set(drawn[:20]) == set(pipeline.model.pictures_at(0)) and set(drawn[20:]) == set(range(9))


class Drawing(threading.Thread):
    """The viewer's thread, which draws one picture."""

    def __init__(self, model: LatentModel, state: str) -> None:
        super().__init__()
        self.model, self.state = model, state
        self.outputs: Dict[str, Tensor] = {}

    def run(self) -> None:
        self.outputs = self.model.get_outputs_for_camera(camera())


def test_while_the_view_moves_nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = latent_model().eval()
    decoded: List[Any] = []
    monkeypatch.setattr(AlignedDecoder, "forward", lambda self, latents: decoded.append(1) or self.codec(latents))
    pictures = {}
    for state in ("high", "low_move", "low_static"):
        thread = Drawing(model, state)
        thread.start()
        thread.join()
        pictures[state] = thread.outputs["rgb"]
        assert thread.outputs["latent_pca"].shape == pictures[state].shape == (HEIGHT, WIDTH, 3)
        assert thread.outputs["depth"].shape == (HEIGHT, WIDTH, 1)
        assert len(decoded) == 1
    assert torch.equal(pictures["low_move"], pictures["low_static"])
    # Colours of these latents are exact, and the picture is the same but for its resolution.
    assert (pictures["high"] - pictures["low_move"]).abs().mean() < 0.05


def test_a_run_with_colours_is_scored_and_read_back(tmp_path: Path) -> None:
    more = [*CODEC, "--pipeline.model.alignment-start", "10", "--pipeline.model.with-colors", "True"]
    folder = runs.train(METHOD, write_capture(tmp_path / "capture"), tmp_path / "outputs", 20, *more)
    assert math.isfinite(runs.evaluate(folder, tmp_path / "results.json")["psnr"])
    model = runs.load(folder).model
    assert model.features_dc.shape[1:] == (7,)
    assert (model.colors - model.space.colors(sh_to_rgb(model.features_dc)[:, :4])).abs().max() > 1e-3


def test_autoencoders_of_diffusion_models_go_the_whole_way(tmp_path: Path) -> None:
    more = ["--pipeline.datamanager.codec.name", "tests.models.test_latent:kl_codec"]
    more += ["--pipeline.model.alignment-start", "10", "--pipeline.model.alignment-crop", "4"]
    folder = runs.train(METHOD, write_capture(tmp_path / "capture"), tmp_path / "outputs", 20, *more)
    state = checkpoints.read(folder / "nerfstudio_models" / "step-000000019.ckpt")["pipeline"]
    weights = {name: value for name, value in state.items() if name.startswith("_model.decoder.")}
    codec = kl_codec(None, "")
    assert len(weights) == len(list(codec.decoder_parameters()))
    assert any(
        not torch.equal(value, dict(codec.named_parameters())[name.rsplit("weights.", 1)[1].replace("/", ".")])
        for name, value in weights.items()
    )
    scores = runs.evaluate(folder, tmp_path / "results.json")
    assert scores["psnr"] > scores["raw_psnr"] and math.isfinite(scores["ceiling_psnr"])
