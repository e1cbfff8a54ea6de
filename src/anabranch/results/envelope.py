"""The format of a stored object: who wrote what for whom, proof that it is whole, and the serialised value.

::

    magic      8 bytes    with a byte over 127 and both line ends, so that a transfer as text shows
    version    2 bytes
    length     4 bytes    of the header
    digest    32 bytes    SHA-256 of the three above and the header
    mac       32 bytes    HMAC-SHA256 of the same (`anabranch.base.signing`), or zeros
    header                JSON: serializer, type, size and SHA-256 of the body, ids, time
    body

Both cover the body too, as the header has its digest, and the ids, so that an object moved to another task shows.
Numbers are big-endian. Nothing here is unpickled, and nothing is parsed before it has been checked.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from anabranch.base.errors import OptionError, ResultDamaged, ResultStoreError
from anabranch.base.signing import is_signed, sign
from anabranch.results.reference import ResultRef

MAGIC = b"\x89ANB\r\n\x1a\n"
VERSION = 1
_START = struct.Struct(">8sHI")
_DIGEST_NBYTES = 32
PREAMBLE_NBYTES = _START.size + 2 * _DIGEST_NBYTES
MAX_HEADER_NBYTES = 1 << 16  # ids are a few names
_PURPOSE = f"result {VERSION}"
_UNSIGNED = bytes(_DIGEST_NBYTES)


@dataclass(frozen=True, slots=True)
class Header:
    """What an object says of itself."""

    serializer: str
    type_name: str
    repr: str
    nbytes: int
    sha256: str
    ids: str
    """Whose value it is, as canonical JSON."""
    created: str
    width: int | None
    """Number of elements, if it holds elements of a map."""
    is_signed: bool

    def ref(self, location: str) -> ResultRef:
        """The object as states know it."""
        return ResultRef(
            location, self.nbytes, self.sha256, self.serializer, self.type_name, self.repr, width=self.width
        )


_TYPES = {"nbytes": int, "width": int | None, "is_signed": bool}


def canonical(ids: Mapping[str, Any]) -> str:
    """Ids as a text that is the same for the same ids.

    Raises
    ------
    OptionError
        They are not plain names and numbers.
    """
    try:
        return json.dumps(ids, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(f"ids: expected names with texts and numbers, found {ids!r:.80} ({error})") from None


def head_of(
    body: bytes,
    *,
    serializer: str,
    type_name: str,
    shown: str,
    ids: str,
    width: int | None,
    created: datetime,
    key: str,
) -> tuple[Header, bytes]:
    """The header for a body, and all that comes before the body."""
    header = Header(
        serializer=serializer,
        type_name=type_name,
        repr=shown,
        nbytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        ids=ids,
        created=created.astimezone(UTC).isoformat(),
        width=width,
        is_signed=bool(key),
    )
    text = json.dumps(asdict(header), separators=(",", ":")).encode()
    if len(text) > MAX_HEADER_NBYTES:
        raise OptionError(f"ids: expected a few names and numbers, found {len(ids):,} characters")
    covered = _START.pack(MAGIC, VERSION, len(text)) + text
    mac = bytes.fromhex(sign(key, _PURPOSE, covered)) if key else _UNSIGNED
    return header, b"".join([covered[: _START.size], hashlib.sha256(covered).digest(), mac, text])


def is_envelope(data: bytes) -> bool:
    """Whether bytes are the beginning of an object of ours, however little is left of it."""
    return data[: len(MAGIC)] == MAGIC[: len(data)]


def head_nbytes(data: bytes) -> int:
    """How many bytes come before the body, as the first of them say; bounded, whatever they say."""
    if len(data) < _START.size:
        return PREAMBLE_NBYTES
    length: int = _START.unpack_from(data)[2]
    return PREAMBLE_NBYTES + min(length, MAX_HEADER_NBYTES)


def read_header(data: bytes, location: str, *, key: str) -> Header:
    """The header of an object, checked as far as that can be done without its body.

    Parameters
    ----------
    data
        The first `head_nbytes` or more of the object.
    location
        For messages.
    key
        What objects must be signed with; empty: they need not be.

    Raises
    ------
    ResultDamaged
        It is not what was written, or was not written by us, or not by somebody who has the key.
    ResultStoreError
        It is signed, and this process has no key.
    """
    if not data:
        raise ResultDamaged(f"result {location!r} is damaged: it is empty")
    if not is_envelope(data):
        raise ResultDamaged(f"{location!r} is not a result of anabranch: it begins with {bytes(data[:8])!r}")
    if len(data) < PREAMBLE_NBYTES:
        raise ResultDamaged(f"result {location!r} is damaged: it ends after {len(data)} bytes")
    _, version, length = _START.unpack_from(data)
    if version != VERSION:
        raise ResultDamaged(
            f"result {location!r} has format {version}, of another version of anabranch; this one reads {VERSION}"
        )
    if length > MAX_HEADER_NBYTES:
        raise ResultDamaged(f"result {location!r} is damaged: its header cannot have {length:,} bytes")
    if len(data) < PREAMBLE_NBYTES + length:
        raise ResultDamaged(f"result {location!r} is damaged: it ends within its header, after {len(data)} bytes")
    text = bytes(data[PREAMBLE_NBYTES : PREAMBLE_NBYTES + length])
    covered = bytes(data[: _START.size]) + text
    digest = bytes(data[_START.size : _START.size + _DIGEST_NBYTES])
    mac = bytes(data[_START.size + _DIGEST_NBYTES : PREAMBLE_NBYTES])
    if hashlib.sha256(covered).digest() != digest:
        raise ResultDamaged(f"result {location!r} is damaged: its header was changed")
    if key and not is_signed(key, _PURPOSE, covered, mac.hex()):
        what = "signed with another key" if any(mac) else "not signed"
        raise ResultDamaged(f"result {location!r} is {what}, and this process reads only what its results.key signed")
    header = _parse_header(text, location)
    if header.is_signed and not key:
        raise ResultStoreError(
            f"result {location!r} is signed, and this process has no results.key to check that; set "
            "ANABRANCH__RESULTS__KEY where its tasks run"
        )
    if not header.is_signed and mac != _UNSIGNED:
        raise ResultDamaged(f"result {location!r} is damaged: it has a signature that it should not have")
    return header


def _parse_header(text: bytes, location: str) -> Header:
    try:
        found = json.loads(text)
        header = Header(**found)
        wrong = [name for name, value in found.items() if not isinstance(value, _TYPES.get(name, str))]
    except (ValueError, TypeError, RecursionError) as error:
        raise ResultDamaged(f"result {location!r} is damaged: its header cannot be read: {error}") from None
    if wrong:
        raise ResultDamaged(f"result {location!r} is damaged: its header has a {wrong[0]} of the wrong type")
    return header


def open_envelope(data: bytes, location: str, *, key: str) -> tuple[Header, memoryview]:
    """Header and body of a whole object, checked.

    Raises
    ------
    ResultDamaged, ResultStoreError
        As `read_header`; also if the body is not the one that was written.
    """
    header = read_header(data, location, key=key)
    body = memoryview(data)[head_nbytes(data) :]
    if len(body) != header.nbytes:
        raise ResultDamaged(
            f"result {location!r} is damaged: its body should have {header.nbytes:,} bytes and has {len(body):,}"
        )
    if hashlib.sha256(body).hexdigest() != header.sha256:
        raise ResultDamaged(f"result {location!r} is damaged: its checksum does not match")
    return header, body
