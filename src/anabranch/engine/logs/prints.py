"""Prints of task code that must travel to the driver, or are to be log records."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from anabranch.base import context
from anabranch.base.context import TaskContext
from anabranch.base.masking import mask
from anabranch.base.texts import clean
from anabranch.engine.logs.capture import sink_of
from anabranch.engine.logs.lines import MAX_LINE, PRINTED, made

_LINES: ContextVar[Lines | None] = ContextVar("anabranch_prints", default=None)
_LOCK = threading.Lock()


class Lines:
    """Passes on what is printed while a unit runs, line by line as lines end.

    Parameters
    ----------
    logged
        Slugs of nodes whose prints are log records.
    before
        Where else prints go if they have no need to travel.
    """

    def __init__(self, logged: Collection[str], before: TextIO) -> None:
        self._logged = logged
        self._before = before
        self._begun = ""
        self._task: TaskContext | None = None
        """Whose line it is that has begun: it may end when the task has."""

    def write(self, text: str) -> None:
        """Take what was printed; a line is one once it ends."""
        self._task = context.current() or self._task
        *whole, rest = text.split("\n")
        for line in whole:
            self._pass_on(self._begun + line)
            self._begun = ""
        self._begun = mask(self._begun + rest)[: MAX_LINE + 1]

    def finish(self) -> None:
        """Pass on a line that has not ended."""
        if self._begun:
            self._pass_on(self._begun)
            self._begun = ""

    def _pass_on(self, line: str) -> None:
        task = self._task
        sink = sink_of(task.run_id) if task is not None else None
        token = _LINES.set(None)  # a handler that prints must not come here again
        try:
            if task is not None and task.task_slug in self._logged:
                with context.entered(task):
                    task.logger.info("%s", clean(line, MAX_LINE))
            elif task is not None and sink is not None:
                sink.take(made(time.time(), PRINTED, "", clean(line, MAX_LINE), task, sink.worker))
            else:
                self._before.write(f"{line}\n")
        finally:
            _LINES.reset(token)


class _Stdout(io.TextIOBase):
    """Stands for ``sys.stdout``: what a captured unit prints goes to its lines, all else where it went before."""

    def __init__(self, before: TextIO) -> None:
        self.before = before

    def write(self, text: str) -> int:
        lines = _LINES.get()
        if lines is None:
            return self.before.write(text)
        lines.write(text)
        return len(text)

    def flush(self) -> None:
        self.before.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.before, name)


@contextmanager
def captured(logged: Collection[str]) -> Iterator[None]:
    """Pass on what the block prints, in this thread and those that have its context, to where its run wants it.

    Parameters
    ----------
    logged
        Slugs of nodes whose prints are log records.
    """
    with _LOCK:
        if not isinstance(sys.stdout, _Stdout):
            sys.stdout = _Stdout(sys.stdout)
        before = sys.stdout.before
    lines = Lines(logged, before)
    token = _LINES.set(lines)
    try:
        yield
    finally:
        lines.finish()
        _LINES.reset(token)
        with _LOCK:
            if isinstance(sys.stdout, _Stdout) and threading.current_thread() is threading.main_thread():
                sys.stdout = sys.stdout.before  # the user's own terminal is given back
