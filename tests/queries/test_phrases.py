# SPDX-License-Identifier: Apache-2.0
"""Phrases as people type them."""

import pytest

from nts_plugins.errors import InputError
from nts_plugins.queries.phrases import (
    CANONICAL,
    canonical,
    check_languages,
    language_of,
    split,
    split_negatives,
)


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
    assert language_of(phrase) == language and language_of(f"x {phrase}") == language
    assert canonical([phrase]) == canonical([phrase, phrase]) == CANONICAL[language]


def test_phrases_of_several_languages_have_the_canonical_phrases_of_all_each_once():
    assert canonical(["rug", "地球仪", "mug"]) == (*CANONICAL["en"], *CANONICAL["zh"])
    # Both say 物体.
    assert canonical(["地球仪", "赤いリンゴ"]) == (*CANONICAL["zh"], *CANONICAL["ja"][1:])
    assert all(len(phrases) == 4 and len(set(phrases)) == 4 for phrases in CANONICAL.values())


def test_negatives_are_separated_likewise_and_there_may_be_none():
    assert split_negatives("") == split_negatives("  ") == [] and split_negatives("a ；b; a") == ["a", "b"]
    with pytest.raises(InputError, match="no phrase in the negatives ' ; '"):
        split_negatives(" ; ")


def test_a_tower_is_not_asked_what_it_cannot_read():
    check_languages(["apple"], "ViT-B-16", ("en",))
    check_languages(["苹果"], "xlm-roberta-large-ViT-H-14", None)
    with pytest.raises(InputError, match="'苹果' is not English, and ViT-B-16 .*xlm-roberta"):
        check_languages(["苹果"], "ViT-B-16", ("en",))
    with pytest.raises(InputError, match="^'地球仪' is not English"):
        check_languages(["rug", "地球仪", "苹果"], "ViT-B-16", ("en",))
