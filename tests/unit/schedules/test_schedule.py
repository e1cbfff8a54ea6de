"""Schedules: daylight saving, filters, parameters of clocks, what is missed, and what is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from anabranch.errors import ScheduleError
from anabranch.schedules import (
    CronClock,
    CronSchedule,
    DatesSchedule,
    IntervalClock,
    IntervalSchedule,
    Schedule,
    due,
    filters,
)

BERLIN = ZoneInfo("Europe/Berlin")
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)


def walls(found: list[datetime]) -> list[str]:
    return [f"{each:%m-%d %H:%M%z}" for each in found]


# Daylight saving ------------------------------------------------------------------------------------------------------

BEFORE_GAP = datetime(2026, 3, 28, 12, tzinfo=UTC)
BEFORE_FOLD = datetime(2026, 10, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "schedule",
    [
        CronSchedule("30 2 * * *", timezone="Europe/Berlin"),
        IntervalSchedule(timedelta(days=1), datetime(2026, 1, 1, 2, 30, tzinfo=BERLIN)),
    ],
)
def test_a_time_that_does_not_exist_runs_when_the_clocks_jump_and_one_that_exists_twice_once(schedule: Schedule):
    assert walls(schedule.next(2, after=BEFORE_GAP)) == ["03-29 03:00+0200", "03-30 02:30+0200"]
    assert walls(schedule.next(2, after=BEFORE_FOLD)) == ["10-25 02:30+0200", "10-26 02:30+0100"]


def test_an_hourly_job_follows_the_clocks_on_the_wall():
    hourly = CronSchedule("0 * * * *", timezone="Europe/Berlin")
    in_spring = hourly.next(3, after=datetime(2026, 3, 29, 0, 30, tzinfo=UTC))
    in_autumn = hourly.next(3, after=datetime(2026, 10, 24, 23, 30, tzinfo=UTC))
    assert walls(in_spring) == ["03-29 03:00+0200", "03-29 04:00+0200", "03-29 05:00+0200"]
    assert walls(in_autumn) == ["10-25 02:00+0200", "10-25 02:00+0100", "10-25 03:00+0100"]


def test_an_interval_of_hours_is_a_length_of_time():
    found = IntervalSchedule(timedelta(hours=12), datetime(2026, 3, 28, 6, tzinfo=BERLIN)).next(3, after=BEFORE_GAP)
    assert walls(found) == ["03-28 18:00+0100", "03-29 07:00+0200", "03-29 19:00+0200"]


def test_a_day_that_a_zone_left_out_is_made_up_for_at_the_next_midnight():
    noon = CronSchedule("0 12 * * *", timezone="Pacific/Apia")  # there was no 30 December 2011 in Samoa
    found = noon.next(3, after=datetime(2011, 12, 29, 20, tzinfo=UTC))
    assert [f"{each:%m-%d %H:%M}" for each in found] == ["12-29 12:00", "12-31 00:00", "12-31 12:00"]


def test_a_year_of_minutes_is_not_stepped_through(monkeypatch: pytest.MonkeyPatch):
    steps: list[datetime] = []
    step = CronSim.__next__

    def counted(rule: CronSim) -> datetime:
        steps.append(step(rule))
        return steps[-1]

    monkeypatch.setattr(CronSim, "__next__", counted)  # 14 µs each: a year would take seven seconds
    minutes = CronClock("* * * * *", timezone="Europe/Berlin")
    count = sum(1 for _ in takewhile(lambda moment: moment.year < 2027, minutes.times(MIDNIGHT)))
    assert count == 365 * 1_440 - 1
    assert len(steps) < 10 * 1_440  # the days around the two changes of the clocks


# Clocks and filters ---------------------------------------------------------------------------------------------------


def test_clocks_have_their_own_parameters_and_a_time_that_two_share_counts_once_if_these_are_equal():
    one = CronClock("0 6 * * *", parameter_defaults={"region": "eu"}, labels=["morning"])
    same = CronClock("0 6,7 * * *", parameter_defaults={"region": "eu"})
    other = CronClock("0 6 * * *", parameter_defaults={"region": "us"})
    found = Schedule([one, same, other]).next(3, after=MIDNIGHT, return_events=True)
    assert [(each.start_time.hour, each.parameter_defaults["region"]) for each in found] == [
        (6, "eu"),
        (6, "us"),
        (7, "eu"),
    ]
    assert found[0].labels == ("morning",)


def test_start_and_end_bound_a_clock_and_are_times_of_it_themselves():
    daily = IntervalSchedule(timedelta(days=1), date(2026, 1, 2), date(2026, 1, 4))
    assert [each.day for each in daily.next(10, after=MIDNIGHT)] == [2, 3, 4]
    assert daily.next(10, after=datetime(2026, 1, 4, tzinfo=UTC)) == []


def test_filters_see_the_time_in_the_zone_of_the_clock():
    hours = IntervalClock(3_600, timezone="Asia/Tokyo")
    schedule = Schedule(
        [hours],
        [filters.is_weekday, filters.between_times(time(22), time(1))],
        not_filters=[filters.on_days([date(2026, 1, 5)])],
    )
    found = schedule.next(4, after=datetime(2026, 1, 3, tzinfo=UTC))
    assert [f"{each:%a %d %H}" for each in found] == ["Tue 06 00", "Tue 06 01", "Tue 06 22", "Tue 06 23"]


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        (filters.is_weekend, [3, 4, 10]),
        (filters.is_month_start, [1, 32, 60]),
        (filters.is_month_end, [31, 59, 90]),
        (filters.is_day_of_week(0), [5, 12, 19]),
        (filters.on_date(2, 1), [32, 397, 762]),
        (filters.between_dates(12, 30, 1, 2), [1, 2, 364]),
        (filters.between_datetimes(datetime(2026, 1, 9), datetime(2026, 1, 10)), [9, 10]),  # noqa: DTZ001  # no zone: that is the case
        (filters.on_datetime(datetime(2026, 1, 9)), [9]),  # noqa: DTZ001  # no zone: that is the case
    ],
)
def test_ready_filters(passes: filters.Filter, expected: list[int]):
    days = IntervalClock(86_400, MIDNIGHT, datetime(2029, 1, 1, tzinfo=UTC))
    found = Schedule([days], or_filters=[passes]).next(3, after=MIDNIGHT - timedelta(days=1))
    assert [(each - MIDNIGHT).days + 1 for each in found] == expected


def test_filters_that_let_nothing_pass_are_told_of(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("anabranch.schedules.schedule.MAX_FILTERED", 1_000)
    never = IntervalSchedule(60, filters=[lambda moment: False])
    with pytest.raises(ScheduleError, match="let none of 1,000 times pass"):
        never.next(1, after=MIDNIGHT)


def test_a_filter_that_raises_is_named_with_the_time():
    with pytest.raises(ScheduleError, match=r"a filter raised ZeroDivisionError for 2026-01-01 00:01"):
        IntervalSchedule(60, filters=[lambda moment: 1 / 0]).next(1, after=MIDNIGHT)


# What is missed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "expected"), [("all", 24), ("latest", 1), ("skip", 0)])
def test_after_a_day_without_a_service_the_policy_decides(policy: str, expected: int):
    hourly = IntervalSchedule(3_600, catch_up=policy)
    now = MIDNIGHT + timedelta(days=1, minutes=30)
    found = due(hourly, MIDNIGHT, now)
    assert len(found) == expected
    assert all(each.start_time == MIDNIGHT + timedelta(days=1) for each in found[-1:])


@pytest.mark.parametrize("policy", ["all", "latest", "skip"])
def test_what_is_less_than_a_minute_late_is_not_missed(policy: str):
    minutely = IntervalSchedule(60, catch_up=policy)
    found = due(minutely, MIDNIGHT, MIDNIGHT + timedelta(seconds=100))
    assert [each.start_time for each in found] == [MIDNIGHT + timedelta(seconds=60)]


def test_more_missed_times_than_anybody_wants_are_refused():
    with pytest.raises(ScheduleError, match="more than 10,000 times were missed since 2026-01-01"):
        due(IntervalSchedule(1, catch_up="all"), MIDNIGHT, MIDNIGHT + timedelta(days=1))


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CronSchedule("garbage"), r"'garbage' is not a cron expression: wrong number of fields; expected five"),
        (lambda: CronSchedule("61 * * * *"), "bad minute"),
        (lambda: CronSchedule("0 0 30 2 *"), "bad day-of-month"),
        (lambda: CronSchedule("* * * * * * *"), "wrong number of fields"),
        (lambda: CronSchedule(""), "wrong number of fields"),
        (lambda: CronSchedule(None), "expected an expression such as '0 6"),
        (lambda: CronSchedule("1," * 5_000 + "x * * * *"), "not a cron expression"),
        (lambda: IntervalSchedule(0), "expected one second or more, found 0 s"),
        (lambda: IntervalSchedule(timedelta(days=-1)), "found -86400 s"),
        (lambda: IntervalSchedule(float("nan")), "interval"),
        (lambda: IntervalSchedule(1e300), "interval"),
        (lambda: IntervalSchedule("1h"), "expected a timedelta or seconds, found '1h'"),
        (
            lambda: IntervalSchedule(60, date(2026, 1, 2), date(2026, 1, 1)),
            "end_date '2026-01-01' is before start_date",
        ),
        (lambda: CronSchedule("@daily", timezone="Europe/Berln"), "did you mean 'Europe/Berlin'"),
        (lambda: CronSchedule("@daily", timezone="../../etc/passwd"), "expected a name such as"),
        (lambda: CronSchedule("@daily", timezone="Europe"), "expected a name such as"),
        (lambda: CronSchedule("@daily", start_date="2026-01-01"), "expected a date or datetime, found '2026-01-01'"),
        (lambda: CronSchedule("@daily", start_date=datetime.max, timezone="America/New_York"), "outside of the years"),  # noqa: DTZ901
        (lambda: DatesSchedule("2026-01-01"), "expected a list of dates"),
        (lambda: DatesSchedule([1]), r"dates\[0\]: expected a date"),
        (lambda: Schedule([]), "expected clocks such as"),
        (lambda: Schedule(["0 6 * * *"]), "expected clocks such as"),
        (
            lambda: CronSchedule("@daily", catch_up="some"),
            "catch_up: expected one of 'all', 'latest', 'skip', found 'some'",
        ),
        (lambda: CronSchedule("@daily", overlap="no"), "overlap: expected one of"),
        (lambda: CronSchedule("@daily", filters=[1]), "filters: expected functions"),
        (lambda: CronSchedule("@daily", labels="a"), "labels: expected a list"),
        (lambda: CronSchedule("@daily", parameter_defaults=[1]), "expected a dict by name"),
        (lambda: CronSchedule("@daily").next(1, after=datetime(2026, 1, 1)), "expected a time with its zone"),  # noqa: DTZ001  # no zone: that is the case
        (lambda: filters.is_day_of_week(7), "expected 0 .Monday. to 6, found 7"),
        (lambda: IntervalSchedule(60) | IntervalSchedule(60, filters=[filters.is_weekday]), "different filters"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_found(make: object, message: str):
    with pytest.raises(ScheduleError, match=message):
        make()


def test_the_calendar_ends_without_an_error():
    assert len(IntervalSchedule(timedelta(days=400)).next(10, after=datetime(9998, 1, 1, tzinfo=UTC))) < 3
    assert CronSchedule("0 0 1 1 *").next(3, after=datetime(9995, 1, 1, tzinfo=UTC)) == []


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        (datetime(2026, 4, 30, 15, tzinfo=UTC), "2026-05-01 Asia/Tokyo"),  # midnight in Tokyo
        (datetime(2026, 5, 1, 5, tzinfo=UTC), "2026-05-01 America/New_York"),  # one in New York
        (datetime(2026, 5, 1, 4, 30, tzinfo=ZoneInfo("Europe/Paris")), "2026-05-01 Asia/Tokyo"),  # of no clock
        (datetime(2026, 3, 3, 3, 3, tzinfo=UTC), "2026-03-02 Pacific/Pago_Pago"),
    ],
)
def test_a_time_is_in_the_zone_of_its_clock(moment, day):
    schedule = Schedule(
        [
            CronClock("0 0 * * *", timezone="Asia/Tokyo"),
            CronClock("0 1 * * *", timezone="America/New_York"),
            *DatesSchedule([datetime(2026, 3, 2, 16, 3, tzinfo=ZoneInfo("Pacific/Pago_Pago"))]).clocks,
        ],
        filters=[lambda moment: False],
    )
    zone = schedule.zone_at(moment)
    assert f"{moment.astimezone(zone):%Y-%m-%d} {zone}" == day
