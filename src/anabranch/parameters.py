"""A run's parameters: every value checked, every problem told at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from anabranch.engine.values import copied
from anabranch.errors import ParameterError, listed, nearest
from anabranch.task import Parameter

MAX_DIGITS = 10_000  # an int with more cannot even be shown (CPython limits int → str)


def resolve_parameters(
    flow_name: str, parameters: Iterable[Parameter], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Values of all parameters by name: those given, validated, and copies of the defaults.

    Raises
    ------
    ParameterError
        Unknown, missing and wrong values, all of them.
    """
    known = {parameter.name: parameter for parameter in parameters}
    problems = [
        f"there is no parameter {name!r}{nearest(str(name), known)}" for name in given if name not in known
    ]
    values: dict[str, Any] = {}
    for name, parameter in known.items():
        if name in given:
            try:
                values[name] = validated(parameter, given[name])
            except ValueError as error:
                problems.append(f"{name}: {error}")
        elif parameter.required:
            problems.append(f"{name}: a value is required")
        else:
            values[name] = copied(parameter.default)
    if problems:
        raise ParameterError(
            f"the parameters do not fit flow {flow_name!r}; it has: {listed(known)}", problems
        )
    return values


def validated(parameter: Parameter, value: Any) -> Any:
    """A value as the parameter's type has it.

    Raises
    ------
    ValueError
        The value does not fit; the message says what was expected and found.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > MAX_DIGITS * 3:
        raise ValueError(f"an int of {value.bit_length():,} bits is too large")
    if parameter.type is not None:
        value = _converted(parameter.type, value)
    if parameter.choices is not None and value not in parameter.choices:
        raise ValueError(f"expected one of {', '.join(map(repr, parameter.choices))}, found {value!r}")
    return value


def _converted(annotation: Any, value: Any) -> Any:
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

    try:
        adapter = TypeAdapter(annotation)
    except PydanticSchemaGenerationError:  # a class that pydantic knows nothing of
        if isinstance(annotation, type) and not isinstance(value, annotation):
            raise ValueError(f"expected {annotation.__name__}, found {_found(value)}") from None
        return value
    try:
        result = _from_text(adapter, value) if isinstance(value, str) else adapter.validate_python(value)
    except ValidationError as error:
        reasons = "; ".join(
            (".".join(map(str, each["loc"])) + ": " if each["loc"] else "") + each["msg"] for each in error.errors()
        )
        raise ValueError(f"expected {shown_type(annotation)}, found {_found(value)}: {reasons}") from None
    if isinstance(value, bool) != isinstance(result, bool) and isinstance(value, (bool, int)):
        # pydantic takes True for 1 and 1 for True; a value is never guessed here
        raise ValueError(f"expected {shown_type(annotation)}, found {_found(value)}")
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


def _found(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:79] + '…'} of type {type(value).__name__}"


def shown_type(annotation: Any) -> str:
    """A type as it is written: ``int``, ``list[str]``."""
    return annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
