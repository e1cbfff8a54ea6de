"""Names that users give, checked; and any value as a short text, for names and messages."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any

from anabranch.base.errors import OptionError
from anabranch.base.masking import mask
from anabranch.base.where import caller

MAX_NAME = 200  # characters: longer names are data that went astray
_REORDERING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # printable to Python, and yet they hide text


def check_name(name: object, what: str) -> str:
    """A name that can be shown and stored: 1 to 200 characters, none of them control characters or surrogates.

    Raises
    ------
    OptionError
        It cannot; the message begins with `what`.
    """
    if not isinstance(name, str):
        raise OptionError(f"{what}: expected a name as a string, found {short(name)} ({caller()})")
    if not name.strip() or len(name) > MAX_NAME:
        raise OptionError(f"{what}: expected a name of 1 to {MAX_NAME} characters, found {len(name)} ({caller()})")
    bad = [c for c in name if not c.isprintable() or c in _REORDERING]
    if bad:
        raise OptionError(f"{what}: {name[:60]!a} has a character that cannot be shown: {bad[0]!a} ({caller()})")
    return name


class Shortener(reprlib.Repr):
    """Makes bounded reprs, without secrets: what is cut through would not be found any more."""

    def repr_str(self, x: str, level: int) -> str:
        """A text, without secrets before it is cut."""
        return super().repr_str(mask(x), level)

    def repr_instance(self, x: Any, level: int) -> str:
        """What has a repr of its own, without secrets before it is cut."""
        try:
            text, half = mask(repr(x)), (self.maxother - 3) // 2
        except Exception:  # a user's repr may do anything
            return super().repr_instance(x, level)
        return text if len(text) <= self.maxother else f"{text[:half]}...{text[-half:]}"


_BOUNDED = Shortener()
_BOUNDED.maxstring = _BOUNDED.maxother = MAX_NAME


def short(value: object, limit: int = 40) -> str:
    """A bounded one-line text for any value: a function's name, otherwise its repr.

    Examples
    --------
    >>> short(list(range(1_000_000)))
    '[0, 1, 2, 3, 4, 5, ...]'
    >>> short(len)
    'len'
    """
    try:
        text = mask(named(value) if callable(value) else _BOUNDED.repr(value))
    except KeyboardInterrupt:
        raise
    except BaseException:  # a user's repr may do anything; a name is not worth an error
        text = type(value).__name__
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def named(function: Callable[..., Any]) -> str:
    """A readable name for any callable."""
    name = getattr(function, "__name__", None) or getattr(getattr(function, "func", None), "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def ascii_name(name: str, limit: int = 40) -> str:
    """A name that Dask's pages group by: ASCII letters, digits and underscores, at most `limit` of them.

    Examples
    --------
    >>> ascii_name("daily-tiles [2]")
    'daily_tiles_2'
    """
    kept = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return "_".join(part for part in kept.split("_") if part)[:limit] or "x"
