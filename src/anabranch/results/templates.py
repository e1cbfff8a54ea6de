"""Templates of names: fields in braces, from a fixed vocabulary, and nothing else that braces can do in Python.

There is no attribute, no item and no conversion, so that a template cannot read more than it is given, and widths are
bounded. What a field gives is data: in a location it becomes a `slug`, whatever it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, ClassVar, Self
from uuid import UUID

from anabranch.base.errors import LocationError, OptionError, listed
from anabranch.base.names import MAX_NAME, named, short
from anabranch.base.signatures import signature_of
from anabranch.results.locations import check_location, fitted, slug

FIELDS = ("flow_name", "run_id", "task_name", "map_index", "date")
"""Fields that every task run has, besides parameters and the task's inputs."""
_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
PREFECTS = frozenset(
    {"flow_run_id", "scheduled_start_time", "task_full_name", "task_slug", *_DAYS, *(f"{day}_nodash" for day in _DAYS)}
)
"""Fields under the names that Prefect 1 has for them."""
OF_ELEMENTS = frozenset({"map_index", "task_full_name"})
"""Fields that differ between the elements of a map."""
_ITEM = re.compile(r"parameters\[(['\"]?)([^]'\"]+)\1\](?::(.*))?")
MAX_SOURCE = 1000  # characters of a template: a longer one is data that went astray
_DATE = re.compile(r"(?:%[aAbBdfGHIjmMpSuUVwWyY]|[^%{}])+")  # of strftime, what does not depend on the platform
_ZEROS = re.compile(r"0([1-9]|1\d|20)d?")
_CUT = re.compile(r"\.([1-9]\d?)")
_PLAIN = (str, int, float, Decimal, date, UUID, PurePath, type(None))
_SAMPLE = datetime(2026, 11, 20, tzinfo=UTC)
_DATES = {"date", "scheduled_start_time", *_DAYS}


def prefects_fields(fields: Mapping[str, Any], date: datetime | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`PREFECTS`, and ``parameters[name]`` of each parameter, for a run's fields, date and parameters."""
    name, index = fields["task_name"], fields.get("map_index")
    found = {f"parameters[{parameter}]": value for parameter, value in parameters.items()}
    found["flow_run_id"] = fields["run_id"]
    found["task_slug"] = name
    found["task_full_name"] = name if index is None else f"{name}[{index}]"
    found["scheduled_start_time"] = date
    if date is not None:
        for day, distance in _DAYS.items():
            at = date + timedelta(days=distance)
            found |= {day: at.date(), f"{day}_nodash": f"{at:%Y%m%d}"}
    return found


@dataclass(frozen=True, slots=True)
class Field:
    """One pair of braces."""

    name: str
    spec: str = ""
    """For a date: a format of strftime. For a whole number: ``03d``. For a text: ``.8``, its first characters."""


class Template:
    """A template of locations.

    Parameters
    ----------
    source
        Text with fields in braces (``{{`` is a brace), or a function that is called with the fields it has parameters
        for and gives the location itself.

    Raises
    ------
    OptionError
        With everything that is wrong with it.

    Examples
    --------
    >>> Template("{task_name}/{map_index:03d}.json").render({"task_name": "parse", "map_index": 7})
    'parse/007.json'
    """

    what: ClassVar[str] = "location"

    def __init__(self, source: str | Callable[..., str]) -> None:
        self.function = source if callable(source) else None
        self.source: str = named(source) if callable(source) else source
        self._parts: tuple[str | Field, ...] = ()
        if callable(source):
            return
        if not isinstance(source, str) or not 0 < len(source) <= MAX_SOURCE:
            raise OptionError(
                f"{self.what}: expected a template of 1 to {MAX_SOURCE} characters, or a function, found {source!r:.60}"
            )
        problems: list[str] = []
        self._parts = tuple(_parse_template(source, problems))
        if not problems:
            fields = [part for part in self._parts if isinstance(part, Field)]
            dated = {field.name for field in fields if field.name in _DATES or "%" in field.spec}
            try:
                self.render({name: _SAMPLE if name in dated else 1 for name in self.fields})
            except LocationError as error:
                problems.append(str(error))
        if problems:
            raise OptionError(f"{self.what} {source!r}: {'; '.join(problems)}")

    @classmethod
    def of(cls, source: object) -> Self:
        """A template, made of what one can be made of."""
        return source if isinstance(source, cls) else cls(source)  # type: ignore[arg-type]  # which checks it

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (other.source, other.function) == (self.source, self.function)

    def __hash__(self) -> int:
        return hash((self.source, self.function))

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields; none for a function, of which that is not known."""
        return frozenset(part.name for part in self._parts if isinstance(part, Field))

    def check(self, names: Iterable[str]) -> None:
        """Refuse fields that there will not be.

        Parameters
        ----------
        names
            Parameters and inputs of the task, which are fields besides `FIELDS`.

        Raises
        ------
        OptionError
            With all of them, and those that there are.
        """
        known = dict.fromkeys((*FIELDS, *names))
        items = {f"parameters[{name}]" for name in known}
        if unknown := sorted(self.fields - known.keys() - PREFECTS - items):
            raise OptionError(f"{self.what} {self.source!r}: no field {listed(unknown)}; there are {listed(known)}")

    def render(self, fields: Mapping[str, Any]) -> str:
        """The location for these fields; different values of a field give different ones.

        Raises
        ------
        LocationError
            A field is missing, its value is not one for a name, or the function has failed or left the store.
        """
        if self.function is not None:
            return check_location(self._called(self.function, fields))
        names = "".join(self._text(part, fields) if isinstance(part, Field) else part for part in self._parts)
        return check_location("/".join(map(fitted, names.split("/"))))

    def _text(self, field: Field, fields: Mapping[str, Any]) -> str:
        value = self._value(field, fields)
        if isinstance(value, date):
            return _dated(field, value)  # the template's own text, which may have a "/"
        return slug(_format_field(field, value))

    def _value(self, field: Field, fields: Mapping[str, Any]) -> Any:
        if field.name not in fields:
            raise LocationError(f"{self.what} {self.source!r}: no field {field.name!r}; there are {listed(fields)}")
        value = fields[field.name]
        if isinstance(value, Enum):
            value = value.name
        if not isinstance(value, _PLAIN):
            raise LocationError(
                f"{self.what} {self.source!r}: field {field.name!r} is a {named(type(value))}, and a name takes texts, "
                "numbers and dates"
            )
        if value is None and field.name == "map_index":
            raise LocationError(f"{self.what} {self.source!r}: there is no map_index, as the task is not mapped")
        return value

    def _called(self, function: Callable[..., str], fields: Mapping[str, Any]) -> object:
        try:
            parameters = signature_of(function).parameters
            takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
            return function(**{name: value for name, value in fields.items() if takes_all or name in parameters})
        except Exception as error:
            raise LocationError(
                f"{self.what}: the function {self.source} failed with {type(error).__name__}: {error}"
            ) from error


class NameTemplate(Template):
    """A template of names for people, such as ``task_run_name``: any text that can be shown, of at most 200 characters.

    Examples
    --------
    >>> NameTemplate("parse {path}").render({"path": "data/a b.csv"})
    'parse data/a b.csv'
    """

    what = "task_run_name"

    def render(self, fields: Mapping[str, Any]) -> str:
        """The name for these fields.

        Raises
        ------
        LocationError
            A field is missing, its value is not one for a name, or the function has failed.
        """
        if self.function is not None:
            name = self._called(self.function, fields)
            name = name if isinstance(name, str) else short(name)
        else:
            name = "".join(self._text(part, fields) if isinstance(part, Field) else part for part in self._parts)
        shown = "".join(c if c.isprintable() else " " for c in name).strip() or self.source
        return shown if len(shown) <= MAX_NAME else f"{shown[: MAX_NAME - 1]}…"

    def _text(self, field: Field, fields: Mapping[str, Any]) -> str:
        value = self._value(field, fields)
        return _dated(field, value) if isinstance(value, date) else _format_field(field, value)


# ---------------------------------------------------------------------------------------------------------------------


def _parse_template(source: str, problems: list[str]) -> Iterator[str | Field]:
    """Texts and fields of a template; adds what is wrong to the problems."""
    for brace, inner, text in re.findall(r"(\{\{|\}\})|\{([^{}]*)\}|([^{}]+|[{}])", source):
        if brace or (text and text not in "{}"):
            yield brace[:1] or text
        elif text:
            problems.append(f"a single {text!r}; write {text * 2!r} for the character itself")
        elif (item := _ITEM.fullmatch(inner)) or inner.partition(":")[0].isidentifier():
            name = f"parameters[{item[2]}]" if item else inner.partition(":")[0]
            spec = (item[3] or "") if item else inner.partition(":")[2]
            if complaint := _spec_complaint(name, spec):
                problems.append(f"{{{inner}}}: {complaint}")
            yield Field(name, spec)
        else:
            complaint = _name_complaint(inner.partition(":")[0])
            problems.append(f"{{{inner}}}: {complaint}; fields are {listed(FIELDS)}, parameters and inputs")


def _name_complaint(name: str) -> str:
    if not name or name.isdigit():
        return "a field has a name"
    if "!" in name:
        return "there are no conversions"
    if "." in name or "[" in name:
        return "a field has no attributes and no items"
    return "that is not a name"


def _spec_complaint(name: str, spec: str) -> str | None:
    if not spec or _ZEROS.fullmatch(spec) or _CUT.fullmatch(spec) or ("%" in spec and _DATE.fullmatch(spec)):
        return None
    if "%" in spec or name == "date":
        return f"expected a format such as %Y-%m-%d, with any of %{' %'.join('aAbBdfGHIjmMpSuUVwWyY')}"
    return "expected 01d to 020d for zeros before a number, .1 to .99 for the first characters, or the format of a date"


def _dated(field: Field, value: date) -> str:
    if field.spec and "%" not in field.spec:
        raise LocationError(f"field {field.name!r}: expected a format such as %Y-%m-%d, found {field.spec!r}")
    return value.strftime(field.spec or "%Y-%m-%d")


def _format_field(field: Field, value: object) -> str:
    if _ZEROS.fullmatch(field.spec):
        if not isinstance(value, int):
            raise LocationError(f"field {field.name!r}: {field.spec!r} is for whole numbers, found {short(value)}")
        return int.__format__(value, field.spec.removesuffix("d"))
    if field.spec and not _CUT.fullmatch(field.spec):
        raise LocationError(f"field {field.name!r}: {field.spec!r} is for dates, found {short(value)}")
    text = str.__str__(value) if isinstance(value, str) else str(value)
    return text[: int(field.spec[1:])] if field.spec else text
