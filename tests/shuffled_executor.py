"""An executor of a page: all that it takes to be one."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from typing import Any

from anabranch.executors.base import Executor, Key, Message, Posted, Region


class ShuffledExecutor(Executor):
    """Runs tasks in this thread, each as soon as it has what it needs, otherwise in an order of chance."""

    place = "this process, in any order"

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        self.start("")

    def start(self, token: str) -> None:
        self._tasks: dict[Key, Any] = {}
        self._values: dict[Key, Any] = {}
        self._unwanted: set[Key] = set()

    def stop(self) -> None:
        self.start("")

    def slots(self) -> int:
        return 3

    def submit(self, region: Region) -> None:
        self._tasks.update(region.graph)

    def next_message(self, timeout_s: float | None) -> Message | None:
        ready = [key for key, task in self._tasks.items() if task.dependencies <= self._values.keys()]
        if not ready:
            time.sleep(min(timeout_s or 0.0, 0.01))
            return None
        task = self._tasks.pop(self._chance.choice(ready))
        outcome = self._values[task.key] = task({key: self._values[key] for key in task.dependencies})
        self._drop()
        return Posted(outcome.report)

    def release(self, keys: Iterable[Key]) -> None:
        self._unwanted.update(keys)
        for key in self._unwanted:
            self._tasks.pop(key, None)
        self._drop()

    def _drop(self) -> None:
        needed = {key for task in self._tasks.values() for key in task.dependencies}
        for key in self._unwanted - needed:
            self._values.pop(key, None)

    def gather(self, keys: Iterable[Key]) -> dict[Key, Any]:
        return {key: self._values[key] for key in keys if key in self._values}
