"""Names of stored objects: which can leave no store, and which every file system and object store takes."""

from __future__ import annotations

import hashlib
import re

from anabranch.base.errors import LocationError

MAX_SLUG = 80  # bytes: several values fit into one name
MAX_NAME = 255  # bytes: what ext4, XFS, APFS and NTFS take
MAX_LOCATION = 700  # bytes: a key in S3 has 1,024, of which the store's prefix needs some
_HASH_NDIGITS = 16  # 64 bits: among a million names that are altered alike, two are the same once in 40 million runs
_PLAIN = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?", re.ASCII)
_FORBIDDEN = frozenset('\\:*?"<>|')
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: these open a device, whatever is after the first dot.
_DEVICES = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"}
)


def slug(text: str) -> str:
    """Text as a name, or part of one, of ASCII letters, digits and ``._-``.

    Different texts get different slugs: what has to be altered or shortened gets a hash of the whole.

    Examples
    --------
    >>> slug("2026-11-20.csv")
    '2026-11-20.csv'
    >>> slug("../etc/passwd")
    '_etc_passwd-7fef78f53440346c'
    """
    if len(text) <= MAX_SLUG and _PLAIN.fullmatch(text) and not _is_device(text):
        return text
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "_", text[:1000]).strip(".")
    if _is_device(cleaned):
        cleaned = cleaned.replace(".", "_")
    return f"{cleaned[: MAX_SLUG - 1 - _HASH_NDIGITS] or '_'}-{_hash(text)}"


def fitted(name: str) -> str:
    """A name made of several slugs, shortened if it is too long together, and made harmless if it names a device."""
    if _is_device(name):
        name = f"{_hash(name)}-{name}"
    data = name.encode("utf-8", "replace")
    if len(data) <= MAX_NAME:
        return name
    return f"{data[: MAX_NAME - 1 - _HASH_NDIGITS].decode('utf-8', 'ignore')}-{_hash(name)}"


def check_location(location: object) -> str:
    """A location that stays below the root of any store.

    Raises
    ------
    LocationError
        It does not, or some file system would take it for something else.
    """
    if not isinstance(location, str):
        raise LocationError(f"expected a location as a string, found {location!r:.80}")
    if complaint := _find_fault(location):
        raise LocationError(
            f"location {location[:100]!a} {complaint}; expected names joined by '/', relative to the store"
        )
    return location


def _find_fault(location: str) -> str | None:
    if not location:
        return "is empty"
    if len(location.encode("utf-8", "replace")) > MAX_LOCATION:
        return f"has more than {MAX_LOCATION} bytes"
    if location.startswith("/"):
        return "is absolute"
    for name in location.split("/"):
        if not name:
            return "has an empty name"
        if name[0] in ".~":
            return f"has a name that begins with {name[0]!r}"
        if name[-1] in ". " or name[0] == " ":
            return "has a name with a dot or space at its end, or a space at its beginning"
        if not (name.isprintable() and _FORBIDDEN.isdisjoint(name)):
            bad = next(c for c in name if c in _FORBIDDEN or not c.isprintable())
            return f"has the character {bad!a}"
        if len(name.encode()) > MAX_NAME:
            return f"has a name of more than {MAX_NAME} bytes"
        if _is_device(name):
            return f"has a name, {name[:20]!r}, that is a device on Windows"
    return None


def _is_device(name: str) -> bool:
    return name.partition(".")[0].rstrip().upper() in _DEVICES


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_NDIGITS]
