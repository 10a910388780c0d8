# SPDX-License-Identifier: Apache-2.0
"""Codecs that learn that views of a place have one latent: pairs, the loss, and ``nts tune-codec`` as typed."""

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
from nts_plugins.latents.correspondence import PosedPicture
from nts_plugins.latents.settings import TuningSettings
from nts_plugins.latents.tuning import CodecTuning, Pair, Pairs, correspondence_loss
from tests import runs
from tests.captures import write_capture
from tests.encoders.small import BlockCodec
from tests.encoders.test_latents import kl, saved
from tests.latents.test_correspondence import K, looking

SMALL = TuningSettings(steps=4, crop=4, lr=1e-3)


def wall(shift: float, seed: int = 0) -> PosedPicture:
    """A view of a coloured wall two units away, from ``shift`` units to the right of the middle."""
    generator = torch.Generator().manual_seed(seed)
    texture = torch.randint(0, 256, (4, 12, 3), generator=generator).float()
    texture = torch.nn.functional.interpolate(texture.permute(2, 0, 1)[None], (30, 90), mode="bicubic")[0]
    start = 20 + round(35 * shift / 2)
    picture = texture[:, :, start : start + 40].permute(1, 2, 0).clamp(0, 255).to(torch.uint8)
    return PosedPicture(torch.full((30, 40), 2.0), looking(shift), K, picture)


@pytest.fixture
def views() -> List[PosedPicture]:
    return [wall(2 * pixels / 35) for pixels in (0, 1, 3, 6)]


def test_pairs_show_the_same(views: List[PosedPicture]) -> None:
    pairs = Pairs([views], 2, SMALL)
    for step in range(20):
        pair = pairs.at(step)
        assert pair.crops.shape == (2, 3, 8, 8) and 0 < pair.weight < 1
        middle = 2 * pair.cells + 1  # of a latent: the corner of four pixels
        first = [pair.crops[0, :, row - 1 : row + 1, column - 1 : column + 1].mean() for row, column in middle.tolist()]
        at = pair.places.round().long()
        torch.testing.assert_close(pair.places, at.float(), atol=1e-3, rtol=0)  # Shifts are whole pixels here.
        second = [pair.crops[1, :, y - 1 : y + 1, x - 1 : x + 1].mean() for x, y in at.tolist()]
        torch.testing.assert_close(torch.stack(first), torch.stack(second))
    again, other = Pairs([views], 2, SMALL).at(7), Pairs([views], 2, replace(SMALL, seed=1)).at(7)
    assert torch.equal(again.crops, pairs.at(7).crops) and not torch.equal(other.crops, again.crops)


def test_equal_latents_cost_nothing_and_weights_count() -> None:
    cells = torch.cartesian_prod(torch.arange(1, 3), torch.arange(1, 3))
    pair = Pair(torch.zeros(2, 3, 8, 8), cells, 2.0 * (cells.flip(1) + 0.5), 0.5)
    latents = torch.randn(1, 5, 4, 4, generator=torch.Generator().manual_seed(0)).expand(2, 5, 4, 4)
    assert float(correspondence_loss(latents, pair, 2)) == pytest.approx(0.0, abs=1e-6)
    apart = torch.stack([latents[0], latents[0] + 0.25])
    assert float(correspondence_loss(apart, pair, 2)) == pytest.approx(0.125, rel=1e-5)
    between = replace(pair, places=pair.places + torch.tensor([1.0, 0.0]))
    ramp = torch.arange(4.0).expand(2, 1, 4, 4)
    assert float(correspondence_loss(ramp, between, 2)) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("kind", ["tiny", "KL"])
def test_tuned_codecs_agree_more(views: List[PosedPicture], kind: str) -> None:
    torch.manual_seed(0)
    codec = TinyCodec("random", 4) if kind == "tiny" else kl()
    settings = TuningSettings(steps=12, crop=3, lr=1e-3, correspondence=10.0, original=1e-6)
    tuning = CodecTuning(codec, Pairs([views], codec.factor, settings), settings)
    terms = []
    while not tuning.finished:
        terms.append(tuning.step())
    assert ("prior" in terms[0]) == (kind == "KL") and terms[0]["original"] == pytest.approx(0.0, abs=1e-5)
    assert sum(each["correspondence"] for each in terms[-4:]) < sum(each["correspondence"] for each in terms[:4])


def test_a_strong_bond_keeps_the_codec(views: List[PosedPicture]) -> None:
    moved = []
    for original in (0.0, 1e4):
        torch.manual_seed(0)
        settings = TuningSettings(steps=8, crop=2, lr=1e-3, correspondence=10.0, original=original)
        tuning = CodecTuning(TinyCodec("random", 4), Pairs([views], 8, settings), settings)
        while not tuning.finished:
            terms = tuning.step()
        moved.append(terms["original"])
    assert moved[1] < 0.1 * moved[0]


def test_going_on_equals_never_having_stopped(views: List[PosedPicture]) -> None:
    def tuning() -> CodecTuning:
        return CodecTuning(BlockCodec(), Pairs([views], 2, SMALL), SMALL)

    whole, first, second = tuning(), tuning(), tuning()
    for _ in range(4):
        whole.step()
    for _ in range(2):
        first.step()
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.step()
    assert whole.finished and second.finished
    for own, its in zip(whole.codec.parameters(), second.codec.parameters(), strict=True):
        assert torch.equal(own, its)


def test_what_cannot_be_compared_is_an_error(views: List[PosedPicture]) -> None:
    with pytest.raises(InputError, match="has one picture"):
        Pairs([views, views[:1]], 2, SMALL)
    with pytest.raises(InputError, match="40x30 pixels is smaller than the squares of 32.*--tuning.crop"):
        Pairs([views], 2, replace(SMALL, crop=16))
    away = [views[0], replace(views[0], viewmat=looking(50.0))]
    with pytest.raises(InputError, match="do not overlap"):
        Pairs([away], 2, SMALL).at(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    capture = write_capture(folder / "capture", views=16)
    options = ["--pipeline.model.resolution-schedule", "5", "--pipeline.model.camera-optimizer.mode", "SO3xR3"]
    return runs.train("splat", capture, folder / "outputs", 60, *options)


def test_the_command_tunes_resumes_and_says_what_for(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    weights = saved(tmp_path, TinyCodec("taesd", 4))
    common = ["tune-codec", "--runs", str(run / "config.yml"), "--codec.name", "taesd", "--codec.weights", str(weights)]
    common += ["--tuning.crop", "2", "--save-every", "2"]
    one = [*common, "--output-dir", str(tmp_path / "one"), "--tuning.steps", "4"]
    assert main(one) == 0
    assert f"--pipeline.datamanager.codec.weights {tmp_path / 'one'}" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {"taesd_encoder.pth", "taesd_decoder.pth", "training.json"}
    about = json.loads((tmp_path / "one" / "training.json").read_text())
    assert about["steps"] == 4 and about["last"]["correspondence"] > 0
    tuned, before = (load_codec(CodecSettings("taesd", folder)) for folder in (tmp_path / "one", weights))
    picture = torch.rand(1, 3, 16, 16)
    assert not torch.equal(tuned.encode(picture), before.encode(picture))
    assert main(one) == 0 and "is finished" in capsys.readouterr().out
    assert main([*one[:-1], "5"]) == USER_ERROR and "other settings: steps" in capsys.readouterr().err


def test_a_kill_loses_at_most_what_was_not_saved(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    torch.manual_seed(0)
    weights = saved(tmp_path, TinyCodec("taesd", 4))
    common = ["tune-codec", "--runs", str(run / "config.yml"), "--codec.name", "taesd", "--codec.weights", str(weights)]
    common += ["--tuning.crop", "2", "--save-every", "2", "--tuning.steps", "5"]
    assert main([*common, "--output-dir", str(tmp_path / "whole")]) == 0
    step = CodecTuning.step

    def killed(tuning: CodecTuning):
        if tuning.done == 3:
            raise KeyboardInterrupt
        return step(tuning)

    monkeypatch.setattr(CodecTuning, "step", killed)
    assert main([*common, "--output-dir", str(tmp_path / "killed")]) == 130
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["unfinished.pt"]
    monkeypatch.setattr(CodecTuning, "step", step)
    capsys.readouterr()
    assert main([*common, "--output-dir", str(tmp_path / "killed")]) == 0
    assert "Going on after step 2" in capsys.readouterr().out
    for name in ("taesd_encoder.pth", "taesd_decoder.pth"):
        own, its = (torch.load(tmp_path / folder / name, weights_only=True) for folder in ("whole", "killed"))
        assert all(torch.equal(own[key], its[key]) for key in own)


def test_other_weights_are_another_codec(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    common = ["tune-codec", "--runs", str(run / "config.yml"), "--codec.name", "taesd", "--tuning.crop", "2"]
    common += ["--tuning.steps", "1", "--output-dir", str(tmp_path / "tuned")]
    for seed, outcome in ((0, 0), (1, USER_ERROR)):
        torch.manual_seed(seed)
        weights = tmp_path / str(seed)
        weights.mkdir()
        saved(weights, TinyCodec("taesd", 4))
        assert main([*common, "--codec.weights", str(weights)]) == outcome
    assert "other settings: weights" in capsys.readouterr().err


def test_wrong_input_is_one_message(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    common = ["tune-codec", "--codec.name", "tests.encoders.small:block_codec", "--tuning.crop", "4"]
    target = ["--output-dir", str(tmp_path / "new")]
    assert main([*common, *target, "--runs", str(tmp_path / "config.yml")]) == USER_ERROR
    assert "There is no file" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    where = ["--runs", str(run / "config.yml")]
    for options, message in (
        (["--runs"], "at least one of runs, and 0"),
        ([*where, "--save-every", "0"], "at least one of save-every"),
        ([*where, "--tuning.neighbours", "0"], "at least one of neighbours"),
        (where, "BlockCodec has no method save"),
    ):
        assert main([*common, *target, *options]) == USER_ERROR
        assert message in capsys.readouterr().err
    assert main([*common, *where, "--output-dir", str(tmp_path / "full")]) == USER_ERROR
    assert "holds something else" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
