"""Clocks: endless sources of times. A schedule has one or several.

A clock yields moments in UTC, each later than the one before. If daylight saving skips a time of day, it runs at the
jump; if it repeats one, the first runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any

from cronsim import CronSim, CronSimError

from anabranch.base.errors import ScheduleError
from anabranch.base.names import short
from anabranch.base.prefect1 import getter, refusing
from anabranch.base.times import plain_span
from anabranch.schedules.zones import existing, moment_of, zone_of

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
EPOCH = datetime(2019, 1, 1, tzinfo=UTC)
"""Start of intervals without a start date. Prefect's choice; any fixed moment would do."""
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_LAST_YEAR = 9990  # so that arithmetic with time zones stays within the years that Python has
_PATIENCE = 50 * 366  # days without a match after which there will be none


class Clock:
    """Base of all clocks.

    Parameters
    ----------
    start_date
        No time is before it. Dates without a zone are in the clock's.
    end_date
        No time is after it.
    timezone
        Name of a zone, or a `tzinfo`; default: that of the start date, else UTC.
    parameter_defaults
        Parameters of the runs that this clock starts.
    labels
        Labels of these runs.

    Raises
    ------
    ScheduleError
        The end is before the start, the zone does not exist, or a value has the wrong type.
    """

    @refusing("Clock")
    def __init__(
        self,
        start_date: date | None = None,
        end_date: date | None = None,
        *,
        timezone: str | tzinfo | None = None,
        parameter_defaults: Mapping[str, Any] | None = None,
        labels: Collection[str] | None = None,
    ) -> None:
        self.zone = zone_of(timezone, start_date, end_date)
        self.start_date = moment_of(start_date, self.zone, "start_date") if start_date is not None else None
        self.end_date = moment_of(end_date, self.zone, "end_date") if end_date is not None else None
        if self.start_date is not None and self.end_date is not None and self.end_date < self.start_date:
            raise ScheduleError(
                f"end_date {short(str(end_date))} is before start_date {short(str(start_date))}; no time is between"
            )
        if parameter_defaults is not None and not isinstance(parameter_defaults, Mapping):
            raise ScheduleError(f"parameter_defaults: expected a dict by name, found {short(parameter_defaults)}")
        if isinstance(labels, (str, bytes)):
            raise ScheduleError(f"labels: expected a list of names, found {short(labels)}")
        self.parameter_defaults: dict[str, Any] = dict(parameter_defaults or {})
        self.labels: tuple[str, ...] = tuple(labels or ())

    def times(self, after: datetime) -> Iterator[datetime]:
        """Moments in UTC later than `after` and between the clock's start and end, in order."""
        if self.start_date is not None:
            after = max(after, self.start_date - timedelta(microseconds=1))
        try:
            if self.end_date is None:
                yield from self._times(after)
                return
            for moment in self._times(after):
                if moment > self.end_date:
                    return
                yield moment
        except OverflowError:  # the end of the calendar
            return

    def _times(self, after: datetime) -> Iterator[datetime]:
        raise NotImplementedError

    def describe(self) -> str:
        """The clock in words."""
        raise NotImplementedError

    def _zone_name(self) -> str:
        return str(self.zone)


class IntervalClock(Clock):
    """At a regular interval from the start date (default: 2019-01-01 00:00 UTC).

    Intervals of whole days keep their time of day when daylight saving begins or ends; others are fixed lengths of
    time.

    Parameters
    ----------
    interval
        A `timedelta`, or seconds; at least one second.
    **options
        As for `Clock`.

    Raises
    ------
    ScheduleError
        The interval is too short, or not a length of time.
    """

    def __init__(self, interval: timedelta | float, start_date: date | None = None, *args: Any, **options: Any) -> None:
        super().__init__(start_date, *args, **options)
        if isinstance(interval, (int, float)) and not isinstance(interval, bool):
            try:
                interval = timedelta(seconds=interval)
            except (OverflowError, ValueError) as error:
                raise ScheduleError(f"interval: {error}") from None
        if not isinstance(interval, timedelta):
            raise ScheduleError(f"interval: expected a timedelta or seconds, found {short(interval)}")
        interval = plain_span(interval)
        if interval < SECOND:
            raise ScheduleError(f"interval: expected one second or more, found {interval.total_seconds():g} s")
        self.interval = interval

    def _times(self, after: datetime) -> Iterator[datetime]:
        anchor = self.start_date if self.start_date is not None else EPOCH
        if self.interval % DAY == timedelta(0):
            yield from self._days(anchor.astimezone(self.zone).replace(tzinfo=None), after)
            return
        moment = anchor
        if after >= anchor:
            moment += ((after - anchor) // self.interval + 1) * self.interval
        elif self.start_date is None:  # before the epoch there are times, too
            moment -= ((anchor - after - timedelta(microseconds=1)) // self.interval) * self.interval
        while True:
            yield moment
            moment += self.interval

    def _days(self, anchor: datetime, after: datetime) -> Iterator[datetime]:
        """Times on the wall, every so many days."""
        passed = (after.astimezone(self.zone).replace(tzinfo=None) - anchor) // self.interval
        first = passed - 1 if self.start_date is None else max(0, passed - 1)
        for number in count(first):
            moment = existing(anchor + number * self.interval, self.zone)
            if moment > after:
                yield moment

    def describe(self) -> str:
        """The clock in words."""
        return f"every {self.interval} ({self._zone_name()})"


class CronClock(Clock):
    """At the times of a cron expression: ``minute hour day-of-month month day-of-week``, or with seconds before these.

    As in Debian's cron, a job with fixed hours and minutes runs once a day even when daylight saving begins or ends. A
    job whose minutes or hours begin with a star follows the clocks on the wall.

    Parameters
    ----------
    cron
        The expression, or ``@hourly``, ``@daily``, ``@weekly``, ``@monthly``, ``@yearly``.
    **options
        As for `Clock`.

    Raises
    ------
    ScheduleError
        It is not a cron expression.
    """

    def __init__(self, cron: str, start_date: date | None = None, *args: Any, **options: Any) -> None:
        super().__init__(start_date, *args, **options)
        if not isinstance(cron, str):
            raise ScheduleError(f"cron: expected an expression such as '0 6 * * *', found {short(cron)}")
        self.cron = cron
        self._expression = ALIASES.get(cron.strip().lower(), cron)
        try:
            self._rule()
        except (CronSimError, ValueError, RecursionError) as error:
            why = f": {str(error)[:1].lower()}{str(error)[1:]}" if str(error) else ""
            raise ScheduleError(
                f"cron: {short(cron, 80)} is not a cron expression{why}; expected five fields, 'minute hour "
                "day-of-month month day-of-week', such as '0 6 * * 1-5'"
            ) from None

    def _rule(self, start: datetime = EPOCH) -> CronSim:
        return CronSim(self._expression, start)

    def _times(self, after: datetime) -> Iterator[datetime]:
        """Day by day: cronsim decides what days and fields match, and steps through days on which clocks change.

        It takes 14 µs for each time, which for a year of minutes is seven seconds; this takes a tenth of one.
        """
        rule = self._rule()
        clock_times = _clock_times(frozenset(rule.hours), frozenset(rule.minutes), frozenset(rule.seconds))
        day = after.astimezone(self.zone).date() - DAY
        without = 0
        while day.year < _LAST_YEAR and without < _PATIENCE:
            without += 1
            if _is_even(day, self.zone):
                if day.month in rule.months and rule.match_day(day):
                    without = 0
                    midnight = _midnight(day, self.zone).astimezone(UTC)
                    begin = bisect_right(clock_times, after - midnight)
                    for each in clock_times[begin:]:
                        yield midnight + each
                day += DAY
                continue
            end = day + DAY
            while not _is_even(end, self.zone):
                end += DAY
            for moment in self._stepped(day, end):
                without = 0
                if moment > after:
                    yield moment
            day = end

    def _stepped(self, begin: date, end: date) -> Iterator[datetime]:
        """The times of some days, by cronsim."""
        until = _midnight(end, self.zone).astimezone(UTC)
        for found in self._rule(_midnight(begin, self.zone) - SECOND):
            moment = found.astimezone(UTC)
            if moment >= until:
                return
            yield moment

    def describe(self) -> str:
        """The clock in words."""
        try:
            words = self._rule().explain()
        except Exception:  # it does not know all that it can parse
            words = self._expression
        return f"{words} ({self._zone_name()})"


@lru_cache(maxsize=8_192)
def _is_even(day: date, zone: tzinfo) -> bool:
    """Whether no clock changes around a day; shared, as thousands of flows may run in the same zone."""
    if zone is UTC:
        return True
    return len({_midnight(day + each * DAY, zone).utcoffset() for each in (-1, 0, 1, 2)}) == 1


@lru_cache(maxsize=256)
def _clock_times(hours: frozenset[int], minutes: frozenset[int], seconds: frozenset[int]) -> tuple[timedelta, ...]:
    """Times of day; shared, as thousands of flows may run by the same expression."""
    return tuple(
        timedelta(hours=hour, minutes=minute, seconds=second)
        for hour in sorted(hours)
        for minute in sorted(minutes)
        for second in sorted(seconds)
    )


def _midnight(day: date, zone: tzinfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone)


class DatesClock(Clock):
    """At given times, in any order.

    Parameters
    ----------
    dates
        Dates or datetimes; those without a zone are in the clock's.
    **options
        As for `Clock`.

    Raises
    ------
    ScheduleError
        One of them is not a date.
    """

    def __init__(self, dates: Iterable[date], *args: Any, **options: Any) -> None:
        if isinstance(dates, (str, bytes)) or not isinstance(dates, Iterable):
            raise ScheduleError(f"dates: expected a list of dates, found {short(dates)}")
        dates = list(dates)
        options.setdefault("timezone", None)
        if options["timezone"] is None:
            options["timezone"] = zone_of(None, *args, *dates)
        super().__init__(*args, **options)
        self.dates: tuple[datetime, ...] = tuple(
            sorted({moment_of(each, self.zone, f"dates[{i}]") for i, each in enumerate(dates)})
        )

    def _times(self, after: datetime) -> Iterator[datetime]:
        yield from self.dates[bisect_right(self.dates, after) :]

    def describe(self) -> str:
        """The clock in words."""
        return f"at {len(self.dates)} dates ({self._zone_name()})"


if not TYPE_CHECKING:
    __getattr__ = getter("schedules.clocks")
