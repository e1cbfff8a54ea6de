"""Adjustments of Prefect 1: functions that move the times of a schedule, and clocks whose times are moved."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from anabranch.base.errors import ScheduleError
from anabranch.base.names import short
from anabranch.base.times import plain_span
from anabranch.schedules import Clock, Schedule
from anabranch.schedules.zones import existing, moment_of, wall_time

Adjustment = Callable[[datetime], datetime]
DAY = timedelta(days=1)
FURTHEST = 7 * DAY
"""How far a function of a user's may move a time; the clock's times are asked for from so far back."""


@dataclass(frozen=True, slots=True)
class add:
    """Moves a time by a length of time."""

    interval: timedelta

    def __post_init__(self) -> None:
        if not isinstance(self.interval, timedelta):
            raise ScheduleError(f"adjustments.add: expected a timedelta, found {short(self.interval)}")
        object.__setattr__(self, "interval", plain_span(self.interval))

    def __call__(self, dt: datetime) -> datetime:
        """The time, moved; one without a zone is in UTC."""
        return (dt.astimezone(UTC) + self.interval).astimezone(dt.tzinfo) if dt.tzinfo else self(dt.replace(tzinfo=UTC))


def next_weekday(dt: datetime) -> datetime:
    """The same time of day on the next day from Monday to Friday; of these days, the time itself."""
    zone = dt.tzinfo or UTC
    days = max(0, 7 - dt.weekday()) if dt.weekday() >= 5 else 0
    return existing(wall_time(dt) + days * DAY, zone).astimezone(zone) if days else dt.replace(tzinfo=zone)


class AdjustedClock(Clock):
    """The times of a clock that filters let pass, moved by adjustments, in order, and each once.

    Parameters
    ----------
    schedule
        One clock, with the filters. They see its own times, as do its start and end.
    adjustments
        Functions of an aware datetime, each of which is given what the one before gives.

    Raises
    ------
    ScheduleError
        One of them is no function.
    """

    def __init__(self, schedule: Schedule, adjustments: Iterable[Adjustment]) -> None:
        (clock,) = schedule.clocks
        super().__init__(timezone=clock.zone, parameter_defaults=clock.parameter_defaults, labels=clock.labels)
        self.schedule = schedule
        self.adjustments = tuple(adjustments)
        for each in self.adjustments:
            if not callable(each):
                raise ScheduleError(f"adjustments: no function that moves a time: {short(each)}")

    def _reach(self) -> tuple[timedelta, timedelta]:
        """The least and the most that a time is moved by; less than nothing is back."""
        least = most = timedelta(0)
        for each in self.adjustments:
            if isinstance(each, add):
                least, most = least + each.interval, most + each.interval
            elif each is next_weekday:
                most += 3 * DAY  # from Saturday to Monday, and an hour of daylight saving
            else:
                least, most = least - FURTHEST, most + FURTHEST
        return least, most

    def _times(self, after: datetime) -> Iterator[datetime]:
        least, most = self._reach()
        waiting: list[datetime] = []
        for event in self.schedule.events(after - most):
            moment = event.start_time.astimezone(UTC)
            moved = self._moved(event.start_time)
            if not least <= moved - moment <= most:
                raise ScheduleError(f"an adjustment moved {moment} to {moved}: further than {FURTHEST.days} days")
            heapq.heappush(waiting, moved)
            while waiting and waiting[0] <= moment + least:  # nothing that comes later is moved to before it
                if (moved := heapq.heappop(waiting)) > after:
                    yield (after := moved)
        for moved in sorted({each for each in waiting if each > after}):
            yield moved

    def _moved(self, moment: datetime) -> datetime:
        for each in self.adjustments:
            try:
                moved = each(moment)
            except Exception as error:
                raise ScheduleError(f"an adjustment raised {type(error).__name__} for {moment}: {error}") from error
            moment = moment_of(moved, self.zone, "adjustments").astimezone(self.zone)
        return moment.astimezone(UTC)

    def describe(self) -> str:
        """The clock in words."""
        return f"{self.schedule.describe()}, adjusted"
