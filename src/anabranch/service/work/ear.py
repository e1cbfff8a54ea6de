"""Hears of what others ask for, in a thread: that the next turn of a service need not wait for its time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from anabranch.base.errors import RunStoreError
from anabranch.runs.store.database import Database

LOOK_S = 1.0
"""Seconds after which it looks whether the service ends."""
AGAIN_S = 5.0
"""Seconds until it tries again where the database does not answer: meanwhile the service looks by itself."""

_log = logging.getLogger("anabranch.service")


class Ear:
    """Listens to a database.

    Parameters
    ----------
    database
        Where the registry is.
    heard
        Called from the thread when there may be something to do.
    """

    def __init__(self, database: Database, heard: Callable[[], object]) -> None:
        self._database = database
        self._heard = heard
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="anabranch-ear", daemon=True)

    def open(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, soon."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(2 * LOOK_S)

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                for is_news in self._database.news(LOOK_S):
                    if self._over.is_set():
                        return
                    if is_news:
                        self._heard()
            except RunStoreError as error:
                _log.debug("what others ask for is heard of later: %s", error)
                self._over.wait(AGAIN_S)
