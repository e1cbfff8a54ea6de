"""Elements of sequences of the user's, which may raise whatever they like when they are asked."""

from __future__ import annotations

import pickle
import re
from collections import deque
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.base.texts import headline_of
from anabranch.engine.units.elements import Elements, Unread, read, width_of
from anabranch.errors import UnmappableError


class Images:
    """Six images, some of which cannot be read."""

    def __init__(self, errors: dict[int, BaseException]) -> None:
        self.errors = errors

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        if index in self.errors:
            raise self.errors[index]
        return index * 10


ERRORS = st.sampled_from([OSError("x"), IndexError(), StopIteration(), SystemExit(3), KeyboardInterrupt()])


@given(st.dictionaries(st.integers(0, 5), ERRORS), st.lists(st.integers(0, 5), unique=True).map(sorted).map(tuple))
def test_what_cannot_be_read_stands_in_the_place_of_its_element(
    errors: dict[int, BaseException], indices: tuple[int, ...]
) -> None:
    images = Images(errors)
    for found in (read(images, indices), [Elements(images)[index] for index in indices]):
        for index, element in zip(indices, found, strict=True):
            if index in errors:
                assert element.error is errors[index]
            else:
                assert element == index * 10


@pytest.mark.parametrize(
    "values",
    [[1, 2, 3], (1, 2, 3), range(1, 4), deque([1, 2, 3]), np.array([1, 2, 3]), pd.Series([1, 2, 3], index=[7, 8, 9])],
    ids=lambda values: type(values).__name__,
)
def test_whatever_has_elements_in_order_is_read_by_position(values: Any) -> None:
    assert width_of(values) == len(Elements(values)) == 3
    assert list(read(values, range(1, 3))) == list(read(values, (1, 2))) == [2, 3]
    assert list(Elements(values)) == [1, 2, 3]


def test_an_error_travels_with_its_type_its_text_and_its_place() -> None:
    (unread,) = read(Images({3: OSError("image 3 is truncated")}), (3,))

    error = pickle.loads(pickle.dumps(unread)).error

    assert isinstance(error, OSError)
    assert str(error) == "image 3 is truncated"
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    assert trace.tb_frame.f_code.co_filename == __file__


def test_an_error_that_cannot_be_pickled_travels_as_its_text() -> None:
    class Local(Exception):
        def __reduce__(self) -> Any:
            raise SystemExit(1)

    unread = pickle.loads(pickle.dumps(Unread(Local("no"))))

    assert "Local: no" in str(unread.error)


class Odd(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


@pytest.mark.parametrize("method", ["__len__", "__getattr__"])
@pytest.mark.parametrize("error", [OSError("x"), SystemExit(3), KeyboardInterrupt(), Odd()], ids=repr)
def test_a_width_that_cannot_be_told_is_an_error_of_ours_that_names_the_users(
    method: str, error: BaseException
) -> None:
    def hostile(*args: Any) -> Any:
        raise error

    values = type("Hostile", (), {method: hostile, **({"__getitem__": hostile} if method == "__len__" else {})})()

    text = f"cannot map over a Hostile: len() failed with {headline_of(error)}"
    with pytest.raises(UnmappableError, match=re.escape(text)):
        width_of(values)
    (element,) = Elements(values)
    assert type(element) is Unread


def test_who_asks_may_want_an_interrupt_for_itself() -> None:
    def reraise(error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            raise error

    with pytest.raises(KeyboardInterrupt):
        read(Images({1: KeyboardInterrupt()}), range(6), reraise)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (None, "the upstream task returned nothing"),
        ("text", "one run per character"),
        ({"a": 1}, r"return list\(value.items\(\)\)"),
        ({1}, "its order is not stable"),
        (pd.DataFrame({"a": [1]}), "itertuples"),
        (7, "it has no elements in order$"),
        (iter([1]), "return a list"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_elements_is_refused_with_the_cure(values: Any, reason: str) -> None:
    with pytest.raises(UnmappableError, match=reason):
        width_of(values)
