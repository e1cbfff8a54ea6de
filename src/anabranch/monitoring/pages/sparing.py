"""Questions to a run store that pages ask each time that something has changed, however long the answer takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

SHARE = 10  # an answer is given again for so many times as long as it took
MAX_KNOWN = 20


class Sparing(Generic[T]):
    """A function that answers as before as long as asking anew would take more than a tenth of the time.

    Parameters
    ----------
    ask
        The function; what it raises is raised each time.
    clock
        Seconds.
    """

    def __init__(self, ask: Callable[..., T], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._known: dict[tuple[Hashable, ...], tuple[float, T]] = {}

    def __call__(self, *question: Hashable) -> T:
        """The answer to this question."""
        began = self._clock()
        until, answer = self._known.get(question, (began, None))
        if answer is not None and began < until:
            return answer
        answer, ended = self._ask(*question), self._clock()
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[question] = ended + SHARE * (ended - began), answer
        return answer
