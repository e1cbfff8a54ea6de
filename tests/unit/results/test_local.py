"""What only results in files can do: permissions, links and pipes, full disks, and writers that are killed."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.refusals import refused

from anabranch.errors import OptionError, ResultMissing, ResultStoreError
from anabranch.results import FileResult, LocalResult, local

IDS = {"flow": "etl", "task": "parse"}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files_below(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir())


# Where


def test_the_directory_is_made_by_the_first_write_and_for_nobody_else(tmp_path: Path):
    root = tmp_path / "new" / "results"
    result = LocalResult(root)
    with pytest.raises(ResultMissing):
        result.read("a/b/x")
    assert not result.exists("a/b/x")
    assert result.sweep() == 0
    assert not root.exists()

    result.write("a/b/x", 1)
    assert [mode_of(folder) for folder in (root, root / "a", root / "a" / "b")] == [0o700] * 3
    assert mode_of(root / "a" / "b" / "x") == 0o600
    assert files_below(root) == ["a/b/x"]


def test_a_relative_directory_stays_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = LocalResult(dir="results")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pickle.loads(pickle.dumps(result)).write("x", 1)
    assert files_below(tmp_path) == ["results/x"]


@pytest.mark.parametrize(
    ("variable", "path"), [("ANABRANCH_HOME", "results/x"), ("XDG_DATA_HOME", "anabranch/results/x")]
)
def test_without_a_directory_results_are_beside_the_history_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, path: str
):
    monkeypatch.delenv("ANABRANCH_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    LocalResult().write("x", 1)
    assert files_below(tmp_path) == [path]


def test_a_path_and_a_file_url_are_the_same_store(tmp_path: Path):
    assert FileResult(str(tmp_path)).store == FileResult(f"file://{tmp_path}").store == LocalResult(tmp_path).store


@pytest.mark.parametrize("path", ["", "a\0b", 3, b"x"])
def test_what_is_no_path_is_refused(path: Any):
    with refused(OptionError, "LocalResult: expected the path of a directory", at=""):
        LocalResult(path)


def test_a_network_file_system_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    monkeypatch.setattr(local, "network_filesystem", lambda path: "nfs4")
    result = LocalResult(tmp_path)
    with caplog.at_level(logging.WARNING, logger="anabranch"):
        result.write("x", 1)
        pickle.loads(pickle.dumps(result)).write("y", 1)
    assert [record.message for record in caplog.records] == [
        f"results in {tmp_path} are on a network file system (nfs4): other machines may see them some seconds late"
    ]


# What is there is no file


def test_what_is_at_the_place_and_no_file_is_neither_read_nor_replaced(tmp_path: Path):
    result = LocalResult(tmp_path / "results")
    result.write("real", "secret")
    root = tmp_path / "results"
    (root / "link").symlink_to(root / "real")
    (root / "dangling").symlink_to(tmp_path / "outside")
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")

    for name, what in [
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("folder", "a directory"),
        ("pipe", "a FIFO"),
    ]:
        for use in (
            lambda name=name: result.read(name),
            lambda name=name: result.info(name),
            lambda name=name: result.write(name, 1),
            lambda name=name: result.write(name, 1, overwrite=True),
            lambda name=name: result.delete(name),
        ):
            with refused(ResultStoreError, f"at location '{name}' there is {what}, not a file", at=""):
                use()
        assert not result.exists(name)
    assert files_below(root) == ["dangling", "link", "pipe", "real"]
    assert not (tmp_path / "outside").exists()


def test_a_folder_that_leads_elsewhere_is_not_entered(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "results"
    LocalResult(outside).write("x", 1)
    root.mkdir()
    (root / "a").symlink_to(outside)
    result = LocalResult(root)
    for use in (lambda: result.write("a/y", 1), lambda: result.read("a/x"), lambda: result.delete("a/x")):
        with refused(ResultStoreError, "not a directory (symbolic links are not followed)", at=""):
            use()
    assert files_below(outside) == ["x"]


def test_the_directory_itself_may_be_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "real")
    LocalResult(tmp_path / "results").write("x", 1)
    assert files_below(tmp_path / "real") == ["x"]


def test_a_directory_that_is_a_file_is_an_error_of_the_store(tmp_path: Path):
    (tmp_path / "results").write_text("a file")
    with refused(ResultStoreError, "result 'x' cannot be written in", str(tmp_path / "results"), at=""):
        LocalResult(tmp_path / "results").write("x", 1)


def test_a_result_cannot_be_below_another(tmp_path: Path):
    result = LocalResult(tmp_path)
    result.write("a", 1)
    with refused(ResultStoreError, "'a/b' cannot be written", "is not a directory", at=""):
        result.write("a/b", 2)
    assert result.read("a") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_of_somebody_else_is_an_error_of_the_store(tmp_path: Path):
    (tmp_path / "results").mkdir(mode=0o500)
    with refused(ResultStoreError, "this user may not do that there", at=""):
        LocalResult(tmp_path / "results").write("x", 1)


def test_a_directory_that_was_removed_is_made_again(tmp_path: Path):
    result = LocalResult(tmp_path / "results")
    ref = result.write("a/x", 1)
    (tmp_path / "results" / "a" / "x").unlink()
    (tmp_path / "results" / "a").rmdir()
    (tmp_path / "results").rmdir()
    with pytest.raises(ResultMissing):
        result.read(ref)
    result.write("a/x", 1)
    assert result.read(ref) == 1


# Faults


class FaultyOs:
    """The module `os`, except that its k-th call that changes or flushes something fails."""

    CHANGES = ("fsync", "link", "makedirs", "mkdir", "replace", "write")

    def __init__(self, k: int, number: int) -> None:
        self.k = k
        self.number = number
        self.n_calls = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.CHANGES and name != "open":
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            self.n_calls += 1
            if self.n_calls == self.k:
                if name == "write":  # as a disk does, which takes what fits
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise OSError(self.number, os.strerror(self.number))
            return real(*args, **kwargs)

        return call


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left in the quota"), (errno.EROFS, "it is read-only")],
)
@pytest.mark.parametrize("k", range(1, 21))
def test_a_disk_that_fails_at_any_step_leaves_nothing_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int, number: int, words: str, overwrite: bool
):
    result = LocalResult(tmp_path / "results")
    disk = FaultyOs(k, number)
    with monkeypatch.context() as patch:
        patch.setattr(local, "os", disk)
        errors = []
        for location in ("a/b/x", "a/b/y"):
            try:
                result.write(location, b"v" * 100, IDS, overwrite=overwrite)
            except ResultStoreError as error:
                errors.append(str(error))
    assert [words in error for error in errors] == [True] * (k <= disk.n_calls)
    assert (
        k > disk.n_calls or f"result '{'a/b/x' if 'x' in errors[0][:20] else 'a/b/y'}' cannot be written" in errors[0]
    )

    assert not [name for name in files_below(tmp_path) if ".anabranch-tmp-" in name]
    for location in ("a/b/x", "a/b/y"):
        if result.exists(location):
            assert result.read(location, IDS) == b"v" * 100
    # When there is space again, everything can be written.
    for location in ("a/b/x", "a/b/y"):
        assert result.read(result.write(location, b"v" * 100, IDS), IDS) == b"v" * 100


def test_the_steps_of_a_write_are_those_that_the_faults_cover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    disk = FaultyOs(0, errno.ENOSPC)
    monkeypatch.setattr(local, "os", disk)
    LocalResult(tmp_path / "results").write("a/b/x", 1)
    assert 8 <= disk.n_calls <= 20


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_links_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    class NoLinks:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def link(self, *args: Any, **kwargs: Any) -> None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local, "os", NoLinks())
    result = LocalResult(tmp_path)
    ref = result.write("x", 1, IDS)
    assert result.write("x", 2, IDS) == ref
    assert result.read(ref) == 1
    assert files_below(tmp_path) == ["x"]


def test_only_old_temporary_files_are_swept(tmp_path: Path):
    result = LocalResult(tmp_path)
    result.write("a/x", 1)
    old, new = (tmp_path / "a" / f".anabranch-tmp-{name}" for name in ("old", "new"))
    for file in (old, new, tmp_path / "a" / "x"):
        file.touch()
        os.utime(file, (time.time() - (0 if file is new else 7200),) * 2)
    assert result.sweep() == 1
    assert files_below(tmp_path) == ["a/.anabranch-tmp-new", "a/x"]


# Forks one writer after the other, and kills it at some moment after its first write, while it writes over and over:
# 25 of them at least, and as many as it takes until one has left something.
_KILLER = """
import itertools, os, random, select, signal, sys
from pathlib import Path
from anabranch.results import LocalResult

result = LocalResult(sys.argv[1])
values = [bytes([n]) * 2_000_000 for n in range(4)]
for n in itertools.count():
    if n >= 25 and any(Path(sys.argv[1]).rglob(".anabranch-tmp-*")):
        print(n)
        break
    ready, tell = os.pipe()
    writer = os.fork()
    if writer == 0:
        for i in range(1_000_000):
            result.write(f"{n}/x", values[i % 4], {"n": n}, overwrite=True)
            if i == 0:
                os.write(tell, b".")
    os.close(tell)
    os.read(ready, 1)
    select.select([], [], [], random.uniform(0, 0.04))  # some writes long
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    os.close(ready)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_writers_killed_at_any_moment_leave_no_torn_result(tmp_path: Path):
    outcome = subprocess.run([sys.executable, "-c", _KILLER, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 0, outcome.stderr

    result, killed = LocalResult(tmp_path), int(outcome.stdout)
    for n in range(killed):
        value = result.read(f"{n}/x", {"n": n})
        assert value == value[:1] * 2_000_000
    left = [tmp_path / name for name in files_below(tmp_path) if ".anabranch-tmp-" in name]
    assert left
    for file in left:
        os.utime(file, (0, 0))
    assert result.sweep() == len(left)
    assert files_below(tmp_path) == sorted(f"{n}/x" for n in range(killed))


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs to mount a small disk")
def test_a_disk_that_is_full_is_told_of_and_works_again_when_it_is_not(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount: {mounted.stderr.strip()}")
    try:
        result = LocalResult(disk / "results")
        result.write("small", b"s" * 100_000)
        with refused(ResultStoreError, "result 'large' cannot be written in", "no space left", at=""):
            result.write("large", b"l" * 2_000_000)
        assert files_below(disk) == ["results/small"]
        assert result.read("small") == b"s" * 100_000
        result.delete("small")
        assert result.read(result.write("large", b"l" * 900_000)) == b"l" * 900_000
    finally:
        subprocess.run(["umount", str(disk)], check=True)
