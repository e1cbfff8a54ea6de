"""Schedules: when a flow runs by itself. Pure: nothing here waits, or looks at a clock."""

from anabranch.schedules import clocks, filters
from anabranch.schedules.clocks import Clock, CronClock, DatesClock, IntervalClock
from anabranch.schedules.missed import GRACE_S, MAX_CAUGHT_UP, due
from anabranch.schedules.policies import CatchUp, Overlap
from anabranch.schedules.schedule import (
    CronSchedule,
    DatesSchedule,
    IntervalSchedule,
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
