"""Texts made fit to be shown: one line of a terminal, URLs without passwords."""

from __future__ import annotations

import re


def printable(text: object) -> str:
    r"""Text on one line, with whatever is not printable escaped.

    Examples
    --------
    >>> print(printable("a\nb\x1b[31m \u202e\udcff é"))
    a\nb\x1b[31m \u202e\udcff é
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def printable_lines(text: object) -> list[str]:
    r"""The lines of a text, each printable; tabs become spaces.

    Examples
    --------
    >>> printable_lines("a\n\tb\r\nc\x07")
    ['a', '    b', 'c\\x07']
    """
    # Not splitlines(): what it also takes for the end of a line, such as a form feed, is better seen.
    return [printable(line.removesuffix("\r").expandtabs(4)) for line in str(text).split("\n")]


def shortened(text: object, width: int) -> str:
    """Printable text of at most so many characters.

    Examples
    --------
    >>> shortened("a long name", 7)
    'a long…'
    """
    line = printable(text)
    return line if len(line) <= width else f"{line[: width - 1]}…"


def seconds(value: float) -> str:
    """A duration to be read.

    Examples
    --------
    >>> [seconds(value) for value in (0.0001, 0.0123, 2.345, 75, 3700)]
    ['<1 ms', '12 ms', '2.3 s', '1:15 min', '1:01:40 h']
    """
    if value < 1:
        return f"{value * 1000:.0f} ms" if value >= 0.001 else "<1 ms"
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def masked(url: str) -> str:
    """A database URL without its passwords, however malformed it is.

    Examples
    --------
    >>> masked("postgresql://ann:p@ss:word@db/runs?password=x&sslmode=require")
    'postgresql://ann:***@db/runs?password=***&sslmode=require'
    """
    url = re.sub(r"(?<=://)([^:/@?]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)(?<=[?&])([^=&]*(?:password|passwd|secret|token)[^=&]*)=[^&]*", r"\1=***", url)
