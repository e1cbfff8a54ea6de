"""The registry of flows in the run store's database: flows by name, with their versions and schedules.

Graphs and schemas are JSON, code is pickled, schedules are one or the other: nothing here loads them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from anabranch.base.errors import FlowNotRegistered, listed, nearest
from anabranch.runs.store.codec import from_microseconds, read_json, to_microseconds, to_text
from anabranch.runs.store.database import Database, Transaction
from anabranch.runs.store.schema import FLOWS, SLOTS
from anabranch.runs.store.slots import Slot, slot_row

_log = logging.getLogger("anabranch.registry")

_MANY = 500  # parameters of a statement that every database takes


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """A registered flow. `version`, `changed` and `scheduled_until` are the registry's."""

    name: str
    fingerprint: str
    """Of its code and graph: the version changes when this does."""
    source: str = ""
    """``file:name`` or ``module:name``; empty if its code is stored."""
    project: str = ""
    code: bytes | None = field(default=None, repr=False)
    """The pickled flow, where it is kept in the database; of one with a file as its source, that as it was."""
    storage: str | None = None
    """Where the pickled flow is, if it is kept elsewhere."""
    graph: Mapping[str, Any] = field(default_factory=dict, repr=False)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """JSON schema of the parameters."""
    schedule: bytes | None = field(default=None, repr=False)
    """The schedule, as `anabranch.runs.registry.seal` packs it."""
    schedule_text: str = ""
    overlap: str = "allow"
    catch_up: str = "all"
    max_runs: int | None = None
    labels: tuple[str, ...] = ()
    paused: bool = False
    version: int = 0
    changed: datetime | None = None
    scheduled_until: datetime | None = None
    """Up to here all times of the schedule have been dealt with."""
    timeout_s: float | None = None
    """Seconds that a run may take."""
    notifiers: bytes | None = field(default=None, repr=False)
    """Pickled: whom services tell of runs that cannot tell themselves."""
    seal: str = field(default="", repr=False)
    """Proof that who registered its code had the key; empty if there was none."""
    damage: str = ""
    """What of its row cannot be read; such a flow does not run."""

    @property
    def schedule_words(self) -> str:
        """`schedule_text` without the mark by which changes are told."""
        return re.sub(r" \[[0-9a-f]{8}\]$", "", self.schedule_text)

    def secrets_among(self, names: Iterable[str]) -> list[str]:
        """Which of these parameters are secret: their values must not wait in the database."""
        known = self.parameters.get("properties", {})
        return [name for name in names if known.get(name, {}).get("writeOnly")]


_LIGHT = tuple(column for column in FLOWS.columns if column not in ("code", "graph"))
_PLAN = f"SELECT flow_name, scheduled_until FROM {FLOWS.name} WHERE paused = 0 AND flow_name IN "
_ADVANCE = f"UPDATE {FLOWS.name} SET scheduled_until = ? WHERE flow_name = ? AND scheduled_until < ?"
_REVISION = f"SELECT count(*), coalesce(max(changed), 0) FROM {FLOWS.name}"


class FlowTable:
    """Registered flows. Safe to use from several threads and processes.

    Parameters
    ----------
    database
        Where the tables are: ``store.database`` of a run store.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, record: FlowRecord, *, now: datetime) -> FlowRecord:
        """Register a flow, or replace the one of its name; gives what is registered now.

        The version goes up if the fingerprint is another one. Times of the schedule count from now on, unless the
        flow had this very schedule before.
        """
        moment = to_microseconds(now)
        given_up: list[datetime] = []

        def act(transaction: Transaction) -> FlowRecord:
            given_up.clear()
            lock = self._database.lock_clause
            found = transaction.fetch(f"{FLOWS.select('flow_name = ?')}{lock}", (record.name,))
            before = _read_record(found[0]) if found else None
            version, since, paused = 1, now, record.paused
            if before is not None:
                version = before.version + (before.fingerprint != record.fingerprint)
                paused = record.paused or before.paused
                if before.schedule_text == record.schedule_text and record.schedule is not None:
                    since = before.scheduled_until or now
                elif before.schedule is not None and record.schedule is not None and before.scheduled_until:
                    given_up.append(before.scheduled_until)
            new = replace(record, version=version, paused=paused, scheduled_until=since)
            changed = max(moment, to_microseconds(before.changed) + 1 if before and before.changed else 0)
            new = replace(new, changed=from_microseconds(changed))
            transaction.execute(FLOWS.upsert(), _flow_row(new))
            return new

        new = self._database.write(act, durable=True)
        if given_up and given_up[0] < now:
            _log.warning(
                "flow %r has another schedule than before: what was due since %s and missed is given up",
                record.name,
                f"{given_up[0]:%Y-%m-%d %H:%M:%S %Z}",
            )
        return new

    def get(self, name: str) -> FlowRecord:
        """A flow with its code and graph.

        Raises
        ------
        FlowNotRegistered
            There is none of this name.
        """

        def act(transaction: Transaction) -> FlowRecord:
            found = transaction.fetch(FLOWS.select("flow_name = ?"), (to_text(name),))
            if not found:
                raise _not_registered(name, transaction)
            return _read_record(found[0])

        return self._database.read(act)

    def all(self, *, project: str | None = None, changed_after: int = -1) -> list[FlowRecord]:
        """Flows by name, without their code and graph."""
        where, parameters = "changed > ?", [changed_after]
        if project is not None:
            where, parameters = f"{where} AND project = ?", [*parameters, project]  # type: ignore[list-item]
        query = f"SELECT {', '.join(_LIGHT)} FROM {FLOWS.name} WHERE {where} ORDER BY flow_name"
        rows = self._database.read(lambda transaction: transaction.fetch(query, parameters))
        return [_light(row) for row in rows]

    def names(self) -> set[str]:
        """Names of all flows."""
        query = f"SELECT flow_name FROM {FLOWS.name}"
        return {row[0] for row in self._database.read(lambda transaction: transaction.fetch(query))}

    def revision(self) -> tuple[int, int]:
        """Number of flows and time of the last change: another pair than before says that something has changed."""
        (row,) = self._database.read(lambda transaction: transaction.fetch(_REVISION))
        return int(row[0]), int(row[1])

    def pause(self, name: str, paused: bool, *, now: datetime) -> None:
        """Let a flow's schedule rest, or go on from now.

        Raises
        ------
        FlowNotRegistered
            There is none of this name.
        """
        moment = to_microseconds(now)
        statement = (
            f"UPDATE {FLOWS.name} SET paused = ?, changed = CASE WHEN changed < ? THEN ? ELSE changed + 1 END, "
            "scheduled_until = CASE WHEN scheduled_until < ? THEN ? ELSE scheduled_until END WHERE flow_name = ?"
        )

        def act(transaction: Transaction) -> None:
            parameters = (int(paused), moment, moment, moment, moment, to_text(name))
            if not transaction.execute(statement, parameters):
                raise _not_registered(name, transaction)

        self._database.write(act)

    def remove(self, name: str) -> None:
        """Forget a flow, and what waits to run of it; its runs stay.

        Raises
        ------
        FlowNotRegistered
            There is none of this name.
        """

        def act(transaction: Transaction) -> None:
            if not transaction.execute(f"DELETE FROM {FLOWS.name} WHERE flow_name = ?", (to_text(name),)):
                raise _not_registered(name, transaction)
            transaction.execute(f"DELETE FROM {SLOTS.name} WHERE flow_name = ? AND state = 'Waiting'", (name,))

        self._database.write(act)

    def plan(
        self,
        names: Collection[str],
        due: Callable[[str, datetime], Iterable[Slot] | None],
        *,
        now: datetime,
    ) -> tuple[set[str], list[Slot]]:
        """Make slots of what is due, each once whoever else does the same at this moment.

        Parameters
        ----------
        names
            Flows to look at. Those at which somebody else is looking are left out.
        due
            What is due of a flow after a time, up to `now`; None if that cannot be told now.
        now
            When it is.

        Returns
        -------
        tuple
            Names of the flows that were looked at, and their slots.
        """
        done: set[str] = set()
        slots: list[Slot] = []
        ordered = sorted(names)
        for begin in range(0, len(ordered), _MANY):
            looked_at, found = self._plan(ordered[begin : begin + _MANY], due, now)
            done |= looked_at
            slots += found
        return done, slots

    def _plan(
        self, names: Sequence[str], due: Callable[[str, datetime], Iterable[Slot] | None], now: datetime
    ) -> tuple[set[str], list[Slot]]:
        moment = to_microseconds(now)
        locked = f"{self._database.lock_clause}{self._database.skip_clause}"
        query = f"{_PLAN}({', '.join('?' * len(names))}) ORDER BY flow_name{locked}"

        def act(transaction: Transaction) -> tuple[set[str], list[Slot]]:
            found = [(name, until) for name, until in transaction.fetch(query, names)]
            told = {name: due(name, from_microseconds(until)) for name, until in found}
            slots = [slot for of_flow in told.values() for slot in of_flow or ()]
            if slots:
                transaction.execute_many(SLOTS.insert(), [slot_row(slot, now=moment) for slot in slots])
            known = [(name, until) for name, until in found if told[name] is not None]
            if advanced := [(moment, name, moment) for name, until in known if until < moment]:
                transaction.execute_many(_ADVANCE, advanced)
            return {name for name, _ in found}, slots

        return self._database.write(act)


def _not_registered(name: str, transaction: Transaction) -> FlowNotRegistered:
    known = [row[0] for row in transaction.fetch(f"SELECT flow_name FROM {FLOWS.name} ORDER BY flow_name LIMIT 1000")]
    has = f"it has: {listed(known[:20])}" if known else "it has none; `anabranch register FILE` adds them"
    return FlowNotRegistered(f"the registry has no flow {name!r}{nearest(name, known)}; {has}")


def _flow_row(record: FlowRecord) -> tuple[Any, ...]:
    return (
        to_text(record.name),
        to_text(record.project),
        record.version,
        record.fingerprint,
        to_text(record.source),
        record.code,
        record.storage,
        json.dumps(record.graph),
        to_text(json.dumps(record.parameters)),
        record.schedule,
        to_text(record.schedule_text),
        record.overlap,
        record.max_runs,
        to_text(json.dumps(list(record.labels))),
        int(record.paused),
        to_microseconds(record.changed),
        to_microseconds(record.scheduled_until),
        record.seal,
        record.catch_up,
        record.notifiers,
        record.timeout_s,
    )


def _read_record(row: Sequence[Any]) -> FlowRecord:
    values = dict(zip(FLOWS.columns, row, strict=True))
    light = _light([values[column] for column in _LIGHT])
    return replace(light, code=values["code"], graph=read_json(values["graph"], dict) or {})


def _light(row: Sequence[Any]) -> FlowRecord:
    values = dict(zip(_LIGHT, row, strict=True))
    parameters, labels = read_json(values["parameters"], dict), read_json(values["labels"], list)
    lost = {"parameters": parameters, "labels": labels}
    return FlowRecord(
        name=values["flow_name"],
        fingerprint=values["fingerprint"],
        source=values["source"],
        project=values["project"],
        storage=values["storage"],
        parameters={"properties": {}, "required": []} if parameters is None else parameters,
        schedule=values["schedule"],
        schedule_text=values["schedule_text"],
        overlap=values["overlap"],
        max_runs=values["max_runs"],
        labels=tuple(labels or ()),
        paused=bool(values["paused"]),
        version=values["version"],
        changed=from_microseconds(values["changed"]),
        scheduled_until=from_microseconds(values["scheduled_until"]),
        seal=values["seal"],
        catch_up=values["catch_up"],
        notifiers=values["notifiers"],
        timeout_s=values["timeout_s"],
        damage=", ".join(name for name, value in lost.items() if value is None),
    )
