"""What a driver is given to run, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from anabranch.base.rests import Rests
from anabranch.base.states import State
from anabranch.definition.frozen import FrozenGraph
from anabranch.engine.machine.knowledge import NodeRun
from anabranch.engine.units.calls import Placed
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.units import NO_CALL_STORING, CallStoring, Doubles, Key, Report

Journal: TypeAlias = Callable[[Report], None]


class HandOver(KeyboardInterrupt):
    """Raised in the thread of a driver: another process goes on with the run, so nobody is told that it has ended."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What is to be run."""

    graph: FrozenGraph
    name: str
    run_id: str
    parameters: Mapping[str, Any]
    """Values of the flow's parameters, by slug."""
    settings: Mapping[str, Any]
    """The ``engine`` settings."""
    keep: frozenset[str] = frozenset()
    """Slugs of nodes whose values are wanted afterwards, beside the reference and terminal ones."""
    keeps_ends: bool = True
    """Whether those of the reference and terminal nodes are wanted."""
    approved: frozenset[str] = frozenset()
    calls: CallStoring = NO_CALL_STORING
    date: datetime | None = None
    timeout_s: float | None = None
    """Seconds that the run may take; None: any number."""
    first_serial: int = 0
    """Keys of units are numbered from here: no two drivers of a run may use the same key."""
    recorded: tuple[Report | Placed, ...] = ()
    """What is known of the run already, from an earlier driver's journal."""
    widths: Mapping[str, int] = field(default_factory=dict)
    """Of maps of which elements are in there."""
    began: float | None = None
    """When the first driver of the run began, in seconds since the epoch; None: this is the first."""
    rests: Rests = ()
    """When the run had no driver since then."""
    doubles: Doubles | None = None
    """What a test has put in the place of the clock and of functions."""

    @property
    def clock(self) -> Callable[[], float]:
        """Gives the time, in seconds since the epoch."""
        return time.time if self.doubles is None else self.doubles.time

    def now(self) -> datetime:
        """The time, aware."""
        return datetime.fromtimestamp(self.clock(), UTC)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What is known when a run has ended."""

    plan: RunPlan
    state: State
    runs: Mapping[str, NodeRun]
    outcomes: Mapping[Key, UnitOutcome]
    """Outcomes that were brought here because somebody may ask for their values."""
    started: datetime
    ended: datetime
    was_interrupted: bool = False
    is_handed_over: bool = False
    """Whether another process goes on with it."""
    notes: tuple[str, ...] = field(default=())
