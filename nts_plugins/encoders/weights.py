# SPDX-License-Identifier: Apache-2.0
"""Where the weights of a model are, and what to say where they are not."""

from pathlib import Path
from typing import Optional

import torch

from nts_plugins.errors import InputError


def given(path: Path, what: str) -> Path:
    """The file that somebody named.

    Raises:
        InputError: where it is not there.
    """
    if not path.is_file():
        raise InputError(f"{path}, which is said to hold the weights of {what}, is not a file.")
    return path


def fetched(url: str, what: str, option: str) -> Path:
    """A published file, where torch keeps such files; downloaded unless it is there.

    Args:
        url: of the file.
        what: has these weights, for the error.
        option: by which to say where the file is.

    Raises:
        InputError: where it is not there, and not to be had.
    """
    source, _, name = url.rpartition("/")
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file))
        except OSError as error:
            raise missing(what, name, source, file.parent, option, error) from error
    return file


def missing(
    what: str, file: str, source: str, folder: Path, option: str, reason: Optional[BaseException] = None
) -> InputError:
    """The error for weights that are neither on this machine nor can be fetched."""
    because = f" Fetching them failed: {str(reason).splitlines()[0]}." if reason is not None and str(reason) else ""
    return InputError(
        f"The weights of {what} are not on this machine.{because} Put {file} from {source} into {folder}, or say where "
        f"it is with {option}."
    )
