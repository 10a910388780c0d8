# SPDX-License-Identifier: Apache-2.0
"""What a user reads where nothing can draw."""

from contextlib import contextmanager
from typing import Iterator

from nts_plugins.errors import InputError
from nts_plugins.rasterization import BackendUnavailable, UnknownBackend


@contextmanager
def backend_explained() -> Iterator[None]:
    """Turn the library's error into one that ends a command with a message."""
    try:
        yield
    except UnknownBackend as error:
        raise InputError(str(error)) from error
    except BackendUnavailable as error:
        raise InputError(
            f"{error} ns-train uses another device with --machine.device-type; the other commands take the GPU "
            f"wherever torch sees one, unless CUDA_VISIBLE_DEVICES is set to nothing."
        ) from error
