"""Which state of a task run may follow which, and when: the diagram in the documentation is drawn from this table.

State handlers are told of changes that are made where the task runs; of those that the driver makes they are not. A
resumed run begins anew with `Pending` for what it runs again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anabranch.base.states import (
    Cached,
    Cancelled,
    Crashed,
    Deferred,
    Failed,
    Looped,
    Mapped,
    Paused,
    Pending,
    Retrying,
    Running,
    Skipped,
    State,
    Submitted,
    Success,
    TimedOut,
    TriggerFailed,
    ValidationFailed,
)


@dataclass(frozen=True, slots=True)
class When:
    """Why one state follows another."""

    reason: str
    by_driver: bool = False
    """Whether the driver decides, without calling handlers."""


TRANSITIONS: Mapping[type[State], Mapping[type[State], When]] = {
    Pending: {
        Submitted: When("it is sent, and waits for a worker only", by_driver=True),
        Running: When("its trigger allows it; the attempt begins"),
        Cached: When("a stored or cached value is used"),
        Skipped: When("a gate is closed, or what is upstream was skipped"),
        TriggerFailed: When("its trigger does not allow it to run"),
        Paused: When("its trigger requires an approval"),
        Failed: When("its arguments cannot be put together"),
        Mapped: When("a map: all elements have ended, and none failed", by_driver=True),
        Cancelled: When("the run is cancelled, or its map ends early", by_driver=True),
    },
    Submitted: {
        Running: When("a worker runs it", by_driver=True),
        Pending: When("it comes back, as a value that it needs was lost", by_driver=True),
    },
    Running: {
        Success: When("the function returns"),
        Failed: When("the function raises"),
        TimedOut: When("the timeout has passed"),
        Retrying: When("`RETRY` is raised, or the function raises and there are no handlers"),
        Looped: When("`LOOP` is raised"),
        Deferred: When("the value holds calls of tasks"),
        Skipped: When("`SKIP` is raised"),
        Paused: When("`PAUSE` is raised"),
        TriggerFailed: When("`TRIGGERFAIL` is raised"),
        ValidationFailed: When("`VALIDATIONFAIL` is raised"),
        Cancelled: When("`CANCEL` is raised, or the run is cancelled"),
        Crashed: When("it kills its workers, or its process dies"),
    },
    Failed: {Retrying: When("an attempt is left; handlers have seen the failure")},
    TimedOut: {Retrying: When("the same")},
    Retrying: {Running: When("the delay has passed")},
    Looped: {Running: When("the next round")},
    Deferred: {
        Success: When("all calls have ended, and the trigger allows it"),
        TriggerFailed: When("a call failed, and the trigger does not allow it"),
        Skipped: When("all calls were skipped"),
        Failed: When("the value cannot be put together"),
    },
}
"""For each state, the states that may follow. A state that is not a key here is final."""
