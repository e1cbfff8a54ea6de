"""Schedules, against plain references: cronsim's own stepping, arithmetic on the wall, and the laws of iterators."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anabranch.schedules import CronClock, DatesClock, IntervalClock, Schedule, due
from anabranch.schedules.as_json import from_form, to_form
from anabranch.schedules.filters import is_weekday

# Half an hour of daylight saving, a day that was left out, midnight that does not exist, southern summers.
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo"]
zones = st.sampled_from(ZONES)
moments = st.datetimes(datetime(2009, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # hypothesis wants it so


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    pair = st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda two: f"{min(two)}-{max(two)}")
    return st.one_of(number, number, st.just("*"), st.integers(2, 20).map(lambda step: f"*/{step}"), pair)


expressions = st.tuples(field(0, 59), field(0, 23), st.one_of(st.just("*"), field(1, 28)), st.just("*"), field(0, 6))


@settings(max_examples=150, deadline=None)
@given(expressions.map(" ".join), zones, moments)
def test_a_cron_clock_has_the_times_of_cronsim(cron: str, zone: str, after: datetime):
    clock = CronClock(cron, timezone=zone)
    stepped = CronSim(cron, after.astimezone(ZoneInfo(zone)))
    # cronsim may give the moment it started from, where that is the end of a gap.
    expected = (moment for each in stepped if (moment := each.astimezone(UTC)) > after)
    assert list(islice(clock.times(after), 30)) == list(islice(expected, 30))


clocks = st.one_of(
    st.builds(lambda cron, zone: CronClock(cron, timezone=zone), expressions.map(" ".join), zones),
    st.builds(
        lambda seconds, zone, start: IntervalClock(seconds, start, timezone=zone),
        st.one_of(st.integers(1, 10**6), st.integers(1, 40).map(lambda days: 86_400 * days)),
        zones,
        st.one_of(st.none(), moments),
    ),
    st.builds(DatesClock, st.lists(moments, max_size=20)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(clocks, min_size=1, max_size=3), moments, st.integers(0, 8))
def test_times_ascend_and_going_on_from_any_of_them_gives_the_rest(
    parts: list[IntervalClock], after: datetime, at: int
):
    schedule = Schedule(parts)
    found = schedule.next(10, after=after)
    assert all(one < other for one, other in zip([after, *found], found, strict=False))
    if at < len(found):
        assert schedule.next(9 - at, after=found[at]) == found[at + 1 :]


@settings(max_examples=50, deadline=None)
@given(clocks, clocks, moments)
def test_a_union_has_the_times_of_both(one: IntervalClock, other: IntervalClock, after: datetime):
    until = after + timedelta(days=3)
    apart = {
        each
        for clock in (one, other)
        for each in islice(takewhile(lambda moment: moment <= until, clock.times(after)), 5_000)
    }
    together = Schedule([one]) | Schedule([other])
    expected = sorted(apart)[:50]
    assert [each.astimezone(UTC) for each in together.next(len(expected), after=after)] == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), zones, moments, moments)
@example(5, "Europe/Berlin", datetime(2025, 1, 4, 1, 0, 0, 1, tzinfo=UTC), datetime(2009, 1, 1, tzinfo=UTC))
def test_whole_days_keep_their_time_of_day(days: int, zone: str, start: datetime, after: datetime):
    clock = IntervalClock(timedelta(days=days), start, timezone=zone)
    wall = start.astimezone(ZoneInfo(zone)).time()
    for each in islice(clock.times(max(start, after)), 20):
        local = each.astimezone(ZoneInfo(zone))
        # Only a time that the clocks leave out is moved, to the end of the gap.
        assert local.time() == wall or (local - timedelta(seconds=1)).utcoffset() != local.utcoffset()


@settings(max_examples=60, deadline=None)
@given(clocks, moments, st.integers(0, 200_000), st.sampled_from(["all", "latest", "skip"]))
def test_what_is_due_is_due_once_however_often_one_looks(
    clock: IntervalClock, since: datetime, passed: int, policy: str
):
    schedule = Schedule([clock], catch_up=policy)  # type: ignore[arg-type]
    now = since + timedelta(seconds=min(passed, 5_000))
    halfway = since + (now - since) / 2
    at_once = due(schedule, since, now)
    twice = due(schedule, since, halfway) + due(schedule, halfway, now)
    assert len({each.start_time for each in twice}) == len(twice)
    assert {each.start_time for each in at_once} <= {each.start_time for each in twice}
    if policy == "all":
        assert at_once == twice == list(takewhile(lambda each: each.start_time <= now, schedule.events(since)))


@given(clocks, moments)
def test_a_schedule_survives_a_pickle(clock: IntervalClock, after: datetime):
    schedule = Schedule([clock])
    twin = pickle.loads(pickle.dumps(schedule))
    assert twin.next(3, after=after) == schedule.next(3, after=after)
    assert twin.describe() == schedule.describe()


@given(st.lists(clocks, min_size=1, max_size=3), moments)
def test_a_schedule_survives_json(parts: list[IntervalClock], after: datetime):
    schedule = Schedule(parts)
    twin = from_form(json.loads(json.dumps(to_form(schedule))))
    assert twin.next(3, after=after) == schedule.next(3, after=after)
    assert twin.describe() == schedule.describe()


@given(moments)
def test_filters_only_leave_times_out(after: datetime):
    plain = Schedule([IntervalClock(3_600 * 7)]).next(40, after=after)
    filtered = Schedule([IntervalClock(3_600 * 7)], [is_weekday]).next(20, after=after)
    assert filtered == [each for each in plain if each.weekday() < 5][:20]
