"""The run store in PostgreSQL, by psycopg. The statements are those of `relational`, as they are for SQLite."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import psycopg

from anabranch.base.connections import Connections
from anabranch.base.errors import RunStoreError, RunStoreUnavailable
from anabranch.base.settings import config
from anabranch.base.texts import masked
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.rows import Row
from anabranch.runs.store.schema import POSTGRESQL, SERVICE_TABLES, TABLES, VERSION, statements

T = TypeVar("T")

_IDLE_S = 20  # less than a lease, so that a run whose owner hangs can be taken over when that has run out
_MIGRATING = 0x616E6272
"""Key of the advisory lock under which tables are made."""
# https://www.postgresql.org/docs/current/errcodes-appendix.html: what may pass if one waits.
_PASSING = {
    "25P03",  # idle_in_transaction_session_timeout
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "53300",  # too_many_connections
    "55P03",  # lock_not_available
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
}
_ASK_AGAIN_NS = 5 * 10**9
"""So long this machine's steady clock is trusted to go as fast as the server's."""
_PROMPT_NS = 10**9  # an answer that took longer says too little of what time it is
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps, where there is one
_NOW = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"
_CURES = {
    "25006": "the database is read-only; use the primary, not a replica",
    "42501": "this user may not do that; grant it CREATE on the schema, or let an owner make the tables",
    "53100": "no space left on the server",
    "53300": "the server has too many connections; raise max_connections, or use a pooler",
}


class PostgreSQLRunStore(RelationalRunStore):
    """A `RunStore` in a PostgreSQL database, which the machines of a cluster can share.

    Its tables begin with ``anabranch_``, and are made by whoever writes first.

    Parameters
    ----------
    url
        ``postgresql://user:password@host/database``, and whatever else libpq understands.
    read_only
        Never write, as what only shows history should.
    lease_s
        Seconds that a run is held without a sign of life; None means ``runs.lease_s``.
    patience_s
        Seconds that a call waits for a server that is restarting or full; None means ``runs.patience_s``.

    Raises
    ------
    RunStoreError
        The URL cannot be used.
    """

    def __init__(
        self, url: str, *, read_only: bool = False, lease_s: float | None = None, patience_s: float | None = None
    ) -> None:
        patience_s = config.runs.patience_s if patience_s is None else patience_s
        super().__init__(_PostgreSQL(url, read_only=read_only, patience_s=patience_s), lease_s=lease_s)


class _Psycopg:
    """What is done within a transaction, by psycopg."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, parameters: Row = ()) -> int:
        return self._run(statement, parameters).rowcount

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        if len(rows) == 1:  # spares what executemany sets up
            self._run(statement, rows[0])
        else:
            self._connection.cursor().executemany(_marked(statement), [tuple(row) for row in rows])

    def fetch(self, statement: str, parameters: Row = ()) -> list[Any]:
        return self._run(statement, parameters).fetchall()

    def _run(self, statement: str, parameters: Row) -> psycopg.Cursor:
        if parameters:
            return self._connection.execute(_marked(statement), tuple(parameters))
        return self._connection.execute(statement)


@lru_cache(1_000)
def _marked(statement: str) -> str:
    """A statement with parameters marked as the driver wants it."""
    return statement.replace("%", "%%").replace("?", "%s")


class _PostgreSQL:
    """A PostgreSQL database as a `Database`."""

    lock_clause = " FOR UPDATE"
    skip_clause = " SKIP LOCKED"
    announcement = "NOTIFY anabranch"

    def __init__(self, url: str, *, read_only: bool, patience_s: float) -> None:
        self._location = masked(url)
        self._read_only = read_only
        self._patience_s = patience_s
        self._ready = False
        # A process may be stopped within a transaction: others wait so long for its locks, and then it loses them.
        limits = f"SET lock_timeout = '{patience_s:.3f}s'; SET idle_in_transaction_session_timeout = '{_IDLE_S}s'"
        try:
            self._connections = Connections(url, wait_s=patience_s, greeting=limits)
        except ValueError as error:
            raise RunStoreError(f"backend: {error}") from None
        self._known_time: tuple[int, int] | None = None
        """A time of the steady clock, and the server's time then in microseconds."""

    def write(self, act: Callable[[_Psycopg], T], *, durable: bool = False) -> T:
        # `durable` changes nothing: every commit here is on the server's disk before it is answered.
        if self._read_only:
            raise RunStoreError(f"the run store {self._location} was opened for reading only")
        return self._patiently(act)

    def read(self, act: Callable[[_Psycopg], T]) -> T:
        return self._patiently(act)

    def _patiently(self, act: Callable[[_Psycopg], T]) -> T:
        """Do something in a transaction; once more, where the server went away or its answer was lost."""
        deadline = time.monotonic() + self._patience_s
        pause_s = 0.02
        while True:
            try:
                with self._connections.one() as connection:
                    if not self._ready:
                        self._prepare(_Psycopg(connection))
                    value = act(_Psycopg(connection))
                    connection.commit()
                self._ready = True
                return value
            except (psycopg.Error, TimeoutError) as error:
                passing = self._is_passing(error)
                if not passing or time.monotonic() + pause_s > deadline:
                    raise self._explained(error, passing=passing) from error
            time.sleep(pause_s * random.uniform(0.5, 1))  # apart from others who wait for the same server
            pause_s = min(2 * pause_s, 1.0)

    def _is_passing(self, error: Exception) -> bool:
        """Whether the same may succeed if it is tried again; a server that never was there is not waited for."""
        if isinstance(error, TimeoutError):
            return False  # it has waited
        code = getattr(error, "sqlstate", None)
        if code is not None:
            return code in _PASSING or code.startswith("08")
        text = str(error)
        if any(f"FATAL:  {words}" in text for words in _STARTING):
            return True
        return self._ready and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))

    def _explained(self, error: Exception, *, passing: bool) -> RunStoreError:
        # Without the statement, which is ours and helps nobody; a refusal to connect has no such field.
        primary = getattr(getattr(error, "diag", None), "message_primary", None)
        text = primary or " ".join(str(error).split())
        code = getattr(error, "sqlstate", None) or ""
        cure = _CURES.get(code) or next((cure for words, cure in _STARTING.items() if words in text and cure), "")
        said = f"{masked(text)}{f'; {cure}' if cure else ''}"
        if passing:
            return RunStoreUnavailable(
                f"the run store {self._location} did not answer within {self._patience_s:g} s: {said}"
            )
        kind = RunStoreUnavailable if not self._ready and not code else RunStoreError
        return kind(f"cannot use the run store {self._location}: {said}")

    def now(self) -> int:
        """The server's clock, which is the same for all machines that share it; it is asked every few seconds."""
        known, steady = self._known_time, _steady_ns()
        if known is None or not 0 <= steady - known[0] < _ASK_AGAIN_NS:
            asked = steady
            found = self.read(lambda transaction: transaction.fetch(_NOW))
            steady = _steady_ns()  # after the answer: what is taken for now is late by its way, and never early
            known = (steady, int(found[0][0]))
            self._known_time = known if steady - asked < _PROMPT_NS else None
        return known[1] + (steady - known[0]) // 1_000

    def news(self, pause_s: float) -> Iterator[bool]:
        try:
            with self._connections.apart() as connection:
                connection.execute("LISTEN anabranch")
                while True:
                    yield any(True for _ in connection.notifies(timeout=pause_s, stop_after=1))
        except psycopg.Error as error:
            raise self._explained(error, passing=True) from error

    # Opening ----------------------------------------------------------------------------------------------------------

    def _prepare(self, transaction: _Psycopg) -> None:
        """Find the tables, or make them; in the caller's transaction, so all or nothing."""
        encoding = transaction.fetch("SHOW server_encoding")[0][0]
        if encoding != "UTF8":
            raise RunStoreError(
                f"the database {self._location} has the encoding {encoding}, and names of tasks need UTF8; "
                "make it with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )
        version = self._version(transaction)
        if version > VERSION:
            raise RunStoreError(
                f"the run store {self._location} was written by a newer anabranch (schema {version}, this one knows "
                f"{VERSION}); upgrade anabranch, or set backend to another database"
            )
        if version == VERSION:
            return
        if self._read_only:
            raise RunStoreError(
                f"there is no run store at {self._location} yet; the first run makes it"
                if not version
                else f"the run store {self._location} has schema {version}, and this anabranch reads {VERSION}; "
                "the next run upgrades it"
            )
        transaction.fetch("SELECT pg_advisory_xact_lock(?)", (_MIGRATING,))
        version = self._version(transaction)  # another process may have been first
        for statement in statements(POSTGRESQL, since=version):
            transaction.execute(statement)
        if version < VERSION:
            transaction.execute("CREATE TABLE IF NOT EXISTS anabranch_schema (version BIGINT NOT NULL)")
            transaction.execute("DELETE FROM anabranch_schema")
            transaction.execute("INSERT INTO anabranch_schema VALUES (?)", (VERSION,))

    def _version(self, transaction: _Psycopg) -> int:
        if not _has(transaction, "anabranch_schema"):
            return 0
        found = transaction.fetch("SELECT version FROM anabranch_schema")
        return int(found[0][0]) if found else 0

    # ------------------------------------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        names = [table.name for table in (*TABLES, *SERVICE_TABLES)]
        missing = self.read(lambda transaction: [name for name in names if not _has(transaction, name)])
        return [f"{name}: there is no such table in {self._location}" for name in missing]

    def compact(self) -> bool:
        """Nothing: the server does it by itself."""
        return False

    def describe(self) -> dict[str, str]:
        return {
            "kind": "PostgreSQL",
            "location": self._location,
            "library": f"psycopg {psycopg.__version__}",
            "schema": str(VERSION),
        }

    def close(self) -> None:
        self._connections.close()


# Words of the server's refusals to connect, which come without a code; and what to do, where waiting does not help.
_STARTING = {
    "the database system is": "",  # starting up, shutting down, in recovery mode
    "sorry, too many clients already": _CURES["53300"],
    "too many connections for": _CURES["53300"],
    "remaining connection slots are reserved": _CURES["53300"],
}


def _steady_ns() -> int:
    return time.clock_gettime_ns(_STEADY)


def _has(transaction: _Psycopg, name: str) -> bool:
    """Whether there is a table of that name, now: to_regclass() remembers what was so before one waited for a lock."""
    found = transaction.fetch("SELECT 1 FROM pg_class WHERE relname = ? AND pg_table_is_visible(oid)", (name,))
    return bool(found)
