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

    with monkeypatch.context() as patch, pytest.raises(InputError, match="configuration and the tokenizer.*no way out"):
        patch.setattr("open_clip.get_tokenizer", offline)
        OpenClip.load(many_languages, torch.device("cpu"))
    monkeypatch.setattr("nts_plugins.encoders.clip.find_spec", lambda name: None)
    with pytest.raises(InputError, match="transformers, which is not installed: pip install 'nts-plugins.multilingual"):
        OpenClip.load(many_languages, torch.device("cpu"))


def test_weights_of_another_model_are_an_error(tiny_model, tmp_path):
    name, _, _ = tiny_model
    other = tmp_path / "other.pt"
    torch.save({"nothing": torch.zeros(1)}, other)
    for file in (other, _written(tmp_path / "text.pt")):
        with pytest.raises(InputError, match="does not hold weights of tiny-test"):
            OpenClip.load(OpenClipSettings(model=name, weights=file), torch.device("cpu"))


def _written(path: Path) -> Path:
    path.write_text("no weights")
    return path


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="knows no model 'ViT-Z'.*ViT-B-16"):
        OpenClip.load(OpenClipSettings(model="ViT-Z"), torch.device("cpu"))
    with pytest.raises(InputError, match="knows no weights 'nobody'.*laion2b_s34b_b88k"):
        OpenClip.load(OpenClipSettings(pretrained="nobody"), torch.device("cpu"))
    with pytest.raises(InputError, match="gone.pt, which is said to hold the weights of ViT-B-16"):
        OpenClip.load(OpenClipSettings(weights=tmp_path / "gone.pt"), torch.device("cpu"))

    def offline(*_, **__):
        raise OSError("no way out")

    monkeypatch.setattr("open_clip.download_pretrained", offline)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        OpenClip.load(OpenClipSettings(), torch.device("cpu"))
    for part in (
        "open_clip_pytorch_model.bin",
        "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        str(tmp_path),
        "--clip.weights",
    ):
        assert part in str(caught.value)
