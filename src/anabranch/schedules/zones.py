"""Time zones of schedules: their names, and times of day that a zone does not have, or has twice."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, available_timezones

from anabranch.base.errors import ScheduleError, nearest
from anabranch.base.names import short


def zone_of(zone: object, *dates: object) -> tzinfo:
    """A time zone by its name, or as it is; if none is given, that of the first date that has one, else UTC.

    Raises
    ------
    ScheduleError
        There is no such zone.
    """
    if zone is None:
        found = (each.tzinfo for each in dates if isinstance(each, datetime) and each.tzinfo is not None)
        return next(found, UTC)
    if isinstance(zone, tzinfo):
        return zone
    try:
        return ZoneInfo(zone if isinstance(zone, str) else "")
    except (ValueError, OSError, LookupError):  # no such file, a directory of zones, or a path
        hint = nearest(str(zone), available_timezones())
        raise ScheduleError(
            f"timezone: expected a name such as 'Europe/Berlin', found {short(zone, 80)}{hint}"
        ) from None


def moment_of(value: object, zone: tzinfo, what: str) -> datetime:
    """A date or time as a moment in UTC; one without a zone is in `zone`, a date alone its midnight.

    Raises
    ------
    ScheduleError
        It is neither.
    """
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001  # `existing` gives it its zone
    if not isinstance(value, datetime):
        raise ScheduleError(f"{what}: expected a date or datetime, found {short(value)}")
    try:
        return existing(value, zone) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ScheduleError(f"{what}: {value} is outside of the years 1 to 9999 in UTC") from None


def existing(wall: datetime, zone: tzinfo) -> datetime:
    """The moment, in UTC, at which a zone's clocks show a time.

    Of a time that they show twice, the first; of one that they leave out, when they jump over it.

    Examples
    --------
    >>> berlin = ZoneInfo("Europe/Berlin")
    >>> existing(datetime(2026, 3, 29, 2, 30), berlin).astimezone(berlin).strftime("%H:%M")
    '03:00'
    """
    local = wall.replace(tzinfo=zone, fold=0)
    moment = local.astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall.replace(tzinfo=None, fold=0):
        return moment
    before = local.utcoffset()
    # The jump, at a whole second, is between the moments that the offsets after and before it give.
    second = timedelta(seconds=1)
    early, late = local.replace(fold=1).astimezone(UTC).replace(microsecond=0), moment.replace(microsecond=0) + second
    while late - early > second:
        middle = early + (late - early) // second // 2 * second
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    return late
