"""Files are written whole."""

from __future__ import annotations

import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anabranch.base.files import is_public, write_whole


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


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_a_link_to_what_is_written(tmp_path: Path, is_there: bool):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "file"
    if is_there:
        target.write_text("old")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "link to it").symlink_to("link")
    write_whole(tmp_path / "link to it", "new", mode=0o600)
    assert os.readlink(tmp_path / "link to it") == "link"
    assert (tmp_path / "link").is_symlink()
    assert target.read_text() == "new"
    assert [each.name for each in target.parent.iterdir()] == ["file"]


def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o640)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_bytes)
        write_whole(pipe, "né" * 100_000, mode=0o600)
        assert read.result() == "né".encode() * 100_000
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert pipe.stat().st_mode & 0o777 == 0o640


def test_a_device_is_written_into(tmp_path: Path):
    (tmp_path / "link").symlink_to("/dev/null")
    write_whole(tmp_path / "link", "nothing", mode=0o600)
    assert stat.S_ISCHR((tmp_path / "link").stat().st_mode)
    assert (tmp_path / "link").is_symlink()
    assert os.stat("/dev/null").st_mode & 0o777 == 0o666


def test_what_everybody_may_read_is_public(tmp_path: Path):
    (tmp_path / "key").write_text("")
    found = []
    for mode in (0o600, 0o640, 0o644, 0o604):
        (tmp_path / "key").chmod(mode)
        found.append(is_public(tmp_path / "key"))
    assert found == [False, False, True, True]
    assert not is_public(tmp_path / "nosuch")
    assert not is_public("")


def test_where_permissions_say_nothing_nothing_is_public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "key").write_text("")
    (tmp_path / "key").chmod(0o666)  # as Windows has it for every file
    monkeypatch.setattr(sys, "platform", "win32")
    assert not is_public(tmp_path / "key")
