"""Schedules with the arguments that they have in Prefect 1."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from anabranch import schedules
from anabranch.base.prefect1 import refuse


def Schedule(  # noqa: N802  # a class there
    clocks: Any, filters: Any = None, or_filters: Any = None, not_filters: Any = None, adjustments: Any = None
) -> schedules.Schedule:
    """As `anabranch.schedules.Schedule`; adjustments are refused."""
    if adjustments:
        refuse("Schedule(adjustments=)")
    return schedules.Schedule(clocks, filters, or_filters, not_filters)


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
    cron: str, *args: Any, day_or: bool | None = None, **options: Any
) -> schedules.CronClock:
    """As `anabranch.schedules.CronClock`; days of the month and of the week are joined as Debian's cron does it."""
    if day_or is False:
        refuse("CronSchedule(day_or=)")
    return schedules.CronClock(cron, *args, **options)
