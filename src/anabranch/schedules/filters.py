"""Filters of a clock's times: functions of an aware datetime, in the zone of the clock."""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import TypeVar

from anabranch.base.errors import ScheduleError
from anabranch.base.names import short
from anabranch.schedules.zones import local_time, wall_time

Filter = Callable[[datetime], bool]
_Value = TypeVar("_Value", time, tuple[int, int])


def is_weekday(moment: datetime) -> bool:
    """Monday to Friday."""
    return moment.weekday() < 5


def is_weekend(moment: datetime) -> bool:
    """Saturday or Sunday."""
    return moment.weekday() >= 5


def is_month_start(moment: datetime) -> bool:
    """The first day of a month."""
    return moment.day == 1


def is_month_end(moment: datetime) -> bool:
    """The last day of a month."""
    return moment.day == calendar.monthrange(moment.year, moment.month)[1]


@dataclass(frozen=True, slots=True)
class is_day_of_week:
    """One day of the week: 0 is Monday."""

    day: int

    def __post_init__(self) -> None:
        if self.day not in range(7):
            raise ScheduleError(f"is_day_of_week: expected 0 (Monday) to 6, found {short(self.day)}")

    def __call__(self, moment: datetime) -> bool:
        """Whether it is that day."""
        return moment.weekday() == self.day


@dataclass(frozen=True, slots=True)
class on_datetime:
    """One moment; without a zone, in the clock's."""

    moment: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "moment", _plain("on_datetime", self.moment))

    def __call__(self, moment: datetime) -> bool:
        """Whether it is that moment; one without a zone is in the clock's."""
        return _in_zone(self.moment, moment) == moment


@dataclass(frozen=True, slots=True)
class on_date:
    """One day of every year."""

    month: int
    day: int

    def __call__(self, moment: datetime) -> bool:
        """Whether it is that day."""
        return (moment.month, moment.day) == (self.month, self.day)


@dataclass(frozen=True, slots=True)
class at_time:
    """One time of day."""

    time: time

    def __call__(self, moment: datetime) -> bool:
        """Whether it is that time."""
        return moment.time() == self.time


@dataclass(frozen=True, slots=True)
class between_times:
    """From one time of day to another, both included; past midnight if the first is later."""

    start: time
    end: time

    def __call__(self, moment: datetime) -> bool:
        """Whether it is between them."""
        return _between(moment.time(), self.start, self.end)


@dataclass(frozen=True, slots=True)
class between_datetimes:
    """From one moment to another, both included."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            object.__setattr__(self, name, _plain("between_datetimes", getattr(self, name)))

    def __call__(self, moment: datetime) -> bool:
        """Whether it is between them; moments without a zone are in the clock's."""
        return _in_zone(self.start, moment) <= moment <= _in_zone(self.end, moment)


@dataclass(frozen=True, slots=True)
class between_dates:
    """From one day of the year to another, both included; past the new year if the first is later."""

    start_month: int
    start_day: int
    end_month: int
    end_day: int

    def __call__(self, moment: datetime) -> bool:
        """Whether it is between them."""
        today = (moment.month, moment.day)
        return _between(today, (self.start_month, self.start_day), (self.end_month, self.end_day))


class on_days:
    """Given days, such as holidays: a list of dates, or a function of a date."""

    def __init__(self, days: Iterable[date] | Callable[[date], object]) -> None:
        self.days: Callable[[date], object] | frozenset[date] = days if callable(days) else frozenset(map(_day, days))

    def __call__(self, moment: datetime) -> bool:
        """Whether it is such a day."""
        today = moment.date()
        return today in self.days if isinstance(self.days, frozenset) else bool(self.days(today))


def _plain(filter_name: str, moment: object) -> datetime:
    """A time as a plain datetime, with the zone that it has, if it has one."""
    if not isinstance(moment, datetime):
        raise ScheduleError(f"{filter_name}: expected a datetime, found {short(moment)}")
    return local_time(moment) if moment.tzinfo is not None else wall_time(moment)


def _day(value: object) -> date:
    """A day as a plain date: a datetime is equal to no date."""
    if not isinstance(value, date):
        raise ScheduleError(f"on_days: expected dates, found {short(value)}")
    return date(value.year, value.month, value.day)


def _in_zone(moment: datetime, other: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=other.tzinfo)


def _between(value: _Value, start: _Value, end: _Value) -> bool:
    return start <= value <= end if start <= end else value >= start or value <= end
