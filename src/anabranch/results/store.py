"""What keeps bytes under names: what every kind of store must do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Store(Protocol):
    """Where objects are kept: whole ones only, by location. Picklable, safe in threads, connected when first used.

    Any exception but FileNotFoundError means that the store cannot do it now.
    """

    def put(self, location: str, parts: list[bytes], *, replace: bool) -> bool:
        """Store an object that consists of these parts, durably, and visible whole or not at all.

        Without `replace` an object that is there stays; False says so.
        """
        ...

    def get(self, location: str, nbytes: int | None = None) -> bytes:
        """An object, or as much of its beginning.

        Raises
        ------
        FileNotFoundError
            There is none.
        """
        ...

    def get_many(self, locations: Sequence[str]) -> dict[str, bytes]:
        """Those of several objects that are there, in as few trips as the store can do with."""
        ...

    def exists(self, location: str) -> bool:
        """Whether there is an object."""
        ...

    def delete(self, location: str) -> None:
        """Remove an object, if there is one."""
        ...

    def sweep(self, older_than_s: float) -> int:
        """Remove what writers that died have left and is older; how many files that were."""
        ...

    def close(self) -> None:
        """Close this process's connections; the next call opens them again."""
        ...
