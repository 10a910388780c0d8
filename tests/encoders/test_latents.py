# SPDX-License-Identifier: Apache-2.0
"""Latent codecs: both ways, what they refuse, where their weights come from; latents of a scene in [0, 1]."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nts_plugins.encoders.codecs import known, load_codec, register
from nts_plugins.encoders.latents import Bounded, LatentCodec, MinMax, Posterior
from nts_plugins.encoders.settings import CodecSettings
from nts_plugins.encoders.tiny_codec import TinyCodec, files_in
from nts_plugins.errors import InputError

SHARED = Path(os.environ.get("NTS_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def saved(folder: Path, codec: TinyCodec, stem: str = "taesd") -> Path:
    for part, path in zip((codec.encoder, codec.decoder), files_in(folder, stem), strict=True):
        torch.save({name: value.half() for name, value in part.state_dict().items()}, path)
    return folder


@pytest.fixture(params=["tiny", "tiny that mixes", "KL"])
def codec(request) -> LatentCodec:
    torch.manual_seed(0)
    if request.param == "KL":
        return kl()
    return TinyCodec("random", 32, True) if "mixes" in request.param else TinyCodec("random", 4)


def kl() -> LatentCodec:
    """An AutoencoderKL with three blocks: four times smaller pictures."""
    diffusers = pytest.importorskip("diffusers")
    from nts_plugins.encoders.kl_codec import KlCodec

    sizes = {"block_out_channels": (8, 8, 16), "norm_num_groups": 4, "latent_channels": 4}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    return KlCodec(diffusers.AutoencoderKL(**sizes, **kinds), "small")


def test_both_ways_have_the_right_shapes_and_gradients(codec: LatentCodec) -> None:
    pictures = torch.rand(2, 3, 6 * codec.factor, 4 * codec.factor, requires_grad=True)
    latents = codec.encode(pictures)
    assert latents.shape == (2, codec.channels, 6, 4)
    assert torch.equal(latents, codec.encode(pictures))  # the mode, and no sample
    decoded = codec.decode(latents)
    assert decoded.shape == pictures.shape
    encodes, decodes = list(codec.encoder_parameters()), list(codec.decoder_parameters())
    assert not {id(each) for each in encodes} & {id(each) for each in decodes}
    assert len(encodes) + len(decodes) == len(list(codec.parameters()))
    decoded.square().sum().backward()
    assert pictures.grad is not None and pictures.grad.abs().sum() > 0
    assert all(each.grad is not None for each in decodes)


def test_the_decoder_alone_learns_from_latents(codec: LatentCodec) -> None:
    latents = codec.encode(torch.rand(1, 3, 2 * codec.factor, 2 * codec.factor)).detach()
    codec.decode(latents).mean().backward()
    assert all(each.grad is None for each in codec.encoder_parameters())


def test_what_does_not_fit_is_an_error(codec: LatentCodec) -> None:
    with pytest.raises(InputError, match=f"{codec.factor} times smaller.*{codec.factor + 1}x{2 * codec.factor} pixels"):
        codec.encode(torch.rand(1, 3, 2 * codec.factor, codec.factor + 1))
    with pytest.raises(InputError, match="times smaller"):
        codec.encode(torch.rand(1, 3, 0, codec.factor))
    with pytest.raises(InputError, match=f"latents of {codec.channels} channels, and these have 5"):
        codec.decode(torch.rand(1, 5, 2, 2))


def test_pictures_reach_diffusion_models_between_minus_one_and_one() -> None:
    codec = kl()
    pictures = torch.rand(1, 3, 16, 16)
    found = codec.model.encode(pictures * 2 - 1).latent_dist
    torch.testing.assert_close(codec.encode(pictures), found.mode())
    torch.testing.assert_close(codec.decode(found.mode()), codec.model.decode(found.mode()).sample / 2 + 0.5)
    assert codec.factor == 4 and codec.posterior(pictures).log_variance is not None


# ---- weights


def test_weights_of_two_files(tmp_path: Path) -> None:
    torch.manual_seed(1)
    made = TinyCodec("taef2", 32, True).half().float()
    found = load_codec(CodecSettings("taef2", saved(tmp_path, made, "taef2")))
    assert (found.name, found.channels, found.factor) == ("taef2", 32, 8)
    pictures = torch.rand(1, 3, 16, 24)
    torch.testing.assert_close(found.encode(pictures), made.encode(pictures))
    torch.testing.assert_close(found.decode(found.encode(pictures)), made.decode(made.encode(pictures)))
    assert not any(each.requires_grad for each in found.parameters())


def test_files_that_do_not_belong_together_are_an_error(tmp_path: Path) -> None:
    saved(tmp_path, TinyCodec("taesd", 4))
    encoder, decoder = files_in(tmp_path, "taesd")
    other = saved(tmp_path, TinyCodec("taesd3", 16), "taesd3")
    with pytest.raises(InputError, match="taesd3_decoder.pth does not hold weights of a tiny codec, but of ano"):
        TinyCodec.load("taesd", encoder, files_in(other, "taesd3")[1])
    with pytest.raises(InputError, match="taesd_decoder.pth does not hold weights of a tiny codec, but of ano"):
        TinyCodec.load("taesd", decoder, decoder)
    decoder.write_text("nothing")
    with pytest.raises(InputError, match="taesd_decoder.pth does not hold weights of taesd's decoder: it is no file"):
        TinyCodec.load("taesd", encoder, decoder)
    decoder.unlink()
    with pytest.raises(InputError, match="taesd_decoder.pth, which is said to hold the weights of taesd's decoder"):
        TinyCodec.load("taesd", encoder, decoder)


def test_a_folder_of_diffusers(tmp_path: Path) -> None:
    made = kl()
    made.model.save_pretrained(tmp_path / "vae")
    found = load_codec(CodecSettings("sd-kl-f8", tmp_path / "vae"))
    pictures = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(found.encode(pictures), made.encode(pictures))
    with pytest.raises(InputError, match="vae, which is said to hold sd-kl-f8, has no config.json"):
        load_codec(CodecSettings("sd-kl-f8", tmp_path / "no vae"))


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_, **__):
        raise OSError("no way out")

    def never(*_, **__):
        raise AssertionError("the library would try for half a minute")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match="codec taef2 are not.*no way out.*taef2_encoder.pth from .* --x.weights"):
        load_codec(CodecSettings("taef2"), option="--x.weights")
    assert not list(tmp_path.rglob("*.pth"))
    pytest.importorskip("diffusers")
    monkeypatch.setattr("diffusers.AutoencoderKL.from_pretrained", never)
    monkeypatch.setattr("nts_plugins.encoders.weights.in_hub_cache", lambda *_: None)
    monkeypatch.setattr("nts_plugins.encoders.weights.ask_hub", offline)
    with pytest.raises(InputError, match="sd-kl-f8 are not.*no way out.*vae of CompVis/.* --codec.weights"):
        load_codec(CodecSettings("sd-kl-f8"))


def test_codecs_of_others() -> None:
    with pytest.raises(InputError, match="no codec 'nobody'.*sd-kl-f8.*taef2.*package.module:function"):
        load_codec(CodecSettings("nobody"))
    with pytest.raises(InputError, match="tests.encoders.gone:load cannot be loaded"):
        load_codec(CodecSettings("tests.encoders.gone:load"))
    with pytest.raises(InputError, match="gives a Linear, which is no LatentCodec"):
        load_codec(CodecSettings(f"{__name__}:none_at_all"))
    assert load_codec(CodecSettings(f"{__name__}:of_ours")).name == "ours"
    if "ours" not in known():
        register("ours", of_ours)
    assert load_codec(CodecSettings("ours")).channels == 4
    with pytest.raises(ValueError, match="'taef2'"):
        register("taef2", of_ours)


def none_at_all(weights, option):
    return torch.nn.Linear(1, 1)


def of_ours(weights, option):
    return TinyCodec("ours", 4)


@pytest.mark.skipif(not (SHARED / "weights" / "taef2").is_dir(), reason="there are no weights of TAEF2")
def test_taef2_decodes_what_it_encodes() -> None:
    """On a picture that is nobody's: colours that change slowly, with edges."""
    codec = load_codec(CodecSettings("taef2", SHARED / "weights" / "taef2"))
    y, x = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 128), indexing="ij")
    picture = torch.stack([x, y, ((x - 0.5).square() + (y - 0.5).square() < 0.1).float()])[None]
    decoded = codec.decode(codec.encode(picture)).clamp(0, 1)
    assert -10 * torch.log10((decoded - picture).square().mean()) > 27


# ---- distributions


def test_the_divergence_is_that_of_normal_distributions() -> None:
    one = Posterior(torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5))
    other = Posterior(torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5))
    normal = [torch.distributions.Normal(each.mode, (0.5 * each.log_variance).exp()) for each in (one, other)]
    wanted = torch.distributions.kl_divergence(*normal).sum(dim=1).mean()
    torch.testing.assert_close(one.divergence(other), wanted)
    assert abs(one.divergence(one)) < 1e-6
    modes = Posterior(one.mode).divergence(Posterior(other.mode))
    torch.testing.assert_close(modes, 0.5 * (one.mode - other.mode).square().sum(dim=1).mean())


# ---- [0, 1]


def test_the_smallest_and_the_largest_latent_are_zero_and_one() -> None:
    latents = torch.randn(5, 4, 6, 7, generator=torch.Generator().manual_seed(0)).double() * 10
    latents[:, 2] = 3.5  # the same everywhere
    scale = MinMax(4).double()
    for each in latents:
        scale.see(each)
    numbers = scale(latents)
    lowest, highest = numbers.movedim(1, 0).flatten(1).aminmax(dim=1)
    torch.testing.assert_close(lowest, torch.zeros(4).double())
    torch.testing.assert_close(highest, torch.tensor([1.0, 1.0, 0.0, 1.0]).double())
    beyond = latents * 3  # held-out pictures may lie outside
    torch.testing.assert_close(scale.inverse(scale(beyond)), beyond)
    again = MinMax(4).double()
    again.load_state_dict(scale.state_dict())
    assert torch.equal(again(latents), numbers)


@given(st.floats(-200, 200))
def test_bounded_numbers_go_there_and_back(value: float) -> None:
    latents = torch.tensor([value], dtype=torch.float64)
    numbers = Bounded()(latents)
    assert 0 < float(numbers) < 1
    torch.testing.assert_close(Bounded().inverse(numbers), latents, atol=1e-6, rtol=1e-6)


def test_bounded_numbers_stay_finite() -> None:
    numbers = Bounded()(torch.tensor([-1e3, 0.0, 1e3]))
    assert numbers[1] == 0.5
    assert Bounded().inverse(numbers).isfinite().all() and Bounded().inverse(torch.tensor([-1.0, 2.0])).isfinite().all()
    Bounded().see(torch.zeros(1))
