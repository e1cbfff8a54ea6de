"""The simulated world: a clock that jumps to whatever happens next, and processes with threads that are greenlets.

One real thread runs everything, so that the same choices give the same world. Threads of a process that died or stands
still are not woken; code between two waits is never interrupted.
"""

from __future__ import annotations

import contextlib
import contextvars
import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

T = TypeVar("T")

BEGIN_S = 1_700_000_000.0
AWAKE_S = 5.0
"""Between two stops, a process that is awake for less is one that stands still."""


class Stuck(AssertionError):
    """Nothing can happen any more, or too much has, before what was waited for."""


@dataclass(eq=False)
class Process:
    """A process: alive or not, and perhaps standing still for a while."""

    name: str
    is_alive: bool = True
    still_from: float = 0.0
    still_until: float = 0.0
    ended: float = 0.0
    """When it died; 0: it lives, or came to its own end."""
    left: float = 0.0
    """When it came to its own end."""
    at_end: list[Callable[[], None]] = field(default_factory=list)
    """What others see of its end."""

    def stand_still(self, now: float, seconds: float) -> None:
        """Do nothing for a while, as if it were stopped."""
        if self.is_alive:
            self.still_from = self.still_from if self.still_until > now - AWAKE_S else now
            self.still_until = max(self.still_until, now + seconds)

    def silent_from(self, since: float, now: float) -> float:
        """When after some time it died, or stood still; otherwise, now."""
        still = self.still_from if self.still_until > since else now
        return max(since, min(self.ended or now, still))

    def end(self, now: float) -> None:
        """Be gone."""
        self.is_alive, self.ended = False, now
        for see in self.at_end:
            see()


@dataclass(eq=False)
class Thread:
    """A thread of a process."""

    process: Process
    greenlet: greenlet
    waits: int = 0
    """Number of its wait: one that is over is not ended again."""
    was_told: bool = False


class World:
    """Time, and what happens in it."""

    def __init__(self) -> None:
        self.now = BEGIN_S
        self.is_over = False
        self.events: list[str] = []
        """What happened, for people."""
        self.current: Thread | None = None
        self.steps = 0
        self.progress = 0
        """Step at which something came about last that runs are for."""
        self._hub = getcurrent()
        self._queue: list[tuple[float, int, Process | None, Callable[[], None]]] = []
        self._serial = 0
        self._threads: list[Thread] = []

    def time(self) -> float:
        """Seconds since the epoch."""
        return self.now

    def note(self, text: str) -> None:
        """Remember what happened."""
        self.events.append(f"{self.now - BEGIN_S:10.3f} {text}")

    def after(self, seconds: float, act: Callable[[], None], process: Process | None = None) -> None:
        """Let something happen later, unless the process in which it would is gone by then."""
        self._serial += 1
        heapq.heappush(self._queue, (self.now + seconds, self._serial, process, act))

    # Threads ----------------------------------------------------------------------------------------------------------

    def spawn(self, process: Process, run: Callable[[], Any], after_s: float = 0.0) -> Thread:
        """Start a thread of a process."""
        thread = self._new_thread(process, run)
        self.after(after_s, partial(self._switch, thread), process)
        return thread

    def begin(self, process: Process, run: Callable[[], Any]) -> None:
        """Start a thread of a process now, where nothing else goes on."""
        self._switch(self._new_thread(process, run))

    def _new_thread(self, process: Process, run: Callable[[], Any]) -> Thread:
        thread = Thread(process, greenlet(run, self._hub))
        thread.greenlet.gr_context = contextvars.copy_context()
        self._threads.append(thread)
        return thread

    def _switch(self, thread: Thread) -> None:
        if thread.greenlet.dead:
            return
        before, self.current = self.current, thread
        thread.greenlet.switch()
        self.current = before

    def wait(self, seconds: float | None) -> bool:
        """Let the thread that runs wait to be told, for so many seconds at most; whether it was told."""
        if self.is_over:
            raise GreenletExit
        thread = self.current
        assert thread is not None, "only a thread can wait"
        thread.waits += 1
        thread.was_told = False
        number = thread.waits
        if seconds is not None:
            self.after(seconds, partial(self._end_wait, thread, number, told=False), thread.process)
        self._hub.switch()
        if self.is_over:
            raise GreenletExit
        return thread.was_told

    def tell(self, thread: Thread) -> None:
        """End the wait of a thread, if it waits, as soon as others have had their turn."""
        number = thread.waits
        self.after(0.0, partial(self._end_wait, thread, number, told=True), thread.process)

    def _end_wait(self, thread: Thread, number: int, *, told: bool) -> None:
        if thread.waits == number:
            thread.waits += 1
            thread.was_told = told
            self._switch(thread)

    def sleep(self, seconds: float) -> None:
        """Let time pass for the thread that runs."""
        self.wait(seconds)

    def stand_still(self, seconds: float) -> None:
        """Let the process of the thread that runs do nothing for a while, from here and now on."""
        assert self.current is not None
        self.note(f"{self.current.process.name} stands still for {seconds:.1f} s")
        self.current.process.stand_still(self.now, seconds)
        self.sleep(0.0)

    def die(self) -> None:
        """End the process of the thread that runs, here and now."""
        assert self.current is not None
        self.current.process.end(self.now)
        self._hub.switch()
        raise GreenletExit  # the world is over

    # Running ----------------------------------------------------------------------------------------------------------

    def run(self, is_done: Callable[[], bool], *, limit_s: float, most_steps: int) -> None:
        """Let things happen until something is so.

        Raises
        ------
        Stuck
            It does not come to that.
        """
        end, queue = self.now + limit_s, self._queue
        while not is_done():
            self.steps += 1
            if not queue or queue[0][0] > end or self.steps - self.progress > most_steps:
                why = "nothing happens any more" if not queue else f"{self.steps} steps, {self.now - BEGIN_S:.0f} s"
                raise Stuck(why)
            when, _, process, act = heapq.heappop(queue)
            if process is not None:
                if not process.is_alive:
                    continue
                if process.still_until > when:
                    self._serial += 1
                    heapq.heappush(queue, (process.still_until, self._serial, process, act))
                    continue
            if when > self.now:
                self.now = when
            act()

    def close(self) -> None:
        """End every thread."""
        self.is_over = True
        for thread in self._threads:
            while thread.greenlet and not thread.greenlet.dead:
                self.current = thread
                with contextlib.suppress(Exception):  # of code that takes its end for an error of the user's
                    thread.greenlet.throw(GreenletExit)
        self._queue.clear()


@dataclass(eq=False)
class Inbox(Generic[T]):
    """Messages for one thread, in the order in which they arrive."""

    world: World
    thread: Thread | None = None
    items: deque[T] = field(default_factory=deque)

    def put(self, item: T) -> None:
        """Leave a message."""
        self.items.append(item)
        if self.thread is not None:
            self.world.tell(self.thread)


class Pipe:
    """A connection: what is sent arrives later, in order."""

    def __init__(self, world: World, latency: Callable[[], float]) -> None:
        self._world = world
        self._latency = latency
        self._last = 0.0

    def send(self, act: Callable[[], None]) -> None:
        """Let something arrive."""
        self._last = max(self._last, self._world.now + self._latency())
        self._world.after(self._last - self._world.now, act)
