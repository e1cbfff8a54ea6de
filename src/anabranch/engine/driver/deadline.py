"""The time that a run may take, and the interrupt that ends it in the code of a task that runs in the driver's thread.

A signal wakes the main thread where it sleeps. In other threads the interrupt waits until the code is in Python again.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SIGNAL = getattr(signal, "SIGURG", None)
"""Without a handler it does nothing, so that one which comes late is harmless."""


class Overdue(KeyboardInterrupt):
    """Raised in the code of a task when its run has taken too long; no `except Exception` there can swallow it."""


class Deadline:
    """When a run has taken too long.

    Parameters
    ----------
    timeout_s
        Seconds from now; None: never.
    clock
        Seconds, of a clock that is never put back.
    """

    def __init__(self, timeout_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = None if timeout_s is None else clock() + timeout_s
        self._lock = threading.Lock()
        self._is_open = False
        """Whether it may interrupt now."""
        self._is_awaited = False
        """Whether an interrupt is on its way to a thread other than the main one."""
        self._before: Any = None
        """Who had the signal; a run around this one, if it is a handler of ours."""

    @property
    def left_s(self) -> float | None:
        """Seconds that are left; None: any number."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return self.left_s == 0.0

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Within it, this thread is interrupted while it lets itself be."""
        if self.left_s is None:
            yield
            return
        over = threading.Event()
        is_main = threading.current_thread() is threading.main_thread() and hasattr(signal, "pthread_kill")
        args = (threading.get_ident(), is_main, over)
        if is_main and _SIGNAL is not None:
            self._before = signal.signal(_SIGNAL, self._strike)
        threading.Thread(target=self._ring, args=args, name="anabranch-deadline", daemon=True).start()
        try:
            yield
        finally:
            over.set()
            if is_main and _SIGNAL is not None:
                signal.signal(_SIGNAL, self._before)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within it, `Overdue` is raised when the time is over, whatever goes on."""
        self._is_open = True
        try:
            if self.is_over:
                raise Overdue
            yield
        finally:
            with self._lock:  # and what was on its way does not come
                self._is_open = False
                if self._is_awaited:
                    _raise_in(threading.get_ident(), None)

    def _strike(self, number: int, frame: object) -> None:
        if self._is_open and self.is_over:
            self._is_open = False
            raise Overdue
        if callable(self._before):
            self._before(number, frame)

    def _ring(self, thread: int, is_main: bool, over: threading.Event) -> None:
        while left_s := self.left_s:
            if over.wait(left_s):
                return
        with self._lock:
            if not self._is_open:
                return
            if is_main and _SIGNAL is not None:
                signal.pthread_kill(thread, _SIGNAL)
            else:
                self._is_awaited = True
                _raise_in(thread, Overdue)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    exception = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)
