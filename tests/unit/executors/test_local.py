"""Tasks of this process, one after the other."""

from __future__ import annotations

import signal

from tests.fake_cluster import FakeCluster

from anabranch import Flow, task

MANY = 200


def test_quick_tasks_share_units_where_one_runs_after_the_other() -> None:
    @task
    def one() -> int:
        return 1

    with Flow("many") as flow:
        for _ in range(MANY):
            one()
    cluster = FakeCluster(flow, slots=1, is_sequential=True)

    cluster.start()
    units = 0
    while cluster.submitted:
        cluster.go(cluster.runnable()[0])
        units += 1

    assert cluster.is_finished
    assert units < MANY / 2
    assert all(run.state.is_successful() for run in cluster.machine.runs.values())


def test_what_has_ended_stays_so_when_the_task_after_it_is_interrupted() -> None:
    calls: list[int] = []

    @task
    def call(n: int) -> int:
        calls.append(n)
        if len(calls) == MANY // 2:
            signal.raise_signal(signal.SIGINT)
        return n

    with Flow("many") as flow:
        for n in range(MANY):
            call(n)

    view = flow.run()
    assert view.was_interrupted
    interrupted = calls[-1]
    assert sum(view.result[node].state.is_successful() for node in flow.tasks) == len(calls) - 1

    assert flow.run(resume=view.run_id).is_successful()
    assert sorted(calls) == sorted([*range(MANY), interrupted])
