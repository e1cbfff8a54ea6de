"""Adjustments: schedules whose times are moved."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st
from tests.refusals import refused

from anabranch.errors import ScheduleError
from anabranch.prefect import adjustments, schedules
from anabranch.prefect.adjustments import FURTHEST, AdjustedClock, add, next_weekday
from anabranch.prefect.times import CronClock, DatesClock, IntervalClock, Schedule
from anabranch.runs.registry.seal import pack_schedule
from anabranch.schedules import catch_up, filters

FRIDAY = datetime(2026, 1, 2, 9, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")


class Span(timedelta):
    """A length of time as another library has it."""


def twisted(time: datetime) -> datetime:
    """Somebody's own: the order of the times changes, and some meet."""
    return time - 2 * DAY if time.day % 3 == 0 else time + timedelta(hours=time.day)


KINDS: list[Callable[[datetime], datetime]] = [add(5 * HOUR), add(-3 * DAY), next_weekday, twisted]


def test_they_are_found_under_their_old_path():
    assert (schedules.adjustments.add, schedules.adjustments.next_weekday) == (add, next_weekday)
    assert adjustments.add(HOUR) == add(Span(hours=1))


def test_a_time_is_moved_by_a_length_of_time_or_to_a_weekday():
    assert add(HOUR)(FRIDAY) == FRIDAY + HOUR
    assert [next_weekday(FRIDAY + n * DAY).day for n in range(4)] == [2, 5, 5, 5]
    naive = FRIDAY.replace(tzinfo=None)
    assert (add(HOUR)(naive), next_weekday(naive), next_weekday(naive + DAY)) == (
        FRIDAY + HOUR,
        FRIDAY,
        FRIDAY + 3 * DAY,
    )


def test_a_time_keeps_its_time_of_day_on_another_day_and_its_zone():
    saturday = datetime(2026, 3, 28, 2, 30, tzinfo=BERLIN)
    assert next_weekday(saturday).isoformat() == "2026-03-30T02:30:00+02:00"
    assert add(DAY)(saturday.replace(hour=12)).isoformat() == "2026-03-29T13:30:00+02:00"  # a day is 24 hours


def test_a_schedule_has_the_adjusted_times_each_once():
    daily = CronClock("0 9 * * *", start_date=FRIDAY)
    schedule = Schedule([daily], adjustments=[next_weekday])
    assert [each.day for each in schedule.next(3, after=FRIDAY - DAY)] == [2, 5, 6]
    assert [each.day for each in Schedule([daily], adjustments=[next_weekday, add(DAY)]).next(3, after=FRIDAY)] == [
        3,
        6,
        7,
    ]
    assert "adjusted" in schedule.describe()


def test_what_was_moved_past_the_present_still_comes():
    schedule = Schedule([CronClock("0 9 * * *")], adjustments=[add(HOUR)])
    half_past_nine = FRIDAY + HOUR / 2
    assert schedule.next(1, after=half_past_nine) == [FRIDAY + HOUR]
    assert [each.start_time for each in catch_up.due(schedule, half_past_nine, FRIDAY + HOUR)] == [FRIDAY + HOUR]


def test_filters_see_the_times_of_the_clocks():
    clock = CronClock("0 9 * * *", start_date=FRIDAY)
    schedule = Schedule([clock], [filters.is_weekend], None, [filters.is_day_of_week(6)], [next_weekday])
    assert [each.day for each in schedule.next(2, after=FRIDAY)] == [5, 12]


def test_clocks_keep_their_parameters_and_labels_and_dates_end():
    end = FRIDAY + DAY
    schedule = Schedule(
        [
            IntervalClock(DAY, FRIDAY, end, {"n": 1}, ["a"]),
            CronClock("0 9 * * *", FRIDAY, end, {"n": 2}, ["b"]),
            DatesClock([FRIDAY, date(2026, 1, 10)], {"n": 3}, ["c"]),
        ],
        adjustments=[next_weekday],
    )
    found = schedule.next(10, after=FRIDAY - DAY, return_events=True)
    assert [(each.start_time.day, each.parameter_defaults["n"], each.labels) for each in found] == [
        (2, 1, ("a",)), (2, 2, ("b",)), (2, 3, ("c",)), (5, 1, ("a",)), (5, 2, ("b",)), (12, 3, ("c",)),
    ]  # fmt: skip


@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    st.sampled_from(["0 9 * * *", "30 2 * * *", "*/20 1-3 * * 0,6,1", "0 0 28-31 * *"]),
    st.sampled_from([UTC, BERLIN]),
    st.integers(0, 60 * 24 * 14),
)
def test_whenever_it_is_asked_the_times_are_the_same_ones(kinds: list, cron: str, zone: ZoneInfo, minutes: int):
    schedule = Schedule([CronClock(cron, timezone=zone)], adjustments=kinds)
    begin = datetime(2026, 10, 15, tzinfo=UTC)
    asked = begin + timedelta(minutes=minutes)
    every = schedule.next(400, after=begin)
    assert all(one.astimezone(UTC) < other.astimezone(UTC) for one, other in pairwise(every))
    later = [each for each in every if each > asked]
    assert schedule.next(len(later), after=asked) == later


def test_what_cannot_be_adjusted_is_told():
    clock = CronClock("@daily")
    with refused(ScheduleError, "adjustments.add: expected a timedelta, found 1", at=""):
        add(1)  # type: ignore[arg-type]  # on purpose
    with refused(ScheduleError, "adjustments: no function that moves a time: 1", at=""):
        Schedule([clock], adjustments=[1])
    with refused(ScheduleError, "an adjustment raised ZeroDivisionError for 2025-12-27 00:00", at=""):
        Schedule([clock], adjustments=[lambda time: 1 // 0]).next(1, after=FRIDAY)
    with refused(ScheduleError, "adjustments: expected a date or datetime, found None", at=""):
        Schedule([clock], adjustments=[lambda time: None]).next(1, after=FRIDAY)
    with refused(ScheduleError, "an adjustment moved ", f": further than {FURTHEST.days} days", at=""):
        Schedule([clock], adjustments=[lambda time: time + 8 * DAY]).next(1, after=FRIDAY)


def test_a_clock_that_is_adjusted_can_be_kept_in_the_registry():
    schedule = Schedule([CronClock("@daily")], adjustments=[next_weekday, add(HOUR)])
    twin = pickle.loads(pack_schedule(schedule))
    assert isinstance(twin.clocks[0], AdjustedClock)
    assert twin.next(3, after=FRIDAY) == schedule.next(3, after=FRIDAY)
