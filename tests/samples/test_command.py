# SPDX-License-Identifier: Apache-2.0
"""The ``nts`` command: what one types, and what one is told."""

import subprocess
import sys

import pytest

from nts_plugins.cli.main import main
from nts_plugins.cli.sample import parse_size


def test_sample_is_made_and_not_made_twice(tmp_path, capsys):
    options = ["sample", "gallery", str(tmp_path / "g"), "--views", "3", "--test-every", "2", "--size", "16x12"]
    assert main(options) == 0
    assert "is ready: 3 views, 1 of them held out" in capsys.readouterr().out
    assert main(options) == 0
    assert "nothing was done" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, message",
    [
        (["--size", "480"], "480x360"),
        (["--views", "0"], "views is 0"),
        (["--test-every", "1"], "test_every=1"),
        (["--threads", "0"], "threads is 0"),
        (["--cameras", "2"], "cameras=2"),
        (["--dynamic", "--views", "6", "--cameras", "4"], "at least 8"),
        (["--dynamic", "--views", "9", "--cameras", "4"], "9 views"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(tmp_path, capsys, options, message):
    assert main(["sample", "gallery", str(tmp_path / "g"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("nts: ") and error.count("\n") == 1
    assert not (tmp_path / "g").exists()


def test_a_folder_with_other_files_is_refused(tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    assert main(["sample", "gallery", str(tmp_path), "--overwrite"]) == 2
    assert "never removed" in capsys.readouterr().err


def test_size_is_width_by_height():
    assert parse_size("480x360") == (480, 360) and parse_size("64X48") == (64, 48)
    for wrong in ("480", "480x", "x360", "4.5x3", "480x360x3", "-4x3"):
        with pytest.raises(ValueError, match="480x360"):
            parse_size(wrong)


def test_help_needs_neither_torch_nor_numba():
    code = (
        "import sys\nfrom nts_plugins.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'numba', 'scipy', 'cv2', 'nerfstudio'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "sample" in result.stdout and "doctor" in result.stdout
