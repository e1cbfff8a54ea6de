"""Keeps house while a service runs, by the rules of the settings: in a thread, for half of the time at most."""

from __future__ import annotations

import logging
import threading
import time

from anabranch.base.errors import RunStoreError
from anabranch.runs.registry.registration import read_clock
from anabranch.runs.retention import Retention, Sweep
from anabranch.runs.store.notices import admit
from anabranch.runs.store.relational import RelationalRunStore

FIRST_S = 60.0
"""Seconds after its start in which a service has other things to do."""
LOOK_S = 300.0
"""Seconds between looks whether it is time."""
EVERY_S = 3_300.0
"""Seconds between sweeps, whichever service does them: a little less than an hour, so that looks do not miss it."""
LEAVE_S = 2.0
"""Seconds for which a service that ends waits for a step."""

_log = logging.getLogger("anabranch.service")


class Sweeper:
    """Sweeps the run store now and then.

    Parameters
    ----------
    store
        The run store.
    """

    def __init__(self, store: RelationalRunStore) -> None:
        self._store = store
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="anabranch-sweeper", daemon=True)

    def open(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, between two steps."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(LEAVE_S)

    def _work(self) -> None:
        pause_s = FIRST_S
        while not self._over.wait(pause_s):
            pause_s = LOOK_S
            try:
                if admit(self._store.database, "sweeper", most=1, per_s=EVERY_S) is not None:
                    self._sweep()
            except RunStoreError as error:
                _log.warning("old runs were not deleted, which is tried again: %s", error)
            except Exception:  # a bug of ours must not end what keeps a team's store small
                _log.exception("old runs were not deleted, which is tried again")

    def _sweep(self) -> None:
        sweep = Sweep(self._store, Retention.of_settings(), now=read_clock(self._store))
        began = time.monotonic()
        for _ in sweep.steps():
            if self._over.wait(time.monotonic() - began):  # others have the store as long
                return
            began = time.monotonic()
        if sweep.swept:
            _log.info("deleted by the rules of the settings: %s", sweep.swept)
