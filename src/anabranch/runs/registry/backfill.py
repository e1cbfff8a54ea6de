"""Backfills: the runs of a flow for times that are past, asked for once however often they are asked for.

Each run's id follows from the flow, the time and the parameters. So asking again adds what is missing, and changes
nothing of what waits, runs or is over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

from anabranch.base.errors import ParameterError, ScheduleError
from anabranch.runs.store.slots import Slot, slot_id

MAX_RUNS = 100_000
"""Runs of a backfill: more are a mistake in the dates more often than a wish."""
_FIELDS = ("date", "time", "datetime", "timestamp")


def times_between(start: date, end: date, every: timedelta, *, zone: tzinfo = UTC) -> list[datetime]:
    """Times from `start` on, before `end`. Steps of whole days keep their time of day in the zone.

    Raises
    ------
    ScheduleError
        The end is not after the start, the step is too short, or there are too many.
    """
    from anabranch.schedules import IntervalClock
    from anabranch.schedules.zones import moment_of

    begin, until = moment_of(start, zone, "from"), moment_of(end, zone, "to")
    if until <= begin:
        raise ScheduleError(f"the end {end} is not after the start {start}; give a later one")
    if every < timedelta(seconds=1):
        raise ScheduleError(f"every: expected one second or more, found {every.total_seconds():g} s")
    found: list[datetime] = []
    for moment in IntervalClock(every, begin, timezone=zone).times(begin - timedelta(microseconds=1)):
        if moment >= until:
            break
        found.append(moment.astimezone(zone))
        if len(found) > MAX_RUNS:
            raise ScheduleError(f"from {start} to {end} every {every} are more than {MAX_RUNS:,} runs; ask for fewer")
    return found


def slots_for(
    flow_name: str,
    times: Sequence[datetime],
    parameters: Mapping[str, Any],
    *,
    max_parallel: int | None = None,
    known: Iterable[str] | None = None,
) -> list[Slot]:
    """The slots of a backfill.

    Parameters
    ----------
    parameters
        Values by name; ``{date}``, ``{time}``, ``{datetime}`` and ``{timestamp}`` in a text stand for the run's time.
    max_parallel
        How many may run at a time.
    known
        Names of the flow's parameters.

    Raises
    ------
    ParameterError
        A parameter is not the flow's, or has another field in braces.
    """
    problems = [
        f"there is no parameter {name!r}" for name in parameters if known is not None and name not in set(known)
    ]
    problems += [
        f"{name}: {{{field}}} stands for nothing; there are: {', '.join('{' + each + '}' for each in _FIELDS)}"
        for name, value in parameters.items()
        if isinstance(value, str)
        for field in _fields_of(value)
        if field not in _FIELDS
    ]
    if problems:
        raise ParameterError(f"the parameters do not fit flow {flow_name!r}", problems)
    group = group_of(flow_name, times, parameters)
    slots = []
    for time in times:
        values = {name: _filled(value, time) for name, value in parameters.items()}
        run_id = slot_id(flow_name, time, values, salt="backfill")
        slots.append(Slot(run_id, flow_name, time, values, origin="backfill", group=group, group_most=max_parallel))
    return slots


def group_of(flow_name: str, times: Sequence[datetime], parameters: Mapping[str, Any]) -> str:
    """Name of a backfill, the same whenever it is asked for."""
    text = repr((flow_name, [each.timestamp() for each in times], sorted(parameters.items(), key=str)))
    return f"backfill-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _filled(value: Any, time: datetime) -> Any:
    """A parameter with the time in it. By plain replacement: `str.format` would let a text look into objects."""
    if not isinstance(value, str):
        return value
    words = (time.date().isoformat(), time.strftime("%H:%M:%S"), time.isoformat(), str(int(time.timestamp())))
    for field, word in zip(_FIELDS, words, strict=True):
        value = value.replace("{" + field + "}", word)
    return value


def _fields_of(text: str) -> list[str]:
    import re

    return re.findall(r"\{(\w+)\}", text)
