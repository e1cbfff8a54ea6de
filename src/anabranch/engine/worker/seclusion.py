"""Runs suspects alone in their process: what dies then has one cause.

Dask blames the death of a worker on everything that was assigned to it. A unit that was on a worker when that died is a
suspect: it runs again while nothing else of ours runs in the process, so that a second death convicts it, and it alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Seclusion:
    """A lock that many may share, or one has alone; those who want it alone go first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._sharing = 0
        self._waiting_alone = 0
        self._is_alone = False

    @contextmanager
    def entered(self, *, alone: bool) -> Iterator[None]:
        """Be inside with others, or wait until nobody is and keep them out."""
        with self._condition:
            if alone:
                self._waiting_alone += 1
                self._condition.wait_for(lambda: not self._sharing and not self._is_alone)
                self._waiting_alone -= 1
                self._is_alone = True
            else:
                self._condition.wait_for(lambda: not self._is_alone and not self._waiting_alone)
                self._sharing += 1
        try:
            yield
        finally:
            with self._condition:
                if alone:
                    self._is_alone = False
                else:
                    self._sharing -= 1
                self._condition.notify_all()


PROCESS = Seclusion()
"""Of this process."""
