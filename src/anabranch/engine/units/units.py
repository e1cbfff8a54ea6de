"""What is sent to run and what comes back: units, their outcomes, and their reports.

A *unit* is one Dask task: a single node or a straight line of them, or a chunk of elements of one or more maps that
share an element space. Its *outcome* (states and values) stays where it was made, under the unit's key; its *report*
(states and small values) goes to the driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

from anabranch.base.context import RunInfo
from anabranch.base.states import (
    BY_CODE,
    FIRST_FINAL_CODE,
    Cached,
    Pending,
    State,
    Success,
)
from anabranch.definition.frozen import FrozenNode
from anabranch.engine.units.calls import Expansion, UnitCalls
from anabranch.engine.units.indices import Indices
from anabranch.results.reference import ResultRef

Key: TypeAlias = tuple[str, int]
Refs: TypeAlias = tuple[tuple[Indices, ResultRef], ...]
"""Stored objects, with the elements that are to be had from each."""
Progress: TypeAlias = tuple[int, Any, int]
"""Where a task run goes on: the round of its loop, what the one before gave, and how often it has raised RETRY."""
Note: TypeAlias = tuple[str, Mapping[str, str]]
"""What looking for a cached value came to, and the digests of the key by part."""


class Doubles(Protocol):
    """A clock, and stand-ins for the functions of tasks."""

    @property
    def has_values(self) -> bool:
        """Whether values are made up, so that no value of the run may be stored, nor a stored one be used."""
        ...

    def time(self) -> float:
        """Seconds since the epoch."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def stand_in(self, node: FrozenNode) -> FrozenNode:
        """The node to be run in the place of one of the run: the same but for its function and isolation."""
        ...


@dataclass(frozen=True, slots=True)
class CallStoring:
    """What becomes of values of deferred calls, as far as neither task nor caller says it."""

    result: Any = None
    """The flow's Result, if it has one."""
    checkpointing: bool = False
    """Whether values are stored of tasks that say nothing of it."""
    is_resumed: bool = False
    """Whether the run went on."""
    is_off: bool = False
    """Whether nothing is stored, whatever they say."""
    directory: str = ""
    """Of the driver, for values for which nobody has named a result."""
    host: str = ""
    """Name of the driver's machine, which that directory is on."""
    only_in: str = ""
    """Directory in which all values are, whatever results are named: a test's."""


NO_CALL_STORING = CallStoring()


@dataclass(frozen=True, slots=True)
class Program:
    """Everything of a flow run that units share: shipped once, kept by each process that runs units of the run."""

    run: RunInfo
    nodes: dict[str, FrozenNode]
    values: Mapping[str, Any]
    """Values that are known before anything runs: the flow's parameters, by slug."""
    settings: Mapping[str, Any]
    """The ``engine`` settings of the driver."""
    calls: CallStoring = NO_CALL_STORING
    definitions: dict[str, Any] = field(default_factory=dict)
    """Of nodes that deferred calls have added, as they came with units."""
    doubles: Doubles | None = None
    """What a test has put in the place of the clock and of functions; never leaves the process."""

    def add(self, node: FrozenNode) -> None:
        """Have a node run as one of the flow's."""
        self.nodes[node.slug] = node if self.doubles is None else self.doubles.stand_in(node)


@dataclass(frozen=True, slots=True)
class Held:
    """The outcome of an upstream node is in the outcome of the unit with this key."""

    key: Key
    seal: bytes | None = None
    """What was reported of it, see `SingleReport`; None: nothing yet, so that the unit says what it found."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of an upstream node travels with the unit: a small value needs no worker to keep it, or be near."""

    state: State
    value: bytes
    """The pickled value."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The value of an upstream node is where the task's result has put it."""

    state: State
    ref: ResultRef


@dataclass(frozen=True, slots=True)
class CutFrom:
    """The elements that a chunk needs of a list are cut from the outcome under this key, where that lies."""

    key: Key
    seal: bytes | None = None
    """As that of `Held`."""


@dataclass(frozen=True, slots=True)
class Holding:
    """Elements of a map that are in the outcome of one unit, as they were reported.

    Dask makes a value again that was lost with its worker. What is made again may hold less, or something else: so who
    takes elements takes these, and only if they are what they were.
    """

    key: Key
    indices: Indices | None
    """None where no driver was told of any: whatever there is, is taken."""
    codes: bytes = b""
    """Of their states, in the order of the indices; empty if all are plain Success."""

    def fits(self, codes: bytes) -> bool:
        """Whether these are the codes of the same states; that a value was found and not computed makes no odds."""
        return codes.translate(_ALIKE) == (self.codes.translate(_ALIKE) or bytes([SUCCESS]) * len(codes))


@dataclass(frozen=True, slots=True)
class Pieces:
    """The elements of an upstream map are in the outcomes of these chunks."""

    holdings: tuple[Holding, ...]
    state: State
    """The map's own state, with its counts; Running where only some elements are asked for."""
    settled: Mapping[int, State] = field(default_factory=dict)
    """Elements without a value that are in no chunk, because each one with them was lost."""
    given: tuple[tuple[Indices, bytes], ...] = ()
    """Pickled lists of values of elements that are in no chunk any more."""
    stored: Refs = ()
    """Where values are stored of elements that are in no chunk any more."""


@dataclass(frozen=True, slots=True)
class Known:
    """An upstream node that has a state and no value: it was not run."""

    state: State


Input: TypeAlias = Held | CutFrom | Sent | Stored | Pieces | Known


@dataclass(frozen=True, slots=True)
class Before:
    """What was reported of a unit whose outcome was lost, so that it is made again as it was."""

    begun: int
    """Nodes of a line or bundle, or elements of a chunk; the rest was handed back, and is elsewhere."""
    unfinished: Mapping[str, frozenset[int]]
    """By slug: elements (-1: a single node) that had not ended; they end elsewhere."""
    ended: Mapping[str, SingleReport | ColumnReport]
    """By slug: what was reported; of what all was, or is stored, nothing is made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One Dask task.

    `nodes` are run one after the other. With `indices`, they are maps and each is run for these elements.
    """

    key: Key
    nodes: tuple[str, ...]
    inputs: Mapping[str, Input] = field(default_factory=dict)
    """Where the outcomes are, by slug, of the upstream nodes outside of the unit that are needed as a whole."""
    elements: Mapping[str, Input] = field(default_factory=dict)
    """Where the elements are, by slug, of what the unit's maps go through element by element."""
    attempts: Mapping[int, int] = field(default_factory=dict)
    """Number of the first node's attempt by element (-1: a single node) where it is not the first."""
    indices: Indices | None = None
    slices: Mapping[tuple[str, str], Sequence[Any]] = field(default_factory=dict)
    """Elements of constant arguments, by node and argument, in the order of `indices`."""
    keep: frozenset[str] = frozenset()
    """Nodes whose values are needed once the unit is done."""
    loops: Mapping[int, Progress] = field(default_factory=dict)
    """Where the first node goes on, by element (-1: a single node), if that is not at its beginning."""
    reduces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For maps of the unit: nodes that reduce their values, chunk by chunk."""
    give_up_s: float | None = None
    """Seconds after which a chunk hands back what it has not begun."""
    is_suspect: bool = False
    """Whether it was on a worker that died: it runs alone in its process, and says when it begins."""
    approved: frozenset[str] = frozenset()
    asks_names: bool = False
    """Whether only the names are wanted that the templates of its node's limits make."""
    names: tuple[str, ...] = ()
    """Those names, once they are known: all elements have the same."""
    lanes: int | None = None
    """Elements that may be awaited side by side, if that is for limits to say."""
    calls: UnitCalls | None = None
    """Of elements that are deferred calls, or that have made some."""
    before: Before | None = None
    """What was reported when it ran before, if Dask makes it again because its outcome was lost."""

    def again(self, before: Before) -> Unit:
        """The same as Dask makes it again: what had been begun, all of it."""
        nodes = self.nodes[: before.begun] if self.indices is None else self.nodes
        indices = None if self.indices is None else self.indices[: before.begun]
        return replace(self, nodes=nodes, indices=indices, give_up_s=None, before=before)

    def upstream_keys(self) -> Iterator[Key]:
        """Keys of the units whose outcomes this one needs, each once."""
        seen: dict[Key, None] = {}
        for source in (*self.inputs.values(), *self.elements.values()):
            if isinstance(source, (Held, CutFrom)):
                seen[source.key] = None
            elif isinstance(source, Pieces):
                seen.update((each.key, None) for each in source.holdings)
        return iter(seen)


@dataclass(frozen=True, slots=True)
class Outcome:
    """State and value of a task run."""

    state: State
    value: Any = None
    pickled: bytes | None = None
    """The value's pickle, where it was made to see that it can be."""
    nbytes: int = 0
    ref: ResultRef | None = None
    """Where the value is stored."""
    note: Note | None = None
    seal: bytes = b""
    """Of a node's outcome that others take: that of its report."""


@dataclass(slots=True)
class Column:
    """States and values of one map in one chunk, in the order of `indices`."""

    indices: Indices
    codes: bytes
    values: list[Any]
    """The value of a successful element, the exception of a failed one, what SKIP gave for a skipped one."""
    records: Mapping[int, State]
    """States of what is not plain Success, by element."""

    def outcome(self, position: int) -> Outcome:
        """State and value of the element at a position of `indices`."""
        index = self.indices[position]
        state = self.records.get(index)
        if state is None:
            state = BY_CODE[self.codes[position]](map_index=index)
        return Outcome(state, self.values[position])

    def part(self, holding: Holding) -> Column | None:
        """Those elements, if they are here and as they were reported; None if not."""
        if holding.indices is None or (holding.indices == self.indices and holding.fits(self.codes)):
            return self
        mine, theirs = self.indices, holding.indices
        if isinstance(mine, range) and isinstance(theirs, range):
            if theirs.start < mine.start or theirs.stop > mine.stop:
                return None
            low, high = theirs.start - mine.start, theirs.stop - mine.start
            codes, values = self.codes[low:high], self.values[low:high]
        else:
            places = {index: position for position, index in enumerate(mine)}
            positions = [places.get(index, -1) for index in theirs]
            if min(positions, default=0) < 0:
                return None
            codes = bytes(self.codes[position] for position in positions)
            values = [self.values[position] for position in positions]
        if not holding.fits(codes):
            return None
        wanted = theirs if isinstance(theirs, range) else frozenset(theirs)
        return Column(theirs, codes, values, {i: state for i, state in self.records.items() if i in wanted})


@dataclass(frozen=True, slots=True)
class Partial:
    """What the values of some elements of a map were reduced to."""

    indices: range
    codes: bytes
    value: Any

    def is_all_of(self, holding: Holding) -> bool:
        """Whether it is of these elements, and no others, as they were reported."""
        return holding.indices is None or (holding.indices == self.indices and holding.fits(self.codes))


@dataclass(frozen=True, slots=True)
class SingleReport:
    """How one node ended."""

    slug: str
    state: State
    value: bytes | None = None
    """The pickled value where it is small."""
    width: int | None = None
    """Number of elements, if a map takes them from here."""
    unmappable: str = ""
    """Why a map cannot take elements from here."""
    ref: ResultRef | None = None
    """Where the value is stored."""
    note: Note | None = None
    loop_count: int = 1
    """Round of its loop in which it ended."""
    seal: bytes = b""
    """What tells its outcome from another that Dask may make again: a digest of what is reported of the value."""

    @classmethod
    def handed_back(cls, slug: str) -> SingleReport:
        """Of a node that the unit has not begun."""
        return cls(slug, Pending(message="handed back"))

    @property
    def is_handed_back(self) -> bool:
        """Whether the unit has not begun the node."""
        return isinstance(self.state, Pending) and self.state.code == Pending.code


@dataclass(frozen=True, slots=True)
class ColumnReport:
    """How the elements of one map ended, in the order of the chunk's indices."""

    slug: str
    codes: bytes
    records: Mapping[int, State]
    values: bytes | None = None
    """The pickled list of values, of the final elements only, where it is small."""
    refs: Refs = ()
    """Where the values of all successful elements are stored, if they are."""
    notes: Mapping[int, Note] = field(default_factory=dict)
    """By element, where values are looked for by key."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the driver learns of a unit."""

    key: Key
    singles: tuple[SingleReport, ...] = ()
    columns: tuple[ColumnReport, ...] = ()
    indices: Indices | None = None
    """Elements that were begun; the rest of the unit's is handed back."""
    seconds: float = 0.0
    """Wall time of the elements."""
    last_s: float = 0.0
    """Of a chunk that hands elements back: seconds that the last one took."""
    names: tuple[tuple[str, ...], ...] = ()
    """Of a unit that asks for names: those of its elements, or of its single node."""
    ended_s: tuple[float, ...] = ()
    """Of a map with a rate: how many seconds before the report its elements ended."""
    nbytes: int = 0
    worker: str = ""
    started: float = 0.0
    """When the unit began, in seconds since the epoch, by the worker's clock."""
    sent: float = 0.0
    """When the worker sent it, by the same clock; 0: it did not, or sends no clock."""
    enough: tuple[str, ...] = ()
    """Maps of which an element was enough: the rest need not run."""
    expansions: tuple[Expansion, ...] = ()
    """Deferred calls that were made."""
    taken: Mapping[str, bytes] = field(default_factory=dict)
    """By slug: seals of outcomes that the unit has taken before anything was reported of them."""
    changed: frozenset[Key] = frozenset()
    """Units whose outcomes are not what was reported of them, so that what needed them is handed back."""
    part: int = 0
    """Number, from 1, of an interim report: the unit goes on. 0: its own report, which has all of it."""
    at: tuple[str, int, float] | None = None
    """Of an interim report: what runs now: slug, element (-1: a single node), and seconds since that began."""

    def as_before(self, *, in_full: bool = True) -> Before:
        """What a process has to know that makes the unit again; `in_full`: with all that was reported."""
        ended: dict[str, SingleReport | ColumnReport] = {}
        if in_full:
            ended.update((each.slug, each) for each in self.singles)
            ended.update((each.slug, each) for each in self.columns)
        else:
            ended.update((each.slug, replace(each, value=None)) for each in self.singles if each.ref is not None)
            ended.update((each.slug, replace(each, values=None, records={})) for each in self.columns if each.refs)
        if self.indices is None:
            begun = max((place for place, each in enumerate(self.singles, 1) if not each.is_handed_back), default=0)
            left = [each.slug for each in self.singles[:begun] if each.state.code < FIRST_FINAL_CODE]
            return Before(begun, dict.fromkeys(left, frozenset({-1})), ended)
        unfinished: dict[str, frozenset[int]] = {}
        for column in self.columns:
            if min(column.codes, default=FIRST_FINAL_CODE) < FIRST_FINAL_CODE:
                pairs = zip(self.indices, column.codes, strict=True)
                unfinished[column.slug] = frozenset(index for index, code in pairs if code < FIRST_FINAL_CODE)
        return Before(len(self.indices), unfinished, ended)

    def without_results(self, changed: Iterable[Key]) -> Report:
        """The report of a unit that is handed back, whatever became of it, as it took what has changed."""
        singles = tuple(SingleReport.handed_back(each.slug) for each in self.singles)
        indices = () if self.indices is not None else None
        return Report(self.key, singles=singles, indices=indices, worker=self.worker, changed=frozenset(changed))


SUCCESS = Success.code
_ALIKE = bytes.maketrans(bytes([Cached.code]), bytes([SUCCESS]))
