"""What is due: the schedules of all registered flows, and the next time of each. Makes slots, and runs nothing."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from anabranch.base.errors import AnabranchError
from anabranch.runs.registry.registration import jsonify
from anabranch.runs.registry.seal import schedule_of
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.slots import Slot, slot_id
from anabranch.schedules import Schedule, due

AGAIN = timedelta(seconds=0.2)
"""Time after which a flow is tried again that another service had locked."""
LEAST, MOST = timedelta(seconds=1), timedelta(minutes=1)
"""Time after which a schedule is tried again that cannot be followed: half of the time for which it has failed."""

_log = logging.getLogger("anabranch.service")


class Timetable:
    """The times of registered flows.

    Parameters
    ----------
    flows
        The registry.
    on_problem
        Told of a flow whose schedule cannot be followed any more, and why.
    """

    def __init__(self, flows: FlowTable, *, on_problem: Callable[[str, str], object] = lambda name, why: None) -> None:
        self._flows = flows
        self._on_problem = on_problem
        self._revision = (-1, -1)
        self._records: dict[str, FlowRecord] = {}
        """Of flows with a schedule that does not rest."""
        self._schedules: dict[str, Schedule] = {}
        self._failed: dict[str, datetime] = {}
        """Since when schedules cannot be followed, by flow."""
        self._next: dict[str, datetime] = {}
        self._heap: list[tuple[datetime, str]] = []
        self.problems: dict[str, str] = {}
        """Why schedules cannot be followed, by flow, for as long as that is so."""

    def __len__(self) -> int:
        return len(self._records) - len(self.problems)

    def refresh(self, now: datetime) -> None:
        """Read which flows were registered, changed or removed since the last time."""
        revision = self._flows.revision()
        if revision == self._revision:
            return
        changed = self._flows.all(changed_after=self._revision[1])
        for record in changed:
            self._take(record, now)
        if revision[0] != max(self._revision[0], 0) + len(changed):
            for name in set(self._records) - self._flows.names():
                self._forget(name)
        self._revision = revision

    def _take(self, record: FlowRecord, now: datetime) -> None:
        self._forget(record.name)
        if record.schedule is None or record.paused or record.scheduled_until is None:
            return
        self._records[record.name] = record
        try:
            self._load(record.name)
            self._put(record.name, record.scheduled_until)
        except Exception as error:  # a pickle, or a filter, may raise anything
            self._fail(record.name, error, now)

    def _load(self, name: str) -> Schedule:
        """The schedule of a flow; it may be stored as code, or name modules."""
        if name not in self._schedules:
            schedule = schedule_of(self._records[name])
            assert schedule is not None
            self._schedules[name] = schedule
        return self._schedules[name]

    def _forget(self, name: str) -> None:
        for each in (self._records, self._schedules, self._next, self._failed, self.problems):
            each.pop(name, None)

    def _fail(self, name: str, error: Exception, now: datetime) -> None:
        """Note that a schedule cannot be followed, and when it is tried again: what it needs may be there then."""
        text = str(error) if isinstance(error, AnabranchError) else f"{type(error).__name__}: {error}"
        if name not in self.problems:  # later ones may name another time
            _log.error("flow %s: its schedule cannot be followed, and is tried again: %s", name, text)
            self._on_problem(name, text)
        self.problems[name] = text
        self._at(name, now + min(MOST, max(LEAST, (now - self._failed.setdefault(name, now)) / 2)))

    def _put(self, name: str, after: datetime) -> None:
        """Note when a flow is due next."""
        times = self._schedules[name].next(1, after=after)
        if times:
            self._at(name, times[0])
        else:
            self._next.pop(name, None)

    def _at(self, name: str, moment: datetime) -> None:
        self._next[name] = moment
        heapq.heappush(self._heap, (moment, name))

    @property
    def next_due(self) -> datetime | None:
        """The next time of all; None if there is none."""
        while self._heap and self._next.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # of a flow that was registered anew
        return self._heap[0][0] if self._heap else None

    def make_slots(self, now: datetime) -> list[Slot]:
        """Make slots of what is due: one for each time, whatever other services do."""
        names: set[str] = set()
        while (moment := self.next_due) is not None and moment <= now:
            name = heapq.heappop(self._heap)[1]
            del self._next[name]
            names.add(name)
        if not names:
            return []
        broken: dict[str, Exception] = {}

        def slots_of(name: str, since: datetime) -> list[Slot] | None:
            try:
                return [_make_slot(name, each) for each in due(self._load(name), since, now)]
            except Exception as error:
                broken[name] = error
                return None

        try:
            done, slots = self._flows.plan(names, slots_of, now=now)
        except BaseException:
            for name in names:  # the store does not answer: nothing is forgotten
                self._at(name, now)
            raise
        for name in done - set(broken):
            try:
                self._put(name, now)
            except Exception as error:
                broken[name] = error
            else:
                if self._failed.pop(name, None) is not None:
                    del self.problems[name]
                    _log.warning("flow %s: its schedule is followed again", name)
        for name, problem in broken.items():
            self._fail(name, problem, now)
        for name in names - done:
            self._at(name, now + AGAIN)
        return slots


def _make_slot(name: str, time: Any) -> Slot:
    parameters = jsonify(time.parameter_defaults)
    run_id = slot_id(name, time.start_time, parameters)
    return Slot(run_id, name, time.start_time, parameters, labels=time.labels, origin="schedule")
