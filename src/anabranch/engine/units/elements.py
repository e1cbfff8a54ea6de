"""Elements of what is mapped over: how many there are, and some of them, whatever the user's own sequences do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from anabranch.base.errors import UnmappableError
from anabranch.base.states import Failure
from anabranch.base.texts import headline_of
from anabranch.engine.units.failures import describe, restore
from anabranch.engine.units.indices import Indices, cut

Reraise: TypeAlias = Callable[[BaseException], None]
"""Raises what a user's code has raised if it is no affair of an element."""


def _nothing(error: BaseException) -> None:
    pass


class Unread:
    """Stands in a list for an element that could not be read; it travels as a description of the error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (describe(self.error),)


def _restored(failure: Failure) -> Unread:
    return Unread(restore(failure))


class Elements(Sequence[Any]):
    """A sequence of the user's, for those who must not run the user's code: elements that raise are `Unread`.

    If it raises when it is asked for its width, that error is its one element.
    """

    def __init__(self, values: Any) -> None:
        try:
            self._values, self._width = _by_position(values), width_of(values)
        except BaseException as error:
            self._values, self._width = [Unread(error)], 1

    def __len__(self) -> int:
        return self._width

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._width:
            raise IndexError(index)
        return _read_one(self._values, index, _nothing)


def width_of(value: Any, reraise: Reraise = _nothing) -> int:
    """Number of elements of something to map over.

    Raises
    ------
    UnmappableError
        It has no elements in order, or raises when it is asked; the message names the cure or the error.
    """
    kind = type(value).__name__
    width = 0
    try:
        reason = _reason_against(value, kind)
        if not reason:
            width = len(value)
    except BaseException as error:
        reraise(error)
        reason = f"a {kind}: len() failed with {headline_of(error)}"
    if reason:
        raise UnmappableError(f"cannot map over {reason}")
    return width


def _reason_against(value: Any, kind: str) -> str:
    if value is None:
        return "None: the upstream task returned nothing"
    if isinstance(value, (str, bytes, bytearray)):
        return f"a {kind}: that would be one run per character; wrap it in a list"
    if isinstance(value, Mapping):
        return f"a {kind}: return list(value.items()) instead"
    if isinstance(value, (set, frozenset)):
        return f"a {kind}: its order is not stable; return sorted(value) instead"
    if kind == "DataFrame":
        return "a DataFrame: return its elements, such as list(frame.itertuples())"
    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        cure = "; return a list" if isinstance(value, Iterable) else ""
        return f"a {kind}: it has no elements in order{cure}"
    return ""


def read(values: Any, indices: Indices, reraise: Reraise = _nothing) -> Sequence[Any]:
    """The elements at some indices of what is mapped over; `Unread` for those that raise.

    Examples
    --------
    >>> read(range(10), range(2, 5))
    range(2, 5)
    >>> read("abcd", (0, 3))
    ['a', 'd']
    """
    if type(values) in (list, tuple, range):
        return cut(values, indices)
    try:
        values = _by_position(values)
    except BaseException as error:
        reraise(error)
        return [Unread(error)] * len(indices)
    return [_read_one(values, index, reraise) for index in indices]


def _by_position(values: Any) -> Any:
    return values.iloc if hasattr(values, "iloc") else values  # a pandas Series: [] looks up labels


def _read_one(values: Any, index: int, reraise: Reraise) -> Any:
    try:
        return values[index]
    except BaseException as error:
        reraise(error)
        return Unread(error)
