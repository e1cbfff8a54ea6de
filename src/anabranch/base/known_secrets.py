"""Secret values that this process knows, and how they turn up in texts, for `anabranch.base.masking` to find."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any
from urllib.parse import quote, quote_plus

from anabranch.base import masking

MIN_SECRET = 4  # characters: masking every "1" would make texts useless and hide nothing
MIN_LINE = 8  # characters: keys of several lines are shown line by line
MAX_PARTS = 10_000  # of a secret: an object may lead to all that the process has
_WIDE = "utf-16-le", "utf-32-le"  # the second is how NumPy keeps texts

heard: Callable[[list[object]], object] = lambda values: None  # noqa: E731  # a hook
"""Told of values that are learnt: the worker that a child process belongs to must mask them, too."""

_lock = threading.Lock()
_by_run: dict[str, set[str | bytes]] = {}


def learn(token: str, values: Iterable[object]) -> None:
    """Mask these values and their parts from now on, until `forget` is called for the same run."""
    before = _by_run.get(token, ())
    values = [value for value in values if not (type(value) is str and value in before)]
    found = {each for value in values for each in spellings(value)}
    if found:
        with _lock:
            known = _by_run.setdefault(token, set())
            if found <= known:
                return
            known.update(found)
            _refresh()
        heard(values)


def forget(token: str) -> None:
    """Forget what was learnt for a run."""
    with _lock:
        if _by_run.pop(token, None) is not None:
            _refresh()


def _refresh() -> None:
    found = {each for known in _by_run.values() for each in known}
    texts = sorted((each for each in found if isinstance(each, str)), key=len, reverse=True)
    data = {each if isinstance(each, bytes) else each.encode(errors="surrogatepass") for each in found}
    masking.known = tuple(texts), tuple(data)


def spellings(value: object) -> set[str | bytes]:
    """How a secret may turn up in texts and in bytes, as a whole and in parts.

    Parts are elements of lists, values of dicts and fields of objects, and the lines of texts. Each is spelt as it is,
    as its repr, as JSON, as in a URL, as Base64, and as the ends of a text that was shortened.

    Examples
    --------
    >>> sorted(map(str, spellings("swordfish")))[-2:], spellings("abc"), spellings(None)
    (['d29yZGZp', 'swordfish'], set(), set())
    """
    found = {each for part in _parts(value) for each in (_of_text(part) if isinstance(part, str) else _of_bytes(part))}
    return {each for each in found if len(each) >= MIN_SECRET}


def _of_text(text: str) -> set[str | bytes]:
    plain = {text, text.strip(), *(each for line in text.splitlines() if len(each := line.strip()) >= MIN_LINE)}
    ends = {text[:12], text[-12:]} if len(text) > 40 else set()
    found: set[str | bytes] = {*ends, *(form for each in plain for form in _forms(each))}
    return found | {each.encode(code, "surrogatepass") for each in plain if len(each) >= MIN_SECRET for code in _WIDE}


def _of_bytes(data: bytes) -> set[str | bytes]:
    return {data, data.hex(), repr(data)[2:-1], *_as_base64(data), *_of_text(data.decode(errors="replace"))}


def _parts(value: object) -> Iterator[str | bytes]:
    """The values that a secret is made of, as texts or bytes, and all of it as its repr."""
    seen: dict[int, object] = {}
    left = [value]
    while left and len(seen) < MAX_PARTS:
        part = left.pop()
        if id(part) in seen or part is None or isinstance(part, (bool, type, ModuleType, FunctionType)):
            continue
        seen[id(part)] = part
        try:
            if isinstance(part, (str, bytes, bytearray)):
                yield bytes(part) if isinstance(part, bytearray) else part
                continue
            left += _within(part)
            if not isinstance(part, Collection) or part is value:
                yield from {str(part), repr(part)}
        except Exception:  # it is the user's, whose repr may do anything
            continue


def _within(value: Any) -> list[object]:
    """What a value consists of."""
    reveal = getattr(value, "get_secret_value", None)  # as pydantic has it
    if callable(reveal):
        return [reveal()]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    if getattr(getattr(value, "dtype", None), "kind", "") in ("U", "S", "O") and hasattr(value, "tolist"):
        return list(value.tolist())
    slots = (name for cls in type(value).__mro__ for name in _names(vars(cls).get("__slots__", ())))
    # Pydantic keeps names of fields in a slot: these are no secrets.
    kept = (getattr(value, name, None) for name in slots if name != "__pydantic_fields_set__")
    return [*getattr(value, "__dict__", {}).values(), *kept]


def _names(slots: Any) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def _forms(text: str) -> set[str]:
    """A text as it is, and as it is written within others, also twice."""
    found = {text}
    for _ in range(2):
        found |= {form for each in found for form in _escaped(each)}
    data = text.encode(errors="surrogatepass")
    return found | {quote(data), quote(data, safe=""), quote_plus(data), repr(data)[2:-1], *_as_base64(data)}


def _escaped(text: str) -> set[str]:
    as_repr = repr(text)[1:-1]
    as_json = json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]
    return {as_repr, re.sub(r"(?<!\\)'", r"\\'", as_repr), *as_json}


def _as_base64(data: bytes) -> set[str]:
    """As Base64, also of data in which it is a part."""
    found = {base64.b64encode(data).decode().rstrip("=")}
    for before in range(3):  # bytes of others in the first group; groups with others' bytes are left out
        skipped = -before % 3
        whole = data[skipped : skipped + (len(data) - skipped) // 3 * 3]
        found.add(base64.b64encode(whole).decode())
    found = {each for each in found if len(each) >= 6}  # less is in other texts, too
    return found | {each.replace("+", "-").replace("/", "_") for each in found}
