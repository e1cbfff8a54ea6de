"""Schedules: clocks with filters, and what a service does about missed and overlapping times."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import islice
from typing import Any, Literal, overload

from anabranch.base.errors import ScheduleError
from anabranch.base.names import short
from anabranch.base.prefect1 import refusing
from anabranch.base.times import plain_time
from anabranch.schedules.clocks import Clock, CronClock, DatesClock, IntervalClock
from anabranch.schedules.filters import Filter

CatchUp = Literal["all", "latest", "skip"]
Overlap = Literal["allow", "skip", "queue", "cancel_previous"]
CATCH_UP: tuple[CatchUp, ...] = ("all", "latest", "skip")
OVERLAP: tuple[Overlap, ...] = ("allow", "skip", "queue", "cancel_previous")

MAX_FILTERED = 1_000_000
"""Times in a row that no filter lets pass, after which a schedule is taken for one that has no time at all."""


@dataclass(frozen=True, slots=True)
class ScheduledTime:
    """A time at which a flow is due."""

    start_time: datetime
    """The time, in the zone of its clock."""
    parameter_defaults: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


class Schedule:
    """When a flow runs.

    Parameters
    ----------
    clocks
        One or several. A time that several clocks have counts once, unless their parameters differ.
    filters
        Functions of an aware datetime that must all be true.
    or_filters
        Functions of which one must be true.
    not_filters
        Functions that must all be false.
    catch_up
        Which missed times run, if they passed while there was no service: ``"latest"`` (only the last), ``"all"``, or
        ``"skip"`` (none, except those less than a minute late).
    overlap
        What to do if an earlier run of the flow is still active: ``"allow"``, ``"skip"``, ``"queue"`` or
        ``"cancel_previous"``.

    Raises
    ------
    ScheduleError
        There is no clock, or an option has the wrong type.
    """

    @refusing("Schedule")
    def __init__(
        self,
        clocks: Iterable[Clock] = (),
        filters: Sequence[Filter] | None = None,
        or_filters: Sequence[Filter] | None = None,
        not_filters: Sequence[Filter] | None = None,
        *,
        catch_up: CatchUp = "latest",
        overlap: Overlap = "allow",
    ) -> None:
        self.clocks: tuple[Clock, ...] = tuple(clocks) if isinstance(clocks, Iterable) else ()
        wrong = [each for each in self.clocks if not isinstance(each, Clock)]
        if not self.clocks or wrong:
            found = short(wrong[0]) if wrong else short(clocks)
            raise ScheduleError(f"clocks: expected clocks such as CronClock('0 6 * * *'), found {found}")
        self.filters = _functions("filters", filters)
        self.or_filters = _functions("or_filters", or_filters)
        self.not_filters = _functions("not_filters", not_filters)
        self.catch_up: CatchUp = _choice("catch_up", catch_up, CATCH_UP)
        self.overlap: Overlap = _choice("overlap", overlap, OVERLAP)

    def __repr__(self) -> str:
        return f"<Schedule {self.describe()}>"

    def __or__(self, other: Schedule) -> Schedule:
        """The times of both, with the policies of the first.

        Raises
        ------
        ScheduleError
            They have filters, and not the same ones.
        """
        if not isinstance(other, Schedule):
            return NotImplemented
        mine, others = ((each.filters, each.or_filters, each.not_filters) for each in (self, other))
        if mine != others:
            raise ScheduleError("schedules with different filters cannot be joined; use one Schedule(clocks=[…])")
        return Schedule([*self.clocks, *other.clocks], *mine, catch_up=self.catch_up, overlap=self.overlap)

    @overload
    def next(self, n: int, after: datetime | None = None, return_events: Literal[False] = False) -> list[datetime]: ...
    @overload
    def next(self, n: int, after: datetime | None = None, *, return_events: Literal[True]) -> list[ScheduledTime]: ...
    def next(self, n: int, after: datetime | None = None, return_events: bool = False) -> list[Any]:
        """The next times, in the zones of their clocks; fewer if there are no more.

        Parameters
        ----------
        n
            Number of times.
        after
            Return times later than this; default: now.
        return_events
            Return `ScheduledTime` objects, with parameters and labels.
        """
        found = islice(self.events(after if after is not None else datetime.now(UTC)), n)
        return list(found) if return_events else [each.start_time for each in found]

    def events(self, after: datetime) -> Iterator[ScheduledTime]:
        """All times later than `after`, in order; they may never end.

        Raises
        ------
        ScheduleError
            The filters reject everything, or one of them raised.
        """
        try:
            after = plain_time(after)
        except ValueError:
            raise ScheduleError(
                f"after: expected a time with its zone, found {after!r}; use datetime.now(UTC)"
            ) from None
        latest: datetime | None = None
        there: list[Mapping[str, Any]] = []
        for moment, clock in self._moments(after):
            if moment != latest:
                latest, there = moment, [clock.parameter_defaults]
            elif clock.parameter_defaults in there:
                continue
            else:
                there.append(clock.parameter_defaults)
            local = moment if clock.zone is UTC else moment.astimezone(clock.zone)
            yield ScheduledTime(local, clock.parameter_defaults, clock.labels)

    def zone_at(self, moment: datetime) -> tzinfo:
        """Zone of the clock that has this time, whatever the filters say; if none has, that of the first one."""
        before = plain_time(moment) - timedelta(microseconds=1)
        found = (clock.zone for clock in self.clocks if next(clock.times(before), None) == moment)
        return next(found, self.clocks[0].zone)

    def _moments(self, after: datetime) -> Iterator[tuple[datetime, Clock]]:
        """What the filters let pass, in order."""
        merged = heapq.merge(*(self._passed(clock, after) for clock in self.clocks), key=lambda pair: pair[0])
        yield from self._passed(self.clocks[0], after) if len(self.clocks) == 1 else merged

    def _passed(self, clock: Clock, after: datetime) -> Iterator[tuple[datetime, Clock]]:
        if not (self.filters or self.or_filters or self.not_filters):
            yield from ((moment, clock) for moment in clock.times(after))
            return
        refused = 0
        for moment in clock.times(after):
            if self._lets_pass(moment.astimezone(clock.zone)):
                refused = 0
                yield moment, clock
            elif (refused := refused + 1) >= MAX_FILTERED:
                raise ScheduleError(
                    f"the filters let none of {refused:,} times pass, up to {moment:%Y-%m-%d}; "
                    "give the clock an end_date, or other filters"
                )

    def _lets_pass(self, moment: datetime) -> bool:
        try:
            return (
                all(each(moment) for each in self.filters)
                and (not self.or_filters or any(each(moment) for each in self.or_filters))
                and not any(each(moment) for each in self.not_filters)
            )
        except Exception as error:
            raise ScheduleError(f"a filter raised {type(error).__name__} for {moment}: {error}") from error

    def describe(self) -> str:
        """The schedule in words."""
        words = "; ".join(clock.describe() for clock in self.clocks)
        count = len(self.filters) + len(self.or_filters) + len(self.not_filters)
        return f"{words}, filtered" if count else words


def IntervalSchedule(  # noqa: N802  # named like the class that it is in Prefect
    interval: timedelta | float,
    start_date: date | None = None,
    end_date: date | None = None,
    *,
    timezone: str | tzinfo | None = None,
    parameter_defaults: Mapping[str, Any] | None = None,
    labels: Collection[str] | None = None,
    **options: Any,
) -> Schedule:
    """A `Schedule` with one `IntervalClock`. Further options are those of `Schedule`.

    Examples
    --------
    >>> hourly = IntervalSchedule(timedelta(hours=1), start_date=datetime(2026, 1, 1, tzinfo=UTC))
    >>> [f"{each:%H:%M}" for each in hourly.next(2, after=datetime(2026, 1, 1, 12, 30, tzinfo=UTC))]
    ['13:00', '14:00']
    """
    clock = IntervalClock(
        interval, start_date, end_date, timezone=timezone, parameter_defaults=parameter_defaults, labels=labels
    )
    return Schedule([clock], **options)


def CronSchedule(  # noqa: N802  # as above
    cron: str,
    start_date: date | None = None,
    end_date: date | None = None,
    *,
    timezone: str | tzinfo | None = None,
    parameter_defaults: Mapping[str, Any] | None = None,
    labels: Collection[str] | None = None,
    **options: Any,
) -> Schedule:
    """A `Schedule` with one `CronClock`. Further options are those of `Schedule`.

    Examples
    --------
    >>> early = CronSchedule("0 6 * * 1-5", timezone="Europe/Berlin")
    >>> early.next(1, after=datetime(2026, 11, 20, 12, tzinfo=UTC))[0].isoformat()
    '2026-11-23T06:00:00+01:00'
    """
    clock = CronClock(
        cron, start_date, end_date, timezone=timezone, parameter_defaults=parameter_defaults, labels=labels
    )
    return Schedule([clock], **options)


def DatesSchedule(  # noqa: N802  # as above
    dates: Iterable[date],
    *,
    timezone: str | tzinfo | None = None,
    parameter_defaults: Mapping[str, Any] | None = None,
    labels: Collection[str] | None = None,
    **options: Any,
) -> Schedule:
    """A `Schedule` with one `DatesClock`. Further options are those of `Schedule`."""
    clock = DatesClock(dates, timezone=timezone, parameter_defaults=parameter_defaults, labels=labels)
    return Schedule([clock], **options)


def _functions(name: str, given: Sequence[Filter] | None) -> tuple[Filter, ...]:
    found = tuple(given or ()) if not callable(given) else (given,)
    wrong = [each for each in found if not callable(each)]
    if wrong:
        raise ScheduleError(f"{name}: expected functions of a datetime, found {short(wrong[0])}")
    return found


def _choice(name: str, given: str, known: Sequence[str]) -> Any:  # a literal, which `known` has checked
    if given not in known:
        raise ScheduleError(f"{name}: expected one of {', '.join(map(repr, known))}, found {short(given)}")
    return given
