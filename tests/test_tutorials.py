"""The API of the tutorials for Prefect-like libraries, each spelling as a reader types it: order, values and states.

Also the import paths. What the spellings mean beyond that is tested where it belongs.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.refusals import refused

import anabranch
from anabranch import (
    LOOP,
    RETRY,
    SKIP,
    Dependency,
    Flow,
    FlowRunner,
    Parameter,
    Switch,
    Task,
    apply_map,
    case,
    config,
    context,
    merge,
    task,
    tasks,
    unmapped,
)
from anabranch.engine.executors import LocalExecutor
from anabranch.engine.results import LocalResult
from anabranch.errors import CallError, FlowValidationError
from anabranch.runs.view import FlowRunView
from anabranch.triggers import all_successful

# Import paths ---------------------------------------------------------------------------------------------------------

PATHS = {
    "anabranch": "Flow task Task Parameter Dependency unmapped mapped flatten apply_map case switch Switch ifelse when "
    "merge flow FlowRunner tags config context Node LOOP SKIP FAIL SUCCESS RETRY PAUSE TRIGGERFAIL CANCEL ENDRUN "
    "VALIDATIONFAIL executors engine tasks signals states triggers",
    "anabranch.engine.executors": "LocalExecutor LocalDaskExecutor DaskExecutor",
    "anabranch.engine.signals": "LOOP SKIP FAIL SUCCESS RETRY PAUSE TRIGGERFAIL CANCEL ENDRUN Signal",
    "anabranch.engine.state": "State Pending Running Success Failed Skipped Cached Mapped Retrying Cancelled TimedOut",
    "anabranch.engine.results": "LocalResult FileResult S3Result SQLResult",
    "anabranch.schedules": "IntervalSchedule CronSchedule Schedule",
    "anabranch.executors": "LocalExecutor LocalDaskExecutor DaskExecutor",
    "anabranch.triggers": "all_successful all_failed any_successful any_failed all_finished always_run none_failed "
    "not_all_skipped some_failed some_successful manual_only",
    "anabranch.tasks": "map filter apply_map flatten unmapped",
    "anabranch.definition.task": "task Task Parameter Dependency FunctionTask unmapped mapped flatten",
    "anabranch.definition.mapping": "map apply_map unmapped mapped flatten",
    "anabranch.definition.branching": "case switch Switch ifelse when merge",
    "anabranch.flows.flow": "Flow FlowRunner flow",
}


@pytest.mark.parametrize("path", PATHS)
def test_names_are_where_people_look_for_them(path: str) -> None:
    module = importlib.import_module(path)
    assert [name for name in PATHS[path].split() if not hasattr(module, name)] == []


def test_everything_that_is_promised_is_there() -> None:
    assert [name for name in anabranch.__all__ if not hasattr(anabranch, name)] == []


# First steps ----------------------------------------------------------------------------------------------------------


@task
def fetch_data() -> Any:
    return {"output": [1, 2, 3], "other": 0}


@task
def transform_data(data: Any) -> Any:
    return data


@task
def load_data(data: Any = None) -> Any:
    return data


def test_importing_and_decorating_do_nothing_calling_links() -> None:
    with Flow("ETL") as flow:
        data = fetch_data()
        transformed = transform_data(data)
    assert flow.run().result[transformed].result == fetch_data.run()
    assert len(flow.edges) == 1


def test_a_dependency_with_a_key_is_declared_before_the_flow() -> None:
    fetch, transform = task(name="fetch")(fetch_data.run), task(name="transform")(transform_data.run)
    transform.depends_on(Dependency(fetch, key="output"))

    with Flow("as written") as flow:
        data = fetch()
        node = transform(data)
    assert [edge.key for edge in flow.edges_to(node)] == ["data", None]
    assert flow.run().result[node].result == fetch_data.run()

    with Flow("nothing passed") as flow:
        node = transform()
    assert flow.run().result[node].result == [1, 2, 3]


def test_order_is_added_after_the_block() -> None:
    with Flow("order") as flow:
        t1, t2, t3 = load_data(1), load_data(2), load_data(3)
    t1.set_upstream(t2)
    t2.set_upstream(t3)
    assert flow.sorted_tasks() == [t3, t2, t1]


def test_a_call_that_does_not_fit_names_both_ways_to_mend_it() -> None:
    transform = task(name="transform")(lambda: 1)
    words = "transform() takes 0 arguments by position (none), found 1; add a parameter to the function, or order the"
    with Flow("sketch"), refused(CallError, words, "upstream_tasks=[…]"):
        transform(fetch_data())


def test_dependencies_are_set_on_templates() -> None:
    with Flow("f") as flow:
        data = fetch_data()
        transformed = transform_data(data)
        transformed.set_dependencies(upstream_tasks=[fetch_data])
        load_data.set_dependencies(upstream_tasks=[transform_data])
    assert [node.name for node in flow.sorted_tasks()] == ["fetch_data", "transform_data", "load_data"]


def test_a_parameter_may_be_an_annotation() -> None:
    @task
    def show(date: Parameter) -> Any:
        return date

    with Flow("f") as flow:
        date: Any = Parameter("date", default="2026-11-20")
        node = show(date)
    assert flow.run().result[node].result == "2026-11-20"
    assert flow.run(date="today").result[node].result == "today"
    assert flow.run(parameters={"date": "now"}).result[node].result == "now"


def test_validate_has_a_detailed_report() -> None:
    flow = Flow("f")
    flow.add_task(transform_data)
    with refused(FlowValidationError, "argument 'data' is not bound", at=""):
        flow.validate()


def test_a_state_is_read_by_name_and_as_a_truth() -> None:
    with Flow("f") as flow:
        fetch_data()
    state = flow.run()
    assert state
    assert state["fetch_data"].is_successful()


# Maps and branches ----------------------------------------------------------------------------------------------------


def test_a_task_is_mapped_by_a_function() -> None:
    @anabranch.tasks.map
    @task
    def process(x: int) -> int:
        return x + 1

    with Flow("f") as flow:
        node = process([1, 2])
    assert flow.run().result[node].result == [2, 3]


def test_maps_take_what_is_unmapped_whole() -> None:
    @task(max_retries=3, retry_delay=2.0, timeout=60)
    def parse(path: str, encoding: str) -> tuple[str, str]:
        return path, encoding

    with Flow("corpus") as flow:
        records = parse.map(["a", "b"], encoding=unmapped("utf-8"))
    assert flow.run().result[records].result == [("a", "utf-8"), ("b", "utf-8")]


def test_a_trigger_is_an_option() -> None:
    assert task(trigger=all_successful)(len).trigger is all_successful


def test_a_nested_flow_is_run_with_the_one_around_it() -> None:
    with Flow("Main") as main:
        data = fetch_data()
        with Flow("Conditional Branch") as branch, data:
            node = load_data("loaded")
    assert main.run().result[node].result == "loaded"
    assert node in branch


@pytest.mark.parametrize(("found", "expected"), [("a", "A"), ("b", "B"), ("z", "other")])
def test_exactly_one_branch_of_a_switch_runs_and_what_follows_runs(found: str, expected: str) -> None:
    with Flow("f") as flow:
        condition: Any = load_data(found)
        with Switch(condition):
            with condition.case("a"):
                a = transform_data("A")
            with condition.case("b"):
                b = transform_data("B")
            with condition.default():
                c = transform_data("other")
        result = merge(a, b, c)
        start, final = load_data(0), load_data("done")
        flow.chain(start, [a, b, c], final)
    view = flow.run()
    assert (view.result[result].result, view.result[final].result) == (expected, "done")
    assert sum(view.result[node].is_skipped() for node in (a, b, c)) == 2


def test_a_case_is_a_block() -> None:
    with Flow("f") as flow:
        with case(load_data(True), True):
            yes = load_data("yes")
        with case(load_data(True), False):
            no = load_data("no")
    view = flow.run()
    assert (view.result[yes].result, view.result[no].is_skipped()) == ("yes", True)


def test_tasks_are_generated_by_a_plain_function_that_raises_loop() -> None:
    @task
    def process_data(i: int) -> int:
        return i * 10

    def create_tasks() -> None:
        tasks = []
        for i in range(3):
            tasks.append(process_data(i))  # noqa: PERF401  # as it is written in tutorials
        raise LOOP(result=tasks)

    with Flow("Dynamic Tasks") as flow:
        task_generator = create_tasks()  # type: ignore[func-returns-value]  # as it is written in tutorials
        flow.chain(task_generator)
    assert [view.result for view in flow.run().result.values()] == [0, 10, 20]


# Running --------------------------------------------------------------------------------------------------------------


def test_settings_are_assigned_by_attribute() -> None:
    level, backend = config.logging.level, config.backend
    try:
        config.backend = "local"
        config.logging.level = "DEBUG"
        assert logging.getLogger("anabranch").isEnabledFor(logging.DEBUG)
    finally:
        config.logging.level, config.backend = level, backend


def test_a_runner_takes_an_executor() -> None:
    from anabranch.engine.executors import LocalExecutor

    with Flow("f") as flow:
        node = load_data(5)
    assert FlowRunner(flow).run(executor=LocalExecutor()).result[node].result == 5


def test_a_print_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    with Flow("f") as flow:
        task(print)("hello from a task")
    flow.run()
    assert "hello from a task" in capsys.readouterr().out


def test_a_dependency_is_an_option() -> None:
    task1 = task(name="task1")(lambda: 1)

    @task(depends_on=[task1])
    def task2() -> int:
        return 2

    with Flow("f") as flow:
        task2()
    assert [node.name for node in flow.sorted_tasks()] == ["task1", "task2"]


def test_a_task_is_filled_in_before_it_is_used() -> None:
    @task
    def greet(name: str) -> str:
        return f"Hello {name}"

    greet_alice = greet.bind(name="Alice")
    greet_bob = task(parameters={"name": "Bob"})(greet.run)
    with Flow("f") as flow:
        a, b = greet_alice(), greet_bob()
    view = flow.run()
    assert (greet_alice.run(), greet_bob.run()) == ("Hello Alice", "Hello Bob")
    assert (view.result[a].result, view.result[b].result) == ("Hello Alice", "Hello Bob")


def test_retries_may_be_a_dict() -> None:
    runs: list[int] = []

    @task(retry_kwargs={"max_retries": 3})
    def flaky() -> int:
        runs.append(1)
        if len(runs) < 4:
            raise ConnectionError
        return len(runs)

    with Flow("f") as flow:
        node = flaky()
    assert flow.run().result[node].result == 4


# Loops, dynamic tasks, conditions in maps -----------------------------------------------------------------------------


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


# Results, the registry, classes ---------------------------------------------------------------------------------------


def test_a_result_handler_stores_what_a_task_gives(tmp_path: Path) -> None:
    @task(result_handler=LocalResult(dir=str(tmp_path / "results")))
    def measure() -> Any:
        return {"height": 3}

    with Flow("measured") as flow:
        node = measure()

    view = flow.run()

    assert view.result[node].result == {"height": 3}
    assert view.result[node].state.name == "Success"
    assert [each for each in (tmp_path / "results").rglob("*") if each.is_file()]


def test_the_backend_is_local_and_takes_registered_flows() -> None:
    config.backend = "local"
    with Flow("daily") as flow:
        process(1)

    first, again = flow.register(project="reports"), flow.register(project="reports")

    assert (first.name, first.project) == ("daily", "reports")
    assert again.version == first.version


def test_a_class_is_a_task_and_depends_on_others() -> None:
    order: list[str] = []

    class Fetch(Task):
        def run(self) -> Any:
            order.append("fetch")
            return {"output": [1, 2]}

    class Report(Task):
        def run(self, output: Any) -> Any:
            order.append("report")
            return sum(output)

    fetch, report = Fetch(), Report()
    report.depends_on(Dependency(fetch, key="output"))
    with Flow("classes") as flow:
        node = report()

    view = flow.run()

    assert order == ["fetch", "report"]
    assert view.result[node].result == 3
    assert set(names_of(view).values()) == {"Success"}
