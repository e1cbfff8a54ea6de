"""Elements of a chunk whose function is async: they are awaited side by side, each in a lane, on one loop.

An element that waits for its next attempt has no lane. New elements begin in the order of the chunk.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from typing import TYPE_CHECKING

from anabranch.base.states import Retrying
from anabranch.engine.units.loops import LOOK_S, cancel, run_in_loop

if TYPE_CHECKING:
    from anabranch.engine.worker.stage import Stage


def run_side_by_side(stage: Stage, deadline: float, horizon_s: float) -> float:
    """Run the elements of a map, or those begun before the deadline; seconds in which all of them waited for retries.

    Parameters
    ----------
    deadline
        By the stopwatch; at least one lane's worth is begun.
    horizon_s
        Longest wait for a retry when nothing else is left to do; a longer one is the driver's.
    """
    stage.open_short_way()
    lanes = _Lanes(stage, deadline, horizon_s)
    run_in_loop(lanes.run())
    return lanes.waited_s


class _Lanes:
    def __init__(self, stage: Stage, deadline: float, horizon_s: float) -> None:
        self._stage = stage
        self._environment = stage.environment
        self._deadline = deadline
        self._horizon_s = horizon_s
        self._most = stage.lanes
        self._running: dict[asyncio.Task[None], int] = {}
        self._due: list[tuple[float, int]] = []
        """Elements that wait for their next attempt: time and position. A heap."""
        self._error: BaseException | None = None
        """What is wrong with us, not with an element."""
        self._woken = asyncio.Event()
        self.waited_s = 0.0

    async def run(self) -> None:
        stage, environment = self._stage, self._environment
        try:
            while not stage.ends() and self._error is None:
                self._begin()
                if self._running:
                    await self._change()
                    continue
                wait_s = self._due[0][0] - environment.clock() if self._due else math.inf
                if wait_s > self._horizon_s:
                    return
                before = environment.stopwatch()
                await self._pause(wait_s)
                self.waited_s += environment.stopwatch() - before
        finally:
            if self._running:
                await cancel(self._running)
            stage.reached = stage.begun
        if self._error is not None:
            raise self._error

    def _begin(self) -> None:
        """Fill the lanes."""
        stage, loop = self._stage, asyncio.get_running_loop()
        while len(self._running) < self._most and (position := self._next()) is not None:
            stage.under_way[position] = self._environment.stopwatch()
            task = loop.create_task(stage.run_awaited(position, stage.records.pop(position, None)))
            self._running[task] = position
            task.add_done_callback(self._ended)

    def _next(self) -> int | None:
        """Position of what comes next: retries that are due go first."""
        stage = self._stage
        if self._due and self._due[0][0] <= self._environment.clock():
            return heapq.heappop(self._due)[1]
        is_late = stage.begun >= self._most and self._environment.stopwatch() > self._deadline
        if stage.begun == len(stage.indices) or is_late:
            return None
        stage.begun += 1
        return stage.begun - 1

    def _ended(self, task: asyncio.Task[None]) -> None:
        position = self._running.pop(task)
        self._stage.under_way.pop(position, None)
        self._woken.set()
        if task.cancelled():
            return
        self._error = self._error or task.exception()
        state = self._stage.records.get(position)
        if isinstance(state, Retrying) and self._horizon_s >= 0:
            heapq.heappush(self._due, (state.start_time.timestamp() if state.start_time else 0.0, position))

    async def _change(self) -> None:
        """Wait until an element has ended, a retry is due, or it is time to look whether the run is over."""
        wait_s = LOOK_S
        if self._due and len(self._running) < self._most and self._is_real:
            wait_s = min(LOOK_S, max(0.0, self._due[0][0] - self._environment.clock()))
        self._woken.clear()
        alarm = asyncio.get_running_loop().call_later(wait_s, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            alarm.cancel()

    @property
    def _is_real(self) -> bool:
        """Whether time passes by itself; a test's clock moves only while nothing runs."""
        return self._environment.sleep is time.sleep

    async def _pause(self, seconds: float) -> None:
        if self._is_real:
            await asyncio.sleep(min(LOOK_S, max(0.0, seconds)))
        else:
            self._environment.sleep(max(0.0, seconds))
