"""Times of other libraries as Python's own: their classes are below `datetime`, and calculate in ways of their own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


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
    return there - timedelta(days=offset.days, seconds=offset.seconds, microseconds=offset.microseconds)
