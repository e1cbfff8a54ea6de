"""Takes what the code of tasks logs in this process, through whatever logger, to whom their runs have named.

A handler of ours stands on the root logger while a run of ours works here. A record is a task's if it is made in a
task's context: that knows the run, the task, the element and the attempt. All else goes where it went before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from anabranch.base import artifacts, context, masking, settings
from anabranch.base.context import TaskContext
from anabranch.base.where import is_installed
from anabranch.engine.logs.lines import LogLine, Sketch, formatted, line_of

TASKS = "anabranch.task"
"""The logger above those of all tasks."""


class Sink(Protocol):
    """Where a run's lines go."""

    level: int
    worker: str

    def take(self, line: LogLine) -> None:
        """Take a line, in the thread of the task; never raises."""
        ...

    def keep(self, sketch: Sketch) -> None:
        """Take an artifact, in the thread of the task; never raises."""
        ...

    def flush(self) -> None:
        """Send on what was taken."""
        ...

    def close(self) -> None:
        """There will be no more lines."""
        ...


ASKED = "anabranch_asked"
"""Attribute of a record from another process: whether its logger `was_asked` there."""
SPEAKER: ContextVar[TaskContext | None] = ContextVar("anabranch_speaker", default=None)
"""In a thread that a task has started: the task, as far as it is heard."""
_sinks: dict[str, Sink] = {}
_lock = threading.Lock()
_before: tuple[int, int] | None = None
"""Levels of the root logger and that of tasks before they were lowered."""
_make: Callable[..., logging.LogRecord] = logging.LogRecord
"""What makes records where we do not."""


class _Capture(logging.Handler):
    """On the root logger."""

    is_ours = True

    def emit(self, record: logging.LogRecord) -> None:
        task = context.current() or SPEAKER.get()
        sink = _sinks.get(task.run_id) if task is not None else None
        try:
            if task is not None and sink is not None:
                if record.levelno >= sink.level and not _is_chatter(record):
                    sink.take(line_of(record, task, sink.worker))
            elif (last := logging.lastResort) is not None and record.levelno >= last.level and not _has_others(record):
                last.handle(record)
        except Exception:  # what is wrong with a log line must not fail the task
            self.handleError(record)


def _is_chatter(record: logging.LogRecord) -> bool:
    """Whether an installed package says what it would not say without us: nobody has asked for its lower levels."""
    if _before is None or record.levelno >= _before[0] or not is_installed(record.pathname):
        return False
    return not (was_asked(record.name) or record.__dict__.get(ASKED))


def was_asked(name: str) -> bool:
    """Whether a logger below the root has a level that somebody gave it, or one above it."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None and logger is not logging.root:
        if logger.level != logging.NOTSET:
            return True
        logger = logger.parent
    return False


def _has_others(record: logging.LogRecord) -> bool:
    """Whether somebody else shows a record that is no task's."""
    if record.name.partition(".")[0] == "anabranch":
        return True
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        if any(each is not _capture for each in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


_capture = _Capture()


def is_open(token: str) -> bool:
    """Whether somebody takes a run's lines here."""
    return token in _sinks


def open_sink(token: str, make: Callable[[], Sink]) -> None:
    """Let a sink take what tasks of a run log here, unless there is one already."""
    global _before, _make
    with _lock:
        if token in _sinks:
            return
        if not _sinks:
            _before = logging.root.level, logging.getLogger(TASKS).level
            logging.root.addHandler(_capture)
            settings.terminal.is_taken = is_taken
            artifacts.post = keep_artifact
            _make = logging.getLogRecordFactory()
            logging.setLogRecordFactory(_masked)
        _sinks[token] = make()
        _set_levels()


def close_sink(token: str) -> None:
    """Take nothing more of a run; the last to go leaves `logging` as it was."""
    global _before
    with _lock:
        sink = _sinks.pop(token, None)
        if sink is None:
            return
        if _sinks:
            _set_levels()
        elif _before is not None:
            logging.root.removeHandler(_capture)
            settings.terminal.is_taken = settings.is_never_taken
            artifacts.post = None
            if logging.getLogRecordFactory() is _masked:
                logging.setLogRecordFactory(_make)
            logging.root.setLevel(_before[0])
            logging.getLogger(TASKS).setLevel(_before[1])
            _before = None
    sink.close()


def _masked(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """A record without secrets, for the application's own handlers, too."""
    record = _make(*args, **kwargs)
    if not masking.knows_any() or not isinstance(record.msg, str):
        return record
    try:
        text = record.getMessage()
    except Exception:  # whoever formats it is told
        return record
    masked = masking.mask(text)
    if masked != text:
        record.msg, record.args = masked, None
    if record.exc_info:
        record.exc_text = masking.mask(formatted(record))
    return record


def is_taken(record: logging.LogRecord) -> bool:
    """Whether a record is a task's, so that its run sees to it that it is shown."""
    task = context.current() or SPEAKER.get()
    return task is not None and task.run_id in _sinks


def keep_artifact(task: TaskContext, kind: str, number: int, dumps: Callable[[], str]) -> None:
    """Have an artifact of a task kept."""
    sink = _sinks.get(task.run_id)
    if sink is not None:
        sink.keep(Sketch((task.task_slug, task.map_index, task.task_run_count), f"{kind} {number}", dumps, sink.worker))


def sink_of(token: str) -> Sink | None:
    """Where a run's lines go."""
    return _sinks.get(token)


def flush(token: str) -> None:
    """Send what a run has logged here so far, so that it is there before what is sent next."""
    sink = _sinks.get(token)
    if sink is not None:
        sink.flush()


def _set_levels() -> None:
    """Let through what the runs here want: where the application has set up logging of its own, its levels hold."""
    assert _before is not None
    wanted = min(sink.level for sink in _sinks.values())
    logging.getLogger(TASKS).setLevel(wanted)
    if _before[0] > wanted and all(handler is _capture for handler in logging.root.handlers):
        logging.root.setLevel(wanted)
