"""What the machine knows of a run: its nodes, the units on their way, and where outcomes are."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anabranch.base.names import ascii_name
from anabranch.base.states import (
    FIRST_FINAL_CODE,
    Deferred,
    Finished,
    Mapped,
    Paused,
    Pending,
    Retrying,
    Running,
    State,
)
from anabranch.definition.frozen import FrozenGraph, FrozenNode
from anabranch.engine.machine.call_book import CallBook, Waiter
from anabranch.engine.machine.limits import Limits, Names
from anabranch.engine.machine.maps import Chain, MapRun
from anabranch.engine.machine.verdicts import Verdicts
from anabranch.engine.units.calls import Block
from anabranch.engine.units.indices import Indices
from anabranch.engine.units.units import Held, Input, Key, Known, Pieces, Progress, Sent, Stored, Unit
from anabranch.results.reference import ResultRef


@dataclass(slots=True)
class NodeRun:
    """What is known of one node."""

    node: FrozenNode
    state: State
    key: Key | None = None
    """Unit that has, or will have, the node's outcome."""
    is_flying: bool = False
    """Whether it is submitted and its report is not here."""
    was_told: bool = False
    """Whether it was told, since it was sent, that it waits for a worker, or that one is at it."""
    value: bytes | None = None
    """The pickled value, where it came with the report."""
    ref: ResultRef | None = None
    """Where the value is stored."""
    seal: bytes = b""
    """Of the outcome in its unit, as reported."""
    width: int | None = None
    unmappable: str = ""
    elements: MapRun | None = None
    chain: Chain | None = None
    attempt: int = 1
    loop: Progress | None = None
    due: float = 0.0
    """When its next attempt is due, in seconds since the epoch."""
    is_suspect: bool = False
    """Whether a unit with it was lost: it runs alone from then on."""
    had_ended: State | None = None
    """How it had ended, if it runs again because its value was lost."""
    names: Names | None = None
    """What the templates of its limits make, once that is known."""
    assembles: bool = False
    """Whether it has made deferred calls that have ended: its value is put together of theirs."""

    borrowed: frozenset[str] = frozenset()
    """Nodes whose values are named in the arguments of deferred calls: of its own elements, or that these have made."""

    upstreams: set[str] = field(init=False)
    """Slugs of the nodes of which it may take something."""

    def __post_init__(self) -> None:
        self.upstreams = {edge.upstream for edge in self.node.edges}

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return isinstance(self.state, Finished)

    def note_attempt(self, state: Retrying) -> None:
        """An attempt or a round has ended, and another comes: there, or wherever it runs next."""
        self.attempt = state.attempt + 1
        self.due = state.start_time.timestamp() if state.start_time is not None else 0.0
        self.loop = state.result if isinstance(state.result, tuple) else None


class Knowledge:
    """Nodes, units and keys of one run; no decisions."""

    def __init__(
        self,
        graph: FrozenGraph,
        *,
        name: str,
        token: str,
        settings: Mapping[str, Any],
        slots: int,
        keep: Iterable[str],
        keeps_ends: bool = True,
        approved: Iterable[str],
        shares_limits: bool = False,
        limits_outside: frozenset[str] = frozenset(),
        streamed: frozenset[str] = frozenset(),
    ) -> None:
        self.graph = FrozenGraph(dict(graph.nodes), graph.reference)
        """The flow, and what deferred calls have added."""
        self.calls = CallBook()
        self.settings = settings
        self.slots = slots
        self.runs = {slug: NodeRun(node, Pending()) for slug, node in graph.nodes.items()}
        kept = frozenset(keep)
        self.streamed = streamed
        """Nodes whose task runs are given to a stream as they end."""
        self.fleeting = frozenset(slug for slug in streamed - kept if not graph.downstream[slug])
        """Those whose values nobody wants but the stream."""
        ends = (*graph.reference, *graph.terminal) if keeps_ends else ()
        self.keep = frozenset((*ends, *kept, *streamed))
        """Nodes whose values are wanted after the run."""
        self.approved = frozenset(approved)
        self.order = {slug: i for i, slug in enumerate(graph.nodes)}
        """Place of each node in the topological order."""
        self.units: dict[Key, Unit] = {}
        """Units on their way."""
        self.to_start: dict[str, None] = {}
        """Nodes that may be able to start, because something upstream has changed."""
        self.has_lost = False
        """Whether anything that had ended runs again because its value was lost."""
        self.limits = Limits(graph.nodes.values(), is_shared=shares_limits, outside=limits_outside)
        self.verdicts = Verdicts(settings["max_losses"] + 1)
        """On what may have killed its worker."""
        self._users: dict[Key, set[str]] = {}
        self._flying: Counter[str] = Counter()
        self._takers: Counter[Key] = Counter()
        """By key: units on their way that take something of its outcome."""
        self._name, self._token = ascii_name(name), token
        self._serial = 0

    def add(self, node: FrozenNode) -> NodeRun:
        """Add a node that deferred calls have made necessary; it has no edges."""
        downstream = self.graph.downstream
        assert isinstance(self.graph.nodes, dict)
        assert isinstance(downstream, dict)
        self.graph.nodes[node.slug] = node
        downstream[node.slug] = ()
        self.order[node.slug] = len(self.order)
        self.limits.add(node)
        run = self.runs[node.slug] = NodeRun(node, Pending())
        return run

    def lend(self, slug: str, upstreams: Iterable[str]) -> set[str]:
        """Note that a node takes values of others by their names; which of them are new to it."""
        run, downstream = self.runs[slug], self.graph.downstream
        assert isinstance(downstream, dict)
        fresh = set(upstreams) - run.upstreams
        run.borrowed = run.borrowed.union(upstreams)
        run.upstreams |= fresh
        for up in fresh:
            downstream[up] = (*downstream[up], slug)
        return fresh

    def new_key(self, node: FrozenNode) -> Key:
        """A key for a unit that begins with this node; Dask's pages group by its name."""
        self._serial += 1
        return (f"{self._name}.{ascii_name(node.slug)}-{self._token}", self._serial)

    def skip_key(self, key: Key) -> None:
        """A unit of an earlier driver had this key: no other may have it."""
        self._serial = max(self._serial, key[1])

    def send(self, unit: Unit) -> Unit:
        """Note that a unit is on its way."""
        self.units[unit.key] = unit
        if not unit.asks_names:
            is_call = unit.calls is None or not unit.calls.assembles
            attempts = 0 if not is_call else 1 if unit.indices is None else len(unit.indices)
            nodes = [self.graph.nodes[slug] for slug in unit.nodes]
            self.limits.hold(unit.key, nodes, attempts, unit.names, lanes=unit.lanes or 1)
        self._users[unit.key] = set(unit.nodes)
        self._takers.update(unit.upstream_keys())
        self._flying.update(self._names_of(unit))
        return unit

    def _names_of(self, unit: Unit) -> list[str]:
        """Names of the tasks whose calls are single nodes of a unit."""
        return [self.graph.nodes[slug].name for slug in unit.nodes] if unit.indices is None else []

    def calls_flying(self, name: str) -> int:
        """How many single nodes that are calls of a task are on their way."""
        return self._flying[name]

    def arrived(self, key: Key, attempts: int = sys.maxsize, ages: Sequence[float] = ()) -> Unit | None:
        """Note that a unit is not on its way any more; None if it was not.

        `attempts`: that it made, at the most; `ages`: how many seconds ago they ended.
        """
        unit = self.units.pop(key, None)
        if unit is not None:
            self._takers.subtract(unit.upstream_keys())
            self._flying.subtract(self._names_of(unit))
            self.limits.free(unit.key, attempts, ages)
        return unit

    def lose(self, key: Key) -> None:
        """Note that a unit's outcome is gone."""
        self._users.pop(key, None)

    def held(self) -> tuple[Key, ...]:
        """Units whose outcomes are there and may be needed."""
        return tuple(key for key in self._users if key not in self.units)

    def is_held(self, key: Key) -> bool:
        """Whether a unit's outcome is, or will be, there because something may need it."""
        return key in self._users

    def forget(self, key: Key, slug: str) -> list[Key]:
        """A node's value in a unit's outcome is not needed any more; the key, if nothing else there is."""
        users = self._users.get(key)
        if users is None:
            return []
        users.discard(slug)
        return self.unused(key)

    def let_go(self, slug: str) -> list[Key]:
        """The key of a single node of which all is here, and is not on its way to be taken from there: nobody needs it.

        What is not held cannot be made again by Dask when its worker dies, nor what that was made of.
        """
        run = self.runs[slug]
        is_here = run.value is not None or (_has_no_value(run) and (run.state.is_skipped() or slug not in self.keep))
        if run.key is None or not run.is_final or not is_here or self._takers[run.key] > 0:
            return []
        key, run.key = run.key, None
        return self.forget(key, slug)

    def users_of(self, unit: Unit) -> list[str]:
        """Nodes whose values a unit takes from the outcomes of others."""
        return [slug for key in unit.upstream_keys() for slug in self._users.get(key, ())]

    def unused(self, key: Key) -> list[Key]:
        """The key of a unit that has come back, if nothing of its outcome is needed any more."""
        if key in self.units or self._users.get(key) != set():
            return []
        del self._users[key]
        return [key]

    def look_below(self, slug: str) -> None:
        """The nodes downstream may be able to start."""
        self.to_start.update(dict.fromkeys(self.graph.downstream[slug]))

    def may_start(self, run: NodeRun) -> bool:
        """Whether a node is neither on its way nor at its end, and waits for no time or approval."""
        is_waiting = isinstance(run.state, (Retrying, Paused, Deferred))
        return not (run.is_final or run.is_flying or is_waiting or run.elements is not None)

    def has_inputs(self, run: NodeRun) -> bool:
        """Whether a single node may be submitted: each upstream is final, or a single on its way.

        One that was lost before waits for what is on its way: it may have been lost with that. And everything waits for
        what is made again: it may be other than it was.
        """
        upstreams = (self.runs[up] for up in run.node.whole_upstreams)
        return all(up.is_final or (up.is_flying and not run.is_suspect and up.had_ended is None) for up in upstreams)

    def whole_inputs(self, slugs: Iterable[str], *, without: str | None = None) -> dict[str, Input]:
        """Where the outcomes are that nodes of one unit need as a whole; one of them may need nothing any more.

        Of what comes before by its order or by a gate only, a state is all that is needed, once there is one.
        """
        inputs: dict[str, Input] = {}
        inside = set(slugs)
        edges = [edge for slug in inside - {without} for edge in self.graph.nodes[slug].edges if not edge.mapped]
        taken = {edge.upstream for edge in edges if edge.kind == "data"}
        for up in dict.fromkeys(edge.upstream for edge in edges):
            run = self.runs[up]
            if up not in inside and run.node.kind != "parameter":
                inputs[up] = self.input(run) if up in taken or not run.is_final else Known(run.state)
        return inputs

    def lent_inputs(self, blocks: Iterable[Block]) -> dict[str, Input]:
        """Where the values are that records of deferred calls name."""
        return {up: self.input(self.runs[up]) for block in blocks for up in block.borrowed}

    def has_ended(self, waiter: Waiter, index: int) -> bool:
        """Whether an element has ended; -1: a single node."""
        run = self.runs[waiter.slug]
        return run.is_final if run.elements is None else run.elements.codes[index] >= FIRST_FINAL_CODE

    def takes_calls(self, waiter: Waiter, index: int) -> bool:
        """Whether an element will yet take values of deferred calls: as their caller, or as its own arguments."""
        return not self.has_ended(waiter, index) if waiter.is_caller else self.takes_inputs(waiter.slug, index)

    def takes_inputs(self, slug: str, index: int) -> bool:
        """Whether an element (-1: a single node) will yet be run: it has not ended, and not made calls."""
        return not self.has_ended(Waiter(slug, False), index) and not self.calls.has_called(slug, index)

    def called_inputs(self, waiter: Waiter, indices: Indices) -> dict[str, Input]:
        """Where the values are of the deferred calls that elements take."""
        found: dict[str, Input] = {}
        for slug, needed in self.calls.needs(waiter, indices).items():
            elements = self.runs[slug].elements
            assert elements is not None
            wanted = needed if isinstance(needed, range) else frozenset(needed)
            settled = {i: state for i, state in elements.settled.items() if i in wanted}
            found[slug] = Pieces(
                elements.holdings_of(needed),
                Running(),
                settled,
                elements.rescued_of(needed),
                elements.stored_of(needed),
            )
        return found

    def input(self, run: NodeRun) -> Input:
        """Where the whole outcome of an upstream node is."""
        if run.elements is not None:
            elements = run.elements
            holdings = elements.holdings_of(range(elements.width))
            return Pieces(holdings, run.state, elements.settled, tuple(elements.rescued), tuple(elements.stored))
        if run.node.is_map and isinstance(run.state, Mapped):
            return Pieces((), run.state)
        if run.value is not None and run.is_final:
            return Sent(run.state, run.value)
        if run.is_final and _has_no_value(run):
            return Known(run.state)  # which says all, and what the outcome does not: that a value was lost, say
        if run.key is None and run.ref is not None:
            return Stored(run.state, run.ref)
        return Held(run.key, run.seal if run.is_final else None) if run.key is not None else Known(run.state)


def _has_no_value(run: NodeRun) -> bool:
    """Whether the state of a node that has ended says all there is."""
    return run.state.counts is None and (run.state.is_skipped() or not run.state.is_successful())
