# SPDX-License-Identifier: Apache-2.0
"""The panel of language by itself: what it makes of splats whose relevancy is known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, List

import pytest
import torch

from nts_plugins.encoders.base import LEVELS
from nts_plugins.errors import InputError
from nts_plugins.gaussians import Gaussians
from nts_plugins.gaussians.initialise import rgb_to_sh, sh_to_rgb
from nts_plugins.queries.overlays import SHADE, heat, selected
from nts_plugins.queries.question import Question, asked
from nts_plugins.viewer import language as panels
from nts_plugins.viewer.language import LanguagePanel
from tests.asking import set_to

COLORS = torch.tensor([[0.8, 0.4, 0.2], [0.1, 0.9, 0.3], [0.5, 0.5, 0.5]])
RELEVANCY = torch.tensor([[0.60, 0.30], [0.40, 0.62], [0.45, 0.20]])
"""Of three splats, for two phrases."""


def gaussians() -> Gaussians:
    return Gaussians(
        means=torch.zeros(3, 3),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1),
        scales=torch.ones(3, 3),
        opacities=torch.tensor([0.9, 0.8, 0.7]),
        sh=rgb_to_sh(COLORS)[:, None],
        sh_rest=torch.full((3, 3, 3), 0.3),
    )


def panel_of(text: str = "red; green", **elements: Any) -> LanguagePanel:
    def ask(text: str, negatives: str) -> Question:
        return asked(text, lambda phrases: torch.eye(8)[: len(phrases)], negatives)

    panel = LanguagePanel(LEVELS, ask)
    set_to(panel, asked=text, **elements)
    panel.question()
    return panel


def shown_by(panel: LanguagePanel, splats: Gaussians, relevancy: torch.Tensor) -> Gaussians:
    question = panel.question()
    assert question is not None
    return panel.shown(splats, question, relevancy)


def test_nothing_is_asked_at_first() -> None:
    panel = panel_of("  ")
    assert panel.question() is None and panel.said.value == ""


def test_heat_is_in_colours_that_do_not_depend_on_the_side() -> None:
    shown = shown_by(panel_of(), gaussians(), RELEVANCY)
    assert shown.sh is not None and shown.sh_rest is None
    best = torch.tensor([0.60, 0.62, 0.45])
    torch.testing.assert_close(sh_to_rgb(shown.sh[:, 0]), heat(COLORS, best))
    torch.testing.assert_close(shown.opacities, gaussians().opacities)
    torch.testing.assert_close(sh_to_rgb(shown.sh[2, 0]), torch.full((3,), SHADE * 0.5))


def test_what_was_found_is_highlighted() -> None:
    shown = shown_by(panel_of(display=panels.HIGHLIGHT), gaussians(), RELEVANCY)
    assert shown.sh is not None
    torch.testing.assert_close(sh_to_rgb(shown.sh[:2, 0]), COLORS[:2])
    torch.testing.assert_close(sh_to_rgb(shown.sh[2, 0]), torch.full((3,), SHADE * 0.5))


def test_what_was_found_is_selected_and_all_else_stays() -> None:
    splats = gaussians()
    shown = shown_by(panel_of(display=panels.SELECT), splats, RELEVANCY)
    assert shown.sh is not None and shown.sh_rest is not None and splats.sh is not None and splats.sh_rest is not None
    found = torch.tensor([True, True, False])
    torch.testing.assert_close(sh_to_rgb(shown.sh[:, 0]), selected(COLORS, found))
    assert torch.equal(shown.sh_rest[2], splats.sh_rest[2]) and not shown.sh_rest[:2].any()
    assert torch.equal(shown.opacities, splats.opacities)
    assert torch.equal(splats.sh, rgb_to_sh(COLORS)[:, None]), "the scene itself stays"
    whole = replace(splats, sh=torch.cat([splats.sh, splats.sh_rest], dim=1), sh_rest=None)
    other = shown_by(panel_of(display=panels.SELECT), whole, RELEVANCY)
    assert other.sh_rest is None and torch.equal(other.sh, torch.cat([shown.sh, shown.sh_rest], dim=1))  # type: ignore[arg-type]


@pytest.mark.parametrize("show, opacities", [(panels.ONLY, [0.9, 0.8, 0.0]), (panels.WITHOUT, [0.0, 0.0, 0.7])])
def test_splats_are_hidden_and_otherwise_as_they_are(show: str, opacities: List[float]) -> None:
    splats = gaussians()
    shown = shown_by(panel_of(display=show), splats, RELEVANCY)
    torch.testing.assert_close(shown.opacities, torch.tensor(opacities))
    assert torch.equal(shown.sh, splats.sh) and torch.equal(shown.sh_rest, splats.sh_rest)  # type: ignore[arg-type]
    assert torch.equal(splats.opacities, torch.tensor([0.9, 0.8, 0.7])), "the scene itself stays"


def test_the_scene_can_be_shown_as_it_is() -> None:
    splats = gaussians()
    assert shown_by(panel_of(display=panels.NOTHING), splats, RELEVANCY) is splats


def test_one_of_several_phrases_can_be_shown() -> None:
    panel = panel_of(display=panels.ONLY)
    assert panel.each.options == [panels.EVERYTHING, "red", "green"]
    for phrase, opacities in (("red", [0.9, 0, 0]), ("green", [0, 0.8, 0]), (panels.EVERYTHING, [0.9, 0.8, 0])):
        set_to(panel, each=phrase)
        torch.testing.assert_close(shown_by(panel, gaussians(), RELEVANCY).opacities, torch.tensor(opacities))


def test_a_new_question_shows_all_of_its_phrases() -> None:
    panel = panel_of(each="green")
    set_to(panel, asked="blue; red")
    panel.question()
    assert panel.each.value == panels.EVERYTHING and panel.each.options == [panels.EVERYTHING, "blue", "red"]
    set_to(panel, asked="blue")
    panel.question()
    assert panel.each.options == [panels.EVERYTHING]


def test_the_threshold_is_a_difference_of_cosines_in_hundredths() -> None:
    # r = 0.6 is a difference of log(0.6 / 0.4) / 10 = 0.0405.
    for threshold, found in ((4.0, [True, True, False]), (4.1, [False, True, False]), (20, [False] * 3),
                             (-10, [True] * 3)):  # fmt: skip
        shown = shown_by(panel_of(display=panels.ONLY, least=threshold), gaussians(), RELEVANCY)
        assert (shown.opacities > 0).tolist() == found
        heated = shown_by(panel_of(least=threshold), gaussians(), RELEVANCY)
        assert heated.sh is not None
        colors = sh_to_rgb(heated.sh[:, 0])
        assert (colors.std(dim=1) > 1e-4).tolist() == found, "what was not found is grey"


def test_the_viewer_shows_the_true_ends_of_the_threshold() -> None:
    """viser 0.2.7 writes the ends of a slider as whole numbers."""
    slider = panel_of().least
    assert slider.min == int(slider.min) < 0 < int(slider.max) == slider.max


def test_an_answer_of_any_length_is_shown_as_it_is() -> None:
    """Not as Markdown: of an image, viser would read the file that it names."""
    sent: List[str] = []
    made = SimpleNamespace(content="")
    server: Any = SimpleNamespace(gui=SimpleNamespace(add_markdown=lambda content, visible: made))
    said = panel_of().said
    said.install(server)
    for text in ("![x](/etc/hostname) *a* <b> {c} https://d_e", "1. no\n\n# heading", "苹果, é"):
        said.value = text
        assert said.value == text
        sent.append(made.content)
    assert sent == [
        f'**Answer:** <span style={{{{overflowWrap: "anywhere"}}}}>{plain}</span>'
        for plain in (
            r"\!\[x\]\(\/etc\/hostname\) \*a\* \<b\> \{c\} https\:\/\/d\_e",
            r"1\. no \# heading",
            r"苹果\, é",
        )
    ]
    said.value = ""
    assert made.content == ""


def test_the_answer_says_how_much_was_found() -> None:
    panel = panel_of()
    shown_by(panel, gaussians(), RELEVANCY)
    assert panel.said.value == "2 of 3 splats, the best 0.620"
    set_to(panel, each="red")
    shown_by(panel, gaussians(), RELEVANCY)
    assert panel.said.value == "1 of 3 splats, the best 0.600"
    shown_by(panel, gaussians().select(torch.zeros(3, dtype=torch.bool)), RELEVANCY[:0])
    assert panel.said.value == "0 of 0 splats, the best 0.000"


def test_the_same_is_asked_once() -> None:
    count = 0

    def ask(text: str, negatives: str) -> Question:
        nonlocal count
        count += 1
        if text == "wrong":
            raise InputError("no such phrase")
        return Question((text,), ("object",), torch.eye(2))

    panel = LanguagePanel(LEVELS, ask)
    for text, negatives, wanted in (("red", "", 1), (" red ", "", 1), ("red", "blue", 2), ("wrong", "", 3)):
        set_to(panel, asked=text, negatives=negatives)
        for _ in range(3):
            panel.question()
        assert count == wanted
    assert panel.said.value == "no such phrase" and panel.question() is None
    set_to(panel, asked="")
    assert panel.question() is None and panel.said.value == "" and count == 3


def test_levels_are_chosen_by_their_names() -> None:
    panel = panel_of()
    assert panel.level.options == ["best", *LEVELS] and panel.chosen_level(LEVELS) is None
    for number, name in enumerate(LEVELS):
        set_to(panel, level=name)
        assert panel.chosen_level(LEVELS) == number
