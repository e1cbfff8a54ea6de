"""Time zones of schedules: their names, and times of day that a zone does not have, or has twice."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, available_timezones

from anabranch.base.errors import ScheduleError, nearest
from anabranch.base.names import short
from anabranch.base.times import plain_time

_TOLD = [datetime(year, month, 1, tzinfo=UTC) for year in range(1990, 2037) for month in range(1, 13)]
"""Moments at which zones are compared."""
_PLAIN = (ZoneInfo, timezone)
_NAMES = ("key", "zone", "name", "_filename")
"""Attributes in which zones of other libraries have their name: those of pytz, of pendulum and of dateutil."""


def zone_of(zone: object, *dates: object) -> tzinfo:
    """A time zone by its name, or as Python has it; if none is given, that of the first date that has one, else UTC.

    Raises
    ------
    ScheduleError
        There is no such zone, or it is of another library and Python has none like it.
    """
    if zone is None:
        zone = next((each.tzinfo for each in dates if isinstance(each, datetime) and each.tzinfo is not None), UTC)
    if isinstance(zone, tzinfo):
        found = plain_zone(zone)
        if found is None:
            raise ScheduleError(
                f"timezone: expected a name such as 'Europe/Berlin', a zoneinfo.ZoneInfo or a datetime.timezone, "
                f"found {short(zone, 80)}"
            )
        return found
    try:
        return ZoneInfo(zone if isinstance(zone, str) else "")
    except (ValueError, OSError, LookupError):  # no such file, a directory of zones, or a path
        hint = nearest(str(zone), available_timezones())
        raise ScheduleError(
            f"timezone: expected a name such as 'Europe/Berlin', found {short(zone, 80)}{hint}"
        ) from None


def plain_zone(zone: tzinfo) -> tzinfo | None:
    """A zone as Python has it: as it is, of the same name, or at the same distance from UTC; None if there is none.

    Zones of other libraries may have no hash, or must not be given to times as these zones may.
    """
    if type(zone) in _PLAIN:
        return zone
    try:
        wall = [moment.astimezone(zone).replace(tzinfo=None) for moment in _TOLD]
    except Exception:  # it is somebody's code
        return None
    names = [name for each in _NAMES if isinstance(name := getattr(zone, each, None), str)]
    for name in names:
        try:
            same = ZoneInfo(name.rpartition("zoneinfo/")[2])
        except (ValueError, OSError, LookupError):
            continue
        if wall == [moment.astimezone(same).replace(tzinfo=None) for moment in _TOLD]:
            return same
    offsets = {there - moment.replace(tzinfo=None) for there, moment in zip(wall, _TOLD, strict=True)}
    if len(offsets) > 1:
        return None
    (offset,) = offsets
    return timezone(offset) if offset else UTC


def local_time(time: datetime) -> datetime:
    """An aware time as a plain datetime, in its zone if Python has that, else at its distance from UTC.

    Raises
    ------
    ValueError
        It is not aware.
    """
    if type(time.tzinfo) in _PLAIN:
        return time if type(time) is datetime else wall_time(time).replace(tzinfo=time.tzinfo)
    moment = plain_time(time)
    zone = plain_zone(time.tzinfo) if time.tzinfo is not None else None
    if zone is None:
        return moment.astimezone(timezone(time.utcoffset() or timedelta(0)))
    local = moment.astimezone(zone)
    if local.utcoffset() != time.utcoffset():
        # As zones of pytz are that were not given by `localize`: only the time on the wall was meant.
        return existing(wall_time(time), zone).astimezone(zone)
    return local


def wall_time(time: datetime) -> datetime:
    """What a clock shows, as a plain datetime."""
    day = datetime(time.year, time.month, time.day)  # noqa: DTZ001  # whoever asks knows the zone
    return day.replace(
        hour=time.hour, minute=time.minute, second=time.second, microsecond=time.microsecond, fold=time.fold
    )


def moment_of(value: object, zone: tzinfo, what: str) -> datetime:
    """A date or time as a moment in UTC; one without a zone is in `zone`, a date alone its midnight.

    Raises
    ------
    ScheduleError
        It is neither.
    """
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001  # `existing` gives it its zone
    if not isinstance(value, datetime) or value.year != value.year:  # pandas' NaT is a datetime of year nan
        raise ScheduleError(f"{what}: expected a date or datetime, found {short(value)}")
    try:
        return existing(wall_time(value), zone) if value.tzinfo is None else local_time(value).astimezone(UTC)
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
