"""What a run says of the permits of its named limits, and what it is told: plain values, and who is asked.

The machine says what it uses and waits for; `anabranch.runs.store.run_permits` shares the limits among all runs of a
run store.

A rate is a limit, too: of as many permits as there may be attempts in a window. An attempt has one from before it
begins until a window after its end. So whatever moment of an attempt is counted, and whoever counts, finds no more of
them in any window; and nothing but a count, which others see too, has to be kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

Bundle: TypeAlias = tuple[str, ...]
"""Names of limits of which a piece of work needs one permit each, all or none; sorted."""


Spent: TypeAlias = tuple[str, int, float]
"""Permits of a rate that count for some time yet: limit, count, and for how many seconds."""

_PER = "\x1f"  # names that people give are printable


def rate_limit(name: str, window_s: float) -> str:
    """The limit that a rate of this name and window is."""
    return f"{name}{_PER}{window_s!r}"


def rate_name(limit: str) -> str:
    """The name that tasks have given a limit."""
    return limit.partition(_PER)[0]


def window_of(limit: str) -> float:
    """Seconds for which a permit of a limit is kept after its use: 0, if it is no rate."""
    return float(limit.partition(_PER)[2] or 0)


def name_of(limit: str) -> str:
    """What people call a limit.

    Examples
    --------
    >>> name_of("db"), name_of(rate_limit("api", 60.0)), name_of(rate_limit("api", 2.5))
    ('db', 'api per min', 'api per 2.5s')
    """
    name, _, window = limit.partition(_PER)
    return f"{name} per {_window_text(float(window))}" if window else name


def option_of(limit: str) -> str:
    """How its size is set by ``anabranch limits``.

    Examples
    --------
    >>> option_of("db"), option_of(rate_limit("api", 60.0))
    ('db --set N', 'api --set N/min')
    """
    name, _, window = limit.partition(_PER)
    return f"{name} --set N/{_window_text(float(window))}" if window else f"{name} --set N"


def _window_text(window_s: float) -> str:
    return {1.0: "s", 60.0: "min", 3600.0: "h", 86400.0: "day"}.get(window_s) or f"{window_s:.15g}s"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a run uses of its named limits now, and what it could use beside that."""

    sizes: Mapping[str, int] = field(default_factory=dict)
    """How many permits there are of each name, as this run's tasks say."""
    in_use: Mapping[str, int] = field(default_factory=dict)
    """Permits that work on its way has."""
    wants: tuple[tuple[Bundle, int], ...] = ()
    """What work that could go out at once needs, and how often."""
    has_more: bool = False
    """Whether there is work for the permits in use when what they are used for has ended."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a run is told of its permits."""

    may_use: Mapping[str, int] = field(default_factory=dict)
    """Permits that work may have, by name. Fewer than are in use: others wait, and get what becomes free."""
    lost: frozenset[str] = frozenset()
    """Limits of which what was in use is the run's no more: it gave no sign of life in time, or it was taken."""
    ahead: int = 0
    """Others who come first."""
    is_answered: bool = True
    """Whether this is the run store's answer; if it could not be reached, what it said last is good for a while."""
    waits_for: str = ""
    """What keeps the run from having all it wants, for people."""
    notes: tuple[str, ...] = ()
    """What its user should know."""


class Permits(Protocol):
    """Where permits come from."""

    outside: frozenset[str]
    """Limits of which the task that runs this flow holds a permit, if a task does."""

    def settle(self, claim: Claim) -> Grant:
        """Say what is used and wanted; what was had beyond that is given back."""
        ...

    def has_lapsed(self) -> bool:
        """Whether what may be used was given for a time that is over, so that others may have it by now."""
        ...

    def rest(self) -> None:
        """Keep the places of what the run waits for, while it has no process."""
        ...

    def close(self, spent: Collection[Spent] = ()) -> None:
        """Give everything back, but for what counts for some time yet."""
        ...
