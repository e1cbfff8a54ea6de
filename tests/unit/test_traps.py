"""The traps of Prefect 1: for each one that its users fell into, that nobody falls into it here.

In the order of the list they were collected in: flows, tasks, mapping, skipping, retries, conditions, what runs twice.
"""

from __future__ import annotations

import gc
import logging
import time
from typing import Any

import pytest
from tests.refusals import refused

from anabranch import FAIL, SKIP, Flow, Parameter, case, config, ifelse, switch, task, unmapped
from anabranch.errors import (
    DefinitionError,
    FlowValidationError,
    MappingError,
    NodeValueError,
    OptionError,
    TaskTimeout,
    WidthError,
)
from anabranch.triggers import all_finished


@task
def value(x: Any = 1) -> Any:
    return x


@task
def add(x: Any, y: Any = 1) -> Any:
    return x + y


@task
def total(xs: Any) -> Any:
    return sum(xs)


@task
def spoil(xs: list[Any]) -> list[Any]:
    """A task that changes what it is given."""
    xs.append("spoilt")
    return xs


# Flows ----------------------------------------------------------------------------------------------------------------


def test_binding_an_argument_twice_does_not_overwrite_it() -> None:
    with Flow("f") as flow:
        a = flow.add_task(add)
        flow.set_dependencies(a, keyword_tasks={"x": value(1)})
        with refused(DefinitionError, "add: argument 'x' is bound already", at=str(a.where)):
            flow.set_dependencies(a, keyword_tasks={"x": value(2)})


def test_every_task_of_a_stage_waits_for_the_one_before() -> None:
    with Flow("f") as flow:
        a, b, c, d = (value(i) for i in range(4))
        flow.chain(a, [b, c], d)
    assert len(flow.tasks) == 4
    assert flow.upstream_tasks(b) == flow.upstream_tasks(c) == [a]
    assert flow.upstream_tasks(d) == [b, c]


def test_a_cycle_is_named_and_nothing_runs() -> None:
    ran: list[int] = []
    with Flow("f") as flow:
        a, b = task(name="a")(lambda: ran.append(1))(), value(2)
    a.set_upstream(b)
    b.set_upstream(a)
    with refused(FlowValidationError, "cycle: a → value → a", at=""):
        flow.run()
    assert ran == []


def seconds_to_validate(count: int) -> float:
    """The best of three, as the machine may be busy."""
    with Flow("f") as flow:
        node = value(0)
        for _ in range(count - 1):
            node = value(node)
    best = 1e9
    gc.collect()
    gc.disable()  # a collection takes longer than a thousand tasks
    try:
        for _ in range(3):
            began = time.process_time()
            flow.validate()
            best = min(best, time.process_time() - began)
    finally:
        gc.enable()
    return best


def test_validating_twice_as_many_tasks_takes_about_twice_as_long() -> None:
    seconds_to_validate(100)  # imports what it takes
    assert seconds_to_validate(16000) < 3.5 * seconds_to_validate(8000)  # quadratic would be 4


def test_a_thousand_tasks_in_a_row_validate_in_no_time() -> None:
    assert seconds_to_validate(1000) < 0.5


def test_a_loaded_flow_is_the_flow_that_was_saved(tmp_path: Any) -> None:
    with Flow("f") as flow:
        xs = add.map(Parameter("p", default=[1, 2]))
        total(xs)
    loaded = Flow.load(flow.save(tmp_path / "f.flow"))
    assert [node.slug for node in loaded.tasks] == [node.slug for node in flow.tasks]
    assert [str(edge) for edge in loaded.edges] == [str(edge) for edge in flow.edges]
    assert loaded.run().result["total"].result == flow.run().result["total"].result == 5


def test_a_map_of_a_thousand_elements_is_one_box() -> None:
    with Flow("f") as flow:
        add.map(range(1000))
    assert flow.visualize(flow.run(), format="mermaid").count("add") == 1


# Tasks ----------------------------------------------------------------------------------------------------------------


def test_options_of_one_call_are_checked_when_it_is_written() -> None:
    with Flow("f"):
        with refused(OptionError, "value(task_args=…): retry_delay given without max_retries"):
            value(1, task_args={"retry_delay": 5})
        with refused(OptionError, "value(task_args=…): unknown task option 'max_retry'"):
            value(1, task_args={"max_retry": 1})


def test_retries_need_no_delay_and_a_number_is_one() -> None:
    calls: list[int] = []

    def flaky() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("no")
        return len(calls)

    with Flow("f") as flow:
        node = task(flaky)(task_args={"max_retries": 2, "retry_delay": 0})
    assert flow.run().result[node].result == 3
    assert task(max_retries=1, retry_delay=5)(flaky).retry_delay == 5.0


def test_edges_can_be_added_after_the_block() -> None:
    with Flow("f") as flow:
        a, b = value(1), value(2)
    b.set_upstream(a)
    assert flow.upstream_tasks(b) == [a]


def test_a_node_has_no_truth_value_and_is_equal_to_no_value() -> None:
    with Flow("f"):
        a = value(1)
        with refused(NodeValueError, "has no truth value"):
            _ = "taken" if a > 5 else "also taken"
        with refused(NodeValueError, "use node.is_equal(…)"):
            _ = a == 1


def test_operators_on_maps_act_per_element() -> None:
    with Flow("f") as flow:
        a, b = value.map([1, 2]), value.map([10, 20])
        both, more = a + b, a + 1
    view = flow.run()
    assert (view.result[both].result, view.result[more].result) == ([11, 22], [2, 3])


def test_a_constant_is_the_same_in_every_run() -> None:
    constant = ["mine"]
    with Flow("f") as flow:
        node = spoil(constant)
    assert [flow.run().result[node].result for _ in range(2)] == [["mine", "spoilt"]] * 2
    assert constant == ["mine"]


def test_a_constant_beside_a_node_is_the_same_in_every_run() -> None:
    spoil_second = task(name="spoil_second")(lambda pair: spoil.run(pair[1]))
    with Flow("f") as flow:
        node = spoil_second([value(1), ["mine"]])
    assert [flow.run().result[node].result for _ in range(2)] == [["mine", "spoilt"]] * 2


def test_elements_that_are_constants_are_the_same_in_every_run() -> None:
    with Flow("f") as flow:
        node = spoil.map([["a"], ["b"]])
        whole = add.map([[1], [2]], unmapped([3]))
    for _ in range(2):
        view = flow.run()
        assert view.result[node].result == [["a", "spoilt"], ["b", "spoilt"]]
        assert view.result[whole].result == [[1, 3], [2, 3]]


# Mapping --------------------------------------------------------------------------------------------------------------


def test_widths_that_differ_are_never_cut_to_the_shortest() -> None:
    with Flow("f") as flow:
        with refused(WidthError, "x has 3, y has 2"):
            add.map([1, 2, 3], [1, 2])
        node = add.map(value([1, 2, 3]), value([1, 2]))
    assert "value has 3, value-1 has 2" in flow.run().result[node].message


@pytest.mark.parametrize("answer", ["abc", None, [1]])
def test_what_a_setup_task_returns_is_never_zipped(answer: Any) -> None:
    setup = task(name="setup")(lambda: answer)
    with Flow("f") as flow:
        node = value.map(range(6), upstream_tasks=[setup])
        other = value(mapped_over, upstream_tasks=[setup], mapped=True)
    view = flow.run()
    assert (view.result[node].result, view.result[other].result) == ([0, 1, 2, 3, 4, 5], [1, 2])


mapped_over = [1, 2]


def test_a_string_is_never_mapped_over_per_character() -> None:
    with Flow("f") as flow:
        with refused(MappingError, "one run per character; wrap it in a list"):
            value.map("abc")
        node = value.map(value("abc"))
    assert "one run per character" in flow.run().result[node].message


def test_mapping_over_a_dict_fails_that_map_and_loses_no_state() -> None:
    with Flow("f") as flow:
        a = value({"a": 1})
        b = value.map(a)
        c = value("beside")
    view = flow.run()
    assert [view.result[node].state.name for node in (a, b, c)] == ["Success", "Failed", "Success"]
    assert "list(value.items())" in view.result[b].message


# Skipping -------------------------------------------------------------------------------------------------------------


def test_a_failure_is_not_hidden_by_a_skip() -> None:
    fail, skip = task(name="fail")(lambda: 1 / 0), task(name="skip")(raise_skip)
    with Flow("f") as flow:
        node = add(fail(), y=skip())
    view = flow.run()
    assert view.is_failed()
    assert view.result[node].state.name == "TriggerFailed"


def raise_skip() -> None:
    raise SKIP("not today")


def test_a_false_case_runs_nothing_whatever_a_task_thinks_of_skips() -> None:
    anyway = task(name="anyway", skip_on_upstream_skip=False, trigger=all_finished)(lambda: "ran")
    with Flow("f") as flow, case(value(1), 2):
        node = anyway()
    assert flow.run().result[node].is_skipped()


@pytest.mark.parametrize("choose", [lambda a, b: switch(value(1), {0: [a, b]}), lambda a, b: ifelse(value(0), [a, b])])
def test_every_task_of_a_branch_is_skipped_with_it(choose: Any) -> None:
    with Flow("f") as flow:
        a, b = value("a"), value("b")
        choose(a, b)
    view = flow.run()
    assert view.result[a].is_skipped()
    assert view.result[b].is_skipped()


# Signals and retries --------------------------------------------------------------------------------------------------


def test_retry_on_may_name_failures_that_tasks_signal_and_timeouts() -> None:
    calls: list[int] = []

    def flaky() -> int:
        calls.append(1)
        if len(calls) < 2:
            raise FAIL("not yet")
        return len(calls)

    with Flow("f") as flow:
        node = task(max_retries=1, retry_on=(FAIL, TaskTimeout))(flaky)()
    assert flow.run().result[node].result == 2


def test_a_signal_that_is_not_named_in_retry_on_is_not_retried() -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(1)
        raise FAIL("no")

    with Flow("f") as flow:
        task(max_retries=3, retry_on=OSError)(fails)()
    assert flow.run().is_failed()
    assert len(calls) == 1


def test_a_retry_sees_its_arguments_as_they_were() -> None:
    seen: list[list[str]] = []

    def spoils_and_fails(xs: list[str]) -> list[str]:
        seen.append(list(xs))
        xs.append("spoilt")
        if len(seen) < 3:
            raise ConnectionError("no")
        return xs

    with Flow("f") as flow:
        flaky = task(max_retries=2)(spoils_and_fails)
        flaky(value(["mine"]))
        flaky.map([["yours"]])
    assert flow.run().is_successful()
    assert seen == [["mine"]] * 3 + [["yours"]]


def test_a_delay_that_cannot_be_is_refused_before_anything_fails() -> None:
    with refused(OptionError, "retry_delay: expected seconds as a number or a timedelta, found '5'"):
        task(max_retries=1, retry_delay="5")(len)


# What runs twice, what is lost ----------------------------------------------------------------------------------------


def test_naming_a_task_never_runs_it_a_second_time() -> None:
    runs: list[str] = []
    extract = task(name="extract")(lambda: runs.append("extract") or [1])
    load = task(name="load")(lambda: runs.append("load"))
    with Flow("f") as flow:
        xs = extract()
        load()
        load.set_dependencies(upstream_tasks=[extract])
        total(extract)
        value(xs, upstream_tasks=[extract])
    flow.run()
    assert sorted(runs) == ["extract", "load"]


def test_arguments_that_do_not_fit_are_never_dropped() -> None:
    transform = task(name="transform")(lambda: 1)
    with Flow("f"), refused(DefinitionError, "add a parameter to the function, or order the tasks with upstream_tasks"):
        transform(value(1))


def test_the_level_of_the_log_changes_at_once() -> None:
    logger = logging.getLogger("anabranch")
    before = config.logging.level
    try:
        config.logging.level = "DEBUG"
        assert logger.isEnabledFor(logging.DEBUG)
        config.logging.level = "ERROR"
        assert not logger.isEnabledFor(logging.WARNING)
    finally:
        config.logging.level = before


POKED: list[str] = []


def test_returning_an_object_does_nothing_to_its_class() -> None:
    class Thing:
        def poke(self) -> None:
            POKED.append("poked")

    with Flow("f") as flow:
        value(task(Thing)())
    flow.run()
    Thing().poke()
    assert POKED == ["poked"]


def test_a_small_array_is_kept_for_the_caller() -> None:
    np = pytest.importorskip("numpy")
    with Flow("f") as flow:
        a = value(np.arange(3))
        total(a)
    assert list(flow.run().result[a].result) == [0, 1, 2]
