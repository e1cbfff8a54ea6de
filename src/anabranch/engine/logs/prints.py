"""Prints of task code that must travel to the driver, or are to be log records; of threads that it starts, too."""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from anabranch.base import context
from anabranch.base.context import TaskContext
from anabranch.base.texts import clean
from anabranch.engine.logs.capture import SPEAKER, sink_of
from anabranch.engine.logs.lines import MAX_LINE, PRINTED, STDERR, made

_VOICE: ContextVar[Voice | None] = ContextVar("anabranch_prints", default=None)
_LOCK = threading.Lock()
_STREAMS = ("stdout", "stderr")


class Lines:
    """Passes on what is printed to a stream while a unit runs, line by line as lines end.

    Parameters
    ----------
    logged
        Slugs of nodes whose prints are log records.
    before
        Where else prints go if they have no need to travel.
    logger
        Name of the logger of lines that are none.
    """

    def __init__(self, logged: Collection[str], before: TextIO, logger: str = "") -> None:
        self._logged = logged
        self._before = before
        self._logger = logger
        self._begun = ""
        self._task: TaskContext | None = None
        """Whose line it is that has begun: it may end when the task has."""

    def write(self, text: str) -> None:
        """Take what was printed; a line is one once it ends."""
        self._task = context.current() or SPEAKER.get() or self._task
        *whole, rest = text.split("\n")
        for line in whole:
            self._pass_on(_as_seen(self._begun + line))
            self._begun = ""
        self._begun = _as_seen(self._begun + rest)[: MAX_LINE + 1]

    def finish(self) -> None:
        """Pass on a line that has not ended."""
        if self._begun:
            self._pass_on(self._begun)
            self._begun = ""

    def _pass_on(self, line: str) -> None:
        task = self._task
        sink = sink_of(task.run_id) if task is not None else None
        token = _VOICE.set(None)  # a handler that prints must not come here again
        try:
            if task is not None and task.task_slug in self._logged:
                with context.entered(task):
                    task.logger.info("%s", clean(line, MAX_LINE))
            elif task is not None and sink is not None:
                sink.take(made(time.time(), PRINTED, self._logger, clean(line, MAX_LINE), task, sink.worker))
            else:
                self._before.write(f"{line}\n")
        finally:
            _VOICE.reset(token)


def _as_seen(line: str) -> str:
    """What a terminal shows of a line in the end: of a progress bar, its last state."""
    return line[line.rfind("\r", 0, -1) + 1 :] if "\r" in line else line


class Voice:
    """What a thread prints, to each of the two streams."""

    def __init__(self, logged: Collection[str], before: tuple[TextIO, TextIO]) -> None:
        self._logged = logged
        self._before = before
        self.lines = (Lines(logged, before[0]), Lines((), before[1], STDERR))

    def of_thread(self) -> Voice:
        """That of a thread which this one starts."""
        return Voice(self._logged, self._before)

    def finish(self) -> None:
        """Pass on what has not ended."""
        for each in self.lines:
            each.finish()


class _Stream(io.TextIOBase):
    """Stands for a stream: what a captured unit prints goes to its lines, all else where it went before."""

    def __init__(self, before: TextIO, number: int) -> None:
        self.before = before
        self._number = number

    def write(self, text: str) -> int:
        voice = _VOICE.get()
        if voice is None or sys._getframe(1).f_code.co_filename == logging.StreamHandler.emit.__code__.co_filename:
            return self.before.write(text)  # what a handler writes was taken as a record
        voice.lines[self._number].write(text)
        return len(text)

    def flush(self) -> None:
        self.before.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.before, name)

    def __del__(self) -> None:
        """Close nothing: the stream is another's, who may have closed it."""


@contextmanager
def captured(logged: Collection[str]) -> Iterator[None]:
    """Pass on what the block prints, in this thread and those that it starts, to where its run wants it.

    Parameters
    ----------
    logged
        Slugs of nodes whose prints are log records.
    """
    with _LOCK:
        for number, name in enumerate(_STREAMS):
            if not isinstance(getattr(sys, name), _Stream):
                setattr(sys, name, _Stream(getattr(sys, name), number))
        threading.Thread.start = _start  # type: ignore[method-assign, assignment]
        out, err = (getattr(sys, name).before for name in _STREAMS)
        voice = Voice(logged, (out, err))
    token = _VOICE.set(voice)
    try:
        yield
    finally:
        voice.finish()
        _VOICE.reset(token)
        with _LOCK:
            if threading.current_thread() is threading.main_thread():  # the user's own terminal is given back
                for name in _STREAMS:
                    if isinstance(stream := getattr(sys, name), _Stream):
                        setattr(sys, name, stream.before)
                threading.Thread.start = _usual_start  # type: ignore[method-assign]


_usual_start = threading.Thread.start


def _start(thread: threading.Thread) -> None:
    """Start a thread, which has the voice of the task that starts it: Python would give it a context of its own."""
    voice, task = _VOICE.get(), context.current() or SPEAKER.get()
    module = getattr(getattr(thread, "_target", None), "__module__", None) or ""
    if voice is not None and task is not None and not module.startswith("distributed."):  # which run tasks of others
        run, own = thread.run, voice.of_thread()

        def speak() -> None:
            _VOICE.set(own)
            SPEAKER.set(task)
            try:
                run()
            finally:
                own.finish()

        thread.run = speak  # type: ignore[method-assign]
    _usual_start(thread)
