"""Calls that a running task makes: what they give, what they are called, and how they fail."""

from __future__ import annotations

import logging
from array import array
from collections import UserList, deque
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.fake_cluster import FakeCluster
from tests.refusals import refused

from anabranch import Flow, Parameter, config, context, flatten, signals, task, triggers, unmapped
from anabranch.errors import (
    DeferDepthError,
    MappingError,
    OptionError,
    OutsideFlowError,
    UnstorableValueError,
    UpstreamFailure,
)
from anabranch.executors import LocalDaskExecutor, LocalExecutor
from anabranch.executors.base import Executor


@task
def double(x: int) -> int:
    return 2 * x


@task
def odd_only(x: int) -> int:
    if x % 2 == 0:
        raise ValueError(f"{x} is even")
    return x


@task
def add(a: Any, b: Any = 0) -> Any:
    return a + b


@task
def named(x: int = 0) -> tuple[str, int, str]:
    return context.task_full_name, context.map_index, context.idempotency_key.partition("/")[2]


EXECUTORS = {"local": LocalExecutor, "threads": lambda: LocalDaskExecutor(num_workers=3)}


def value_of(function: Any, *args: Any, executor: Executor | None = None, **options: Any) -> Any:
    """The value of a task that is run alone."""
    with Flow("f") as flow:
        node = task(function, name="parent", **options)(*args)
    return flow.run(executor=executor).result[node].result


@pytest.mark.parametrize("make", EXECUTORS.values(), ids=EXECUTORS)
def test_a_structure_of_calls_has_their_results_in_it(make: Any) -> None:
    def parent() -> Any:
        return {"one": double(1), "list": [double(i) for i in range(3)], "nest": ([double(5), 7], (double(6),)), "x": 1}

    found = value_of(parent, executor=make())

    assert found == {"one": 2, "list": [0, 2, 4], "nest": ([10, 7], (12,)), "x": 1}


@pytest.mark.parametrize("make", EXECUTORS.values(), ids=EXECUTORS)
def test_calls_take_what_other_calls_give(make: Any) -> None:
    assert value_of(lambda: add(double(add(1, 2)), double(10)), executor=make()) == 26


def test_calls_take_lists_of_calls() -> None:
    total = task(lambda xs: sum(xs), name="total")

    assert value_of(lambda: total([double(i) for i in range(100)])) == 9900


def test_a_call_that_is_used_twice_runs_once() -> None:
    ran: list[int] = []

    def note(x: int) -> int:
        ran.append(x)
        return x

    def parent() -> Any:
        call = task(note, name="note")(4)
        return [call, add(call, call), call]

    assert value_of(parent) == [4, 8, 4]
    assert ran == [4]


def test_loop_with_calls_is_a_way_to_return_them() -> None:
    def parent() -> Any:
        raise signals.LOOP(result=[double(1), [double(2)]])

    assert value_of(parent) == [2, [4]]


def test_a_task_is_mapped_inside_a_task() -> None:
    assert value_of(lambda: double.map(range(4))) == [0, 2, 4, 6]
    assert value_of(lambda: add.map([1, 2], unmapped(10))) == [11, 12]
    assert value_of(lambda: add.map(double.map([1, 2]), [10, 20])) == [12, 24]
    assert value_of(lambda: [double.map([]), double(1)]) == [[], 2]


def test_a_task_is_mapped_over_what_a_call_will_give() -> None:
    numbers = task(lambda n: list(range(n)), name="numbers")

    assert value_of(lambda: double.map(numbers(3))) == [0, 2, 4]
    assert value_of(lambda: double.map(flatten(numbers.map([1, 3])))) == [0, 0, 2, 4]


def test_operators_and_items_of_calls_are_calls() -> None:
    pair = task(lambda: {"a": 1, "b": [2, 3]}, name="pair")

    assert value_of(lambda: (double(1) + 3, -double(2), pair()["b"][1], double.map([1, 2]) * 10)) == (
        5,
        -4,
        3,
        [20, 40],
    )


def test_calls_defer_in_turn() -> None:
    @task
    def factorial(n: int) -> Any:
        return 1 if n == 0 else times(n, factorial(n - 1))

    times = task(lambda a, b: a * b, name="times")

    assert value_of(lambda: factorial(6)) == 720


def test_elements_of_a_map_defer_each_for_itself() -> None:
    with Flow("f") as flow:
        spread = task(lambda n: [double(i) for i in range(n)], name="spread").map([0, 1, 3])
        sums = task(lambda xs: sum(xs), name="sums").map(spread)
    state = flow.run()

    assert state.result[spread].result == [[], [0], [0, 2, 4]]
    assert state.result[sums].result == [0, 0, 6]
    assert [each.name for each in state.result[spread].map_states] == ["Success"] * 3


def test_calls_are_named_after_their_callers() -> None:
    with Flow("f") as flow:
        single = task(lambda: [named(), named()], name="single")()
        each = task(lambda n: [named(n), [named(n)]], name="each").map([1, 2])
    state = flow.run()

    assert state.result[single].result == [
        ("single/named[0]", 0, "single/named[0]"),
        ("single/named[1]", 1, "single/named[1]"),
    ]
    assert [[name for name, _, _ in (a, b)] for a, (b,) in state.result[each].result] == [
        ["each[0]/named[0]", "each[0]/named[1]"],
        ["each[1]/named[0]", "each[1]/named[1]"],
    ]


def test_calls_are_in_the_states_of_the_run() -> None:
    with Flow("f") as flow:
        task(lambda: [odd_only(i) for i in range(3)], name="parent", trigger=triggers.all_finished)()
    state = flow.run()

    assert [each.name for each in state["parent/odd_only"].map_states] == ["Failed", "Success", "Failed"]
    assert [name for name, _ in state.failures()] == ["parent/odd_only[0]", "parent/odd_only[2]"]
    assert state.is_successful()


def test_a_call_that_fails_fails_its_caller_and_is_named() -> None:
    with Flow("f") as flow:
        node = task(lambda: [odd_only(i) for i in (1, 3, 4)], name="parent")()
        after = add(node)
    state = flow.run()

    assert state.result[node].is_failed()
    assert state.result[node].message == "upstream parent/odd_only[2] failed with ValueError: 4 is even"
    assert state.result[after].name == "TriggerFailed"
    assert state.message == "parent/odd_only[2] failed with ValueError: 4 is even"
    assert isinstance(state.result[node].result, UpstreamFailure)


def test_a_caller_may_bear_what_fails() -> None:
    found = value_of(lambda: [odd_only(1), odd_only(2)], trigger=triggers.all_finished)

    assert found[0] == 1
    assert isinstance(found[1], ValueError)


def test_calls_have_retries_and_triggers_of_their_own() -> None:
    @task(max_retries=2, retry_delay=0)
    def third_time() -> int:
        if context.task_run_count < 3:
            raise RuntimeError
        return context.task_run_count

    count = task(lambda xs: len(xs), name="count", trigger=triggers.all_finished)

    assert value_of(lambda: [third_time(), count([odd_only(2), odd_only(4)])]) == [3, 2]


def test_a_call_may_run_after_another_without_taking_its_value() -> None:
    order: list[str] = []

    def parent() -> Any:
        first = task(lambda: order.append("first"), name="first")()
        second = task(lambda: order.append("second"), name="second")(upstream_tasks=[first])
        return [second, first]

    value_of(parent)

    assert order == ["first", "second"]


def test_a_recursion_that_does_not_end_is_found_out() -> None:
    @task
    def forever(n: int) -> Any:
        return forever(n + 1)

    with Flow("f") as flow:
        node = forever(0)
    with config.set(engine__max_defer_depth=5):
        state = flow.run()

    assert state.result[node].is_failed()
    assert "makes deferred calls 6 callers deep, and engine.max_defer_depth allows 5" in state.message
    assert isinstance(state["forever" + 5 * "/forever"].map_states[0].result, DeferDepthError)


def test_a_call_that_is_not_returned_is_not_run_and_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def parent() -> int:
        double(1)
        return 1

    with caplog.at_level(logging.WARNING, "anabranch"):
        assert value_of(parent) == 1

    assert "parent made 1 deferred calls (double) and did not return them, so they are not run" in caplog.text


def test_a_call_is_not_its_value_yet() -> None:
    for misuse in (bool, len, lambda call: 1 in call, lambda call: call.upper(), list):
        error = value_of(lambda misuse=misuse: misuse(double(1)))
        assert "double.run(…) to call the function itself" in str(error), misuse


def test_arguments_that_cannot_travel_are_their_element_s_failure() -> None:
    import threading

    with Flow("f") as flow:
        node = task(lambda n: add(threading.Lock() if n == 1 else n), name="parent").map([0, 1, 2])
    state = flow.run()

    assert [each.name for each in state.result[node].map_states] == ["Success", "Failed", "Success"]
    assert isinstance(state.result[node].map_states[1].result, UnstorableValueError)
    assert "deferred call parent[1]/add[0]" in state.result[node].map_states[1].message


@pytest.mark.parametrize("is_map", [True, False])
def test_what_calls_share_weighs_once_however_many_they_are(is_map):
    data = bytes(800_000)

    @task
    def child(i, data):
        return i + len(data)

    @task
    def parent(i, data):
        return child.map(list(range(22)), unmapped(data)) if is_map else [child(k, data) for k in range(22)]

    with Flow("shared") as flow:
        node = parent.map(list(range(10)), unmapped(data))
    with config.set(engine__calls_nbytes=4_000_000):
        state = flow.run()

    assert state.is_successful(), state.message
    assert state[node].result == [[k + len(data) for k in range(22)]] * 10


def test_arguments_that_are_too_large_are_refused() -> None:
    with config.set(engine__calls_nbytes=1000):
        error = value_of(lambda: [add(bytes(900)), add(bytes(901))])

    assert "and engine.calls_nbytes allows 1,000" in str(error)


def test_fixed_arguments_that_are_parameters_come_from_the_flow() -> None:
    dated = task(lambda x, date: (x, date), name="dated", parameters=["date"])
    with Flow("f") as flow:
        Parameter("date", default="today")
        date = Parameter("date2", default=0)
        node = task(lambda _: dated(1), name="parent")(date)
        dated(5)

    assert flow.run(date="then").result[node].result == (1, "then")


def test_a_process_of_its_own_makes_calls_too() -> None:
    assert value_of(_isolated, isolation="process") == [2, 4]


def _isolated() -> Any:
    return [double(1), double(2)]


def test_a_resume_runs_only_what_had_not_finished(tmp_path: Path) -> None:
    mended, ran = tmp_path / "mended", tmp_path / "ran"

    def note(what: str) -> None:
        with ran.open("a") as file:
            file.write(f"{what}\n")

    @task
    def leaf(n: int) -> int:
        note(f"leaf {n}")
        if n == 5 and not mended.exists():
            raise ValueError("five")
        return n

    @task
    def tree(n: int, depth: int) -> Any:
        note(f"tree {n}")
        return leaf(n) if depth == 0 else [tree(2 * n, depth - 1), tree(2 * n + 1, depth - 1)]

    with Flow("f") as flow:
        whole = tree(1, 2)
        each = tree.map([2, 10], unmapped(1))
        after = add(whole, [8])
    before = flow.run()
    assert before.is_failed()
    assert ran.read_text().count("leaf 5\n") == 2
    ran.write_text("")
    mended.touch()

    state = flow.run(resume=before.run_id)

    assert ran.read_text().splitlines() == ["leaf 5", "leaf 5"]
    assert state.result[whole].result == [[4, 5], [6, 7]]
    assert state.result[each].result == [[4, 5], [20, 21]]
    assert state.result[after].result == [[4, 5], [6, 7], 8]


def test_a_graph_without_a_driver_says_that_calls_need_one() -> None:
    with Flow("f") as flow:
        task(lambda: [double(1)], name="parent")()

    with pytest.raises(OutsideFlowError, match="parent has made deferred calls"):
        flow.to_delayed().compute(scheduler="sync")


def test_a_cancelled_run_ends_with_calls_on_their_way() -> None:
    with Flow("f") as flow:
        node = task(lambda n: [double(i) for i in range(5)], name="parent").map([1, 2])
    cluster = FakeCluster(flow)
    cluster.start()
    for unit in cluster.runnable():
        cluster.go(unit)
    assert "parent/double" in cluster.machine.runs

    cluster.cancel()

    assert cluster.is_finished
    assert cluster.state(node).name == "Cancelled"
    assert cluster.state("parent/double").name == "Cancelled"


@pytest.mark.parametrize(
    ("options", "named"),
    [({"first_n": 2}, "first_n"), ({"min_success": 0.5, "stop_when": bool}, "min_success and stop_when")],
)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_map_inside_a_task_refuses_what_would_end_it_early(
    options: dict[str, Any], named: str, is_known: bool
) -> None:
    early = task(lambda x: x, name="early", **options)

    def parent() -> Any:
        return early.map([1, 2, 3] if is_known else add([1], [2]))

    error = value_of(parent)

    assert isinstance(error, OptionError)
    assert str(error).startswith(f"early.map(): {named} cannot end a map inside a running task")


# Rings ----------------------------------------------------------------------------------------------------------------


class Held(list[Any]):
    """A collection of a user's: the calls that it is given to see what it holds when the task returns."""


def itself() -> Any:
    held = Held()
    held.append(identity(held))
    return held[0]


def two_calls() -> Any:
    held = Held()
    first = identity(held)
    held.append(add(first))
    return [first, 3]


def a_map_and_a_call() -> Any:
    held = Held([1, 2])
    total = add(identity.map(held), [])
    held[0] = total
    return total


def order_and_a_value() -> Any:
    held = Held()
    first = identity(held)
    held.append(identity(1, upstream_tasks=[first]))
    return first


@task
def identity(x: Any) -> Any:
    return x


@pytest.mark.parametrize("make", EXECUTORS.values(), ids=EXECUTORS)
@pytest.mark.parametrize("function", [itself, two_calls, a_map_and_a_call, order_and_a_value])
def test_calls_that_need_each_other_fail_the_task_that_made_them(function: Any, make: Any) -> None:
    with Flow("f") as flow:
        alone = task(function, name="alone")()
        several = task(lambda x: function() if x else add(x, 1), name="several").map([0, 1])
    result = flow.run(executor=make()).result
    states = [result[alone], result[several].map_states[1]]
    assert result[several].map_states[0].result == 1
    for state, who in zip(states, ("alone", "several[1]"), strict=True):
        assert state.is_failed()
        assert f"{who} makes deferred calls of which each needs the next, and the last the first: " in state.message
        assert " → " in state.message


def test_calls_may_share_what_they_need() -> None:
    def parent() -> Any:
        one = double(1)
        pair = add(one, one)
        return [pair, add(pair, one), one, pair]

    assert value_of(parent) == [4, 6, 2, 4]


# Flattening -----------------------------------------------------------------------------------------------------------

NESTED: dict[str, Any] = {
    "lists": ([[1, 2], [3]], [1, 2, 3]),
    "tuples and ranges": ([(1,), range(2, 4)], [1, 2, 3]),
    "deques": ([deque([1, 2]), deque([3])], [1, 2, 3]),
    "arrays": ([np.array([1, 2]), np.array([3])], [1, 2, 3]),
    "an array": (np.array([[1, 2], [3, 4]]), [1, 2, 3, 4]),
    "arrays of numbers": (array("i", [1, 2]), [1, 2]),
    "columns": ([pd.Series([1, 2]), pd.Index([3])], [1, 2, 3]),
    "a column of lists": (pd.Series([[1], [2, 3]]), [1, 2, 3]),
    "texts": (["ab", b"c"], ["ab", b"c"]),
    "mappings and sets": ([{"a": 1}, {2}, None], [{"a": 1}, {2}, None]),
    "numbers": ([np.array(5), np.float64(1), 2], [5, 1, 2]),
    "frames": ([pd.DataFrame({"a": [1]})], 1),
    "rows of a user's class": ([UserList([1, 2])], [1, 2]),
}


@pytest.mark.parametrize(("nested", "expected"), NESTED.values(), ids=NESTED)
def test_flatten_takes_the_same_apart_wherever_it_is_written(nested: Any, expected: Any) -> None:
    @task
    def given() -> Any:
        return nested

    @task
    def of_a_call() -> Any:
        return identity.map(flatten(identity(nested)))

    @task
    def of_a_value() -> Any:
        return identity.map(flatten(nested))

    with Flow("f") as flow:
        nodes = [identity.map(flatten(given())), identity.map(flatten(nested)), of_a_call(), of_a_value()]
    view = flow.run(keep="all")
    for node in nodes:
        found = view.result[node].result
        assert len(found) == expected if isinstance(expected, int) else found == expected


@pytest.mark.parametrize("whole", [5, "text", {"a": [1]}, {1}, pd.DataFrame({"a": [1]}), {"a": 1}.values()])
def test_what_has_no_parts_in_order_is_not_flattened(whole: Any) -> None:
    with Flow("f"), refused(MappingError, "identity: cannot flatten "):
        identity.map(flatten(whole))
    for written in (
        lambda: identity.map(flatten(whole)),
        lambda: identity.map(flatten(task(lambda: whole, name="w")())),
    ):
        with Flow("f") as flow:
            node = task(written, name="parent")()
        state = flow.run().result[node]
        assert state.is_failed()
        assert "flatten() in a running task needs a list, not" in state.message


# What is changed after a call -----------------------------------------------------------------------------------------


def batches() -> list[Any]:
    made, batch = [], []
    for number in range(4):
        batch.append(number)
        if len(batch) == 2:
            made.append(identity(batch))
            batch.clear()
    return made


def settings() -> list[Any]:
    made, options = [], {"size": {"x": 0}}
    for number in range(3):
        options["size"]["x"] = number
        made.append(identity(options))
    return made


def rows() -> Any:
    row = [1]
    made = identity.map([row, row])
    row.append(2)
    return made


@pytest.mark.parametrize("make", EXECUTORS.values(), ids=EXECUTORS)
def test_calls_are_given_what_collections_held_when_they_were_written(make: Any):
    with Flow("f") as flow:
        inside = [task(function)() for function in (batches, settings, rows)]
        written = [*batches(), *settings(), rows()]
    result = flow.run(executor=make()).result
    values = [[0, 1], [2, 3]], [{"size": {"x": number}} for number in range(3)], [[1], [1]]
    assert [result[node].result for node in inside] == list(values)
    assert [result[node].result for node in written] == [*values[0], *values[1], values[2]]
