# SPDX-License-Identifier: Apache-2.0
"""Runs of latents: read back, measured, refused, exported and shown."""

import math
import threading
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import pytest
import torch
from torch import Tensor

from nts_plugins.data.latent_data import SceneLatents, padded_picture
from nts_plugins.encoders.latent_space import AlignedDecoder
from nts_plugins.encoders.latents import LatentCodec
from nts_plugins.encoders.tiny_codec import TinyCodec
from nts_plugins.errors import InputError
from nts_plugins.evaluation.images import compare
from nts_plugins.gaussians.initialise import rgb_to_sh, sh_to_rgb
from nts_plugins.models.latent import LatentModel
from nts_plugins.training import checkpoints
from tests import runs
from tests.captures import write_capture
from tests.models.latents import (
    CODEC,
    METHOD,
    START,
    blocks,
    config,
    drawn,
    encoded,
    kl_codec,
    latent_model,
    odd_camera,
    same,
    values_of,
)
from tests.models.scenes import HEIGHT, WIDTH, camera, make_model

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
    options = ["--pipeline.datamanager.codec.name", "tests.models.latents:other_codec"]
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
    more = ["--pipeline.datamanager.codec.name", "tests.models.latents:kl_codec"]
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
