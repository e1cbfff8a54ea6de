"""Fields of a form for a flow's parameters, made from their JSON schema, and the values that such a form sends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from anabranch.monitoring.pages.looks import safe
from anabranch.web.plain import exact

PREFIX = "p:"
"""Before the names of parameters' fields: so they never have names of other fields."""
_LONG = 60  # characters of a text from which on it gets a field of several lines
_FORMATS = {"date": "date", "date-time": "text", "time": "time", "email": "email"}


class BadInput(ValueError):
    """A field has a value that the parameter cannot have."""


def render_fields(schema: Mapping[str, Any], given: Mapping[str, str] | None = None) -> str:
    """HTML of the fields for all parameters.

    Parameters
    ----------
    schema
        Of the parameters: an object, as the registry has it.
    given
        Texts to show instead of the defaults, by parameter: what was entered before.
    """
    known = schema.get("properties", {})
    required = schema.get("required", ())
    parts = [
        _field(name, _drop_null(schema, each), name in required, None if given is None else given.get(name, ""))
        for name, each in known.items()
    ]
    return "".join(parts) or '<p class="none">The flow has no parameters.</p>'


def read_values(schema: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Values of the parameters from the texts of a form; a field that is left empty takes its default.

    Raises
    ------
    BadInput
        Texts that cannot be read as what the schema wants; all of them at once.
    """
    known = schema.get("properties", {})
    found: dict[str, Any] = {}
    problems = []
    for name, text in given.items():
        if name not in known:
            problems.append(f"there is no parameter {name!r}")
        elif text.strip():
            try:
                found[name] = _parse_value(text, _drop_null(schema, known[name]))
            except ValueError as error:
                problems.append(f"{name}: {error}")
    if problems:
        raise BadInput("; ".join(problems))
    return found


def _drop_null(schema: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """A parameter's schema without null, which a field that is left empty stands for."""
    kinds = own.get("anyOf")
    if isinstance(kinds, list):
        rest = [each for each in kinds if isinstance(each, dict) and each.get("type") != "null"]
        if len(rest) == 1:
            return {**{name: value for name, value in own.items() if name != "anyOf"}, **rest[0]}
    return own


def _field(name: str, schema: Mapping[str, Any], is_required: bool, given: str | None) -> str:
    shown, field = safe(name, 200), exact(f"{PREFIX}{name}")
    if schema.get("writeOnly"):
        return f"<p><b>{shown}</b> is secret: the flow has to find it where it runs.</p>"
    label = f'<label for="{field}">{shown} <small>{_hint(schema, is_required)}</small></label>'
    text = _text(schema.get("default")) if given is None else given
    common = f'id="{field}" name="{field}"{" required" if is_required else ""}'
    choices = _choices(schema)
    if choices is not None:
        options = "".join(
            f'<option value="{exact(each)}"{" selected" if each == text else ""}>{safe(each, 200)}</option>'
            for each in ([] if text in choices else [""]) + choices
        )
        return f"{label}<select {common}>{options}</select>"
    kind = schema.get("type")
    value = exact(text)
    if kind in ("array", "object") or len(text) > _LONG or "\n" in text:
        return f"{label}<textarea {common}>{value}</textarea>"
    if kind in ("integer", "number"):
        step = "1" if kind == "integer" else "any"
        return f'{label}<input type="number" step="{step}" {common} value="{value}">'
    return f'{label}<input type="{_FORMATS.get(str(schema.get("format")), "text")}" {common} value="{value}">'


def _choices(schema: Mapping[str, Any]) -> list[str] | None:
    if isinstance(schema.get("enum"), list):
        return [_text(each) for each in schema["enum"]]
    return ["true", "false"] if schema.get("type") == "boolean" else None


def _hint(schema: Mapping[str, Any], is_required: bool) -> str:
    kind = schema.get("format") or schema.get("type")
    if isinstance(schema.get("enum"), list):
        kind, schema = "one of these", {**schema, "default": schema.get("default", "")}
    words = {"array": "a list, as JSON", "object": "JSON", "integer": "a whole number", "string": "text"}
    told = words.get(str(kind), str(kind)) if kind else "text, or JSON"
    if is_required:
        return safe(f"{told}; required")
    default = schema.get("description") if "default" not in schema else f"default: {_text(schema['default']) or 'none'}"
    return safe(f"{told}; {default}" if default else told, 200)


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parse_value(text: str, schema: Mapping[str, Any]) -> Any:
    """The value of a text, of the type in the schema; the flow checks it when the run begins."""
    kind = schema.get("type")
    if isinstance(schema.get("enum"), list):
        by_text = {_text(each): each for each in schema["enum"]}
        if text not in by_text:
            raise ValueError(f"expected one of {', '.join(by_text)}, found {text[:80]!r}")
        return by_text[text]
    if kind == "string":
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if kind is None and "anyOf" not in schema and "$ref" not in schema:
            return text  # nothing is known of it; the flow may want just this text
        value = text
    types, words = _KINDS.get(str(kind), ((object,), ""))
    if not isinstance(value, types) or (isinstance(value, bool) and kind in ("integer", "number")):
        raise ValueError(f"expected {words}, found {text[:80]!r}")
    return value


_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "integer": ((int,), "a whole number"),
    "number": ((int, float), "a number"),
    "boolean": ((bool,), "true or false"),
    "array": ((list,), 'a list such as [1, 2] or ["a"]'),
    "object": ((dict,), 'an object such as {"a": 1}'),
}
"""What JSON's words for types are in Python, and for people."""
