"""Connections to a PostgreSQL server, by psycopg, which is imported when there is a use for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from anabranch.base.texts import masked

if TYPE_CHECKING:
    from psycopg import Connection

_MOST = 10
_KEPT = 2  # the driver and its heart
_LIBPQ = {
    "connect_timeout": 5,  # seconds for one try; patience allows several
    # A server whose machine is gone says nothing; within about ten seconds these tell.
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "client_encoding": "utf8",  # or a server in SQL_ASCII answers in bytes
}


class Connections:
    """Connections to one database, for all threads of a process.

    ``psycopg_pool`` connects from threads of its own: who has a wrong password waits in vain, and is not told why.

    Parameters
    ----------
    url
        As libpq has it; any other is a ValueError.
    wait_s
        Seconds to wait where all are in use; then there is a TimeoutError.
    greeting
        Statements for each new connection.
    autocommit
        Whether each statement is a transaction.
    """

    def __init__(self, url: str, *, wait_s: float, greeting: str = "", autocommit: bool = False) -> None:
        self._parameters = {**_LIBPQ, **_parsed(url)}
        self._wait_s = wait_s
        self._greeting = greeting
        self._autocommit = autocommit
        self._of_process: dict[int, tuple[list[Connection], threading.Semaphore]] = {}
        """Idle ones, and how many there may be besides, by process: those of one that forked are not for its child."""

    @contextmanager
    def one(self) -> Iterator[Connection]:
        """A connection; what is not committed is rolled back, and one that is lost is not used again."""
        idle, room = self._of_process.setdefault(os.getpid(), ([], threading.Semaphore(_MOST)))
        if not room.acquire(timeout=self._wait_s):
            raise TimeoutError(f"all {_MOST} connections were in use for {self._wait_s:g} s")
        try:
            connection = _popped(idle) or self._opened()
            try:
                yield connection
                is_fit = True
            except BaseException as error:
                is_fit = isinstance(error, Exception)  # Ctrl-C may come in the middle of an answer
                raise
            finally:
                with suppress(Exception):  # it is lost, and closed by that
                    if is_fit:
                        connection.rollback()
                if is_fit and not connection.closed and len(idle) < _KEPT:
                    idle.append(connection)
                else:
                    connection.close()
        finally:
            room.release()

    @contextmanager
    def apart(self) -> Iterator[Connection]:
        """A connection that is not shared, on which each statement is a transaction."""
        import psycopg

        with psycopg.connect(**self._parameters, autocommit=True) as connection:
            yield connection

    def close(self) -> None:
        """Close those of this process that are not in use; the next use opens them again."""
        idle, _ = self._of_process.get(os.getpid(), ([], None))
        while connection := _popped(idle):
            connection.close()

    def _opened(self) -> Connection:
        import psycopg

        connection = psycopg.connect(**self._parameters, autocommit=self._autocommit)
        try:
            if self._greeting:
                connection.execute(self._greeting)
                connection.commit()
        except BaseException:
            connection.close()
            raise
        return connection


def _popped(idle: list[Connection]) -> Connection | None:
    try:
        return idle.pop()
    except IndexError:  # of another thread, by now
        return None


def _parsed(url: str) -> dict[str, Any]:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    kind, _, rest = url.partition("://")
    try:
        if kind not in ("postgres", "postgresql", "postgresql+psycopg"):
            raise ValueError
        parameters = conninfo_to_dict(f"postgresql://{rest}")
        for port in str(parameters.get("port") or 0).split(","):
            int(port or 0)
    except (ValueError, psycopg.Error):  # which tell the part that is wrong, and that may be of a password
        raise ValueError(
            f"{masked(url)!r} is not a database URL; expected postgresql://user:password@host:port/database"
        ) from None
    return parameters
