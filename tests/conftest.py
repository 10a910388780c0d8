# SPDX-License-Identifier: Apache-2.0
"""What every test shares: which machine features a marker needs, and where the real captures are."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Optional

import pytest

# torch and numba read this when they are imported. With active waiting their two thread pools fight over the cores
# of a small CI machine, and a millisecond of work takes ten.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis

REPOSITORY = Path(__file__).resolve().parent.parent

# Kernels compile during the first example, so no example has a deadline. CI draws the same examples every time.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def captures_folder() -> Optional[Path]:
    """Where the real captures lie: $NTS_TEST_DATA, else ../shared/data beside the checkout; None without them."""
    folder = Path(os.environ.get("NTS_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    return folder if folder.is_dir() else None


def chromium_program() -> Optional[str]:
    """Path of the Chromium that browser tests drive; None without one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def _reason_to_skip(marker: str) -> Optional[str]:
    if marker == "gpu":
        import torch

        return None if torch.cuda.is_available() else "needs an NVIDIA GPU that torch can use"
    if marker == "capture":
        return None if captures_folder() else "needs real captures in ../shared/data or $NTS_TEST_DATA"
    if importlib.util.find_spec("playwright") is None:
        return "needs playwright: pip install playwright"
    return None if chromium_program() else "needs chromium: apt-get install chromium"


def _shared_work(item: pytest.Item) -> str:
    """Tests of one group go to one process: those of a method share its training, those of a module its fixtures."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return str(parameters.get("method") or item.path)


def pytest_collection_modifyitems(config: pytest.Config, items: "list[pytest.Item]") -> None:
    if hasattr(config, "workerinput"):  # one of several processes (pytest -n): what is marked slow first
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
        for item in items:
            item.add_marker(pytest.mark.xdist_group(_shared_work(item)))
    for marker in ("gpu", "capture", "browser"):
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = _reason_to_skip(marker) if marked else None
        for item in marked if reason else []:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of real captures; only for tests marked ``capture``."""
    folder = captures_folder()
    if folder is None:
        pytest.skip("needs real captures in ../shared/data or $NTS_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The Chromium program; only for tests marked ``browser``."""
    program = chromium_program()
    if program is None:
        pytest.skip("needs chromium: apt-get install chromium")
    return program
