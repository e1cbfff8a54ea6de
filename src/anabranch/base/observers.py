"""Observers, kept apart from the run that they observe: each is told in a thread of its own, in order.

The run waits for an observer for a moment, so that what it is told is still true; one that is slow, blocks or raises
changes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from anabranch.base.events import Event, MapAdvanced, Observer, RunFinished

PATIENCE_S = 1.0  # that a run waits for one observer, in all
FAREWELL_S = 2.0  # that the end of a run waits for one that is behind
MAX_BEHIND = 10_000  # events; what maps had reached counts once for each map

_log = logging.getLogger("anabranch.observers")


class Recipient(ABC):
    """An observer that only takes note: it never waits, and needs no thread of its own."""

    @abstractmethod
    def __call__(self, event: Event) -> None:
        """Take note of an event."""


class Apart:
    """An observer that stands for another, which it tells from a thread.

    Parameters
    ----------
    observer
        Who is told.
    patience_s
        Seconds that callers wait for it, in all; default: `PATIENCE_S`.
    """

    def __init__(self, observer: Observer, *, patience_s: float | None = None) -> None:
        self._observer = observer
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._is_telling = False
        self._is_over = False
        """Whether nothing is told any more: the run has ended, or the observer has failed."""
        self._thread: threading.Thread | None = None

    def __call__(self, event: Event) -> None:
        """Have the observer told; returns when it has been, or when patience is used up."""
        with self._changed:
            if self._is_over:
                return
            if isinstance(event, MapAdvanced) and self._events:
                self._forget_older(event)
            self._events.append(event)
            if len(self._events) > MAX_BEHIND:
                self._is_over = True
                self._events.clear()
                _log.warning("an observer is %d events behind and is told nothing more: %r", MAX_BEHIND, self._observer)
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._tell, name="anabranch-observer", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            if self._patience_s > 0:
                began = time.monotonic()
                self._changed.wait_for(self._has_told, self._patience_s)
                waited = time.monotonic() - began
                # What a quick observer takes is no sign that it blocks.
                self._patience_s -= waited if waited > 0.01 else 0.0

    def _forget_older(self, event: MapAdvanced) -> None:
        """Of a map that goes on, what is newest is enough for one who is behind."""
        for place, older in enumerate(self._events):
            if isinstance(older, MapAdvanced) and older.slug == event.slug:
                del self._events[place]
                return

    def _has_told(self) -> bool:
        return self._is_over or not (self._events or self._is_telling)

    def _tell(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_over or self._events)
                if not self._events:
                    return
                event = self._events.popleft()
                self._is_telling = True
            has_failed = False
            try:
                self._observer(event)
            except BaseException:  # whatever it is, it is not the run's
                has_failed = True
                _log.exception("an observer failed and is told nothing more: %r", self._observer)
            with self._changed:
                self._is_telling = False
                if has_failed or isinstance(event, RunFinished):
                    self._is_over = True
                    self._events.clear()
                self._changed.notify_all()

    def close(self, timeout_s: float | None = None) -> None:
        """Wait until it has been told everything, or long enough."""
        with self._changed:
            if not self._changed.wait_for(self._has_told, FAREWELL_S if timeout_s is None else timeout_s):
                _log.warning("an observer has not come back, and is left behind: %r", self._observer)
            self._is_over = True
            self._events.clear()
            self._changed.notify_all()


@contextmanager
def apart(observers: Sequence[Observer]) -> Iterator[list[Observer]]:
    """Observers that stand for these until the block ends."""
    with ExitStack() as around:
        yield [
            each if isinstance(each, Recipient) else around.enter_context(closing(Apart(each))) for each in observers
        ]
