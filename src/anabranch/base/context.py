"""What running task code may ask about its run: ``from anabranch import context``, then ``context.map_index``.

The attributes are those of `TaskContext`. Where no task is running, asking raises `AttributeError`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

_TASK: ContextVar[TaskContext | None] = ContextVar("anabranch_task", default=None)
_LIMITS: ContextVar[frozenset[str]] = ContextVar("anabranch_limits", default=frozenset())
"""Named limits that the task running here holds, and the tasks that run the flow it is of."""


@dataclass(slots=True)
class RunInfo:
    """What is the same for all task runs of a flow run."""

    flow_name: str
    run_id: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    date: datetime | None = None
    """When the run is, for the flow: its scheduled time, else its start. Aware."""
    clock: Callable[[], float] | None = None
    """Gives seconds since the epoch where a test has a clock of its own; None: the system's."""

    def now(self) -> datetime:
        """The time, aware."""
        return datetime.now(UTC) if self.clock is None else datetime.fromtimestamp(self.clock(), UTC)


@dataclass(slots=True)
class TaskContext:
    """One attempt at a task run, as its code sees it. Mutable: a chunk moves one from element to element."""

    run: RunInfo
    task_name: str
    task_slug: str
    tags: frozenset[str] = frozenset()
    map_index: int | None = None
    task_run_count: int = 1
    """Which attempt this is, from 1."""
    task_loop_count: int = 1
    """Which round of a loop this is, from 1."""
    task_loop_result: Any = None
    """What the round before gave with ``LOOP(result=…)``; None in the first."""
    calls: list[Any] | None = field(default=None, repr=False)
    """Deferred calls that the task has made so far."""
    limits: frozenset[str] = frozenset()
    """Named limits that it holds."""
    names: Mapping[int, tuple[str, int]] | None = field(default=None, repr=False)
    """Of deferred calls: by map index, the caller with the task's name, and the number of the call."""

    @property
    def flow_name(self) -> str:
        """Name of the flow."""
        return self.run.flow_name

    @property
    def run_id(self) -> str:
        """Id of the flow run."""
        return self.run.run_id

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Parameters of the flow run, by name."""
        return self.run.parameters

    @property
    def date(self) -> datetime | None:
        """When the run is, for the flow; aware."""
        return self.run.date

    @property
    def now(self) -> datetime:
        """The time at which this is asked, in UTC; on a test's fake clock, what that shows."""
        return self.run.now()

    @property
    def today(self) -> str | None:
        """Date of the run as ``2026-11-20``."""
        return self.date.strftime("%Y-%m-%d") if self.date else None

    @property
    def yesterday(self) -> str | None:
        """The day before `today`."""
        return (self.date - timedelta(days=1)).strftime("%Y-%m-%d") if self.date else None

    @property
    def tomorrow(self) -> str | None:
        """The day after `today`."""
        return (self.date + timedelta(days=1)).strftime("%Y-%m-%d") if self.date else None

    def seen(self, name: str, default: Any = None) -> Any:
        """An attribute as task code sees it: of a deferred call, the map index is its number among its caller's."""
        if name == "map_index" and self.names is not None and self.map_index is not None:
            return self.names[self.map_index][1]
        return getattr(self, name, default)

    @property
    def task_full_name(self) -> str:
        """The task run as it is shown: ``parse[777]``, of a deferred call ``crawl[3]/fetch[17]``."""
        if self.names is not None and self.map_index is not None:
            called, number = self.names[self.map_index]
            return f"{called}[{number}]"
        return self.task_slug if self.map_index is None else f"{self.task_slug}[{self.map_index}]"

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this task run, whatever happens: ``run_id/slug/index``."""
        if self.names is not None:
            return f"{self.run.run_id}/{self.task_full_name}"
        return f"{self.run.run_id}/{self.task_slug}" + ("" if self.map_index is None else f"/{self.map_index}")

    @property
    def logger(self) -> logging.Logger:
        """Logger of this task, below the ``anabranch`` logger."""
        return logging.getLogger(f"anabranch.task.{self.task_name}")


def is_running() -> bool:
    """Whether a task is running here."""
    return _TASK.get() is not None


def current() -> TaskContext | None:
    """The context of the task that is running here, if one is."""
    return _TASK.get()


def get(name: str, default: Any = None) -> Any:
    """One attribute of the running task's context, or `default` where no task is running or there is no such thing."""
    task = _TASK.get()
    return task.seen(name, default) if task is not None else default


def held_limits() -> frozenset[str]:
    """Named limits that are held by the task running here, and by tasks that run the flow it is of."""
    return _LIMITS.get()


def note_call(call: object) -> None:
    """Remember that the running task has made a deferred call."""
    task = _TASK.get()
    if task is not None:
        if task.calls is None:
            task.calls = []
        task.calls.append(call)


@contextmanager
def entered(task: TaskContext | None) -> Iterator[TaskContext | None]:
    """Let code see `task` as its context until the block ends."""
    token = _TASK.set(task)
    held = _LIMITS.set(_LIMITS.get() | task.limits) if task is not None and task.limits else None
    try:
        yield task
    finally:
        if held is not None:
            _LIMITS.reset(held)
        _TASK.reset(token)


def __getattr__(name: str) -> Any:
    task = None if name.startswith("__") else _TASK.get()
    if task is None:
        raise AttributeError(f"context.{name}: no task is running here; there is a context inside a running task only")
    if not hasattr(task, name):
        there = [n for n in dir(task) if not n.startswith("_")]
        raise AttributeError(f"the context has no {name!r}; it has: {', '.join(there)}")
    return task.seen(name)
