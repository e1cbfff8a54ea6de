"""Machines and their processes: clocks that jump, signals, deaths, pauses, and what the library has threads of."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.parts import Condition, world
from tests.simulation.world import Process, Thread, World

STORE = "store"
"""Name of the clock that all who share the store go by."""


@dataclass(eq=False)
class Life(Process):
    """A process on a machine."""

    host: str = "town"
    born: float = 0.0
    run_id: str = ""
    """The run that it is for."""
    main: Thread | None = None
    handlers: dict[int, Any] = field(default_factory=dict)
    """What it does about signals."""
    pending: list[int] = field(default_factory=list)
    woken: float = 0.0
    """When it last came out of a pause, or will."""
    failed: float = 0.0
    """When the store last failed it, or was slow."""
    is_proof: bool = False
    """Whether no misfortune comes to it: it is a person's."""

    @property
    def pid(self) -> int:
        """Its number."""
        return int(self.name.rpartition(":")[2])


class Town(World):
    """A world of machines, each with a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead: dict[str, float] = defaultdict(float)
        """Seconds that clocks are ahead of the true time, by machine."""
        self.processes: dict[str, Life] = {}
        self._pids = iter(range(100, 10**9))

    def clock(self, host: str) -> float:
        """What a machine's clock says, in seconds since the epoch."""
        return self.now + self.ahead[host]

    @property
    def here(self) -> Life:
        """The process that runs."""
        assert self.current is not None
        assert isinstance(self.current.process, Life)
        return self.current.process

    def start(self, host: str, main: Callable[[], Any], **facts: Any) -> Life:
        """Start a process."""
        life = Life(f"{host}:{next(self._pids)}", host=host, born=self.now, **facts)
        self.processes[life.name] = life
        life.main = self.spawn(life, main)
        return life

    def wait(self, seconds: float | None) -> bool:
        """As `World.wait`; signals that came meanwhile are handled after it."""
        was_told = super().wait(seconds)
        life = self.here
        while life.pending and self.current is life.main:
            self._handle(life, life.pending.pop(0))
        return was_told

    def _handle(self, life: Life, number: int) -> None:
        handler = life.handlers.get(number, signal.SIG_DFL)
        if callable(handler):
            handler(number, None)
        elif handler is not signal.SIG_IGN:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            self.die()

    def send(self, life: Life, number: int) -> None:
        """Send a signal to a process."""
        if not life.is_alive:
            return
        if number == signal.SIGKILL:
            self.kill(life)
        else:
            life.pending.append(number)
            if life.main is not None:
                self.tell(life.main)

    def kill(self, life: Life) -> None:
        """End a process, here and now."""
        if self.current is not None and self.current.process is life:
            self.die()
        elif life.is_alive:
            life.end(self.now)

    def pause(self, life: Life, seconds: float) -> None:
        """Let a process stand still."""
        life.still_until = max(life.still_until, self.now + seconds)
        life.woken = life.still_until


def town() -> Town:
    """The town that is played now."""
    here = world()
    assert isinstance(here, Town)
    return here


# In the place of standard modules -------------------------------------------------------------------------------------


class Event:
    """In the place of `threading.Event`."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[Thread] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            world().tell(thread)

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        here = world()
        if not self._is_set:
            assert here.current is not None
            self._waiting.append(here.current)
            here.wait(timeout)
        return self._is_set


class SimulatedThread:
    """In the place of `threading.Thread`."""

    def __init__(self, *, target: Callable[..., Any], args: tuple[Any, ...] = (), name: str = "", daemon: bool = False):
        self._target = target
        self._args = args
        self._is_over = Event()

    def start(self) -> None:
        here = world()
        assert here.current is not None
        here.spawn(here.current.process, self._run)

    def _run(self) -> None:
        try:
            self._target(*self._args)
        finally:
            self._is_over.set()

    def join(self, timeout: float | None = None) -> None:
        self._is_over.wait(timeout)


class Threading:
    """In the place of `threading`."""

    Condition = Condition
    Event = Event
    Thread = SimulatedThread


class Signal:
    """In the place of `signal`: handlers are the process's own."""

    Signals = signal.Signals
    SIGINT, SIGTERM, SIGKILL, SIG_IGN, SIG_DFL = (
        *(signal.SIGINT, signal.SIGTERM, signal.SIGKILL),
        *(signal.SIG_IGN, signal.SIG_DFL),
    )

    @staticmethod
    def signal(number: int, handler: Any) -> Any:
        handlers = town().here.handlers
        before, handlers[number] = handlers.get(number, signal.SIG_DFL), handler
        return before

    @staticmethod
    def getsignal(number: int) -> Any:
        return town().here.handlers.get(number, signal.SIG_DFL)


class System:
    """In the place of `os`: what one process does to another."""

    @staticmethod
    def getpid() -> int:
        return town().here.pid

    @staticmethod
    def getpgrp() -> int:
        return 0  # that of another

    @staticmethod
    def kill(pid: int, number: int) -> None:
        for life in town().processes.values():
            if life.pid == pid:
                town().send(life, number)
                return


class Time:
    """In the place of `time`: of the machine that the process is on."""

    @staticmethod
    def time() -> float:
        here = town()
        return here.clock(here.here.host)

    @staticmethod
    def monotonic() -> float:
        return town().now

    @staticmethod
    def sleep(seconds: float) -> None:
        here = town()
        end = here.now + seconds
        while here.now < end:  # whatever signals come
            here.sleep(end - here.now)
