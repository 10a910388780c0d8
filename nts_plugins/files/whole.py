# SPDX-License-Identifier: Apache-2.0
"""Folders and files that are there complete, or not at all."""

import errno
import os
import shutil
import socket
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Collection, Iterator, Optional

from nts_plugins.errors import InputError, describe

STALE_SECONDS = 3600.0
"""A killed run leaves its hidden work folder behind. The next run for the same place removes it, at once where the
process was one of this machine, and after this long where nobody knows whether it still lives."""


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a hidden folder beside ``target`` to write into; at the end it takes the place of ``target``.

    If the body raises, the hidden folder is removed and ``target`` stays as it was. The caller decides before whether
    an existing ``target`` may be replaced.

    Raises:
        OSError: from the file system, for instance when the place cannot be written or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    prefix = f"{_prefix(target)}{machine()}-{os.getpid()}-"
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        yield work
        mask = os.umask(0)
        os.umask(mask)
        work.chmod(0o777 & ~mask)  # mkdtemp makes it private; the finished folder is as any other.
        _replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def whole_file(path: Path, *, workspace: Optional[Path] = None) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place once it is complete. Of one that was interrupted nothing is left, but
    for a hidden file after a kill, which the next one for the same place writes over.

    Args:
        path: of the file; one that is there already is replaced.
        workspace: folder on the same disk to write in; by default that of the file, which is made where it is missing.

    Raises:
        OSError: as of :func:`whole_folder`.
    """
    if workspace is None:
        workspace = path.parent
        workspace.mkdir(parents=True, exist_ok=True)
    partial = workspace / _partial(path)
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def writing(target: object) -> Iterator[None]:
    """Turn what the file system refuses into an InputError that names what was to be written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"Cannot write {target}: {reason}. Free space there, or choose another place.") from error


@contextmanager
def result_file(path: Path) -> Iterator[BinaryIO]:
    """:func:`whole_file` with the errors of :func:`writing`."""
    with writing(path), whole_file(path) as file:
        yield file


def check_folder(target: Path, what: str, own: Collection[str], about: str, overwrite: bool) -> None:
    """Whether a folder may be made by :func:`whole_folder`, for whoever wants to know before the work is done.

    Args:
        target: the folder, absolute.
        what: is written there, with its article: "a scene".
        own: names of all that an earlier one may consist of.
        about: that of them which no earlier one lacks.
        overwrite: replace an earlier one. Other files are never removed.

    Raises:
        InputError: saying why it may not.
    """
    noun = what.partition(" ")[2]
    for place in (target, *target.parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"{place} is a file, and the {noun} needs a folder. Choose another place.")
    names = sorted(path.name for path in target.iterdir()) if target.exists() else []
    others = [name for name in names if name not in own]
    if others or (names and about not in names):
        raise InputError(
            f"{target} holds other files, which are never removed: {describe(others or names)}. Choose a new folder."
        )
    if names and not overwrite:
        raise InputError(f"{target} holds {what}. Choose another folder, or replace the {noun} with --overwrite.")


def check_place(path: Path) -> None:
    """Notice before long work most of what :func:`result_file` would say after it. Leaves nothing behind."""
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(each for each in path.absolute().parents if each.exists())
        probe = folder / _partial(path)
        open(probe, "wb").close()
        probe.unlink()


def _partial(path: Path) -> str:
    return f".{path.name}.partial"


def _replace(work: Path, target: Path) -> None:
    """Move the finished folder into place. What was there is removed last, and put back if the move fails."""
    if not target.exists():
        os.rename(work, target)
        return
    old = work.with_name(work.name + ".old")
    os.rename(target, old)
    try:
        os.rename(work, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(target: Path) -> None:
    """Remove the hidden folders that killed runs for the same place left behind."""
    for leftover in target.parent.glob(_prefix(target) + "*"):
        where, _, process = leftover.name[len(_prefix(target)) :].rpartition("-")[0].rpartition("-")
        known = where == machine() and process.isdecimal()
        if not lives(int(process)) if known else age(leftover) > STALE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


def _prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def machine() -> str:
    """Name of this machine, letters and digits only."""
    return "".join(letter for letter in socket.gethostname() if letter.isalnum())


def lives(process: int) -> bool:
    """Whether a process of this machine is still there; on Windows nobody can be asked without harm."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def age(path: Path) -> float:
    """Seconds since a file was written, or anything was made in a folder; 0 for what is not there."""
    changed = [path, *(each for each in path.iterdir() if each.is_dir())] if path.is_dir() else [path]
    times = [each.stat().st_mtime for each in changed if each.exists()]
    return time.time() - max(times) if times else 0.0
