"""What a run says of the permits of its named limits, and what it is told: plain values, and who is asked.

The machine says what it uses and waits for; `anabranch.runs.store.run_permits` shares the limits among all runs of a
run store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

Bundle: TypeAlias = tuple[str, ...]
"""Names of limits of which a piece of work needs one permit each, all or none; sorted."""


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

    def close(self) -> None:
        """Give everything back."""
        ...
