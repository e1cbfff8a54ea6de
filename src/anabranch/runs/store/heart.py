"""The sign of life of whoever owns a run, and the ear for wishes that it end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Self

from anabranch.base.errors import RunStoreError, StaleOwner
from anabranch.runs.store.owners import sleepless_clock
from anabranch.runs.store.records import Ownership, RunStore

_BEATS_PER_LEASE = 3  # two may be late or fail before somebody takes the run for dead
_LOOK_S = 2.0  # between looks for a wish that the run end: who asks waits a few seconds
_FAREWELL_S = 1.0  # for a beat in a store that does not answer; one that comes after the end changes nothing

_logger = logging.getLogger(__name__)


class Heart:
    """Renews the lease of a run from a thread of its own, for as long as it is entered as a context.

    It looks, too, whether somebody wants the run to end.

    A store that does not answer is no reason to stop: whether the run was lost is for the store to say.

    Parameters
    ----------
    store
        Where the run is. Its methods are called from the thread.
    ownership
        What to renew, every third of the store's lease.
    on_lost
        Called once, from the thread, when the store says that the run is somebody else's.
    renew
        Renews what else the run has; called with each beat, from the thread.
    clock
        Seconds, of the clock by which the ownership says since when it holds.
    """

    def __init__(
        self,
        store: RunStore,
        ownership: Ownership,
        *,
        on_lost: Callable[[StaleOwner], None] | None = None,
        renew: Callable[[], None] | None = None,
        clock: Callable[[], float] = sleepless_clock,
    ) -> None:
        self._store = store
        self._ownership = ownership
        self._interval_s = store.lease_s / _BEATS_PER_LEASE
        self._clock = clock
        self._tried = self._renewed = ownership.since or clock()
        self._on_lost = on_lost
        self._renew = renew
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"anabranch-heart-{ownership.run_id}", daemon=True)
        self.lost = threading.Event()
        """Set when the run is somebody else's."""
        self.wish = ""
        """Why somebody wants the run to end; nothing as long as nobody does."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(_FAREWELL_S)

    def catch_up(self) -> None:
        """Renew the lease if nothing has tried to for as long as it runs: the process stood still, and may have lost
        the run. To be called before anything is begun.
        """
        if self._clock() - self._tried > self._store.lease_s:
            self.beat()

    def make_sure(self) -> None:
        """Renew the lease if it has not been renewed for as long as it runs, so that others may have the run.

        To be called before anybody is told how the run has ended.
        """
        if self._clock() - self._renewed > self._store.lease_s:
            self.beat()

    def beat(self) -> bool:
        """Renew the lease once; whether the run is still ours, as far as can be told."""
        began = self._tried = self._clock()
        try:
            self._store.heartbeat(self._ownership)
            self._renewed = began
            if self._renew is not None:
                self._renew()
        except StaleOwner as error:
            self.lost.set()
            if self._on_lost is not None:
                self._on_lost(error)
            return False
        except RunStoreError as error:
            _logger.warning("the lease of run %s was not renewed: %s", self._ownership.run_id, error)
        self.look()
        return True

    def look(self) -> None:
        """Look whether somebody wants the run to end."""
        try:
            self.wish = self.wish or self._store.find_wish(self._ownership)
        except RunStoreError as error:
            _logger.debug("whether run %s is to end was not told: %s", self._ownership.run_id, error)

    def _run(self) -> None:
        beat_at = self._clock() + self._interval_s
        while not self._stop.wait(min(_LOOK_S, max(0.0, beat_at - self._clock()))):
            if self._clock() < beat_at:
                self.look()
            elif self.beat():
                beat_at = self._clock() + self._interval_s
            else:
                return
