"""Results in a directory of this machine, or of one that all machines of a cluster share.

An object is written beside its place under a temporary name, brought to the disk, and then given its name, so that no
reader sees a part of it. Symbolic links below the root are not followed: each directory is opened from the one above.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from anabranch.base.errors import OptionError, ResultStoreError
from anabranch.base.files import data_directory, network_filesystem
from anabranch.base.prefect1 import refusing
from anabranch.results.result import Result

_TEMPORARY = ".anabranch-tmp-"  # no location has a name that begins with a dot
# Windows has neither; there paths are joined, and checked before they are used.
_FROM_DIRECTORY = os.open in os.supports_dir_fd and os.link in os.supports_dir_fd
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO would wait for somebody at its other end
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}  # FAT and some mounts of clouds have none
_ONE_READ = 1 << 30  # Linux reads no more at once

_logger = logging.getLogger(__name__)


class LocalStore:
    """Objects in files below a directory, which only this user can read."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = str(Path(root).expanduser().absolute())
        self._is_known = False

    def __repr__(self) -> str:
        return repr(self.root)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalStore) and other.root == self.root

    def __hash__(self) -> int:
        return hash(self.root)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_is_known": False}

    def put(self, location: str, parts: list[bytes], *, replace: bool) -> bool:
        """As `Store.put`. Where the file system has no hard links, two writers at once may both believe to be first."""
        return self._put(location, parts, replace=replace, lasts=True)

    def put_quickly(self, location: str, parts: list[bytes], *, replace: bool) -> bool:
        """As `put`, of what need not survive the machine: bringing it to the disk would take most of the time."""
        return self._put(location, parts, replace=replace, lasts=False)

    def _put(self, location: str, parts: list[bytes], *, replace: bool, lasts: bool) -> bool:
        with self._folder(location, create=True) as (folder, name, path):
            self._look_once()
            if replace:
                self._check_kind(name, folder, location)
            temporary = os.path.join(path, f"{_TEMPORARY}{uuid4().hex}")
            try:
                self._fill(temporary, folder, parts, lasts=lasts)
                if replace:
                    os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                elif not _give_name(temporary, name, folder):
                    return False
            finally:
                with suppress(OSError):  # it has its name by now, or there is another error to tell
                    os.unlink(temporary, dir_fd=folder)
            if lasts:
                _flush_directory(folder)
            return True

    def get(self, location: str, nbytes: int | None = None) -> bytes:
        """As `Store.get`."""
        with self._folder(location, create=False) as (folder, name, _):
            self._check_kind(name, folder, location)
            handle = os.open(name, os.O_RDONLY | _NO_FOLLOW | _NO_WAIT, dir_fd=folder)
            with open(handle, "rb") as file:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise _wrong_kind(location, os.fstat(handle).st_mode)
                return file.read(-1 if nbytes is None else nbytes)

    def get_many(self, locations: Sequence[str]) -> dict[str, bytes]:
        """As `Store.get_many`."""
        found = {}
        for location in locations:
            with suppress(FileNotFoundError):
                found[location] = self.get(location)
        return found

    def exists(self, location: str) -> bool:
        """As `Store.exists`."""
        try:
            with self._folder(location, create=False) as (folder, name, _):
                return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def delete(self, location: str) -> None:
        """As `Store.delete`. Directories stay."""
        with suppress(FileNotFoundError), self._folder(location, create=False) as (folder, name, _):
            self._check_kind(name, folder, location)
            os.unlink(name, dir_fd=folder)

    def sweep(self, older_than_s: float) -> int:
        """As `Store.sweep`."""
        limit, n = time.time() - older_than_s, 0
        for path, _, names in os.walk(self.root):
            for name in names:
                file = os.path.join(path, name)
                with suppress(FileNotFoundError):  # another sweeper was quicker
                    if name.startswith(_TEMPORARY) and os.lstat(file).st_mtime < limit:
                        os.unlink(file)
                        n += 1
        return n

    def close(self) -> None:
        """Nothing: no file stays open."""

    @contextmanager
    def _folder(self, location: str, *, create: bool) -> Iterator[tuple[int | None, str, str]]:
        """The directory of an object as a descriptor, the object's name, and what to put before other names there."""
        *folders, name = location.split("/")
        if create:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
        if not _FROM_DIRECTORY:
            path = self.root
            for each in folders:
                path = os.path.join(path, each)
                if create:
                    os.makedirs(path, mode=0o700, exist_ok=True)
                if os.path.islink(path):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            yield None, os.path.join(path, name), path
            return
        flags = os.O_RDONLY | os.O_DIRECTORY
        folder = os.open(self.root, flags)
        try:
            for each in folders:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(each, mode=0o700, dir_fd=folder)
                        _flush_directory(folder)
                inner = os.open(each, flags | _NO_FOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder, name, ""
        finally:
            os.close(folder)

    def _fill(self, name: str, folder: int | None, parts: list[bytes], *, lasts: bool) -> None:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600, dir_fd=folder)
        try:
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[os.write(handle, rest[:_ONE_READ]) :]
            if lasts:
                os.fsync(handle)
        finally:
            os.close(handle)

    def _check_kind(self, name: str, folder: int | None, location: str) -> None:
        with suppress(FileNotFoundError):
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode):
                raise _wrong_kind(location, mode)

    def _look_once(self) -> None:
        """Tell of a network file system, on which a file that another machine has written may show late."""
        if self._is_known:
            return
        self._is_known = True
        if (kind := network_filesystem(self.root)) and self.root not in _TOLD:
            _TOLD.add(self.root)
            _logger.warning(
                "results in %s are on a network file system (%s): other machines may see them some seconds late",
                self.root,
                kind,
            )


_TOLD: set[str] = set()


class LocalResult(Result):
    """Results in a directory, which is created by the first write.

    Parameters
    ----------
    dir
        The directory. Default: ``results`` beside the history of runs, in ``$ANABRANCH_HOME``, else in
        ``$XDG_DATA_HOME/anabranch``, which is usually ``~/.local/share/anabranch``.
    **options
        `serializer` and `location`, as for `Result`.

    Raises
    ------
    OptionError
        It is not the path of a directory.
    """

    @refusing("LocalResult")
    def __init__(self, dir: str | os.PathLike[str] | None = None, **options: Any) -> None:
        if dir is not None and (not isinstance(dir, (str, os.PathLike)) or not str(dir) or "\0" in str(dir)):
            raise OptionError(f"LocalResult: expected the path of a directory, found {dir!r:.80}")
        super().__init__(LocalStore(data_directory() / "results" if dir is None else dir), **options)


def kept_in(directory: str, result: Result) -> Result:
    """A result with the same names and formats in a directory, whatever its own store is.

    What is in memory, or below the system's temporary directory, stays there.
    """
    store = result.store
    if getattr(store, "of_one_process", False):
        return result
    if isinstance(store, LocalStore):
        root = Path(os.path.realpath(store.root))
        if any(root.is_relative_to(os.path.realpath(each)) for each in (directory, tempfile.gettempdir())):
            return result
    name = f"{type(store).__name__}-{hashlib.sha256(repr(store).encode()).hexdigest()[:12]}"
    return LocalResult(Path(directory, name), serializer=result.serializer, location=result.template)


def _give_name(temporary: str, name: str, folder: int | None) -> bool:
    """Give a temporary file its name, unless something has it: the first of several writers wins."""
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
            return False
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    return True


def _flush_directory(folder: int | None) -> None:
    if folder is not None:  # Windows cannot, and does it by itself
        os.fsync(folder)


def _wrong_kind(location: str, mode: int) -> ResultStoreError:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    what = kinds.get(stat.S_IFMT(mode), "something else")
    return ResultStoreError(f"at location {location!r} there is {what}, not a file; it is neither read nor replaced")
