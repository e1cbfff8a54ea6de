"""What a driver does with the lines that the tasks of its run log, wherever they ran: show them, and have them kept."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from anabranch.base import settings
from anabranch.engine.logs.capture import TASKS
from anabranch.engine.logs.lines import ARTIFACT, DRIVER, PRINTED, STDERR, Batch, LogLine, Sketch, this_process
from anabranch.engine.logs.outbox import Outbox, Throttle, WholeLog

BURST_LINES, LINES_PER_S = 10_000, 2_000  # what a terminal and a file of SQLite's take beside a run
TELL_EVERY_S = 5.0  # between two lines that say how much was dropped


class Keeper(Protocol):
    """Where lines are kept."""

    def keep(self, line: LogLine) -> None:
        """Take a line; quick, from any thread."""
        ...

    def keep_sketch(self, sketch: Sketch) -> None:
        """Take an artifact; quick, from any thread."""
        ...

    def close(self) -> None:
        """Have all of them in their place."""
        ...


class LogBook:
    """Shows and keeps the lines of a run. Lines may come from any thread; nothing is raised.

    Parameters
    ----------
    level
        Of lines that are wanted.
    keeper
        Keeps them, if anybody does.
    whole
        File for every line of tasks in this process, those too that come too fast to be shown.
    """

    worker = "local"

    def __init__(
        self,
        level: int = logging.INFO,
        *,
        keeper: Keeper | None = None,
        whole: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.level = level
        self._keeper = keeper
        self._whole = WholeLog(whole) if whole is not None else None
        self._clock = clock
        self._lock = threading.RLock()
        self._usual = Throttle(BURST_LINES, LINES_PER_S)
        self._urgent = Throttle(BURST_LINES, LINES_PER_S)
        self._dropped: Counter[str] = Counter()
        self._told = float("-inf")

    def take(self, line: LogLine) -> None:
        """Take a line of a task that runs in this process."""
        with self._lock:
            if self._whole is not None:
                self._whole.write(line)
        self._take(line, is_here=True)

    def keep(self, sketch: Sketch) -> None:
        """Keep an artifact of a task that runs in this process."""
        if self._keeper is not None:
            self._keeper.keep_sketch(sketch)

    def note(self, text: str) -> None:
        """Keep what the run itself has said, and has shown already: pages in other processes tell it, too."""
        if self._keeper is not None:
            self._keeper.keep(LogLine(time.time(), logging.WARNING, TASKS, text, "", None, 1, DRIVER))

    def take_batch(self, batch: Batch) -> None:
        """Take what a worker has sent."""
        is_here = batch.process == this_process()
        for line in batch.lines:
            if line.level != ARTIFACT:
                self._take(line, is_here=is_here)
            elif self._keeper is not None:
                self._keeper.keep(line)
        if batch.dropped:
            with self._lock:
                self._dropped.update(batch.dropped)
        if self._dropped and self._clock() - self._told >= TELL_EVERY_S:
            self._tell_dropped()

    def _take(self, line: LogLine, *, is_here: bool) -> None:
        throttle = self._urgent if line.level >= logging.WARNING else self._usual
        with self._lock:
            if not throttle.take(1, self._clock()):
                self._dropped[line.slug] += 1
                return
        if self._keeper is not None and line.level != PRINTED:
            self._keeper.keep(line)
        show(line, is_here=is_here)

    def _tell_dropped(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, Counter()
            self._told = self._clock()
        directory = settings.config.logging.directory
        where = f"all of them are in {directory}" if directory else "logging.directory keeps them all"
        for slug, count in dropped.items():
            text = f"({count:,} more lines came too fast and are not shown; {where})"
            line = LogLine(time.time(), logging.WARNING, TASKS, text, slug, None, 1, self.worker)
            if self._keeper is not None:
                self._keeper.keep(line)
            show(line, is_here=False)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Say how much was dropped, and see to it that the rest is kept."""
        if self._dropped:
            self._tell_dropped()
        if self._keeper is not None:
            self._keeper.close()
        with self._lock:
            if self._whole is not None:
                self._whole.close()


def show(line: LogLine, *, is_here: bool) -> None:
    """Show a line: to the application's handlers, if it has any, else on the terminal.

    Parameters
    ----------
    is_here
        Whether it was logged in this process, so that the application's handlers have seen it.
    """
    if line.level == PRINTED:
        with suppress(OSError, ValueError):  # a terminal that has gone
            (sys.stderr if line.logger == STDERR else sys.stdout).write(f"{line.text}\n")
    elif not settings.has_handlers():
        settings.terminal.write(_record(line, _shown_name(line)))
    elif not is_here:
        logger = logging.getLogger(line.logger)
        if logger.isEnabledFor(line.level):
            logger.handle(_record(line, line.logger))


def _shown_name(line: LogLine) -> str:
    """Who says it, for people: ``parse[777]``, with the attempt if it is not the first, and a logger of the user's."""
    again = f" (attempt {line.attempt})" if line.attempt > 1 else ""
    logger = "" if line.logger.startswith(TASKS) else f" {line.logger}"
    return f"{line.task_run}{again}{logger}"


def _record(line: LogLine, name: str) -> logging.LogRecord:
    record = logging.LogRecord(name, line.level, "", 0, line.text, None, None)
    record.created, record.msecs = line.time, (line.time % 1) * 1000
    record.__dict__.update(
        task_run=line.task_run,
        task_slug=line.slug,
        map_index=line.map_index,
        attempt=line.attempt,
        worker=line.worker,
    )
    return record


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

    def keep(self, sketch: Sketch) -> None:
        """Send an artifact of a task that runs in this process."""
        self._outbox.keep(replace(sketch, worker=self._address))

    def flush(self) -> None:
        """Send what waits."""
        self._outbox.flush()

    def close(self) -> None:
        """Send the rest."""
        self._outbox.close()
        super().close()
