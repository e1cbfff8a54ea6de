"""What happens in a run, as observers are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from anabranch.base.rests import Rests
from anabranch.base.states import State


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A flow run began."""

    now: float
    flow_name: str
    run_id: str
    nodes: Mapping[str, str]
    """Kind of each node (``task``, ``parameter``, …) by slug, in topological order."""
    began: float | None = None
    """If an earlier process began it: when that was."""
    rests: Rests = ()
    """When no process was at it since then."""


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """A node's own state changed; for a map, when it is final."""

    now: float
    slug: str
    state: State


@dataclass(frozen=True, slots=True)
class MapAdvanced:
    """Elements of a map have ended."""

    now: float
    slug: str
    width: int
    done: int
    failed: int
    retrying: int


@dataclass(frozen=True, slots=True)
class ElementBegan:
    """A worker is at an element of a map; of elements that take a moment only, few are told of."""

    now: float
    slug: str
    state: State
    """Running, with the element, its worker, and when it began."""


@dataclass(frozen=True, slots=True)
class CallsMade:
    """Task runs have made deferred calls; what is needed to run them again is in `record`, for who keeps a journal."""

    now: float
    caller: str
    nodes: Mapping[str, Any]
    """New nodes, by slug: maps whose elements are calls of one task."""
    record: Any
    """An `anabranch.engine.units.calls.Placed`."""
    is_new: bool = True
    """Whether they were made now, and not by an earlier driver of the run."""


@dataclass(frozen=True, slots=True)
class UnitEnded:
    """Something of a piece of work, or all of it, has ended: single task runs, or a chunk of elements of maps.

    One may come twice, or late: what it says of an element or task run replaces what was said before.
    """

    now: float
    worker: str
    started: float
    """When it began, in seconds since the epoch by the worker's clock; 0 if that is not known."""
    seconds: float
    """How long it took; 0 of a piece that goes on: all of it is told again at its end."""
    singles: Mapping[str, State] = field(default_factory=dict)
    """States of single task runs, by slug."""
    indices: Sequence[int] = ()
    """Elements of the chunk."""
    codes: Mapping[str, bytes] = field(default_factory=dict)
    """State of each of them, one byte each, by slug of the map, in the order of `indices`."""
    records: Mapping[str, Mapping[int, State]] = field(default_factory=dict)
    """States of those that are more than plain Success, by slug of the map and element."""
    is_recorded: bool = False
    """Whether it was done before this run was resumed."""


@dataclass(frozen=True, slots=True)
class UnitLost:
    """A piece of work will not come back, most often because its worker died; it is sent again, or blamed."""

    now: float
    nodes: Sequence[str]
    """Slugs of the tasks whose runs were in it."""
    elements: int
    """How many task runs of each."""
    reason: str
    indices: Sequence[int] = ()
    """Which elements of each, if they are maps."""


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something about the run as a whole that its user should know: what it waits for, and how long."""

    now: float
    text: str
    silent: Mapping[str, int] = field(default_factory=dict)
    """If nothing has been heard for long: how many task runs are on their way, by slug."""


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A flow run ended."""

    now: float
    state: State


Event: TypeAlias = (
    RunStarted | TaskChanged | MapAdvanced | ElementBegan | CallsMade | UnitEnded | UnitLost | Noticed | RunFinished
)
Observer: TypeAlias = Callable[[Event], None]
