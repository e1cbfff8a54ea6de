"""What is due: the schedules of all registered flows, and the next time of each. Makes slots, and runs nothing."""

from __future__ import annotations

import heapq
import logging
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

_log = logging.getLogger("anabranch.service")


class Timetable:
    """The times of registered flows.

    Parameters
    ----------
    flows
        The registry.
    """

    def __init__(self, flows: FlowTable) -> None:
        self._flows = flows
        self._revision = (-1, -1)
        self._schedules: dict[str, Schedule] = {}
        self._next: dict[str, datetime] = {}
        self._heap: list[tuple[datetime, str]] = []
        self.problems: dict[str, str] = {}
        """Why schedules cannot be followed, by flow; registering a flow again clears its problem."""

    def __len__(self) -> int:
        return len(self._schedules)

    def refresh(self, now: datetime) -> None:
        """Read which flows were registered, changed or removed since the last time."""
        revision = self._flows.revision()
        if revision == self._revision:
            return
        changed = self._flows.all(changed_after=self._revision[1])
        for record in changed:
            self._take(record)
        if revision[0] != max(self._revision[0], 0) + len(changed):
            for name in set(self._schedules) - self._flows.names():
                self._forget(name)
        self._revision = revision

    def _take(self, record: FlowRecord) -> None:
        self._forget(record.name)
        if record.schedule is None or record.paused or record.scheduled_until is None:
            return
        try:
            schedule = schedule_of(record)
            assert schedule is not None
            self._schedules[record.name] = schedule
            self._put(record.name, record.scheduled_until)
        except Exception as error:  # a pickle, or a filter, may raise anything
            self._give_up(record.name, error)

    def _forget(self, name: str) -> None:
        self._schedules.pop(name, None)
        self._next.pop(name, None)
        self.problems.pop(name, None)

    def _give_up(self, name: str, error: Exception) -> None:
        self._forget(name)
        text = str(error) if isinstance(error, AnabranchError) else f"{type(error).__name__}: {error}"
        self.problems[name] = text
        _log.error("flow %s runs no more by its schedule, until it is registered again: %s", name, text)

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

        def slots_of(name: str, since: datetime) -> list[Slot]:
            try:
                return [_make_slot(name, each) for each in due(self._schedules[name], since, now)]
            except Exception as error:
                broken[name] = error
                return []

        try:
            done, slots = self._flows.plan(names, slots_of, now=now)
        except BaseException:
            for name in names:  # the store does not answer: nothing is forgotten
                self._at(name, now)
            raise
        for name, error in broken.items():
            self._give_up(name, error)
        for name in names - set(broken):
            if name in done:
                self._put(name, now)
            else:
                self._at(name, now + AGAIN)
        return slots


def _make_slot(name: str, time: Any) -> Slot:
    parameters = jsonify(time.parameter_defaults)
    run_id = slot_id(name, time.start_time, parameters)
    return Slot(run_id, name, time.start_time, parameters, labels=time.labels, origin="schedule")
