# SPDX-License-Identifier: Apache-2.0
"""Where compiled kernels are kept, and for how long.

numba refuses to define a kernel that it could keep nowhere, as in a container whose package and home folder are
read-only; then they go to a folder of the user's own among the temporary files. And it takes a kernel that it has kept
for good as long as the kernel's own file is the same, although the kernel holds what it uses of other files: after an
upgrade, old and new would be mixed. So all are forgotten when any file of their package has changed.
"""

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Callable, Optional

from numba import config, njit


def _probe() -> None:
    """Something to keep; it is never compiled."""


def location(probe: Callable = _probe) -> Optional[Path]:
    """The folder in which numba keeps the kernels of the probe's package, this one; None while NUMBA_DISABLE_JIT keeps
    it from compiling.

    Raises:
        RuntimeError: where there is none.
    """
    cache = getattr(njit(cache=True)(probe), "_cache", None)
    return None if cache is None else Path(cache.cache_path)


def ensure() -> bool:
    """Give numba a folder where it finds none by itself; returns whether that was needed."""
    try:
        location()
        return False
    except RuntimeError:
        config.CACHE_DIR = str(_own_folder())
        return True


def _own_folder() -> Path:
    """A folder among the temporary files that nobody else can write to: what lies in it is run."""
    if hasattr(os, "getuid"):
        folder = Path(tempfile.gettempdir()) / f"nts-kernels-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="nts-kernels-"))


def forget_outdated(probe: Callable = _probe) -> bool:
    """Delete the kernels of the probe's package that were compiled from other sources than it has now, before the first
    one is loaded; returns whether there may have been some. A process that compiles meanwhile does so once more."""
    place = location(probe)
    if place is None:
        return False
    digest = hashlib.sha256()
    for source in sorted(Path(probe.__code__.co_filename).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    compiled_from = place / "compiled-from"
    if compiled_from.is_file() and compiled_from.read_text() == digest.hexdigest():
        return False
    for kept in place.glob("*.nb[ic]"):
        kept.unlink(missing_ok=True)
    unfinished = place / f"compiled-from.{os.getpid()}"
    unfinished.write_text(digest.hexdigest())
    unfinished.replace(compiled_from)
    return True


FALLBACK = ensure()
"""Whether kernels are kept among the temporary files."""
forget_outdated()
