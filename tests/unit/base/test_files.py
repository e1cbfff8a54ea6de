"""Files are written whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anabranch.base.files import write_whole


@pytest.mark.parametrize(("mode", "found"), [(None, 0o640), (0o600, 0o600), (0o644, 0o644)])
def test_a_file_is_replaced_and_has_the_mode_that_is_asked_for_or_that_of_the_umask(
    tmp_path: Path, mode: int | None, found: int
):
    file = tmp_path / "a"
    before = os.umask(0o027)
    try:
        write_whole(file, b"old and longer", mode=mode)
        write_whole(file, "né", mode=mode)
    finally:
        os.umask(before)
    assert file.read_bytes() == b"n\xc3\xa9"
    assert file.stat().st_mode & 0o777 == found


def test_what_cannot_be_written_leaves_nothing_and_changes_nothing(tmp_path: Path):
    file = tmp_path / "a"
    write_whole(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "\udcff")
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "directory", "new")
    assert file.read_text() == "old"
    assert {each.name for each in tmp_path.iterdir()} == {"a", "directory"}
