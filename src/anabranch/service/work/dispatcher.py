"""The service's turn: make slots of what is due, claim what may run, start it, and look after what has died.

It keeps no clock and no processes of its own: both are given, so that a test can be a day of it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from anabranch.base.errors import RunStoreError
from anabranch.runs.registry.ending import end_parts
from anabranch.runs.store.flows import FlowTable
from anabranch.runs.store.permit_table import PermitTable
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot
from anabranch.service.work.messages import RETURNED, Exit
from anabranch.service.work.processes import is_process_of_runs
from anabranch.service.work.timetable import Timetable

RECOVER_S = 5.0
"""Seconds between looks for slots of dead processes: much less than a lease."""
REFRESH_S = 0.9
"""Seconds between looks for newly registered flows: each turn of an idle service looks."""
LATE = timedelta(seconds=10)
"""Delay of runs from which on it is reported."""
COMPLAIN_S = 60.0
CALL_S = 0.9
"""Seconds between looks whether runs that were put down have room below their limits by now."""
WATCH_S = 0.9
"""Seconds between looks for runs that are to be cancelled."""
BLIND_S = 3.0
"""Seconds between turns, or a third of a lease if that is more, after which this service may have missed that others
renewed theirs: it stood still, the store was away, or the clock was put forward. They get another lease."""
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

    def interrupt(self, run_id: str) -> None:
        """Ask a process to end its run."""

    def kill(self, run_id: str) -> None:
        """End a process and all that it has started, at once."""


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
    grace_s
        Seconds that a cancelled run has to end before its process is killed.
    on_ended
        Told of slots that ended with their processes: all of them died, or the run was cancelled.
    on_problem
        As for `Timetable`.
    lives
        Whether a process of runs, by its name, is seen to live on this machine.
    steady
        Seconds, of a clock that never jumps, for the time that runs may take.
    """

    def __init__(
        self,
        store: RelationalRunStore,
        launcher: Launcher,
        *,
        owner: str,
        capacity: int,
        clock: Callable[[], datetime],
        grace_s: float = 15.0,
        on_ended: Callable[[Slot], object] = lambda slot: None,
        on_problem: Callable[[str, str], object] = lambda name, why: None,
        lives: Callable[[str], bool] = is_process_of_runs,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._owner = owner
        self.capacity = capacity
        self._clock = clock
        self._queue = SlotQueue(store.database)
        self._permits = PermitTable(store.database)
        self.timetable = Timetable(FlowTable(store.database), on_problem=on_problem)
        self.running: dict[str, Slot] = {}
        self.deaths = 0
        """Processes that ended badly."""
        self.turned = 0.0
        """When it last looked for something to do, in seconds since the epoch."""
        self.is_draining = False
        self._grace = timedelta(seconds=grace_s)
        self._on_ended = on_ended
        self._lives = lives
        self._steady = steady
        self._ends: dict[str, float] = {}
        """When runs must have ended by themselves, by the tokens of their claims."""
        self._late: set[str] = set()
        """Tokens of runs whose processes were killed because they had not."""
        self._interrupted: dict[str, datetime] = {}
        """When runs were asked to end, by the tokens of their claims."""
        self._killed: set[str] = set()
        """Runs whose processes were killed because this service ends."""
        self._seen: datetime | None = None
        """When the last turn was done."""
        self._blind_until: datetime | None = None
        self._watched: datetime | None = None
        self._renewed: datetime | None = None
        self._recovered: datetime | None = None
        self._refreshed: datetime | None = None
        self._called: datetime | None = None
        self._pace = _Pace()
        self._complained: datetime | None = None
        self._is_asked_back = False
        self._next_slot: datetime | None = None
        """When the next slot may begin that waits for its time."""
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
        lease_s = self._store.lease_s
        if self._seen is not None and _is_over(self._seen, now, max(BLIND_S, lease_s / 3)):
            self._blind_until = now + timedelta(seconds=lease_s)
        self._turn(now, lease_s)
        self._seen = now

    def _turn(self, now: datetime, lease_s: float) -> None:
        self._bury(now)
        if self.running and _is_over(self._watched, now, WATCH_S):
            self._end_cancelled(now)
            self._end_late()
            self._watched = now
        if _is_over(self._renewed, now, lease_s / 3):
            self._queue.renew(self.running.values(), now=now, lease_s=lease_s)
            self._renewed = now
        is_blind = self._blind_until is not None and now < self._blind_until
        if not is_blind and _is_over(self._recovered, now, RECOVER_S):
            for slot in self._queue.recover(now=now, lease_s=lease_s, lives=self._lives):
                self._close(slot)
            self._recovered = now
        if self.is_draining:
            if not self._is_asked_back:
                self._launcher.give_back()
            self._is_asked_back = True
            return
        if _is_over(self._called, now, CALL_S):
            self._permits.call()
            self._called = now
        if _is_over(self._refreshed, now, REFRESH_S):
            self.timetable.refresh(now)
            self._refreshed = now
        self.timetable.make_slots(now)
        free = self.capacity + self._pace.ahead - len(self.running)
        if free > 0 and (self._is_flowing or self._is_due(now)):
            claimed = self._queue.claim(self._owner, free, now=now, lease_s=lease_s)
            for slot in claimed:
                self.running[slot.run_id] = slot
                if slot.timeout_s is not None:
                    left_s = max(0.0, slot.timeout_s - slot.spent / timedelta(seconds=1))
                    self._ends[slot.token] = self._steady() + left_s + self._grace / timedelta(seconds=1)
                self._launcher.start(slot)
            self._is_flowing = bool(claimed)
            if len(claimed) == free:
                self._complain(claimed[0], now)

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
        self._next_slot = next_due if next_due is not None and next_due > now else None
        return next_due is not None and next_due <= now

    def _bury(self, now: datetime) -> None:
        """Handle slots whose processes ended badly; a process that ends well has closed its slot itself."""
        exits = self._launcher.exits()
        ended = [(end, slot) for end in exits if (slot := self._ended_slot(end)) is not None]
        self._pace.count(sum(end.code != RETURNED for end, _ in ended), now)
        self._give_back([slot for end, slot in ended if end.code == RETURNED], now)
        for end, slot in ended:
            self._interrupted.pop(slot.token, None)
            self._ends.pop(slot.token, None)
            is_late = slot.token in self._late
            self._late.discard(slot.token)
            if end.code in (0, RETURNED):
                continue
            self.deaths += 1
            _log.warning("run %s of flow %s: %s", slot.run_id, slot.flow_name, end.words)
            try:
                if is_late:
                    closed = self._close_late(slot, now)
                else:
                    closed = self._queue.bury(slot, end.words, now=now, is_try=slot.run_id not in self._killed)
            except RunStoreError as error:  # its lease runs out by itself
                _log.warning("run %s is taken up again when its lease is over: %s", slot.run_id, error)
                closed = None
            if closed is not None:
                self._close(closed)

    def _ended_slot(self, end: Exit) -> Slot | None:
        """The slot that has lost its process, if it is still claimed as it was for that one."""
        slot = self.running.get(end.run_id)
        return self.running.pop(end.run_id) if slot is not None and slot.token == end.token else None

    def _give_back(self, slots: Sequence[Slot], now: datetime) -> None:
        """Let others have slots for which there was no process."""
        if not slots:
            return
        self._pace.stop()
        try:
            self._queue.give_back(slots, now=now)
        except RunStoreError as error:  # their claims run out by themselves
            _log.warning("%d runs are taken up again when their claims are over: %s", len(slots), error)

    def _end_cancelled(self, now: datetime) -> None:
        """Interrupt runs that are to be cancelled; those that have had their time are killed."""
        tokens = {slot.token: run_id for run_id, slot in self.running.items()}
        for _, token in self._queue.cancelled():
            if (run_id := tokens.get(token)) is None:
                continue
            if token not in self._interrupted:
                self._interrupted[token] = now
                self._launcher.interrupt(run_id)
            elif now - self._interrupted[token] >= self._grace:
                _log.warning("run %s was cancelled and does not end: its process is killed", run_id)
                self._launcher.kill(run_id)

    def _end_late(self) -> None:
        """Kill processes whose runs have not ended by themselves when their time was over."""
        now_s = self._steady()
        for run_id, slot in self.running.items():
            if now_s >= self._ends.get(slot.token, math.inf):
                if slot.token not in self._late:
                    _log.warning("run %s is over its timeout and does not end: its process is killed", run_id)
                self._late.add(slot.token)
                self._launcher.kill(run_id)

    def _close_late(self, slot: Slot, now: datetime) -> Slot | None:
        """Close a slot whose process was killed for its time; gives it if it was still this service's."""
        text = f"the run took longer than its timeout of {slot.timeout_s:g} s and did not end; its process was killed"
        is_ours = self._queue.finish(slot, "TimedOut", text, now=now)
        return replace(slot, state="TimedOut", message=text) if is_ours else None

    def _close(self, slot: Slot) -> None:
        """Tell that a run has ended with its process."""
        _log.error("run %s of flow %s: %s, %s", slot.run_id, slot.flow_name, slot.state, slot.message)
        self._on_ended(slot)
        if slot.state in ("Cancelled", "TimedOut"):
            end_parts(self._store, slot.run_id)

    @property
    def problems(self) -> int:
        """Flows whose schedules cannot be followed."""
        return len(self.timetable.problems)

    def now(self) -> datetime:
        """What time it is, for all services alike."""
        return self._clock()

    def next_turn(self) -> datetime | None:
        """When a schedule or a run that waits is due next, as far as is known; None if there is nothing."""
        return min(filter(None, (self.timetable.next_due, self._next_slot)), default=None)

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
        self._killed.update(self.running)
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
