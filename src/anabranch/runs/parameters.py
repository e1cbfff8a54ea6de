"""A run's parameters: every value checked, every problem told at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from anabranch.base.errors import ParameterError, listed, nearest
from anabranch.base.names import short
from anabranch.definition.equality import equal
from anabranch.definition.parameter import Parameter
from anabranch.engine.units.copies import copied

MAX_BITS = 14_000  # of an int: CPython refuses to show one of more than 4,300 digits
MAX_NBYTES = 64 << 20  # every task would carry it; what is larger belongs into a file or a task
SECRET_NAME = re.compile(r"pass(word|wd|phrase)|secret|token|credential|api_?key|private_?key", re.IGNORECASE)


def resolve_parameters(flow_name: str, parameters: Iterable[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all parameters by name: those given, validated, and the defaults. Mutable ones are copies.

    Raises
    ------
    ParameterError
        Unknown, missing and wrong values, all of them.
    """
    known = {parameter.name: parameter for parameter in parameters}
    unknown = [name for name in given if name not in known]
    problems = [f"there is no parameter {name!r}{nearest(str(name), known)}" for name in unknown]
    values: dict[str, Any] = {}
    for name, parameter in known.items():
        if name not in given and parameter.required:
            problems.append(f"{name}: a value is required")
            continue
        value = given.get(name, parameter.default_value)
        is_left_out = name not in given and value is None  # the usual way to say that there is no default to speak of
        try:
            values[name] = None if is_left_out else copied(validated(parameter, value))
        except ValueError as error:
            problems.append(f"{name}: {'' if name in given else 'its default: '}{error}")
    if problems:
        raise ParameterError(f"the parameters do not fit flow {flow_name!r}; it has: {listed(known)}", problems)
    return values


def validated(parameter: Parameter, value: Any) -> Any:
    """A value as the parameter's type has it.

    Raises
    ------
    ValueError
        The value does not fit; the message says what was expected and found.
    """
    _check_size(value)
    if value is None and parameter.type is None and parameter.required:
        raise ValueError("a value is required, found None; give the parameter default=None if None is a value")
    if parameter.type is not None:
        value = _converted(parameter, value)
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
    return ValueError(f"its type {annotation!r} cannot be checked: {str(error).splitlines()[0]}")


def _converted(parameter: Parameter, value: Any) -> Any:
    from pydantic import PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError

    annotation = parameter.type
    try:
        adapter = TypeAdapter(annotation)
    except PydanticUndefinedAnnotation as error:  # as old versions have it; new ones say so when they validate
        raise _unchecked(annotation, error) from None
    except PydanticUserError:  # a class that pydantic knows nothing of
        if isinstance(annotation, type) and not isinstance(value, annotation):
            raise ValueError(f"expected {annotation.__name__}, found {_found(parameter, value)}") from None
        return value
    try:
        result = _from_text(adapter, value) if isinstance(value, str) else adapter.validate_python(value)
    except PydanticUserError as error:
        raise _unchecked(annotation, error) from None
    except ValidationError as error:
        reasons = "; ".join(
            (".".join(map(str, each["loc"])) + ": " if each["loc"] else "") + each["msg"] for each in error.errors()
        )
        raise ValueError(f"expected {shown_type(annotation)}, found {_found(parameter, value)}: {reasons}") from None
    if isinstance(value, (bool, int)) and isinstance(result, (bool, int)) and type(value) is not type(result):
        # pydantic takes True for 1 and 1 for True; a value is never guessed here
        raise ValueError(f"expected {shown_type(annotation)}, found {_found(parameter, value)}")
    if isinstance(result, datetime) and result.tzinfo is None:
        raise ValueError(
            f"expected a time with its zone, such as {result.isoformat()}Z, found {_found(parameter, value)}"
        )
    return result


def _from_text(adapter: Any, value: str) -> Any:
    """A string as the type has it: itself, its usual spelling, or JSON."""
    from pydantic import ValidationError

    first: ValidationError | None = None
    for read in (adapter.validate_strings, adapter.validate_json):
        try:
            return read(value)
        except ValidationError as error:
            first = first or error
    try:
        return adapter.validate_python(value)
    except ValidationError:
        assert first is not None
        raise first from None


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
