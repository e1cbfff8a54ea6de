"""Failures and replacements by task, element and attempt."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.refusals import refused

from anabranch import SKIP, Flow, Parameter, Task, context, resource_manager, task, unmapped
from anabranch.errors import OptionError, UnknownNodeError
from anabranch.executors import LocalExecutor
from anabranch.results import InMemoryResult
from anabranch.runs import default_path
from anabranch.runs.view import FlowRunView
from anabranch.testing import (
    FlowTester,
    assert_failed,
    assert_inputs_kept,
    assert_skipped,
    assert_states,
    assert_success,
    states,
)


@task
def list_pages(site: str) -> list[str]:
    raise AssertionError("no test asks the site")


@task(max_retries=1, retry_delay=60)
def fetch(page: str) -> str:
    return f"<{page}>"


@task
def count(texts: list[str]) -> int:
    return len(texts)


with Flow("site") as site:
    pages = list_pages(Parameter("site", default="example"))
    texts = fetch.map(pages)
    total = count(texts)


def test_a_function_is_replaced_by_a_value() -> None:
    tester = FlowTester().replace(list_pages, returns=["a", "b"])

    state = tester.run(site)

    assert state.result[texts].result == ["<a>", "<b>"]
    assert state.result[total].result == 2
    assert [dict(call.arguments) for call in tester.calls(list_pages)] == [{"site": "example"}]


def test_a_function_is_replaced_by_another_that_gets_its_arguments() -> None:
    tester = FlowTester().replace("list_pages", by=lambda site: [site] * 3).replace(fetch, by=str.upper)

    state = tester.run(site, site="x")

    assert state.result[texts].result == ["X", "X", "X"]
    assert tester.calls(fetch, index=2)[0].arguments == {"page": "x"}


def test_a_task_takes_the_place_of_another() -> None:
    @task
    def twice(page: str) -> str:
        return page * 2

    state = FlowTester().replace(list_pages, returns=["a"]).replace(fetch, by=twice).run(site)

    assert state.result[texts].result == ["aa"]


def test_one_element_fails_and_its_neighbours_do_not() -> None:
    tester = FlowTester().replace(list_pages, returns=["a", "b", "c"]).fail(fetch, index=1, with_=ConnectionError("no"))

    state = tester.run(site)

    assert states(state, fetch) == ["Success", "Failed", "Success"]
    assert states(state, total) == ["TriggerFailed"]
    assert [call.attempt for call in tester.calls(fetch, index=1)] == [1, 2]
    assert [type(call.error) for call in tester.calls(fetch, index=1)] == [ConnectionError, ConnectionError]


def test_a_failure_of_certain_attempts_comes_before_a_replacement() -> None:
    tester = FlowTester().replace(list_pages, returns=["a"]).fail(fetch, attempts=[1]).replace(fetch, returns="new")

    state = tester.run(site)

    assert state.result[texts].result == ["new"]
    assert [call.error is None for call in tester.calls(fetch)] == [False, True]


def test_of_several_wishes_the_last_counts() -> None:
    tester = FlowTester().replace(list_pages, returns=["a"]).replace(list_pages, returns=["b"])

    assert tester.run(site).result[texts].result == ["<b>"]


def test_a_signal_can_be_raised() -> None:
    assert_skipped(FlowTester().fail(list_pages, with_=SKIP("closed")).run(site), list_pages, count)


def test_a_keyboard_interrupt_cancels_the_run() -> None:
    state = FlowTester().fail(list_pages, with_=KeyboardInterrupt).run(site)

    assert state.is_cancelled()
    assert state.was_interrupted


def test_a_node_means_that_one_call_only() -> None:
    @task
    def load(name: str) -> str:
        return name

    with Flow("two") as flow:
        left, right = load("left"), load("right")

    state = FlowTester().fail(right).run(flow)

    assert_states(state, {left: "Success", right: "Failed"})


def test_calls_of_running_tasks_are_meant_too() -> None:
    @task
    def crawl() -> object:
        return [fetch("a"), fetch.map(["b", "c"])]

    with Flow("crawl") as flow:
        crawled = crawl()
    tester = FlowTester().replace(fetch, by=str.upper)

    assert tester.run(flow).result[crawled].result == ["A", ["B", "C"]]
    assert len(tester.calls(fetch)) == 3


def test_task_classes_and_resource_managers_can_be_replaced() -> None:
    class Load(Task[[str], str]):
        def run(self, name: str) -> str:
            raise AssertionError(name)

    @resource_manager
    class Connection:
        def setup(self) -> str:
            raise AssertionError("there is no database here")

        def cleanup(self, connection: str) -> None:
            raise AssertionError(connection)

    load = Load()
    with Flow("database") as flow, Connection() as connection:
        loaded = load(connection)
    tester = FlowTester().replace(load, by=lambda name: name.upper())
    tester.replace("Connection.setup", returns="open").replace("Connection.cleanup", returns=None)

    state = tester.run(flow)

    assert_success(state)
    assert state.result[loaded].result == "OPEN"


def test_a_task_of_its_own_process_runs_in_this_one() -> None:
    @task(isolation="process", memory_limit="500 MB", timeout=60)
    def where() -> int:
        return os.getpid()

    with Flow("isolated") as flow:
        seen = where()

    assert FlowTester().run(flow).result[seen].result == os.getpid()


def test_a_map_that_is_reduced_by_chunks_is_seen_as_one_call() -> None:
    @task(reduce=True)
    def largest(numbers: list[int]) -> int:
        return max(numbers)

    @task
    def square(x: int) -> int:
        return x * x

    with Flow("reduced") as flow:
        found = largest(square.map(list(range(100))))
    tester = FlowTester()

    assert tester.run(flow).result[found].result == 99 * 99
    assert len(tester.calls(largest)) == 1


def test_the_flow_and_its_tasks_are_as_they_were_afterwards() -> None:
    FlowTester().replace(list_pages, returns=["a"]).run(site)

    state = site.run()

    assert_failed(state, list_pages, with_=AssertionError, match="no test asks the site")


def test_nothing_is_recorded_unless_asked_for(anabranch_home: Path) -> None:
    FlowTester().replace(list_pages, returns=["a"]).run(site)
    assert not default_path().exists()

    FlowTester(recorded=True).replace(list_pages, returns=["a"]).run(site)
    assert default_path() == anabranch_home / "runs.db"
    assert default_path().exists()


def test_an_executor_is_refused() -> None:
    with refused(OptionError, "tasks run in this process", "LocalExecutor()", "use flow.run"):
        FlowTester().run(site, executor=LocalExecutor())


def test_a_wish_for_a_task_that_the_run_does_not_have_is_an_error() -> None:
    tester = FlowTester().replace(list_pages, returns=[]).fail("fetsh")

    with refused(UnknownNodeError, "fail('fetsh')", "'site'", "'fetch'", "did you mean", at=__file__):
        tester.run(site)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"index": "3"}, "index= takes a number from 0"),
        ({"index": [1, -1]}, "index= takes a number from 0"),
        ({"attempts": 0}, "attempts= takes a number from 1"),
        ({"attempts": True}, "attempts= takes a number from 1"),
        ({"with_": "no"}, "with_= takes an exception"),
        ({"with_": int}, "with_= takes an exception"),
    ],
)
def test_wishes_that_cannot_be_are_refused(options: dict[str, object], words: str) -> None:
    with refused(OptionError, words, "fail('fetch')"):
        FlowTester().fail(fetch, **options)  # type: ignore[arg-type]  # that is the mistake


def test_what_is_no_task_is_refused() -> None:
    with refused(OptionError, "expected a task, a node, or the name of one", "found 5"):
        FlowTester().fail(5)
    with refused(OptionError, "by= takes a function", "found 5", "returns="):
        FlowTester().replace(fetch, by=5)  # type: ignore[arg-type]  # that is the mistake


def test_a_wish_for_an_element_that_the_map_does_not_have_is_an_error() -> None:
    tester = FlowTester().replace(list_pages, returns=["a", "b"]).fail(fetch, index=[1, 2])

    with refused(UnknownNodeError, "fail('fetch')", "no element 2", "'fetch' has 2 elements", at=__file__):
        tester.run(site)
    with refused(UnknownNodeError, "no element 0", "'count' is no map", at=__file__):
        FlowTester().replace(list_pages, returns=[]).fail(count, index=0).run(site)


def test_a_wish_for_elements_that_were_never_reached_is_none() -> None:
    state = FlowTester().fail(list_pages).fail(fetch, index=1).run(site)

    assert_failed(state, list_pages, with_=RuntimeError)


def test_a_run_is_resumed_by_a_tester_that_records() -> None:
    with refused(OptionError, "resume='abc'", "FlowTester(recorded=True)"):
        FlowTester().run(site, resume="abc")


def test_a_replacement_is_a_function_or_a_value() -> None:
    with refused(OptionError, "by=", "returns=", "found neither"):
        FlowTester().replace(fetch)
    with refused(OptionError, "by=", "returns=", "found both"):
        FlowTester().replace(fetch, by=len, returns=1)

    assert FlowTester().replace(list_pages, returns=None).run(site).result[list_pages].result is None


def test_what_is_no_flow_is_refused() -> None:
    with refused(OptionError, "FlowTester.run: expected a flow, found 'site'"):
        FlowTester().run("site")  # type: ignore[arg-type]  # that is the mistake


def test_a_wrong_replacement_is_the_failure_of_its_task() -> None:
    state = FlowTester().replace(list_pages, by=lambda: ["a"]).run(site)

    assert_failed(state, list_pages, with_=TypeError, match="takes 0 positional arguments but 1 was given")


def test_the_context_is_that_of_the_task() -> None:
    tester = FlowTester().replace(list_pages, returns=["a", "b"])
    tester.replace(fetch, by=lambda page: context.task_full_name)

    assert tester.run(site).result[texts].result == ["fetch[0]", "fetch[1]"]


STORED: list[dict[str, Any]] = [
    {"cache_for": 60},
    {"cache_key": "prices"},
    {"target": "{task_name}"},
    {"location": "{run_id}-{task_name}"},
    {"checkpoint": True},
    {},
]


def prices(options: dict[str, Any], result: InMemoryResult, shape: str) -> tuple[Flow, Task[[], int]]:
    """A flow with a task to replace, which is in the block, in an element, in a flow of its own, or called."""
    price: Any = task(lambda: 1, name="price", **options)
    for_each = {name: f"{text}-{{x}}" if name == "target" else text for name, text in options.items()}
    each: Any = task(lambda x: 10 * x, name="each", **for_each)
    with Flow("prices", result=result) as flow:
        if shape == "plain":
            each(price())
        elif shape == "map":
            each.map([price()])
        elif shape == "called":
            task(lambda: each(price()), name="parent", **options)()
        else:
            with Flow("inner", result=result) as inner:
                price()
            each(inner.as_task(**options)())
    return flow, price


@pytest.mark.parametrize("options", STORED, ids=str)
@pytest.mark.parametrize("shape", ["plain", "map", "called", "flow"])
def test_what_a_test_makes_up_is_neither_stored_nor_taken_from_a_store(options: dict[str, Any], shape: str) -> None:
    result = InMemoryResult()
    flow, price = prices(options, result, shape)

    def values(state: FlowRunView) -> list[object]:
        return [state.result[slug].result for slug in ("each", "parent") if slug in state.result]

    made_up = values(FlowTester().replace(price, returns=-1).run(flow))
    assert result.store.objects == {}
    real = values(flow.run())
    assert result.store.objects
    again = values(FlowTester().replace(price, returns=-2).run(flow))

    assert "-1" in str(made_up)
    assert "-" not in str(real)
    assert "-2" in str(again)


def test_real_values_are_stored_by_a_test_that_replaces_nothing() -> None:
    result = InMemoryResult()
    flow, price = prices({"cache_key": "prices", "max_retries": 1, "retry_delay": 1}, result, "plain")

    assert FlowTester().fail(price, attempts=1).run(flow).result["each"].result == 10
    assert flow.run().result["price"].name == "Cached"


@task
def sort(words: list[str]) -> list[str]:
    words.sort()
    return words


@task
def scale(table: dict[str, list[int]], by: int) -> int:
    table["a"][:] = [by * each for each in table["a"]]
    return sum(table["a"])


def test_tasks_that_change_their_inputs_are_named_once_for_all_elements() -> None:
    with Flow("changing") as flow:
        words = sort(["b", "a"])
        scale.map(unmapped({"a": [1, 2]}), [1, 2, 3])
        count(words)
    tester = FlowTester()
    assert_success(tester.run(flow))

    with pytest.raises(AssertionError, match=r"^sort changed .* 'words'; scale\[1\] changed .* 'table'; let it"):
        assert_inputs_kept(tester)

    assert_inputs_kept(tester, count)
    assert [call.changed for call in tester.calls(scale)] == [(), ("table",), ("table",)]


def test_frames_that_are_only_read_are_not_changed() -> None:
    @task
    def read(table: pd.DataFrame) -> int:
        return int(table["a"].sum() + table.groupby("b")["a"].max().sum() + len(table.describe()) + table.iloc[0].a)

    @task
    def write(table: pd.DataFrame) -> None:
        table.loc[0, "a"] = 7

    with Flow("frames") as flow:
        table = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
        read(table)
        write(table)
    tester = FlowTester()
    assert_success(tester.run(flow))

    assert_inputs_kept(tester, read)
    with pytest.raises(AssertionError, match="write changed its argument 'table'"):
        assert_inputs_kept(tester)
