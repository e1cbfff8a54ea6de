"""What pages know of a run: aggregates, fed by events, that stay small however large the run is.

A map costs a byte an element; everything else is bounded by the number of nodes and workers. Nothing here draws.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from anabranch.base.events import Event, MapAdvanced, Noticed, RunFinished, RunStarted, TaskChanged, UnitEnded
from anabranch.base.states import (
    BY_CODE,
    FIRST_FAILED_CODE,
    FIRST_FINAL_CODE,
    Cancelled,
    Crashed,
    Finished,
    Paused,
    Pending,
    Retrying,
    Running,
    Skipped,
    State,
    Success,
)
from anabranch.definition.shape import Shape, ShapeNode
from anabranch.monitoring.pages.failure_groups import FailureGroups
from anabranch.monitoring.pages.spans import Bins, Durations

Codes: TypeAlias = NDArray[np.uint8]

MAX_WORKERS = 200  # lanes; work of others is counted with the last one
MAX_NOTICES = 20
STEPS = ("parameter", "condition", "merge", "collect", "flatten")
"""Kinds of nodes that nobody thinks of as task runs."""


@dataclass(slots=True)
class NodeModel:
    """How a node stands."""

    shape: ShapeNode
    code: int = Pending.code
    message: str = ""
    attempt: int = 1
    worker: str = ""
    retries: int = 0
    """Attempts beyond the first, of what has ended."""
    began: float | None = None
    ended: float | None = None
    codes: Codes = field(default_factory=lambda: np.zeros(0, np.uint8))
    """Of a map: state of each element, 0 where nothing is known yet."""
    durations: Durations = field(default_factory=Durations)
    """Of elements: their mean within each chunk."""
    busy: Bins = field(default_factory=Bins)
    version: int = 0
    """Changes whenever something of it does."""
    _counts: tuple[int, dict[int, int]] = (-1, {})

    @property
    def slug(self) -> str:
        """Name of the node in the flow."""
        return self.shape.slug

    @property
    def state(self) -> str:
        """The state's word."""
        return BY_CODE[self.code].__name__

    @property
    def width(self) -> int:
        """Elements of a map, as far as that is known; 0 of anything else."""
        return len(self.codes)

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self.code >= FIRST_FINAL_CODE

    def counts(self) -> dict[int, int]:
        """How many task runs stand where, by code: of a map its elements, of anything else itself."""
        if not self.width:
            return {self.code: 1}
        if self._counts[0] != self.version:
            found = np.bincount(self.codes, minlength=1)
            self._counts = (self.version, {int(code): int(found[code]) for code in np.flatnonzero(found)})
        return self._counts[1]

    def done(self) -> int:
        """Task runs that have ended."""
        return sum(n for code, n in self.counts().items() if code >= FIRST_FINAL_CODE)

    def failed(self) -> int:
        """Task runs that failed; what was cancelled did not."""
        return sum(n for code, n in self.counts().items() if is_failure(code))

    def widen(self, width: int) -> None:
        """Make room for so many elements."""
        if width > len(self.codes):
            self.codes = np.concatenate([self.codes, np.zeros(width - len(self.codes), np.uint8)])

    def put(self, indices: Sequence[int], codes: bytes) -> None:
        """Note the states of these elements."""
        found = np.frombuffer(codes, np.uint8)
        if isinstance(indices, range) and indices.step == 1:
            self.widen(indices.stop)
            self.codes[indices.start : indices.stop] = found
        elif len(indices):
            places = np.asarray(indices, np.int64)
            self.widen(int(places.max()) + 1)
            self.codes[places] = found

    def settle(self, state: State) -> None:
        """Give the elements that never reported the state that the map's end tells."""
        counts = state.counts
        self.widen(counts.total if counts is not None else 0)
        if self.width:
            open_ = self.codes < FIRST_FINAL_CODE
            if open_.any():
                self.codes[open_] = _rest_of(state, self.counts())


def _rest_of(state: State, known: Mapping[int, int]) -> int:
    """Code of elements of a map that ended without a word about them."""
    if state.is_cancelled():
        return Cancelled.code
    if state.counts is None or not state.is_failed():
        return Skipped.code if state.is_skipped() else Success.code
    told = sum(n for code, n in known.items() if code >= FIRST_FAILED_CODE)
    return Crashed.code if told < state.counts.failed else Success.code


def is_failure(code: int) -> bool:
    """Whether a code is that of a failure of any kind."""
    return FIRST_FAILED_CODE <= code < Cancelled.code


class RunModel:
    """A run as pages show it. `take` each event, in order; everything else only reads.

    Parameters
    ----------
    shape
        Of the flow; without it, nodes are known and edges are not.
    mask
        Takes secrets out of a text.
    """

    def __init__(self, shape: Shape | None = None, *, mask: Callable[[str], str] = str) -> None:
        self._mask = mask
        self.shape = shape or Shape()
        self.flow_name = ""
        self.run_id = ""
        self.state: State = Pending()
        self.began: float | None = None
        self.ended: float | None = None
        self.now = 0.0
        self.parameters: Mapping[str, Any] = {}
        self.nodes: dict[str, NodeModel] = {node.slug: NodeModel(node) for node in self.shape.nodes}
        self.workers: dict[str, Bins] = {}
        self.worker_units: Counter[str] = Counter()
        self.failures = FailureGroups(mask)
        self.notices: deque[tuple[float, str]] = deque(maxlen=MAX_NOTICES)
        self.version = 0
        self.is_incomplete = False
        """Whether events were lost on the way here."""
        self._origin: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began, until it ended."""
        if self.began is None:
            return 0.0
        return max(0.0, (self.ended or self.now) - self.began)

    def counts(self) -> Counter[int]:
        """Task runs and elements by the code of their state; mere steps count only if they failed."""
        total: Counter[int] = Counter()
        for node in self.nodes.values():
            if node.shape.kind not in STEPS:
                total.update(node.counts())
        return total

    def take(self, event: Event) -> None:
        """Take note of an event."""
        self.now = max(self.now, event.now)
        self.version += 1
        match event:
            case RunStarted(now, flow_name, run_id, kinds):
                self.flow_name, self.run_id, self.began, self.ended = flow_name, run_id, now, None
                self.state = Running()
                for slug, kind in kinds.items():
                    if slug not in self.nodes:
                        self.nodes[slug] = NodeModel(ShapeNode(slug, kind))
            case TaskChanged(now, slug, state):
                self._change(self._node(slug), state, now)
            case MapAdvanced(now, slug, width):
                node = self._node(slug)
                node.widen(width)
                node.began = node.began or now
                node.code = max(node.code, Running.code) if not node.is_done else node.code
                node.version += 1
            case UnitEnded():
                self._take_unit(event)
            case Noticed(now, text):
                self.notices.append((now, self._mask(text)))
            case RunFinished(now, state):
                self.state, self.ended = replace(state, message=self._mask(state.message), result=None), now

    def _node(self, slug: str) -> NodeModel:
        node = self.nodes.get(slug)
        if node is None:
            node = self.nodes[slug] = NodeModel(ShapeNode(slug))
        return node

    def _change(self, node: NodeModel, state: State, now: float) -> None:
        node.version += 1
        node.code, node.message = state.code, self._mask(state.message[:500])
        if isinstance(state, Finished):
            node.ended = state.end_time.timestamp() if state.end_time else now
            if state.start_time is not None and (node.began is None or not node.width):
                node.began = state.start_time.timestamp()
            if node.shape.is_map or node.width or (state.counts is not None and state.counts.total):
                node.settle(state)
                node.version += 1
            elif state.is_failed():  # it may have had no unit of its own: the engine decided
                self.failures.note(node.slug, None, state)
        elif state.is_running() and node.began is None:
            node.began = now

    def _take_unit(self, unit: UnitEnded) -> None:
        for slug, state in unit.singles.items():
            if isinstance(state, (Finished, Retrying, Paused)):
                self._take_single(self._node(slug), state, unit.worker)
        for slug, codes in unit.codes.items():
            node = self._node(slug)
            node.put(unit.indices, codes)
            node.version += 1
            records = unit.records.get(slug, {})
            is_bad = False
            for index, state in records.items():
                if state.is_finished():
                    node.retries += state.attempt - 1
                if state.is_failed():
                    is_bad = True
                    self.failures.note(slug, index, state, worker=unit.worker)
            if unit.started and unit.indices:
                share = unit.seconds / len(unit.codes)  # of a chain of maps nobody has timed the links
                node.durations.add(share / len(unit.indices), len(unit.indices))
                self._span(node.busy, unit.started, unit.seconds, is_bad=is_bad)
                node.began = min(node.began or unit.started, unit.started)
        if unit.started and (unit.codes or unit.singles):
            bad = any(code >= FIRST_FAILED_CODE for codes in unit.codes.values() for code in set(codes))
            bad = bad or any(state.is_failed() for state in unit.singles.values())
            self._span(self._lane(unit.worker), unit.started, unit.seconds, is_bad=bad)

    def _take_single(self, node: NodeModel, state: State, worker: str) -> None:
        node.worker, node.attempt = state.worker or worker, state.attempt
        node.version += 1
        if state.is_finished():
            node.retries += state.attempt - 1
        if state.start_time is not None and state.end_time is not None:
            node.began = state.start_time.timestamp()
            node.durations.add(state.duration_s or 0.0)
        if state.is_failed():
            self.failures.note(node.slug, None, state, worker=worker)

    def _span(self, bins: Bins, start: float, seconds: float, *, is_bad: bool) -> None:
        if self._origin is None:
            self._origin = min(start, self.began or start)
        bins.add(start - self._origin, start - self._origin + seconds, is_bad=is_bad)

    @property
    def origin(self) -> float:
        """The time, in seconds since the epoch, from which all bins count."""
        return self._origin if self._origin is not None else self.began or 0.0

    def _lane(self, worker: str) -> Bins:
        if worker not in self.workers and len(self.workers) >= MAX_WORKERS:
            worker = "others"
        self.worker_units[worker] += 1
        return self.workers.setdefault(worker, Bins())
