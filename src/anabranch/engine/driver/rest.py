"""A run that only waits may be put down, where somebody takes it up again when it is due: in a service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_REST: ContextVar[Rest | None] = ContextVar("anabranch_rest", default=None)


@dataclass(slots=True)
class Rest:
    """What a run may do while it only waits."""

    run_id: str
    least_s: float
    """Shorter waits are not worth it."""
    spent_s: float = 0.0
    """Seconds of its timeout that have passed before."""
    until: float | None = None
    """When the run goes on, in seconds since the epoch, if it was put down."""


@contextmanager
def may_rest(run_id: str, least_s: float, *, spent_s: float = 0.0) -> Iterator[Rest]:
    """Within it, the driver of that run puts it down as Paused when it only waits for a time."""
    rest = Rest(run_id, least_s, spent_s)
    before = _REST.set(rest)
    try:
        yield rest
    finally:
        _REST.reset(before)


def rest_of(run_id: str) -> Rest | None:
    """What a run may do; nothing for the runs within it, for which their caller waits."""
    rest = _REST.get()
    return rest if rest is not None and rest.run_id == run_id else None
