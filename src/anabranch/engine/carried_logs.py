"""What tasks log in the process of a detached driver: sent the way of all others, so that whoever attaches gets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from anabranch.engine.log_book import LogBook
from anabranch.engine.log_lines import LogLine
from anabranch.engine.log_outbox import Outbox


class CarriedLogBook(LogBook):
    """A log book whose own lines go to the scheduler first, and come back from there with those of all workers.

    Parameters
    ----------
    level
        Of lines that are wanted.
    send
        Sends a batch's bytes to the scheduler.
    address
        Of the worker that the driver is on.
    whole
        File for every line of tasks in this process.
    """

    def __init__(self, level: int, send: Callable[[bytes], object], *, address: str, whole: Path | None = None) -> None:
        super().__init__(level)
        self._address = address
        self._outbox = Outbox(level, send, worker=address, whole=whole)

    def take(self, line: LogLine) -> None:
        """Send a line of a task that runs in this process."""
        self._outbox.take(replace(line, worker=self._address))

    def flush(self) -> None:
        """Send what waits."""
        self._outbox.flush()

    def close(self) -> None:
        """Send the rest."""
        self._outbox.close()
        super().close()
