# SPDX-License-Identifier: Apache-2.0
"""Functions that people name on the command line, of modules of their own."""

import importlib
from typing import Any, Callable

from nts_plugins.errors import InputError


def function_named(name: str, what: str) -> Callable[..., Any]:
    """The function of a name "package.module:function".

    Args:
        name: of the function.
        what: the function is, for errors.

    Raises:
        InputError: where the name is of another form, or cannot be imported, or what it names cannot be called.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise InputError(f"{name!r} names no {what}; it is written package.module:function.")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"The {what} {name} cannot be loaded: {error}") from error
    if not callable(found):
        raise InputError(f"The {what} {name} is no function.")
    return found
