# SPDX-License-Identifier: Apache-2.0
"""Where the weights of a model are, and what to say where they are not."""

import logging
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import torch

from nts_plugins.errors import InputError

Loaded = TypeVar("Loaded")
PATIENCE = 8.0
"""Seconds in which the hub has to answer, before anything is fetched from it."""


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
    file = _folder() / name
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file))
        except OSError as error:
            reason = error
            if isinstance(error, URLError) and not isinstance(error, HTTPError):  # which say it in brackets
                reason = ConnectionError(f"{urlsplit(url).netloc} cannot be reached ({error.reason})")
            raise missing(what, name, source, file.parent, option, reason) from error
    return file


def fetched_from_hub(repository: str, files: Sequence[str], what: str, option: str) -> Path:
    """A published file of Hugging Face's hub: where people may put it, in the hub's own cache, or downloaded.

    What is on this machine is found without any connection. Where there is none, the error comes within
    :data:`PATIENCE`, while the hub's own program tries for a minute.

    Args:
        repository: on the hub.
        files: names there, any of which will do, the best one first.
        what: has these weights, for the error.
        option: by which to say where the file is.

    Raises:
        InputError: where it is not there, and not to be had.
    """
    folder = _folder() / repository.replace("/", "--")
    for name in files:
        if (folder / name).is_file():
            return folder / name
    for name in files:
        if (file := in_hub_cache(repository, name)) is not None:
            return file
    try:
        return _downloaded(repository, files)
    except Exception as error:  # The hub, the network and the disk all raise errors of their own.
        from huggingface_hub import constants

        source = f"{constants.ENDPOINT}/{repository}"
        raise missing(what, " or ".join(reversed(files)), source, folder, option, error) from error


def loaded(load: Callable[..., Loaded], given_path: Optional[Path], repository: str, first: str, **more: Any) -> Loaded:
    """What a library loads of a path that somebody named, or else of a repository of Hugging Face's hub: as it is kept
    on this machine, or else downloaded.

    What is kept is loaded without any connection. Where there is none, the error comes within :data:`PATIENCE`, while
    libraries try for half a minute.

    Args:
        load: of the library; takes the path or the repository, and ``local_files_only``.
        given_path: None takes the repository.
        repository: on the hub.
        first: a file there that is read in any case.
        more: for ``load``.

    Raises:
        ConnectionError: where the hub is not to be asked, or does not answer; says which.
        FileNotFoundError: where the repository has no such file.
        Exception: of the library, where what is there cannot be loaded.
    """
    if given_path is not None:
        return load(str(given_path), **more)
    if in_hub_cache(repository, first) is not None:
        try:
            return load(repository, local_files_only=True, **more)
        except Exception:  # It may be kept in part, which each library says in its own way; the hub has the rest.
            pass
    with hub_kept_quiet():
        there = ask_hub(repository, first)
    if not there:
        raise FileNotFoundError(f"{repository} has no {first}")
    return load(repository, **more)


def in_hub_cache(repository: str, name: str) -> Optional[Path]:
    """A file of the hub that was downloaded before; None where it was not."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name)
    return Path(found) if isinstance(found, str) else None


def ask_hub(repository: str, name: str) -> bool:
    """Whether a repository of the hub has a file.

    Raises:
        ConnectionError: where the hub is not to be asked, or does not answer within :data:`PATIENCE`; says which.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import EntryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("the hub is not asked, because HF_HUB_OFFLINE is set")
    try:
        _within(PATIENCE, lambda: get_hf_file_metadata(hf_hub_url(repository, name), timeout=PATIENCE))
    except EntryNotFoundError:
        return False
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = f"cannot be reached ({short(error)})" if status is None else f"answers with the error {status}"
        raise ConnectionError(f"{constants.ENDPOINT} {said}") from error
    return True


@contextmanager
def hub_kept_quiet() -> Iterator[None]:
    """While the context lasts, the hub's program does not print what it tries again. Its bars stay."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def missing(
    what: str, file: str, source: str, folder: Path, option: str, reason: Optional[BaseException] = None
) -> InputError:
    """The error for weights that are neither on this machine nor can be fetched."""
    because = f" Fetching them failed: {short(reason)}." if reason is not None and str(reason) else ""
    return InputError(
        f"The weights of {what} are not on this machine.{because} Put {file} from {source} into {folder}, or say where "
        f"it is with {option}."
    )


def short(error: BaseException) -> str:
    """The first line of what an error says, without the stop at its end."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".:")


def _folder() -> Path:
    """Where torch keeps files of weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _downloaded(repository: str, files: Sequence[str]) -> Path:
    from huggingface_hub import hf_hub_download

    with hub_kept_quiet():
        for name in files:
            if ask_hub(repository, name):
                return Path(hf_hub_download(repository, name))
    raise FileNotFoundError(f"{repository} has no {' and no '.join(files)}")


def _within(seconds: float, ask: Callable[[], Any]) -> Any:
    """What a function returns or raises. A time-out of its own would count for every address of a server anew, and not
    for the search for that address at all.

    Raises:
        TimeoutError: where it takes longer. It then goes on in a thread that keeps no program from ending.
    """
    outcome: Dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = ask()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if "error" in outcome:
        raise outcome["error"]
    if "value" not in outcome:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    return outcome["value"]
