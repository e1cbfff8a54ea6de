"""A run's parameters: every value checked, every problem told at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from anabranch.base.errors import ParameterError, listed, nearest
from anabranch.definition.parameter import Parameter
from anabranch.definition.parameter_values import validated
from anabranch.engine.units.copies import copied


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
