"""The spellings of the tutorials for loops, dynamic tasks and conditions in maps: order, values and states of each.

Spellings of flows, dependencies, maps and branches as such are in `unit/test_spellings.py`, one test for each.
"""

from __future__ import annotations

from typing import Any

from anabranch import LOOP, RETRY, SKIP, Flow, apply_map, case, context, merge, task, tasks, unmapped
from anabranch.engine.executors import LocalExecutor
from anabranch.runview import FlowRunView


def names_of(view: FlowRunView) -> dict[str, str]:
    """Name of the state of each node."""
    return {slug: state.name for slug, state in view.states().items()}


@task
def process(i: int) -> int:
    return i * 10


def test_loop_with_a_plain_value_runs_the_task_again_with_it() -> None:
    rounds: list[int] = []

    @task
    def count_up() -> int:
        rounds.append(context.task_loop_count)
        so_far = context.task_loop_result or 0
        if so_far >= 3:
            return so_far
        raise LOOP(result=so_far + 1)

    with Flow("loop") as flow:
        node = count_up()
    view = flow.run(executor=LocalExecutor())

    assert rounds == [1, 2, 3, 4]
    assert view.result[node].result == 3
    assert names_of(view) == {"count_up": "Success"}


def test_loop_with_tasks_runs_them_and_gives_their_values() -> None:
    @task
    def generate(n: int) -> Any:
        calls = []
        for i in range(n):
            calls.append(process(i))  # noqa: PERF401  # as it is written in tutorials
        raise LOOP(result=calls)

    with Flow("dynamic") as flow:
        node = generate(3)
        after = task(sum, name="after")(node)
    view = flow.run()

    assert (view.result[node].result, view.result[after].result) == ([0, 10, 20], 30)
    assert names_of(view) == {"generate": "Success", "after": "Success", "generate/process": "Mapped"}
    assert [each.name for each in view["generate/process"].map_states] == ["Success"] * 3


def test_a_task_returns_tasks() -> None:
    order: list[str] = []

    def noted(name: str) -> Any:
        return task(lambda *given: order.append(name) or name, name=name)

    first, second = noted("first"), noted("second")
    with Flow("dynamic") as flow:
        node = task(lambda: {"chained": second(first())}, name="parent")()
    view = flow.run()

    assert order == ["first", "second"]
    assert view.result[node].result == {"chained": "second"}
    assert names_of(view) == {"parent": "Success", "parent/second": "Mapped", "parent/first": "Mapped"}


def test_a_task_maps_a_task() -> None:
    with Flow("dynamic") as flow:
        node = task(lambda n: process.map(range(n)), name="parent")(3)
    view = flow.run()

    assert view.result[node].result == [0, 10, 20]
    assert names_of(view) == {"parent": "Success", "parent/process": "Mapped"}


def test_signals_are_raised_from_anywhere_in_a_task() -> None:
    def deep(signal: BaseException) -> None:
        raise signal

    attempts: list[int] = []

    @task
    def skips() -> None:
        deep(SKIP("nothing to do"))

    @task
    def again() -> int:
        attempts.append(context.task_run_count)
        if context.task_run_count < 3:
            deep(RETRY("not yet"))
        return 5

    with Flow("signals") as flow:
        skipped, repeated = skips(), again()
        below = process(skipped)
    view = flow.run()

    assert attempts == [1, 2, 3]
    assert view.result[repeated].result == 5
    assert names_of(view) == {"skips": "Skipped", "again": "Success", "process": "Skipped"}
    assert view.result[below].is_skipped()


def test_conditions_hold_for_each_element_of_a_map() -> None:
    is_even = task(lambda x: x % 2 == 0, name="is_even")
    halve = task(lambda x: x // 2, name="halve")
    triple = task(lambda x: 3 * x + 1, name="triple")

    def step(x: Any) -> Any:
        even = is_even(x)
        with case(even, True):
            low = halve(x)
        with case(even, False):
            high = triple(x)
        return merge(low, high)

    with Flow("collatz") as flow:
        node: Any = apply_map(step, [6, 7])
    view = flow.run()

    assert view.result[node].result == [3, 22]
    assert [each.name for each in view["halve"].map_states] == ["Success", "Skipped"]
    assert [each.name for each in view["triple"].map_states] == ["Skipped", "Success"]


def test_a_filter_takes_what_is_left() -> None:
    keep_large = tasks.FilterTask(filter_func=lambda x: x > 5)
    with Flow("filter") as flow:
        values = process.map([0, 1, 2])
        node = keep_large(values)
    view = flow.run()

    assert view.result[node].result == [10, 20]
    assert names_of(view) == {"process": "Mapped", "FilterTask": "Success"}


def test_a_flow_is_a_task_of_another() -> None:
    from anabranch import Parameter

    with Flow("inner") as inner:
        process(Parameter("i", default=1))
    with Flow("outer") as outer:
        one, each = inner.as_task()(), inner.as_task(name="many").map(i=[2, 3])
    view = outer.run()

    assert (view.result[one].result, view.result[each].result) == (10, [20, 30])
    assert names_of(view) == {"inner": "Success", "many": "Mapped"}


def test_maps_in_tasks_take_what_is_unmapped_whole() -> None:
    pair = task(lambda x, y: (x, y), name="pair")
    with Flow("unmapped") as flow:
        node = task(lambda: pair.map([1, 2], y=unmapped([3])), name="parent")()
    view = flow.run()

    assert view.result[node].result == [(1, [3]), (2, [3])]
    assert names_of(view) == {"parent": "Success", "parent/pair": "Mapped"}
