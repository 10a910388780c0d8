# SPDX-License-Identifier: Apache-2.0
"""Text in the viewer's panels that people read and do not type."""

import re

from nerfstudio.viewer.viewer_elements import ViewerElement
from viser import ViserServer

_SPECIAL = re.compile(r"([!-/:-@\[-`{-~])")
"""What may mean something in Markdown: all punctuation of ASCII, which a backslash makes plain again."""


class ViewerReading(ViewerElement[str]):
    """A line of text that is as long as it has to be: nerfstudio's own text is a field of one line, which cuts it off.

    Args:
        name: shown before the text; nothing is shown where there is no text.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._value = ""

    @property
    def value(self) -> str:
        """What is shown."""
        return self._value

    @value.setter
    def value(self, value: str) -> None:
        self._value = value
        if self.gui_handle is not None:
            self.gui_handle.content = self.markdown()  # type: ignore[union-attr]

    def markdown(self) -> str:
        """What the viewer is told. Text may repeat what somebody has typed, which must not become anything else: of an
        image, viser would read the file that it names."""
        plain = _SPECIAL.sub(r"\\\1", " ".join(self._value.split()))
        # Paths are words without an end, which may be broken anywhere.
        return f'**{self.name}:** <span style={{{{overflowWrap: "anywhere"}}}}>{plain}</span>' if plain else ""

    def install(self, viser_server: ViserServer) -> None:
        self._create_gui_handle(viser_server)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        handle = viser_server.gui.add_markdown(self.markdown(), visible=self.visible)
        self.gui_handle = handle  # type: ignore[assignment]
