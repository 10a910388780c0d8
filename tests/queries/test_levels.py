# SPDX-License-Identifier: Apache-2.0
"""On which size of things a phrase is looked for."""

import torch

from nts_plugins.queries.relevancy import on_level

SCORES = torch.tensor(
    [  # two phrases on three levels, of four splats
        [[0.1, 0.6], [0.4, 0.2], [0.3, 0.5]],
        [[0.2, 0.1], [0.9, 0.3], [0.5, 0.4]],
        [[0.7, 0.2], [0.0, 0.1], [0.6, 0.8]],
        [[0.3, 0.3], [0.2, 0.2], [0.1, 0.1]],
    ]
)


def test_a_level_may_be_named():
    for level in range(3):
        assert torch.equal(on_level(SCORES, level), SCORES[:, level])


def test_each_phrase_has_the_level_of_its_best_match():
    # 0.9 of the first phrase is on level 1, 0.8 of the second on level 2.
    wanted = torch.stack([SCORES[:, 1, 0], SCORES[:, 2, 1]], dim=1)
    assert torch.equal(on_level(SCORES), wanted)


def test_the_level_is_of_all_pixels_together():
    """As in LangSplat's program: not another one for each pixel, although the last splat scores most on level 0."""
    assert on_level(SCORES)[3].tolist() == SCORES[3, [1, 2], [0, 1]].tolist()


def test_of_equal_levels_the_first_is_taken():
    assert torch.equal(on_level(torch.ones(5, 3, 1)), torch.ones(5, 1))
    tied = torch.tensor([[[0.5], [0.5]], [[0.1], [0.2]]])
    assert on_level(tied)[:, 0].tolist() == torch.tensor([0.5, 0.1]).tolist()


def test_of_no_splats_there_is_no_best_match():
    assert on_level(torch.zeros(0, 3, 2)).shape == (0, 2) and on_level(torch.zeros(0, 3, 2), 1).shape == (0, 2)
