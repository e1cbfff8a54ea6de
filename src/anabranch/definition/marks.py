"""Marks on arguments of a call: ``unmapped``, ``mapped``, ``flatten``; and what can be mapped over.

A mark only wraps a value. What it means is decided where arguments are bound, in `arguments`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anabranch.base.names import short
from anabranch.base.texts import headline_of
from anabranch.definition.expressions import StandIn


class Mark(StandIn):  # type: ignore[misc]  # for a type checker it stands for the value that it wraps
    """Base of the marks."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value: object = value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({short(self.value)})"


class unmapped(Mark):
    """Marks an argument of a map of which every element gets the whole.

    Examples
    --------
    >>> unmapped([1, 2])
    unmapped([1, 2])
    """

    __slots__ = ()


class mapped(Mark):
    """Marks an argument of a call to map over: ``t(mapped(xs), y)`` is ``t.map(xs, unmapped(y))``."""

    __slots__ = ()


class flatten(Mark):
    """Marks a nested argument to flatten by one level: to map over the elements of its elements.

    Elements of sequences, arrays and columns are taken. A text, mapping, set or frame counts as one element, as does
    what failed or was skipped, which keeps its state.
    """

    __slots__ = ()


def flat(elements: Iterable[Any]) -> list[Any]:
    """One level of nesting less, as `flatten` has it.

    Examples
    --------
    >>> flat([[1, 2], (3,), "text", {"a": 4}])
    [1, 2, 3, 'text', {'a': 4}]
    """
    result: list[Any] = []
    for element in elements:
        if has_parts(element):
            result.extend(element)
        else:
            result.append(element)
    return result


def has_parts(value: Any) -> bool:
    """Whether `flatten` takes a value apart: a sequence, an array or a column."""
    if isinstance(value, Sequence):
        return not isinstance(value, (str, bytes, bytearray))
    is_array = isinstance(getattr(value, "shape", None), tuple) and bool(value.shape)  # () is that of a number
    return is_array and hasattr(value, "__getitem__") and not hasattr(value, "columns")


def unmappable(value: object) -> str:
    """Why a value cannot be mapped over, and what to do; empty if it can.

    Examples
    --------
    >>> unmappable({"a": 1})
    'a dict: use .items(), .keys() or .values() in a list'
    >>> unmappable([1, 2])
    ''
    """
    kind = type(value).__name__
    if isinstance(value, (str, bytes, bytearray)):
        return f"a {kind}: that would be one run per character; wrap it in a list"
    if isinstance(value, Mapping):
        return f"a {kind}: use .items(), .keys() or .values() in a list"
    if isinstance(value, (set, frozenset)):
        return f"a {kind}: its order is not stable; use sorted(…)"
    if kind == "DataFrame":
        return "a DataFrame: say what its elements are, such as list(frame.itertuples())"
    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")) or isinstance(value, type):
        if isinstance(value, Iterable) and not isinstance(value, type):
            return f"a {kind} while the flow is written: make it a list"
        return f"{short(value)} of type {kind}: it has no elements; unmapped(…) gives it whole to each element"
    try:
        width = len(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's class may do anything here
        return f"a {kind} whose len() fails with {headline_of(error)}"
    return "" if width >= 0 else f"a {kind} whose len() is {width}"
