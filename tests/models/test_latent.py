# SPDX-License-Identifier: Apache-2.0
"""Splats of latents: where they are drawn and how large, which pictures train them, and how the decoder is aligned."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
import torch
from torch import Tensor

from nts_plugins.data.cameras import view_of
from nts_plugins.data.latent_data import SceneLatents
from nts_plugins.encoders.tiny_codec import TinyCodec
from nts_plugins.gaussians.initialise import sh_to_rgb
from nts_plugins.gaussians.strategies import DefaultConfig
from nts_plugins.models.latent import LatentModel
from tests import runs
from tests.captures import write_capture
from tests.models.latents import (
    CODEC,
    METHOD,
    LatentSteps,
    blocks,
    config,
    drawn,
    encoded,
    latent_model,
    odd_camera,
    same,
    values_of,
)
from tests.models.scenes import HEIGHT, WIDTH, camera, make_model, picture

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
