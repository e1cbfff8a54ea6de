"""Fingerprints of values: equal ones are the same in each process, others differ, and what cannot be told is said."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import io
import os
import pickle
import subprocess
import sys
import tracemalloc
from array import array
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch import Flow, Parameter, task, unmapped
from anabranch.definition.fingerprints import changes, describe_code, describe_value, fingerprints, unknown_changes


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0

    def distance(self) -> Any:
        return self.x + self.y


Pair = namedtuple("Pair", "x y")


class Words(set[str]):
    pass


def ring(n: int) -> list[Any]:
    held: list[Any] = [n]
    held.append(held)
    return held


# Each of these is made anew, and differs from the others.
VALUES = {
    "numbers": lambda: [None, True, 1, 1.0, 1j, -0.0, 0.0, float("nan"), 10**5000],
    "texts": lambda: ["", "a", "\ud800", b"", b"a", bytearray(b"a"), "a" * 100, b"a" * 100],
    "rows": lambda: [[], (), [1], (1,), [1, 2], [1.0, 2.0], [True], ["a", "b"], ["ab", ""], [1, "a"], [[1], 2]],
    "dicts": lambda: [{}, {"a": 1}, {"a": True}, {1: "a"}, {"a": [1]}, {"a": {"b": 2}}, {(1,): {2, 3}}],
    "sets": lambda: [set(), {1, 2}, {"a", "b", "c"}, {("a", 1), ("b", 2)}, {frozenset({"a", "b"})}, Words({"a", "b"})],
    "collections": lambda: [
        Counter("aab"),
        deque([1, 2]),
        deque([1, 2], 3),
        OrderedDict(a=1, b=2),
        OrderedDict(b=2, a=1),
        defaultdict(list, a=[1]),
        Pair(1, 2),
        array("d", [1.0]),
        range(3),
        slice(1, 2),
    ],
    "times": lambda: [
        date(2026, 1, 2),
        datetime.fromisoformat("2026-01-02"),
        datetime(2026, 1, 2, tzinfo=UTC),
        timedelta(1),
    ],
    "errors": lambda: [
        ValueError(1),
        ValueError("1"),
        KeyError(1),
        OSError(2, "a", "b"),
        ExceptionGroup("a", [KeyError()]),
    ],
    "buffers": lambda: [io.BytesIO(b"a"), io.BytesIO(b"b"), io.StringIO("a"), io.StringIO("b")],
    "exact": lambda: [Decimal("1.0"), Decimal("1.00"), Fraction(1, 2), Path("a"), Path("b")],
    "objects": lambda: [Point(1), Point(2), Point({"a", "b"}), Color.RED, Color.BLUE, ring(1), ring(2), [ring(1)]],
    "classes": lambda: [Point, Color, int, Pair, np.ndarray],
    "functions": lambda: [len, ring, functools.partial(ring, 1), Point(1).distance, Point(2).distance, "".join, np.sin],
    "arrays": lambda: [
        np.arange(6),
        np.arange(6).reshape(2, 3),
        np.arange(6).reshape(2, 3).T,
        np.arange(6.0),
        np.array(["a", None], dtype=object),
        np.array([], dtype="int8"),
        np.float64(1),
        np.array(1),
        np.zeros(3, dtype=[("a", "i4"), ("b", "f8")]),
        np.datetime64("2026-01-02"),
        np.ma.masked_array([1, 2], [True, False]),
    ],
    "frames": lambda: [
        pd.DataFrame({"a": [1, 2]}),
        pd.DataFrame({"a": [1, 3]}),
        pd.DataFrame({"b": [1, 2]}),
        pd.DataFrame({"a": ["x", None]}),
        pd.Series([1, 2]),
        pd.Series([1, 2], name="a"),
        pd.Series(["a", "b"], dtype="category"),
        pd.Timestamp("2026-01-02"),
        pd.Index([1, 2]),
    ],
}


def texts(name: str) -> list[str]:
    found = [describe_value(value) for value in VALUES[name]()]
    assert not [each.gap for each in found if each.gap]
    return [each.text for each in found]


@pytest.mark.parametrize("name", VALUES)
def test_values_have_the_fingerprint_of_their_copies_and_of_no_other(name: str):
    found = texts(name)

    assert found == texts(name)
    assert found == [describe_value(copy.deepcopy(value)).text for value in VALUES[name]()]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_was_looked_at_is_still_the_same(name: str):
    looked_at = VALUES[name]()
    for each in looked_at:
        getattr(each, "__dict__", None)  # some types make it only now

    assert [describe_value(each).text for each in looked_at] == texts(name)


@pytest.mark.parametrize("seed", ["0", "1"])
def test_another_process_finds_the_same(seed: str):
    code = "from tests.unit.definition.test_fingerprints import *; print([texts(name) for name in VALUES])"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == str([texts(name) for name in VALUES])


atoms = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
keys = st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())
values = st.recursive(
    atoms | st.frozensets(keys),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner) | st.builds(Point, inner),
    max_leaves=20,
)


def spelled(value: Any) -> Any:
    """What decides over a fingerprint, as a value that compares so."""
    if isinstance(value, dict):
        return "dict", frozenset((spelled(key), spelled(each)) for key, each in value.items())
    if isinstance(value, frozenset):
        return "set", frozenset(map(spelled, value))
    if isinstance(value, (list, tuple)):
        return type(value).__name__, tuple(map(spelled, value))
    if isinstance(value, Point):
        return "point", spelled(value.x)
    return type(value).__name__, repr(value)


@given(values, values)
def test_two_values_have_the_same_fingerprint_if_they_are_the_same(one: Any, other: Any):
    is_same = spelled(one) == spelled(other)
    assert (describe_value(one) == describe_value(other)) == is_same


@given(values, st.randoms())
def test_copies_and_other_orders_have_the_same_fingerprint(value: Any, random: Any):
    def shuffled(each: Any) -> Any:
        if isinstance(each, dict):
            pairs = list(each.items())
            random.shuffle(pairs)
            return {key: shuffled(inner) for key, inner in pairs}
        if isinstance(each, (list, tuple)):
            return type(each)(map(shuffled, each))
        return Point(shuffled(each.x)) if isinstance(each, Point) else each

    found = describe_value(value)
    assert found == describe_value(pickle.loads(pickle.dumps(value))) == describe_value(shuffled(value))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=6), st.integers(0, 5), st.data())
def test_each_value_in_a_ring_counts(numbers: list[int], place: int, data: st.DataObject):
    def made(numbers: list[int], target: int) -> list[Any]:
        held: list[list[Any]] = [[number] for number in numbers]
        for here, there in zip(held, [*held[1:], held[target]], strict=True):
            here.append(there)
        return held[0]

    place %= len(numbers)
    found = describe_value(made(numbers, place))
    assert found == describe_value(made(numbers, place))
    changed = list(numbers)
    changed[data.draw(st.integers(0, len(numbers) - 1))] += 10
    assert found != describe_value(made(changed, place))


def test_what_was_asked_for_before_makes_no_difference():
    def one(n: int) -> Any:
        return other(n - 1)

    def other(n: int) -> Any:
        return one(n) if n else ring(n)

    def flow(functions: Any) -> dict[str, str]:
        with Flow("f") as made:
            for function in functions:
                task(function)(1)
        return fingerprints(made.graph.freeze())

    assert flow([one, other]) == flow([other, one])


def test_bytes_are_read_once_and_not_copied():
    large = bytes(20_000_000), bytearray(20_000_000), np.zeros(2_500_000), memoryview(bytes(20_000_000))
    for value in (*large, Point(large[0]), pd.Series(large[2])):
        describe_value([value])
        tracemalloc.start()
        describe_value([value])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000, type(value)


# What cannot be told --------------------------------------------------------------------------------------------------


class Hostile:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce_ex__(self, protocol: object) -> Any:
        raise self.error


class Looking:
    def __getattribute__(self, name: str) -> Any:
        raise ValueError(name)


class Reducing:
    def __reduce__(self) -> Any:
        return 7


def lines() -> Iterator[int]:
    yield 1


STRANGE = {
    "an object that holds nothing": object,
    "a generator": lines,
    "an open file": lambda: sys.__stdout__,
    "an error of the user's": lambda: Hostile(ValueError("no")),
    "an exit": lambda: Hostile(SystemExit(3)),
    "one that cannot be looked at": Looking,
    "one that reduces to nonsense": Reducing,
    "a frame": sys._getframe,
}


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize(
    "hold", [lambda x: x, lambda x: [x], lambda x: {"a": (x,)}, Point, lambda x: [ring(1), Point(x)]]
)
def test_what_has_no_fingerprint_leaves_a_gap_that_names_it(make: Any, hold: Any):
    value = make()
    kind = type(value)
    assert f"a {kind.__module__}.{kind.__qualname__} (" in describe_value(hold(value)).gap


def test_a_gap_says_where_code_holds_what_cannot_be_told():
    held = sys.__stdout__

    class Reader:
        file = held

        def read(self) -> str:
            return self.file.read()

    def by_closure() -> Any:
        return held

    def by_default(file: Any = held) -> Any:
        return file

    def by_class() -> str:
        return Reader().read()

    assert describe_code(by_closure).gap.startswith("'held' of ")
    assert describe_code(by_default).gap.startswith("a default of ")
    assert describe_code(by_class).gap.startswith("'file' of ")
    assert describe_code(functools.partial(by_default, held)).gap


def test_marks_that_a_name_stands_for_leave_no_gap():
    missing = object()

    def by_default(x: Any = missing) -> bool:
        return x is missing

    assert not describe_code(by_default).gap


# Nodes of flows -------------------------------------------------------------------------------------------------------


def flow_of(*, y: Any = 1, mapped: bool = False, key: str = "a", is_late: bool = False) -> Flow:
    @task
    def first(n: int) -> Any:
        return {"a": [n], "b": [n]}

    @task
    def second(x: Any, y: Any) -> Any:
        return x, y

    with Flow("f") as flow:
        made = first(Parameter("n", 1))
        after = [made] if is_late else []
        (second.map if mapped else second)(made[key], unmapped(y), upstream_tasks=after)
    return flow


@pytest.mark.parametrize(
    "change", [{"y": 2}, {"y": [1]}, {"y": b"1"}, {"y": bytes(1000)}, {"mapped": True}, {"key": "b"}, {"is_late": True}]
)
def test_a_node_is_known_by_its_constants_and_its_place(change: dict[str, Any]):
    before, same, after = (fingerprints(flow_of(**each).graph.freeze()) for each in ({}, {}, change))

    assert changes(before, same) == unknown_changes(before, same) == []
    assert changes(before, after) == ["second"]
    assert changes({slug: f"2.7-{text}" for slug, text in before.items()}, after) == []


def test_a_node_that_may_be_another_is_told_apart():
    before, same, after = (fingerprints(flow_of(y=y).graph.freeze()) for y in (object(), object(), [object()]))

    assert changes(before, same) == []
    assert unknown_changes(before, same) == ["second"]
    assert changes(before, after) == ["second"]
    assert unknown_changes(before, after) == []
