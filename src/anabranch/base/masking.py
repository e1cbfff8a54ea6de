"""Secret values that this process knows, and texts without them.

Whatever makes a text of the user's values (a failure, a log line, a row of the run store) passes it through `mask`
where it is made, so that a secret does not get as far as a report, a scheduler, a file or a terminal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

MASK = "***"
MIN_SECRET = 4  # characters: masking every "1" would make texts useless and hide nothing

heard: Callable[[list[object]], object] = lambda values: None  # noqa: E731  # a hook
"""Told of values that are learnt: the worker that a child process belongs to must mask them, too."""

_lock = threading.Lock()
_by_run: dict[str, set[str]] = {}
_known: tuple[tuple[str, ...], tuple[bytes, ...]] = ((), ())
"""Texts, longest first, and the same as bytes. Replaced as a whole, so that readers need no lock."""


def learn(token: str, values: Iterable[object]) -> None:
    """Mask these values from now on, until `forget` is called for the same run."""
    values = list(values)
    texts = {text for value in values for text in spellings(value)}
    if texts:
        with _lock:
            known = _by_run.setdefault(token, set())
            if texts <= known:
                return
            known.update(texts)
            _refresh()
        heard(values)


def forget(token: str) -> None:
    """Forget what was learnt for a run."""
    with _lock:
        if _by_run.pop(token, None) is not None:
            _refresh()


def _refresh() -> None:
    global _known
    texts = sorted({text for found in _by_run.values() for text in found}, key=len, reverse=True)
    _known = tuple(texts), tuple(text.encode(errors="surrogatepass") for text in texts)


def mask(text: str) -> str:
    """The text with `MASK` in place of every secret that this process knows."""
    for secret in _known[0]:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def knows_any() -> bool:
    """Whether there is anything to mask."""
    return bool(_known[0])


def without_secrets(data: bytes | None) -> bytes | None:
    """What was pickled or encoded; None if there is a secret in it."""
    return None if data is None or any(secret in data for secret in _known[1]) else data


def spellings(value: object) -> list[str]:
    """How a secret may turn up in texts: as it is, as its repr, and as the ends of a repr that was shortened.

    Examples
    --------
    >>> spellings("swordfish"), spellings("abc"), spellings(None)
    (['swordfish'], [], [])
    """
    reveal = getattr(value, "get_secret_value", None)  # as pydantic has it
    value = reveal() if callable(reveal) else value
    text = value if isinstance(value, str) else value.decode(errors="replace") if isinstance(value, bytes) else ""
    if not text:
        text = "" if value is None or isinstance(value, bool) else repr(value)
    found = [text, repr(text)[1:-1]]
    if len(text) > 40:
        found += [text[:12], text[-12:]]
    return [each for each in dict.fromkeys(found) if len(each) >= MIN_SECRET]
