"""What the store and the registry need of a database, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from anabranch.runs.store.rows import Row

T = TypeVar("T")


class Transaction(Protocol):
    """What can be done within a transaction."""

    def execute(self, statement: str, parameters: Row = ()) -> int:
        """Run a statement; gives the number of rows it changed."""

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        """Run a statement for each row of parameters."""

    def fetch(self, statement: str, parameters: Row = ()) -> list[Any]:
        """Rows that a query finds."""


class Database(Protocol):
    """Where tables are. Safe to use from several threads."""

    lock_clause: str
    """What a query must end with to keep others from changing the rows it read, until its transaction ends."""

    skip_clause: str
    """What follows it to leave out rows that others have locked, instead of waiting for them."""

    announcement: str
    """Statement by which a transaction is news for others; empty if each is."""

    def now(self) -> int:
        """Microseconds since 1970 by the clock that all who share the database go by."""

    def write(self, act: Callable[[Transaction], T], *, durable: bool = False) -> T:
        """Do something in a transaction that is committed when this returns, and rolled back if it raises.

        `act` may be called again, if it is not known whether its transaction was committed. `durable`: what is
        written has to survive even the loss of power.
        """

    def read(self, act: Callable[[Transaction], T]) -> T:
        """Do something that only reads."""

    def news(self, pause_s: float) -> Iterator[bool]:
        """Look for news again and again: True when there may be some, False if there was none for so long.

        Raises
        ------
        RunStoreError
            There is no way to hear of news now.
        """

    def check(self) -> list[str]:
        """What the database itself finds wrong with its tables."""

    def compact(self) -> bool:
        """Give back some of the space of deleted rows; False if there is no more of it."""

    def describe(self) -> dict[str, str]:
        """Kind, location, versions, warnings."""

    def close(self) -> None:
        """Let go of connections."""
