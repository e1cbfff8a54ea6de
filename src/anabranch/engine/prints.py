"""Prints of task code that must travel to the driver."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from anabranch import context
from anabranch.engine.failures import clean
from anabranch.engine.units import Printed

MAX_LINES = 1_000  # of one unit; a task that prints without end must not flood the scheduler
MAX_LINE = 2_000  # characters

_LINES: ContextVar[Lines | None] = ContextVar("anabranch_prints", default=None)
_LOCK = threading.Lock()


class Lines:
    """Lines printed while a unit runs; those past the limit are counted only."""

    def __init__(self) -> None:
        self.kept: list[Printed] = []
        self.dropped = 0
        self._begun = ""

    def write(self, text: str) -> None:
        """Take what was printed; a line is one once it ends."""
        *whole, rest = text.split("\n")
        for line in whole:
            self._keep(self._begun + line)
            self._begun = ""
        self._begun = (self._begun + rest)[: MAX_LINE + 1]

    def _keep(self, line: str) -> None:
        if len(self.kept) >= MAX_LINES:
            self.dropped += 1
            return
        slug, map_index = context.get("task_slug", ""), context.get("map_index")
        self.kept.append(Printed(slug, map_index, clean(line, MAX_LINE)))

    def all(self) -> tuple[Printed, ...]:
        """Everything that was printed, and how much of it is missing."""
        if self._begun:
            self._keep(self._begun)
            self._begun = ""
        if self.dropped:
            text = f"({self.dropped:,} more lines were printed and dropped)"
            self.kept.append(Printed(self.kept[-1].slug, None, text))
            self.dropped = 0
        return tuple(self.kept)


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
def captured() -> Iterator[Lines]:
    """Take what the block prints, in this thread and those that have its context."""
    with _LOCK:
        if not isinstance(sys.stdout, _Stdout):
            sys.stdout = _Stdout(sys.stdout)
    lines = Lines()
    token = _LINES.set(lines)
    try:
        yield lines
    finally:
        _LINES.reset(token)
        with _LOCK:
            if isinstance(sys.stdout, _Stdout) and threading.current_thread() is threading.main_thread():
                sys.stdout = sys.stdout.before  # the user's own terminal is given back
