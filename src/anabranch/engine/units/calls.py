"""Deferred calls as they travel: what a worker tells of those that were made, and what a unit needs to run some.

The calls of one caller (a node, or a map) to one task are a map: its elements are numbered as they become known, its
arguments are *records*, pickled in blocks. A *link* says which elements wait for which. A caller waits like a call
does: its last record holds what its value is put together of.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from anabranch.definition.expressions import Expression
from anabranch.definition.frozen import FrozenNode
from anabranch.engine.units.indices import Indices, Numbers

CALLER = -1
"""Number of the group that is the caller itself, of whose elements the records say how values are put together."""
RECORDS_IN_BLOCK = 100  # so many travel with a unit that needs one of them
BLOCK_NBYTES = 256 << 10  # a block of larger arguments has fewer records


class Need(NamedTuple):
    """A call, or several in a row, whose values an argument takes."""

    called: str
    """Caller and task, such as ``crawl[3]/fetch``."""
    number: int
    """Number of the first among the calls of that caller to that task."""
    group: int
    start: int
    stop: int
    key: str | None
    """The argument; None where the order is all that is meant."""
    is_map: bool
    """Whether it is a map, which stands upstream as one."""
    is_row: bool = False
    """Whether it is a list of calls, each of which stands upstream for itself."""

    def name(self, position: int = 0) -> str:
        """Name of one of the calls."""
        return f"{self.called}[{self.number + position}]"


class Record(NamedTuple):
    """One call as it travels. Plain tuples: there may be a million."""

    called: str
    number: int
    values: tuple[Any, ...]
    """Arguments in the order of the group's names."""
    late: Mapping[str, Expression] | None = None
    """Arguments that hold values of other calls; what is referred to is a position in `needs`."""
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """Elements of a group that others wait for: in a row, each waiter takes the next of them."""

    needed: int
    """Group."""
    start: int
    ends: Numbers
    """Where each waiter's elements end."""
    waiting: int
    """Group, or `CALLER`."""
    waiters: Numbers

    def needed_by(self, position: int) -> range:
        """Elements that the waiter at a position takes."""
        return range(self.ends[position - 1] if position else self.start, self.ends[position])

    def positions(self, waiter: int) -> range:
        """Positions of a waiter."""
        return range(bisect_left(self.waiters, waiter), bisect_right(self.waiters, waiter))

    def overlapping(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Waiters that take some of the elements from `low` to `high`, and how many."""
        if high <= self.start or not len(self.ends) or low >= self.ends[-1]:
            return
        position = bisect_right(self.ends, low)
        before = max(low, self.start)
        while position < len(self.ends) and before < high:
            end = min(self.ends[position], high)
            if end > before:
                yield self.waiters[position], end - before
                before = end
            position += 1


class RecordBlock(NamedTuple):
    """Records that travel together."""

    width: int
    data: bytes
    """The pickled list of them."""
    parcels: tuple[str, ...] = ()
    """Digests of the parcels that they name."""
    borrowed: tuple[str, ...] = ()
    """Slugs of the nodes, which are no maps, whose values they name."""


@dataclass(frozen=True, slots=True)
class CallGroup:
    """Calls to one task."""

    name: str
    identity: str
    """The same for calls to the same task with the same options, in all units of a run."""
    node: FrozenNode
    """Without code of the user's: all that the driver needs to know."""
    definition: Any
    """The node with its code: as it is where everything runs in one process, else pickled."""
    width: int
    blocks: tuple[RecordBlock, ...]


@dataclass(frozen=True, slots=True)
class Expansion:
    """The calls that some elements of a node have made."""

    slug: str
    indices: Indices
    """The elements, in order; ``(-1,)`` for a single node."""
    groups: tuple[CallGroup, ...]
    blocks: tuple[RecordBlock, ...]
    """Records of the caller's elements."""
    links: tuple[Link, ...]
    parcels: Mapping[str, bytes] = field(default_factory=dict)
    """By digest: pickled values that records name."""

    @property
    def nbytes(self) -> int:
        """What the records weigh, and what travels for them."""
        return sum(len(each.data) for each in self._record_blocks()) + sum(map(len, self.parcels.values()))

    @property
    def named(self) -> set[str]:
        """Digests of the parcels that records name."""
        return {each for block in self._record_blocks() for each in block.parcels}

    @property
    def borrowed(self) -> set[str]:
        """Slugs of the nodes whose values records name."""
        return {each for block in self._record_blocks() for each in block.borrowed}

    def _record_blocks(self) -> Iterator[RecordBlock]:
        yield from self.blocks
        for group in self.groups:
            yield from group.blocks

    @property
    def width(self) -> int:
        """Number of calls."""
        return sum(group.width for group in self.groups)


@dataclass(frozen=True, slots=True)
class Placed:
    """An expansion with its place in the run: the slug of each group, and the number there of its first element."""

    expansion: Expansion
    slugs: tuple[str, ...]
    bases: tuple[int, ...]
    void: frozenset[int] = frozenset()
    """Callers' elements that are called again, so that these calls of theirs do not count."""


@dataclass(frozen=True, slots=True)
class Block:
    """Records that a unit needs."""

    indices: Indices
    """Elements that they are of."""
    data: bytes
    places: tuple[tuple[str, int], ...]
    """Of each group of the expansion: its slug, and the number of its first element."""
    parcels: tuple[str, ...] = ()
    borrowed: tuple[str, ...] = ()
    """Both as those of `RecordBlock`."""


@dataclass(frozen=True, slots=True)
class UnitCalls:
    """What a unit needs to run elements that are deferred calls, or that have made some."""

    blocks: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    """By node."""
    definitions: Mapping[str, Any] = field(default_factory=dict)
    assembles: bool = False
    """Whether the first node has made calls that have ended: its value is put together of theirs."""
    parcels: Mapping[str, bytes] = field(default_factory=dict)
    """Those that the records name."""
