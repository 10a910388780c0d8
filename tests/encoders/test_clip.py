# SPDX-License-Identifier: Apache-2.0
"""open_clip's models: what goes in, what comes out, and what is said where something is missing."""

import json
from pathlib import Path

import pytest
import torch

from nts_plugins.encoders.base import ImageEncoder, TextEncoder
from nts_plugins.encoders.clip import OpenClip
from nts_plugins.encoders.settings import OpenClipSettings
from nts_plugins.errors import InputError
from nts_plugins.queries.phrases import canonical
from nts_plugins.queries.question import asked
from tests.encoders import small


@pytest.fixture(scope="module")
def clip():
    return small.clip()


@pytest.fixture
def tiny_model(tmp_path):
    """The name of a model that open_clip reads from a file of its own format, and a file of weights of it."""
    import open_clip

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    path = tmp_path / "tiny-test.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    torch.manual_seed(3)
    model = open_clip.create_model("tiny-test")
    weights = tmp_path / "tiny.pt"
    torch.save(model.state_dict(), weights)
    return "tiny-test", weights, model


def test_it_is_an_encoder_of_pictures_and_of_phrases(clip):
    assert isinstance(clip, ImageEncoder) and isinstance(clip, TextEncoder)
    assert clip.width == 24 and clip.picture_size == 32


def test_pictures_are_normalised_as_the_model_was_trained(clip):
    pictures = torch.rand(6, 3, 32, 32)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    with torch.no_grad():
        wanted = clip.model.encode_image((pictures - mean) / std, normalize=True)
    found = clip.encode_pictures(pictures)  # in two batches
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6))
    assert clip.encode_pictures(pictures[:0]).shape == (0, 24)


def test_phrases_are_those_of_open_clips_own_tokenizer(clip):
    with torch.no_grad():
        wanted = clip.model.encode_text(clip.tokenizer(["a red apple", "stuff"]), normalize=True)
    torch.testing.assert_close(clip.encode_phrases([" a red apple", "stuff"]), wanted)


@pytest.mark.parametrize("phrases", [[], [""], ["apple", "  "]])
def test_an_empty_phrase_is_an_error(clip, phrases):
    with pytest.raises(InputError, match="empty"):
        clip.encode_phrases(phrases)


def test_a_phrase_that_would_be_cut_off_is_an_error(clip):
    clip.encode_phrases(["apple " * 75])
    with pytest.raises(InputError, match=r"78 tokens.*reads 77"):
        clip.encode_phrases(["apple " * 76])


def test_weights_of_a_file(tiny_model):
    name, file, model = tiny_model
    settings = OpenClipSettings(model=name, pretrained="mine", weights=file)
    found = OpenClip.load(settings, torch.device("cpu"))
    assert found.name == "tiny-test mine"
    pictures = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = small_normalised(model, pictures)
    torch.testing.assert_close(found.encode_pictures(pictures), wanted, atol=1e-5, rtol=1e-5)


def small_normalised(model, pictures):
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return model.eval().encode_image((pictures - mean) / std, normalize=True)


@pytest.fixture(scope="module")
def many_languages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multilingual")
    return OpenClipSettings(small.multilingual(folder), "mine", folder / "weights.pt")


def test_phrases_in_chinese(many_languages):
    clip = OpenClip.load(many_languages, torch.device("cpu"))
    assert clip.languages is None
    ids = [clip.tokenizer.tokenizer(text, padding="max_length", max_length=77).input_ids for text in ("红苹果", "mug")]
    with torch.no_grad():
        wanted = clip.model.encode_text(torch.tensor(ids), normalize=True)
    assert (wanted[0] - wanted[1]).norm() > 0.1
    torch.testing.assert_close(clip.encode_phrases(["红苹果", "mug"]), wanted)
    question = asked("红苹果；杯子", clip.encode_phrases)
    assert question.phrases == ("红苹果", "杯子") and question.negatives == canonical(["红苹果"])
    torch.testing.assert_close(question.vectors[:1], wanted[:1])
    with pytest.raises(InputError, match=r"tokens, and xlm-roberta-small-test mine reads 77"):
        clip.encode_phrases(["红苹果" * 20])


def test_what_a_tower_of_many_languages_needs_is_named(many_languages, monkeypatch):
    def offline(*_, **__):
        raise OSError("no way out.")

    with (
        monkeypatch.context() as patch,
        pytest.raises(InputError, match="configuration and the tokenizer.*no way out. W"),
    ):
        patch.setattr("open_clip.get_tokenizer", offline)
        OpenClip.load(many_languages, torch.device("cpu"))
    monkeypatch.setattr("nts_plugins.encoders.clip.find_spec", lambda name: None)
    with pytest.raises(InputError, match="transformers, which is not installed: pip install 'nts-plugins.multilingual"):
        OpenClip.load(many_languages, torch.device("cpu"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_another_model_are_an_error(tiny_model, tmp_path, suffix):
    name, _, model = tiny_model
    wrong = {"nothing": torch.zeros(1)}
    assert (
        "but of another model: it lacks 38 of 38 tensors (positional_embedding, text_projection, logit_scale and"
        in (_refused(name, _saved(wrong, tmp_path / f"other{suffix}")))
    )
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["logit_scale"], state["more"] = state["logit_scale"], torch.zeros(1)
    said = _refused(name, _saved(state, tmp_path / f"more{suffix}"))
    assert "another model: it has 1 besides (more)." in said
    del state["more"], state["ln_final.bias"]
    # As trainings on several machines write it: names that open_clip understands are not held against a file.
    said = _refused(name, _saved({f"module.{key}": each for key, each in state.items()}, tmp_path / f"less{suffix}"))
    assert "another model: it lacks 1 of 38 tensors (ln_final.bias)." in said
    state["ln_final.bias"] = torch.zeros(7)
    assert "it has 1 of another shape (ln_final.bias)" in _refused(name, _saved(state, tmp_path / f"wide{suffix}"))


@pytest.mark.parametrize("file", ["text.pt", "transforms.json", "text.safetensors", "text.npz"])
def test_what_is_no_file_of_weights_is_said_in_own_words(tiny_model, tmp_path, file):
    for content in (b"no weights", b'{"camera_model": "OPENCV"}', b""):
        (tmp_path / file).write_bytes(content)
        assert "it is no file of tensors as torch.save or safetensors write" in _refused(tiny_model[0], tmp_path / file)


@pytest.mark.parametrize("content", [[1, 2], {}, {3: torch.ones(1)}, {"state_dict": {}}, torch.ones(2)])
def test_other_things_that_torch_saved_are_no_weights(tiny_model, tmp_path, content):
    torch.save(content, tmp_path / "thing.pt")
    assert "there are no tensors by name in it" in _refused(tiny_model[0], tmp_path / "thing.pt")


def _saved(state, path: Path) -> Path:
    from safetensors.torch import save_file

    if path.suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, str(path))
    return path


def _refused(model: str, file: Path) -> str:
    """The one message about a file of weights."""
    with pytest.raises(InputError) as caught:
        OpenClip.load(OpenClipSettings(model=model, weights=file), torch.device("cpu"))
    said = str(caught.value)
    assert said.startswith(f"{file} does not hold weights of {model}") and "\n" not in said
    assert "weights_only" not in said and "loading state_dict" not in said
    return said


# ---- published weights


@pytest.fixture
def published(tiny_model, tmp_path, monkeypatch):
    """As what the weights of the tiny model are published, which a test may change, and the folder of torch's files.
    There is no internet."""
    cfg = {"url": "", "hf_hub": "somebody/tiny/"}
    monkeypatch.setattr("open_clip.get_pretrained_cfg", lambda model, tag: cfg)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def offline(*_, **__):
        raise OSError("no way out")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", offline)
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    return cfg, tmp_path / "torch" / "checkpoints"


@pytest.mark.parametrize(
    "hub, place",
    [
        ("somebody/tiny/", "somebody--tiny/open_clip_model.safetensors"),
        ("somebody/tiny/", "somebody--tiny/open_clip_pytorch_model.bin"),
        ("somebody/tiny/file.bin", "somebody--tiny/file.safetensors"),
        ("somebody/tiny/file.bin", "somebody--tiny/file.bin"),
        ("", "tiny.pt"),
        ("", "home/.cache/clip/tiny.pt"),
    ],
)
def test_published_weights_are_found_where_the_message_says(tiny_model, published, tmp_path, hub, place):
    (name, _, model), (cfg, folder) = tiny_model, published
    cfg.update({"hf_hub": hub} if hub else {"hf_hub": "", "url": "https://somewhere.org/weights/tiny.pt"})
    settings = OpenClipSettings(model=name, pretrained="theirs")
    with pytest.raises(InputError) as caught:
        OpenClip.load(settings, torch.device("cpu"))
    file = tmp_path / place if place.startswith("home") else folder / place
    said = str(caught.value)
    if not place.startswith("home"):
        assert "no way out" in said and f"into {file.parent}, or say where it is with --clip.weights." in said
        assert file.name in said and (hub.rpartition("/")[0] or "https://somewhere.org/weights") in said
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    _saved(state, tmp_path / f"made{'.safetensors' if file.suffix == '.safetensors' else '.pt'}").rename(file)
    assert torch.equal(OpenClip.load(settings, torch.device("cpu")).model.visual.proj, model.visual.proj)


def test_a_text_tower_that_cannot_be_fetched_ends_early(published, monkeypatch):
    def asked(*_, **__):
        raise AssertionError("transformers would try for minutes")

    monkeypatch.setattr("open_clip.get_tokenizer", asked)
    monkeypatch.setattr("nts_plugins.encoders.clip._fetched", lambda *_: Path("weights.pt"))
    with pytest.raises(InputError) as caught:
        OpenClip.load(OpenClipSettings("xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k"), torch.device("cpu"))
    said = str(caught.value)
    assert "tokenizer of xlm-roberta-base, which" in said and ".." not in said
    assert "failed: https://huggingface.co cannot be reached (no way out). Without internet put" in said


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="knows no model 'ViT-Z'.*ViT-B-16"):
        OpenClip.load(OpenClipSettings(model="ViT-Z"), torch.device("cpu"))
    with pytest.raises(InputError, match="knows no weights 'nobody'.*laion2b_s34b_b88k"):
        OpenClip.load(OpenClipSettings(pretrained="nobody"), torch.device("cpu"))
    with pytest.raises(InputError, match="gone.pt, which is said to hold the weights of ViT-B-16"):
        OpenClip.load(OpenClipSettings(weights=tmp_path / "gone.pt"), torch.device("cpu"))


def test_the_usual_weights_that_are_not_there(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise OSError("no way out")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError) as caught:
        OpenClip.load(OpenClipSettings(), torch.device("cpu"))
    repository = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
    assert str(caught.value) == (
        "The weights of ViT-B-16 laion2b_s34b_b88k are not on this machine. Fetching them failed: "
        "https://huggingface.co cannot be reached (no way out). Put open_clip_pytorch_model.bin or "
        f"open_clip_model.safetensors from https://huggingface.co/{repository} into "
        f"{tmp_path}/checkpoints/{repository.replace('/', '--')}, or say where it is with --clip.weights."
    )
