"""Times of other libraries as Python's own: their classes are below `datetime`, and calculate in ways of their own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo


def plain_time(time: datetime) -> datetime:
    """The same moment as a plain datetime in UTC.

    Raises
    ------
    ValueError
        It is not aware.

    Examples
    --------
    >>> from zoneinfo import ZoneInfo
    >>> str(plain_time(datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Paris"))))
    '2026-07-01 10:00:00+00:00'
    """
    offset = time.utcoffset()
    if offset is None:
        raise ValueError(f"expected an aware datetime, found {time!r}; use datetime.now(UTC)")
    there = datetime(time.year, time.month, time.day, time.hour, time.minute, time.second, time.microsecond, tzinfo=UTC)
    return there - plain_span(offset)


def plain_span(span: timedelta) -> timedelta:
    """The same length of time as a plain timedelta."""
    # By the class: what a subclass calls its days and seconds may be something else.
    days, seconds, microseconds = (
        each.__get__(span) for each in (timedelta.days, timedelta.seconds, timedelta.microseconds)
    )
    return timedelta(days, seconds, microseconds)


def zone_text(time: datetime) -> str:
    """The zone of an aware time in a text: its name, or else its distance from UTC in seconds, at that time.

    Examples
    --------
    >>> zone_text(datetime(2026, 7, 1, tzinfo=ZoneInfo("Asia/Tokyo")))
    'Asia/Tokyo'
    """
    offset = time.utcoffset() or timedelta(0)
    return getattr(time.tzinfo, "key", None) or str(offset.total_seconds())


def zone_in(text: str) -> tzinfo:
    """The zone that `zone_text` has told of; UTC if the text is empty, or names what is not there."""
    try:
        return timezone(timedelta(seconds=float(text))) if text else UTC
    except ValueError:
        pass
    try:
        return ZoneInfo(text)
    except (ValueError, OSError, LookupError):
        return UTC
