# SPDX-License-Identifier: Apache-2.0
"""Where compiled kernels are kept, and for how long.

numba refuses to define a kernel that it could keep nowhere, as in a container whose package and home folder are
read-only; then they go to a folder of the user's own among the temporary files. And it loads a kernel that it has kept
as long as the kernel's own file is the same, although the kernel holds what it uses of other files: after an upgrade
old and new would be mixed. So a kernel made by :func:`njit` is loaded only where all files of its package are the same.
"""

import functools
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, Callable, Optional

import numba
from numba import config


def njit(**options: Any) -> Callable:
    """numba's ``njit``, whose compiled kernels are outdated by a change in any file of the function's package.

    numba keeps with a kernel a stamp of its file, and takes the kernel for outdated when the stamp differs. Here the
    package's digest is put to that. A process that began before the change keeps what it compiles under its own stamp.
    """

    def decorate(function: Callable) -> Callable:
        kernel = numba.njit(**options)(function)
        index = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
        if index is not None:
            index._source_stamp = index._source_stamp, sources_digest(Path(function.__code__.co_filename).parent)
        return kernel

    return decorate


@functools.lru_cache
def sources_digest(package: Path) -> str:
    """What a package's source files come to; where there are none, as in a zip file, that of nothing."""
    digest = hashlib.sha256()
    for source in sorted(package.glob("[!.]*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


def _probe() -> None:
    """Something to keep; it is never compiled."""


def location() -> Optional[Path]:
    """The folder in which numba keeps this package's kernels; None while NUMBA_DISABLE_JIT keeps it from compiling.

    Raises:
        RuntimeError: where there is none.
    """
    cache = getattr(numba.njit(cache=True)(_probe), "_cache", None)
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
