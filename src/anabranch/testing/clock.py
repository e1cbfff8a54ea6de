"""A clock that tests move: only what sleeps on it makes time pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import sleep as _really_sleep

from anabranch.base import context
from anabranch.base.errors import OptionError, TaskTimeout
from anabranch.base.names import short

START = datetime(2026, 1, 1, tzinfo=UTC)
"""What a fake clock shows at first, so that a test sees the same times whenever it runs."""


class _Deadline(BaseException):
    """Raised inside a task at its deadline; no `except Exception` there can swallow it."""


class FakeClock:
    """A clock on which an hour takes no time.

    A run on it (see `FlowTester`) moves it instead of waiting. Tasks see it as ``context.now``. For code that calls
    ``time.sleep``, replace that by `sleep` with pytest's ``monkeypatch``.

    Parameters
    ----------
    start
        The aware datetime at which it begins.

    Examples
    --------
    >>> clock = FakeClock()
    >>> clock.sleep(3600)
    >>> clock.now().isoformat()
    '2026-01-01T01:00:00+00:00'
    """

    def __init__(self, start: datetime = START) -> None:
        if not isinstance(start, datetime) or start.tzinfo is None:
            raise OptionError(
                f"FakeClock: expected a start with its zone such as datetime(2026, 1, 1, tzinfo=UTC), found {start!r}"
            )
        self._start_s = self._now_s = start.timestamp()
        self._deadline_s = float("inf")
        self._thread = threading.get_ident()

    def __repr__(self) -> str:
        return f"<FakeClock at {self.now().isoformat()}>"

    def time(self) -> float:
        """Its time in seconds since the epoch."""
        return self._now_s

    def now(self) -> datetime:
        """Its time as an aware datetime."""
        return datetime.fromtimestamp(self._now_s, UTC)

    @property
    def elapsed_s(self) -> float:
        """Seconds since its start."""
        return self._now_s - self._start_s

    def advance(self, seconds: float | timedelta) -> None:
        """Move it forward. In a running task it stops at the task's deadline, and the attempt ends as `TimedOut`.

        Raises
        ------
        OptionError
            The time is negative.
        """
        given_s = _check_seconds(seconds)
        if self._now_s + given_s > self._deadline_s:
            self._now_s = self._deadline_s
            raise _Deadline
        self._now_s += given_s

    def sleep(self, seconds: float | timedelta) -> None:
        """Like `advance`, as a replacement of ``time.sleep`` in tasks and in the thread that made the clock.

        Other threads, for example of libraries, sleep in real time.
        """
        if context.current() is None and threading.get_ident() != self._thread:
            _really_sleep(_check_seconds(seconds))
        else:
            self.advance(seconds)

    @contextmanager
    def deadline(self, timeout_s: float | None) -> Iterator[None]:
        """Within the block, at most this time may pass on this clock.

        Raises
        ------
        TaskTimeout
            More time was to pass.
        """
        before, self._deadline_s = self._deadline_s, float("inf") if timeout_s is None else self._now_s + timeout_s
        try:
            yield
        except _Deadline:
            raise TaskTimeout(f"ran longer than its timeout of {timeout_s:g} s and was stopped") from None
        finally:
            self._deadline_s = before


def _check_seconds(seconds: object) -> float:
    given_s = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    if not isinstance(given_s, (int, float)) or not given_s >= 0:
        raise OptionError(f"FakeClock: expected seconds, none or more, to move it on by, found {short(seconds)}")
    return given_s
