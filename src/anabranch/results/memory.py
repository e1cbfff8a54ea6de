"""Results in this process's memory, for tests and notebooks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from anabranch.results.result import Result


class MemoryStore:
    """Objects in a dict. An unpickled copy is the same store in this process, and an empty one in another process."""

    def __new__(cls, token: str | None = None) -> MemoryStore:  # noqa: D102  # a copy is the same object
        token = token or uuid4().hex
        with _LOCK:
            if (store := _STORES.get(token)) is None:
                store = _STORES[token] = super().__new__(cls)
                store._token = token
                store.objects = {}
        return store

    of_one_process = True
    """What is written elsewhere is not found here."""
    _token: str
    objects: dict[str, bytes]
    """The objects by location, for a test to look at, or to damage."""

    def __reduce__(self) -> tuple[Any, ...]:
        return MemoryStore, (self._token,)

    def __repr__(self) -> str:
        return "memory"

    def put(self, location: str, parts: list[bytes], *, replace: bool) -> bool:
        """As `Store.put`."""
        with _LOCK:
            if location in self.objects and not replace:
                return False
            self.objects[location] = b"".join(parts)
            return True

    def get(self, location: str, nbytes: int | None = None) -> bytes:
        """As `Store.get`."""
        if (data := self.objects.get(location)) is None:
            raise FileNotFoundError(location)
        return data[:nbytes]

    def get_many(self, locations: Sequence[str]) -> dict[str, bytes]:
        """As `Store.get_many`."""
        with _LOCK:
            return {location: self.objects[location] for location in locations if location in self.objects}

    def exists(self, location: str) -> bool:
        """As `Store.exists`."""
        return location in self.objects

    def delete(self, location: str) -> None:
        """As `Store.delete`."""
        self.objects.pop(location, None)

    def sweep(self, older_than_s: float) -> int:
        """None: there are no temporary objects."""
        return 0

    def close(self) -> None:
        """Nothing: there is no connection."""


class InMemoryResult(Result):
    """Results in this process's memory.

    Parameters
    ----------
    **options
        `serializer` and `location`, as for `Result`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(MemoryStore(), **options)


_LOCK = threading.Lock()
_STORES: WeakValueDictionary[str, MemoryStore] = WeakValueDictionary()
