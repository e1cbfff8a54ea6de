"""Who runs what is due: slots are claimed once, given back by those who stop, and taken from those who died.

A claim is guarded by its token. A slot and its run have leases, which the service renews for processes that it knows to
live, and a run its own: what is over may be taken up by another service, unless its process is seen to live. A wish to
cancel stays with a slot, whoever has it: nothing of it begins or goes on again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, Literal

from anabranch.base.errors import RunNotFound, StaleOwner
from anabranch.runs.store.codec import MESSAGE_NBYTES, from_microseconds, to_microseconds, to_text
from anabranch.runs.store.database import Database, Transaction
from anabranch.runs.store.owners import name_process
from anabranch.runs.store.schema import FLOWS, RUNS, SLOTS
from anabranch.runs.store.slots import RUNNING, SKIPPED, WAITING, Slot, slot_of, slot_row
from anabranch.schedules.catch_up import GRACE_S

MAX_TRIES = 5
"""Claims of a slot. One whose process dies this often is what kills it, and is given up."""
_ROUNDS = 20  # of looking past flows that may not run now; the next look is soon

_READY = "state = 'Waiting' AND ready <= ?"
_POLICIES = f"SELECT flow_name, max_runs, overlap, catch_up, timeout_s FROM {FLOWS.name} WHERE flow_name IN "
# A run that has begun and waits, for a retry or for another process, holds no process but its place in its flow.
# The states are named first, for the index: without them, all slots of the flow that have ended would be looked at.
_GOES_ON = "state IN ('Running', 'Waiting') AND (state = 'Running' OR started IS NOT NULL OR run_epoch > 0)"
_COUNT = f"SELECT flow_name, grp, count(*) FROM {SLOTS.name} WHERE {_GOES_ON} AND flow_name IN "
_CLAIM = (
    f"UPDATE {SLOTS.name} SET state = 'Running', owner = ?, token = ?, lease_until = ?, tries = tries + 1, "
    "started = NULL, message = '', run_epoch = coalesce((SELECT epoch FROM anabranch_runs r "
    "WHERE r.run_id = anabranch_slots.run_id), 0) WHERE run_id = ?"
)
_CLOSE = f"UPDATE {SLOTS.name} SET state = ?, message = ?, ended = ?, lease_until = NULL WHERE run_id = ?"
_FINISH = f"{_CLOSE} AND token = ? AND state = 'Running'"
_RELEASE = (
    f"UPDATE {SLOTS.name} SET state = CASE WHEN cancel = 1 THEN 'Cancelled' ELSE 'Waiting' END, "
    "ended = CASE WHEN cancel = 1 THEN ? END, ready = CASE WHEN ready < ? THEN ? ELSE ready END, "
    "spent = spent + CASE WHEN started < ? THEN ? - started ELSE 0 END, "
    "message = CASE WHEN cancel = 1 THEN 'cancelled' ELSE ? END, lease_until = NULL, tries = tries - ? "
    "WHERE run_id = ? AND token = ? AND state = 'Running'"
)
_WITH_RUNS = (
    f"SELECT {', '.join(f's.{column}' for column in SLOTS.columns)}, r.epoch, r.state, r.lease_until "
    f"FROM {SLOTS.name} s LEFT JOIN {RUNS.name} r ON r.run_id = s.run_id WHERE s.state = 'Running'"
)
_EXPIRED = f"{_WITH_RUNS} AND s.lease_until <= ? ORDER BY s.lease_until LIMIT ?"
_OWN = f"{_WITH_RUNS} AND s.run_id = ? AND s.token = ?"
_BEGIN = (
    f"UPDATE {SLOTS.name} SET lease_until = ?, started = coalesce(started, ?), owner = ? "
    "WHERE run_id = ? AND token = ? AND state = 'Running'"
)
_RENEW = f"UPDATE {SLOTS.name} SET lease_until = ? WHERE run_id = ? AND token = ? AND state = 'Running'"
# Of the run as the slot's process has it: whoever took it from that process renews it for himself.
_RENEW_RUN = (
    f"UPDATE {RUNS.name} SET lease_until = ? WHERE run_id = ? AND lease_until < ? AND epoch = (SELECT run_epoch + 1 "
    f"FROM {SLOTS.name} s WHERE s.run_id = {RUNS.name}.run_id AND s.token = ? AND s.state = 'Running')"
)
# What ends with its slot: the run waited, or was its process's; whoever else holds it ends it himself.
_END_RUN = (
    f"UPDATE {RUNS.name} SET (state, message) = (SELECT s.state, s.message FROM {SLOTS.name} s "
    f"WHERE s.run_id = {RUNS.name}.run_id), ended = ?, lease_until = NULL, epoch = epoch + 1, token = '' "
    "WHERE run_id = ? AND (lease_until <= ? OR (lease_until IS NOT NULL AND epoch = ?) "
    "OR (lease_until IS NULL AND state = 'Paused')) AND EXISTS (SELECT 1 "
    f"FROM {SLOTS.name} s WHERE s.run_id = {RUNS.name}.run_id AND "
    "s.state IN ('Cancelled', 'Crashed', 'Failed', 'TimedOut'))"
)
_LAPSE = f"UPDATE {RUNS.name} SET lease_until = ? WHERE run_id = ? AND epoch = ? AND lease_until > ?"
_CANCELLED = f"SELECT run_id, token FROM {SLOTS.name} WHERE state = 'Running' AND cancel = 1"
_BEGUN = (
    f"SELECT {', '.join(f's.{column}' for column in SLOTS.columns)}, r.state, r.message, r.lease_until, f.changed "
    f"FROM {SLOTS.name} s LEFT JOIN {RUNS.name} r ON r.run_id = s.run_id "
    f"LEFT JOIN {FLOWS.name} f ON f.flow_name = s.flow_name WHERE s.run_id = ?"
)
# A schedule's time is when it should have run; what was asked for otherwise may be for a date that is long past.
_WAITING = (
    "SELECT flow_name, count(*), min(CASE WHEN origin = 'schedule' OR ready > created THEN ready ELSE created END) "
    f"FROM {SLOTS.name} WHERE state = 'Waiting' AND ready <= ? GROUP BY flow_name"
)
_CANCEL_OTHERS = (
    f"UPDATE {SLOTS.name} SET cancel = 1, message = 'a later time', "
    "ready = CASE WHEN state = 'Waiting' AND ready > ? THEN ? ELSE ready END "
    f"WHERE flow_name = ? AND {_GOES_ON} AND origin = 'schedule'"
)


@dataclass(frozen=True, slots=True)
class _Policy:
    """What holds for the runs of a flow together."""

    max_runs: int | None
    overlap: str
    catch_up: str
    timeout_s: float | None = None

    @property
    def most(self) -> int | None:
        """How many runs may go on at a time, for slots of the schedule."""
        return self.max_runs if self.overlap == "allow" else 1

    @property
    def leaves_out(self) -> bool:
        """Whether times that begin too late may be left out: who lets them queue wants each."""
        return self.catch_up != "all" and self.overlap != "queue"


@dataclass(frozen=True, slots=True)
class Begun:
    """A slot whose run is about to begin, or to go on."""

    slot: Slot
    run_state: str | None
    """As an earlier process has left it; None if there was none."""
    run_message: str
    run_lease: datetime | None
    """Until when somebody holds the run, as far as is known."""
    flow_changed: datetime | None
    """When its flow was changed in the registry; None if it is not there."""


class SlotQueue:
    """Runs that are to take place. Safe to use from several threads and processes.

    Parameters
    ----------
    database
        Where the tables are: ``store.database`` of a run store.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._locked = f"{database.lock_clause}{database.skip_clause}"

    # Asking for runs --------------------------------------------------------------------------------------------------

    def add(self, slots: Sequence[Slot], *, now: datetime) -> list[str]:
        """Let slots wait; gives the ids of those that were not there before."""
        moment = to_microseconds(now)
        assert moment is not None

        def act(transaction: Transaction) -> list[str]:
            added = [slot.run_id for slot in slots if transaction.execute(SLOTS.insert(), slot_row(slot, now=moment))]
            if added:
                self._announce(transaction)
            return added

        return self._database.write(act, durable=True)

    def again(self, slot: Slot, *, now: datetime) -> bool:
        """Let a slot wait that is over, or was never there: its run is to go on. False if it waits or runs already."""
        moment = to_microseconds(now)
        assert moment is not None

        def act(transaction: Transaction) -> bool:
            query = f"{SLOTS.select('run_id = ?')}{self._database.lock_clause}"
            found = transaction.fetch(query, (slot.run_id,))
            if found and slot_of(found[0]).state in (WAITING, RUNNING):
                return False
            transaction.execute(SLOTS.upsert(), slot_row(slot, now=moment))
            self._announce(transaction)
            return True

        return self._database.write(act, durable=True)

    def cancel(self, run_id: str, *, by: str = "", now: datetime) -> Slot:
        """Let a slot not run, or ask whoever runs it to end; gives it as it was before.

        Parameters
        ----------
        by
            Who wants it, for the message.

        Raises
        ------
        RunNotFound
            There is no such slot.
        """
        moment = to_microseconds(now)

        def act(transaction: Transaction) -> Slot:
            found = transaction.fetch(f"{SLOTS.select('run_id = ?')}{self._database.lock_clause}", (run_id,))
            if not found:
                raise RunNotFound(f"no run {run_id!r} waits or runs here")
            slot = slot_of(found[0])
            _cancel(transaction, slot, moment, by)
            return slot

        return self._database.write(act)

    def cancel_group(self, group: str, *, by: str = "", now: datetime) -> list[Slot]:
        """Do that with all slots of a group that wait or run, at once; gives these as they were before."""
        moment = to_microseconds(now)
        query = SLOTS.select("grp = ? AND state IN ('Waiting', 'Running') ORDER BY due, run_id")

        def act(transaction: Transaction) -> list[Slot]:
            found = [slot_of(row) for row in transaction.fetch(f"{query}{self._database.lock_clause}", (group,))]
            for slot in found:
                _cancel(transaction, slot, moment, by)
            return found

        return self._database.write(act) if group else []

    def _announce(self, transaction: Transaction) -> None:
        """Let services know at once."""
        if self._database.announcement:
            transaction.execute(self._database.announcement)

    # Claiming ---------------------------------------------------------------------------------------------------------

    def claim(self, owner: str, most: int, *, now: datetime, lease_s: float) -> list[Slot]:
        """Take slots that are due and may run, oldest first; nobody else gets them."""
        if most < 1:
            return []
        moment, until = to_microseconds(now), to_microseconds(now + timedelta(seconds=lease_s))
        assert moment is not None
        owner = to_text(owner)

        def act(transaction: Transaction) -> list[Slot]:
            taken = self._ready(transaction, most, moment)
            claimed = [
                replace(slot, state=RUNNING, owner=owner, token=token_hex(12), tries=slot.tries + 1, started=None)
                for slot in taken
            ]
            rows = [(owner, slot.token, until, slot.run_id) for slot in claimed]
            if rows:
                transaction.execute_many(_CLAIM, rows)
            return claimed

        return self._database.write(act, durable=True)

    def _ready(self, transaction: Transaction, most: int, moment: int) -> list[Slot]:
        """Slots that may be claimed now; those that the overlap policy leaves out are closed on the way."""
        taken: list[Slot] = []
        passed: list[Slot] = []
        """Looked at, whatever comes of the others of their flows: what is taken, and what has begun and has to wait."""
        blocked: set[tuple[str, str]] = set()
        running: Counter[tuple[str, str]] = Counter()
        known: dict[str, _Policy | None] = {}
        for _ in range(_ROUNDS):
            candidates = self._candidates(transaction, most - len(taken), moment, blocked, passed)
            if not candidates:
                break
            self._learn(transaction, {slot.flow_name for slot in candidates} - set(known), known, running)
            before = len(blocked)
            for slot in candidates:
                place, has_begun = (slot.flow_name, slot.group), _has_begun(slot)
                if place in blocked and not has_begun:
                    continue
                policy = known.get(slot.flow_name)  # None: somebody else decides about this flow at this moment
                verdict = self._verdict(transaction, slot, policy, running, moment) if policy is not None else "wait"
                if verdict == "run":
                    taken.append(replace(slot, timeout_s=policy.timeout_s if policy is not None else None))
                    running[place] += not has_begun
                elif verdict == "wait" and not has_begun:
                    blocked.add(place)
                if has_begun or verdict == "run":
                    passed.append(slot)
            if len(taken) >= most or (len(blocked) == before and len(candidates) < most - len(taken)):
                break
        return taken

    def _candidates(
        self,
        transaction: Transaction,
        most: int,
        moment: int | None,
        blocked: Collection[tuple[str, str]],
        passed: Sequence[Slot],
    ) -> list[Slot]:
        conditions, parameters = [_READY], [moment]
        for name, group in blocked:
            conditions.append("NOT (flow_name = ? AND grp = ? AND started IS NULL AND run_epoch = 0)")
            parameters += [name, group]  # type: ignore[list-item]
        if passed:
            conditions.append(f"run_id NOT IN ({', '.join('?' * len(passed))})")
            parameters += [slot.run_id for slot in passed]  # type: ignore[misc]
        query = SLOTS.select(f"{' AND '.join(conditions)} ORDER BY ready, run_id LIMIT ?")
        return [slot_of(row) for row in transaction.fetch(f"{query}{self._locked}", [*parameters, most])]

    def _learn(
        self,
        transaction: Transaction,
        names: Collection[str],
        known: dict[str, _Policy | None],
        running: Counter[tuple[str, str]],
    ) -> None:
        """What holds for flows, and how many runs of each go on; of those that bind several services, under a lock."""
        if not names:
            return
        ordered = sorted(names)
        marks = f"({', '.join('?' * len(ordered))})"
        policies = {name: _Policy(*policy) for name, *policy in transaction.fetch(_POLICIES + marks, ordered)}
        for name in ordered:
            known[name] = policies.get(name, _Policy(None, "allow", "all"))  # one that was removed: its run says so
        grouped = f"SELECT DISTINCT flow_name FROM {SLOTS.name} WHERE state = 'Waiting' AND grp <> '' AND flow_name IN "
        bound = {name for name, policy in policies.items() if policy.most is not None}
        bound |= {row[0] for row in transaction.fetch(grouped + marks, ordered)} & set(policies)
        if not bound:
            return
        wanted = sorted(bound)
        marks = f"({', '.join('?' * len(wanted))})"
        held = {row[0] for row in transaction.fetch(f"{_POLICIES}{marks} ORDER BY flow_name{self._locked}", wanted)}
        for name in bound - held:
            known[name] = None
        for name, group, number in transaction.fetch(f"{_COUNT}{marks} GROUP BY flow_name, grp", wanted):
            running[name, group] = number

    def _verdict(
        self,
        transaction: Transaction,
        slot: Slot,
        policy: _Policy,
        running: Mapping[tuple[str, str], int],
        moment: int,
    ) -> Literal["run", "wait", "closed"]:
        """Whether a slot may run now; one that never will is closed."""
        has_begun = _has_begun(slot)
        if slot.cancel:  # while it waited: its process ends it
            return "run"
        if slot.group_most is not None and running[slot.flow_name, slot.group] - has_begun >= slot.group_most:
            return "wait"
        others = sum(number for (name, _), number in running.items() if name == slot.flow_name) - has_begun
        most = policy.most if slot.origin == "schedule" else policy.max_runs
        if policy.overlap == "cancel_previous" and slot.origin == "schedule" and not has_begun:
            if _has_newer(transaction, slot, moment):
                transaction.execute(_CLOSE, (SKIPPED, "a later time came before it could begin", moment, slot.run_id))
                return "closed"
            if others:
                transaction.execute(_CANCEL_OTHERS, (moment, moment, slot.flow_name))
        if most is None or others < most:
            if policy.leaves_out and _is_late(slot, moment):
                if policy.catch_up == "skip" or _has_newer(transaction, slot, moment):
                    text = "it could not begin within a minute of its time"
                    transaction.execute(_CLOSE, (SKIPPED, text, moment, slot.run_id))
                    return "closed"
            return "run"
        if policy.overlap == "skip" and slot.origin == "schedule" and not has_begun:
            transaction.execute(_CLOSE, (SKIPPED, "an earlier run of the flow went on", moment, slot.run_id))
            return "closed"
        return "wait"

    def renew(self, slots: Iterable[Slot], *, now: datetime, lease_s: float) -> None:
        """Renew the leases of claimed slots and of their runs, for processes that are known to live."""
        until = to_microseconds(now + timedelta(seconds=lease_s))
        found = sorted((slot.run_id, slot.token) for slot in slots)
        if found:
            self._database.write(lambda transaction: _renew(transaction, found, until))

    def cancelled(self) -> list[tuple[str, str]]:
        """Runs that go on and are to end: ids, and tokens of their claims."""
        rows: list[Any] = self._database.read(lambda transaction: transaction.fetch(_CANCELLED))
        return [(str(run_id), str(token)) for run_id, token in rows]

    def recover(
        self, *, now: datetime, lease_s: float, lives: Callable[[str], bool] = lambda owner: False, most: int = 100
    ) -> list[Slot]:
        """Look after slots whose claims ran out: those whose runs live go on, those that ended are closed.

        Parameters
        ----------
        lives
            Whether a process, by its name, is seen to live: then its lease is renewed, however late that is.

        Returns
        -------
        list of Slot
            Those that have ended with their processes: given up, because each process that ran them has died, or
            cancelled before. All others of dead processes wait.
        """
        moment, until = to_microseconds(now), to_microseconds(now + timedelta(seconds=lease_s))
        assert moment is not None
        lock = f"{self._database.lock_clause} OF s{self._database.skip_clause}" if self._database.lock_clause else ""

        def act(transaction: Transaction) -> list[Slot]:
            ended = []
            for row in transaction.fetch(f"{_EXPIRED}{lock}", (moment, most)):
                slot = slot_of(row[:-3])
                if slot.started is not None and lives(slot.owner):
                    _renew(transaction, [(slot.run_id, slot.token)], until)
                elif (found := _settle_dead(transaction, row, moment, is_dead=False)) is not None:
                    ended.append(found)
            return ended

        return self._database.write(act)

    def bury(self, slot: Slot, why: str, *, now: datetime, is_try: bool = True) -> Slot | None:
        """The process that ran a slot is known to be dead: as `recover`, at once; gives the slot if it has ended so.

        Parameters
        ----------
        is_try
            Whether the death counts among those after which the run is given up.
        """
        moment = to_microseconds(now)
        assert moment is not None

        def act(transaction: Transaction) -> Slot | None:
            found = transaction.fetch(_OWN, (slot.run_id, slot.token))
            if not found:
                return None
            return _settle_dead(transaction, found[0], moment, is_dead=True, why=why, is_try=is_try)

        return self._database.write(act)

    # Running ----------------------------------------------------------------------------------------------------------

    def begin(self, run_id: str, token: str, *, now: datetime, lease_s: float) -> Begun:
        """Renew a claim before its run begins in this process, and give what is known of it, all in one transaction.

        Raises
        ------
        StaleOwner
            The claim ran out, and somebody else has the slot.
        """
        until = to_microseconds(now + timedelta(seconds=lease_s))
        renewal = (until, to_microseconds(now), to_text(name_process()), run_id, token)

        def act(transaction: Transaction) -> Begun:
            if not transaction.execute(_BEGIN, renewal):
                raise StaleOwner(f"run {run_id} was claimed anew, and is somebody else's")
            (row,) = transaction.fetch(_BEGUN, (run_id,))
            *own, state, message, lease, changed = row
            return Begun(slot_of(own), state, message or "", from_microseconds(lease), from_microseconds(changed))

        return self._database.write(act)

    def is_cancelled(self, slot: Slot) -> bool:
        """Whether somebody wants the slot's run to end.

        Raises
        ------
        StaleOwner
            Another process has it.
        """
        query = f"SELECT cancel, token FROM {SLOTS.name} WHERE run_id = ?"
        found = self._database.read(lambda transaction: transaction.fetch(query, (slot.run_id,)))
        if found and found[0][1] != slot.token:
            raise StaleOwner(f"run {slot.run_id} was claimed anew, and is somebody else's")
        return not found or bool(found[0][0])

    def finish(self, slot: Slot, state: str, message: str = "", *, now: datetime) -> bool:
        """Say how a slot's run ended; False if the slot is somebody else's."""
        moment = to_microseconds(now)
        parameters = (state, to_text(message, MESSAGE_NBYTES), moment, slot.run_id, slot.token)

        def act(transaction: Transaction) -> bool:
            is_ours = bool(transaction.execute(_FINISH, parameters))
            if is_ours and state != "Success":
                _end_runs(transaction, [slot], moment, are_over=True)
            return is_ours

        return self._database.write(act, durable=True)

    def release(
        self, slot: Slot, message: str = "", *, now: datetime, not_before: datetime | None = None, is_try: bool = True
    ) -> bool:
        """Let a slot wait again, for anybody, or end if it was cancelled; False if it is somebody else's."""
        moment, ready = to_microseconds(now), to_microseconds(not_before or now)
        text = to_text(message, MESSAGE_NBYTES)
        parameters = (moment, ready, ready, ready, ready, text, int(not is_try), slot.run_id, slot.token)

        def act(transaction: Transaction) -> bool:
            is_ours = bool(transaction.execute(_RELEASE, parameters))
            if is_ours:
                _end_runs(transaction, [slot], moment)
            return is_ours

        return self._database.write(act)

    def leave(self, slot: Slot, *, now: datetime) -> bool:
        """Leave a run to others who have taken it over, if there are any; False if not.

        Its slot ends as the run has, or waits until they have let go of the run, or have died with it.
        """
        moment = to_microseconds(now)
        query = f"SELECT epoch, state, message, lease_until FROM {RUNS.name} WHERE run_id = ?"

        def act(transaction: Transaction) -> bool:
            found = transaction.fetch(query, (slot.run_id,))
            if not found or found[0][0] <= slot.run_epoch + 1:
                return False
            _, state, message, lease = found[0]
            if lease is None and state != "Paused":
                transaction.execute(_FINISH, (state, message, moment, slot.run_id, slot.token))
            else:
                ready = max(filter(None, (moment, lease)))
                text = "others have taken the run over"
                parameters = (moment, ready, ready, moment, moment, text, 1, slot.run_id, slot.token)
                transaction.execute(_RELEASE, parameters)
                _end_runs(transaction, [slot], moment)
            return True

        return self._database.write(act, durable=True)

    def give_back(self, slots: Sequence[Slot], *, now: datetime) -> None:
        """Let claimed slots wait again that no process has begun: for anybody, and without counting it as a try."""
        moment = to_microseconds(now)
        rows = [(moment, moment, moment, moment, moment, "", 1, slot.run_id, slot.token) for slot in slots]

        def act(transaction: Transaction) -> None:
            transaction.execute_many(_RELEASE, rows)
            _end_runs(transaction, slots, moment)

        if rows:
            self._database.write(act)

    # Looking ----------------------------------------------------------------------------------------------------------

    def get(self, run_id: str) -> Slot | None:
        """A slot, if there is one of this id."""
        found = self._database.read(lambda transaction: transaction.fetch(SLOTS.select("run_id = ?"), (run_id,)))
        return slot_of(found[0]) if found else None

    def all(
        self, *, flow_name: str | None = None, group: str | None = None, state: str | None = None, limit: int = 1_000
    ) -> list[Slot]:
        """Slots by the time that they are due."""
        wanted = {"flow_name": flow_name, "grp": group, "state": state}
        conditions = ["1 = 1", *(f"{column} = ?" for column, value in wanted.items() if value is not None)]
        query = SLOTS.select(f"{' AND '.join(conditions)} ORDER BY due, run_id LIMIT ?")
        parameters = [value for value in wanted.values() if value is not None]
        rows = self._database.read(lambda transaction: transaction.fetch(query, [*parameters, limit]))
        return [slot_of(row) for row in rows]

    def counts(self, *, group: str | None = None) -> dict[str, int]:
        """Number of slots by state."""
        where, parameters = ("WHERE grp = ?", (group,)) if group is not None else ("", ())
        query = f"SELECT state, count(*) FROM {SLOTS.name} {where} GROUP BY state"
        rows: list[Any] = self._database.read(lambda transaction: transaction.fetch(query, parameters))
        return {str(state): int(number) for state, number in rows}

    def waiting(self, *, now: datetime) -> list[tuple[str, int, datetime]]:
        """Of each flow with slots that are due and wait: its name, how many, and since when the first one does."""
        parameters = (to_microseconds(now),)
        rows: list[Any] = self._database.read(lambda transaction: transaction.fetch(_WAITING, parameters))
        found = ((str(name), int(number), from_microseconds(since)) for name, number, since in rows)
        return [(name, number, since) for name, number, since in found if since is not None]

    def parts(self, parent: str) -> list[Slot]:
        """Slots that wait or run and are to end with a run, as a task of that has asked for them."""
        query = SLOTS.select("parent = ? AND bond = 1 AND state IN ('Waiting', 'Running') ORDER BY due, run_id")
        return [slot_of(row) for row in self._database.read(lambda transaction: transaction.fetch(query, (parent,)))]

    def note_told(self, run_id: str) -> None:
        """Note that the task that has asked for a run knows how it has ended."""
        statement = f"UPDATE {SLOTS.name} SET told = 1 WHERE run_id = ?"
        self._database.write(lambda transaction: transaction.execute(statement, (run_id,)), durable=True)

    def next_due(self) -> datetime | None:
        """When the first waiting slot may begin; None if none waits."""
        query = f"SELECT min(ready) FROM {SLOTS.name} WHERE state = 'Waiting'"
        found: int | None = self._database.read(lambda transaction: transaction.fetch(query))[0][0]
        return from_microseconds(found)


def _cancel(transaction: Transaction, slot: Slot, moment: int | None, by: str) -> None:
    if slot.state == WAITING:
        what = "before it went on" if _has_begun(slot) else "before it began"
        text = to_text(f"cancelled{f' by {by}' if by else ''} {what}", MESSAGE_NBYTES)
        transaction.execute(_CLOSE, ("Cancelled", text, moment, slot.run_id))
        _end_runs(transaction, [slot], moment)
    elif slot.state == RUNNING:
        text = to_text(f"a request{f' of {by}' if by else ''} to cancel it", MESSAGE_NBYTES)
        transaction.execute(f"UPDATE {SLOTS.name} SET cancel = 1, message = ? WHERE run_id = ?", (text, slot.run_id))


def _has_newer(transaction: Transaction, slot: Slot, moment: int) -> bool:
    """Whether a later time of the schedule waits already."""
    newer = SLOTS.select("flow_name = ? AND origin = 'schedule' AND state = 'Waiting' AND due > ? AND due <= ?")
    return bool(transaction.fetch(f"{newer} LIMIT 1", (slot.flow_name, to_microseconds(slot.due), moment)))


def _has_begun(slot: Slot) -> bool:
    """Whether a slot's run has begun, though it waits now."""
    return slot.started is not None or slot.run_epoch > 0


def _is_late(slot: Slot, moment: int) -> bool:
    """Whether a time of a schedule has not begun for so long that it counts as missed."""
    may_be_left_out = slot.origin == "schedule" and not _has_begun(slot)
    return may_be_left_out and moment - (to_microseconds(slot.due) or 0) > GRACE_S * 1e6


def _renew(transaction: Transaction, slots: Sequence[tuple[str, str]], until: int | None) -> None:
    transaction.execute_many(_RENEW, [(until, run_id, token) for run_id, token in slots])
    transaction.execute_many(_RENEW_RUN, [(until, run_id, until, token) for run_id, token in slots])


def _settle_dead(
    transaction: Transaction,
    row: Sequence[Any],
    moment: int,
    *,
    is_dead: bool,
    why: str = "its process died",
    is_try: bool = True,
) -> Slot | None:
    """Decide what becomes of a slot whose process died, or may have; gives it if it has ended with that."""
    slot, (epoch, state, lease) = slot_of(row[:-3]), row[-3:]
    is_try = is_try and (is_dead or slot.started is not None)  # else its service died before it had a process for it
    is_put_down = state == "Paused" or (state == "Cancelled" and not slot.cancel)  # by a process that died before
    has_ended = epoch is not None and epoch > slot.run_epoch and lease is None and not is_put_down
    if lease is not None and lease > moment and (not is_dead or epoch > slot.run_epoch + 1):  # others may have the run
        transaction.execute(f"UPDATE {SLOTS.name} SET lease_until = ? WHERE run_id = ?", (lease, slot.run_id))
    elif has_ended:  # it could not say so here
        transaction.execute(_CLOSE, (state, "", moment, slot.run_id))
    elif slot.cancel:
        return _end(
            transaction, slot, "Cancelled", f"interrupted by {slot.message or 'a request to cancel it'}; {why}", moment
        )
    elif slot.tries >= MAX_TRIES and is_try:
        return _end(transaction, slot, "Crashed", f"given up after {slot.tries} tries: {why}", moment)
    else:
        text = to_text(why, MESSAGE_NBYTES)
        seen = min(moment, to_microseconds(slot.lease_until) or moment)
        released = (moment, moment, moment, seen, seen, text, int(not is_try), slot.run_id, slot.token)
        transaction.execute(_RELEASE, released)
        if is_dead:  # whoever goes on with the run need not wait for its lease
            transaction.execute(_LAPSE, (moment, slot.run_id, slot.run_epoch + 1, moment))
    return None


def _end(transaction: Transaction, slot: Slot, state: str, message: str, moment: int) -> Slot:
    text = to_text(message, MESSAGE_NBYTES)
    transaction.execute(_CLOSE, (state, text, moment, slot.run_id))
    _end_runs(transaction, [slot], moment, are_over=True)
    return replace(slot, state=state, message=text)


def _end_runs(transaction: Transaction, slots: Iterable[Slot], moment: int | None, *, are_over: bool = False) -> None:
    """Let runs end as their slots have, if these are closed; `are_over`: also those that the slots' processes hold."""
    rows = [(moment, slot.run_id, moment, slot.run_epoch + 1 if are_over else -1) for slot in slots]
    transaction.execute_many(_END_RUN, rows)
