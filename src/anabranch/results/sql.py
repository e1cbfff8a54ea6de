"""Results as rows of a database: a file of SQLite, or PostgreSQL, through SQLAlchemy.

Each operation is one statement, so that it is done or not done, and can be done again after a connection was cut.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from anabranch.base.errors import OptionError
from anabranch.base.texts import masked
from anabranch.results.result import Result
from anabranch.results.serializers import need

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

T = TypeVar("T")

TABLE = "anabranch_results"
RECONNECT_S = 10.0  # PostgreSQL restarts within 5
LOCKED_S = 30.0  # a writer of SQLite holds its lock for as long as one object takes
_PAUSE_S = 0.2  # between two tries to connect
_PER_STATEMENT = 500  # locations: SQLite took 999 variables before 3.32


class SQLStore:
    """Objects in a table, which is made by whoever comes first."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite:")
        self._lock = threading.Lock()
        self._opened: tuple[int, Engine, Table] | None = None

    def __repr__(self) -> str:
        return repr(masked(self.url))

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]  # as good as new

    def put(self, location: str, parts: list[bytes], *, replace: bool) -> bool:
        """As `Store.put`."""
        from sqlalchemy.dialects import postgresql, sqlite

        body = b"".join(parts)

        def statement(table: Table) -> Any:
            insert = (sqlite.insert if self.is_sqlite else postgresql.insert)(table)
            insert = insert.values(location=location, body=body, written=time.time())
            if not replace:
                return insert.on_conflict_do_nothing(index_elements=[table.c.location])
            changed = {"body": insert.excluded.body, "written": insert.excluded.written}
            return insert.on_conflict_do_update(index_elements=[table.c.location], set_=changed)

        return bool(self._run(statement, lambda outcome: outcome.rowcount > 0))

    def get(self, location: str, nbytes: int | None = None) -> bytes:
        """As `Store.get`."""
        from sqlalchemy import func, select

        def statement(table: Table) -> Any:
            wanted = table.c.body if nbytes is None else func.substr(table.c.body, 1, nbytes)
            return select(wanted).where(table.c.location == location)

        found = self._run(statement, lambda outcome: outcome.first())
        if found is None:
            raise FileNotFoundError(location)
        return bytes(found[0] or b"")  # SQLite says NULL for a part of nothing

    def get_many(self, locations: Sequence[str]) -> dict[str, bytes]:
        """As `Store.get_many`: in statements with some hundred locations each."""
        found: dict[str, bytes] = {}
        for first in range(0, len(locations), _PER_STATEMENT):
            part = locations[first : first + _PER_STATEMENT]
            rows = self._run(
                partial(_selected, part),
                lambda outcome: [(str(row.location), bytes(row.body)) for row in outcome],
            )
            found.update(rows)
        return found

    def exists(self, location: str) -> bool:
        """As `Store.exists`."""
        from sqlalchemy import select

        found = self._run(
            lambda table: select(table.c.written).where(table.c.location == location), lambda outcome: outcome.first()
        )
        return found is not None

    def delete(self, location: str) -> None:
        """As `Store.delete`."""
        self._run(lambda table: table.delete().where(table.c.location == location), lambda outcome: None)

    def sweep(self, older_than_s: float) -> int:
        """None: the database keeps nothing that is not complete."""
        return 0

    def close(self) -> None:
        """As `Store.close`."""
        with self._lock:
            if self._opened is not None and self._opened[0] == os.getpid():
                self._opened[1].dispose()
            self._opened = None

    def _run(self, statement: Callable[[Table], Any], take: Callable[[Any], T]) -> T:
        """Run one statement by itself, and again if the server went away: whoever repeats it finds it done."""
        from sqlalchemy.exc import DBAPIError

        limit = time.monotonic() + RECONNECT_S
        while True:
            try:
                engine, table = self._engine()
                with engine.connect() as connection:
                    # Without being asked to, SQLAlchemy does not look at the count of an INSERT.
                    outcome = connection.execute(statement(table), execution_options={"preserve_rowcount": True})
                    return take(outcome)
            except DBAPIError as error:
                if not self._is_passing(error) or time.monotonic() > limit:
                    raise (error.orig or error) from None  # without the statement, which has the value in it
            time.sleep(_PAUSE_S)

    def _is_passing(self, error: Any) -> bool:
        """Whether the server may be back soon: its connection was cut, or it cannot be reached, as in a restart."""
        if self.is_sqlite:
            return False
        if error.connection_invalidated:
            return True
        import psycopg

        # Errors of the server have a code, 57P… while it stops and starts. A refused connection has none.
        state = getattr(error.orig, "sqlstate", None)
        return isinstance(error.orig, psycopg.OperationalError) and (
            state.startswith("57P") if state else _is_refused(str(error.orig))
        )

    def _engine(self) -> tuple[Engine, Table]:
        """The engine of this process: connections must not be shared with one that was forked off."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                if self._opened is not None:
                    self._opened[1].dispose(close=False)  # they are the parent's
                self._opened = (os.getpid(), *self._made())
            return self._opened[1], self._opened[2]

    def _made(self) -> tuple[Engine, Table]:
        from sqlalchemy import Column, Float, LargeBinary, MetaData, NullPool, Table, Text, create_engine, inspect
        from sqlalchemy.exc import DBAPIError

        table = Table(
            TABLE,
            MetaData(),
            Column("location", Text, primary_key=True),
            Column("body", LargeBinary, nullable=False),
            Column("written", Float, nullable=False),
        )
        if self.is_sqlite:
            _prepare_file(self.url)
            # No pool: a connection is a file that is opened in microseconds. The journal stays the rollback one: many
            # workers write, and a write-ahead log with several writers can be corrupted before SQLite 3.51.3.
            engine = create_engine(
                self.url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args={"timeout": LOCKED_S}
            )
        else:
            url = f"postgresql+psycopg://{self.url.partition('://')[2]}"
            engine = create_engine(
                url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, pool_size=2, connect_args={"connect_timeout": 5}
            )
        try:
            table.metadata.create_all(engine)
        except DBAPIError:
            if not inspect(engine).has_table(TABLE):  # it is there if another process was making it too
                raise
        return engine, table


def _selected(locations: Sequence[str], table: Table) -> Any:
    from sqlalchemy import select

    return select(table.c.location, table.c.body).where(table.c.location.in_(locations))


def _is_refused(text: str) -> bool:
    signs = ("refused", "closed the connection", "timeout expired", "the database system is")
    return any(words in text.lower() for words in signs)


def _prepare_file(url: str) -> None:
    """Make the file of a database, for this user only; SQLite would let others read it."""
    path = Path(url.partition(":///")[2])
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
        super().__init__(SQLStore(_checked(url)), **options)


def _checked(url: str) -> str:
    kind = url.partition(":")[0].partition("+")[0] if isinstance(url, str) else ""
    if kind in ("postgresql", "postgres"):
        need("psycopg", "postgres", "SQLResult(postgresql://…)")
        return url
    path = url.partition(":///")[2] if kind == "sqlite" else ""
    if kind != "sqlite" or "://" not in url or "?" in path or "\0" in path:
        shown = masked(url) if isinstance(url, str) else type(url).__name__
        raise OptionError(f"SQLResult: expected 'sqlite:///path' or 'postgresql://…', found {shown!r:.200}")
    if path in ("", ":memory:"):
        raise OptionError("SQLResult: workers cannot share a database in memory; name a file, or use InMemoryResult()")
    return f"sqlite:///{Path(path).expanduser().absolute()}"
