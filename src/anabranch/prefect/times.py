"""Schedules with the arguments that they have in Prefect 1."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from anabranch import schedules
from anabranch.base.prefect1 import refuse
from anabranch.prefect.adjustments import AdjustedClock


def Schedule(  # noqa: N802  # a class there
    clocks: Any, filters: Any = None, or_filters: Any = None, not_filters: Any = None, adjustments: Any = None
) -> schedules.Schedule:
    """As `anabranch.schedules.Schedule`; with adjustments, the times are those that they give, each once."""
    plain = schedules.Schedule(clocks, filters, or_filters, not_filters)
    if not adjustments:
        return plain
    found = [
        AdjustedClock(schedules.Schedule([each], filters, or_filters, not_filters), adjustments)
        for each in plain.clocks
    ]
    return schedules.Schedule(found)


def IntervalSchedule(  # noqa: N802  # as there
    start_date: datetime | None = None, interval: timedelta | None = None, end_date: datetime | None = None
) -> schedules.Schedule:
    """As `anabranch.schedules.IntervalSchedule`; the start comes first."""
    return schedules.IntervalSchedule(interval, start_date, end_date)  # type: ignore[arg-type]  # which it refuses


def CronSchedule(  # noqa: N802  # as there
    cron: str, start_date: datetime | None = None, end_date: datetime | None = None, day_or: bool | None = None
) -> schedules.Schedule:
    """As `anabranch.schedules.CronSchedule`."""
    return schedules.Schedule([CronClock(cron, start_date, end_date, day_or=day_or)])


def CronClock(  # noqa: N802  # a class there
    cron: str,
    start_date: datetime | None = None,
    end_date: datetime | None = None,
    parameter_defaults: Mapping[str, Any] | None = None,
    labels: Collection[str] | None = None,
    day_or: bool | None = None,
    **options: Any,
) -> schedules.CronClock:
    """As `anabranch.schedules.CronClock`; days of the month and of the week are joined as Debian's cron does it."""
    if day_or is False:
        refuse("CronSchedule(day_or=)")
    return schedules.CronClock(
        cron, start_date, end_date, parameter_defaults=parameter_defaults, labels=labels, **options
    )


def IntervalClock(  # noqa: N802  # a class there
    interval: timedelta,
    start_date: datetime | None = None,
    end_date: datetime | None = None,
    parameter_defaults: Mapping[str, Any] | None = None,
    labels: Collection[str] | None = None,
    **options: Any,
) -> schedules.IntervalClock:
    """As `anabranch.schedules.IntervalClock`; parameters and labels may be given by position."""
    return schedules.IntervalClock(
        interval, start_date, end_date, parameter_defaults=parameter_defaults, labels=labels, **options
    )


def DatesClock(  # noqa: N802  # a class there
    dates: Iterable[date],
    parameter_defaults: Mapping[str, Any] | None = None,
    labels: Collection[str] | None = None,
    **options: Any,
) -> schedules.DatesClock:
    """As `anabranch.schedules.DatesClock`; parameters and labels may be given by position."""
    return schedules.DatesClock(dates, parameter_defaults=parameter_defaults, labels=labels, **options)
