"""Texts made fit to be shown: one line of a terminal, exceptions, URLs without passwords."""

from __future__ import annotations

import re

from anabranch.base.masking import mask

MAX_MESSAGE = 8_192  # characters


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


def clean(text: str, limit: int = MAX_MESSAGE) -> str:
    """Text without secrets that can be encoded and is not longer than `limit` characters."""
    text = mask(text)
    text = text if len(text) <= limit else f"{text[: limit - 30]}… ({len(text):,} characters)"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


_CURES = {
    "daemonic processes are not allowed to have children": (
        "; a task whose worker may not start processes can with @task(isolation='process')"
    )
}
"""What a user can do about errors whose texts do not say so."""


def message_of(exception: BaseException) -> str:
    """The exception's text, or a placeholder where asking for it fails."""
    try:
        # A copy that Dask's pickles have made of a SystemExit has its arguments, and no code.
        text = exception.code if isinstance(exception, SystemExit) and not exception.args else exception
        found = clean(str(text))
        return found + _CURES.get(found, "")
    except BaseException as error:  # a user's __str__ may do anything
        return f"<str() of the exception failed with {type(error).__name__}>"


def headline_of(exception: BaseException) -> str:
    """The exception in a message of another one: its class and its text."""
    name, text = type_name(exception), message_of(exception)
    return f"{name}: {text}" if text else name


def type_name(exception: BaseException) -> str:
    """Name of the exception's class, with its module unless that is a builtin or ours."""
    cls = type(exception)
    module = cls.__module__
    plain = module in ("builtins", "__main__") or module.startswith("anabranch.")
    return clean(cls.__qualname__ if plain else f"{module}.{cls.__qualname__}", 200)


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


def password_of(url: str) -> str:
    """The password in a URL; empty if it has none, or if the rest of the URL shows the same text.

    Examples
    --------
    >>> [password_of(url) for url in ("postgresql://ann:pass@db/runs", "postgresql://ann:ann@db", "local")]
    ['pass', '', '']
    """
    found = re.fullmatch(r"([^:]*://[^:/@?]*):(.*)(@.*)", url, re.DOTALL)
    return found[2] if found is not None and found[2] not in found[1] + found[3] else ""


def masked(url: str) -> str:
    """A database URL without its passwords, however malformed it is.

    Examples
    --------
    >>> masked("postgresql://ann:p@ss:word@db/runs?password=x&sslmode=require")
    'postgresql://ann:***@db/runs?password=***&sslmode=require'
    """
    url = re.sub(r"(?<=://)([^:/@?]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)(?<=[?&])([^=&]*(?:password|passwd|secret|token)[^=&]*)=[^&]*", r"\1=***", url)
