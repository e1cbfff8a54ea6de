"""One task at a time, in this process and thread: exceptions, pdb and Ctrl-C work as in any script."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from anabranch.executors.base import Executor, Key, Message, Posted, Region


class LocalExecutor(Executor):
    """Runs one task at a time in the calling thread; the default of ``flow.run``."""

    is_sequential = True
    place = "this process, one task at a time"

    def __init__(self) -> None:
        self._reset()

    def __reduce__(self) -> tuple[type[LocalExecutor], tuple[()]]:
        return LocalExecutor, ()

    def _reset(self) -> None:
        self._queue: deque[Any] = deque()
        self._values: dict[Key, Any] = {}
        self._unwanted: set[Key] = set()
        self._users: Counter[Key] = Counter()
        """Queued tasks that need a key."""

    def start(self, token: str) -> None:
        """Forget what was left of an earlier run."""
        self._reset()

    def stop(self) -> None:
        """Forget everything."""
        self._reset()

    def slots(self) -> int:
        """One."""
        return 1

    def submit(self, region: Region) -> None:
        """Queue the tasks of a region; they run when a message is asked for."""
        for task in region.graph.values():
            self._queue.append(task)
            self._users.update(task.dependencies)

    def next_message(self, timeout_s: float | None) -> Message | None:
        """Run the next task and give its report."""
        while self._queue:
            task = self._queue.popleft()
            try:
                if task.key in self._unwanted:
                    continue
                outcome = self._values[task.key] = task({key: self._values[key] for key in task.dependencies})
                return Posted(outcome.report)
            finally:
                self._users.subtract(task.dependencies)
                self._drop(task.dependencies)
        return None

    def release(self, keys: Iterable[Key]) -> None:
        """Drop values, and tasks that have not begun; what a queued task needs is dropped after it."""
        keys = tuple(keys)
        self._unwanted.update(keys)
        self._drop(keys)

    def _drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if key in self._unwanted and self._users[key] <= 0:
                self._values.pop(key, None)

    def gather(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Values by key."""
        return {key: self._values[key] for key in keys if key in self._values}
