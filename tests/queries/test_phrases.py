# SPDX-License-Identifier: Apache-2.0
"""Phrases as people type them."""

import pytest

from nts_plugins.errors import InputError
from nts_plugins.queries.phrases import CANONICAL, canonical, check_languages, language_of, split


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("red apple", ["red apple"]),
        (" red apple ; tea; ", ["red apple", "tea"]),
        ("红苹果；茶", ["红苹果", "茶"]),
        ("a\nb", ["a", "b"]),
    ],
)
def test_phrases_are_separated_by_semicolons_of_both_widths(text, wanted):
    assert split(text) == wanted


@pytest.mark.parametrize("text", ["", "  ", ";；;"])
def test_nothing_to_look_for_is_an_error(text):
    with pytest.raises(InputError, match="nothing to look for"):
        split(text)


@pytest.mark.parametrize(
    "phrase, language",
    [("apple", "en"), ("Äpfel", "en"), ("红苹果", "zh"), ("赤いリンゴ", "ja"), ("사과", "ko"), ("яблоко", "ru")],
)
def test_a_script_tells_the_language(phrase, language):
    assert language_of(["x", phrase]) == language
    assert canonical([phrase]) == CANONICAL[language]


def test_a_language_may_be_named():
    assert canonical(["Apfel"], "de") == CANONICAL["de"]
    with pytest.raises(InputError, match="'la'.*en, zh"):
        canonical(["malum"], "la")
    assert all(len(phrases) == 4 and len(set(phrases)) == 4 for phrases in CANONICAL.values())


def test_a_tower_is_not_asked_what_it_cannot_read():
    check_languages(["apple"], "ViT-B-16", ("en",))
    check_languages(["苹果"], "xlm-roberta-large-ViT-H-14", None)
    with pytest.raises(InputError, match="'苹果' is not English, and ViT-B-16 .*xlm-roberta"):
        check_languages(["苹果"], "ViT-B-16", ("en",))
