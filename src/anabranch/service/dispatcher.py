"""The service's turn: make slots of what is due, claim what may run, start it, and look after what has died.

It keeps no clock and no processes of its own: both are given, so that a test can be a day of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from anabranch.errors import RunStoreError
from anabranch.runs.flow_table import FlowTable
from anabranch.runs.relational import RelationalRunStore
from anabranch.runs.slot_queue import SlotQueue
from anabranch.runs.slots import Slot
from anabranch.service.timetable import Timetable

RECOVER_S = 5.0
"""How often slots of dead processes are looked for: much less than a lease."""
PRUNE_S = 3600.0
KEPT = timedelta(days=30)
"""How long slots that are over are kept; their runs stay until they are pruned."""

_log = logging.getLogger("anabranch.service")


@dataclass(frozen=True, slots=True)
class Exit:
    """A process that ended."""

    run_id: str
    code: int
    """Its exit code; minus the signal that killed it."""

    @property
    def words(self) -> str:
        """How it ended, for people."""
        return (
            f"its process was killed by signal {-self.code}" if self.code < 0 else f"its process ended with {self.code}"
        )


class Launcher(Protocol):
    """What starts the processes of runs."""

    def start(self, slot: Slot) -> None:
        """Run a slot in a process of its own."""

    def exits(self) -> list[Exit]:
        """Processes that ended since the last time."""

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

    def turn(self) -> None:
        """Do all that there is to do now.

        Raises
        ------
        RunStoreError
            The store does not answer; the next turn does what was left.
        """
        self._bury()
        now = self._clock()
        self.turned = now.timestamp()
        if _is_over(self._recovered, now, RECOVER_S):
            for slot in self._queue.recover(now=now):
                self._give_up(slot)
            self._recovered = now
        if self.is_draining:
            return
        self.timetable.refresh(now)
        self.timetable.make_slots(now)
        free = self.capacity - len(self.running)
        next_due = self._queue.next_due() if free > 0 else None
        if next_due is not None and next_due <= now:
            for slot in self._queue.claim(self._owner, free, now=now, lease_s=self._store.lease_s):
                self.running[slot.run_id] = slot
                self._launcher.start(slot)
        if _is_over(self._pruned, now, PRUNE_S):
            self._queue.prune(before=now - KEPT)
            self._pruned = now

    def _bury(self) -> None:
        """See to slots whose processes ended; one that ended well has closed its slot itself."""
        for end in self._launcher.exits():
            slot = self.running.get(end.run_id)
            if slot is not None and end.code != 0:
                self.deaths += 1
                _log.warning("run %s of flow %s: %s", slot.run_id, slot.flow_name, end.words)
                try:
                    given_up = self._queue.bury(slot, end.words, now=self._clock())
                except RunStoreError as error:  # its lease runs out by itself
                    _log.warning("run %s is taken up again when its lease is over: %s", slot.run_id, error)
                    given_up = None
                if given_up is not None:
                    self._give_up(given_up)
            self.running.pop(end.run_id, None)

    def _give_up(self, slot: Slot) -> None:
        """Let the record of a run say that it has crashed."""
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
        """When there is something to do that no event will tell of; None if nothing is known."""
        return self.timetable.next_due

    # Ending -----------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Claim nothing any more."""
        self.is_draining = True

    def hand_over(self) -> None:
        """Ask all processes to put their runs down for others."""
        for run_id in self.running:
            self._launcher.stop(run_id)

    def kill(self) -> None:
        """End what did not put its run down; others take it over."""
        for run_id in self.running:
            self._launcher.kill(run_id)


def _is_over(since: datetime | None, now: datetime, seconds: float) -> bool:
    """Whether so much time has passed; also when the clock was put back."""
    return since is None or not timedelta(0) <= now - since < timedelta(seconds=seconds)
