# SPDX-License-Identifier: Apache-2.0
"""The one exception for what only the user can put right."""

from typing import Any, List


class InputError(SystemExit, ValueError):
    """An input, a setting or a file that the user has to change; the message says what is wrong and what to do.

    It is a ValueError for whoever calls the library. It is a SystemExit as well, because nerfstudio's commands handle
    no exception: Python then ends the command with exit status 1 and prints the message alone, where it would
    otherwise bury it under fifty lines of traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message


def describe(names: List[Any], limit: int = 4) -> str:
    """A few names, and how many more there are."""
    shown = ", ".join(str(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
