"""Workers that only seem to work: many slots of a real scheduler, in one process without threads.

``python -m benchmarks.simulated --slots 1000 tcp://…``

Everything but time is real. A unit runs at once, on the worker's loop, with a clock that its sleeps put forward; its
report and its value come when it would have ended. So tasks that sleep cost no slot a thread, and a thousand of them
next to no CPU. Standard output says when the workers are ready, and at the end how many seconds each slot has worked.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import partial
from typing import Any

import click
import dask.config
from distributed import Worker
from distributed.sizeof import safe_sizeof
from distributed.worker_state_machine import ExecuteSuccessEvent, StateMachineEvent

from anabranch.engine.worker import arrival

QUIET = {  # what each worker would do all the time beside its work
    "distributed.admin.tick.interval": "1h",
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "1h",
    "distributed.worker.memory.transfer": False,
}


class Clock:
    """Time that goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.slept_s = 0.0

    def sleep(self, seconds: float) -> None:
        """Put the clock forward."""
        self.slept_s += seconds

    def time(self) -> float:
        """Seconds since the epoch."""
        return _time() + self.slept_s

    def stopwatch(self) -> float:
        """Seconds since some moment."""
        return time.perf_counter() + self.slept_s


CLOCK = Clock()
_time = time.time


class Voice:
    """A worker as units see it; what it says is kept until it would be said."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.said: list[tuple[Any, Any]] = []

    def log_event(self, topic: Any, event: Any) -> None:
        """Keep an event."""
        self.said.append((topic, event))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)


_voices: list[Voice] = []


class SimulatedWorker(Worker):
    """Has no threads, and takes as long for a task as that sleeps."""

    busy_s = 0.0

    def start_http_server(self, *args: Any, **kwargs: Any) -> None:
        """Start none."""

    async def execute(self, key: Any, *, stimulus_id: str) -> StateMachineEvent:
        """Run a task at once, and tell of it later."""
        task = self.state.tasks[key]
        run_id, run_spec = task.run_id, task.run_spec
        data = {each.key: self.data[each.key] for each in task.dependencies}
        voice, start = Voice(self), time.time()
        _voices.append(voice)
        CLOCK.slept_s = 0.0
        try:
            value = run_spec(data)
        finally:
            _voices.pop()
        slept_s, CLOCK.slept_s = CLOCK.slept_s, 0.0
        await asyncio.sleep(slept_s)
        for topic, event in voice.said:
            self.log_event(topic, event)
        stop = time.time()
        self.busy_s += slept_s
        return ExecuteSuccessEvent(
            key=key,
            run_id=run_id,
            value=value,
            start=start,
            stop=stop,
            nbytes=safe_sizeof(value),
            type=type(value),
            stimulus_id=f"task-finished-{stop}",
        )


async def work(address: str, slots: int, threads: int) -> None:
    """Be so many workers until standard input ends; then say how busy they have been."""
    workers = [
        SimulatedWorker(address, nthreads=threads, memory_limit=0, dashboard=False, host="127.0.0.1")
        for _ in range(slots // threads)
    ]
    for first in range(0, len(workers), 50):  # a scheduler greets one after the other
        await asyncio.gather(*workers[first : first + 50])
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(json.dumps([worker.busy_s / threads for worker in workers]), flush=True)


@click.command()
@click.option("--slots", default=64, show_default=True)
@click.option("--threads", default=1, show_default=True, help="Slots of each worker.")
@click.argument("address")
def main(address: str, slots: int, threads: int) -> None:
    """Be workers of the scheduler at ADDRESS."""
    dask.config.set(QUIET)
    arrival._dask_worker = lambda: _voices[-1] if _voices else None
    arrival.Environment = partial(arrival.Environment, clock=CLOCK.time, sleep=CLOCK.sleep, stopwatch=CLOCK.stopwatch)
    time.sleep = CLOCK.sleep
    asyncio.run(work(address, slots, threads))


if __name__ == "__main__":
    sys.exit(main())
