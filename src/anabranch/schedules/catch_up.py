"""What of a schedule runs, of the times that were missed while no service was there: by the catch-up policy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta

from anabranch.base.errors import ScheduleError
from anabranch.schedules.schedule import Schedule, ScheduledTime

GRACE_S = 60.0
"""Seconds for which a time is late, not missed: a service that is started anew is back within them."""
MAX_CAUGHT_UP = 10_000
"""Times that are caught up with at once; a schedule of seconds has as many in three hours."""


def due(schedule: Schedule, since: datetime, now: datetime) -> list[ScheduledTime]:
    """What is to run of the times after `since`, up to and with `now`.

    Times less than `GRACE_S` ago are never missed. Of those that are, ``"all"`` runs each, ``"latest"`` the last
    one if no other is due, and ``"skip"`` none.

    Raises
    ------
    ScheduleError
        There are more than `MAX_CAUGHT_UP` to run, or a filter raised.
    """
    recent = max(since, now - timedelta(seconds=GRACE_S))
    if schedule.catch_up == "skip":
        return list(_until(schedule, recent, now))
    if schedule.catch_up == "latest":
        in_time = list(_until(schedule, recent, now))
        return in_time or list(deque(_until(schedule, since, recent), maxlen=1))
    found = []
    for each in _until(schedule, since, now):
        found.append(each)
        if len(found) > MAX_CAUGHT_UP:
            raise ScheduleError(
                f"more than {MAX_CAUGHT_UP:,} times were missed since {since:%Y-%m-%d %H:%M}; "
                "catch_up='latest' or 'skip' runs fewer, and `anabranch backfill` runs some of them"
            )
    return found


def _until(schedule: Schedule, after: datetime, now: datetime) -> Iterator[ScheduledTime]:
    for each in schedule.events(after):
        if each.start_time > now:
            return
        yield each
