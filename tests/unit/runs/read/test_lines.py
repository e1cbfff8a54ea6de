"""Whole logs: every line once, by time, in one way through the store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.runs import Batch, LogRow, RunRecord
from anabranch.runs.read import lines
from anabranch.runs.read.lines import lines_by_time
from anabranch.runs.store.sqlite import InMemoryRunStore

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@given(times=st.lists(st.integers(0, 50), max_size=40), window=st.integers(1, 60), page=st.integers(1, 9))
def test_each_line_comes_once_and_by_time_as_far_as_the_window_reaches(
    times: list[int], window: int, page: int
) -> None:
    # given lines of a run that was taken up again, in any order
    store = InMemoryRunStore()
    rows = [LogRow(i, NOON + timedelta(seconds=s), 20 + 10 * (i % 2), f"{i}") for i, s in enumerate(times)]
    store.write(store.create_run(RunRecord("r", "flow", NOON), now=NOON), Batch(logs=rows[::2]))
    store.write(store.take_over("r", now=NOON + timedelta(days=1)), Batch(logs=rows[1::2]))
    # when they are read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "WINDOW", window)
        patch.setattr(lines, "PAGE", page)
        found = list(lines_by_time(store, "r"))
        warnings = list(lines_by_time(store, "r", level=30))
    # then
    assert sorted(int(row.text) for row in found) == list(range(len(times)))
    assert sorted(int(row.text) for row in warnings) == list(range(1, len(times), 2))
    if len(times) <= window:
        assert found == store.logs("r")
