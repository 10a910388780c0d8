# SPDX-License-Identifier: Apache-2.0
"""What a text asks, as vectors, and what features answer, by hand."""

import math
import zlib
from typing import List, Sequence

import pytest
import torch

from nts_plugins.errors import InputError
from nts_plugins.queries.phrases import CANONICAL, check_languages
from nts_plugins.queries.question import Question, asked


def by_length(phrases: Sequence[str]) -> torch.Tensor:
    """A vector that tells which phrase it is of: the axis of its number of letters."""
    return torch.eye(16)[[len(phrase) for phrase in phrases]]


def by_letters(phrases: Sequence[str]) -> torch.Tensor:
    """A vector that is as good as random, and another one for each phrase."""
    rows = [torch.randn(16, generator=torch.Generator().manual_seed(zlib.crc32(each.encode()))) for each in phrases]
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_phrases_come_first_and_then_what_they_have_to_beat():
    question = asked(" red ; a mug", by_length)
    assert question.phrases == ("red", "a mug") and question.negatives == CANONICAL["en"]
    # red, a mug; object, things, stuff, texture.
    assert question.vectors.argmax(dim=1).tolist() == [3, 5, 6, 6, 5, 7]


@pytest.mark.parametrize("negatives", ["", "   "])
def test_without_negatives_they_are_the_canonical_phrases_of_the_language(negatives):
    assert asked("红苹果；茶", by_length, negatives).negatives == CANONICAL["zh"]
    assert asked("red", by_length, negatives).negatives == CANONICAL["en"]


def test_negatives_may_be_given():
    question = asked("red", by_length, "green; blue ;")
    assert question.negatives == ("green", "blue") and question.vectors.argmax(dim=1).tolist() == [3, 5, 4]


def test_phrases_are_checked_before_they_are_encoded():
    seen: List[str] = []

    def check(phrases: Sequence[str]) -> None:
        seen.extend(phrases)
        raise InputError("not these")

    def encode(phrases: Sequence[str]) -> torch.Tensor:
        raise AssertionError("refused phrases are not encoded")

    with pytest.raises(InputError, match="not these"):
        asked("red; green", encode, check=check)
    assert seen == ["red", "green"]


def test_negatives_are_checked_too_but_not_canonical_phrases():
    seen: List[List[str]] = []
    for negatives in ("", "物体; stuff"):
        asked("red", by_length, negatives, lambda phrases: seen.append(list(phrases)))
    assert seen == [["red"], ["red", "物体", "stuff"]]

    def english(phrases: Sequence[str]) -> None:
        check_languages(phrases, "ViT-B-16", ("en",))

    with pytest.raises(InputError, match="'物体' is not English"):
        asked("red", by_length, "stuff; 物体", english)
    assert asked("red", by_length, check=english).negatives == CANONICAL["en"]


@pytest.mark.parametrize(
    "text, negatives, said",
    [
        ("", "", "nothing to look for"),
        (" ; ", "", "nothing to look for"),
        ("red", ";", "no phrase in the negatives ';'"),
    ],
)
def test_nothing_to_look_for_or_to_beat_is_an_error(text, negatives, said):
    with pytest.raises(InputError, match=said):
        asked(text, by_length, negatives)


def test_what_a_phrase_has_to_beat_does_not_depend_on_what_else_is_asked():
    features = torch.nn.functional.normalize(torch.randn(50, 3, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    lengths = torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) + 0.1

    def answers(text: str, negatives: str = "") -> torch.Tensor:
        question = asked(text, by_letters, negatives)
        return question.relevancy(features @ question.vectors.T * lengths[..., None], lengths)

    phrases = ["rug", "地球仪", "mug", "赤いリンゴ", "茶"]
    for negatives in ("", "stuff; 物体"):
        together = answers(";".join(phrases), negatives)
        for number, phrase in enumerate(phrases):
            torch.testing.assert_close(together[..., number], answers(phrase, negatives)[..., 0])
    # Which it would, if all had to beat all.
    assert not torch.allclose(answers("rug"), answers("rug", ";".join((*CANONICAL["en"], *CANONICAL["zh"]))))


def test_a_question_tells_what_each_phrase_has_to_beat():
    question = asked("rug; 地球仪; mug", by_letters)
    assert question.negatives == (*CANONICAL["en"], *CANONICAL["zh"])
    assert [question.beaten_by(number) for number in range(3)] == [CANONICAL[each] for each in ("en", "zh", "en")]
    # Those that are given are for all; and for one language alone there is no table, which would cost time.
    assert asked("rug; 地球仪", by_letters, "things").beaten_by(1) == ("things",)
    assert asked("rug; mug", by_letters).counts is None and asked("rug; 地球仪", by_letters, "things").counts is None


def test_relevancy_is_how_much_a_phrase_beats_the_best_negative():
    question = Question(("a", "b"), ("c", "d", "e"), torch.zeros(5, 4))
    cosines = torch.tensor([0.5, 0.2, 0.3, 0.1, -0.4])
    wanted = torch.tensor([sigmoid(10 * (0.5 - 0.3)), sigmoid(10 * (0.2 - 0.3))])
    torch.testing.assert_close(question.relevancy(cosines), wanted)
    torch.testing.assert_close(question.relevancy(cosines.expand(4, 3, -1)), wanted.expand(4, 3, 2))
    torch.testing.assert_close(question.relevancy(cosines, temperature=1.0)[0], torch.tensor(sigmoid(0.2)))
    lengths = torch.tensor([3.0, 0.2, 1.0])
    products = cosines.expand(4, 3, -1) * lengths[:, None]
    torch.testing.assert_close(question.relevancy(products, lengths.expand(4, 3)), wanted.expand(4, 3, 2))


def test_phrases_do_not_have_to_beat_each_other():
    alone = Question(("a",), ("c",), torch.zeros(2, 4)).relevancy(torch.tensor([0.2, 0.1]))
    beside = Question(("a", "b"), ("c",), torch.zeros(3, 4)).relevancy(torch.tensor([0.2, 0.9, 0.1]))
    assert beside[0] == alone[0]
