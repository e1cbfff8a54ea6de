"""What a chunk gives away: one value that cannot travel fails alone, whatever else is in its chunk."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.contracts.misbehaviour import DoesNotUnpickle

from anabranch import Flow, task

GOOD: dict[str, Callable[[], Any]] = {
    "atom": lambda: 1,
    "list": lambda: [1],
    "function that only cloudpickle takes": lambda: lambda: None,
    "module, likewise": lambda: math,
    "class, likewise": lambda: type("Own", (), {}),
    "instance, likewise": lambda: type("Own", (), {})(),
}
BAD: dict[str, Callable[[], Any]] = {"does not load": DoesNotUnpickle, "does not pickle": threading.Lock}


@given(kinds=st.lists(st.sampled_from([*GOOD, *BAD]), min_size=1, max_size=6))
@example(kinds=["list", "does not load", "function that only cloudpickle takes"])
@example(kinds=["module, likewise", "does not pickle"])
def test_what_cannot_travel_is_the_failure_of_its_element_alone(kinds: list[str]):
    with Flow("mixed") as flow:
        made = task(lambda kind: {**GOOD, **BAD}[kind](), name="make", chunksize=len(kinds)).map(kinds)
        named = task(lambda value: type(value).__name__, name="below").map(made)
    states = flow.run(keep="small").result
    for node in (made, named):  # what is below runs only with what could have been on its way to it
        assert [state.is_successful() for state in states[node].map_states] == [kind in GOOD for kind in kinds]


@pytest.mark.parametrize("kind", ["function that only cloudpickle takes", "module, likewise"])
def test_what_does_not_load_is_found_beside_what_only_cloudpickle_takes(kind: str):
    with Flow("single") as flow:
        made = task(lambda: [GOOD[kind](), DoesNotUnpickle()], name="make")()
    state = flow.run().result[made]
    assert "a result of type builtins.list cannot leave the process it was made in: RuntimeError" in state.message


def test_calls_are_dropped_that_were_deferred_with_a_value_that_cannot_travel():
    ran: list[str] = []
    once = task(ran.append, name="once")
    with Flow("calls") as flow:
        kinds = ["atom", "does not load", "list"]
        made = task(lambda kind: {**GOOD, **BAD}[kind](), name="make", chunksize=3).map(kinds)
        called = task(lambda value: once(type(value).__name__), name="below").map(made)
    state = flow.run()
    assert [each.is_successful() for each in state.result[called].map_states] == [True, False, True]
    assert "upstream make[1] failed" in state.result[called].map_states[1].message
    assert ran == ["int", "list"]
