"""Whether two values of users are the same: what cases and choices mean by "equal"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anabranch.base.errors import ComparisonError
from anabranch.base.names import short


def equal(found: Any, wanted: Any) -> bool:
    """Whether two values are equal: None only to itself, arrays and frames in type, shape and all parts.

    Missing values (NaN, NaT, NA) equal themselves, also as parts. Lists, tuples and dicts are compared part by part.

    Raises
    ------
    ComparisonError
        They cannot be compared.

    Examples
    --------
    >>> equal(3, 3.0), equal([], None)
    (True, False)
    """
    try:
        return _equal(found, wanted)
    except Exception as error:  # a user's class may do anything here
        raise ComparisonError(
            f"cannot compare {short(found)} of type {type(found).__name__} with {short(wanted)}: "
            f"{type(error).__name__}: {error}; write a function as the case, such as lambda value: …"
        ) from error


def _equal(found: Any, wanted: Any) -> bool:
    if found is wanted:
        return True
    if found is None or wanted is None:
        return False
    if _compares_as(list, found, wanted) or _compares_as(tuple, found, wanted):
        return len(found) == len(wanted) and all(map(_equal, found, wanted))
    if _compares_as(dict, found, wanted):
        return found.keys() == wanted.keys() and all(_equal(value, wanted[key]) for key, value in found.items())
    if _shape(found) or _shape(wanted):  # () is that of a number
        return _are_of_one_type(found, wanted) and found.shape == wanted.shape and _all_equal(found, wanted)
    answer = found == wanted
    if isinstance(answer, bool):
        return answer or (found != found and wanted != wanted)  # both are NaN
    if hasattr(type(found), "equals"):
        return _are_of_one_type(found, wanted) and bool(found.equals(wanted))
    try:
        return bool(answer) or bool(found != found and wanted != wanted)
    except TypeError:
        if answer is found or answer is wanted:  # as pandas.NA gives itself for "unknown"
            return False
        raise


def _compares_as(kind: type[Any], found: object, wanted: object) -> bool:
    return all(isinstance(each, kind) and type(each).__eq__ == kind.__eq__ for each in (found, wanted))


def _shape(value: object) -> tuple[Any, ...]:
    shape = getattr(value, "shape", ())
    return shape if isinstance(shape, tuple) else ()


def _are_of_one_type(found: object, wanted: object) -> bool:
    return isinstance(found, type(wanted)) or isinstance(wanted, type(found))


def _all_equal(found: Any, wanted: Any) -> bool:
    """Whether arrays or frames of one shape have the same parts."""
    equals: Callable[[Any], Any] | None = getattr(found, "equals", None)
    if callable(equals):
        return bool(equals(wanted))
    same = found == wanted
    if isinstance(same, bool):
        return same
    return bool((same | ((found != found) & (wanted != wanted))).all())
