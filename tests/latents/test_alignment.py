# SPDX-License-Identifier: Apache-2.0
"""Decoders that learn how splatted latents look: the training, and ``nts align-codec`` as a user types it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import List

import pytest
import torch

from nts_plugins.cli.main import USER_ERROR, main
from nts_plugins.encoders.codecs import load_codec
from nts_plugins.encoders.settings import CodecSettings
from nts_plugins.encoders.tiny_codec import TinyCodec
from nts_plugins.errors import InputError
from nts_plugins.latents.alignment import DecoderAlignment, LatentPicture
from nts_plugins.latents.settings import AlignmentSettings
from tests import runs
from tests.captures import write_capture
from tests.encoders.small import BlockCodec
from tests.encoders.test_latents import saved

SMALL = AlignmentSettings(steps=30, crop=3, lr=0.02)


def drawn(novel: bool, seed: int) -> LatentPicture:
    """Latents of a codec, as splats would draw them that are all a little too dark; of a picture with an odd side."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 256, (1, 3, 2, 2), generator=generator).float()
    picture = torch.nn.functional.interpolate(corners, (11, 16), mode="bilinear")[0].permute(1, 2, 0).to(torch.uint8)
    padded = torch.cat([picture, picture[-1:]]).permute(2, 0, 1)[None].float() / 255
    return LatentPicture(0.8 * BlockCodec().encode(padded)[0].detach(), picture, novel)


@pytest.fixture
def pictures() -> List[LatentPicture]:
    return [drawn(number % 3 == 2, number) for number in range(6)]


def test_the_decoder_learns_and_the_encoder_stays(pictures: List[LatentPicture]) -> None:
    codec = BlockCodec()
    alignment = DecoderAlignment(codec, pictures, SMALL)
    terms = []
    while not alignment.finished:
        terms.append(alignment.step())
    assert set(terms[0]) == {"train", "novel"} and float(codec.gain) == 1.0
    for name in ("train", "novel"):
        assert sum(each[name] for each in terms[-5:]) < 0.9 * sum(each[name] for each in terms[:5])


def test_going_on_equals_never_having_stopped(pictures: List[LatentPicture]) -> None:
    whole, first, second = (DecoderAlignment(BlockCodec(), pictures, SMALL) for _ in range(3))
    for _ in range(6):
        whole.step()
    for _ in range(3):
        first.step()
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        second.step()
    for own, its in zip(whole.codec.parameters(), second.codec.parameters(), strict=True):
        assert torch.equal(own, its)


def test_masked_pixels_do_not_count(pictures: List[LatentPicture]) -> None:
    mask = torch.zeros(11, 16, 1, dtype=torch.bool)
    mask[2:9, 5:] = True
    garbled = [replace(each, mask=mask, picture=torch.where(mask, each.picture, 255)) for each in pictures]
    masked = [replace(each, mask=mask) for each in pictures]
    full = [replace(each, mask=torch.ones_like(mask)) for each in pictures]
    terms = [DecoderAlignment(BlockCodec(), each, SMALL).step() for each in (masked, garbled, full, pictures)]
    assert terms[0] == terms[1] and terms[2] == terms[3] and terms[0] != terms[2]


def test_both_kinds_of_views_are_needed_and_one_codec(pictures: List[LatentPicture]) -> None:
    with pytest.raises(InputError, match="trained on all pictures.*--no-held-out"):
        DecoderAlignment(BlockCodec(), [each for each in pictures if not each.novel], SMALL)
    with pytest.raises(InputError, match="latents of 32 channels, and a scene has 4"):
        DecoderAlignment(TinyCodec("taef2", 32), pictures, SMALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose splats hold latents of a random tiny codec."""
    folder = tmp_path_factory.mktemp("latents")
    capture = write_capture(folder / "capture", views=12)
    torch.manual_seed(0)
    weights = saved(folder, TinyCodec("taesd", 4))
    codec = ["--pipeline.datamanager.codec.name", "taesd", "--pipeline.datamanager.codec.weights", str(weights)]
    return runs.train("latent-radiance-field", capture, folder / "outputs", 20, *codec)


def test_the_command_aligns_and_says_what_for(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / "aligned"
    common = ["align-codec", "--runs", str(run / "config.yml"), "--output-dir", str(target), "--alignment.crop", "4"]
    common += ["--save-every", "2", "--alignment.steps", "4"]
    assert main(common) == 0
    assert f"--pipeline.datamanager.codec.weights {target}" in capsys.readouterr().out
    assert {path.name for path in target.iterdir()} == {"taesd_encoder.pth", "taesd_decoder.pth", "training.json"}
    about = json.loads((target / "training.json").read_text())
    assert about["held_out"] and about["last"]["novel"] > 0
    aligned = load_codec(CodecSettings("taesd", target))
    before = load_codec(CodecSettings("taesd", run.parents[3]))
    picture = torch.rand(1, 3, 16, 16)
    latents = before.encode(picture)
    assert torch.equal(aligned.encode(picture), latents)
    assert not torch.equal(aligned.decode(latents), before.decode(latents))
    assert main(common) == 0 and "is finished" in capsys.readouterr().out
    assert main([*common, "--no-held-out"]) == USER_ERROR
    assert "other settings: held_out" in capsys.readouterr().err


def test_runs_of_other_methods_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    other = runs.train("splat", write_capture(tmp_path / "capture"), tmp_path / "outputs", 2)
    common = ["align-codec", "--runs", str(other / "config.yml"), "--output-dir", str(tmp_path / "aligned")]
    assert main(common) == USER_ERROR
    assert "is no run of latent-radiance-field" in capsys.readouterr().err
    assert not (tmp_path / "aligned").exists()


def test_latents_and_photographs_are_those_of_the_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Over the same background, from the poses that splats were trained with, and known as seen or new."""
    from PIL import Image

    capture = write_capture(tmp_path / "capture", views=12)
    for path in (capture / "images").glob("*.png"):
        with Image.open(path) as image:
            picture = image.convert("RGBA")
        picture.putalpha(Image.new("L", picture.size, 100))
        picture.save(path)
    more = ["--pipeline.datamanager.codec.name", "tests.encoders.small:block_codec"]
    more += ["--pipeline.model.novel-every", "3", "--pipeline.model.camera-optimizer.mode", "SO3xR3"]
    more += ["--optimizers.camera-opt.scheduler.warmup-steps", "1", "nerfstudio-data"]
    folder = runs.train("latent-radiance-field", capture, tmp_path / "outputs", 10, *more)
    found: List[LatentPicture] = []

    def kept(alignment: DecoderAlignment, codec: BlockCodec, pictures: List[LatentPicture], settings: object) -> None:
        found.extend(pictures)
        raise InputError("That is all.")

    monkeypatch.setattr(DecoderAlignment, "__init__", kept)
    common = ["align-codec", "--runs", str(folder / "config.yml"), "--output-dir", str(tmp_path / "aligned")]
    assert main(common) == USER_ERROR
    assert [each.novel for each in found] == [False, True, False] * 3 + [True] * 3
    pipeline = runs.load(folder)
    for number, each in enumerate(found):
        own = pipeline.datamanager.train_dataset if number < 9 else pipeline.datamanager.eval_dataset
        image = own.get_data(number % 9)["image"]
        over_black = (255 * image[..., :3] * image[..., 3:] + 0.5).to(torch.uint8)
        assert torch.equal(each.picture, over_black)
    camera = pipeline.datamanager.train_dataset.cameras[2:3]
    unrefined = pipeline.model.space.latents(pipeline.model.drawn_numbers(camera)).permute(2, 0, 1)
    assert not torch.equal(unrefined, found[2].latents)
