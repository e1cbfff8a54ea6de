"""Single sentences of what a flow means, each the smallest flow that an engine once got, or could get, wrong.

The random flows of ``tests/properties`` found them; they stand here so that each has its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from anabranch import Flow, Parameter, config, flatten, signals, states, task, triggers, unmapped
from anabranch.runs.view import FlowRunView


@task
def double(x: int) -> int:
    return 2 * x


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task
def fail(x: Any = None) -> Any:
    raise ValueError(f"no {x}")


@task
def skip(x: Any = None) -> Any:
    raise signals.SKIP()


@task
def fail_odd(x: int) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


@task(trigger=triggers.all_finished, skip_on_upstream_skip=False)
def kinds(xs: Any) -> Any:
    """What a task sees, with the names of exceptions in their place."""
    seen = [type(x).__name__ if isinstance(x, BaseException) else x for x in (xs if isinstance(xs, list) else [xs])]
    return seen if isinstance(xs, list) else seen[0]


def names(view: FlowRunView, node: Any) -> list[str]:
    """Names of the states of a map's elements."""
    return [each.state.name for each in view.result[node].map_states]


def named(value: Any) -> str:
    """A trigger as a part of a test's name."""
    return value if isinstance(value, str) else getattr(value, "__name__", repr(value))


# Values ---------------------------------------------------------------------------------------------------------------


def test_an_iterator_between_two_maps_of_one_chunk_is_a_list_for_both() -> None:
    @task
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    with Flow("iterators") as flow:
        counted = count.map([2, 3])
        totals = task(sum).map(counted)

    view = flow.run(keep="all")

    assert view.result[totals].result == [1, 3]
    assert view.result[counted].result == [[0, 1], [0, 1, 2]]


def test_each_failed_element_gives_its_own_exception_to_the_join_and_the_caller() -> None:
    with Flow("exceptions") as flow:
        results = fail_odd.map([1, 2, 3, 5])
        seen = kinds(results)

    view = flow.run()

    assert view.result[seen].result == ["ValueError", 2, "ValueError", "ValueError"]
    assert [type(each.result).__name__ for each in view.result[results].map_states if each.state.is_failed()] == [
        "ValueError"
    ] * 3
    assert str(view.result[results].map_states[3].result) == "5 is odd"


@pytest.mark.parametrize("max_tracebacks", [0, 1, 20])
def test_bounded_tracebacks_leave_each_exception_its_type(max_tracebacks: int) -> None:
    with Flow("exceptions") as flow:
        results = fail_odd.map([1, 3, 5])

    with config.set(engine__max_tracebacks=max_tracebacks):
        view = flow.run()

    assert [str(each.result) for each in view.result[results].map_states] == ["1 is odd", "3 is odd", "5 is odd"]
    assert {type(each.result) for each in view.result[results].map_states} == {ValueError}


def test_an_argument_may_be_mapped_and_whole_at_the_same_time() -> None:
    @task
    def share(part: int, of: list[int]) -> float:
        return part / sum(of)

    with Flow("shares") as flow:
        parts = double.map([1, 3])
        plain = numbers(4)
        shares = share.map(parts, of=unmapped(parts))
        others = share.map(plain, of=unmapped(plain))

    view = flow.run()

    assert view.result[shares].result == [0.25, 0.75]
    assert view.result[others].result == [0, 1 / 6, 2 / 6, 3 / 6]


def test_a_failed_element_upstream_as_a_whole_stops_every_element() -> None:
    @task
    def share(part: int, of: list[int]) -> float:
        return part / sum(of)

    with Flow("shares") as flow:
        parts = fail_odd.map([1, 2])
        shares = share.map(parts, of=unmapped(parts))

    view = flow.run()

    assert names(view, shares) == ["TriggerFailed", "TriggerFailed"]


def test_an_element_that_was_retried_later_has_its_value_by_index() -> None:
    @task(max_retries=1, retry_delay=0.001)
    def second(x: int) -> int:
        from anabranch import context

        return x if context.task_run_count == 2 else fail.run(x)

    with Flow("retries") as flow:
        node = second.map([7, 8])
    with config.set(engine__inplace_retry_delay_s=0.0):
        view = flow.run()

    assert view.result[node].result == [7, 8]
    assert [each.result for each in view.result[node].map_states] == [7, 8]


def test_a_failed_collection_has_a_value_for_the_caller() -> None:
    with Flow("collection") as flow:
        node = double.map([fail(), 3])
    view = flow.run(keep="all")
    (collection,) = (slug for slug in view._whole.runs if slug.startswith("collect"))

    found = view.result[collection].result

    assert [type(found[0]).__name__, found[1]] == ["ValueError", 3]
    assert names(view, node) == ["TriggerFailed", "Success"]


def test_a_flatten_that_failed_gives_its_exception_to_a_task_that_wants_to_know() -> None:
    with Flow("flatten") as flow:
        node = kinds(flatten(double(4)))

    view = flow.run()

    assert view.result[node].result == "UnmappableError"


@pytest.mark.parametrize(
    "signal",
    [
        signals.FAIL("why"),
        signals.CANCEL("why"),
        signals.TRIGGERFAIL("why"),
        signals.ENDRUN(states.Failed(message="why")),
    ],
    ids=lambda signal: type(signal).__name__,
)
def test_a_signal_that_ends_badly_is_the_value(signal: signals.Signal) -> None:
    @task
    def raises() -> None:
        raise signal

    with Flow("signals") as flow:
        node = raises()
        seen = kinds(node)

    view = flow.run()

    assert type(view.result[node].result) is type(signal)
    assert view.result[node].message == "why"
    assert view.result[seen].result == type(signal).__name__


def test_widths_that_differ_are_a_width_error_as_a_value_too() -> None:
    @task
    def add(a: int, b: int) -> int:
        return a + b

    with Flow("widths") as flow:
        node = add.map(numbers(2), numbers(3))
        seen = kinds(node)

    view = flow.run()

    assert view.result[node].state.name == "Failed"
    assert "numbers has 2" in view.result[node].message
    assert "numbers-1 has 3" in view.result[node].message
    assert view.result[seen].result == "WidthError"


# Upstream states ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trigger", "state"),
    [
        (triggers.any_failed, "TriggerFailed"),
        (triggers.all_failed, "TriggerFailed"),
        (triggers.some_failed(at_least=1), "TriggerFailed"),
        (triggers.some_successful(at_least=1), "Success"),
        (triggers.not_all_skipped, "Success"),
    ],
    ids=named,
)
@pytest.mark.parametrize("source", ["task", "parameter"])
def test_the_list_that_is_mapped_over_is_an_upstream_of_each_element(trigger: Any, state: str, source: str) -> None:
    with Flow("trigger") as flow:
        xs: Any = numbers(1) if source == "task" else Parameter("xs", default=[0])
        node = task(lambda x: x, name="last", trigger=trigger).map(xs)

    view = flow.run()

    assert names(view, node) == [state]


@pytest.mark.parametrize(
    ("trigger", "state"),
    [
        (triggers.all_failed, "TriggerFailed"),
        (triggers.any_successful, "Success"),
        (triggers.some_successful(at_least=2), "Success"),
        (triggers.some_failed(at_most=0.5), "Success"),
    ],
    ids=named,
)
def test_a_trigger_sees_all_elements_of_a_flattened_list_when_one_failed(trigger: Any, state: str) -> None:
    with Flow("flatten") as flow:
        parts = fail_odd.map([0, 1, 2])
        node = task(lambda xs: len(xs), name="last", trigger=trigger)(flatten(parts))

    view = flow.run()

    assert view.result[node].state.name == state


def test_one_skipped_part_of_a_flattened_list_is_not_all_of_it() -> None:
    @task
    def skip_odd(x: int) -> int:
        return skip.run() if x % 2 else x

    with Flow("flatten") as flow:
        parts = skip_odd.map([0, 1])
        node = task(lambda xs: xs, name="last", trigger=triggers.not_all_skipped)(flatten(parts))

    view = flow.run()

    assert view.result[node].state.name == "Success"
    assert view.result[node].result == [0, None]


@pytest.mark.parametrize("order", ["failed first", "skipped first"])
def test_a_map_over_a_failed_and_a_skipped_list_has_failed_whatever_the_order(order: str) -> None:
    with Flow("order") as flow:
        sources = [fail(), skip()] if order == "failed first" else [skip(), fail()]
        node = task(lambda a, b: a, name="pair").map(*sources)

    view = flow.run()

    assert view.result[node].state.name == "TriggerFailed"


def test_a_map_over_a_failed_list_has_failed_though_another_argument_was_skipped() -> None:
    """ "If any upstream failed, the trigger decides; if none did, the skip rule comes first." """
    with Flow("order") as flow:
        node = task(lambda a, b: a, name="pair").map(fail(), unmapped(skip()))

    view = flow.run()

    assert view.result[node].state.name == "TriggerFailed"


def test_a_map_over_a_cancelled_task_has_failed_by_its_trigger() -> None:
    @task
    def cancel() -> list[int]:
        raise signals.CANCEL("not today")

    with Flow("cancelled") as flow:
        node = double.map(cancel())

    view = flow.run()

    assert view.result[node].state.name == "TriggerFailed"
    assert "CANCEL" in view.result[node].message


# Values that are large, late or both ----------------------------------------------------------------------------------


def test_large_values_of_retried_elements_are_kept_for_the_caller() -> None:
    @task(max_retries=1, retry_delay=0.001)
    def later_large(x: int) -> Any:
        from anabranch import context

        if x < 2:
            return x
        return b"x" * 100_000 if context.task_run_count == 2 else fail.run(x)

    with Flow("large") as flow:
        node = later_large.map([0, 1, 2, 3])
    with config.set(engine__inplace_retry_delay_s=0.0):
        view = flow.run()

    assert [x if isinstance(x, int) else len(x) for x in view.result[node].result] == [0, 1, 100_000, 100_000]


def test_two_tasks_wait_for_one_that_is_retried_later() -> None:
    @task(max_retries=1, retry_delay=0.001)
    def second() -> int:
        from anabranch import context

        return 3 if context.task_run_count == 2 else fail.run()

    with Flow("later") as flow:
        node = second()
        doubles = [double(node), double(node)]
    with config.set(engine__inplace_retry_delay_s=0.0):
        view = flow.run()

    assert [view.result[each].result for each in doubles] == [6, 6]


def test_a_next_attempt_sees_whole_arguments_of_a_map_as_they_were() -> None:
    @task(max_retries=1)
    def spoil(x: int, xs: list[int]) -> list[int]:
        from anabranch import context

        xs.append(x)
        return list(xs) if context.task_run_count == 2 else fail.run(x)

    with Flow("spoil") as flow:
        constant = spoil.map([1, 2], unmapped([0]))
        computed = spoil.map([1, 2], unmapped(numbers(1)))

    view = flow.run()

    assert view.result[constant].result == [[0, 1], [0, 2]]
    assert view.result[computed].result == [[0, 1], [0, 2]]
