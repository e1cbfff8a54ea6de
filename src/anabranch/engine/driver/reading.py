"""Who reads a stream of a run whose driver is in this process, from another one: they ask for it again and again.

What they have not taken waits here, as the run does not wait for them. Who has not asked for long is forgotten.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from anabranch.base.events import Event
from anabranch.definition.frozen import FrozenNode
from anabranch.definition.policies import Policies
from anabranch.definition.signature import Signature
from anabranch.engine.driver.outlet import Given, Readers, Tap
from anabranch.engine.units.values import dumps

TAKE_NBYTES = 4 << 20  # that a reader gets at once: it passes through the scheduler
FULL_NBYTES = 16 << 20  # that wait for a reader while the run goes on; what is more is looked up later
PATIENCE_S = 60.0  # for which a reader that does not ask may have its reasons

_desks: dict[str, Desk] = {}
"""By run."""


class Reader(Tap):
    """What waits for one reader."""

    def __init__(self, slugs: Iterable[str]) -> None:
        super().__init__(slugs)
        self.asked = time.monotonic()
        self.is_over = False
        """Whether nothing more will come."""
        self._nodes: Mapping[str, FrozenNode] = {}
        self._waiting: deque[tuple[Given, int]] = deque()
        self._nbytes = 0
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Nothing: only what has ended is of interest."""

    def begin(self, nodes: Mapping[str, FrozenNode]) -> None:
        """Keep of the nodes what a reader needs, which need not have what they are made of."""
        self._nodes = {
            slug: replace(
                node,
                signature=Signature(list, node.name),
                policies=Policies(storing=node.policies.storing),
                arguments={},
                checks=(),
                edges=(),
            )
            for slug, node in nodes.items()
        }

    def wants_end(self) -> str:
        """A reader asks for that as anybody else does."""
        return ""

    def give(self, given: Given) -> None:
        """Keep something until it is taken."""
        values = given.values
        if values is not None and not isinstance(values, bytes):
            try:
                values = dumps(values[0] if given.indices[0] < 0 else list(values))
            except BaseException:  # it cannot be pickled: who reads is told that it is not there
                values = None
        nbytes = len(values or b"") + 8 * len(given.codes) + 500 * len(given.records)
        with self._lock:
            self._waiting.append((replace(given, values=values), nbytes))
            self._nbytes += nbytes

    @property
    def is_full(self) -> bool:
        """Whether enough waits for the reader."""
        return self._nbytes > FULL_NBYTES

    def take(self) -> bytes:
        """Some of what waits, pickled: the nodes, what was given, and whether that was all."""
        found: list[Given] = []
        with self._lock:
            is_over, left = self.is_over, TAKE_NBYTES
            while self._waiting and left > 0:
                given, nbytes = self._waiting.popleft()
                self._nbytes -= nbytes
                left -= nbytes
                found.append(given)
            return dumps((self._nodes, found, is_over and not self._waiting))


class Desk(Readers):
    """The readers of one run."""

    def __init__(self) -> None:
        self.is_closed = False
        self._readers: dict[str, Reader] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Nothing: see `present`."""

    def present(self) -> list[Reader]:
        """Readers that have asked not long ago."""
        with self._lock:
            now = time.monotonic()
            self._readers = {name: each for name, each in self._readers.items() if now - each.asked < PATIENCE_S}
            return list(self._readers.values())

    def take(self, name: str, slugs: Iterable[str]) -> bytes | None:
        """What waits for a reader; None if the run has ended before it came."""
        with self._lock:
            if name not in self._readers and not self.is_closed:
                self._readers[name] = Reader(slugs)
            reader = self._readers.get(name)
        if reader is None:
            return None
        reader.asked = time.monotonic()
        return reader.take()

    def leave(self, name: str) -> None:
        """A reader does not ask any more."""
        with self._lock:
            self._readers.pop(name, None)

    def end(self, served: Iterable[Tap]) -> None:
        """Nothing comes any more; what readers have not taken of it waits for those that were `served` to the end."""
        there = set(served)
        with self._lock:
            self.is_closed = True
            self._readers = {name: each for name, each in self._readers.items() if each in there}
            for each in self._readers.values():
                each.is_over = True


@contextmanager
def open_desk(run_id: str, later: Callable[[float, Callable[[], None]], object]) -> Iterator[Desk]:
    """The readers of a run, until a while after the block; `later` has something done after some seconds."""
    desk = _desks[run_id] = Desk()

    def remove() -> None:
        if _desks.get(run_id) is desk:
            del _desks[run_id]

    try:
        yield desk
    finally:
        if not desk.is_closed:
            desk.end(())
        later(PATIENCE_S, remove)


def take(run_id: str, name: str, slugs: Iterable[str]) -> bytes | None:
    """What a reader of a run has not taken yet; None if no driver of that run is here, or it has ended."""
    desk = _desks.get(run_id)
    return desk.take(name, slugs) if desk is not None else None


def leave(run_id: str, name: str) -> None:
    """A reader of a run does not ask any more."""
    desk = _desks.get(run_id)
    if desk is not None:
        desk.leave(name)
