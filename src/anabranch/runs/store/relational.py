"""The run store in tables: the statements, the same for every database. How a transaction is made is a `Database`'s.

Statements mark parameters by ``?``, and what users say is only ever a parameter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, Self

from anabranch.base.errors import RunExists, RunHeld, RunNotFound, RunQueryError, RunStoreDamaged, StaleOwner, listed
from anabranch.base.retention import Rule, Tally
from anabranch.base.settings import config
from anabranch.runs.store.codec import (
    MESSAGE_NBYTES,
    decode_codes,
    decode_indices,
    from_microseconds,
    to_microseconds,
    to_text,
)
from anabranch.runs.store.database import Database, Transaction
from anabranch.runs.store.owners import birth_of, name_process, sleepless_clock
from anabranch.runs.store.records import (
    INTERRUPTED,
    LAST,
    SORTS,
    ArtifactRow,
    Batch,
    ChunkRow,
    ElementRow,
    LogQuery,
    LogRow,
    Ownership,
    RunDetails,
    RunQuery,
    RunRecord,
    TaskRunRow,
)
from anabranch.runs.store.removal import Removal
from anabranch.runs.store.rows import (
    Row,
    add_rest,
    changes_of,
    details_row,
    held_by,
    read_artifact,
    read_chunk,
    read_element,
    read_log,
    read_task_run,
    render_moment,
    run_of,
    run_row,
    write_artifact,
)
from anabranch.runs.store.schema import (
    ARTIFACTS,
    CHUNKS,
    DETAILS,
    ELEMENTS,
    LEAVING,
    LOGS,
    RUNS,
    STORES,
    TABLES,
    TASK_RUNS,
    WISHES,
)

_TAKE = (
    f"UPDATE {RUNS.name} SET owner = ?, born = ?, epoch = epoch + 1, token = ?, held_since = ?, lease_until = ?, "
    "heard = ?, rests = ?, state = 'Running', message = '', ended = NULL "
    "WHERE run_id = ? AND epoch = ? AND (lease_until IS NULL OR lease_until <= ?)"
)
_RENEW = (
    f"UPDATE {RUNS.name} SET lease_until = ?, heard = CASE WHEN heard > ? THEN heard ELSE ? END "
    "WHERE run_id = ? AND epoch = ? AND token = ? AND lease_until IS NOT NULL"
)
_FINISH = (
    f"UPDATE {RUNS.name} SET state = ?, message = ?, ended = ?, lease_until = NULL, heard = ? "
    "WHERE run_id = ? AND epoch = ? AND token = ?"
)
# When something of a run began or ended last: its process may have died without a word.
_LAST_SIGNS = (
    f"SELECT started, ended, heard, rests, (SELECT MAX(COALESCE(ended, started)) FROM {TASK_RUNS.name} AS t "
    f"WHERE t.run_id = r.run_id), (SELECT MAX(started + seconds * 1000000) FROM {CHUNKS.name} AS c "
    f"WHERE c.run_id = r.run_id) FROM {RUNS.name} AS r WHERE run_id = ?"
)
_HOLDER = f"SELECT epoch, token, owner, held_since, lease_until FROM {RUNS.name} WHERE run_id = ?"
_ORDER = {"start": "started", "end": "ended", "flow_name": "flow_name", "state": "state", "run_id": "run_id"}
_PLACES = f"SELECT run_id, slug, serial, indices, codes FROM {CHUNKS.name} WHERE run_id = ?"


class RelationalRunStore:
    """A `RunStore` in the tables of a database.

    Parameters
    ----------
    database
        Where the tables are.
    lease_s
        Seconds that a run is held without a sign of life; None means ``runs.lease_s``.
    """

    def __init__(self, database: Database, *, lease_s: float | None = None) -> None:
        self._database = database
        self.lease_s = config.runs.lease_s if lease_s is None else lease_s

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.describe()['location']!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections; the store can still be used, and opens them again."""
        self._database.close()

    def describe(self) -> dict[str, str]:
        """Kind, location (passwords masked), versions, and warnings, for people."""
        return self._database.describe()

    @property
    def database(self) -> Database:
        """Where the tables are: those of the registry are beside those of the runs."""
        return self._database

    # Owning -----------------------------------------------------------------------------------------------------------

    def create_run(self, record: RunRecord, *, owner: str | None = None, now: datetime | None = None) -> Ownership:
        """Record a run that begins, and hold it; raises `RunExists` if there is one with this id."""
        since, token = sleepless_clock(), token_hex(12)
        held = Ownership(to_text(record.run_id), to_text(owner or name_process()), 1, token, since)
        born = birth_of(os.getpid()) if owner is None else ""
        row = run_row(record, held, _here(now), self._until(self._moment(now)), born)
        details = details_row(held.run_id, record.details or RunDetails())
        stores = record.details.stores if record.details is not None else ()

        def act(transaction: Transaction) -> None:
            if transaction.fetch(f"{LEAVING.select('run_id = ?')} LIMIT 1", (held.run_id,)):
                raise RunHeld(
                    f"run {held.run_id} is being deleted, so none of its id can begin; try again in a moment. "
                    "If no service does it, `anabranch prune` deletes what is left"
                )
            if not transaction.execute(RUNS.insert(), row):
                (holder,) = transaction.fetch(_HOLDER, (held.run_id,))
                if holder[1] != held.token:  # else it was us, and the answer to the first try was lost
                    raise RunExists(
                        f"there is a run {held.run_id!r} already; give the new one another id, or resume it"
                    )
            transaction.execute(DETAILS.insert(), details)
            for store in stores:
                transaction.execute(STORES.insert(), (store,))

        self._database.write(act, durable=True)
        return held

    def take_over(
        self, run_id: str, *, owner: str | None = None, epoch: int | None = None, now: datetime | None = None
    ) -> Ownership:
        """Hold a run that nobody holds, or has held after so many; raises `RunHeld` otherwise, and `RunNotFound`."""
        wanted = epoch
        since = sleepless_clock()
        taker, token, moment = to_text(owner or name_process()), token_hex(12), self._moment(now)
        born = birth_of(os.getpid()) if owner is None else ""

        def act(transaction: Transaction) -> Ownership:
            found = transaction.fetch(_HOLDER, (run_id,))
            if not found:
                raise _not_found(run_id)
            epoch = found[0][0]
            if found[0][1] != token:
                rests = self._rests(transaction, run_id, until := min(moment, self._moment(None)))
                taking = (taker, born, token, _here(now), self._until(moment), until, rests, run_id, epoch, moment)
                if wanted not in (None, epoch) or not transaction.execute(_TAKE, taking):
                    raise _sort_held(run_id, transaction.fetch(_HOLDER, (run_id,)))
                epoch += 1
            return Ownership(run_id, taker, epoch, token, since)

        return self._database.write(act, durable=True)

    def _rests(self, transaction: Transaction, run_id: str, until: int) -> str:
        """When nobody was at a run that is taken up now."""
        ((started, ended, heard, rests, *signs),) = transaction.fetch(_LAST_SIGNS, (run_id,))
        since = ended if ended is not None else max(started, heard or 0, *(int(each or 0) for each in signs))
        return add_rest(rests, min(since, until), until)

    def heartbeat(self, ownership: Ownership, *, now: datetime | None = None) -> None:
        """Renew the lease; raises `StaleOwner` if the run has been taken over, or deleted."""
        moment = self._moment(now)
        renewal = (self._until(moment), moment, moment, ownership.run_id, ownership.epoch, ownership.token)

        def act(transaction: Transaction) -> None:
            if not transaction.execute(_RENEW, renewal):
                self._refuse_stale(transaction, ownership)

        self._database.write(act)

    def ask_end(self, run_id: str, wish: str, *, now: datetime | None = None) -> RunRecord:
        """Ask whoever holds a run to end it; gives the run as it stands, and raises `RunNotFound` if there is none."""
        wanted, text, moment = to_text(run_id), to_text(wish, MESSAGE_NBYTES), self._moment(now)

        def act(transaction: Transaction) -> RunRecord:
            found = transaction.fetch(f"{RUNS.select('run_id = ?')}{self._database.lock_clause}", (wanted,))
            if not found:
                raise _not_found(wanted)
            record = run_of(found[0], moment)
            if record.lease_until is not None:
                transaction.execute(WISHES.upsert(), (wanted, record.epoch, text))
            return record

        return self._database.write(act, durable=True)

    def find_wish(self, ownership: Ownership) -> str:
        """Why somebody wants the run to end under this ownership; nothing if nobody does."""
        rows = self._fetch(WISHES.select("run_id = ? AND epoch = ?"), (ownership.run_id, ownership.epoch))
        return str(rows[0][-1]) if rows else ""

    def _moment(self, now: datetime | None) -> int:
        """What time it is for all who share the store, by whose clock leases run; a machine's own may jump."""
        return self._database.now() if now is None else _here(now)

    def _until(self, moment: int) -> int:
        return moment + round(self.lease_s * 1e6)

    def _refuse_stale(self, transaction: Transaction, ownership: Ownership, *, lock: bool = False) -> None:
        query = f"{_HOLDER}{self._database.lock_clause}" if lock else _HOLDER
        found = transaction.fetch(query, (ownership.run_id,))
        if not found:
            raise StaleOwner(f"run {ownership.run_id} has been deleted from the run store")
        epoch, token, owner, held_since, _ = found[0]
        if (epoch, token) != (ownership.epoch, ownership.token):
            raise StaleOwner(
                f"run {ownership.run_id} was taken over by {owner} at {render_moment(held_since)}; "
                f"{ownership.owner} must not write to it any more"
            )

    # Writing ----------------------------------------------------------------------------------------------------------

    def write(self, ownership: Ownership, batch: Batch) -> None:
        """Write a batch in one transaction; raises `StaleOwner`, and writes nothing, if the run has been taken over."""
        changes = list(changes_of(ownership, batch))

        def act(transaction: Transaction) -> None:
            self._refuse_stale(transaction, ownership, lock=True)
            for statement, rows in changes:
                transaction.execute_many(statement, rows)

        self._database.write(act)

    def finish_run(
        self, ownership: Ownership, state: str, *, end: datetime | None, message: str = "", batch: Batch | None = None
    ) -> None:
        """Write the last batch and the run's state, and put the run down; raises `StaleOwner` as `write` does."""
        changes = list(changes_of(ownership, batch or Batch()))
        finish = (
            to_text(state),
            to_text(message, MESSAGE_NBYTES),
            to_microseconds(end),
            self._moment(None),
            ownership.run_id,
            ownership.epoch,
            ownership.token,
        )

        def act(transaction: Transaction) -> None:
            if not transaction.execute(_FINISH, finish):
                self._refuse_stale(transaction, ownership)
            for statement, rows in changes:
                transaction.execute_many(statement, rows)

        self._database.write(act, durable=True)

    # Reading ----------------------------------------------------------------------------------------------------------

    def get_run(self, run_id: str, *, now: datetime | None = None) -> RunRecord:
        """A run with its details, by its id, a beginning of it, or `LAST`; `RunNotFound` if none or several fit."""
        wanted, moment = to_text(run_id), self._moment(now)

        def act(transaction: Transaction) -> RunRecord:
            rows = transaction.fetch(RUNS.select("run_id = ?"), (wanted,))
            if not rows and wanted:
                beginning = RUNS.select("substr(run_id, 1, ?) = ? ORDER BY run_id LIMIT 4")
                rows = transaction.fetch(beginning, (len(wanted), wanted))
            if not rows and wanted == LAST:
                rows = transaction.fetch(RUNS.select("parent_run_id IS NULL ORDER BY started DESC, run_id LIMIT 1"), ())
            if not rows:
                raise _not_found(wanted)
            if len(rows) > 1:
                several = listed(row[0] for row in rows[:3]) + (" and more" if len(rows) > 3 else "")
                raise RunNotFound(f"several runs begin with {wanted!r}: {several}; give more of the id")
            details = transaction.fetch(DETAILS.select("run_id = ?"), (rows[0][0],))
            return run_of(rows[0], moment, details[0] if details else None)

        return self._database.read(act)

    def list_runs(self, query: RunQuery | None = None, *, now: datetime | None = None) -> list[RunRecord]:
        """Runs without their details, newest first unless the query says otherwise."""
        moment = self._moment(now)
        statement, parameters = _listing(query or RunQuery(), moment)
        rows = self._database.read(lambda transaction: transaction.fetch(statement, parameters))
        return [run_of(row, moment) for row in rows]

    def task_runs(self, run_id: str) -> list[TaskRunRow]:
        """Task runs in the order of their start; those that have not begun come last."""
        statement = TASK_RUNS.select("run_id = ? ORDER BY started IS NULL, started, slug")
        return [read_task_run(row) for row in self._fetch(statement, (run_id,))]

    def chunks(self, run_id: str, slug: str) -> list[ChunkRow]:
        """Chunks of a map by serial number: what a later one says of an element holds."""
        statement = CHUNKS.select("run_id = ? AND slug = ? ORDER BY serial")
        return [read_chunk(row) for row in self._fetch(statement, (run_id, slug))]

    def elements(self, run_id: str, slug: str | None = None) -> list[ElementRow]:
        """Elements that have a row of their own, by slug and index."""
        where, parameters = ("run_id = ?", (run_id,)) if slug is None else ("run_id = ? AND slug = ?", (run_id, slug))
        rows = self._fetch(ELEMENTS.select(f"{where} ORDER BY slug, element"), parameters)
        return [read_element(row) for row in rows]

    def logs(
        self,
        run_id: str,
        slug: str | None = None,
        *,
        index: int | None = None,
        level: int = 0,
        limit: int | None = None,
        offset: int = 0,
        after: tuple[int, int] | None = None,
    ) -> list[LogRow]:
        """Log lines of a run, a task or an element from a level on, by time.

        With `after`, the place of a line: those that came later, in the order in which they came.
        """
        conditions: list[str] = ["run_id = ?", "level >= ?"]
        parameters: list[Any] = [run_id, level]
        for column, value in (("slug", slug), ("element", index)):
            if value is not None:
                conditions.append(f"{column} = ?")
                parameters.append(value)
        order = "ORDER BY logged, epoch, serial LIMIT ? OFFSET ?"
        if after is not None:
            conditions.append("(epoch, serial) > (?, ?)")
            parameters += after
            order = "ORDER BY epoch, serial LIMIT ? OFFSET ?"
        parameters += [_ALL if limit is None else _check_number("limit", limit), _check_number("offset", offset)]
        rows = self._fetch(f"{LOGS.select(' AND '.join(conditions))} {order}", parameters)
        return [read_log(row) for row in rows]

    def artifacts(
        self,
        run_id: str,
        slug: str | None = None,
        *,
        since: datetime | None = None,
        after: ArtifactRow | None = None,
        limit: int | None = None,
    ) -> list[ArtifactRow]:
        """What the tasks of a run, or one of them, have shown, or shown since, by slug, element, attempt and number.

        With `after`, only those that come after that one.
        """
        conditions: list[str] = ["run_id = ?"]
        parameters: list[Any] = [run_id]
        for condition, value in (("slug = ?", slug), ("made >= ?", to_microseconds(since))):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        if after is not None:
            conditions.append("(slug, element, attempt, number) > (?, ?, ?, ?)")
            parameters += write_artifact(run_id, after)[1:5]
        parameters.append(_ALL if limit is None else _check_number("limit", limit))
        statement = ARTIFACTS.select(f"{' AND '.join(conditions)} ORDER BY slug, element, attempt, number LIMIT ?")
        return [read_artifact(row) for row in self._fetch(statement, parameters)]

    def artifact_sizes(self, run_id: str) -> dict[tuple[str, int | None, int, int], int]:
        """Characters of what the tasks of a run have shown, by slug, element, attempt and number."""
        statement = f"SELECT slug, element, attempt, number, length(body) FROM {ARTIFACTS.name} WHERE run_id = ?"
        found = self._fetch(statement, (run_id,))
        return {(slug, None if index < 0 else index, *rest): size for slug, index, *rest, size in found}

    def last_logs(self, run_id: str, query: LogQuery, *, limit: int) -> list[LogRow]:
        """The log lines that were written last, in the order in which they came."""
        conditions: list[str] = ["run_id = ?", "level >= ?"]
        parameters: list[Any] = [run_id, query.level]
        for condition, value in (("slug = ?", query.slug), ("element = ?", query.index)):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        if query.text:
            conditions.append("lower(line) LIKE ? ESCAPE '~'")
            parameters.append(_like(query.text))
        if query.after is not None:
            conditions.append("(epoch, serial) > (?, ?)")
            parameters += query.after
        order = "ORDER BY epoch DESC, serial DESC LIMIT ?"  # that of the key, so that no more is read
        statement = f"{LOGS.select(' AND '.join(conditions))} {order}"
        return [read_log(row) for row in self._fetch(statement, [*parameters, _check_number("limit", limit)])][::-1]

    def _fetch(self, statement: str, parameters: Row) -> list[Any]:
        return self._database.read(lambda transaction: transaction.fetch(statement, parameters))

    # Keeping house ----------------------------------------------------------------------------------------------------

    def prune(
        self, *, older_than: datetime | None = None, keep_last: int | None = None, now: datetime | None = None
    ) -> list[str]:
        """Delete runs that nobody holds or waits for; see `RunStore.prune`."""
        if older_than is None and keep_last is None:
            raise RunQueryError("prune needs older_than=, keep_last= or both: without them every run would be deleted")
        keep, moment = _check_number("keep_last", keep_last or 0), self._moment(now)
        seen = from_microseconds(moment)
        rule = Rule(count=keep) if older_than is None else Rule(age=seen - older_than, keep=keep)
        tally, removal = Tally([rule], seen), self.removal
        over = [each.run_id for page in removal.pages(now=moment) for each in page if each.is_left_by(tally)]
        pruned: list[str] = []
        for run_id in reversed(over):
            with suppress(RunHeld):  # it, or a run that is part of it, has been taken over since we looked
                pruned += removal.take(run_id, now=moment)
        removal.delete(pruned)
        while pruned and self._database.compact():
            pass
        return pruned

    def delete_run(self, run_id: str, *, now: datetime | None = None) -> None:
        """Delete a run and all about it; raises `RunNotFound`, and `RunHeld` if it goes on."""
        removal = self.removal
        gone = removal.take(run_id, now=self._moment(now))
        if not gone:
            raise _not_found(run_id)
        removal.delete(gone)

    @property
    def removal(self) -> Removal:
        """How runs leave."""
        return Removal(self._database)

    def check(self) -> list[str]:
        """What is wrong with the store, one line each; reads all of it."""
        if found := self._database.check():
            return found  # rows that can be trusted come first
        try:
            return [*self._orphans(), *self._unreadable()]
        except RunStoreDamaged as error:
            return [str(error)]

    def _orphans(self) -> Iterator[str]:
        for table in TABLES[1:]:
            lost = f"run_id NOT IN (SELECT run_id FROM {RUNS.name} UNION SELECT run_id FROM {LEAVING.name})"
            for run_id, count in self._fetch(
                f"SELECT run_id, count(*) FROM {table.name} WHERE {lost} GROUP BY run_id", ()
            ):
                yield f"{table.name}: {count:,} rows of run {run_id}, which is not in the store"

    def _unreadable(self) -> Iterator[str]:
        """Chunks whose bytes do not decode; run by run, so that a large store is not read into memory at once."""
        for (run_id,) in self._fetch(f"SELECT run_id FROM {RUNS.name} ORDER BY run_id", ()):
            for _, slug, serial, indices, codes in self._fetch(_PLACES, (run_id,)):
                try:
                    decode_codes(codes, len(decode_indices(indices)))
                except RunStoreDamaged as error:
                    yield f"run {run_id}, {slug}, chunk {serial}: {error}"


# ---------------------------------------------------------------------------------------------------------------------
# Small things

_ALL = 2**62
"""More than any number of rows, and later than any time, that a store has."""


def _here(now: datetime | None) -> int:
    """What time it is on this machine."""
    return to_microseconds(now or datetime.now(UTC))


def _check_number(name: str, value: int) -> int:
    if value < 0:
        raise RunQueryError(f"{name}: expected zero or more, found {value}")
    return value


def _not_found(run_id: str) -> RunNotFound:
    return RunNotFound(f"the run store has no run {run_id!r}")


def _sort_held(run_id: str, found: Sequence[Row]) -> RunHeld:
    if not found:
        return RunHeld(f"run {run_id} was deleted a moment ago")
    _, _, owner, held_since, _ = found[0]
    return held_by(run_id, owner, held_since)


def _listing(query: RunQuery, moment: int) -> tuple[str, list[Any]]:
    """Statement and parameters of a query."""
    conditions: list[str] = ["1 = 1"]
    parameters: list[Any] = []
    if query.flow_name is not None:
        conditions.append("flow_name = ?")
        parameters.append(to_text(query.flow_name))
    if query.part_of is not None:
        conditions.append("parent_run_id = ?")
        parameters.append(to_text(query.part_of))
    if query.since is not None:
        conditions.append("started >= ?")
        parameters.append(to_microseconds(query.since))
    if query.state == INTERRUPTED:
        conditions.append("lease_until <= ?")
        parameters.append(moment)
    elif query.state is not None:
        conditions.append("state = ? AND (lease_until IS NULL OR lease_until > ?)")
        parameters += [to_text(query.state), moment]
    if query.text is not None:
        fields = ("run_id", "flow_name", "labels", "message")
        conditions.append("(" + " OR ".join(f"lower({name}) LIKE ? ESCAPE '~'" for name in fields) + ")")
        parameters += [_like(query.text)] * len(fields)
    descending, field = query.sort.startswith("-"), query.sort.removeprefix("-")
    if field not in SORTS:
        raise RunQueryError(f"runs cannot be sorted by {query.sort!r}; possible are: {listed(SORTS)} (or with a minus)")
    direction = "DESC" if descending else "ASC"
    order = f"{_ORDER[field]} {direction}, run_id {direction}"
    if field == "end":  # databases differ in where they put NULL
        order = f"ended IS NULL, {order}"
    parameters += [_check_number("limit", query.limit), _check_number("offset", query.offset)]
    return f"{RUNS.select(' AND '.join(conditions))} ORDER BY {order} LIMIT ? OFFSET ?", parameters


_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _like(text: str) -> str:
    """Pattern of texts that have this one in them."""
    for special in "~%_":
        text = text.replace(special, f"~{special}")
    return f"%{to_text(text).translate(_ASCII_LOWER)}%"
