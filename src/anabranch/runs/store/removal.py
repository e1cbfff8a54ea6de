"""How runs leave the store, in steps that are short, whatever a run has: nobody who records or claims waits for them.

First a run goes, with those that were part of it, all at once, and its id is among what is leaving: nobody sees it any
more, or can begin another one of its id. Then its rows go, some at a time. Files leave in the same way: first no row
names them any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from anabranch.base.errors import RunHeld
from anabranch.base.retention import Tally
from anabranch.runs.store.codec import from_microseconds
from anabranch.runs.store.database import Database, Transaction
from anabranch.runs.store.deeds import forget_deeds
from anabranch.runs.store.records import INTERRUPTED
from anabranch.runs.store.rows import held_by
from anabranch.runs.store.schema import (
    ARTIFACTS,
    CHUNKS,
    DETAILS,
    ELEMENTS,
    LEAVING,
    LOGS,
    RUNS,
    SLOTS,
    STORES,
    TABLES,
    TASK_RUNS,
    Table,
)

PAGE = 200
"""Runs that are looked at in a step."""
BITE = 500
"""Rows that are deleted in a step: some milliseconds."""
_ALL = 2**62

_GOES_ON = "state IN ('Waiting', 'Running')"
_IS_BUSY = (
    "(r.lease_until IS NOT NULL AND r.lease_until > ?) OR EXISTS "
    f"(SELECT 1 FROM {SLOTS.name} s WHERE s.run_id = r.run_id AND s.{_GOES_ON})"
)
_PAGE = (
    "SELECT r.run_id, r.flow_name, r.state, r.started, r.lease_until, p.run_id, "
    f"CASE WHEN {_IS_BUSY} THEN 1 ELSE 0 END "
    f"FROM {RUNS.name} r LEFT JOIN {RUNS.name} p ON p.run_id = r.parent_run_id "
    "WHERE r.started <= ? AND (r.started < ? OR r.run_id < ?) ORDER BY r.started DESC, r.run_id DESC LIMIT ?"
)
_SIZES = {
    TASK_RUNS: "160 + length(message) + coalesce(length(failure), 0) + coalesce(length(value), 0)",
    CHUNKS: "80 + length(indices) + length(codes) + coalesce(length(element_values), 0)",
    ELEMENTS: "40 + length(message) + coalesce(length(failure), 0)",
    LOGS: "60 + length(line)",
    ARTIFACTS: "80 + length(body)",
    DETAILS: "length(parameters) + coalesce(length(parameters_pickle), 0) + length(code) + coalesce(length(plan), 0)",
}
"""Bytes of rows, about."""


_WITH_RESULTS = (TASK_RUNS, CHUNKS)


@dataclass(frozen=True, slots=True)
class StoredAt:
    """What a row says of stored values."""

    table: Table
    key: tuple[Any, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is to know of a run for who keeps house."""

    run_id: str
    flow_name: str
    state: str
    began: datetime
    part_of: str
    """The run with which it goes, as it is part of that; empty if there is none."""
    is_busy: bool
    """Whether it goes on, or will."""

    def is_left_by(self, tally: Tally, nbytes: int = 0) -> bool:
        """Whether it may go, by a tally to which it is shown in its turn."""
        is_over = tally.is_over(self.flow_name, self.state, self.began, nbytes)
        return is_over and not self.part_of and not self.is_busy


class Removal:
    """What goes, and what is on its way.

    Parameters
    ----------
    database
        Where the tables are: ``store.database`` of a run store.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # Looking ----------------------------------------------------------------------------------------------------------

    def pages(self, *, now: int) -> Iterator[list[Standing]]:
        """All runs, from the newest to the oldest, some at a time."""
        place: tuple[int, str] = (_ALL, "")
        while True:
            parameters = (now, place[0], *place, PAGE)
            rows: list[Any] = self._fetch(_PAGE, parameters)
            if rows:
                yield [_standing(row, now) for row in rows]
            if len(rows) < PAGE:
                return
            place = (rows[-1][3], rows[-1][0])

    def sizes(self, run_ids: Collection[str], *, logs_only: bool = False) -> dict[str, int]:
        """Bytes of the rows of runs, about."""
        found = dict.fromkeys(run_ids, 0)
        for table, size in _SIZES.items():
            if table is LOGS or not logs_only:
                where = f"WHERE run_id IN {_marks(run_ids)} GROUP BY run_id"
                query = f"SELECT run_id, sum({size}) FROM {table.name} {where}"
                for run_id, nbytes in self._fetch(query, [*run_ids]):
                    found[run_id] += int(nbytes)
        return found

    def with_logs(self, run_ids: Collection[str]) -> set[str]:
        """Those of the runs that have log lines."""
        query = f"SELECT DISTINCT run_id FROM {LOGS.name} WHERE run_id IN {_marks(run_ids)}"
        return {row[0] for row in self._fetch(query, [*run_ids])}

    def leaving(self) -> list[str]:
        """Runs whose rows are still to go."""
        query = f"SELECT run_id FROM {LEAVING.name} WHERE location = '' ORDER BY run_id LIMIT ?"
        return [row[0] for row in self._fetch(query, (PAGE,))]

    # Doing ------------------------------------------------------------------------------------------------------------

    def take(self, run_id: str, *, now: int) -> list[str]:
        """Let a run go with all that are part of it; gives their ids, none if there is no such run.

        Raises
        ------
        RunHeld
            One of them goes on, or will.
        """

        def act(transaction: Transaction) -> list[str]:
            found, new = {run_id: None}, [run_id]
            while new:
                query = f"SELECT run_id FROM {RUNS.name} WHERE parent_run_id IN {_marks(new[:PAGE])}"
                parts = [row[0] for row in transaction.fetch(query, new[:PAGE]) if row[0] not in found]
                new = [*new[PAGE:], *parts]
                found.update(dict.fromkeys(parts))
            gone = [each for each in found if self._lock(transaction, each, now)]
            transaction.execute_many(LEAVING.insert(), [(each, "", now) for each in gone])
            transaction.execute_many(f"DELETE FROM {RUNS.name} WHERE run_id = ?", [(each,) for each in gone])
            return gone

        return self._database.write(act, durable=True)

    def _lock(self, transaction: Transaction, run_id: str, now: int) -> bool:
        """Keep others from taking a run; False if there is none."""
        query = f"SELECT owner, held_since, lease_until FROM {RUNS.name} WHERE run_id = ?{self._database.lock_clause}"
        for owner, held_since, lease in transaction.fetch(query, (run_id,)):
            if lease is not None and lease > now:
                raise held_by(run_id, owner, held_since)
            if transaction.fetch(f"SELECT 1 FROM {SLOTS.name} WHERE run_id = ? AND {_GOES_ON}", (run_id,)):
                raise RunHeld(f"run {run_id} waits in the queue of a service")
            return True
        return False

    def delete(self, run_ids: Iterable[str]) -> None:
        """Delete all that there is of runs that are leaving."""
        for run_id in run_ids:
            while self.delete_rows(run_id):
                pass

    def delete_rows(self, run_id: str, *, most: int = BITE) -> bool:
        """Delete some rows of a run that is leaving; False if none is left, and the run with that."""

        def act(transaction: Transaction) -> bool:
            left = most
            for table in reversed(TABLES[1:]):
                left -= _delete_some(transaction, table.name, table.key[1:], run_id, left)
                if left <= 0:
                    return True
            transaction.execute(f"DELETE FROM {LEAVING.name} WHERE run_id = ? AND location = ''", (run_id,))
            return False

        return self._database.write(act)

    def delete_logs(self, run_id: str, *, most: int = BITE) -> bool:
        """Delete some log lines of a run; False if none was left."""
        return self._database.write(
            lambda transaction: _delete_some(transaction, LOGS.name, LOGS.key[1:], run_id, most) > 0
        )

    def forget_slots(self, before: int) -> int:
        """Delete some slots that ended before a moment; gives how many."""
        query = f"SELECT run_id FROM {SLOTS.name} WHERE ended < ? AND NOT {_GOES_ON} LIMIT ?"
        statement = f"DELETE FROM {SLOTS.name} WHERE run_id = ? AND ended < ? AND NOT {_GOES_ON}"
        rows = [(row[0], before) for row in self._fetch(query, (before, BITE))]
        if rows:
            self._database.write(lambda transaction: transaction.execute_many(statement, rows))
        return len(rows)

    def forget_deeds(self) -> None:
        """Forget what people did more than a year ago."""
        forget_deeds(self._database)

    # Files ------------------------------------------------------------------------------------------------------------

    def stored(self, run_ids: Collection[str]) -> list[StoredAt]:
        """What rows of runs say of stored values, where that names the run."""
        found = []
        for table in _WITH_RESULTS:
            query = (
                f"SELECT {', '.join(table.key)}, result FROM {table.name} "
                f"WHERE run_id IN {_marks(run_ids)} AND result LIKE '%' || run_id || '%'"
            )
            found += [StoredAt(table, tuple(row[:-1]), row[-1]) for row in self._fetch(query, [*run_ids])]
        return found

    def named(self, run_ids: Collection[str], part: str) -> list[str]:
        """What rows of runs say of stored values, where that has a text in it."""
        found = []
        for table in _WITH_RESULTS:
            query = f"SELECT result FROM {table.name} WHERE run_id IN {_marks(run_ids)} AND result LIKE ?"
            found += [row[0] for row in self._fetch(query, [*run_ids, f"%{part}%"])]
        return found

    def forget_values(
        self, run_id: str, changes: Sequence[tuple[StoredAt, str | None]], locations: Collection[str], *, now: int
    ) -> bool:
        """Let rows of a run name its stored values no more, which are leaving then; False if the run goes on."""

        def act(transaction: Transaction) -> bool:
            query = f"SELECT 1 FROM {RUNS.name} r WHERE r.run_id = ? AND ({_IS_BUSY})"
            if transaction.fetch(query, (run_id, now)):
                return False
            for each, text in changes:
                where = " AND ".join(f"{column} = ?" for column in (*each.table.key, "result"))
                values = (text, *each.key, each.text)
                transaction.execute(f"UPDATE {each.table.name} SET result = ? WHERE {where}", values)
            transaction.execute_many(LEAVING.insert(), [(run_id, location, now) for location in locations])
            return True

        return self._database.write(act, durable=True)

    def files(self, after: tuple[str, str] = ("", "")) -> list[tuple[str, str, int]]:
        """Some of the files that are leaving: their runs, locations, and since when; in the order of the first two."""
        query = (
            f"SELECT run_id, location, since FROM {LEAVING.name} WHERE location <> '' "
            "AND run_id >= ? AND (run_id > ? OR location > ?) ORDER BY run_id, location LIMIT ?"
        )
        rows: list[Any] = self._fetch(query, (after[0], *after, PAGE))
        return [(run_id, location, since) for run_id, location, since in rows]

    def is_busy(self, run_id: str, *, now: int) -> bool:
        """Whether a run goes on, or will."""
        return bool(self._fetch(f"SELECT 1 FROM {RUNS.name} r WHERE r.run_id = ? AND ({_IS_BUSY})", (run_id, now)))

    def let_go(self, files: Sequence[tuple[str, str]]) -> None:
        """Forget files that are gone, or are to stay."""
        statement = f"DELETE FROM {LEAVING.name} WHERE run_id = ? AND location = ?"
        if files:
            self._database.write(lambda transaction: transaction.execute_many(statement, files))

    def stores(self) -> list[str]:
        """Directories of results that runs have written to, each after its machine and a colon."""
        return [row[0] for row in self._fetch(f"SELECT store FROM {STORES.name} ORDER BY store")]

    def forget_store(self, store: str) -> None:
        """Forget a directory of results, which is gone."""
        statement = f"DELETE FROM {STORES.name} WHERE store = ?"
        self._database.write(lambda transaction: transaction.execute(statement, (store,)))

    def compact(self) -> bool:
        """Give back some of the space of what was deleted; False if there is no more of it."""
        return self._database.compact()

    def _fetch(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self._database.read(lambda transaction: transaction.fetch(query, parameters))


def _standing(row: Sequence[Any], now: int) -> Standing:
    run_id, flow_name, state, began, lease, part_of, is_busy = row
    state = INTERRUPTED if lease is not None and lease <= now else state
    return Standing(run_id, flow_name, state, _moment(began), part_of or "", bool(is_busy))


def _moment(microseconds: int) -> datetime:
    found = from_microseconds(microseconds)
    assert found is not None
    return found


def _marks(values: Collection[object]) -> str:
    return f"({', '.join('?' * len(values))})"


def _delete_some(transaction: Transaction, table: str, key: Sequence[str], run_id: str, most: int) -> int:
    """Delete some rows of a run; gives how many."""
    if not key:
        return transaction.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))
    columns = ", ".join(key)
    some = f"SELECT {columns} FROM {table} WHERE run_id = ? LIMIT ?"
    return transaction.execute(
        f"DELETE FROM {table} WHERE run_id = ? AND ({columns}) IN ({some})", (run_id, run_id, most)
    )
