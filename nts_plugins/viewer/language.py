# SPDX-License-Identifier: Apache-2.0
"""The panel in which one asks a scene, and how it shows its answer: on the splats, in the frame that is drawn next."""

from dataclasses import replace
from typing import Callable, Optional, Sequence, Tuple

import torch
from nerfstudio.viewer.viewer_elements import ViewerDropdown, ViewerSlider, ViewerText
from torch import Tensor, nn

from nts_plugins.errors import InputError
from nts_plugins.gaussians import Gaussians
from nts_plugins.gaussians.initialise import rgb_to_sh, sh_to_rgb
from nts_plugins.queries.overlays import heat, highlighted, selected
from nts_plugins.queries.question import Question
from nts_plugins.queries.relevancy import from_margin
from nts_plugins.viewer.reading import ViewerReading

HEAT, HIGHLIGHT, SELECT, NOTHING = "Heat map", "Highlight", "Select", "Scene as it is"
ONLY, WITHOUT = "Only what is found", "Without it"
AUTO = "best"
EVERYTHING = "all together"


class LanguagePanel(nn.Module):
    """Elements of the viewer, and what they say about splats. nerfstudio shows them in the order of their names.

    Args:
        levels: names of the levels that there are.
        ask: makes a question of a text and of negatives; its InputErrors are shown in the panel.
    """

    def __init__(self, levels: Sequence[str], ask: Callable[[str, str], Question]) -> None:
        super().__init__()
        self._ask = ask
        self._known: Tuple[Tuple[str, str], Optional[Question]] = ("", ""), None
        self.asked = ViewerText("Look for", "", hint="A phrase, or several with ; between them.")
        self.display = ViewerDropdown(
            "Show it as", HEAT, [HEAT, HIGHLIGHT, SELECT, ONLY, WITHOUT, NOTHING], hint="Heat map: what is found in "
            "colours of how relevant it is. Highlight: all else in grey. Select: what is found in one colour, all else "
            "as it is. Or all else is hidden, or what is found."
        )  # fmt: skip
        self.each = ViewerDropdown("Phrase", EVERYTHING, [EVERYTHING], hint="Which of several phrases to show.")
        self.level = ViewerDropdown(
            "Size of things", AUTO, [AUTO, *levels], hint="On which level to look; best takes that of the best match."
        )
        # In hundredths, since the viewer writes whole numbers at the ends of a slider.
        self.least = ViewerSlider(
            "Threshold, 1/100", 0.0, -10.0, 20.0, 0.5, hint="By how many hundredths the cosine of a phrase must beat "
            "that of what it has to beat, for something to be found."
        )  # fmt: skip
        self.negatives = ViewerText(
            "Has to beat", "", hint="Phrases that fit anything. Empty: object; things; stuff; texture, or the same "
            "in the language of the phrase."
        )  # fmt: skip
        self.said = ViewerReading("Answer")

    def question(self) -> Optional[Question]:
        """What the panel asks now; None where nothing is asked, or it cannot be."""
        wanted = self.asked.value.strip(), self.negatives.value.strip()
        known, question = self._known  # As one: each browser has a thread that draws for it.
        if wanted == known:
            return question
        question, said = None, ""
        if wanted[0]:
            try:
                question = self._ask(*wanted)
            except InputError as error:
                said = str(error)
        self._known = wanted, question
        self._say(said)
        phrases = question.phrases if question is not None else ()
        self.each.set_options([EVERYTHING, *phrases] if len(phrases) > 1 else [EVERYTHING])
        if self.each.value != EVERYTHING:
            self.each.value = EVERYTHING
        return question

    def wait(self) -> None:
        """Say that there is nothing to ask yet, to whoever asks; the question is answered when there is."""
        self._say("The splats have no language yet." if self.asked.value.strip() else "")

    def offer(self, levels: Sequence[str]) -> None:
        """Levels that there are."""
        self.level.set_options([AUTO, *levels])

    def chosen_level(self, names: Sequence[str]) -> Optional[int]:
        """Number of the level that is looked on; None for the best."""
        return list(names).index(self.level.value) if self.level.value in names else None

    def shown(self, gaussians: Gaussians, question: Question, relevancy: Tensor) -> Gaussians:
        """The splats as the panel wants them seen, given how relevant each is for each phrase of a question, [N, Q]."""
        if self.display.value == NOTHING or gaussians.sh is None:
            return gaussians
        picked = self.each.value
        own = relevancy[:, question.phrases.index(picked)] if picked in question.phrases else relevancy.amax(dim=1)
        least = from_margin(self.least.value / 100)
        found = own > least
        best = float(own.max()) if len(own) else 0.0
        self._say(f"{int(found.sum())} of {len(found)} splats, the best {best:.3f}")
        if self.display.value in (ONLY, WITHOUT):
            wanted = found if self.display.value == ONLY else ~found
            return replace(gaussians, opacities=torch.where(wanted, gaussians.opacities, 0.0))
        colors = sh_to_rgb(gaussians.sh[:, 0]).clamp(0.0, 1.0)
        if self.display.value == SELECT:
            return _painted(gaussians, selected(colors, found), found)
        painted = heat(colors, own + (0.5 - least)) if self.display.value == HEAT else None
        painted = highlighted(colors, found) if painted is None else painted
        return replace(gaussians, sh=rgb_to_sh(painted)[:, None], sh_rest=None)

    def _say(self, text: str) -> None:
        if self.said.value != text:
            self.said.value = text


def _painted(gaussians: Gaussians, colors: Tensor, where: Tensor) -> Gaussians:
    """Some splats in colours that do not depend on the side, the others as they are: [N, 3], and [N] bool."""
    assert gaussians.sh is not None
    some = where[:, None, None]
    sh, rest = torch.where(some, 0.0, gaussians.sh), gaussians.sh_rest
    sh[where, 0] = rgb_to_sh(colors[where])
    return replace(gaussians, sh=sh, sh_rest=None if rest is None else torch.where(some, 0.0, rest))
