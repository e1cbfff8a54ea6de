"""Zones and times of other libraries: the same times as with Python's own, or a refusal that says what is accepted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import dateutil.tz
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.errors import ScheduleError
from anabranch.schedules import CronSchedule, DatesSchedule, IntervalSchedule, filters
from anabranch.schedules.as_json import to_form
from anabranch.schedules.zones import local_time, moment_of, zone_of

KOLKATA, BERLIN = ZoneInfo("Asia/Kolkata"), ZoneInfo("Europe/Berlin")
JUNE = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Localized(tzinfo):
    """As pytz has zones: with the mean time of long ago, until `localize` or `fromutc` gives another object."""

    def __init__(self, zone: str, offset: timedelta | None = None) -> None:
        self.zone = zone
        self.offset = offset if offset is not None else ZoneInfo(zone).utcoffset(datetime(1800, 1, 1))  # noqa: DTZ001

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return self.offset if moment is not None else None

    def dst(self, moment: datetime | None) -> timedelta | None:
        return timedelta(0) if moment is not None else None

    def tzname(self, moment: datetime | None) -> str:
        return self.zone

    def fromutc(self, moment: datetime) -> datetime:
        there = moment.replace(tzinfo=UTC).astimezone(ZoneInfo(self.zone))
        return there.replace(tzinfo=Localized(self.zone, there.utcoffset()))

    def localize(self, wall: datetime) -> datetime:
        return wall.replace(tzinfo=Localized(self.zone, wall.replace(tzinfo=ZoneInfo(self.zone)).utcoffset()))


class Unhashable(tzinfo):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable)

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=5, minutes=30)

    def dst(self, moment: datetime | None) -> timedelta:
        return timedelta(0)


class Key(ZoneInfo):
    """As pendulum has zones."""


class Seasonal(tzinfo):
    """A zone of somebody's own, which has no name that Python knows; the standard time is told without a moment."""

    name = "UTC"

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=1) + self.dst(moment)

    def dst(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=1 if moment is not None and 4 <= moment.month <= 9 else 0)


class Silent(tzinfo):
    """It says nothing."""


class Moment(datetime):
    """A time whose differences and comparisons are its own library's."""

    def __sub__(self, other: object) -> Any:
        raise AttributeError("not by another library")

    __rsub__ = __add__ = __sub__


class Span(timedelta):
    """A length of time that divides its own kind only, and whose days are those of the calendar."""

    days = property(lambda self: 0)  # type: ignore[assignment]

    def __mod__(self, other: object) -> Any:
        raise AttributeError("not by another library")

    __floordiv__ = __rfloordiv__ = __mod__


ALIKE = [
    pytest.param(Localized("Asia/Kolkata"), id="pytz"),
    pytest.param(dateutil.tz.gettz("Asia/Kolkata"), id="dateutil"),
    pytest.param(Key("Asia/Kolkata"), id="pendulum"),
    pytest.param(Unhashable(), id="no hash"),
    pytest.param(dateutil.tz.tzoffset("IST", 19_800), id="fixed"),
]


@pytest.mark.parametrize("zone", ALIKE)
@pytest.mark.parametrize(
    "make",
    [
        lambda zone: CronSchedule("0 6 * * *", timezone=zone),
        lambda zone: IntervalSchedule(timedelta(days=1), datetime(2026, 1, 1, 6), timezone=zone),  # noqa: DTZ001
        lambda zone: IntervalSchedule(timedelta(days=1), datetime(2026, 1, 1, 6, tzinfo=zone)),
        lambda zone: IntervalSchedule(timedelta(days=1), datetime(2026, 1, 1, 6, tzinfo=KOLKATA).astimezone(zone)),
        lambda zone: DatesSchedule([datetime(2026, 7, 1, 6)], timezone=zone),  # noqa: DTZ001
        lambda zone: DatesSchedule([datetime(2026, 7, 1, 6, tzinfo=zone)]),
        lambda zone: CronSchedule("0 6 * * *", start_date=pandas.Timestamp("2026-01-01"), timezone=zone),
    ],
    ids=["cron", "days", "start with it", "start", "dates", "dates with it", "pandas"],
)
def test_a_zone_of_another_library_gives_the_times_of_pythons_own(zone: tzinfo, make: Callable[[tzinfo], Any]):
    schedule = make(zone)
    assert schedule.next(1, after=JUNE)[0].astimezone(KOLKATA).strftime("%H:%M:%S") == "06:00:00"
    assert to_form(schedule)["clocks"][0]["zone"] in ("Asia/Kolkata", 19_800)


def test_summer_is_not_an_hour_off_where_the_start_was_in_winter():
    start = Localized("Europe/Berlin").localize(datetime(2026, 1, 1, 6))  # noqa: DTZ001  # as pytz's manual says
    found = IntervalSchedule(timedelta(days=1), start).next(1, after=JUNE)
    assert found[0].isoformat() == "2026-06-02T06:00:00+02:00"


@pytest.mark.parametrize("zone", [Seasonal(), Silent(), dateutil.tz.gettz("CET-1CEST")])
def test_a_zone_that_python_does_not_have_is_refused(zone: tzinfo):
    with pytest.raises(ScheduleError, match=r"expected a name such as 'Europe/Berlin', a zoneinfo.ZoneInfo or a"):
        zone_of(zone)
    with pytest.raises(ScheduleError, match="zoneinfo"):
        IntervalSchedule(60, datetime(2026, 1, 1, tzinfo=zone))


def test_a_date_in_a_zone_that_python_does_not_have_is_a_moment_all_the_same():
    found = moment_of(datetime(2026, 7, 1, 12, tzinfo=Seasonal()), BERLIN, "dates[0]")
    assert (found.isoformat(), found.tzinfo) == ("2026-07-01T10:00:00+00:00", UTC)
    assert local_time(datetime(2026, 7, 1, 12, tzinfo=Seasonal())).tzinfo == timezone(timedelta(hours=2))


def test_nothing_that_is_no_time_is_taken_for_one():
    with pytest.raises(ScheduleError, match="expected a date or datetime, found NaT"):
        DatesSchedule([pandas.NaT])  # type: ignore[list-item]
    with pytest.raises(ScheduleError, match="after: expected a time with its zone"):
        CronSchedule("0 6 * * *").next(1, after=Moment(2026, 1, 1))


@given(
    st.datetimes(datetime(1972, 1, 1), datetime(2036, 1, 1), timezones=st.sampled_from([UTC, KOLKATA, BERLIN])),  # noqa: DTZ001
    st.timedeltas(timedelta(seconds=1), timedelta(days=40)),
)
def test_times_and_spans_of_other_classes_give_the_same_times(start: datetime, every: timedelta):
    parts = (start.year, start.month, start.day, start.hour, start.minute, start.second, start.microsecond)
    own = Moment(*parts, tzinfo=start.tzinfo, fold=start.fold)
    plain = IntervalSchedule(every, start, JUNE + timedelta(days=20_000))
    other = IntervalSchedule(
        Span(every.days, every.seconds, every.microseconds), own, pandas.Timestamp(plain.clocks[0].end_date)
    )
    after = start + timedelta(days=100)
    found = other.next(3, after=pandas.Timestamp(after))
    assert found == plain.next(3, after=after)
    assert {type(each) for each in (*found, other.clocks[0].start_date)} == {datetime}
    assert to_form(other) == to_form(plain)


def test_filters_take_times_and_days_of_other_classes():
    new_year = datetime(2026, 1, 1, tzinfo=BERLIN)
    assert filters.on_datetime(Moment(2026, 1, 1))(new_year)
    assert filters.on_datetime(pandas.Timestamp("2026-01-01 04:30", tz=KOLKATA))(new_year)
    assert type(filters.between_datetimes(Moment(2026, 1, 1), Moment(2026, 1, 2)).start) is datetime
    assert filters.between_datetimes(Moment(2026, 1, 1), datetime.max.replace(tzinfo=BERLIN))(new_year)
    for day in (date(2026, 1, 1), new_year, Moment(2026, 1, 1, 5), pandas.Timestamp("2026-01-01")):
        assert filters.on_days([day])(new_year), day
    with pytest.raises(ScheduleError, match="on_days: expected dates, found '2026-01-01'"):
        filters.on_days(["2026-01-01"])  # type: ignore[list-item]
    with pytest.raises(ScheduleError, match="on_datetime: expected a datetime, found '2026-01-01'"):
        filters.on_datetime("2026-01-01")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Mars", "Europe", "../etc/passwd", "", 7])
def test_a_name_that_is_no_zone_is_refused(name: object):
    with pytest.raises(ScheduleError, match=r"^timezone: expected a name such as 'Europe/Berlin', found "):
        zone_of(name)
