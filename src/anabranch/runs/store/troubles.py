"""What is amiss with runs of services, and what of it has been told: each thing once, whichever service sees it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from anabranch.runs.store.codec import from_microseconds, to_microseconds, to_text
from anabranch.runs.store.database import Database, Transaction
from anabranch.runs.store.schema import CHUNKS, LOGS, NEWS, RUNS, SLOTS, TASK_RUNS
from anabranch.runs.store.slots import Slot, slot_of

MOST = 500
"""Runs that are looked at at a time; the next look has the rest."""
_MAX_DEPTH = 20  # of runs that are part of runs
_TROUBLE = "Trouble"
_BAD = "state NOT IN ('Waiting', 'Running', 'Skipped', 'Success')"  # as the index has it
_ENDED = SLOTS.select(
    f"{_BAD} AND ended > ? AND NOT EXISTS (SELECT 1 FROM {NEWS.name} n WHERE n.subject = {SLOTS.name}.run_id "
    f"AND n.kind = 'End' AND n.at >= {SLOTS.name}.ended) ORDER BY ended LIMIT ?"
)
# Backfills wait for one another because somebody wants it so.
_SINCE = "CASE WHEN origin = 'schedule' OR ready > created THEN ready ELSE created END"
_DUE = f"FROM {SLOTS.name} WHERE state = 'Waiting' AND ready <= ? AND grp = ''"
_WAITING = f"SELECT flow_name, count(*), min({_SINCE}) {_DUE} GROUP BY flow_name ORDER BY flow_name"
_FIRST = f"SELECT run_id {_DUE} AND flow_name = ? ORDER BY {_SINCE}, run_id LIMIT 1"
_GOING_ON = SLOTS.select("state = 'Running' AND cancel = 0 AND started <= ? AND lease_until > ? ORDER BY started")
_CLAIM = f"{NEWS.insert().partition(' ON CONFLICT')[0]} ON CONFLICT (subject, kind) DO UPDATE SET at = excluded.at, "
_CLAIM += f"run_id = excluded.run_id WHERE {NEWS.name}.at < excluded.at"
_LAST_LINE = (
    f"SELECT logged FROM {LOGS.name} WHERE run_id = ? AND slug IS NOT NULL ORDER BY epoch DESC, serial DESC LIMIT 1"
)
_LAST_TASK = f"SELECT max(CASE WHEN ended > started THEN ended ELSE started END) FROM {TASK_RUNS.name} WHERE run_id = ?"
_LAST_CHUNK = f"SELECT max(started + seconds * 1000000) FROM {CHUNKS.name} WHERE run_id = ?"
_RECOVERED = (
    f"SELECT run_id FROM {RUNS.name} WHERE flow_name = ? AND state = 'Success' AND (started > ? OR run_id = ?) "
    "ORDER BY started LIMIT 1"
)


class TroubleTable:
    """What has to be told. Safe to use from several threads and processes.

    Parameters
    ----------
    database
        Where the tables are: ``store.database`` of a run store.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def ended(self, *, since: datetime) -> list[Slot]:
        """Slots that have not ended well, and of which nobody has said that they are told."""
        return [slot_of(row) for row in self._fetch(_ENDED, _micros(since), MOST)]

    def waiting(self, *, now: datetime) -> list[tuple[str, int, datetime]]:
        """Of each flow with runs that are due and have not begun, backfills aside: how many, and since when."""
        found = ((name, number, from_microseconds(at)) for name, number, at in self._fetch(_WAITING, _micros(now)))
        return [(str(name), int(number), since) for name, number, since in found if since is not None]

    def first_waiting(self, flow_name: str, *, now: datetime) -> str:
        """The run that has waited longest; empty if none waits any more."""
        found = self._fetch(_FIRST, _micros(now), flow_name)
        return str(found[0][0]) if found else ""

    def silent(self, *, now: datetime, before: datetime) -> list[tuple[Slot, datetime]]:
        """Runs of living processes that have neither ended nor said anything, and since when."""
        found = []
        for row in self._fetch(_GOING_ON, _micros(before), _micros(now)):
            slot = slot_of(row)
            sign = self.last_sign(slot.run_id)
            since = max(sign, slot.started) if sign is not None and slot.started is not None else slot.started
            if since is not None and since <= before:
                found.append((slot, since))
        return found

    def last_sign(self, run_id: str) -> datetime | None:
        """When a task of a run last began, ended or logged something, or one of a run that is part of it."""
        return from_microseconds(self._database.read(lambda transaction: _last_sign(transaction, run_id, 0)))

    def running(self, run_id: str) -> list[str]:
        """Names of tasks that are running."""
        query = f"SELECT slug FROM {TASK_RUNS.name} WHERE run_id = ? AND state = 'Running' ORDER BY started, slug"
        return [str(slug) for (slug,) in self._fetch(query, run_id)]

    # What has been told -----------------------------------------------------------------------------------------------

    def claim(self, subject: str, kind: str, at: datetime, *, run_id: str = "") -> bool:
        """Whether it is for the caller to tell: nobody has told of this kind of news, of this moment or a later one."""
        row = (to_text(subject), kind, _micros(at), run_id)
        return bool(self._database.write(lambda transaction: transaction.execute(_CLAIM, row)))

    def note_trouble(self, flow_name: str, run_id: str, at: datetime) -> None:
        """Note that people were told of a flow that it does not do well."""
        self.claim(flow_name, _TROUBLE, at, run_id=run_id)

    def take_recovered(self) -> list[tuple[str, str]]:
        """Flows that have done well since, and the run that did; each once."""

        def act(transaction: Transaction) -> list[tuple[str, str]]:
            found = []
            for name, at, run_id in transaction.fetch(
                f"SELECT subject, at, run_id FROM {NEWS.name} WHERE kind = '{_TROUBLE}'"
            ):
                runs = transaction.fetch(_RECOVERED, (name, at, run_id))
                taken = f"DELETE FROM {NEWS.name} WHERE subject = ? AND kind = '{_TROUBLE}' AND at = ?"
                if runs and transaction.execute(taken, (name, at)):
                    found.append((str(name), str(runs[0][0])))
            return found

        has_any = f"SELECT 1 FROM {NEWS.name} WHERE kind = '{_TROUBLE}' LIMIT 1"
        return self._database.write(act) if self._fetch(has_any) else []

    def forget(self, *, before: datetime) -> None:
        """Forget what was told so long ago, but not which flows do not do well."""
        statement = f"DELETE FROM {NEWS.name} WHERE at < ? AND kind <> '{_TROUBLE}'"
        self._database.write(lambda transaction: transaction.execute(statement, (_micros(before),)))

    def _fetch(self, query: str, *parameters: Any) -> list[Any]:
        return self._database.read(lambda transaction: transaction.fetch(query, parameters))


def _micros(moment: datetime) -> int:
    return to_microseconds(moment) or 0


def _last_sign(transaction: Transaction, run_id: str, depth: int) -> int | None:
    signs = [transaction.fetch(query, (run_id,)) for query in (_LAST_LINE, _LAST_TASK, _LAST_CHUNK)]
    found = [int(rows[0][0]) for rows in signs if rows and rows[0][0] is not None]
    parts = transaction.fetch(f"SELECT run_id FROM {RUNS.name} WHERE parent_run_id = ?", (run_id,))
    for (part,) in parts if depth < _MAX_DEPTH else ():
        sign = _last_sign(transaction, part, depth + 1)
        found += [sign] if sign is not None else []
    return max(found, default=None)
