# SPDX-License-Identifier: Apache-2.0
"""Work that processes share out."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nts_plugins.files import claims
from nts_plugins.files.claims import claimed
from nts_plugins.files.whole import machine


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "a"
    with claimed(path) as first, claimed(path) as second, claimed(tmp_path / "b") as other:
        assert first and not second and other
    assert not path.exists()
    with claimed(path) as again:
        assert again


def test_a_claim_goes_with_the_error_that_ends_its_work(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "a"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_claim_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    path = tmp_path / "a"
    code = f"""
import time
from pathlib import Path
from nts_plugins.files.claims import claimed
with claimed(Path({str(path)!r})) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"True\n"
        with claimed(path) as mine:
            assert not mine
        process.kill()
        process.wait()
    assert path.exists()
    with claimed(path) as mine:
        assert mine
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_another_machine_is_free_when_it_gives_no_sign_of_life(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("elsewhere 1")
    with claimed(path) as mine:
        assert not mine
    long_ago = time.time() - claims.STALE - 1
    os.utime(path, (long_ago, long_ago))
    with claimed(path) as mine:
        assert mine and path.read_text() == f"{machine()} {os.getpid()}"


def test_a_claim_that_says_not_whose_it_is_is_free_soon(tmp_path: Path) -> None:
    """Who makes one says so at once, unless it is killed in between."""
    path = tmp_path / "claim"
    path.touch()
    with claimed(path) as mine:
        assert not mine, "somebody may just be making it"
    some_time_ago = time.time() - claims.NAMELESS - 1
    os.utime(path, (some_time_ago, some_time_ago))
    with claimed(path) as mine:
        assert mine
    assert not path.exists()


def test_who_works_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT", 0.01)
    path = tmp_path / "a"
    with claimed(path):
        os.utime(path, (0, 0))
        end = time.monotonic() + 20
        while path.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0
