"""Schedules as JSON: what comes back is the same schedule, and what only code can say has no such form."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

import cloudpickle
import pytest
from tests import holidays

from anabranch.errors import ScheduleError
from anabranch.schedules import CronClock, CronSchedule, DatesSchedule, IntervalClock, IntervalSchedule, Schedule
from anabranch.schedules import filters as f
from anabranch.schedules.as_json import NoForm, from_form, names_code, to_form

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
BERLIN = "Europe/Berlin"
SCHEDULES = [
    CronSchedule("*/5 6-18 * * 1-5", timezone=BERLIN, catch_up="all", overlap="queue"),
    CronSchedule("@daily", NEW_YEAR, NEW_YEAR + timedelta(days=90), labels=["eu"]),
    IntervalSchedule(timedelta(days=1), datetime(2026, 1, 1, 2, 30), timezone=BERLIN),  # noqa: DTZ001  # in the clock's zone
    IntervalSchedule(timedelta(seconds=90, microseconds=7), timezone=timezone(timedelta(hours=5, minutes=45))),
    DatesSchedule([date(2026, 5, 1), datetime(2026, 4, 1, 7, tzinfo=UTC)], timezone=BERLIN),
    IntervalSchedule(3_600, parameter_defaults={"x": 1, "day": date(2026, 1, 1), "deep": [{"a": None}, (1.5, True)]}),
    Schedule([CronClock("0 * * * *", parameter_defaults={"n": 1}), IntervalClock(7_200, NEW_YEAR)], [f.is_weekday]),
    IntervalSchedule(3_600, or_filters=[f.is_month_start, f.is_month_end, f.is_day_of_week(2), f.on_date(12, 24)]),
    IntervalSchedule(1_800, filters=[f.between_times(time(22), time(4, 30)), f.between_dates(11, 15, 1, 15)]),
    IntervalSchedule(1_800, not_filters=[f.at_time(time(6)), f.on_days([date(2026, 1, 6), date(2026, 1, 1)])]),
    IntervalSchedule(1_800, filters=[f.between_datetimes(datetime(2026, 1, 1), NEW_YEAR + timedelta(days=9))]),  # noqa: DTZ001
    IntervalSchedule(43_200, or_filters=[f.on_datetime(NEW_YEAR + timedelta(days=2)), f.is_weekend]),
    IntervalSchedule(86_400, not_filters=[holidays.is_holiday], filters=[f.on_days(holidays.is_open)]),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.describe)
def test_a_schedule_comes_back_from_json_as_it_was(schedule: Schedule):
    # when
    text = json.dumps(to_form(schedule), sort_keys=True)
    found = from_form(json.loads(text))
    # then
    assert found.describe() == schedule.describe()
    assert found.next(40, after=NEW_YEAR) == schedule.next(40, after=NEW_YEAR)
    assert [each.utcoffset() for each in found.next(40, after=NEW_YEAR)] == [
        each.utcoffset() for each in schedule.next(40, after=NEW_YEAR)
    ]
    assert (found.catch_up, found.overlap) == (schedule.catch_up, schedule.overlap)
    assert [clock.labels for clock in found.clocks] == [clock.labels for clock in schedule.clocks]
    assert json.dumps(to_form(found), sort_keys=True) == text


def test_parameters_come_back_as_runs_are_given_them():
    schedule = from_form(to_form(SCHEDULES[5]))
    assert schedule.clocks[0].parameter_defaults == {"x": 1, "day": "2026-01-01", "deep": [{"a": None}, [1.5, True]]}


def test_functions_of_modules_are_kept_by_name_and_are_code():
    form = to_form(SCHEDULES[-1])
    assert form["not_filters"] == [{"function": "tests.holidays:is_holiday"}]
    assert form["filters"] == [{"filter": "on_days", "function": "tests.holidays:is_open"}]
    assert names_code(form)
    assert not any(names_code(to_form(each)) for each in SCHEDULES[:-1])


def nameless() -> ZoneInfo:
    with (resources.files("tzdata") / "zoneinfo" / "Europe" / "Berlin").open("rb") as file:
        return ZoneInfo.from_file(file)


class Lunar(IntervalClock):
    pass


def local() -> Callable[[datetime], bool]:
    def is_even(moment: datetime) -> bool:
        return moment.day % 2 == 0

    return is_even


@pytest.mark.parametrize(
    ("schedule", "what"),
    [
        (IntervalSchedule(60, filters=[lambda moment: True]), "a function that cannot be imported"),
        (IntervalSchedule(60, filters=[local()]), "a function that cannot be imported"),
        (IntervalSchedule(60, filters=[f.on_days(lambda day: True)]), "a function that cannot be imported"),
        (IntervalSchedule(60, timezone=nameless()), "a time zone of class ZoneInfo"),
        (Schedule([Lunar(60)]), "a clock of class Lunar"),
        (IntervalSchedule(60, parameter_defaults={"x": object()}), "a parameter that is a object"),
    ],
)
def test_what_only_code_can_say_has_no_form(schedule: Schedule, what: str):
    with pytest.raises(NoForm, match=what):
        to_form(schedule)


def test_a_function_of_a_file_that_travels_as_code_has_no_name():
    cloudpickle.register_pickle_by_value(holidays)
    try:
        with pytest.raises(NoForm, match="cannot be imported"):
            to_form(SCHEDULES[-1])
    finally:
        cloudpickle.unregister_pickle_by_value(holidays)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 2}, "stored in format 2; this version knows 1"),
        ({"clocks": [{"kind": "sundial"}]}, "is incomplete: KeyError"),
        ({"clocks": 3}, "is incomplete: TypeError"),
        ({"filters": [{"filter": "eval"}]}, "there is no filter 'eval'"),
        ({"filters": [{"filter": "_in_zone"}]}, "there is no filter '_in_zone'"),
        ({"filters": [{"function": "tests.holidays:gone"}]}, "'tests.holidays:gone' cannot be imported here"),
        ({"filters": [{"function": "no_such_module:f"}]}, "cannot be imported here"),
        ({"filters": [{"function": "tests.holidays:DAYS"}]}, "is a frozenset"),
        ({"filters": [{}]}, "is incomplete: KeyError"),
    ],
)
def test_a_form_that_is_none_is_refused(change: dict[str, Any], problem: str):
    with pytest.raises(ScheduleError, match=problem):
        from_form({**to_form(SCHEDULES[0]), **change})
