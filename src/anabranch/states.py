"""Where a flow run, a task run or an element stands: frozen values that do no I/O.

::

    State
    ├── Pending ─┬─ Scheduled ─┬─ Retrying
    │            │             └─ Paused
    │            └─ Submitted
    ├── Running ── Deferred
    ├── Looped
    └── Finished ─┬─ Success ─── Cached, Mapped, Skipped
                  ├─ Failed ──── TimedOut, TriggerFailed, ValidationFailed, Crashed
                  └─ Cancelled

A map keeps one byte per element (`Code`) and a whole `State` only for what is not a plain `Success`.
"""

from __future__ import annotations

from anabranch.base.states import (
    Attempt,
    Cached,
    Cancelled,
    Counts,
    Crashed,
    Deferred,
    Failed,
    Failure,
    Finished,
    Looped,
    Mapped,
    Paused,
    Pending,
    Retrying,
    Running,
    Scheduled,
    Skipped,
    State,
    Submitted,
    Success,
    TimedOut,
    TriggerFailed,
    ValidationFailed,
)

__all__ = [
    "Attempt",
    "Cached",
    "Cancelled",
    "Counts",
    "Crashed",
    "Deferred",
    "Failed",
    "Failure",
    "Finished",
    "Looped",
    "Mapped",
    "Paused",
    "Pending",
    "Retrying",
    "Running",
    "Scheduled",
    "Skipped",
    "State",
    "Submitted",
    "Success",
    "TimedOut",
    "TriggerFailed",
    "ValidationFailed",
]
