"""Single nodes that may run and have not been sent, and how long calls of their tasks take."""

from __future__ import annotations

import heapq

from anabranch.states import State

QUICK_S = 0.005  # a task that takes less costs Dask about as much as it works: it is worth a bundle
BUNDLE_S = 0.05  # a bundle should take about so long: ten times what a Dask task costs


class Backlog:
    """Slugs in topological order, with the pace of what has ended.

    Parameters
    ----------
    max_nbytes
        Larger values are not bundled: a worker that needs one of them would be sent all of a bundle.
    """

    def __init__(self, *, max_nbytes: int) -> None:
        self.max_nbytes = max_nbytes
        self._heap: list[tuple[int, str]] = []
        self._paces: dict[str, float] = {}
        self._large: set[str] = set()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, order: int, slug: str) -> None:
        """Add a node by its place in the topological order."""
        heapq.heappush(self._heap, (order, slug))

    def pop(self) -> str:
        """Take the first node."""
        return heapq.heappop(self._heap)[1]

    def observe(self, name: str, state: State, *, is_small: bool) -> None:
        """Learn from a call of a task that has ended: the pace rises at once and falls by half steps."""
        duration = state.duration_s
        if duration is None:
            return
        if state.is_successful() and not is_small:
            self._large.add(name)
        before = self._paces.get(name)
        self._paces[name] = duration if before is None or duration > before else (before + duration) / 2

    def pace_s(self, name: str) -> float | None:
        """Seconds that a call of the task takes; None if that is not known, or its values are large."""
        return None if name in self._large else self._paces.get(name)
