"""What the driver tells the machine (stimuli) and what the machine asks of the driver (commands)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from anabranch.base.events import Event
from anabranch.engine.machine.permits import Claim as Claim
from anabranch.engine.units.calls import Placed
from anabranch.engine.units.units import Key, Report, Unit


@dataclass(frozen=True, slots=True)
class Started:
    """The run begins, or goes on from what was recorded of it."""

    now: float
    recorded: tuple[Report | Placed, ...] = ()
    """What is known already, in the order in which it became known."""


@dataclass(frozen=True, slots=True)
class Reported:
    """A unit has come back."""

    now: float
    report: Report


@dataclass(frozen=True, slots=True)
class Lost:
    """A unit did not come back and will not: its worker died or left, or it could not be sent."""

    now: float
    key: Key
    reason: str
    is_death: bool = False
    """Whether its process was lost, of which the unit need not be the cause."""
    ran_s: float | None = None
    """Seconds that it had run in its process then, alone or where no other is to blame; None if it had not."""
    is_vain: bool = False
    """Whether it would be the same again: what it needs is nowhere."""


@dataclass(frozen=True, slots=True)
class Uprooted:
    """The place where units ran is gone, with all outcomes; there is another one now."""

    now: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Nothing can run any more, and nothing will."""

    now: float
    reason: str


@dataclass(frozen=True, slots=True)
class Woke:
    """A time has come that was asked for."""

    now: float


@dataclass(frozen=True, slots=True)
class SlotsChanged:
    """So many task runs can go on at the same time from now on."""

    now: float
    slots: int


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The run is to be stopped."""

    now: float
    reason: str
    is_late: bool = False
    """Whether that is because it has taken too long."""


@dataclass(frozen=True, slots=True)
class Permitted:
    """So many permits of each named limit are the run's now."""

    now: float
    may_use: Mapping[str, int]
    lost: frozenset[str] = frozenset()
    """Limits of which what was in use is somebody else's."""


Stimulus: TypeAlias = Started | Reported | Lost | Uprooted | GivenUp | Woke | SlotsChanged | CancelAsked | Permitted


@dataclass(frozen=True, slots=True)
class Submit:
    """Run these units; those that others among them need come first."""

    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """The outcomes under these keys are not needed any more."""

    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `Woke` at this time, in seconds since the epoch."""

    time: float


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the observers."""

    event: Event


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do."""


Command: TypeAlias = Submit | Release | WakeAt | Tell | Claim | Finish
