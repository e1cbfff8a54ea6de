from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch import config
from anabranch.base.retention import Rule, Tally, read_rules
from anabranch.errors import SettingError

NOW = datetime(2026, 11, 30, tzinfo=UTC)
DAY = timedelta(days=1)


def left(text: str, *runs: tuple[str, str, float, int]) -> list[int]:
    """Which of some runs (flow, state, age in days, bytes), from the newest on, rules leave."""
    tally = Tally(read_rules(text), NOW)
    return [
        number
        for number, (flow, state, days, nbytes) in enumerate(runs)
        if tally.is_over(flow, state, NOW - days * DAY, nbytes)
    ]


def test_a_text_is_rules_from_the_most_specific_to_the_least():
    assert read_rules("90d, keep 20; /Failed: 1y; etl*: 1000 runs, 5 GB; etl*/Failed: all") == (
        Rule("etl*", "Failed"),
        Rule("etl*", count=1000, nbytes=5_000_000_000),
        Rule("*", "Failed", age=timedelta(days=365)),
        Rule(age=timedelta(days=90), keep=20),
    )
    assert read_rules("  ") == ()
    assert read_rules("2 KiB")[0].nbytes == 2048


@pytest.mark.parametrize(
    "text", ["soon", "90", "90d; ", "etl:", "-1d", "/Faild: 1d", "1e3 runs", "5 GB GB", "9" * 10 + "d"]
)
def test_what_is_no_rule_is_refused(text: str):
    with pytest.raises(ValueError, match=r"is no limit|there is no state"):
        read_rules(text)
    with pytest.raises(SettingError, match=r"setting 'retention\.runs': expected rules such as '90d, 1000 runs"):
        config.retention.runs = text


@pytest.mark.parametrize("text", ["etl: 1d", "1d; 5 GB", "3 runs", "keep 3"])
def test_caches_have_no_flows_states_and_counts(text: str):
    with pytest.raises(SettingError, match=r"setting 'retention\.caches': expected limits such as '90d, 5 GB'"):
        config.retention.caches = text
    with config.set(retention__caches="90d, 5 GB"):
        assert config.retention.caches


OLD = [("etl", "Success", days, 10) for days in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("all", []),
        ("2d", [2, 3]),
        ("2d, keep 3", [3]),
        ("1 run", [1, 2, 3]),
        ("1 run, keep 2", [2, 3]),
        ("0 runs", [0, 1, 2, 3]),
        ("other: 0 runs", []),
        ("0 runs; etl: all", []),
        ("0 runs; e?l/Success: 3 runs; etl: 1 run", [3]),
        ("/Failed: 0 runs", []),
    ],
)
def test_limits_leave_what_is_past_them(text: str, expected: list[int]):
    assert left(text, *OLD) == expected


def test_counts_are_of_each_flow_and_bytes_of_all_together():
    runs = [("a", "Success", 1, 600), ("b", "Success", 2, 600), ("a", "Failed", 3, 600), ("b", "Failed", 4, 600)]
    assert left("1 run", *runs) == [2, 3]
    assert left("1 kB", *runs) == [1, 2, 3]
    assert left("1 kB; b: all", *runs) == [2]
    assert left("1 kB, keep 1", *runs) == [2, 3]


def test_a_paused_run_stays_unless_a_rule_names_its_state():
    assert left("1d", ("etl", "Paused", 9, 0)) == []
    assert left("1d; /Paused: 8d", ("etl", "Paused", 9, 0)) == [0]


_RULES = st.lists(
    st.tuples(
        st.sampled_from(["", "a: ", "/Failed: ", "a/Success: "]), st.sampled_from(["3d", "2 runs", "1 kB", "all"])
    ),
    max_size=4,
).map(lambda rules: "; ".join(f"{scope}{limit}, keep 1" for scope, limit in rules))
_RUNS = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.sampled_from(["Success", "Failed", "Paused"]), st.integers(0, 9), st.integers(0, 999)
    ),
    max_size=20,
).map(lambda runs: sorted(runs, key=lambda run: run[2]))


@given(_RULES, _RUNS)
def test_what_is_left_stays_left_when_the_rest_is_gone(text: str, runs: list[tuple[str, str, int, int]]):
    gone = set(left(text, *runs))
    kept = [run for number, run in enumerate(runs) if number not in gone]
    assert left(text, *kept) == []
    for flow in {run[0] for run in runs}:
        newest = next(number for number, run in enumerate(runs) if run[0] == flow)
        assert newest not in gone
