# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all."""

from pathlib import Path

import pytest

from nts_plugins.errors import InputError
from nts_plugins.files.whole import check_place, result_file, whole_file


def test_a_file_replaces_the_one_before_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in (b"first", b"second"):
        with whole_file(path) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_what_interrupts_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_bytes(b"mine")
    for path in (taken / "file", taken / "folder" / "file", tmp_path):
        with pytest.raises(InputError, match="Cannot write .*another place"):
            check_place(path)
        with pytest.raises(InputError, match="Cannot write .*another place"), result_file(path) as file:
            file.write(b"content")
    with pytest.raises(InputError, match="Cannot write .*too long"):
        check_place(tmp_path / ("a" * 250))
    check_place(tmp_path / "new" / "file")
    assert taken.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [taken]
