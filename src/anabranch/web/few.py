"""Lines of a log that strangers can cause: few of them, so that nobody without a token fills a disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

MOST, WINDOW_S = 60, 60.0  # one a second, ten megabytes a day, whatever strangers do


class Few(logging.Filter):
    """Lets so many lines through in a minute; the next one says how many were left out.

    Parameters
    ----------
    clock
        Seconds.
    most
        Lines in a minute.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, most: int = MOST) -> None:
        super().__init__()
        self._clock = clock
        self._most = most
        self._since = clock()
        self._count = 0

    def count(self) -> str | None:
        """Count a line: what to add to it; None if it is left out."""
        now = self._clock()
        told = ""
        if now - self._since >= WINDOW_S:
            if self._count > self._most:
                told = f" ({self._count - self._most:,} such lines before it were left out)"
            self._since, self._count = now, 0
        self._count += 1
        return told if self._count <= self._most else None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is let through."""
        told = self.count()
        if told:
            record.msg, record.args = record.getMessage() + told, ()
        return told is not None
