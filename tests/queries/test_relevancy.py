# SPDX-License-Identifier: Apache-2.0
"""Relevancy by its definition, by hand, and with real embeddings of open_clip."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from nts_plugins.queries.phrases import CANONICAL
from nts_plugins.queries.relevancy import from_margin, margin, relevancy


def by_definition(feature, phrase, others, temperature=10.0):
    """Kerr et al. 2023: the least of all softmaxes of the phrase and one canonical phrase."""
    shares = []
    for other in others:
        both = torch.stack([feature @ phrase, feature @ other]) * temperature
        shares.append(torch.softmax(both, dim=0)[0])
    return torch.stack(shares).min()


def test_it_is_what_the_paper_says():
    generator = torch.Generator().manual_seed(0)
    features, phrases, others = (
        normalize(torch.randn(count, 16, generator=generator, dtype=torch.float64), dim=1) for count in (7, 3, 4)
    )
    found = relevancy(features @ phrases.T, features @ others.T)
    for row, feature in enumerate(features):
        for column, phrase in enumerate(phrases):
            torch.testing.assert_close(found[row, column], by_definition(feature, phrase, others))


def test_a_half_is_where_a_phrase_beats_all_others_at_any_temperature():
    positive, negative = torch.tensor([[0.30], [0.25], [0.20]]), torch.tensor([[0.1, 0.25]]).expand(3, 2)
    for temperature in (1.0, 10.0, 100.0):
        found = relevancy(positive, negative, temperature)[:, 0]
        assert found[0] > 0.5 and found[1] == 0.5 and found[2] < 0.5
    more = torch.cat([negative, torch.full((3, 1), 0.28)], dim=1)
    assert (relevancy(positive, more) <= relevancy(positive, negative)).all()
    assert (margin(positive, negative) > 0).flatten().tolist() == [True, False, False]
    assert from_margin(0.0) == 0.5 and abs(from_margin(0.0405) - 0.6) < 2e-4


def test_a_phrase_may_have_to_beat_some_only():
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(5, 2, 3, generator=generator), torch.randn(5, 2, 4, generator=generator)
    some = [[0, 2], [1, 2, 3], [0, 2]]
    counts = torch.tensor([[column in own for column in range(4)] for own in some])
    for number, own in enumerate(some):
        alone = margin(positive[..., [number]], negative[..., own])
        assert torch.equal(margin(positive, negative, counts)[..., [number]], alone)
        assert torch.equal(relevancy(positive, negative, counts=counts)[..., [number]], torch.sigmoid(10 * alone))
    assert torch.equal(margin(positive, negative, torch.ones(3, 4) > 0), margin(positive, negative))


@pytest.mark.capture
def test_real_embeddings_tell_what_is_there_from_what_is_not(captures):
    """36 objects of a tea table, and phrases, by ViT-B-16 of LAION-2B."""
    values = np.load(captures / "open_vocab" / "fastlgs_ex" / "teatime_clip.npz")
    names = [str(name) for name in values["text_names"]]
    objects, phrases = (
        normalize(torch.from_numpy(values[name].astype(np.float32)), dim=1) for name in ("auto_feat", "text_feat")
    )
    others = phrases[[names.index(name) for name in CANONICAL["en"]]]

    def best(phrase):
        return float(relevancy(objects @ phrases[names.index(phrase)][:, None], objects @ others.T).max())

    there = [best(phrase) for phrase in ("stuffed bear", "sheep", "coffee mug", "apple", "three cookies")]
    absent = [best(phrase) for phrase in ("bathtub", "showercurtain", "whiteboard", "rubber duck with buoy", "toilet")]
    assert min(there) > 0.55 > max(absent)
