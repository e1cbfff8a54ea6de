"""Results as rows of a database: a file of SQLite, or PostgreSQL.

Each operation is one statement, so that it is done or not done, and can be done again after a connection was cut.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from anabranch.base.connections import Connections
from anabranch.base.errors import OptionError
from anabranch.base.texts import masked
from anabranch.results.result import Result
from anabranch.results.serializers import need

TABLE = "anabranch_results"
RECONNECT_S = 10.0  # PostgreSQL restarts within 5
LOCKED_S = 30.0  # a writer of SQLite holds its lock for as long as one object takes
_PAUSE_S = 0.2  # between two tries to connect
_PER_STATEMENT = 500  # locations: SQLite took 999 variables before 3.32
_MAKE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} (location TEXT NOT NULL PRIMARY KEY, body {{}} NOT NULL, "
    "written DOUBLE PRECISION NOT NULL)"
)
_PUT = f"INSERT INTO {TABLE} (location, body, written) VALUES (?, ?, ?) ON CONFLICT (location) DO "
_REPLACE = "UPDATE SET body = excluded.body, written = excluded.written"


class SQLStore:
    """Objects in a table, which is made by whoever comes first."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._sqlite = url.partition(":///")[2] if url.startswith("sqlite:") else ""
        self._connections: Connections | None = None
        self._is_made = False

    def __repr__(self) -> str:
        return repr(masked(self.url))

    def __reduce__(self) -> tuple[Any, ...]:
        return SQLStore, (self.url,)

    @property
    def packages(self) -> Mapping[str, str]:
        """Modules that the database needs, each with the extra that brings it."""
        return {} if self._sqlite else {"psycopg": "postgres"}

    def put(self, location: str, parts: list[bytes], *, replace: bool) -> bool:
        """As `Store.put`."""
        statement = _PUT + (_REPLACE if replace else "NOTHING")
        return self._run(statement, [location, b"".join(parts), time.time()])[0] > 0

    def get(self, location: str, nbytes: int | None = None) -> bytes:
        """As `Store.get`."""
        if nbytes is None:
            _, found = self._run(f"SELECT body FROM {TABLE} WHERE location = ?", [location])
        else:
            statement = f"SELECT substr(body, 1, CAST(? AS INTEGER)) FROM {TABLE} WHERE location = ?"
            _, found = self._run(statement, [nbytes, location])
        if not found:
            raise FileNotFoundError(location)
        return bytes(found[0][0] or b"")  # SQLite says NULL for a part of nothing

    def get_many(self, locations: Sequence[str]) -> dict[str, bytes]:
        """As `Store.get_many`: in statements with some hundred locations each."""
        found: dict[str, bytes] = {}
        for first in range(0, len(locations), _PER_STATEMENT):
            part = locations[first : first + _PER_STATEMENT]
            marks = ", ".join("?" * len(part))
            found.update(self._run(f"SELECT location, body FROM {TABLE} WHERE location IN ({marks})", part)[1])
        return found

    def exists(self, location: str) -> bool:
        """As `Store.exists`."""
        return bool(self._run(f"SELECT 1 FROM {TABLE} WHERE location = ?", [location])[1])

    def delete(self, location: str) -> None:
        """As `Store.delete`."""
        self._run(f"DELETE FROM {TABLE} WHERE location = ?", [location])

    def sweep(self, older_than_s: float) -> int:
        """None: the database keeps nothing that is not complete."""
        return 0

    def close(self) -> None:
        """As `Store.close`."""
        if self._connections is not None:
            self._connections.close()

    def _run(self, statement: str, parameters: Sequence[Any]) -> tuple[int, list[Any]]:
        """Run one statement by itself; gives the number of rows it changed, and those it found."""
        if self._sqlite:
            return self._run_in_file(statement, parameters)
        return self._run_on_server(statement.replace("?", "%s"), parameters)

    def _run_in_file(self, statement: str, parameters: Sequence[Any]) -> tuple[int, list[Any]]:
        if not self._is_made:
            _prepare_file(self._sqlite)
        # A connection is a file that is opened in microseconds. The journal stays the rollback one: many workers
        # write, and a write-ahead log with several writers can be corrupted before SQLite 3.51.3.
        with closing(sqlite3.connect(self._sqlite, timeout=LOCKED_S, isolation_level=None)) as connection:
            if not self._is_made:
                connection.execute(_MAKE.format("BLOB"))
                self._is_made = True
            cursor = connection.execute(statement, parameters)
            return cursor.rowcount, cursor.fetchall()

    def _run_on_server(self, statement: str, parameters: Sequence[Any]) -> tuple[int, list[Any]]:
        """Again if the server went away: whoever repeats it finds it done."""
        import psycopg

        if self._connections is None:
            self._connections = Connections(self.url, wait_s=LOCKED_S, autocommit=True)
        limit = time.monotonic() + RECONNECT_S
        while True:
            connection = None
            try:
                with self._connections.one() as connection:
                    if not self._is_made:
                        _make_table(connection)
                        self._is_made = True
                    cursor = connection.execute(statement, parameters)
                    return cursor.rowcount, cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError as error:
                # Errors of the server have a code, 57P… while it stops and starts; those of a cut connection have none.
                passes = (
                    error.sqlstate.startswith("57P")
                    if error.sqlstate
                    else connection is not None or _is_refused(str(error))
                )
                if not passes or time.monotonic() > limit:
                    raise
            time.sleep(_PAUSE_S)


def _make_table(connection: Any) -> None:  # of psycopg, which need not be there
    import psycopg

    try:
        connection.execute(_MAKE.format("BYTEA"))
    except psycopg.Error:  # another process makes it too, or this user may not, and it is there
        if connection.execute("SELECT to_regclass(%s)", (TABLE,)).fetchone() == (None,):
            raise


def _is_refused(text: str) -> bool:
    signs = ("refused", "closed the connection", "timeout expired", "the database system is")
    return any(words in text.lower() for words in signs)


def _prepare_file(file: str) -> None:
    """Make the file of a database, for this user only; SQLite would let others read it."""
    path = Path(file)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600))


class SQLResult(Result):
    """Results in a database; good for many small values. Values of more than a few hundred megabytes do not fit.

    Parameters
    ----------
    url
        ``sqlite:///path/results.db`` or ``postgresql://user:password@host/database``. The password travels to the
        workers with the result; to avoid that, use a service file or ``~/.pgpass`` there.
    **options
        `serializer` and `location`, as for `Result`.

    Raises
    ------
    ExtraMissing
        The driver is not installed; the message has the command that installs it.
    OptionError
        It is not the URL of such a database.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(SQLStore(_check_database(url)), **options)


def _check_database(url: str) -> str:
    kind = url.partition(":")[0].partition("+")[0] if isinstance(url, str) else ""
    if kind in ("postgresql", "postgres"):
        need("psycopg", "postgres", "SQLResult(postgresql://…)")
        return f"postgresql://{url.partition('://')[2]}"
    path = url.partition(":///")[2] if kind == "sqlite" else ""
    if kind != "sqlite" or "://" not in url or "?" in path or "\0" in path:
        shown = masked(url) if isinstance(url, str) else type(url).__name__
        raise OptionError(f"SQLResult: expected 'sqlite:///path' or 'postgresql://…', found {shown!r:.200}")
    if path in ("", ":memory:"):
        raise OptionError("SQLResult: workers cannot share a database in memory; name a file, or use InMemoryResult()")
    return f"sqlite:///{Path(path).expanduser().absolute()}"
