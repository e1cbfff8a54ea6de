"""Interrupts wait while a step is carried out that must be whole."""

from __future__ import annotations

# `signal` wraps these functions to look for each handler among its enumerations, which takes ten times as long.
import _signal as signal  # type: ignore[import-not-found]  # mypy has no stub for it
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptsLater:
    """Let handlers of SIGINT and SIGTERM that are written in Python run at the end of the block, if they are called.

    Only a process's main thread is interrupted by signals; elsewhere this does nothing.
    """

    __slots__ = ("_before", "_came")

    def __enter__(self) -> None:
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._came: list[tuple[int, FrameType | None]] = []
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._came.append((signum, frame))

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if exc_info[0] is None:
            for signum, frame in self._came:
                self._before[signum](signum, frame)
