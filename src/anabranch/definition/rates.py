"""Rates such as "100/min": how many attempts there may be in any window of so many seconds, as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta

from anabranch.base.errors import OptionError

MAX_COUNT = 1_000_000
MAX_WINDOW_S = 366 * 86400.0
MAX_NAME = 200  # characters, as in tags

_UNITS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0}
_UNITS |= {"h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}
_RATE = re.compile(r"\s*(\d{1,9})\s*/\s*(\d{0,9}(?:\.\d{1,9})?)\s*([a-z]+)\s*", re.ASCII)


def rate_of(value: object) -> tuple[int, float]:
    """The count and the window in seconds of a text such as "100/min" or "5/10s", or of a pair of them.

    Raises
    ------
    OptionError
        It is no rate.

    Examples
    --------
    >>> rate_of("100/min"), rate_of("5 / 10 s"), rate_of((3, 0.5))
    ((100, 60.0), (5, 10.0), (3, 0.5))
    """
    count, window_s = 0, 0.0
    if isinstance(value, str):
        found = _RATE.fullmatch(value)
        if found is not None:
            unit = found[3] if found[3] in _UNITS else found[3].removesuffix("s")
            count, window_s = int(found[1]), float(found[2] or 1) * _UNITS.get(unit, 0.0)
    elif isinstance(value, (tuple, list)) and len(value) == 2 and type(value[0]) is int:
        count, window = value
        window_s = window.total_seconds() if isinstance(window, timedelta) else window
    if type(window_s) in (int, float) and 1 <= count <= MAX_COUNT and 0.001 <= window_s <= MAX_WINDOW_S:
        return count, float(window_s)
    raise OptionError(
        f"rate: expected 1 to {MAX_COUNT:,} in a millisecond to a year, such as '100/min', '10/s' or '5/10s', "
        f"found {repr(value)[:MAX_NAME]}"
    )


def rates_of(option: object) -> dict[str, tuple[int, float]]:
    """The rates of a task by name, as its option has them.

    Raises
    ------
    OptionError
        A name or a rate is none.
    """
    rates = dict(option) if isinstance(option, Mapping) else {None: None}
    if not all(isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable() for name in rates):
        raise OptionError(f"rate: expected names with rates, such as {{'api': '100/min'}}, found {repr(option)[:200]}")
    return {str(name): rate_of(rate) for name, rate in rates.items()}
