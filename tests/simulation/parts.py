"""What is real elsewhere and cannot be in a simulated world: threads of the library's own, clocks, the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from types import SimpleNamespace
from typing import Any, Self, TypeVar
from unittest.mock import patch

from tests.machine_checks import check
from tests.simulation.chance import Chance
from tests.simulation.world import Process, Thread, World

from anabranch import config
from anabranch.base.errors import RunStoreError
from anabranch.definition.frozen import FrozenGraph
from anabranch.engine.driver.permit_desk import PermitDesk
from anabranch.engine.machine.machine import Machine
from anabranch.engine.machine.stimuli import Command, Release, Stimulus, Submit
from anabranch.engine.units.units import Key, Report
from anabranch.engine.worker import interim
from anabranch.engine.worker.interim import EVERY_S, FIRST_S, Ongoing
from anabranch.flows import running, subflows
from anabranch.results import claims
from anabranch.results.claims import BEAT_S, Claim
from anabranch.results.memory import MemoryStore
from anabranch.runs import stored_values
from anabranch.runs.read import lookup
from anabranch.runs.record import backlog, beginning
from anabranch.runs.resume import takeover
from anabranch.runs.store import opening, relational, run_permits
from anabranch.runs.store.heart import _LOOK_S, Heart
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.run_permits import RunPermits
from anabranch.runs.store.schema import SQLITE, statements
from anabranch.runs.store.sqlite import _Sqlite, _within

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where the library lives: a world, with its store, and who there is known to be dead."""

    world: World
    store: RelationalRunStore
    is_dead: Callable[[str], bool]
    is_asked: bool
    """Whether somebody may ask for the end of a run by its store."""
    numbers: Iterator[int]


_HERE: list[Place] = []
"""What is played."""


def world() -> World:
    """The world that is played now."""
    return _HERE[-1].world


def _now() -> float:
    return _HERE[-1].world.now


# Interim reports ------------------------------------------------------------------------------------------------------


class Teller:
    """In the place of the thread that asks units what has ended: a simulated thread for each unit."""

    def __init__(self) -> None:
        self.channels: dict[str, Any] = {}
        self._ongoing: dict[Ongoing, Process] = {}

    def clear(self) -> None:
        self._ongoing.clear()

    def add(self, ongoing: Ongoing) -> None:
        here = world()
        assert here.current is not None
        process = self._ongoing[ongoing] = here.current.process
        here.after(FIRST_S, partial(self._begin, ongoing), process)

    def _begin(self, ongoing: Ongoing) -> None:
        if ongoing in self._ongoing:  # most units have ended by then
            world().begin(self._ongoing[ongoing], partial(self._tell, ongoing))

    def _tell(self, ongoing: Ongoing) -> None:
        while ongoing in self._ongoing:
            ongoing.tell()
            world().sleep(EVERY_S)

    def remove(self, ongoing: Ongoing) -> None:
        self._ongoing.pop(ongoing, None)

    def leave(self, token: str, reports: list[Report]) -> None:
        """An interrupted unit: its process is gone."""

    def of_run(self, token: str) -> list[Ongoing]:
        here = world().current
        assert here is not None
        return [each for each, process in self._ongoing.items() if process is here.process and each.token == token]

    def take_left(self, token: str) -> list[Report]:
        return []

    def rest(self) -> None:
        """No thread is there."""

    def news_from(self, processes: Sequence[Process], token: str) -> list[Report]:
        """What units of a run have to tell that go on in these processes."""
        found = []
        for ongoing, process in list(self._ongoing.items()):
            if ongoing.token == token and process in processes:
                found += ongoing.news()
        return found


TELLER = Teller()


class ClaimHeart:
    """In the place of the thread that gives signs of life for claims: a simulated one for each claim."""

    def __init__(self) -> None:
        self._processes: dict[Claim, Process] = {}

    def clear(self) -> None:
        self._processes.clear()

    def add(self, claim: Claim) -> None:
        here = world()
        assert here.current is not None
        self._processes[claim] = here.current.process
        here.spawn(here.current.process, lambda: self._beat(claim), BEAT_S)

    def forget(self, claim: Claim) -> None:
        self._processes.pop(claim, None)

    def _beat(self, claim: Claim) -> None:
        while claim in self._processes:
            claim.beat()
            world().sleep(BEAT_S)

    def is_gone(self, holder: dict[str, object]) -> bool:
        """Whether who holds a claim is known to be dead."""
        held = [process for claim, process in self._processes.items() if claim.owner == holder.get("owner")]
        return not held or any(_HERE[-1].is_dead(process.name) for process in held)


CLAIM_HEART = ClaimHeart()


class SimulatedHeart(Heart):
    """Beats in simulated time."""

    def __enter__(self) -> Self:
        here = world()
        assert here.current is not None
        here.spawn(here.current.process, self._beat, self._interval_s)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()

    def look(self) -> None:
        """Look whether somebody wants the run to end, in worlds where somebody may ask by the run store."""
        if _HERE[-1].is_asked:
            super().look()

    def _beat(self) -> None:
        here, looks_s = world(), _LOOK_S if _HERE[-1].is_asked else self._interval_s
        beat_at = here.now
        while not self._stop.is_set():
            if here.now < beat_at:
                self.look()
            elif self.beat():
                beat_at = here.now + self._interval_s
            else:
                return
            here.sleep(min(looks_s, max(0.0, beat_at - here.now)))


class Condition:
    """In the place of `threading.Condition`; there is nothing to lock, as a thread goes on until it waits."""

    def __init__(self) -> None:
        self._waiting: list[Thread] = []

    def __enter__(self) -> None:
        """Nobody else runs."""

    def __exit__(self, *exc_info: object) -> None:
        """Nobody else has run."""

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        here = world()
        end = here.now + timeout if timeout is not None else None
        while not (found := predicate()):
            if end is not None and here.now >= end:
                break
            assert here.current is not None
            self._waiting.append(here.current)
            here.wait(end - here.now if end is not None else None)
        return found

    def notify_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            world().tell(thread)


@dataclass
class SimulatedThread:
    """In the place of `threading.Thread`."""

    target: Callable[[], None]
    name: str
    daemon: bool

    def start(self) -> None:
        here = world()
        assert here.current is not None
        here.spawn(here.current.process, self.target)


THREADING = SimpleNamespace(Condition=Condition, Thread=SimulatedThread)


def _at_once(act: Callable[[], T]) -> Future[T]:
    """What a thread of its own would have done by the time that its answer is looked at."""
    answer: Future[T] = Future()
    try:
        answer.set_result(act())
    except Exception as error:
        answer.set_exception(error)
    return answer


# The store ------------------------------------------------------------------------------------------------------------


@cache
def _tables() -> tuple[sqlite3.Connection, list[str]]:
    """The tables of a process: statements are read once, not once a world."""
    connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=1_000)
    for statement in statements(SQLITE):
        connection.execute(statement)
    return connection, [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


class Touches:
    """The tables of the store, in memory; each touch may fail, or be the last thing that a process does.

    Parameters
    ----------
    one_in
        How often a touch fails; 0: never.
    """

    lock_clause = skip_clause = announcement = ""

    def __init__(self, chance: Chance, *, one_in: int) -> None:
        self._connection, tables = _tables()
        for name in tables:
            self._connection.execute(f"DELETE FROM {name}")
        self._chance = chance
        self._one_in = one_in
        self.happens: dict[int, Callable[[], None]] = {}
        """By number of a touch: what happens before it, to the process that touches."""
        self.happens_after: dict[int, Callable[[], None]] = {}
        self.count = self.writes = 0
        self.watch: Callable[[], None] | None = None
        """Called after each write."""
        self.fails_until = 0.0
        self.is_calm = False

    def write(self, act: Callable[[Any], T], *, durable: bool = False) -> T:
        return self._touch(act, is_write=True)

    def read(self, act: Callable[[Any], T]) -> T:
        return self._touch(act, is_write=False)

    def peek(self, act: Callable[[Any], T]) -> T:
        """Read without being seen; in no transaction, as nobody writes meanwhile."""
        return act(_Sqlite(self._connection))

    def _do(self, act: Callable[[Any], T], *, is_write: bool) -> T:
        if not is_write:
            return self.peek(act)
        self.writes += 1
        return _within(self._connection, "BEGIN", act)

    def _touch(self, act: Callable[[Any], T], *, is_write: bool) -> T:
        here = world()
        if here.is_over or here.current is None:
            raise RunStoreError("the world is over")
        if here.current.process.name == "reader":
            return self._do(act, is_write=is_write)
        self.count += 1
        number = self.count
        if number in self.happens:
            self.happens[number]()
        fails = here.now < self.fails_until or (
            self._one_in > 0 and not self.is_calm and self._chance.happens(self._one_in)
        )
        if fails and self._chance.happens(2):
            raise RunStoreError("the store does not answer")
        found = self._do(act, is_write=is_write)
        if is_write and self.watch is not None:
            self.watch()
        if number in self.happens_after:
            self.happens_after[number]()
        if fails:
            raise RunStoreError("the store's answer was lost")
        return found

    def now(self) -> int:
        return round(world().now * 1e6)

    def check(self) -> list[str]:
        return []

    def compact(self) -> None:
        """Nothing."""

    def describe(self) -> dict[str, str]:
        return {"kind": "simulated", "location": "a world"}

    def close(self) -> None:
        """Nothing: others have it open."""


@dataclass(frozen=True)
class Doubles:
    """What tasks have in place of time, and of their functions."""

    world: World
    stand_in: Any
    """Gives the node that is run in the place of another."""
    has_values: bool = False

    def time(self) -> float:
        return self.world.now

    def sleep(self, seconds: float) -> None:
        self.world.sleep(seconds)


class Shelf(MemoryStore):
    """Where the values of tasks are stored: all processes of a world share it."""

    of_one_process = False


SHELF = Shelf("simulated")

# All of it ------------------------------------------------------------------------------------------------------------


@contextmanager
def simulated(
    here: World, store: RelationalRunStore, is_dead: Callable[[str], bool], *, is_asked: bool = False
) -> Iterator[None]:
    """Within the block, the library lives in a simulated world."""
    _HERE.append(Place(here, store, is_dead, is_asked, count(1)))
    SHELF.objects.clear()
    try:
        yield
    finally:
        TELLER.clear()
        CLAIM_HEART.clear()
        _HERE.pop()


def _name_process() -> str:
    current = world().current
    return current.process.name if current is not None else "nobody"


def _is_dead(owner: str, born: str) -> bool:
    return _HERE[-1].is_dead(owner)


_CHANGES: list[tuple[object, str, Any]] = [
    (interim, "_TELLER", TELLER),
    (running, "Heart", SimulatedHeart),
    (backlog, "threading", THREADING),
    (run_permits, "_apart", _at_once),
    (backlog, "time", SimpleNamespace(sleep=lambda seconds: world().sleep(seconds))),
    (opening, "_kept_open", lambda *args, **options: _HERE[-1].store),
    (relational, "name_process", _name_process),
    (relational, "_here", lambda now: round(_now() * 1e6)),
    (relational, "sleepless_clock", _now),
    (relational, "token_hex", lambda n=12: f"token-{next(_HERE[-1].numbers)}"),
    (lookup, "is_dead", _is_dead),
    (takeover, "is_dead", _is_dead),
    (claims, "_HEART", CLAIM_HEART),
    (claims, "_is_gone", CLAIM_HEART.is_gone),
    (stored_values, "threading", THREADING),
    (stored_values, "describe_code_of", lambda node, storing: storing),
    (subflows, "time", SimpleNamespace(sleep=lambda seconds: world().sleep(seconds))),
]


@contextmanager
def settings_of_simulations() -> Iterator[None]:
    """Within the block, worlds can be played: machines are checked after each step; the code of tasks never changes."""
    with ExitStack() as stack:
        stack.enter_context(config.set(backend="memory://", progress="never"))
        for where, name, what in _CHANGES:
            stack.enter_context(patch.object(where, name, what))
        for made in (backlog.Backlog.__init__, RunPermits.__init__, PermitDesk.__init__, Heart.__init__):
            stack.enter_context(patch.dict(made.__kwdefaults__, clock=_now))
        stack.enter_context(patch.dict(PermitDesk.__init__.__kwdefaults__, jitter=lambda: 1.0))
        stack.enter_context(patch.dict(claims.value_or_claim.__kwdefaults__, clock=_now))
        stack.enter_context(patch.object(beginning, "fingerprints", _places_of))
        stack.enter_context(patch.object(takeover, "fingerprints", _places_of))
        stack.enter_context(patch.object(Machine, "handle", _handle))
        yield


_usual = Machine.handle


def _handle(self: Machine, stimulus: Stimulus) -> list[Command]:
    commands = _usual(self, stimulus)
    check(self)
    _check_keys(self, commands)
    return commands


def _check_keys(machine: Machine, commands: Sequence[Command]) -> None:
    """Raise `AssertionError` if the driver is left with keys that the machine does not need, or keeps in vain."""
    held: set[Key] = machine.__dict__.setdefault("held_by_driver", set())
    for command in commands:
        if isinstance(command, Submit):
            held.update(unit.key for unit in command.units)
        elif isinstance(command, Release):
            held.difference_update(command.keys)
    known = machine._known
    forgotten = [key for key in held if key not in known.units and not known.is_held(key)]
    assert not forgotten, f"keys are not let go: {forgotten}"
    for run in machine.runs.values():
        key = run.key
        if key is not None and run.is_final and run.value is not None and known.is_held(key):
            assert key in known.units or known._takers[key] > 0, f"a key is kept whose value is here: {key}"


def _places_of(graph: FrozenGraph) -> dict[str, str]:
    """What tells the nodes of a flow from those of another, where their code is the same."""
    return {slug: f"{node.kind} {node.edges}" for slug, node in graph.nodes.items() if node.kind != "parameter"}
