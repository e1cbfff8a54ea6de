"""Times in which no process was at a run, as it was put down, or its process had died: no part of how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Rests: TypeAlias = Sequence[tuple[float, float]]
"""From when until when, in seconds since the epoch, the earliest first."""


def rested_s(rests: Rests, start: float, end: float) -> float:
    """Seconds between two times in which nobody was at the run.

    Examples
    --------
    >>> rested_s([(10.0, 20.0), (50.0, 60.0)], 15.0, 55.0)
    10.0
    """
    return sum(max(0.0, min(until, end) - max(since, start)) for since, until in rests)
