"""Whether a service works, for who starts it, and whether it can do its work now, for who sends requests to it."""

from __future__ import annotations

import time
from collections.abc import Callable

STUCK_S = 60.0
"""Seconds without a turn that ended, after which the service does not work and should be started anew."""
AWAY_S = 15.0
"""Seconds without an answer of the store, after which others should be asked. To start anew would not bring it back."""


class Pulse:
    """When turns have ended.

    Parameters
    ----------
    clock
        Seconds, from any moment on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended = self._answered = clock()

    def note(self, *, is_answered: bool) -> None:
        """Note that a turn has ended, and whether the store has answered."""
        self._ended = self._clock()
        if is_answered:
            self._answered = self._ended

    @property
    def is_well(self) -> bool:
        """Whether turns go on."""
        return self._clock() - self._ended < STUCK_S

    @property
    def is_answered(self) -> bool:
        """Whether the store answers."""
        return self._clock() - self._answered < AWAY_S
