"""Interim reports: what has ended in units that go on, and what these are at.

One thread of the process asks each unit that runs here, four times a second, what there is to tell. It also sees
whether anybody still waits for the unit, so that nothing more of it begins once its run is over.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from anabranch.base import context
from anabranch.engine.units.units import Key, Program, Report, Unit
from anabranch.engine.worker.masked import masked_report

FIRST_S = 0.25  # a unit that is done sooner tells nothing but its report
EVERY_S = 0.25  # with the time that it takes to be recorded, well within the second that is promised
IDLE_S = 5.0  # without any unit, after which the thread ends


class Channel(Protocol):
    """The way from units of a run to its driver."""

    def send(self, report: Report) -> None:
        """Pass a report on; from any thread."""

    def is_wanted(self, key: Key) -> bool:
        """Whether the driver still waits for a unit."""


class Ongoing:
    """A unit that runs here.

    Parameters
    ----------
    program
        Of its run.
    look
        Gives the reports that there are to make since it was last asked.
    """

    def __init__(self, program: Program, key: Key, channel: Channel, look: Callable[[], Iterable[Report]]) -> None:
        self.token = program.run.run_id
        self._program = program
        self.key = key
        self.is_over = False
        """Whether nothing more of the unit should begin."""
        self.due = time.monotonic() + FIRST_S
        self._channel = channel
        self._look: Callable[[], Iterable[Report]] | None = look
        self._lock = threading.Lock()
        self._parts = 0

    def ends(self) -> bool:
        """The same, for those who ask by calling."""
        return self.is_over

    def tell(self) -> None:
        """Send what there is to tell."""
        self.is_over = self.is_over or not self._channel.is_wanted(self.key)
        for report in self.news():
            self._channel.send(report)

    def news(self) -> list[Report]:
        """What there is to tell, for someone who passes it on."""
        with self._lock:
            found = []
            for report in self._look() if self._look is not None else ():
                self._parts += 1
                found.append(masked_report(replace(report, part=self._parts), self._program))
            return found

    def close(self) -> None:
        """Tell nothing more: what is left comes with the unit's own report."""
        with self._lock:
            self._look = None


@contextmanager
def telling(
    unit: Unit, program: Program, channel: Channel | None, look: Callable[[], Iterable[Report]]
) -> Iterator[Ongoing]:
    """While a unit runs: have it tell what has ended; what an interrupted one has not told is kept for `news_of`.

    One whose report had been taken before, and that is made again, has nothing to tell; it ends all the same when
    nobody wants it any more.
    """
    if channel is None:
        yield Ongoing(program, unit.key, _NOBODY, tuple)
        return
    ongoing = Ongoing(program, unit.key, channel, look if unit.before is None else tuple)
    _TELLER.add(ongoing)
    try:
        with context.ending(ongoing.ends):
            yield ongoing
    except BaseException:
        _TELLER.leave(ongoing.token, ongoing.news())
        raise
    finally:
        _TELLER.remove(ongoing)
        ongoing.close()


class _Nobody:
    def send(self, report: Report) -> None:
        """Nobody listens."""

    def is_wanted(self, key: Key) -> bool:
        return True


_NOBODY = _Nobody()


class _Teller:
    """The thread that asks."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.channels: dict[str, Channel] = {}
        self._ongoing: dict[Ongoing, None] = {}
        self._left: dict[str, list[Report]] = {}
        self._thread: threading.Thread | None = None
        self._rests = threading.Event()

    def add(self, ongoing: Ongoing) -> None:
        with self.lock:
            self._ongoing[ongoing] = None
            if self._thread is None:
                self._rests = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._rests,), name="anabranch-interim", daemon=True
                )
                self._thread.start()

    def remove(self, ongoing: Ongoing) -> None:
        with self.lock:
            self._ongoing.pop(ongoing, None)

    def leave(self, token: str, reports: list[Report]) -> None:
        with self.lock:
            self._left.setdefault(token, []).extend(reports)

    def of_run(self, token: str) -> list[Ongoing]:
        with self.lock:
            return [each for each in self._ongoing if each.token == token]

    def take_left(self, token: str) -> list[Report]:
        with self.lock:
            return self._left.pop(token, [])

    def rest(self) -> None:
        """End the thread if nothing runs here: whoever looks at what a run has left sees none."""
        with self.lock:
            thread = None if self._ongoing or self.channels else self._thread
            if thread is not None:
                self._thread = None
                self._rests.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self, rests: threading.Event) -> None:
        last = time.monotonic()
        while not rests.wait(FIRST_S):
            now = time.monotonic()
            with self.lock:
                if self._ongoing:
                    last = now
                elif now - last > IDLE_S and self._rests is rests:
                    self._thread = None
                    return
                due = [each for each in self._ongoing if each.due <= now]
            for ongoing in due:
                ongoing.due = now + EVERY_S
                ongoing.tell()


_TELLER = _Teller()


def _after_fork() -> None:  # the thread is not there any more, and its lock may be held
    global _TELLER
    _TELLER = _Teller()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def open_channel(token: str, channel: Channel) -> None:
    """Let units of a run that run in this process tell its driver."""
    _TELLER.channels[token] = channel


def close_channel(token: str) -> None:
    """End what still runs here of a run, as soon as it can be ended: nothing more of it begins."""
    _TELLER.channels.pop(token, None)
    _TELLER.take_left(token)
    for ongoing in _TELLER.of_run(token):
        ongoing.is_over = True
        ongoing.close()
    _TELLER.rest()


def channel_of(token: str) -> Channel | None:
    """The way to the driver of a run in this process, if it is here and listens."""
    return _TELLER.channels.get(token)


def news_of(token: str) -> list[Report]:
    """What units of a run that run here, or were interrupted, have not told."""
    found = _TELLER.take_left(token)
    for ongoing in _TELLER.of_run(token):
        found += ongoing.news()
    return found


@dataclass(frozen=True, slots=True)
class FunctionChannel:
    """A channel made of two functions."""

    send: Callable[[Report], None]
    is_wanted: Callable[[Key], bool]
