"""States, under the path known from Prefect 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anabranch.base.prefect1 import getter
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

__path__: list[str] = []

if not TYPE_CHECKING:
    __getattr__ = getter("engine.state")
