# SPDX-License-Identifier: Apache-2.0
"""A folder that is there complete, or not at all."""

import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

STALE_SECONDS = 3600.0
"""A killed run leaves its hidden work folder behind; the next run for the same place removes it after this long."""


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a hidden folder beside ``target`` to write into; at the end it takes the place of ``target``.

    If the body raises, the hidden folder is removed and ``target`` stays as it was. The caller decides before whether
    an existing ``target`` may be replaced.

    Raises:
        OSError: from the file system, for instance when the place cannot be written or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-"
    _remove_stale(target.parent, prefix)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        yield work
        mask = os.umask(0)
        os.umask(mask)
        work.chmod(0o777 & ~mask)  # mkdtemp makes it private; the finished folder is as any other.
        _replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


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


def _remove_stale(parent: Path, prefix: str) -> None:
    for leftover in parent.glob(prefix + "*"):
        folders = [leftover, *(path for path in leftover.iterdir() if path.is_dir())] if leftover.is_dir() else []
        if folders and time.time() - max(path.stat().st_mtime for path in folders) > STALE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
