"""Nodes and calls in places where they would stay what they are: a task would get them, not their values."""

from __future__ import annotations

import functools
import itertools
import re
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.refusals import refused

from anabranch import Flow, Parameter, case, flatten, mapped, signals, task, unmapped
from anabranch.base.errors import DefinitionError, FlowValidationError, NodeValueError
from anabranch.definition.stowaways import MAX_LEVELS, find_stowaway
from anabranch.states import Success


@task
def value(x: Any = 3) -> Any:
    return x


@task
def double(x: int) -> int:
    return 2 * x


class Box:
    """An object with an attribute."""

    def __init__(self, x: object) -> None:
        self.x = x


class Slotted:
    """An object without a dict."""

    __slots__ = ("empty", "x")

    def __init__(self, x: object) -> None:
        self.x = x


class Tagged(list[Any]):
    """A list with an attribute."""

    tag: object = None


class Shy:
    """An object that tells nobody what it has."""

    def __init__(self, x: object) -> None:
        self.x = x

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return Shy
        raise RuntimeError("ask nothing")


@dataclass
class Row:
    """What may hold nodes."""

    x: object


def _tagged(x: object) -> Tagged:
    found = Tagged([1])
    found.tag = x
    return found


def _filled(x: object) -> Any:
    found = np.empty((2, 2), object)
    found[0, 0] = x
    return found


HIDDEN: dict[str, Callable[[Any], Any]] = {
    "a key": lambda x: {x: 1},
    "a key of a Counter": lambda x: Counter({x: 1}),
    "a key in a key": lambda x: {("a", x): 1},
    "an object": Box,
    "a namespace": lambda x: types.SimpleNamespace(x=x),
    "slots": Slotted,
    "an attribute of a list": _tagged,
    "an object that refuses": Shy,
    "an exception": ValueError,
    "a partial": lambda x: functools.partial(max, x),
    "a proxy of a dict": lambda x: types.MappingProxyType({"x": x}),
    "an iterator": lambda x: iter([x]),
    "a chain": lambda x: itertools.chain([x]),
    "a closure": lambda x: lambda: x,
    "a default": lambda x: lambda y=x: y,
    "a default by name": lambda x: eval("lambda *, y=x: y", {"x": x}),
    "a method": lambda x: Tagged([x]).index,
    "an array": _filled,
    "an index": lambda x: pd.Series([1], index=pd.Index([x], dtype=object)),
    "a column": lambda x: pd.DataFrame([[1]], columns=pd.Index([x], dtype=object)),
    "a cell": lambda x: pd.DataFrame({"a": pd.Series([None, x], dtype=object), "b": [1, 2]}),
}


@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("source", [value, lambda: Parameter("p", default=3), lambda: value() + 1])
def test_a_node_that_no_argument_may_hold_is_refused(hide: Callable[[Any], Any], source: Callable[[], Any]) -> None:
    with Flow("f"):
        node = source()
        for write in (
            lambda hidden: value(hidden),
            lambda hidden: value([1, {"deep": (hidden,)}]),
            lambda hidden: value(Row(hidden)),
            lambda hidden: value.map([1, 2], upstream_tasks=[value(unmapped(hidden))]),
            lambda hidden: value.map([hidden]),
        ):
            hidden = hide(node)
            with refused(NodeValueError, "value: argument 'x' holds ", repr(node), "where it would stay a node"):
                write(hidden)


@given(st.recursive(st.just(None), lambda inner: st.sampled_from(["list", "box", "row", "dict"]).flatmap(
    lambda kind: inner.map(lambda rest: (kind, rest))), max_leaves=5))  # fmt: skip
def test_a_node_is_found_below_any_nesting_that_has_few_objects(nesting: Any) -> None:
    makers: dict[str, Callable[[Any], Any]] = {
        "list": lambda x: [1, x],
        "box": Box,
        "row": Row,
        "dict": lambda x: {"a": x},
    }
    wanted = object()
    kinds = []
    while nesting is not None:
        kind, nesting = nesting
        kinds.append(kind)
    found: Any = wanted
    for kind in kinds:
        found = makers[kind](found)

    answer = find_stowaway(found, lambda each: each is wanted)

    if kinds.count("box") <= MAX_LEVELS:
        assert (answer is not None) == ("box" in kinds)
        assert answer is None or answer[0] is wanted


def test_what_hides_itself_is_looked_into_once() -> None:
    ring = Box(None)
    ring.x = [ring, {"again": ring}]
    assert find_stowaway(ring, lambda each: False) is None


def test_where_an_argument_may_hold_nodes_they_are_no_stowaways() -> None:
    with Flow("f") as flow:
        node = value()
        found = [
            value([node]),
            value({"a": (node, {node})}),
            value(Row(node)),
            value(mapped([node, 1])),
            value.map(flatten([[node], [2]])),
        ]
    state = flow.run()
    assert [state.result[each].result for each in found] == [[3], {"a": (3, {3})}, Row(3), [3, 1], [3, 2]]


def test_flows_tasks_and_nodes_of_other_flows_are_values() -> None:
    with Flow("other") as other:
        inner = value(5)
    with Flow("f") as flow:
        asked = value(Box((other, value, inner)))

        @task
        def ask() -> Any:
            return other.run().result[inner].result

        answer = ask()
    state = flow.run(keep="all")
    assert state.result[asked].is_successful()
    assert state.result[answer].result == 5


# Texts, arrays, operands ----------------------------------------------------------------------------------------------


TEXTS: dict[str, Callable[[Any], Any]] = {
    "f-string": lambda x: f"data/{x}.csv",
    "f-string with a width": lambda x: f"{x:>8}",
    "percent": lambda x: "data/%s.csv" % x,  # noqa: UP031  # what is tested
    "format": lambda x: "data/{}.csv".format(x),  # noqa: UP032  # what is tested
    "str": str,
    "print": print,
}


@pytest.mark.parametrize("write", TEXTS.values(), ids=TEXTS)
def test_a_node_has_no_text(write: Callable[[Any], Any]) -> None:
    with Flow("f"):
        for node in (value(), Parameter("p", default=3), value.map([1])):
            with refused(NodeValueError, "has no text while the flow is written", "a task that makes the text"):
                write(node)


def test_operators_of_arrays_and_frames_leave_nodes_to_theirs() -> None:
    with Flow("f") as flow:
        node = value(2)
        found = [
            value(np.arange(3) + node),
            value(node - np.arange(3)),
            value(np.float64(5) > node),
            value(pd.Series([1, 2]) * node),
            value(pd.DataFrame({"a": [1, 2]}) + node),
            value(pd.Series([1, 2]) > node),
        ]
    state = flow.run(keep="all")
    seen = [np.ravel(state.result[each].result).tolist() for each in found]
    assert seen == [[2, 3, 4], [2, 1, 0], [True], [2, 4], [3, 4], [False, False]]


@pytest.mark.parametrize(
    "write",
    [
        lambda x: np.array([x]),
        lambda x: np.asarray([[1, x]]),
        lambda x: np.full(3, x),
        lambda x: np.append(np.arange(2), x),
        lambda x: value(pd.DataFrame({"a": [x]})),
        lambda x: value(pd.Series([x, 1])),
        lambda x: value(pd.Series({"a": x})),
        lambda x: value(pd.DataFrame({"a": [1]}).assign(b=[x])),
    ],
)
def test_a_node_in_an_array_or_a_frame_is_refused(write: Callable[[Any], Any]) -> None:
    with Flow("f"):
        node = value()
        with pytest.raises(
            NodeValueError, match=r"cannot be in an array while the flow is written|where it would stay a node"
        ):
            write(node)


def test_a_case_with_nodes_in_it_is_refused() -> None:
    with Flow("f"):
        node, other = value(), value()
        for wanted in ([other], {"a": other}, Row(other), Box(other)):
            with refused(DefinitionError, "holds a node, not its value"), case(node, wanted):
                value()


# What functions take from around them ---------------------------------------------------------------------------------


def test_a_function_that_takes_a_node_from_around_it_is_refused() -> None:
    with Flow("f") as flow:
        node = value()

        @task
        def closed(x: int) -> Any:
            return [x, node]

        @task
        def by_default(x: int, *, y: Any = node) -> Any:
            return x, y

        @task
        def nested() -> Any:
            return [node for _ in range(2)]

        closed(1)
        by_default(1)
        nested()
        task(functools.partial(max, node), name="partial")()
    with pytest.raises(FlowValidationError) as refusal:
        flow.validate()
    lines = [line for line in str(refusal.value).split("\n") if "to get its value" in line]
    assert [re.search(r"- (\w+)", line)[1] for line in lines] == ["closed", "by_default", "nested", "partial"]  # type: ignore[index]  # they match
    assert "its function uses <Node 'value'> of the function closed(), which is a node" in lines[0]


def test_a_global_variable_that_is_a_node_is_refused() -> None:
    space: dict[str, Any] = {"task": task, "Flow": Flow}
    exec(
        "@task\ndef load():\n    return 3\n"
        "@task\ndef total():\n    return load.run() + rows\n"
        "@task\ndef inner():\n    return [x + rows for x in range(2)]\n"
        "@task\ndef own(rows):\n    return rows\n"
        "with Flow('f') as flow:\n    rows = load()\n    total()\n    inner()\n    own(rows)\n",
        space,
    )
    with pytest.raises(FlowValidationError) as refusal:
        space["flow"].run()
    assert str(refusal.value).count("its function uses the variable 'rows', which is a node") == 2


def test_an_attribute_of_a_task_that_is_a_node_is_refused() -> None:
    from anabranch import Task

    class Add(Task[Any, Any]):
        def __init__(self, to: object) -> None:
            self.to = to
            super().__init__()

        def run(self, x: int) -> Any:
            return x + self.to

    with Flow("f") as flow:
        Add(value())(1)
        Add(2)(1)
    with pytest.raises(
        FlowValidationError, match=r"Add .*uses <Node 'value'> of an attribute of <Task 'Add'>"
    ) as refusal:
        flow.validate()
    assert "a problem" in str(refusal.value)


# Deferred calls -------------------------------------------------------------------------------------------------------


def failure_of(function: Callable[[], Any]) -> str:
    """The message of a task that is run alone, and as the elements of a map."""
    with Flow("f") as flow:
        alone = task(function, name="alone")()
        several = task(lambda number: function(), name="several").map([1, 2])
    state = flow.run()
    assert state.result[alone].is_failed()
    assert [each.message for each in state.result[several].map_states] == [state.result[alone].message] * 2
    return str(state.result[alone].message)


@pytest.mark.parametrize("hide", [hide for what, hide in HIDDEN.items() if what not in ("an iterator", "a chain")])
def test_a_call_that_no_value_may_hold_fails_the_task_that_made_it(hide: Callable[[Any], Any]) -> None:
    message = failure_of(lambda: hide(double(5)))
    assert "<deferred call of 'double'> is in" in message
    assert "where it would stay a call; return it by itself" in message


@pytest.mark.parametrize("write", TEXTS.values(), ids=TEXTS)
def test_a_call_has_no_text(write: Callable[[Any], Any]) -> None:
    assert "<deferred call of 'double'> is not its value, and has no text yet" in failure_of(lambda: write(double(5)))


def raised(error: BaseException) -> None:
    """Raise it."""
    raise error


@pytest.mark.parametrize(
    "end",
    [
        lambda: raised(signals.SUCCESS("enough", result=[double(5)])),
        lambda: raised(signals.SUCCESS("enough", result=double(5))),
        lambda: raised(signals.ENDRUN(Success(result={"a": double(5)}))),
        lambda: raised(signals.SUCCESS("enough", result=Box(double(5)))),
        lambda: raised(signals.LOOP(result=Box(double(5)))),
    ],
)
def test_a_call_in_the_result_of_a_signal_fails_the_task_that_made_it(end: Callable[[], Any]) -> None:
    assert "<deferred call of 'double'> is in" in failure_of(end)


def test_a_call_in_the_result_that_a_handler_gives_fails_the_task() -> None:
    def handler(task: Any, old: Any, new: Any) -> Any:
        return Success(result=[double(5)]) if new.is_finished() else new

    with Flow("f") as flow:
        node = task(lambda: double(1) and 1, name="handled", state_handlers=[handler])()
    assert flow.run().result[node].is_failed()
