"""What must hold of maps wherever they run: widths of none, one and many, maps of maps, many maps, failures."""

from __future__ import annotations

from typing import Any

import pytest

from anabranch import Flow, Parameter, apply_map, case, context, flatten, merge, signals, task, unmapped
from anabranch.triggers import all_finished


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task
def increment(x: int) -> int:
    return x + 1


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task
def is_even(x: int) -> bool:
    return x % 2 == 0


THREADS = 3  # of the executor with threads


@pytest.mark.parametrize("width", [0, 1, 2, 5_000])
def test_a_map_of_any_width_is_joined_in_order(executor: Any, width: int) -> None:
    with Flow("width") as flow:
        n = Parameter("n", default=width)
        elements = increment.map(increment.map(numbers(n)))
        joined = total(elements)

    view = flow.run(executor=executor)

    assert view.is_successful()
    assert view.result[elements].result == list(range(2, width + 2))
    assert view.result[joined].result == sum(range(2, width + 2))
    assert len(view.result[elements].map_states) == width


def test_nested_maps_are_flattened_and_mapped_again(executor: Any) -> None:
    with Flow("nested") as flow:
        nested = numbers.map([3, 0, 2])
        elements = increment.map(flatten(nested))
        deeper = total.map(numbers.map(flatten(numbers.map(elements))))

    view = flow.run(executor=executor)

    assert view.result[elements].result == [1, 2, 3, 1, 2]
    assert view.result[deeper].result == [sum(range(m)) for n in (1, 2, 3, 1, 2) for m in range(n)]


def test_a_hundred_maps_in_one_flow(executor: Any) -> None:
    with Flow("hundred") as flow:
        totals = [total(increment.map(range(k))) for k in range(100)]
        everything = total(totals)

    view = flow.run(executor=executor)

    assert view.result[everything].result == sum(sum(range(1, k + 1)) for k in range(100))


def test_chains_of_maps_that_join_and_part_again(executor: Any) -> None:
    @task
    def add(a: int, b: int, c: int = 0) -> int:
        return a + b + c

    with Flow("river") as flow:
        source = numbers(300)
        left, right = increment.map(source), increment.map(increment.map(source))
        both = add.map(left, right, c=unmapped(total(left)))
        joined = total(both)

    view = flow.run(executor=executor)

    left_sum = sum(range(1, 301))
    assert view.result[both].result == [(x + 1) + (x + 2) + left_sum for x in range(300)]
    assert view.result[joined].result == sum(2 * x + 3 + left_sum for x in range(300))


def test_each_element_takes_its_own_branch(executor: Any) -> None:
    def halve_or_triple(x: Any) -> Any:
        even = is_even(x)
        with case(even, True):
            half = task(lambda x: x // 2, name="half")(x)
        with case(even, False):
            triple = task(lambda x: 3 * x + 1, name="triple")(x)
        return merge(half, triple)

    with Flow("branches") as flow:
        results = apply_map(halve_or_triple, numbers(500))

    view = flow.run(executor=executor)

    assert view.result[results].result == [x // 2 if x % 2 == 0 else 3 * x + 1 for x in range(500)]


def test_skips_failures_and_retries_among_many_are_told_apart(executor: Any) -> None:
    @task(max_retries=2)
    def troubled(x: int) -> int:
        if x % 100 == 0:
            raise ValueError(f"element {x}")
        if x % 100 == 1:
            raise signals.SKIP("not wanted")
        if x % 100 == 2 and context.task_run_count < 3:
            raise RuntimeError("not yet")
        return x

    @task(trigger=all_finished)
    def kept(xs: list[Any]) -> int:
        return sum(x for x in xs if isinstance(x, int))

    with Flow("troubles") as flow:
        elements = troubled.map(range(3_000))
        result = kept(elements)

    view = flow.run(executor=executor)

    states = view.result[elements].map_states
    assert view.result[result].result == sum(x for x in range(3_000) if x % 100 > 1)
    assert [name for name, _ in view.failures()] == [f"troubled[{x}]" for x in range(0, 3_000, 100)]
    assert all(states[x].state.is_skipped() for x in range(1, 3_000, 100))
    assert all(states[x].attempt == 3 for x in range(2, 3_000, 100))
    counts = view.result[elements].counts
    assert counts is not None
    assert (counts.total, counts.failed, counts.skipped) == (3_000, 30, 30)
    assert sum(1 for _, state in view.failures() if state.failure and state.failure.traceback) <= 20


def test_a_reduction_gives_what_the_join_gives_with_late_elements_in_their_place(executor: Any) -> None:
    @task(max_retries=1, retry_delay=0.6)
    def shown(x: int) -> str:
        if x == 70 and context.task_run_count == 1:
            raise ValueError("late")
        return f"{x},"

    with Flow("reduction") as flow:
        text = task(reduce=True, name="join")(lambda parts: "".join(parts))(shown.map(range(200)))
        most = task(reduce=True, name="most")(lambda xs: max(xs))(increment.map(numbers(1_000)))
        none = task(reduce=True, name="none")(lambda xs: sum(xs))(increment.map([]))

    view = flow.run(executor=executor)

    assert view.result[text].result == "".join(f"{x}," for x in range(200))
    assert view.result[most].result == 1_000
    assert view.result[none].result == 0


def test_a_reduction_has_a_context_in_each_chunk(executor: Any) -> None:
    def join(parts: list[Any]) -> str:
        seen = {context.flow_name, context.task_name, context.task_full_name}
        return ",".join(sorted(seen | {name for part in parts for name in str(part).split(",") if not name.isdigit()}))

    with Flow("f") as flow:
        node = task(join, name="join", reduce=True)(increment.map(range(100)))

    assert flow.run(executor=executor).result[node].result == "f,join"


def test_a_reduction_that_fails_says_why(executor: Any) -> None:
    def refuse(xs: list[int]) -> int:
        raise ArithmeticError("too many")

    with Flow("reduction") as flow:
        node = task(refuse, name="refuse", reduce=True)(increment.map(range(10)))

    view = flow.run(executor=executor)

    assert view.result[node].state.name == "Failed"
    assert "ArithmeticError: too many" in view.result[node].message


def test_a_map_over_a_large_list_takes_its_elements_from_where_it_lies(executor: Any) -> None:
    with Flow("large") as flow:
        blobs = task(lambda: [bytes([i]) * 20_000 for i in range(100)], name="blobs")()
        sizes = task(lambda blob: blob[0] + len(blob), name="size").map(blobs)

    view = flow.run(executor=executor)

    assert view.result[sizes].result == [i + 20_000 for i in range(100)]


def test_a_flow_of_known_widths_is_one_delayed() -> None:
    import dask

    with Flow("delayed") as flow:
        xs = Parameter("xs", default=[1, 2, 3])
        total(increment.map(increment.map(xs)))
        total(increment.map([]))

    delayed = flow.to_delayed(xs=list(range(1_000)))

    expected = {"total": sum(range(2, 1_002)), "total-1": 0}
    assert delayed.compute(scheduler="sync") == expected
    assert dask.compute(delayed, scheduler="threads") == (expected,)


def test_a_flow_whose_widths_only_a_run_knows_is_no_delayed() -> None:
    with Flow("dynamic") as flow:
        increment.map(numbers(3))

    with pytest.raises(Exception, match="maps over numbers, whose width is known only once it has run"):
        flow.to_delayed()
