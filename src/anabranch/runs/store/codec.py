"""How records become columns and come back: times, texts, indices of elements, codes of states."""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any, TypeVar, overload

from anabranch.base.errors import RunStoreDamaged
from anabranch.base.times import plain_time

T = TypeVar("T")

MESSAGE_NBYTES = 8_192
LOG_NBYTES = 16_384
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_RANGE = Struct("<cQQ")
_MOST_ELEMENTS = 1 << 30  # far more than a chunk has; damaged bytes that claim more would fill the memory
_WIDTHS = {"B": 1, "H": 2, "I": 4, "Q": 8}  # of the type codes of `array` on every platform that Python runs on


@overload
def to_microseconds(time: datetime) -> int: ...
@overload
def to_microseconds(time: None) -> None: ...
def to_microseconds(time: datetime | None) -> int | None:
    """Microseconds since 1970, UTC.

    Examples
    --------
    >>> to_microseconds(datetime(2026, 11, 21, 5, 0, 0, 250, tzinfo=UTC))
    1795237200000250
    """
    if time is None:
        return None
    since = plain_time(time) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


@overload
def from_microseconds(microseconds: int) -> datetime: ...
@overload
def from_microseconds(microseconds: None) -> None: ...
def from_microseconds(microseconds: int | None) -> datetime | None:
    """The time that `to_microseconds` was given, in UTC."""
    return None if microseconds is None else _EPOCH + microseconds * _MICROSECOND


def to_text(text: str, limit: int | None = None) -> str:
    r"""Text that every database takes, and of at most so many bytes in UTF-8.

    Examples
    --------
    >>> print(to_text("a\0b \udc80"))
    a\x00b \udc80
    >>> to_text("äöü", 5)
    'ä…'
    """
    if "\0" in text:  # PostgreSQL has no such character
        text = text.replace("\0", "\\x00")
    try:
        data = text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: such are the names of some files
        text = text.encode(errors="backslashreplace").decode()
        data = text.encode()
    if limit is None or len(data) <= limit:
        return text
    return data[: limit - len("…".encode())].decode(errors="ignore") + "…"


def to_json(value: Mapping[str, Any]) -> str:
    """A mapping as JSON; what JSON does not have becomes its repr."""
    return to_text(json.dumps(value, default=repr, skipkeys=True, ensure_ascii=False))


def from_json(text: str) -> dict[str, Any]:
    """The mapping that `to_json` was given.

    Raises
    ------
    RunStoreDamaged
        It is not one.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RunStoreDamaged(f"the run store has a text that is not JSON: {text[:60]!r}") from error
    if not isinstance(value, dict):
        raise RunStoreDamaged(f"the run store has a text that is not a JSON object: {text[:60]!r}")
    return value


def read_json(text: str, kind: type[T]) -> T | None:
    """What a text says in JSON, if it is of a kind: one row that is damaged is no reason not to read the others."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, kind) else None


def encode_indices(indices: Sequence[int]) -> bytes:
    """Indices of elements: 17 bytes for a range, otherwise one to eight bytes each.

    Examples
    --------
    >>> len(encode_indices(range(1_000_000)))
    17
    >>> len(encode_indices([5, 777]))
    5
    """
    if isinstance(indices, range) and indices.step == 1:
        return _RANGE.pack(b"r", indices.start, indices.stop)
    highest = max(indices, default=0)
    code = next(code for code, width in _WIDTHS.items() if highest < 1 << (8 * width))
    packed = array(code, indices)
    if sys.byteorder == "big":
        packed.byteswap()
    return code.encode() + packed.tobytes()


def decode_indices(data: bytes) -> range | tuple[int, ...]:
    """The indices that `encode_indices` was given.

    Raises
    ------
    RunStoreDamaged
        These bytes do not come from there.
    """
    if data[:1] == b"r" and len(data) == _RANGE.size:
        _, start, stop = _RANGE.unpack(data)
        if stop - start < _MOST_ELEMENTS:
            return range(start, stop)
    code = data[:1].decode("ascii", errors="replace")
    if code not in _WIDTHS or (len(data) - 1) % _WIDTHS[code]:
        raise RunStoreDamaged(f"a chunk in the run store has indices that cannot be read: {data[:20]!r}")
    packed = array(code, data[1:])
    if sys.byteorder == "big":
        packed.byteswap()
    return tuple(packed)


def encode_codes(codes: bytes) -> bytes:
    r"""One byte per element; two in all where every element has the same code, as most often.

    Examples
    --------
    >>> encode_codes(bytes([10]) * 1_000_000)
    b'=\n'
    """
    if codes and codes.count(codes[0]) == len(codes):
        return b"=" + codes[:1]
    return b"z" + zlib.compress(codes, 1)


def decode_codes(data: bytes, width: int) -> bytes:
    """The codes of so many elements that `encode_codes` was given.

    Raises
    ------
    RunStoreDamaged
        These bytes do not come from there, or are not of so many elements.
    """
    if data[:1] == b"=" and len(data) == 2:
        return data[1:] * width
    try:
        if data[:1] == b"z":
            codes = zlib.decompressobj().decompress(data[1:], width + 1)  # no more: damaged bytes may say anything
            if len(codes) == width:
                return codes
    except zlib.error:
        pass
    raise RunStoreDamaged(f"a chunk in the run store has states that cannot be read as those of {width:,} elements")
