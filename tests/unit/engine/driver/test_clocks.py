"""Workers whose clocks are wrong: times as the driver has them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.base.states import Attempt, Retrying, State, Success
from anabranch.engine.driver.clocks import AHEAD_S, BEHIND_S, Clocks
from anabranch.engine.logs.lines import Batch, LogLine
from anabranch.engine.units.units import ColumnReport, Report, SingleReport

NOW = 1_800_000_000.0


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def report(sent: float, worker: str = "w", **options: object) -> Report:
    """Of a single task that began ten seconds before the report and is due again three after it, and of an element."""
    attempt = Attempt(1, "Failed", "once", start=at(sent - 10), end=at(sent)) if sent else Attempt(1, "Failed", "once")
    due = Retrying(start_time=at(sent + 3), attempts=(attempt,))
    ended = Success(start_time=at(sent - 10), end_time=at(sent - 1), map_index=4)
    return Report(
        ("k", 1),
        singles=(SingleReport("a", due),),
        columns=(ColumnReport("b", b"", {4: ended}),),
        started=sent - 10,
        worker=worker,
        sent=sent,
        **options,  # type: ignore[arg-type]  # of a report
    )


def line(time: float, worker: str) -> LogLine:
    return LogLine(time, 20, "log", "text", "a", None, 1, worker)


def single(found: Report) -> State:
    return found.singles[0].state


@pytest.mark.parametrize("wrong_s", [20.0, -3600.0, 86_400.0, 0.6, -2.5])
def test_times_of_a_wrong_clock_are_as_long_ago_or_away_as_they_were(wrong_s: float) -> None:
    clocks = Clocks(lambda: NOW)
    found = clocks.aligned(report(NOW + wrong_s))
    assert found.started == pytest.approx(NOW - 10, abs=1e-5)
    state, element = single(found), found.columns[0].records[4]
    assert state.start_time == at(NOW + 3)
    assert (state.attempts[0].start, state.attempts[0].end) == (at(NOW - 10), at(NOW))
    assert (element.start_time, element.end_time) == (at(NOW - 10), at(NOW - 1))
    lines = (line(NOW + wrong_s - 1, "w"), line(NOW - 1, "right"))
    told = clocks.aligned_lines(Batch(("host", 1), lines)).lines
    assert [each.time for each in told] == pytest.approx([NOW - 1, NOW - 1], abs=1e-5)


@pytest.mark.parametrize("way_s", [0.0, 0.01, 1.9, -0.4])
def test_a_report_that_was_on_its_way_for_a_while_is_left_as_it_is(way_s: float) -> None:
    clocks = Clocks(lambda: NOW)
    sent = report(NOW - way_s)
    assert clocks.aligned(sent) is sent
    batch = Batch(("host", 1), (line(NOW, "w"),))
    assert clocks.aligned_lines(batch) is batch


def test_the_report_that_was_quickest_counts_and_each_worker_for_itself() -> None:
    now = NOW
    clocks = Clocks(lambda: now)
    clocks.aligned(report(NOW - 0.1))
    now += 600  # the driver stood still
    late = report(NOW + 1)
    assert clocks.aligned(late) is late
    assert single(clocks.aligned(report(NOW - 3600, "other"))).start_time == at(now + 3)


def test_a_report_without_a_time_of_its_own_is_read_as_those_before_were() -> None:
    clocks = Clocks(lambda: NOW)
    clocks.aligned(report(NOW - 3600))
    asked_for = Report(("k", 2), worker="w", started=NOW - 3610)
    assert clocks.aligned(asked_for).started == NOW - 10


@given(st.floats(-1e6, 1e6), st.lists(st.floats(0, 2), min_size=1))
def test_what_is_due_is_late_by_no_more_than_the_way_took(wrong_s: float, ways: list[float]) -> None:
    true = NOW
    clocks = Clocks(lambda: true)
    for way_s in ways:
        begin = true
        true += way_s
        due = single(clocks.aligned(report(begin + wrong_s))).start_time
        assert due is not None
        late_s = (due - at(begin + 3)).total_seconds()
        assert -BEHIND_S - 0.01 <= late_s <= way_s + AHEAD_S + 0.01
