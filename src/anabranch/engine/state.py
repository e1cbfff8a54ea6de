"""States, under the path known from Prefect 1."""

from __future__ import annotations

from anabranch.base.states import (
    Cached,
    Cancelled,
    Crashed,
    Failed,
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
    "Cached", "Cancelled", "Crashed", "Failed", "Finished", "Looped", "Mapped", "Paused", "Pending", "Retrying",
    "Running", "Scheduled", "Skipped", "State", "Submitted", "Success", "TimedOut", "TriggerFailed", "ValidationFailed",
]  # fmt: skip
