"""Texts without the secrets that this process knows.

Whatever makes a text of the user's values (a failure, a log line, a row of the run store) passes it through `mask`
where it is made and before it is cut, so that a secret does not get as far as a report, a scheduler, a file or a
terminal. What is known is learnt in `anabranch.base.known_secrets`.
"""

from __future__ import annotations

import re

MASK = "***"

SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)|pwd|secret|token|credential|dsn|auth(?!or)|authorization|(api|private|access)[_-]?key",
    re.IGNORECASE,
)
"""Names of parameters and options whose values are shown to nobody."""

known: tuple[tuple[str, ...], tuple[bytes, ...]] = ((), ())
"""Texts, longest first, and what shows one of them in bytes. Replaced as a whole, so that readers need no lock."""

_URL_PASSWORD = re.compile(r"(://[^\s:/@?#]*):[^\s/]+@")


def mask(text: str) -> str:
    """The text with `MASK` in place of every secret that this process knows, and of passwords in URLs.

    Examples
    --------
    >>> mask("connecting to postgresql://ann:p@ss:word@db/runs")
    'connecting to postgresql://ann:***@db/runs'
    """
    for secret in known[0]:
        if secret in text:
            text = text.replace(secret, MASK)
    return _URL_PASSWORD.sub(rf"\1:{MASK}@", text) if "://" in text and "@" in text else text


def knows_any() -> bool:
    """Whether there is anything to mask."""
    return bool(known[0])


def has_secret(data: bytes) -> bool:
    """Whether there is a secret in what was pickled or encoded."""
    return any(secret in data for secret in known[1])


def without_secrets(data: bytes | None) -> bytes | None:
    """What was pickled or encoded; None if there is a secret in it."""
    return None if data is None or has_secret(data) else data
