# SPDX-License-Identifier: Apache-2.0
"""Phrases to vectors: by a table, or by a text tower that says what it cannot read."""

from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch

from nts_plugins.encoders.base import TextEncoder
from nts_plugins.encoders.clip import OpenClip
from nts_plugins.encoders.phrases import PhraseTable, text_encoder
from nts_plugins.errors import InputError
from tests.encoders import small


def written(path: Path, phrases: Any = ("a red mug", "Tea"), vectors: Any = ((3.0, 4.0, 0.0), (0.0, 0.0, 2.0))) -> Path:
    np.savez(path, phrases=np.array(phrases), vectors=np.array(vectors))
    return path


def test_a_table_gives_vectors_of_unit_length(tmp_path: Path) -> None:
    table = PhraseTable(written(tmp_path / "t.npz"), "a space")
    assert isinstance(table, TextEncoder) and (table.name, table.width) == ("a space", 3)
    found = table.encode_phrases(["Tea", "a red mug", "Tea"])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[0, 0, 1], [0.6, 0.8, 0], [0, 0, 1]]))


@pytest.mark.parametrize("phrase", ["tea", "TEA", " Tea "])
def test_letters_case_and_blanks_do_not_matter(tmp_path: Path, phrase: str) -> None:
    table = PhraseTable(written(tmp_path / "t.npz"), "a space")
    assert table.encode_phrases([phrase]).tolist() == [[0.0, 0.0, 1.0]]
    table.check([phrase])


def test_blanks_around_a_phrase_of_the_table_do_not_matter(tmp_path: Path) -> None:
    table = PhraseTable(written(tmp_path / "t.npz", ("a red mug ", " Tea")), "a space")
    assert table.encode_phrases(["tea"]).tolist() == [[0.0, 0.0, 1.0]]


def test_phrases_that_a_table_lacks_are_named(tmp_path: Path) -> None:
    table = PhraseTable(written(tmp_path / "t.npz"), "a space")
    with pytest.raises(InputError, match="t.npz has no vectors of coffee, milk. It has those of a red mug, tea"):
        table.encode_phrases(["tea", "coffee", "milk"])


def test_a_table_may_hold_halves(tmp_path: Path) -> None:
    path = written(tmp_path / "t.npz", vectors=np.array([[3, 4, 0], [0, 0, 2]], np.float16))
    assert PhraseTable(path, "a space").encode_phrases(["tea"]).dtype == torch.float32


WHOLE = "whole"


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no table", b"PK\x03\x04 and no more", WHOLE],
    ids=["missing", "empty", "text", "damaged", "cut off"],
)
def test_a_file_that_is_no_table_is_explained(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "t.npz"
    if content == WHOLE:
        content = written(path).read_bytes()[:-40]
    if content is not None:
        path.write_bytes(content)
    fault = "it is not a file" if content is None else "it is damaged, or does not hold arrays"
    with pytest.raises(InputError, match=rf"t.npz is no table of phrases \(.*\): {fault}"):
        PhraseTable(path, "a space")


def test_an_array_under_a_tables_name_is_explained(tmp_path: Path) -> None:
    with open(tmp_path / "t.npz", "wb") as file:
        np.save(file, np.zeros((2, 3)))
    with pytest.raises(InputError, match="t.npz is no table of phrases"):
        PhraseTable(tmp_path / "t.npz", "a space")


@pytest.mark.parametrize(
    "arrays, fault",
    [
        ({"phrases": np.array(["tea"])}, "it has no vectors"),
        ({"vectors": np.zeros((1, 3))}, "it has no phrases"),
        ({"phrases": np.array(["tea"], dtype=object), "vectors": np.zeros((1, 3))}, "it is damaged, or does not hold"),
        ({"phrases": np.array(["tea"]), "vectors": np.array([["0", "1"]])}, "its vectors no numbers"),
        ({"phrases": np.array("tea"), "vectors": np.zeros((1, 3))}, "its phrases are no list"),
    ],
    ids=["no vectors", "no phrases", "pickled phrases", "words for vectors", "a phrase alone"],
)
def test_a_table_of_something_else_is_explained(tmp_path: Path, arrays: Any, fault: str) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(InputError, match=rf"t.npz is no table of phrases \(.*\): .*{fault}") as caught:
        PhraseTable(tmp_path / "t.npz", "a space")
    assert "pickle" not in str(caught.value)


@pytest.mark.parametrize("vectors", [np.zeros((3, 3)), np.zeros(2), np.zeros((2, 1, 3))])
def test_as_many_vectors_as_phrases_are_wanted(tmp_path: Path, vectors: Any) -> None:
    with pytest.raises(InputError, match=r"has 2 phrases, and vectors of the shape \("):
        PhraseTable(written(tmp_path / "t.npz", vectors=vectors), "a space")


# ---- towers


@pytest.fixture(scope="module")
def clip() -> Any:
    return small.clip()


@pytest.fixture
def loaded(clip: Any, monkeypatch: pytest.MonkeyPatch) -> List[Any]:
    """What was loaded; a small model instead of the one whose weights are not here."""
    settings: List[Any] = []

    def load(of: Any, device: torch.device, option: str) -> Any:
        settings.append((of.model, of.pretrained, of.weights, device))
        return OpenClip(clip.model, clip.tokenizer, of.name)

    monkeypatch.setattr(OpenClip, "load", load)
    return settings


def test_the_tower_is_that_of_the_space(clip: Any, loaded: List[Any], tmp_path: Path) -> None:
    tower = text_encoder("ViT-B-16 laion2b_s34b_b88k / sam vit_h 32 / 1080", tmp_path / "w.pt")
    assert loaded == [("ViT-B-16", "laion2b_s34b_b88k", tmp_path / "w.pt", torch.device("cpu"))]
    assert isinstance(tower, TextEncoder) and (tower.name, tower.width) == ("ViT-B-16 laion2b_s34b_b88k", 24)
    wanted = clip.encode_phrases(["a red mug", "tea"])
    torch.testing.assert_close(tower.encode_phrases(["a red mug", "tea"]), wanted)


def test_a_tower_refuses_what_it_cannot_read(loaded: List[Any]) -> None:
    english, any_language = (
        text_encoder("ViT-B-16 laion2b_s34b_b88k"),
        text_encoder("xlm-roberta-base-ViT-B-32 laion5b"),
    )
    english.check(["a red mug"])
    any_language.check(["红苹果"])
    with pytest.raises(InputError, match="'红苹果' is not English, and ViT-B-16 laion2b_s34b_b88k reads nothing else"):
        english.check(["红苹果"])


def test_a_table_takes_the_place_of_the_tower(loaded: List[Any], tmp_path: Path) -> None:
    table = text_encoder("brightness / of tests", written(tmp_path / "t.npz"))
    assert isinstance(table, PhraseTable) and table.name == "brightness" and not loaded


def test_a_space_that_is_none_of_open_clips_needs_a_table() -> None:
    with pytest.raises(InputError, match="features are of 'brightness', which is no model of open_clip.*TABLE.npz"):
        text_encoder("brightness / of tests")
    with pytest.raises(InputError, match="features are of 'colours of tests'.*TABLE.npz"):
        text_encoder("colours of tests / brightest channel")
