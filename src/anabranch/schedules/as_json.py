"""Schedules as JSON, in which they are kept: data, and names of functions. Nothing is loaded by reading one.

What only code can say (a filter that is a lambda, or is defined in the flow's own file; a time zone of another library)
has no such form.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from cloudpickle import list_registry_pickle_by_value

from anabranch.base.errors import ScheduleError
from anabranch.schedules import filters
from anabranch.schedules.clocks import Clock, CronClock, DatesClock, IntervalClock
from anabranch.schedules.filters import Filter, on_days
from anabranch.schedules.schedule import Schedule

FORMAT = 1
_FILTERS = ("filters", "or_filters", "not_filters")
_OURS = filters.__name__


class NoForm(ValueError):
    """What has no form in JSON."""


def to_form(schedule: Schedule) -> dict[str, Any]:
    """A schedule as JSON has it.

    Raises
    ------
    NoForm
        It has something in it that only code can say.
    """
    return {
        "format": FORMAT,
        "clocks": [_of_clock(each) for each in schedule.clocks],
        **{name: [_of_filter(each) for each in getattr(schedule, name)] for name in _FILTERS},
        "catch_up": schedule.catch_up,
        "overlap": schedule.overlap,
    }


def names_code(form: Mapping[str, Any]) -> bool:
    """Whether functions of others than this library have to be imported to tell the schedule's times."""
    return any("function" in each for name in _FILTERS for each in form.get(name, ()))


def from_form(form: Mapping[str, Any]) -> Schedule:
    """The schedule of a form; imports what its functions are in.

    Raises
    ------
    ScheduleError
        It is none, or of a later version; or a function is not where it was.
    """
    if form.get("format") != FORMAT:
        raise ScheduleError(f"the schedule is stored in format {form.get('format')!r}; this version knows {FORMAT}")
    try:
        found = {name: [_read_filter(each) for each in form[name]] for name in _FILTERS}
        clocks = [_clock(each) for each in form["clocks"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScheduleError(f"the stored schedule is incomplete: {type(error).__name__}: {error}") from error
    return Schedule(clocks, **found, catch_up=form["catch_up"], overlap=form["overlap"])


# Clocks ---------------------------------------------------------------------------------------------------------------


def _of_clock(clock: Clock) -> dict[str, Any]:
    common = {
        "start_date": clock.start_date.isoformat() if clock.start_date is not None else None,
        "end_date": clock.end_date.isoformat() if clock.end_date is not None else None,
        "zone": _of_zone(clock.zone),
        "parameter_defaults": _write_parameters(clock.parameter_defaults),
        "labels": list(clock.labels),
    }
    match clock:
        case IntervalClock(interval=every) if type(clock) is IntervalClock:
            return {"kind": "interval", "interval": [every.days, every.seconds, every.microseconds], **common}
        case CronClock(cron=cron) if type(clock) is CronClock:
            return {"kind": "cron", "cron": cron, **common}
        case DatesClock(dates=dates) if type(clock) is DatesClock:
            return {"kind": "dates", "dates": [each.isoformat() for each in dates], **common}
    raise NoForm(f"a clock of class {type(clock).__name__}")


def _clock(form: Mapping[str, Any]) -> Clock:
    options: dict[str, Any] = {
        "timezone": _zone(form["zone"]),
        "parameter_defaults": form["parameter_defaults"],
        "labels": form["labels"],
    }
    begin, end = (_read_moment(form[name]) for name in ("start_date", "end_date"))
    match form["kind"]:
        case "interval":
            days, seconds, microseconds = form["interval"]
            every = timedelta(days=days, seconds=seconds, microseconds=microseconds)
            return IntervalClock(every, begin, end, **options)
        case "cron":
            return CronClock(form["cron"], begin, end, **options)
        case "dates":
            return DatesClock([datetime.fromisoformat(each) for each in form["dates"]], begin, end, **options)
        case kind:
            raise ScheduleError(f"the schedule has a clock of an unknown kind: {kind!r:.80}")


def _read_moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text is not None else None


def _of_zone(zone: tzinfo) -> str | float:
    if zone is UTC:
        return "UTC"
    if isinstance(zone, ZoneInfo) and zone.key:
        return zone.key
    if isinstance(zone, timezone):  # an offset from UTC, always the same
        offset = zone.utcoffset(None)
        return offset.total_seconds()
    raise NoForm(f"a time zone of class {type(zone).__name__}")


def _zone(form: str | float) -> tzinfo:
    if form == "UTC":
        return UTC
    return ZoneInfo(form) if isinstance(form, str) else timezone(timedelta(seconds=form))


def _write_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Values as runs are given them: dates and paths as texts."""
    return {name: _plain_value(value) for name, value in parameters.items()}


def _plain_value(value: object) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case date():
            return value.isoformat()
        case Path():
            return str(value)
        case Mapping() if all(isinstance(name, str) for name in value):
            return _write_parameters(value)
        case list() | tuple():
            return [_plain_value(each) for each in value]
    raise NoForm(f"a parameter that is a {type(value).__name__}")


# Filters --------------------------------------------------------------------------------------------------------------


def _of_filter(function: Filter) -> dict[str, Any]:
    kind = type(function)
    if isinstance(function, on_days):
        days = function.days
        if isinstance(days, frozenset):
            return {"filter": "on_days", "days": sorted(map(_of_value, days))}
        return {"filter": "on_days", "function": name_of(days)}
    if is_dataclass(function) and kind.__module__ == _OURS:
        return {
            "filter": kind.__name__,
            "values": {each.name: _of_value(getattr(function, each.name)) for each in fields(function)},
        }
    name = name_of(function)
    module, _, leaf = name.partition(":")
    return {"filter": leaf} if module == _OURS else {"function": name}


def _read_filter(form: Mapping[str, Any]) -> Filter:
    kind = form.get("filter")
    if kind is None:
        found: Filter = function_of(form["function"])
        return found
    if kind not in _KNOWN:
        raise ScheduleError(f"there is no filter {kind!r:.80} in {_OURS}")
    if kind == "on_days":
        days: Iterable[date] | Callable[[date], object]
        days = function_of(form["function"]) if "function" in form else [date.fromisoformat(e) for e in form["days"]]
        return on_days(days)
    own = getattr(filters, kind)
    if "values" not in form:
        plain: Filter = own
        return plain
    made: Filter = own(**{name: _read_value(each) for name, each in form["values"].items()})
    return made


_KNOWN = frozenset(
    name
    for name, each in vars(filters).items()
    if callable(each) and getattr(each, "__module__", "") == _OURS and not name.startswith("_")
)


def _of_value(value: object) -> Any:
    match value:
        case bool() | int():
            return value
        case datetime() if value.tzinfo is None or value.tzinfo is UTC or isinstance(value.tzinfo, timezone):
            return {"datetime": value.isoformat()}
        case datetime():  # its zone must stay the same one: it may be compared with a time of day
            return {"datetime": value.replace(tzinfo=None).isoformat(), "zone": _of_zone(value.tzinfo or UTC)}
        case date():
            return value.isoformat()
        case time() if value.tzinfo is None:
            return {"time": value.isoformat()}
    raise NoForm(f"a filter with a {type(value).__name__} in it")


def _read_value(form: Any) -> Any:
    match form:
        case {"datetime": str(text), "zone": zone}:
            return datetime.fromisoformat(text).replace(tzinfo=_zone(zone))
        case {"datetime": str(text)}:
            return datetime.fromisoformat(text)
        case {"time": str(text)}:
            return time.fromisoformat(text)
    return form


def name_of(function: object) -> str:
    """``module:name`` of a function that can be imported.

    Raises
    ------
    NoForm
        It cannot: a lambda, one within a function, a method of an object, or of a file that is no module.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not name or module == "__main__" or module in list_registry_pickle_by_value():
        raise NoForm(f"a function that cannot be imported: {function!r:.200}")
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function:
        raise NoForm(f"a function that cannot be imported: {function!r:.200}")
    return f"{module}:{name}"


def function_of(name: str) -> Callable[[Any], Any]:
    """The function of such a name.

    Raises
    ------
    ScheduleError
        It is not there.
    """
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ScheduleError(f"the schedule's function {name!r:.200} cannot be imported here: {error}") from error
    if not callable(found):
        raise ScheduleError(f"the schedule's function {name!r:.200} is a {type(found).__name__}")
    function: Callable[[Any], Any] = found
    return function
