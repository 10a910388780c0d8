# SPDX-License-Identifier: Apache-2.0
"""Work that several processes share out among themselves, on one machine or on one disk."""

import os
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

from nts_plugins.files.whole import age, lives, machine

HEARTBEAT, STALE = 20.0, 120.0
"""Seconds between two signs of life of who holds a claim, and after how many without one nobody does."""
NAMELESS = 2.0
"""Seconds after which nobody holds a claim that does not say whose it is: whoever made it was killed in between."""


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Try to be the only one who does a piece of work; whether it worked is what the body gets.

    The claim is a file, made if nobody else has. It is removed at the end. Of a process that was killed it is free at
    once on the same machine, and after :data:`STALE` seconds elsewhere. Two that find it free at the same moment may
    both go on: what they make should be written whole, so that nothing comes of it but work done twice.

    Args:
        path: of the claim; all processes name the same one for the same work.

    Raises:
        OSError: where the file cannot be made for another reason than that it is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _made(path) and not (_abandoned(path) and _taken_over(path)):
        yield False
        return
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, done), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        done.set()
        beat.join()
        path.unlink(missing_ok=True)


def _made(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        file.write(f"{machine()} {os.getpid()}")
    return True


def _abandoned(path: Path) -> bool:
    """Whether who made the claim is gone."""
    try:
        where, _, process = path.read_text().partition(" ")
        if where == machine() and process.isdecimal() and not lives(int(process)):
            return True
        return age(path) > (STALE if where else NAMELESS)
    except OSError:
        return False  # Finished just now.


def _taken_over(path: Path) -> bool:
    """Of several who find an abandoned claim, one gets it: the one whose renaming does not fail."""
    old = path.with_name(f"{path.name}.{machine()}-{os.getpid()}")
    try:
        os.rename(path, old)
    except OSError:
        return False
    old.unlink(missing_ok=True)
    return _made(path)


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT):
        with suppress(OSError):
            os.utime(path)
