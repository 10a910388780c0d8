# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels find a place even where nothing but temporary files can be written."""

import importlib
import os
import pkgutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config
from numba.core.dispatcher import Dispatcher

from nts_plugins import kernels, samples
from nts_plugins.kernels import _cache
from tests.conftest import REPOSITORY


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """numba finds no place by itself; the folder of temporary files is another one."""
    original = _cache.location

    def location() -> "Path | None":
        if not config.CACHE_DIR:
            raise RuntimeError("cannot cache function '_probe': no locator available")
        return original()

    monkeypatch.setattr(_cache, "location", location)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(_cache.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_nothing_changes_where_numba_finds_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    before = config.CACHE_DIR
    assert not _cache.ensure() and config.CACHE_DIR == before


def test_without_a_place_kernels_go_to_a_folder_of_the_users_own(nowhere: Path) -> None:
    assert _cache.ensure()
    folder = Path(config.CACHE_DIR)
    assert folder.parent == nowhere and stat.S_IMODE(folder.stat().st_mode) == 0o700
    place = _cache.location()
    assert place is not None and folder in place.parents
    assert not _cache.ensure(), "it is found again"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="temporary files are the user's own on Windows")
def test_a_folder_that_others_can_write_to_is_not_used(nowhere: Path) -> None:
    """What lies in it is run."""
    shared = nowhere / f"nts-kernels-{os.getuid()}"
    shared.mkdir()
    shared.chmod(0o777)
    assert _cache.ensure() and Path(config.CACHE_DIR) != shared
    assert stat.S_IMODE(Path(config.CACHE_DIR).stat().st_mode) == 0o700


INNER = "from numba import njit\n\n@njit\ndef number():\n    return {}\n"
OUTER = """from nts_plugins.kernels._cache import njit
from package.inner import number

@njit(cache=True)
def run():
    return number()
"""
LATE = """
from pathlib import Path
from package.outer import run
Path("package/inner.py").write_text({!r})
print(run(), run.stats.cache_hits)
"""


def test_an_edit_in_another_file_of_the_package_is_noticed(tmp_path: Path) -> None:
    """numba itself looks at a kernel's own file alone, and would go on with the old inner one. A process that imported
    the old one, and compiles it when the new one is there already, leaves nothing that others would take."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "outer.py").write_text(OUTER)
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path / "kept"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(REPOSITORY),
    }

    def say(program: str) -> str:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return done.stdout.strip()

    show, said = "from package.outer import run; print(run(), sum(run.stats.cache_hits.values()))", []
    for value in (1, 1, 2, 2):
        (package / "inner.py").write_text(INNER.format(value))
        said.append(say(show))
    assert said == ["1 0", "1 1", "2 0", "2 1"]
    (package / "inner.py").write_text(INNER.format(3))
    assert say(LATE.format(INNER.format(4))).startswith("3 ")
    assert [say(show), say(show)] == ["4 0", "4 1"]


def test_the_next_process_finds_what_this_one_compiled() -> None:
    """numba looks for a kernel by what its closure holds. Another kernel in it has another name in every process."""
    found = 0
    packages = (
        (package, each.name) for package in (kernels, samples) for each in pkgutil.iter_modules(package.__path__)
    )
    for package, name in packages:
        values = vars(importlib.import_module(f"{package.__name__}.{name}")).values()
        for value in [each for one in values for each in (one.values() if isinstance(one, dict) else [one])]:
            if not isinstance(value, Dispatcher):
                continue
            held = [cell.cell_contents for cell in value.py_func.__closure__ or ()]
            assert all(isinstance(each, (bool, int, str)) for each in held), f"{value.py_func.__qualname__}: {held}"
            found += bool(held)
    assert found > 8
