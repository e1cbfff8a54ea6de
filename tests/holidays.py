"""Functions of a module, as schedules have them for filters."""

from __future__ import annotations

from datetime import date, datetime

DAYS = frozenset({date(2026, 1, 1), date(2026, 1, 6)})


def is_holiday(moment: datetime) -> bool:
    return moment.date() in DAYS


def is_open(day: date) -> bool:
    return day.weekday() != 6
