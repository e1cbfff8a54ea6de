"""The run store that all share: its tables are real, what is done to them is kept as a history, and it may fail."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from tests.simulation.chance import Chance
from tests.simulation.services.machines import STORE, Town

from anabranch.base.errors import RunStoreError, RunStoreUnavailable
from anabranch.runs.store.sqlite import InMemoryRunStore, _within

T = TypeVar("T")

LATENCY_S = 0.001
MISFORTUNES = ("refused", "answer lost", "slow", "pause before", "pause after", "death before", "death after")
"""What may come of a touch of the store."""

_SLOT = ["state", "flow_name", "due", "origin", "token", "owner", "cancel", "tries", "message", "grp", "started"]
_COLUMNS = ", ".join(f"c{number}" for number in range(14))


def _trigger(name: str, when: str, table: str, *values: str) -> str:
    padded = [*values, *["NULL"] * (14 - len(values))]
    return (
        f"CREATE TRIGGER {name} AFTER {when} ON anabranch_{table} BEGIN "
        f"INSERT INTO history ({_COLUMNS}) VALUES ({', '.join(padded)}); END"
    )


def _slot(row: str) -> list[str]:
    return [f"{row}.{column}" for column in _SLOT]


_TRIGGERS = (
    f"CREATE TABLE history (serial INTEGER PRIMARY KEY, {_COLUMNS})",
    _trigger("slot_made", "INSERT", "slots", "'slot'", "who()", "NEW.run_id", *_slot("NEW")),
    _trigger("slot_changed", "UPDATE", "slots", "'slot'", "who()", "NEW.run_id", *_slot("NEW")),
    _trigger("slot_gone", "DELETE", "slots", "'slot gone'", "who()", "OLD.run_id"),
    *(
        _trigger(
            f"run_{when}", when, "runs", "'run'", "who()", "NEW.run_id", "NEW.state", "NEW.epoch", "NEW.owner",
            "NEW.token", "NEW.lease_until"
        )
        for when in ("INSERT", "UPDATE")
    ),
    *(
        _trigger(f"task_{when}", when, "task_runs", "'task'", "who()", "NEW.run_id", "NEW.slug", "NEW.state")
        for when in ("INSERT", "UPDATE")
    ),
    _trigger(
        "planned", "UPDATE OF scheduled_until", "flows", "'plan'", "who()", "NEW.flow_name", "OLD.scheduled_until",
        "NEW.scheduled_until", "OLD.paused"
    ),
    *(_trigger(f"permit_{when}", when, "permits", "'permit'", "who()") for when in ("INSERT", "UPDATE")),
)  # fmt: skip


@cache
def _empty() -> bytes:
    store = InMemoryRunStore()
    connection = store.database._connection  # type: ignore[attr-defined]
    connection.create_function("who", 0, str)
    for statement in _TRIGGERS:
        connection.execute(statement)
    found: bytes = connection.serialize()
    return found


class Tables:
    """A `Database` in memory.

    Parameters
    ----------
    one_in
        In about how many touches there is a misfortune; 0: never.
    kinds
        Which there are.
    """

    lock_clause = skip_clause = announcement = ""

    def __init__(self, town: Town, chance: Chance, *, one_in: int, kinds: tuple[str, ...] = MISFORTUNES) -> None:
        self._town = town
        self._chance = chance
        self._one_in = one_in
        self._kinds = kinds
        self._left = self._gap()
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.deserialize(_empty())
        self._connection.create_function("who", 0, self._who)
        self._seen = 0
        self.is_calm = False
        self.away_until = 0.0
        self.touches = 0
        self.watch: Callable[[list[tuple[Any, ...]]], None] = lambda rows: None
        """Told of what a transaction has changed, once it is committed."""

    def _gap(self) -> int:
        """Touches until the next misfortune; 0: none comes."""
        return self._chance.below(2 * self._one_in) if self._one_in else 0

    def _who(self) -> str:
        return self._town.current.process.name if self._town.current is not None else "nobody"

    def now(self) -> int:
        return round(self._town.clock(STORE) * 1e6)

    def write(self, act: Callable[[Any], T], *, durable: bool = False) -> T:
        return self._touch(act, is_write=True)

    def read(self, act: Callable[[Any], T]) -> T:
        return self._touch(act, is_write=False)

    def peek(self, act: Callable[[Any], T]) -> T:
        """Do something without being seen, or disturbed."""
        return _within(self._connection, "BEGIN", act)

    def _touch(self, act: Callable[[Any], T], *, is_write: bool) -> T:
        town = self._town
        if town.is_over:
            raise RunStoreError("the town is gone")
        if town.current is None:
            return self.peek(act)
        self.touches += 1
        life, what = town.here, ""
        if not life.is_proof and not self.is_calm and self._left:
            self._left -= 1
            if not self._left:
                self._left, what = self._gap(), self._chance.pick(self._kinds)
                town.note(f"{life.name}: {what}")
        if what == "death before":
            town.die()
        if what == "pause before":
            town.pause(life, self._chance.seconds(90.0))
        if what == "slow":
            life.failed = town.now
            town.sleep(self._chance.seconds(8.0))
            life.failed = town.now
        town.sleep(LATENCY_S)
        if what == "refused" or (town.now < self.away_until and not life.is_proof):
            life.failed = town.now
            raise RunStoreUnavailable("the store does not answer")
        found = self.peek(act)
        if is_write:
            self._tell()
        if what == "death after":
            town.die()
        if what == "pause after":
            town.pause(life, self._chance.seconds(90.0))
            town.sleep(0.0)
        if what == "answer lost":
            life.failed = town.now
            raise RunStoreUnavailable("the store's answer was lost")
        return found

    def _tell(self) -> None:
        rows = self._connection.execute(
            f"SELECT serial, {_COLUMNS} FROM history WHERE serial > ? ORDER BY serial", (self._seen,)
        ).fetchall()
        if rows:
            self._seen = rows[-1][0]
            self.watch([row[1:] for row in rows])

    def check(self) -> list[str]:
        return []

    def compact(self) -> None:
        """Nothing."""

    def describe(self) -> dict[str, str]:
        return {"kind": "simulated", "location": "a town"}

    def close(self) -> None:
        """Nothing: others have it open."""
