"""One attempt at a task run: call the function within its deadline, turn whatever happens into an outcome."""

from __future__ import annotations

import contextvars
import ctypes
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from anabranch.base.errors import TaskTimeout
from anabranch.engine.worker import slots

_OVERDUE: contextvars.ContextVar[tuple[float, Callable[[str], object]] | None] = contextvars.ContextVar(
    "anabranch_overdue", default=None
)


@contextmanager
def telling_overdue(grace_s: float, tell: Callable[[str], object]) -> Iterator[None]:
    """Within it, `tell` hears of a call in the main thread that goes on so long after its deadline: it catches all.

    It is called by a signal, in the middle of the user's code, with words about the call.
    """
    before = _OVERDUE.set((grace_s, tell))
    try:
        yield
    finally:
        _OVERDUE.reset(before)


class _Deadline(BaseException):
    """Raised inside the user's code at its deadline; no `except Exception` there can swallow it."""


def call_within(
    timeout_s: float | None, function: Callable[..., Any], args: list[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Call a function; a deadline in seconds ends it with `TaskTimeout`.

    In a process's main thread a signal stops it. Elsewhere it runs in a thread of its own, which is abandoned at the
    deadline: an exception is raised in it, but a call into C that does not come back cannot be stopped.
    """
    if timeout_s is None:
        return function(*args, **kwargs)
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        try:
            with _alarm(timeout_s):
                return function(*args, **kwargs)
        except _Deadline:
            raise TaskTimeout(f"ran longer than its timeout of {timeout_s:g} s and was stopped") from None
    return _call_in_thread(timeout_s, function, args, kwargs)


@contextmanager
def _alarm(timeout_s: float) -> Iterator[None]:
    overdue = _OVERDUE.get()
    told: list[str] = []

    def ring(signum: int, frame: object) -> None:
        if not told:
            told.append(f"ran longer than its timeout of {timeout_s:g} s")
            if overdue is not None:
                signal.setitimer(signal.ITIMER_REAL, max(overdue[0], 1e-3))
            raise _Deadline
        if overdue is not None:
            overdue[1](f"{told[0]} and could not be stopped: its code catches everything")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _call_in_thread(timeout_s: float, function: Callable[..., Any], args: list[Any], kwargs: Mapping[str, Any]) -> Any:
    box: dict[str, Any] = {}

    def run(take_slot: Callable[[], None]) -> None:
        try:
            take_slot()
            box["value"] = function(*args, **kwargs)
        except BaseException as error:  # carried to the thread that waits
            box["error"] = error

    surroundings = contextvars.copy_context()
    with slots.lent() as take_slot:
        thread = threading.Thread(target=surroundings.run, args=(run, take_slot), name="anabranch-attempt", daemon=True)
        thread.start()
        thread.join(timeout_s)
        if thread.is_alive():
            stopped = _raise_in(thread)
            how = (
                "its thread was stopped" if stopped else "its thread could not be stopped and goes on in the background"
            )
            raise TaskTimeout(f"ran longer than its timeout of {timeout_s:g} s; {how}")
    if "error" in box:
        raise box["error"]
    return box["value"]


def _raise_in(thread: threading.Thread) -> bool:
    """Raise `_Deadline` in a thread; whether it ended within a moment."""
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Deadline))
    thread.join(0.1)  # long enough for a Python loop to see it; a call into C would take as long as it takes
    return not thread.is_alive()
