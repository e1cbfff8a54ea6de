"""What a state knows of a stored value: where it is, and how to tell that it is still that one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any


@dataclass(frozen=True, slots=True)
class ResultRef:
    """A stored value, seen from outside: nothing of it is loaded, and nothing here can be run."""

    location: str
    """Name of the object, relative to the root of its store."""
    nbytes: int
    """Size of the serialised value."""
    checksum: str
    """SHA-256 of the serialised value, in hexadecimal."""
    serializer: str
    """Name of what wrote it, as `anabranch.results.serializers.by_name` takes it."""
    type_name: str
    """Name of the value's class, with its module unless that is a builtin; of an element, if there are several."""
    repr: str
    """The value as a short text, made when it was written: one line, at most 200 characters."""
    width: int | None = None
    """Number of elements, if the object holds elements of a map."""

    def __reduce__(self) -> tuple[Any, ...]:
        # States of a map hold thousands: what dataclasses do to pickle frozen slots takes five times as long.
        return ResultRef, _FIELDS(self)


_FIELDS = attrgetter(*(each.name for each in fields(ResultRef)))
