# SPDX-License-Identifier: Apache-2.0
"""Where compiled kernels are kept. numba refuses to define a kernel that it could keep nowhere, as in a container whose
package and home folder are read-only; then they go to a folder of the user's own among the temporary files."""

import os
import stat
import tempfile
from pathlib import Path
from typing import Optional

from numba import config, njit


def _probe() -> None:
    """Something to keep; it is never compiled."""


def location() -> Optional[Path]:
    """The folder in which numba keeps this package's kernels; None while NUMBA_DISABLE_JIT keeps it from compiling.

    Raises:
        RuntimeError: where there is none.
    """
    cache = getattr(njit(cache=True)(_probe), "_cache", None)
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


FALLBACK = ensure()
"""Whether kernels are kept among the temporary files."""
