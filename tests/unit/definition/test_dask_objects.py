"""Dask's objects where values are taken: seen in whatever holds them, and nothing else is mistaken for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch import Flow, Parameter, flatten, task, unmapped
from anabranch.definition.dask_objects import holds_dask, is_dask, parts, resolved
from anabranch.errors import MappingError, ParameterError
from anabranch.executors import LocalExecutor


@dataclasses.dataclass
class Pair:
    left: Any
    right: Any


class Hostile:
    """Answers whatever it is asked, and raises where that is a call."""

    __dask_graph__ = 7

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("==")

    __hash__ = None  # type: ignore[assignment]


def three() -> Any:
    return dask.delayed(sum)([1, 2])


@task
def same(x: Any) -> Any:
    return x


@task
def total(x: Any) -> float:
    return float(np.sum(x))


@task
def gives(kind: str) -> Any:
    return {
        "delayed": three(),
        "array": da.ones(4, chunks=2),
        "nested": [1, {"a": three()}],
        "bag": db.from_sequence([5]),
    }[kind]


@task(lazy=True)
def lazily(kind: str) -> Any:
    return {"delayed": three(), "array": da.ones(4, chunks=2)}[kind]


@task(lazy=True)
def kind_of(x: Any) -> str:
    return type(x).__name__


def values(*nodes: Any, flow: Flow) -> list[Any]:
    state = flow.run(executor=LocalExecutor(), keep="all")
    assert state.is_successful(), state.message
    return [state[node].result for node in nodes]


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3) | st.builds(Hostile) | st.just(int) | st.just(np.ones(2)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
        max_leaves=8,
    )
)
def test_nothing_else_is_taken_for_an_object_of_dasks(value: Any) -> None:
    assert not holds_dask(value)
    assert resolved(value) is value


@given(st.recursive(st.integers() | st.builds(three), lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_what_holds_one_is_put_together_of_what_it_stands_for(value: Any) -> None:
    def plain(each: Any) -> Any:
        return [plain(part) for part in each] if isinstance(each, list) else 3 if is_dask(each) else each

    assert resolved(value) == plain(value)


def test_whole_arguments_are_computed_wherever_they_hold_something_of_dasks() -> None:
    delayed = three()
    with Flow("whole") as flow:
        nodes = (
            same(delayed),
            same([delayed, {"a": delayed}, 1]),
            same(Pair(delayed, (2, delayed))),
            total(da.ones((4, 4), chunks=2)),
            same(db.from_sequence([1, 2])),
            same([delayed, same(delayed)]),
            same.map([1, 2], upstream_tasks=[same(delayed)]),
        )
    found = values(*nodes, flow=flow)
    assert found == [3, [3, {"a": 3}, 1], Pair(3, (2, 3)), 16.0, [1, 2], [3, 3], [1, 2]]


def test_a_whole_argument_of_a_map_is_computed_once() -> None:
    calls: list[int] = []
    counted = dask.delayed(calls.append)(1)

    @task
    def second(i: int, x: Any) -> int:
        return i

    with Flow("once") as flow:
        node = second.map([1, 2, 3], unmapped(counted))

    assert values(node, flow=flow) == [[1, 2, 3]]
    assert calls == [1]


def test_elements_are_computed_one_by_one_so_that_one_may_fail() -> None:
    with Flow("elements") as flow:
        node = same.map([three(), dask.delayed(int)("x"), 5])

    state = flow.run(executor=LocalExecutor(), keep="all")

    assert [each.is_successful() for each in state[node].map_states] == [True, False, True]
    assert "invalid literal" in state[node].map_states[1].message


def test_a_map_goes_over_partitions_and_blocks() -> None:
    frame = dd.from_pandas(pd.DataFrame({"x": range(10)}), npartitions=4)
    bag = db.from_sequence(range(4), npartitions=2)
    grid = da.arange(16, chunks=4).reshape(4, 4).rechunk(2)

    @task
    def added(part: Any) -> int:
        return int(np.sum(part["x"] if isinstance(part, pd.DataFrame) else list(part)))

    with Flow("parts") as flow:
        nodes = (
            added.map(frame.partitions),
            added.map(bag.to_delayed()),
            total.map(grid.blocks),
            same.map(db.from_sequence([1, 2])),
            same.map(flatten([[three()], [4]])),
        )

    assert values(*nodes, flow=flow) == [[3, 12, 13, 17], [1, 5], [10.0, 18.0, 42.0, 50.0], [1, 2], [3, 4]]


def test_parts_are_counted_and_cut_in_their_order() -> None:
    found = parts(da.zeros((4, 6), chunks=2).blocks)
    assert found is not None
    assert (len(found), [each.shape for each in found]) == (6, [(2, 2)] * 6)
    assert parts(da.zeros(3)) is None
    assert parts(da.zeros(3).vindex) is None


def test_values_are_computed_before_others_have_them() -> None:
    with Flow("values") as flow:
        nodes = (
            gives("delayed"),
            total(gives("array")),
            gives("nested"),
            gives.map(["delayed", "nested", "bag"]),
            same.map(gives.map(["delayed", "nested"])),
            task(lambda: dask.delayed(sum)([2, 2]), name="timed", timeout=60)(),
            task(lambda: iter([three(), 4]), name="iterates")(),
        )

    found = values(*nodes, flow=flow)

    assert found == [3, 4.0, [1, {"a": 3}], [3, [1, {"a": 3}], [5]], [3, [1, {"a": 3}]], 4, [3, 4]]


def test_a_lazy_task_takes_and_gives_them_as_they_are() -> None:
    with Flow("lazy") as flow:
        nodes = (
            kind_of(da.ones(3)),
            kind_of(lazily("array")),
            total(lazily("array")),
            same([lazily("delayed"), 1]),
            same.map(lazily.map(["delayed", "delayed"])),
            kind_of(same(lazily("array"))),
        )

    assert values(*nodes, flow=flow) == ["Array", "Array", 4.0, [3, 1], [3, 3], "ndarray"]


def test_deferred_calls_are_given_what_they_stand_for() -> None:
    @task
    def calls() -> list[Any]:
        return [same(three()), same.map([three(), 4]), total.map(da.ones(6, chunks=3).blocks)]

    with Flow("deferred") as flow:
        node = calls()

    assert values(node, flow=flow) == [[3, [3, 4], [3.0, 3.0]]]


def test_a_parameter_is_a_plain_value() -> None:
    with Flow("parameter") as flow:
        same(Parameter("p"))

    with pytest.raises(
        ParameterError, match=r"p: .*Delayed.* is Dask's, and no plain value; compute it, or pass it to"
    ):
        flow.run(p=[three()])


def test_a_frame_has_no_elements_but_partitions() -> None:
    with (
        Flow("frame"),
        pytest.raises(
            MappingError, match=r"same.map\(\): cannot map 'x' over a DataFrame \(.*\); map over frame\.partitions"
        ),
    ):
        same.map(dd.from_pandas(pd.DataFrame({"x": [1]}), npartitions=1))
