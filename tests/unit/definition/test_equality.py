"""Equality: what a case and a choice mean by "equal", for values of any class."""

import math
from collections import Counter, OrderedDict, namedtuple
from copy import copy
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dask import delayed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.refusals import refused

from anabranch import Flow, Parameter, Switch, case, task
from anabranch.definition.equality import equal
from anabranch.errors import ComparisonError, OptionError, ParameterError

Point = namedtuple("Point", "x y")
EMPTY = [np.array([]), np.zeros((0, 3)), pd.Series([], dtype=object), pd.DataFrame(), pa.table({"a": []})]
PLAIN = [None, "error", "", False, True, 0, 1, 1.5, [], (), {}, math.nan, pd.NaT, date(2026, 1, 1)]


@pytest.mark.parametrize("wanted", PLAIN, ids=repr)
@pytest.mark.parametrize("found", EMPTY, ids=lambda each: f"{type(each).__module__} {each.shape}")
def test_what_has_no_parts_equals_nothing_of_another_kind(found, wanted):
    assert not equal(found, wanted)
    assert not equal(wanted, found)
    assert equal(found, copy(found))


@given(arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=1, min_side=0)))
def test_an_array_equals_its_copy_and_no_plain_value(array):
    assert equal(array, array.copy())
    assert not equal(array, array[None])
    for plain in (None, "error", 0, array.tolist()):
        assert not equal(array, plain)
    if array.size:
        assert not equal(array, array.flat[0])


@given(st.recursive(st.integers() | st.floats() | st.text() | st.none(), lambda each: st.lists(each) | st.tuples(each)))
def test_plain_values_are_equal_as_python_has_it_but_for_nan(value):
    assert equal(value, value)
    assert equal([value], [value])
    assert not equal([value], [value, value])


@pytest.mark.parametrize(
    ("found", "wanted", "is_equal"),
    [
        (1, True, True),
        (np.bool_(True), True, True),
        (np.int64(3), 3, True),
        (np.array(3), 3, True),
        (np.array([3, 3]), 3, False),
        (np.array([[1, 2], [1, 2]]), np.array([1, 2]), False),
        (np.arange(2), np.arange(3), False),
        (np.array([1.0, math.nan]), np.array([1.0, math.nan]), True),
        (np.array(["a", None], dtype=object), np.array(["a", None], dtype=object), True),
        (np.arange(3), [0, 1, 2], False),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}), True),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}), False),
        (pd.Series([1, 2]), np.array([1, 2]), False),
        (pd.Index([1, 2]), pd.Index([1, 2]), True),
        (pa.table({"a": [1]}), pa.table({"a": [1]}), True),
        (pa.array([1]), pa.array([1, 2]), False),
        (pd.NA, pd.NA, True),
        (pd.NA, "x", False),
        (pd.NA, None, False),
        (np.datetime64("NaT"), np.datetime64("NaT"), True),
        (pd.Timestamp("2026-01-01"), datetime.fromisoformat("2026-01-01"), True),
        (Decimal("NaN"), Decimal("NaN"), True),
        (Decimal("0.5"), 0.5, True),
        ([np.arange(2), "a"], [np.arange(2), "a"], True),
        ([np.arange(2)], [0], False),
        ({"a": np.array([3])}, {"a": 3}, False),
        ({"a": np.array([3])}, {"a": np.array([3])}, True),
        (Point(np.arange(2), 1), Point(np.arange(2), 1), True),
        (Point(1, 2), (1, 2), True),
        ([1], (1,), False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1, "b": 2}, OrderedDict(b=2, a=1), True),
        (Counter("ab"), {"a": 1, "b": 1}, True),
        ({1, 2}, frozenset({2, 1}), True),
    ],
)
def test_values_are_equal_in_kind_shape_and_parts(found, wanted, is_equal):
    assert equal(found, wanted) is is_equal
    assert equal(wanted, found) is is_equal


class Touchy:
    def __eq__(self, other):
        raise OSError("not now")

    __hash__ = None


class Vague:
    def __eq__(self, other):
        return self

    def __bool__(self):
        raise ValueError("perhaps")

    __hash__ = None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Touchy(), "OSError: not now"),
        (Vague(), "ValueError: perhaps"),
        (delayed(3), "TypeError: Truth of Delayed objects is not supported"),
    ],
    ids=["raises", "no truth value", "not computed yet"],
)
def test_what_cannot_be_compared_is_an_error_with_the_reason_and_the_way_out(value, reason):
    with refused(ComparisonError, "cannot compare", type(value).__name__, reason, "function as the case", at=""):
        equal(value, 3)


@task
def give(value):
    return value


@task
def ran():
    return "ran"


def test_a_case_that_cannot_be_compared_fails_and_the_other_cases_of_the_value_do_not():
    with Flow("f") as flow:
        found = give(Vague())
        with case(found, 3):
            bad = ran()
        with case(found, None):
            other = ran()
    state = flow.run()
    assert state.result[bad].is_failed()
    assert state.result[other].is_skipped()
    assert "cannot compare" in state.result[bad].message


@pytest.mark.parametrize("empty", EMPTY, ids=lambda each: f"{type(each).__module__} {each.shape}")
def test_a_switch_over_what_has_no_parts_takes_the_default(empty):
    with Flow("f") as flow:
        found = give(empty)
        with Switch(found) as choice:
            with choice.case("failed"):
                first = ran()
            with choice.case(None):
                second = ran()
            with choice.default():
                third = ran()
    state = flow.run()
    assert [state.result[each].is_skipped() for each in (first, second, third)] == [True, True, False]


@pytest.mark.parametrize(
    "choice", [np.arange(3), pd.DataFrame({"a": [1]}), [np.arange(2)]], ids=["array", "frame", "list"]
)
def test_choices_may_be_values_of_any_class(choice):
    with Flow("f") as flow:
        node = give(Parameter("p", default=choice, choices=["all", choice]))
    assert equal(flow.run().result[node].result, choice)
    assert flow.run(p="all").result[node].result == "all"
    with refused(ParameterError, "expected one of 'all'", at=""):
        flow.run(p=np.array([]))
    with refused(OptionError, "is not among its choices"):
        Parameter("q", default=np.array([]), choices=["all", choice])
