"""The service's turn: make slots of what is due, claim what may run, start it, and look after what has died.

It keeps no clock and no processes of its own: both are given, so that a test can be a day of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from anabranch.base.errors import RunStoreError
from anabranch.runs.store.flows import FlowTable
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot
from anabranch.service.work.messages import RETURNED, Exit
from anabranch.service.work.timetable import Timetable

RECOVER_S = 5.0
"""Seconds between looks for slots of dead processes: much less than a lease."""
REFRESH_S = 0.9
"""Seconds between looks for newly registered flows: each turn of an idle service looks."""
PRUNE_S = 3600.0
KEPT = timedelta(days=30)
"""Age at which finished slots are deleted; their runs stay until they are pruned."""
LATE = timedelta(seconds=10)
"""Delay of runs from which on it is reported."""
COMPLAIN_S = 60.0
AHEAD_S = 0.25
"""Slots are claimed ahead for this time, at the pace of the last second, so that no process waits for a turn."""
MOST_AHEAD = 100

_log = logging.getLogger("anabranch.service")


class Launcher(Protocol):
    """What starts the processes of runs."""

    def start(self, slot: Slot) -> None:
        """Run a slot in a process of its own."""

    def exits(self) -> list[Exit]:
        """Processes that ended since the last time."""

    def give_back(self) -> None:
        """Take back all runs that no process has begun: they end as `RETURNED`."""

    def stop(self, run_id: str) -> None:
        """Ask a process to put its run down, so that another can go on with it."""

    def kill(self, run_id: str) -> None:
        """End a process at once."""


class Dispatcher:
    """One service's share of the work.

    Parameters
    ----------
    store
        The run store, with the registry in it.
    launcher
        Starts processes.
    owner
        Name of this service: ``host:pid``.
    capacity
        How many runs may go on here at a time.
    clock
        What time it is, for all services alike.
    on_given_up
        Told of slots whose processes all died.
    """

    def __init__(
        self,
        store: RelationalRunStore,
        launcher: Launcher,
        *,
        owner: str,
        capacity: int,
        clock: Callable[[], datetime],
        on_given_up: Callable[[Slot], object] = lambda slot: None,
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._owner = owner
        self.capacity = capacity
        self._clock = clock
        self._queue = SlotQueue(store.database)
        self.timetable = Timetable(FlowTable(store.database))
        self.running: dict[str, Slot] = {}
        self.deaths = 0
        """Processes that ended badly."""
        self.turned = 0.0
        """When it last looked for something to do, in seconds since the epoch."""
        self.is_draining = False
        self._on_given_up = on_given_up
        self._recovered: datetime | None = None
        self._pruned: datetime | None = None
        self._refreshed: datetime | None = None
        self._pace = _Pace()
        self._complained: datetime | None = None
        self._is_asked_back = False
        self._is_flowing = False
        """Whether the last turn has claimed something, so that more may wait."""

    def turn(self) -> None:
        """Do all that there is to do now.

        Raises
        ------
        RunStoreError
            The store does not answer; the next turn does what was left.
        """
        now = self._clock()
        self.turned = now.timestamp()
        self._bury(now)
        if _is_over(self._recovered, now, RECOVER_S):
            for slot in self._queue.recover(now=now):
                self._give_up(slot)
            self._recovered = now
        if self.is_draining:
            if not self._is_asked_back:
                self._launcher.give_back()
            self._is_asked_back = True
            return
        if _is_over(self._refreshed, now, REFRESH_S):
            self.timetable.refresh(now)
            self._refreshed = now
        self.timetable.make_slots(now)
        free = self.capacity + self._pace.ahead - len(self.running)
        if free > 0 and (self._is_flowing or self._is_due(now)):
            claimed = self._queue.claim(self._owner, free, now=now, lease_s=self._store.lease_s)
            for slot in claimed:
                self.running[slot.run_id] = slot
                self._launcher.start(slot)
            self._is_flowing = bool(claimed)
            if len(claimed) == free:
                self._complain(claimed[0], now)
        if _is_over(self._pruned, now, PRUNE_S):
            self._queue.prune(before=now - KEPT)
            self._pruned = now

    def _complain(self, oldest: Slot, now: datetime) -> None:
        """Report, at most once a minute, that runs begin late."""
        late = now - (oldest.ready or oldest.due)
        if late > LATE and _is_over(self._complained, now, COMPLAIN_S):
            _log.warning(
                "runs begin %d s late: all %d processes of this service are busy. "
                "A larger --max-runs, another service, or --runs-per-process for many short runs helps",
                late.total_seconds(),
                self.capacity,
            )
            self._complained = now

    def _is_due(self, now: datetime) -> bool:
        """Whether a slot may be claimed, by a look that locks nothing."""
        next_due = self._queue.next_due()
        return next_due is not None and next_due <= now

    def _bury(self, now: datetime) -> None:
        """Handle slots whose processes ended badly; a process that ends well has closed its slot itself."""
        exits = self._launcher.exits()
        ended = [(end, slot) for end in exits if (slot := self.running.pop(end.run_id, None)) is not None]
        self._pace.count(sum(end.code != RETURNED for end, _ in ended), now)
        self._give_back([slot for end, slot in ended if end.code == RETURNED], now)
        for end, slot in ended:
            if end.code in (0, RETURNED):
                continue
            self.deaths += 1
            _log.warning("run %s of flow %s: %s", slot.run_id, slot.flow_name, end.words)
            try:
                given_up = self._queue.bury(slot, end.words, now=now)
            except RunStoreError as error:  # its lease runs out by itself
                _log.warning("run %s is taken up again when its lease is over: %s", slot.run_id, error)
                given_up = None
            if given_up is not None:
                self._give_up(given_up)

    def _give_back(self, slots: Sequence[Slot], now: datetime) -> None:
        """Let others have slots for which there was no process."""
        if not slots:
            return
        self._pace.stop()
        try:
            self._queue.give_back(slots, now=now)
        except RunStoreError as error:  # their claims run out by themselves
            _log.warning("%d runs are taken up again when their claims are over: %s", len(slots), error)

    def _give_up(self, slot: Slot) -> None:
        """Record that a run has crashed."""
        _log.error("run %s of flow %s crashed: %s", slot.run_id, slot.flow_name, slot.message)
        self._on_given_up(slot)
        try:
            # Its process is known to be dead, so that its lease need not be waited for.
            lease = self._store.get_run(slot.run_id).lease_until
            ownership = self._store.take_over(slot.run_id, now=lease)
            self._store.finish_run(ownership, "Crashed", end=self._clock(), message=slot.message)
        except RunStoreError as error:
            _log.warning("the record of run %s was left as it was: %s", slot.run_id, error)

    @property
    def problems(self) -> int:
        """Flows whose schedules cannot be followed."""
        return len(self.timetable.problems)

    def now(self) -> datetime:
        """What time it is, for all services alike."""
        return self._clock()

    def next_turn(self) -> datetime | None:
        """When the next schedule is due; None if there is none."""
        return self.timetable.next_due

    # Ending -----------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Claim nothing more, and give back what has not begun."""
        self.is_draining = True

    def hand_over(self) -> None:
        """Ask all processes to put their runs down for others."""
        for run_id in self.running:
            self._launcher.stop(run_id)

    def kill(self) -> None:
        """End processes that did not put their runs down; others take those over."""
        for run_id in self.running:
            self._launcher.kill(run_id)


class _Pace:
    """The pace at which runs end, and so how many may be claimed beyond free processes."""

    def __init__(self) -> None:
        self._since: datetime | None = None
        self._ended = 0
        self.ahead = 0

    def count(self, ended: int, now: datetime) -> None:
        """Note that runs have ended since the last time."""
        self._ended += ended
        if self._since is None or _is_over(self._since, now, 4 * AHEAD_S):
            passed = (now - self._since) / timedelta(seconds=1) if self._since is not None else 0.0
            per_s = self._ended / passed if 0 < passed < 8 * AHEAD_S else 0.0
            self.ahead = min(MOST_AHEAD, int(AHEAD_S * per_s))
            self._since, self._ended = now, 0

    def stop(self) -> None:
        """Claim no more than can begin, until runs end again."""
        self._since, self._ended, self.ahead = None, 0, 0


def _is_over(since: datetime | None, now: datetime, seconds: float) -> bool:
    """Whether so much time has passed, or the clock was put back."""
    return since is None or not timedelta(0) <= now - since < timedelta(seconds=seconds)
