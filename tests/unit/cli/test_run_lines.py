"""What `anabranch ls` prints: a line for each run, as wide as there is room."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.cli.history import run_lines
from anabranch.runs import RunRecord

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def record(run_id: str = "3aab0c1d2e3f", flow: str = "etl", state: str = "Failed", message: str = "boom") -> RunRecord:
    return RunRecord(run_id, flow, NOON, state=state, message=message, end=NOON + timedelta(seconds=75))


def test_a_line_says_run_state_flow_begin_with_its_zone_duration_and_message():
    began = f"{NOON.astimezone():%Y-%m-%d %H:%M:%S %Z}"
    assert run_lines([record(), record(state="Success")], screen=None) == [
        f"3aab0c1d2e3f  Failed       etl  {began}   1:15 min  boom",
        f"3aab0c1d2e3f  Success      etl  {began}   1:15 min",
    ]


def test_a_screen_has_a_head_and_colours_unless_somebody_wants_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    head, line = run_lines([record(state="Success")], screen=100)
    assert click.unstyle(head).split() == ["run", "state", "flow", "began", "took", "message"]
    assert click.style("Success    ", fg="green") in line
    monkeypatch.setenv("NO_COLOR", "1")
    head, line = run_lines([record()], screen=100)
    assert (head, line) == (click.unstyle(head), click.unstyle(line))
    assert head.index("took") == line.index("1:15 min") + 4
    assert run_lines([], screen=80) == []


IDS = st.text("abcdef0123456789-", min_size=1, max_size=12)
STATES = st.sampled_from(["Success", "Failed", "Interrupted", "Paused"])


@given(st.lists(st.builds(record, IDS, st.text(), STATES, st.text()), min_size=1), st.integers(80, 200))
def test_no_line_is_longer_than_the_screen(records: list[RunRecord], screen: int):
    lines = run_lines([*records, record(flow="a flow with a long name " * 3, message="x" * 300)], screen=screen)
    assert all(len(click.unstyle(line)) <= screen for line in lines)
    assert all(f"{NOON.astimezone():%H:%M:%S %Z}" in line for line in lines[1:])
