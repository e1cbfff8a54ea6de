"""The run store in a file on this machine, by the standard library's sqlite3: nothing to install, quick to import.

A process has one connection that writes, in write-ahead-log mode, and everything in the process goes through it: SQLite
before 3.51.3 can damage a file that two connections write at the same moment (https://sqlite.org/wal.html#walresetbug).
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from anabranch.base.errors import RunStoreDamaged, RunStoreError, RunStoreUnavailable
from anabranch.base.files import network_filesystem
from anabranch.base.settings import config
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.rows import Row
from anabranch.runs.store.schema import APPLICATION_ID, SQLITE, VERSION, statements

T = TypeVar("T")

_MAGIC = b"SQLite format 3\0"
_HEADER_NBYTES = 100
_GLANCE_S = 0.02  # between looks at the times of files, which cost some ten microseconds
_GIVEN_BACK = 1_000  # pages at a time, 4 MB: others can write in between
_LOG_NBYTES = 64 << 20  # a log is cut to this size where it had to grow; it has 4 MB otherwise
_SAFE_WAL = (3, 51, 3)
_NO_SPACE = {
    "SQLITE_FULL": "no space left on device",
    "SQLITE_IOERR_WRITE": "the disk takes no more, for a quota, a limit or a fault",
}
_ABANDONED: list[sqlite3.Connection] = []
"""Connections that were open when this process was forked off. Closing one here would drop the locks of its owner."""
_OPENING = threading.Lock()
if hasattr(os, "register_at_fork"):  # another thread may have held it
    os.register_at_fork(after_in_child=lambda: globals().update(_OPENING=threading.Lock()))
_IN_USE: Counter[tuple[int, int, int]] = Counter()
"""Connections by process, device and inode. While there is one, nothing else here may open and close the file: that
drops all locks of the process on it (https://sqlite.org/howtocorrupt.html), and another one may take its log away."""

_logger = logging.getLogger(__name__)


class SQLiteRunStore(RelationalRunStore):
    """A `RunStore` in a SQLite file.

    Parameters
    ----------
    path
        The file. It is made, with mode 0600, by whoever writes first; its directory too, with mode 0700.
    read_only
        Open it without the right to write, as what only shows history should.
    lease_s
        Seconds that a run is held without a sign of life; None means ``runs.lease_s``.
    patience_s
        Seconds to wait for other processes that write; None means ``runs.patience_s``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        lease_s: float | None = None,
        patience_s: float | None = None,
    ) -> None:
        patience_s = config.runs.patience_s if patience_s is None else patience_s
        self.path = Path(path).expanduser().absolute()
        super().__init__(_SQLite(self.path, read_only=read_only, patience_s=patience_s), lease_s=lease_s)


class InMemoryRunStore(RelationalRunStore):
    """A `RunStore` that ends with its process: the same tables, in memory."""

    def __init__(self, *, lease_s: float | None = None) -> None:
        super().__init__(_Memory(), lease_s=lease_s)


class _Sqlite:
    """What is done within a transaction, by sqlite3."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, parameters: Row = ()) -> int:
        return self._connection.execute(statement, parameters).rowcount

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        if len(rows) == 1:  # spares what executemany sets up
            self._connection.execute(statement, rows[0])
        else:
            self._connection.executemany(statement, rows)

    def fetch(self, statement: str, parameters: Row = ()) -> list[Any]:
        return self._connection.execute(statement, parameters).fetchall()


def _within(connection: sqlite3.Connection, begin: str, act: Callable[[_Sqlite], T]) -> T:
    """Do something in a transaction, all or nothing."""
    try:
        connection.execute(begin)
        value = act(_Sqlite(connection))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # not so after a full disk: SQLite has rolled back by itself
            connection.execute("ROLLBACK")
        raise
    return value


class _SQLite:
    """A SQLite file as a `Database`."""

    lock_clause = skip_clause = ""  # BEGIN IMMEDIATE keeps all others from writing
    announcement = ""

    def __init__(self, path: Path, *, read_only: bool, patience_s: float) -> None:
        self._path = path
        self._log = f"{path}-wal"
        self._read_only = read_only
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._identity: tuple[int, int] | None = None
        """Device and inode of the file that is open."""
        self._log_identity: tuple[int, int] | None = None
        self._use: tuple[int, int, int] | None = None
        """What is counted of this store in `_IN_USE`."""
        self._journal = ""
        self._seen = False
        """Whether this store was open before: the file is not made a second time, which would hide its loss."""

    # Transactions -----------------------------------------------------------------------------------------------------

    def write(self, act: Callable[[_Sqlite], T], *, durable: bool = False) -> T:
        if self._read_only:
            raise RunStoreError(f"the run store {self._path} was opened for reading only")
        with self._lock, self._explaining("write to"):
            self._open()
            self._notice_loss()
            connection = self._open()
            if durable:
                connection.execute("PRAGMA synchronous = FULL")
            try:
                return _within(connection, "BEGIN IMMEDIATE", act)
            finally:
                if durable:
                    connection.execute("PRAGMA synchronous = NORMAL")

    def read(self, act: Callable[[_Sqlite], T]) -> T:
        with self._lock, self._explaining("read"):
            return _within(self._open(), "BEGIN", act)

    def now(self) -> int:
        """The clock of the machine that the file is on."""
        return time.time_ns() // 1_000

    def news(self, pause_s: float) -> Iterator[bool]:
        seen, since = self._last_written(), time.monotonic()
        while True:
            time.sleep(min(_GLANCE_S, pause_s))
            before, seen = seen, self._last_written()
            if seen != before or time.monotonic() - since >= pause_s:
                yield seen != before
                since = time.monotonic()

    def _last_written(self) -> list[int]:
        """What is another number after each commit, by whichever process."""
        found = []
        for path in (self._log, self._path):  # where there is no log, the file itself is written
            with suppress(OSError):
                found.append(os.stat(path).st_mtime_ns)
        return found

    def check(self) -> list[str]:
        # The check reads damaged pages on purpose; what it finds is an answer, not an error.
        try:
            with self._lock, self._explaining("read"):
                found = [str(text) for (text,) in self._open().execute("PRAGMA integrity_check")]
        except RunStoreDamaged as error:
            return [str(error)]
        return [] if found == ["ok"] else [f"{self._path}: {text}" for text in found]

    def compact(self) -> bool:
        with self._lock, self._explaining("write to"):
            connection = self._open()
            (before,) = connection.execute("PRAGMA freelist_count").fetchone()
            connection.executescript(f"PRAGMA incremental_vacuum({_GIVEN_BACK})")  # execute() would take one page
            (left,) = connection.execute("PRAGMA freelist_count").fetchone()
        return bool(0 < left < before)

    def describe(self) -> dict[str, str]:
        facts = {"kind": "SQLite", "location": str(self._path), "library": f"SQLite {sqlite3.sqlite_version}"}
        facts["schema"] = str(VERSION)
        if filesystem := network_filesystem(self._path):
            facts["file system"] = filesystem
            facts["warning"] = f"{filesystem} is a network file system: one machine at a time should use this file"
        elif sqlite3.sqlite_version_info < _SAFE_WAL:
            facts["warning"] = (
                f"SQLite {sqlite3.sqlite_version} has a rare bug that can damage a file which several processes write "
                f"at the same moment; it is fixed in {'.'.join(map(str, _SAFE_WAL))}"
            )
        return facts

    def close(self) -> None:
        # Whoever is within for longer is in a file system that does not answer, and would hold up the process's end.
        if self._lock.acquire(timeout=self._patience_s):
            try:
                self._drop()
            finally:
                self._lock.release()

    # Opening ----------------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._pid != os.getpid():
            if self._connection is not None:
                _ABANDONED.append(self._connection)
            self._connection, self._pid = None, os.getpid()
        if self._connection is None:
            self._connection = self._connect()
            self._seen = True
        return self._connection

    def _drop(self) -> None:
        with _OPENING:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
                if self._use is not None:
                    _IN_USE[self._use] -= 1
        self._connection = self._log_identity = self._use = None

    def _connect(self) -> sqlite3.Connection:
        with _OPENING:
            connection = self._connected_to_store()
            found = _identify(self._path)
            self._use = (os.getpid(), *found) if found is not None else None
            if self._use is not None:
                _IN_USE[self._use] += 1
        return connection

    def _is_in_use(self) -> bool:
        """Whether this process has it open, and so knows what it is."""
        found = _identify(self._path)
        return found is not None and _IN_USE[os.getpid(), *found] > 0

    def _connected_to_store(self) -> sqlite3.Connection:
        is_new = not self._is_in_use() and self._is_new()
        if is_new and (self._read_only or self._seen):
            raise RunStoreError(
                f"the run store {self._path} is not there any more: it was deleted or moved while it was in use"
                if self._seen
                else f"there is no run store at {self._path} yet; the first run makes it"
            )
        if is_new:
            self._make_file()
        connection = self._connected("ro" if self._read_only else "rw")
        try:
            if is_new:
                self._make_tables(connection)
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connected(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self._path))}?mode={mode}",
            uri=True,
            timeout=self._patience_s,
            isolation_level=None,  # transactions are begun by us
            check_same_thread=False,  # the lock sees to that
        )
        try:
            if mode != "ro" or self._is_readable(connection):
                return connection
        except BaseException:
            connection.close()
            raise
        # A log needs files beside the database. Where none can be made, nobody is writing.
        connection.close()
        return self._connected("ro&immutable=1")

    def _is_readable(self, connection: sqlite3.Connection) -> bool:
        try:
            connection.execute("PRAGMA schema_version")
        except sqlite3.OperationalError as error:
            cannot_make = error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY"))
            return not cannot_make or os.path.exists(self._log)  # what is in a log must not be overlooked
        return True

    def _is_new(self) -> bool:
        """Whether there is nothing yet; anything but a run store of ours is refused, and not touched."""
        try:
            with open(self._path, "rb") as file:
                header = file.read(_HEADER_NBYTES)
        except FileNotFoundError:
            return True
        except IsADirectoryError:
            raise RunStoreDamaged(f"the run store {self._path} is a directory; a file was expected") from None
        except OSError as error:
            raise RunStoreError(f"cannot open the run store {self._path}: {error.strerror}") from error
        if not header:
            return True
        if not header.startswith(_MAGIC) or len(header) < _HEADER_NBYTES:
            raise RunStoreDamaged(
                f"the run store {self._path} is damaged or not a database: it does not begin as a SQLite file does. "
                "It was left as it is; move it away, and a new one is created"
            )
        application_id, schema_cookie = header[68:72], header[40:44]
        if not any(application_id) and not any(schema_cookie):
            return True  # a database without tables: somebody is making it a store, or died over that
        if int.from_bytes(application_id, "big") != APPLICATION_ID:
            raise RunStoreDamaged(
                f"{self._path} is the database of another program, not a run store; "
                "it was left as it is; set runs.path to another file"
            )
        return False

    def _make_file(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))  # mode of the files beside it too
        except OSError as error:
            raise RunStoreError(f"cannot make the run store {self._path}: {error.strerror}") from error

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # so that pruning gives space back; only a new file can

        def make(transaction: _Sqlite) -> None:
            if transaction.fetch("SELECT 1 FROM sqlite_master LIMIT 1"):
                return  # another process was first
            for statement in statements(SQLITE):
                transaction.execute(statement)
            transaction.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            transaction.execute(f"PRAGMA user_version = {VERSION}")

        _within(connection, "BEGIN EXCLUSIVE", make)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise RunStoreError(
                f"the run store {self._path} was written by a newer anabranch (schema {version}, this one knows "
                f"{VERSION}); upgrade anabranch, or set runs.path to another file"
            )
        if self._read_only:
            if version < VERSION:
                raise RunStoreError(
                    f"the run store {self._path} has schema {version}, and this anabranch reads {VERSION}; "
                    "the next run upgrades it"
                )
            return
        self._set_journal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_NBYTES}")
        if version < VERSION:
            _within(connection, "BEGIN IMMEDIATE", self._upgrade)
        self._identity, self._log_identity = _identify(self._path), None

    def _set_journal(self, connection: sqlite3.Connection) -> None:
        filesystem = network_filesystem(self._path)
        wanted = "delete" if filesystem else "wal"  # the log needs shared memory, which ends at the machine
        if filesystem:
            _logger.warning(
                "the run store %s is on a network file system (%s): one machine at a time should use it; "
                "set runs.path to a local file",
                self._path,
                filesystem,
            )
        deadline = time.monotonic() + self._patience_s
        while True:  # SQLite does not wait by itself when it changes the mode, as processes do that open a new file
            try:
                self._journal = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                    raise
                time.sleep(0.002 + 0.005 * os.urandom(1)[0] / 255)  # not in step with the others

    def _upgrade(self, transaction: _Sqlite) -> None:
        version = transaction.fetch("PRAGMA user_version")[0][0]
        if version == VERSION:
            return  # another process was first
        backup = self._path.with_name(f"{self._path.name}.schema-{version}")
        _logger.warning("upgrading the run store %s to schema %d; a copy as it was is %s", self._path, VERSION, backup)
        _copy_database(self._path, backup)
        for statement in statements(SQLITE, since=version):
            transaction.execute(statement)
        transaction.execute(f"PRAGMA user_version = {VERSION}")

    # Trouble ----------------------------------------------------------------------------------------------------------

    def _notice_loss(self) -> None:
        """Refuse to write to a file that has no name any more: SQLite would, and all of it would be lost."""
        lost: str | Path | None = None
        if _identify(self._path) != self._identity:
            lost = self._path
        elif self._journal == "wal":
            found = _identify(self._log)
            if self._log_identity is None:  # the first write makes it
                self._log_identity = found
            elif found != self._log_identity and not (found is None and self._saves_log()):
                lost = self._log
        if lost is not None:
            raise RunStoreError(
                f"{lost} was deleted or replaced while the run store was in use; what this process writes would be lost"
            )

    def _saves_log(self) -> bool:
        """Bring what was in a log that was deleted, and is still open here, into the file, and begin another log.

        Where there is another log by now, somebody else has begun it, and the two do not know of each other.
        """
        is_busy, *_ = self._open().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            return False
        _logger.warning("%s was deleted while it was in use; nothing is lost, and another one is begun", self._log)
        self._drop()
        return True

    @contextmanager
    def _explaining(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where it quotes a name that is damaged
            raise self._explained(error, doing) from error

    def _explained(self, error: sqlite3.Error | UnicodeDecodeError, doing: str) -> RunStoreError:
        code = getattr(error, "sqlite_errorname", None) or ""  # absent where Python itself raised
        store = f"the run store {self._path}"
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return RunStoreUnavailable(f"{store} was locked by another process for more than {self._patience_s:g} s")
        # Whatever else it is: what this connection believes of the file may be wrong now.
        self._drop()
        if code in _NO_SPACE:
            return RunStoreError(f"cannot write to {store}: {_NO_SPACE[code]}; what was written before is whole")
        if code.startswith("SQLITE_READONLY"):
            return RunStoreError(f"cannot write to {store}: it, or its directory, is read-only")
        is_undecoded = isinstance(error, UnicodeDecodeError) or str(error).startswith("Could not decode")
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or is_undecoded:
            return RunStoreDamaged(
                f"{store} is damaged ({error}); it was left as it is. `sqlite3 {self._path} .recover` may save rows; "
                "move it away, and a new one is created"
            )
        return RunStoreError(f"cannot {doing} {store}: {error} ({code or type(error).__name__})")


class _Memory:
    """Tables in memory as a `Database`."""

    lock_clause = skip_clause = announcement = ""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        for statement in statements(SQLITE):
            self._connection.execute(statement)

    def __del__(self) -> None:
        self._connection.close()

    def write(self, act: Callable[[_Sqlite], T], *, durable: bool = False) -> T:
        try:
            with self._lock:
                return _within(self._connection, "BEGIN", act)
        except sqlite3.Error as error:
            raise RunStoreError(f"cannot use the run store in memory: {error}") from error

    def read(self, act: Callable[[_Sqlite], T]) -> T:
        return self.write(act)

    def now(self) -> int:
        return time.time_ns() // 1_000

    def news(self, pause_s: float) -> Iterator[bool]:
        """None: who shares it is in this process."""
        while True:
            time.sleep(pause_s)
            yield False

    def check(self) -> list[str]:
        return []

    def compact(self) -> bool:
        """Nothing: it is all gone soon."""
        return False

    def describe(self) -> dict[str, str]:
        return {"kind": "memory", "location": "this process", "library": f"SQLite {sqlite3.sqlite_version}"}

    def close(self) -> None:
        """Nothing: closing it would be its end."""


# ---------------------------------------------------------------------------------------------------------------------
# Files


def _identify(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Device and inode of a file; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _copy_database(path: Path, target: Path) -> None:
    """Copy a database as it was at its last commit, to a file that only its owner can read."""
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
    source = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
    copy = sqlite3.connect(target)
    try:
        source.backup(copy)
    finally:
        copy.close()
        source.close()
