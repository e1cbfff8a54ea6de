"""Task runs that workers are at, and how that is said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from anabranch.base.running_elements import MAX_SAID, RunningElements, since_text
from anabranch.base.states import Running, State

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).astimezone()


def running(index: int, seconds: float = 0.0, worker: str | None = "w1") -> State:
    return Running(map_index=index, start_time=NOON + timedelta(seconds=seconds), worker=worker)


def test_a_text_names_the_elements_that_have_run_longest_and_counts_the_others():
    # given
    found = RunningElements(running(index, -index) for index in range(15))
    # then
    text = str(found)
    assert [text.index(f"[{index}] since 20") for index in (14, 13, 12)] == sorted(
        text.index(f"[{index}] since 20") for index in (14, 13, 12)
    )
    assert text.endswith(", and 12 more")
    assert len(found) == 12 + MAX_SAID


def test_what_is_not_known_is_left_out():
    assert str(RunningElements([Running(map_index=3)])) == "[3]"
    assert str(RunningElements([Running(map_index=3, worker="w1")])) == "[3] on w1"
    assert since_text(Running(start_time=NOON, attempt=2), today=NOON.date()) == f"since {NOON:%H:%M:%S}, attempt 2"
    assert since_text(Running()) == ""


def test_another_day_is_named():
    assert since_text(running(1), today=NOON.date() + timedelta(days=1)) == f"since {NOON:%Y-%m-%d %H:%M:%S} on w1"


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 9)))))
def test_what_began_last_and_has_not_ended_is_running(steps: list[tuple[bool, set[int]]]):
    found, expected = RunningElements(), set[int]()
    for begins, indices in steps:
        if begins:
            for index in indices:
                found.begin(running(index))
            expected |= indices
        else:
            assert found.end(tuple(indices)) == bool(expected & indices)
            expected -= indices
        assert {state.map_index for state in found} == expected
