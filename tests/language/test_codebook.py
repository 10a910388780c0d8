# SPDX-License-Identifier: Apache-2.0
"""Long features in two bytes."""

import pytest
import torch
from torch.nn.functional import normalize

from nts_plugins.language import codebook
from nts_plugins.language.codebook import NO_WORD, encode


def pieces_of(features, size=50):
    def pieces():
        for start in range(0, len(features), size):
            yield slice(start, min(start + size, len(features))), features[start : start + size]

    return pieces


def features_of(codes):
    """[N, C] of splats; zeros where there is none."""
    return torch.cat([codes.words, codes.words.new_zeros(1, codes.words.shape[1])])[codes.ids.long()].float()


def test_few_features_are_kept_as_they_are():
    generator = torch.Generator().manual_seed(0)
    kinds = normalize(torch.randn(9, 16, generator=generator), dim=1)
    features = kinds[torch.randint(9, (200,), generator=generator)]
    features[::10] = 0.0
    codes = encode(pieces_of(features), 200, count=64)
    assert codes.ids.dtype == torch.int16 and codes.words.shape == (9, 16)
    torch.testing.assert_close(features_of(codes), features, atol=1e-3, rtol=0)
    assert (codes.ids[::10] == NO_WORD).all()


def test_many_features_become_the_nearest_of_some_words(monkeypatch):
    monkeypatch.setattr(codebook, "SAMPLE", 2000)
    generator = torch.Generator().manual_seed(0)
    kinds = normalize(torch.randn(20, 32, generator=generator), dim=1)
    which = torch.randint(20, (5000,), generator=generator)
    features = normalize(kinds[which] + 0.05 * torch.randn(5000, 32, generator=generator), dim=1)
    codes = encode(pieces_of(features, 777), 5000, count=40)
    assert len(codes.words) == 40
    assert (features_of(codes) * features).sum(dim=1).mean() > 0.95
    nearest = (features @ codes.words.float().T).max(dim=1).values
    torch.testing.assert_close((features_of(codes) * features).sum(dim=1), nearest, atol=2e-3, rtol=0)
    again = encode(pieces_of(features, 777), 5000, count=40)
    assert torch.equal(codes.ids, again.ids)


def test_scenes_without_any_feature():
    codes = encode(pieces_of(torch.zeros(5, 4)), 5)
    assert (codes.ids == NO_WORD).all() and codes.words.shape == (0, 4)


@pytest.mark.parametrize("count", [0, -1, 40_000])
def test_so_many_words_cannot_be_counted(count):
    with pytest.raises(ValueError, match="told apart"):
        encode(pieces_of(torch.zeros(5, 4)), 5, count)
