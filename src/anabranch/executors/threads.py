"""Dask's local scheduler, with threads of this process."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from dask._task_spec import DataNode, Task
from dask.local import get_async

from anabranch.base.errors import OptionError
from anabranch.base.prefect1 import refusing
from anabranch.executors.base import Dropped, Executor, Key, Message, Posted, Region


class LocalDaskExecutor(Executor):
    """Runs regions with Dask's local scheduler.

    Parameters
    ----------
    scheduler
        ``"threads"``, or ``"synchronous"`` for one thread.
    num_workers
        Threads; default: one per processor.
    """

    @refusing("LocalDaskExecutor")
    def __init__(
        self, scheduler: Literal["threads", "synchronous"] = "threads", num_workers: int | None = None
    ) -> None:
        if scheduler not in ("threads", "synchronous"):
            raise OptionError(
                f"LocalDaskExecutor: expected scheduler 'threads' or 'synchronous', found {scheduler!r}; "
                "for processes use DaskExecutor()"
            )
        if num_workers is not None and (
            isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1
        ):
            raise OptionError(f"LocalDaskExecutor: expected num_workers of 1 or more, found {num_workers!r}")
        self.scheduler = scheduler
        self.num_workers: int = 1 if scheduler == "synchronous" else num_workers or os.cpu_count() or 1
        self._pool: ThreadPoolExecutor | None = None
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._values: dict[Key, Any] = {}
        self._unwanted: set[Key] = set()
        self._held: dict[Key, Any] = {}
        """Tasks that wait for keys of regions that are still being computed."""

    def __repr__(self) -> str:
        return f"LocalDaskExecutor(scheduler={self.scheduler!r}, num_workers={self.num_workers})"

    @property
    def place(self) -> str:
        """Where tasks run, with the number of threads."""
        return f"this process, {self.num_workers} thread{'s' if self.num_workers != 1 else ''}"

    def __reduce__(self) -> tuple[type[LocalDaskExecutor], tuple[str, int]]:
        return LocalDaskExecutor, (self.scheduler, self.num_workers)

    def start(self, token: str) -> None:
        """Start the threads."""
        self._messages, self._values, self._unwanted, self._held = queue.SimpleQueue(), {}, set(), {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="anabranch")

    def stop(self) -> None:
        """Let go of the threads; tasks that have begun go on to their end, the others do not begin."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        self._values = {}

    def slots(self) -> int:
        """Number of threads."""
        return self.num_workers

    def submit(self, region: Region) -> None:
        """Compute the tasks of a region that have what they need; the others as soon as they do."""
        with self._lock:
            batch: dict[Key, Any] = {}
            for key, task in region.graph.items():
                is_ready = all(up in self._values or up in batch for up in task.dependencies)
                (batch if is_ready else self._held)[key] = task
            values = {up: self._values[up] for task in batch.values() for up in task.dependencies if up not in batch}
        self._compute(batch, values)

    def _compute(self, batch: dict[Key, Any], values: dict[Key, Any]) -> None:
        """Let Dask's local scheduler run tasks whose other inputs are here; a thread of its own looks after them."""
        if not batch:
            return
        graph: dict[Key, Any] = {}
        for key, task in batch.items():
            graph[key] = Task(key, self._run, key, task.func, *task.args)
            graph.update({up: DataNode(up, values[up]) for up in task.dependencies if up not in batch})
        if len(batch) == 1:
            (key,) = batch
            self._submit(self._guard, lambda: graph[key](values), (key,))
            return
        keys = tuple(batch)
        compute = lambda: get_async(self._submit, self.num_workers, graph, list(keys))  # noqa: E731
        threading.Thread(target=self._guard, args=(compute, keys), name="anabranch-region", daemon=True).start()

    def _submit(self, function: Any, *args: Any) -> Any:
        pool = self._pool
        if pool is None:
            raise RuntimeError("the run is over")
        return pool.submit(function, *args)

    def _guard(self, compute: Any, keys: tuple[Key, ...]) -> None:
        try:
            compute()
        except BaseException as error:  # the wrapper never raises: this is the scheduler, or the end of the run
            if self._pool is not None:
                for key in keys:
                    if key not in self._values:
                        self._messages.put(Dropped(key, f"{type(error).__name__}: {error}"))

    def _run(self, key: Key, function: Any, *args: Any) -> Any:
        outcome = function(*args)
        with self._lock:
            self._values[key] = outcome
            free = [k for k, task in self._held.items() if all(up in self._values for up in task.dependencies)]
            ready = {k: self._held.pop(k) for k in free}
            values = {up: self._values[up] for task in ready.values() for up in task.dependencies}
            self._drop()
        # Only now: who gets the message may submit a region that needs the value.
        self._messages.put(Posted(outcome.report))
        if self._pool is not None:
            self._compute(ready, values)
        return outcome

    def _drop(self) -> None:
        """Drop values that nobody wants and no held task needs."""
        needed = {up for task in self._held.values() for up in task.dependencies}
        for key in self._unwanted.intersection(self._values) - needed:
            del self._values[key]

    def next_message(self, timeout_s: float | None) -> Message | None:
        """The next report."""
        try:
            return self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def release(self, keys: Iterable[Key]) -> None:
        """Drop values."""
        with self._lock:
            for key in keys:
                self._unwanted.add(key)
                self._held.pop(key, None)
            self._drop()

    def gather(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Values by key."""
        return {key: self._values[key] for key in keys if key in self._values}
