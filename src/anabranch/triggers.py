"""Rules on upstream states that say whether a node may run.

A trigger is a function of `Upstreams` (a mapping of edge to state) that gives a truth value or raises a signal.
For a map, the state of the map stands in the mapping and its elements are in the counts: nothing here costs more for a
million elements than for one.
"""

from __future__ import annotations

from anabranch.base.triggers import (
    EdgeName,
    Trigger,
    Upstreams,
    all_failed,
    all_finished,
    all_successful,
    always_run,
    any_failed,
    any_successful,
    manual_only,
    none_failed,
    not_all_skipped,
    some_failed,
    some_successful,
)

__all__ = [
    "EdgeName",
    "Trigger",
    "Upstreams",
    "all_failed",
    "all_finished",
    "all_successful",
    "always_run",
    "any_failed",
    "any_successful",
    "manual_only",
    "none_failed",
    "not_all_skipped",
    "some_failed",
    "some_successful",
]
