# SPDX-License-Identifier: Apache-2.0
"""What ``nts export`` refuses, and what it says; tests/conformance exports every method."""

from pathlib import Path

import pytest

from nts_plugins.cli.main import USER_ERROR, main


def refused(capsys: pytest.CaptureFixture, *options: str) -> str:
    assert main(["export", *options]) == USER_ERROR
    return capsys.readouterr().err


def test_options_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    where = ("--load-config", str(tmp_path / "config.yml"), "--output-dir", str(tmp_path / "scene"))
    position = ("--from-position", "0", "0", "1")
    assert "Give one of them" in refused(capsys, *where, "--bake", "--camera", "1", *position)
    assert "Add --bake" in refused(capsys, *where, *position)
    assert "There is no file" in refused(capsys, *where, "--bake")
    assert not (tmp_path / "scene").exists()


def test_a_folder_with_other_files_is_refused_before_the_run_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    where = ("--load-config", str(tmp_path / "config.yml"), "--output-dir", str(tmp_path))
    assert "never removed: notes.txt" in refused(capsys, *where, "--overwrite")
