"""Schedules: when a flow runs by itself. Pure: nothing here waits, or looks at a clock."""

from typing import TYPE_CHECKING

from anabranch.base.prefect1 import getter
from anabranch.schedules import clocks, filters
from anabranch.schedules.catch_up import GRACE_S, MAX_CAUGHT_UP, due
from anabranch.schedules.clocks import Clock, CronClock, DatesClock, IntervalClock
from anabranch.schedules.schedule import (
    CatchUp,
    CronSchedule,
    DatesSchedule,
    IntervalSchedule,
    Overlap,
    Schedule,
    ScheduledTime,
)

__all__ = [
    "GRACE_S",
    "MAX_CAUGHT_UP",
    "CatchUp",
    "Clock",
    "CronClock",
    "CronSchedule",
    "DatesClock",
    "DatesSchedule",
    "IntervalClock",
    "IntervalSchedule",
    "Overlap",
    "Schedule",
    "ScheduledTime",
    "clocks",
    "due",
    "filters",
]

if not TYPE_CHECKING:
    __getattr__ = getter("schedules")
