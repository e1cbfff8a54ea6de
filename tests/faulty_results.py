"""A store of results that breaks at the k-th call, or from then on, with any error; the rest is another store's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from anabranch.results import InMemoryResult, Result


class FaultyStore:
    """Raises at the k-th call of any of its methods, and counts them."""

    def __init__(self, store: Any, error: Callable[[], Exception], *, lasts: bool = False) -> None:
        self.store = store
        self.at: int | None = None
        self.calls = 0
        self._error = error
        self._lasts = lasts
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "a store that breaks"

    def arm(self, at: int | None) -> None:
        """Break at this call from now on; None: never."""
        self.at, self.calls = at, 0

    def _touch(self) -> None:
        with self._lock:
            number, self.calls = self.calls, self.calls + 1
        if self.at is not None and (number == self.at or (self._lasts and number > self.at)):
            raise self._error()

    def __getattr__(self, name: str) -> Any:
        if name not in ("put", "get", "get_many", "exists", "delete", "sweep", "close"):
            raise AttributeError(name)
        method = getattr(self.store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name not in ("sweep", "close"):  # these are called beside a run, at no certain time
                self._touch()
            return method(*args, **kwargs)

        return call


def faulty_result(error: Callable[[], Exception], *, lasts: bool = False, **options: Any) -> tuple[Result, FaultyStore]:
    """A result in memory, and what breaks it."""
    result = InMemoryResult(**options)
    store = FaultyStore(result.store, error, lasts=lasts)
    result.store = store
    return result, store
