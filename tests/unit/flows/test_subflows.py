"""Whole flows as tasks, and what history says of loops."""

from __future__ import annotations

from typing import Any

import pytest

from anabranch import Flow, Parameter, context, signals, task
from anabranch.errors import CallError
from anabranch.runs.store.opening import current_store
from anabranch.triggers import all_finished


@task
def multiply(x: int, by: int) -> int:
    if x == 13:
        raise ValueError("thirteen")
    return x * by


with Flow("inner") as inner:
    product = multiply(Parameter("x", type=int), Parameter("by", default=10))


def test_a_flow_is_a_task_with_its_parameters_as_arguments() -> None:
    run_inner = inner.as_task()
    with Flow("outer") as outer:
        one = run_inner(x=4)
        two = run_inner(x=one, by=2)
        each = run_inner.map(x=[1, 2])
    state = outer.run(raise_on_failure=True)

    assert (state.result[one].result, state.result[two].result, state.result[each].result) == (40, 80, [10, 20])


def test_each_run_of_the_flow_has_a_record_of_its_own() -> None:
    with Flow("outer") as outer:
        inner.as_task(name="inside").map(x=[1, 2, 3])
    outer.run(raise_on_failure=True)
    store = current_store()
    assert store is not None
    before = {run.run_id for run in store.list_runs()}

    outer.run(raise_on_failure=True)

    made = [run for run in store.list_runs() if run.run_id not in before]
    assert sorted((run.flow_name, run.state) for run in made) == [("inner", "Success")] * 3 + [("outer", "Success")]


def test_a_resumed_run_that_gives_other_parameters_has_another_run_of_the_flow() -> None:
    mended: list[int] = []

    @task
    def size() -> int:
        if not mended:
            raise ValueError("no size yet")
        return mended[0]

    @task(trigger=all_finished)
    def bear(x: Any) -> int:
        return 0 if isinstance(x, Exception) else x

    with Flow("outer") as outer:
        n = size()
        node = inner.as_task()(x=bear(n))
    outer.set_reference_tasks([n])
    first = outer.run(keep=[node])
    mended.append(7)

    second = outer.run(resume=first.run_id, keep=[node])

    assert (first.result[node].result, second.result[node].result) == (0, 70)


def test_a_run_that_fails_fails_its_task_with_its_own_exception() -> None:
    with Flow("outer") as outer:
        node = inner.as_task()(x=13)
    state = outer.run()

    assert isinstance(state.result[node].result, ValueError)


def test_parameters_that_a_flow_does_not_have_are_refused_where_they_are_written() -> None:
    made = inner.as_task()
    with Flow("outer"), pytest.raises(CallError, match="has no parameter 'y'; it has: 'x', 'by'"):
        made(y=1)


def test_a_flow_is_called_by_a_running_task() -> None:
    with Flow("outer") as outer:
        node = task(lambda: [inner.as_task()(x=i) for i in range(3)], name="parent")()

    assert outer.run().result[node].result == [0, 10, 20]


def test_history_knows_in_which_round_a_loop_ended() -> None:
    def three_rounds() -> Any:
        if context.task_loop_count < 3:
            raise signals.LOOP(result=context.task_loop_count)
        return context.task_loop_result

    with Flow("loops") as flow:
        task(three_rounds, name="loop")()
    state = flow.run(raise_on_failure=True)

    store = current_store()
    assert store is not None
    (row,) = store.task_runs(state.run_id)
    assert (row.loop_count, row.state, state["loop"].result) == (3, "Success", 2)
