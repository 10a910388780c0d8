# SPDX-License-Identifier: Apache-2.0
"""Answers as colours, against numbers computed by hand."""

import pytest
import torch

from nts_plugins.queries.overlays import FULL, SHADE, heat, highlighted, selected

COLOR = torch.tensor([0.8, 0.4, 0.2])
LUMA = 0.2126 * 0.8 + 0.7152 * 0.4 + 0.0722 * 0.2
"""Of Rec. 709."""
STEP = (FULL - 0.5) / 4
"""Relevancy from one colour of the ramp to the next."""
GREY = torch.full((3,), LUMA)


@pytest.mark.parametrize("relevancy", [0.0, 0.3, 0.5])
def test_what_does_not_beat_the_canonical_phrases_is_dark_grey(relevancy):
    torch.testing.assert_close(heat(COLOR, torch.tensor(relevancy)), SHADE * GREY)


@pytest.mark.parametrize(
    "relevancy, ramp",
    [
        (0.5 + STEP, (0.05, 0.55, 0.80)),
        (0.5 + 1.5 * STEP, (0.125, 0.675, 0.625)),
        (0.5 + 2 * STEP, (0.20, 0.80, 0.45)),
        (FULL, (0.90, 0.15, 0.10)),
        (1.0, (0.90, 0.15, 0.10)),
    ],
)
def test_what_does_goes_from_blue_to_red_over_its_own_brightness(relevancy, ramp):
    wanted = 0.35 * GREY + 0.65 * torch.tensor(ramp)
    torch.testing.assert_close(heat(COLOR, torch.tensor(relevancy)), wanted, atol=1e-5, rtol=0)


def test_what_hardly_beats_them_is_blue():
    wanted = 0.35 * GREY + 0.65 * torch.tensor([0.10, 0.10, 0.55])
    torch.testing.assert_close(heat(COLOR, torch.tensor(0.5 + 1e-5)), wanted, atol=1e-3, rtol=0)


def test_what_was_found_keeps_its_colour_when_it_is_highlighted():
    shown = highlighted(COLOR.expand(2, 3), torch.tensor([True, False]))
    torch.testing.assert_close(shown, torch.stack([COLOR, SHADE * GREY]))


def test_what_was_found_has_one_colour_when_it_is_selected():
    shown = selected(COLOR.expand(2, 3), torch.tensor([True, False]))
    wanted = 0.35 * GREY + 0.65 * torch.tensor([1.0, 0.75, 0.0])
    torch.testing.assert_close(shown, torch.stack([wanted, COLOR]))


def test_pictures_and_splats_are_painted_alike():
    generator = torch.Generator().manual_seed(0)
    colors, relevancy = (torch.rand(*shape, generator=generator) for shape in ((4, 5, 3), (4, 5)))
    assert torch.equal(heat(colors, relevancy).flatten(0, 1), heat(colors.flatten(0, 1), relevancy.flatten()))
    found = relevancy > 0.5
    assert torch.equal(highlighted(colors, found).flatten(0, 1), highlighted(colors.flatten(0, 1), found.flatten()))
    assert torch.equal(selected(colors, found).flatten(0, 1), selected(colors.flatten(0, 1), found.flatten()))
    for shown in (heat(colors, relevancy), highlighted(colors, found), selected(colors, found)):
        assert shown.shape == (4, 5, 3) and 0 <= float(shown.min()) and float(shown.max()) <= 1
    before = colors.clone()
    heat(colors, relevancy)
    assert torch.equal(colors, before)


def test_nothing_is_painted_where_there_is_nothing():
    assert heat(torch.zeros(0, 3), torch.zeros(0)).shape == (0, 3)
    assert highlighted(torch.zeros(0, 3), torch.zeros(0, dtype=torch.bool)).shape == (0, 3)
