# SPDX-License-Identifier: Apache-2.0
"""What lifting is told; what it does is seen in tests of the head and of its parts."""

import pytest

from nts_plugins.errors import InputError
from nts_plugins.language.lift import LiftSettings


@pytest.mark.parametrize("words", [0, -3, 32768])
def test_words_can_be_told_apart(words: int) -> None:
    assert LiftSettings(words=32767).words == 32767
    with pytest.raises(InputError, match=f"Words of a level are from 1 to 32767, not {words}"):
        LiftSettings(words=words)
