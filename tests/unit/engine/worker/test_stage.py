"""Elements that run one after the other in a chunk: when each of their attempts began and ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.fake_cluster import FakeCluster

from anabranch import Flow, context, task
from anabranch.base.states import MAX_ATTEMPTS, State
from anabranch.engine.worker.unit_runner import run_unit


def states_of(flow: Flow, clock: list[float], slug: str = "slow") -> list[State]:
    """States of a map's elements that are more than plain Success, on a cluster with the time that tasks make pass."""
    cluster = FakeCluster(flow, slots=1)
    cluster.environment = replace(cluster.environment, clock=lambda: clock[0], stopwatch=lambda: clock[0])
    cluster.start()
    cluster.finish()
    found: dict[int, State] = {}
    for report in cluster.delivered:
        for column in report.columns:
            found.update(column.records if column.slug == slug else {})
    return [found[index] for index in sorted(found)]


def spans(state: State) -> list[tuple[float, float]]:
    """When each attempt began and ended."""
    times = [*((each.start, each.end) for each in state.attempts), (state.start_time, state.end_time)]
    return [(start.timestamp(), end.timestamp()) for start, end in times if start is not None and end is not None]


@pytest.mark.parametrize("delay", [0.0, 0.25])
def test_each_attempt_begins_when_the_element_did_or_the_one_before_had_ended(delay: float):
    # given elements that take three seconds each, of which two need several attempts
    clock = [1_000.0]

    @task(max_retries=2, retry_delay=delay, chunksize=4)
    def slow(x: int) -> int:
        clock[0] += 3
        if x == 1 and context.task_run_count == 1:
            raise ValueError("not yet")
        if x == 2:
            raise KeyError("never")
        return x

    with Flow("times") as flow:
        slow.map([0, 1, 2, 3])
    # when
    late, failed = states_of(flow, clock)
    # then
    assert [end - start for state in (late, failed) for start, end in spans(state)] == pytest.approx([3] * 5)
    assert spans(late)[0] == pytest.approx((1_003, 1_006))
    assert [each.number for each in (*late.attempts, *failed.attempts)] == [1, 1, 2]


def test_the_last_attempts_are_kept_of_very_many():
    clock = [1_000.0]

    @task(max_retries=50, retry_delay=0)
    def slow(x: int) -> Any:
        raise ValueError(x)

    with Flow("many") as flow:
        slow.map([0])
    (state,) = states_of(flow, clock)
    assert state.attempt == 51
    assert [each.number for each in state.attempts] == list(range(51 - MAX_ATTEMPTS, 51))


def test_a_chunk_of_which_nothing_is_left_to_do_reports_nothing():
    with Flow("elsewhere") as flow:
        task(lambda x: x, name="each", chunksize=2).map([0, 1])
    cluster = FakeCluster(flow)
    cluster.start()
    (unit,) = cluster.runnable()
    _, report = run_unit(replace(unit, indices=range(0)), cluster.environment, {})
    assert (list(report.indices or ()), [column.codes for column in report.columns]) == ([], [b""])
