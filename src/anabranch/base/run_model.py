"""How a run stands, as its events tell: the one model that terminals, notebooks, pages, clusters and metrics read.

It stays small however large the run is: a map costs a byte an element, and all else is bounded by the number of nodes.
One thread takes the events; others may read at the same time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from anabranch.base.events import (
    ElementBegan,
    Event,
    MapAdvanced,
    Noticed,
    RunFinished,
    RunStarted,
    TaskChanged,
    UnitEnded,
    UnitLost,
)
from anabranch.base.rests import Rests, rested_s
from anabranch.base.running_elements import RunningElements, since_text
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

STEPS = ("parameter", "condition", "merge", "collect", "flatten")
"""Kinds of nodes that a flow needs and nobody wrote as tasks."""
MAX_NOTICES = 20
PACE_OVER_S = 10.0  # pace is what was done within this time: short enough to follow, long enough not to jump
SAMPLE_EVERY_S = 0.25


@dataclass(slots=True)
class NodeModel:
    """How a node stands."""

    slug: str
    kind: str = "task"
    is_map: bool = False
    state: State | None = None
    """What was said of it last, without a result."""
    code: int = Pending.code
    attempt: int = 1
    worker: str = ""
    retries: int = 0
    """Attempts beyond the first, of what has ended."""
    began: float | None = None
    ended: float | None = None
    codes: bytearray = field(default_factory=bytearray)
    """Of a map: state of each element, 0 where nothing is known yet."""
    running: RunningElements = field(default_factory=RunningElements)
    """Of a map: elements that workers are at."""
    advance: MapAdvanced | None = None
    """Of a map: how far it is, as the engine said last."""
    version: int = 0
    """Changes whenever something of it does."""
    _retrying: int = 0
    _tried: set[int] = field(default_factory=set)
    """Of a map: elements whose retries have begun."""
    _by_code: Counter[int] = field(default_factory=Counter)
    _samples: list[tuple[float, int]] = field(default_factory=list)
    """Elements that had ended, by time."""

    @property
    def name(self) -> str:
        """The state's word."""
        state = self.state
        return state.name if state is not None and state.code == self.code else BY_CODE[self.code].__name__

    @property
    def message(self) -> str:
        """The state's message, shortened."""
        return self.state.message[:500] if self.state is not None else ""

    @property
    def width(self) -> int:
        """Elements of a map, as far as that is known; 0 of anything else."""
        return len(self.codes)

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self.code >= FIRST_FINAL_CODE

    @property
    def is_running(self) -> bool:
        """Whether it has begun and not ended, or one of its elements has."""
        return self.code == Running.code

    @property
    def is_step(self) -> bool:
        """Whether it is a node that nobody wrote, and has done what it should."""
        return self.kind in STEPS and self.code < FIRST_FAILED_CODE

    def counts(self) -> Mapping[int, int]:
        """How many task runs stand where, by code: of a map its elements, of anything else itself."""
        known = list(self._by_code.items())  # at once: another thread may take events
        return {code: n for code, n in known if n} if self.codes else {self.code: 1}

    def final(self) -> int:
        """Task runs that are known one by one to have ended."""
        return sum(n for code, n in self.counts().items() if code >= FIRST_FINAL_CODE)

    def done(self) -> int:
        """Task runs that have ended: of a map that goes on, with those that the engine has ended itself."""
        return self.final() if self.advance is None or self.is_done else max(self.final(), self.advance.done)

    def unfinished(self) -> dict[int, int]:
        """Task runs that have not ended, by code."""
        counts = self.counts()
        found = {code: n for code, n in counts.items() if Pending.code < code < FIRST_FINAL_CODE}
        if self.width:
            found[Retrying.code] = self.retrying()
        return {Pending.code: max(0, sum(counts.values()) - self.done() - sum(found.values())), **found}

    def failed(self) -> int:
        """Task runs that failed; what was cancelled did not."""
        counts, known = self.state.counts if self.state is not None else None, self.counts()
        told = sum(n for code, n in known.items() if is_failure(code))
        if self.advance is not None and not self.is_done:
            return max(told, self.advance.failed)
        if counts is not None and counts.total:
            return max(0, counts.failed - max(counts.cancelled, known.get(Cancelled.code, 0)))
        return told

    def retrying(self) -> int:
        """Elements that wait for another attempt, by what was said last."""
        return self._retrying

    def running_text(self) -> str:
        """What of it is being run, since when and where; nothing if nothing is, or nobody knows."""
        if self.running:
            return f"running: {self.running}"
        return since_text(self.state) if type(self.state) is Running and not self.width else ""

    def pace(self) -> float | None:
        """Elements a second, of late; None if that is not known yet."""
        if len(self._samples) < 2:
            return None
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        return (after - before) / (last - first) if last > first else None

    def left_s(self) -> float | None:
        """Seconds until the map has ended, at that pace; nobody knows when elements that are tried again are due."""
        pace, left = self.pace(), self.width - self.done() - self.retrying()
        return left / pace if pace and left > 0 else None

    def duration_s(self, rests: Rests = ()) -> float | None:
        """Seconds that it took, as far as is known, without those in which nobody was at the run."""
        if self.width and self.began is not None and self.ended is not None:
            return self.ended - self.began - rested_s(rests, self.began, self.ended)
        return self.state.duration_s if self.state is not None else None

    def change(self, state: State, now: float) -> None:
        """Note what is said of the node itself."""
        self.version += 1
        self.state, self.code = (state if state.result is None else replace(state, result=None)), state.code
        if isinstance(state, Finished):
            self.running.clear()
            self.ended = state.end_time.timestamp() if state.end_time else now
            if state.start_time is not None and (self.began is None or not self.width):
                self.began = state.start_time.timestamp()
            if self.is_map or self.width or (state.counts is not None and state.counts.total):
                self._settle(state)
        elif state.is_running() and not self.width:
            self.began = state.start_time.timestamp() if state.start_time is not None else now
            self.worker, self.attempt = state.worker or self.worker, state.attempt

    def progress(self, event: MapAdvanced) -> None:
        """Note how far a map is."""
        self.version += 1
        self.widen(event.width)
        if self.began is None:
            self.began = event.now
        if not self.is_done:
            self.code = max(self.code, Running.code)
        if self.advance is None:
            self._samples = [(event.now, event.done)]
        self.advance, self._retrying = event, event.retrying
        if event.now - self._samples[-1][0] >= SAMPLE_EVERY_S:
            self._samples.append((event.now, event.done))
            while len(self._samples) > 2 and event.now - self._samples[0][0] > PACE_OVER_S:
                del self._samples[0]

    def begin(self, state: State) -> None:
        """Note that a worker is at an element."""
        index = state.map_index
        if index is None or self.is_done or (index < self.width and self.codes[index] >= FIRST_FINAL_CODE):
            return  # it was told late, or is only made again
        self.code = max(self.code, Running.code)
        if index < self.width and self.codes[index] == Retrying.code:
            self._tried.add(index)
        self.put(range(index, index + 1), bytes([Running.code]))
        self.running.begin(state)

    def lose(self, indices: Sequence[int]) -> None:
        """Note that elements did not come back: those that were being run wait again, for a retry if it was one."""
        lost = tuple(index for index in indices if index in self.running)
        self.put(lost, bytes(Retrying.code if index in self._tried else 0 for index in lost))

    def widen(self, width: int) -> None:
        """Make room for so many elements."""
        if (more := width - len(self.codes)) > 0:
            self.codes += bytes(more)
            self._by_code[0] += more

    def ends(self, indices: Sequence[int], codes: bytes) -> tuple[Sequence[int], bytes]:
        """Of these elements, those that end with these states and are not known to have ended, with their states."""
        known = self.codes
        if isinstance(indices, range) and indices.step == 1:
            before = bytes(known[indices.start : indices.stop]).ljust(len(indices), b"\0")
        else:
            before = bytes(known[index] if index < len(known) else 0 for index in indices)
        if max(before, default=0) < FIRST_FINAL_CODE <= min(codes, default=FIRST_FINAL_CODE):
            return indices, codes
        new = [
            (index, code)
            for index, code, old in zip(indices, codes, before, strict=True)
            if code >= FIRST_FINAL_CODE > old
        ]
        return tuple(index for index, _ in new), bytes(code for _, code in new)

    def put(self, indices: Sequence[int], codes: bytes) -> None:
        """Note the states of these elements."""
        self.version += 1
        self.running.end(indices)
        self.widen(max(indices, default=-1) + 1 if not isinstance(indices, range) else indices.stop)
        if isinstance(indices, range) and indices.step == 1:
            before = bytes(self.codes[indices.start : indices.stop])
            self.codes[indices.start : indices.stop] = codes
        else:
            before = bytes(map(self.codes.__getitem__, indices))
            for index, code in zip(indices, codes, strict=True):
                self.codes[index] = code
        for code in set(before):
            self._by_code[code] -= before.count(code)
        for code in set(codes):
            self._by_code[code] += codes.count(code)
        self._retrying = self._by_code[Retrying.code]

    def _settle(self, state: State) -> None:
        """Give the elements that never reported the state that the map's end tells."""
        self.widen(state.counts.total if state.counts is not None else 0)
        rest = self._rest_of(state)
        self.codes = self.codes.translate(bytes(rest if code < FIRST_FINAL_CODE else code for code in range(256)))
        for code in [code for code in self._by_code if code < FIRST_FINAL_CODE]:
            self._by_code[rest] += self._by_code.pop(code)
        self._retrying = 0

    def _rest_of(self, state: State) -> int:
        """Code of elements of a map that ended without a word about them."""
        if state.is_cancelled():
            return Cancelled.code
        if state.counts is None or not state.is_failed():
            return Skipped.code if state.is_skipped() else Success.code
        if self._by_code[Cancelled.code] < state.counts.cancelled:
            return Cancelled.code
        told = sum(n for code, n in self._by_code.items() if code >= FIRST_FAILED_CODE)
        return Crashed.code if told < state.counts.failed else Success.code


Node = TypeVar("Node", bound=NodeModel)


class RunModel(Generic[Node]):
    """A run. `take` each event, in order; everything else only reads.

    Parameters
    ----------
    make
        Makes a node of its slug and kind: `NodeModel`, or one that knows more.
    """

    def __init__(self, make: Callable[[str, str], Node]) -> None:
        self._make = make
        self.flow_name = ""
        self.run_id = ""
        self.state: State = Pending()
        self.asked: float | None = None
        """When the run was asked for, if that is known: its cluster may have had to start before it began."""
        self.began: float | None = None
        self.ended: float | None = None
        self.rests: Rests = ()
        """When no process was at it."""
        self.now = 0.0
        """When the last event was told."""
        self.nodes: dict[str, Node] = {}
        self.notices: deque[tuple[float, str]] = deque(maxlen=MAX_NOTICES)
        self.silent: Mapping[str, int] = {}
        """While nothing is heard of any: task runs on their way, by slug."""
        self.version = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began, until it ended, in which a process was at it."""
        return 0.0 if self.began is None else max(0.0, self.between_s(self.began, self.ended or self.now))

    def between_s(self, start: float, end: float) -> float:
        """Seconds between two times in which a process was at the run."""
        return end - start - rested_s(self.rests, start, end)

    def counts(self) -> Counter[int]:
        """Task runs and elements by the code of their state; steps count only if they failed."""
        total: Counter[int] = Counter()
        for node in self.tasks():
            if node.codes:
                total.update(node.counts())
            else:  # most nodes: a Counter takes ten times as long for a dict of one
                total[node.code] += 1
        return total

    def tasks(self) -> list[Node]:
        """Nodes that somebody wrote, and steps that failed."""
        return [node for node in list(self.nodes.values()) if not node.is_step]

    def take(self, event: Event) -> None:
        """Take note of an event."""
        self.now = max(self.now, event.now)
        self.version += 1
        match event:
            case RunStarted():
                self._start(event)
            case TaskChanged(now, slug, state):
                self.silent = {} if state.is_running() else self.silent
                self.node(slug).change(state, now)
            case ElementBegan(_, slug, state):
                self.silent = {}
                self.node(slug).begin(state)
            case UnitLost(_, nodes, indices=indices):
                for slug in nodes:
                    self.node(slug).lose(indices)
            case MapAdvanced(_, slug):
                self.node(slug).progress(event)
            case UnitEnded():
                self.silent = {}
                self._take_unit(event)
            case Noticed(now, text, silent):
                self.notices.append((now, text))
                self.silent = silent or self.silent
            case RunFinished(now, state):
                self.state, self.ended = replace(state, result=None), now

    def tick(self, now: float) -> None:
        """Let time pass though nothing is told, as long as the run goes on."""
        if self.began is not None and self.ended is None:
            self.now = max(self.now, now)

    def _start(self, event: RunStarted) -> None:
        if self.began is not None:  # another run
            self.nodes = {}
        self.flow_name, self.run_id, self.ended = event.flow_name, event.run_id, None
        began = event.now if event.began is None else event.began
        self.began, self.rests = began if self.asked is None else min(self.asked, began), event.rests
        self.state = Running()
        for slug, kind in event.nodes.items():
            self.node(slug, kind)

    def _take_unit(self, unit: UnitEnded) -> None:
        for slug, state in unit.singles.items():
            if isinstance(state, (Finished, Retrying, Paused)):
                node = self.node(slug)
                node.worker, node.attempt = state.worker or unit.worker, state.attempt
                node.retries += state.attempt - 1 if state.is_finished() and not node.is_done else 0
                node.change(state, unit.now)
        for slug, codes in unit.codes.items():
            node = self.node(slug)
            node.retries += retries_of(unit.records.get(slug, {}), node.ends(unit.indices, codes)[0])
            node.put(unit.indices, codes)
            if unit.started and len(unit.indices) and not unit.is_recorded:
                node.began = min(node.began or unit.started, unit.started)

    def node(self, slug: str, kind: str = "task") -> Node:
        """A node; one that nobody has told of before begins to be known."""
        found = self.nodes.get(slug)
        if found is None:
            found = self.nodes[slug] = self._make(slug, kind)
        return found


def retries_of(records: Mapping[int, State], indices: Sequence[int]) -> int:
    """Attempts beyond the first, of those of a map's elements that have ended."""
    if not records:
        return 0
    ended = indices if isinstance(indices, range) else frozenset(indices)
    return sum(state.attempt - 1 for index, state in records.items() if index in ended)


def is_failure(code: int) -> bool:
    """Whether a code is that of a failure of any kind."""
    return FIRST_FAILED_CODE <= code < Cancelled.code
