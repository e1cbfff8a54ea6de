"""Values of parameters: whether they fit, what becomes of them, and what may be shown of them."""

from __future__ import annotations

import json
import types
import typing
from collections import abc, deque
from collections.abc import Collection, Iterator, Mapping, Set
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

from anabranch.base.masking import SECRET_NAME
from anabranch.base.names import short
from anabranch.definition.dask_objects import holds_dask
from anabranch.definition.equality import equal

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from anabranch.definition.parameter import Parameter

MAX_BITS = 14_000  # of an int: CPython refuses to show one of more than 4,300 digits
MAX_NBYTES = 64 << 20  # every task would carry it; what is larger belongs into a file or a task
_PLAIN = (bool, int, float, str, bytes)
_READ_ONCE = (abc.Iterable, abc.Iterator, abc.Generator)
_COLLECTIONS = (list, tuple, set, frozenset, deque)


class UncheckedType(ValueError):
    """Whether a value is of a type cannot be told."""


def validated(parameter: Parameter, value: Any) -> Any:
    """A value as the parameter's type has it.

    Raises
    ------
    ValueError
        The value does not fit; the message says what was expected and found.
    """
    _check_size(value)
    if holds_dask(value):
        raise ValueError(f"{short(value)} is Dask's, and no plain value; compute it, or pass it to a task in the flow")
    if value is None and parameter.type is None and parameter.required:
        raise ValueError("a value is required, found None; give the parameter default=None if None is a value")
    if parameter.type is not None:
        value = converted(parameter, value)
    if parameter.choices is not None and not any(equal(value, each) for each in parameter.choices):
        raise ValueError(f"expected one of {', '.join(map(repr, parameter.choices))}, found {_found(parameter, value)}")
    return value


def _check_size(value: Any) -> None:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError(f"an int of {value.bit_length():,} bits is too large")
    nbytes = len(value) if isinstance(value, (str, bytes, bytearray)) else getattr(value, "nbytes", 0)
    if isinstance(nbytes, int) and nbytes > MAX_NBYTES:
        raise ValueError(f"{nbytes / (1 << 20):,.0f} MiB are more than the {MAX_NBYTES >> 20} that fit; pass a path")


def _unchecked(annotation: object, error: Exception) -> ValueError:
    return UncheckedType(f"its type {annotation!r} cannot be checked: {str(error).splitlines()[0]}")


def converted(parameter: Parameter, value: Any) -> Any:
    """What a parameter's type makes of a value.

    Raises
    ------
    UncheckedType
        The type cannot be used to check values, or not yet.
    ValueError
        The value is not of that type.
    """
    if parameter.type in _PLAIN and type(value) is parameter.type:
        return value
    from pydantic import PydanticUndefinedAnnotation, PydanticUserError, ValidationError
    from pydantic_core import SchemaError

    value = list(value) if isinstance(value, Iterator) else value
    try:
        read, result = _read(_adapter(parameter.type), value)
    except (PydanticUndefinedAnnotation, PydanticUserError, SchemaError) as error:
        raise _unchecked(parameter.type, error) from None
    except ValidationError as error:
        reasons = "; ".join(
            (".".join(map(str, each["loc"])) + ": " if each["loc"] else "") + each["msg"] for each in error.errors()
        )
        raise ValueError(_misfit(parameter, value, reasons)) from None
    for before, after in _pairs(read, result):
        if _is_guess(before, after):
            raise ValueError(
                _misfit(parameter, value, f"{type(before).__name__} is not taken for {type(after).__name__}")
            )
        if isinstance(after, datetime) and after.tzinfo is None:
            found = _found(parameter, value)
            raise ValueError(f"expected a time with its zone, such as {after.isoformat()}Z, found {found}")
    return result


def written(parameter: Parameter, value: Any) -> Any:
    """A value as JSON has it, if the parameter's type makes an equal value of that again; else the value."""
    if parameter.type is None:
        return value
    from pydantic_core import PydanticSerializationError

    try:
        meant = converted(parameter, value)
        found = _adapter(parameter.type).dump_python(meant, mode="json", warnings="error")
        return found if equal(converted(parameter, found), meant) else value
    except (ValueError, PydanticSerializationError):  # it does not fit, or its type has no form in JSON
        return value


def _misfit(parameter: Parameter, value: Any, reason: str) -> str:
    return f"expected {shown_type(parameter.type)}, found {_found(parameter, value)}: {reason}"


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    annotation = _with_lists(annotation)
    try:
        return TypeAdapter(annotation)
    except PydanticUserError as error:
        try:  # it may name a class that pydantic knows nothing of
            return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        except PydanticUserError:
            raise error from None


def _with_lists(annotation: Any) -> Any:
    """The type with lists in place of what can be read only once, as pydantic would leave that unread."""
    origin, arguments = typing.get_origin(annotation), tuple(map(_with_lists, typing.get_args(annotation)))
    if annotation in _READ_ONCE or origin in _READ_ONCE:
        return list[arguments[0]] if arguments else list  # type: ignore[valid-type]  # a type that is a value
    if arguments == typing.get_args(annotation):
        return annotation
    if origin in (typing.Union, types.UnionType):
        return typing.Union[arguments]  # noqa: UP007  # of values
    return Annotated[arguments] if origin is Annotated else origin[arguments]


def _read(adapter: TypeAdapter[Any], value: Any) -> tuple[Any, Any]:
    """A value and what the type makes of it; of a text: itself, its usual spelling, or JSON."""
    from pydantic import ValidationError

    if not isinstance(value, str):
        return value, adapter.validate_python(value)
    first: ValidationError | None = None
    try:
        return value, adapter.validate_strings(value)
    except ValidationError as error:
        first = error
    try:
        result = adapter.validate_json(value)
        return json.loads(value), result
    except (ValidationError, ValueError):  # whatever is JSON for pydantic alone
        pass
    try:
        return value, adapter.validate_python(value)
    except ValidationError:
        raise first from None


def _pairs(value: Any, result: Any) -> Iterator[tuple[Any, Any]]:
    """Values and what has become of them, also within collections."""
    if isinstance(value, Mapping) and isinstance(result, Mapping) and len(value) == len(result):
        value, result = list(value.items()), list(result.items())
    elif isinstance(value, Set) or isinstance(result, Set):  # they have an order each, and True is 1 in both
        value, result = (
            sorted(each, key=_is_number) if isinstance(each, Collection) else each for each in (value, result)
        )
    if isinstance(value, Collection) and isinstance(result, _COLLECTIONS) and not isinstance(value, (str, bytes)):
        for before, after in zip(value, result, strict=False):
            yield from _pairs(before, after)
    else:
        yield value, result


def _is_guess(value: Any, result: Any) -> bool:
    """Whether a number was made of a bool, or a bool of a number: pydantic takes True for 1, and 1 for True."""
    if not _is_bool(value):
        return isinstance(value, (int, float)) and isinstance(result, bool)
    if isinstance(result, Enum):
        return not any(value is each.value for each in type(result))
    return isinstance(result, (int, float, complex)) and not isinstance(result, bool)


def _is_number(value: Any) -> bool:
    return not _is_bool(value)


def _is_bool(value: Any) -> bool:
    cls = type(value)
    return cls is bool or (cls.__module__ == "numpy" and cls.__name__ in ("bool", "bool_"))


def _found(parameter: Parameter, value: Any) -> str:
    kind = f"of type {type(value).__name__}"
    return f"a value {kind} (not shown)" if is_secret(parameter) else f"{short(value, 80)} {kind}"


def is_secret(parameter: Parameter) -> bool:
    """Whether its values are shown to nobody: it is marked as secret, or its name says that it is."""
    return bool(getattr(parameter, "secret", False) or SECRET_NAME.search(parameter.name))


def shown_type(annotation: Any) -> str:
    """A type as it is written: ``int``, ``list[str]``.

    Examples
    --------
    >>> shown_type(int), shown_type(list[str])
    ('int', 'list[str]')
    """
    is_plain = isinstance(annotation, type) and not hasattr(annotation, "__args__")
    return annotation.__name__ if is_plain else str(annotation)
