"""Log lines of task code as plain values: what a record says, and which attempt of which task run it is from."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import cache
from typing import TypeAlias

from anabranch.base.context import TaskContext
from anabranch.base.masking import mask
from anabranch.base.texts import clean

MAX_LINE = 2_000  # characters: a line that is longer is a dump, and belongs into a file
MAX_TRACE = 8_000  # characters of a line with a traceback
PRINTED = 0
"""Level of what was printed by a task that does not log its prints."""
ARTIFACT = -1
"""Level of an artifact: its logger is its kind and number, as in ``metric 3``, and its text is JSON."""

_formatter = logging.Formatter()


STDERR = "stderr"
"""Logger of what was printed to standard error."""
DRIVER = "driver"
"""Worker of lines that no task logs, but the run itself; their slug is empty."""


def logs_topic(token: str) -> str:
    """Topic of the scheduler's events under which a run's log lines go to its driver."""
    return f"{token}-logs"


@dataclass(frozen=True, slots=True)
class LogLine:
    """What was logged, or printed, once."""

    time: float
    """Seconds since the epoch, by the clock of where it was logged."""
    level: int
    """As in `logging`; or `PRINTED`."""
    logger: str
    text: str
    slug: str
    map_index: int | None
    attempt: int
    worker: str

    @property
    def task_run(self) -> str:
        """The task run as it is shown: ``parse[777]``."""
        return self.slug if self.map_index is None else f"{self.slug}[{self.map_index}]"


Key: TypeAlias = tuple[str, int | None, int, str]


@dataclass(frozen=True, slots=True)
class Sketch:
    """An artifact that is not written down before it is sent: until then, another one may take its place."""

    task: tuple[str, int | None, int]
    """Slug, element and attempt."""
    what: str
    """Kind and number."""
    dumps: Callable[[], str]
    worker: str

    @property
    def key(self) -> Key:
        """What tells it from others of its run."""
        return *self.task, self.what.rpartition(" ")[2]

    def line(self) -> LogLine:
        """The artifact as it is now."""
        return LogLine(time.time(), ARTIFACT, self.what, mask(self.dumps()), *self.task, self.worker)


def artifact_key(line: LogLine) -> Key:
    """What tells an artifact from others of its run."""
    return line.slug, line.map_index, line.attempt, line.logger.rpartition(" ")[2]


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines that travel together."""

    process: tuple[str, int]
    """Host and number of the process they are from."""
    lines: tuple[LogLine, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)
    """How many more lines of each task there were, since the batch before, that came too fast to be sent."""

    def dumps(self) -> bytes:
        """The batch as bytes: plain tuples, of a third of the size."""
        return pickle.dumps((self.process, [astuple(line) for line in self.lines], dict(self.dropped)), protocol=5)


def loads(data: bytes) -> Batch:
    """A batch from its bytes; this process may know secrets that the other does not."""
    process, lines, dropped = pickle.loads(data)
    found = (LogLine(*line) for line in lines)
    return Batch(process, tuple(replace(line, text=mask(line.text)) for line in found), dropped)


@cache
def this_process() -> tuple[str, int]:
    """Host and number of this process."""
    return socket.gethostname(), os.getpid()


def line_of(record: logging.LogRecord, task: TaskContext, worker: str) -> LogLine:
    """A record as a line. Its text is put together here, as its arguments may be anything."""
    try:
        text = record.getMessage()
    except Exception as error:  # a format that does not fit its arguments, or a __str__ of the user's
        text = f"{record.msg} (its arguments do not fit: {type(error).__name__}: {error})"
    text = clean(text, MAX_LINE)
    trace = record.exc_text or formatted(record)
    if trace:
        text = clean(f"{text}\n{trace}", MAX_TRACE)
    return made(record.created, max(1, record.levelno), record.name, text, task, worker)


def formatted(record: logging.LogRecord) -> str:
    """The traceback of a record that has one."""
    try:
        return _formatter.formatException(record.exc_info) if record.exc_info else ""
    except Exception:  # an exception of the user's that cannot say what it is
        return "(a traceback that cannot be shown)"


def made(when: float, level: int, logger: str, text: str, task: TaskContext, worker: str) -> LogLine:
    """A line of a task run, without secrets."""
    return LogLine(when, level, logger, mask(text), task.task_slug, task.map_index, task.task_run_count, worker)


def nbytes_of(lines: Iterable[LogLine]) -> int:
    """About how many bytes lines have when they travel."""
    return sum(len(line.text) + 60 for line in lines)
