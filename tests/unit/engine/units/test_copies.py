"""Copies of inputs: equal, apart, and none of what cannot be changed, copied or is too large."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.engine.units.copies import copied, is_immutable


class Colour(Enum):
    RED = 1


class Pair(NamedTuple):
    left: list[int]
    right: int


@dataclass
class Box:
    content: list[Any] = field(default_factory=list)

    def __call__(self) -> None: ...


class Text(str):
    notes: list[str]


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.sets(LEAVES)
        | inner.map(lambda value: Box([value]))
        | st.lists(inner).map(deque)
    ),
    max_leaves=20,
)


def changeable(value: Any) -> list[Any]:
    """All that can be changed in a value, in order."""
    match value:
        case list() | deque():
            return [value, *(each for part in value for each in changeable(part))]
        case tuple():
            return [each for part in value for each in changeable(part)]
        case dict():
            return [value, *(each for part in value.values() for each in changeable(part))]
        case set():
            return [value]
        case Box():
            return [value, *changeable(value.content)]
    return []


@given(VALUES)
def test_a_copy_is_equal_and_has_nothing_in_common_that_can_be_changed(value: Any) -> None:
    copy = copied(value)

    assert copy == value
    assert type(copy) is type(value)
    theirs = {id(each) for each in changeable(value)}
    assert not any(id(each) in theirs for each in changeable(copy))


@pytest.mark.parametrize(
    "value",
    [
        7,
        "text",
        None,
        range(9),
        (1, "a"),
        frozenset({1}),
        date(2026, 11, 20),
        datetime(2026, 11, 20, tzinfo=UTC),
        Path("x"),
        len,
        Box,
        np,
    ],
    ids=repr,
)
def test_what_cannot_be_changed_is_given_back(value: Any) -> None:
    assert is_immutable(value)
    assert copied(value) is value


@pytest.mark.parametrize("value", [Decimal("1.5"), Colour.RED, Pair([1], 2), Text("a")], ids=repr)
def test_copies_of_other_types_are_of_the_same_type(value: Any) -> None:
    copy = copied(value)

    assert copy == value
    assert type(copy) is type(value)


@pytest.mark.parametrize("value", [Counter("a"), OrderedDict(a=1), defaultdict(list, a=[1])], ids=repr)
def test_kinds_of_dicts_stay_what_they_are(value: Any) -> None:
    copy = copied(value)
    copy["b"] = [2]

    assert type(copy) is type(value)
    assert "b" not in value


def test_what_a_caller_has_made_locally_is_copied_too() -> None:
    class Local:
        def __init__(self) -> None:
            self.boxes = [[1]]
            self.key = lambda x: x
            self.kind = Local

    value = Local()

    copy = copied(value, 16_384)

    copy.boxes[0].append(2)
    assert value.boxes == [[1]]
    assert type(copy) is Local
    assert copy.key is value.key
    assert copy.kind is Local


def test_one_object_that_is_there_twice_is_so_in_the_copy() -> None:
    inner: list[int] = []

    one, other = copied([inner, inner])

    assert one is other is not inner


@pytest.mark.parametrize("value", [threading.Lock(), (n for n in [1])], ids=lambda v: type(v).__name__)
def test_what_cannot_be_copied_is_given_back(value: Any) -> None:
    assert copied(value) is value


@pytest.mark.parametrize("error", [OSError, RecursionError, SystemExit, GeneratorExit])
@pytest.mark.parametrize("where", ["pickled", "loaded"])
def test_what_raises_when_it_is_copied_is_given_back(error: type[BaseException], where: str) -> None:
    class Hostile:
        def __getstate__(self) -> dict[str, int]:
            if where == "pickled":
                raise error("no")
            return {"a": 1}

        def __setstate__(self, state: dict[str, int]) -> None:
            raise error("no")

    value = Hostile()

    assert copied(value) is value


@pytest.mark.parametrize(
    "value",
    [
        list(range(200)),
        [["x" * 60], ["y" * 60]],
        {"a": ["x" * 200]},
        np.zeros(200),
        [np.zeros(200)],
        pd.DataFrame({"a": range(200)}),
        bytearray(200),
        Box(["x" * 200]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_larger_than_the_limit_is_given_back(value: Any) -> None:
    assert copied(value, 100) is value
    assert copied(value) is not value


def test_no_more_is_pickled_than_the_limit_allows() -> None:
    pickled = []

    class Part:
        def __init__(self, number: int) -> None:
            self.number = number

        def __reduce__(self) -> Any:
            pickled.append(self.number)
            return bytes, (100_000,)

    class Large:
        def __reduce__(self) -> Any:
            return list, (), None, iter([b"x" * 100_000, Part(1)])

    value = Large()

    assert copied(value, 1000) is value
    assert pickled == []


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_keep_their_order(order: Any) -> None:
    value = np.arange(6).reshape(2, 3).copy(order)

    copy = copied(value)

    copy[0, 0] = 7
    assert value[0, 0] == 0
    assert copy.flags.f_contiguous == value.flags.f_contiguous


class Vector(tuple[Any, ...]):
    """A tuple with a constructor of its own, which the usual pickle would call with one argument."""

    def __new__(cls, *parts: Any) -> Vector:
        return super().__new__(cls, parts)


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [value], lambda value: {"a": (value,)}])
def test_a_tuple_with_a_constructor_of_its_own_is_copied_as_what_it_is(wrap: Any) -> None:
    vector = Vector([7], 2)
    vector.name = "v"

    copy = copied(wrap(vector))

    assert repr(copy) == repr(wrap(vector))
    while not isinstance(copy, Vector):
        copy = copy[0] if not isinstance(copy, dict) else copy["a"]
    assert copy[0] is not vector[0]
    assert vars(copy) == {"name": "v"}
