"""Facts about its run for running task code: ``from anabranch import context``, then ``context.map_index``.

The attributes are those of `TaskContext`; ``context["map_index"]`` and ``"map_index" in context`` work, too. If no task
is running, there is a `logger` only, and an `artifact` that keeps nothing.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import ModuleType
from typing import Any

from anabranch.base.artifacts import Artifacts, Book
from anabranch.base.errors import listed, nearest

NAMES = (
    *("flow_name", "run_id", "parameters", "date", "now", "today", "yesterday", "tomorrow", "logger", "artifact"),
    *("task_name", "task_slug", "task_full_name", "tags", "map_index", "task_run_count"),
    *("task_loop_count", "task_loop_result", "idempotency_key", "devices"),
)
"""What users may ask the context for."""
PREFECTS = {"flow_run_id": "run_id", "scheduled_start_time": "date", "task_tags": "tags"}
"""Names that Prefect 1 has for the same thing."""
_NO_DEFAULT: Any = object()

_TASK: ContextVar[TaskContext | None] = ContextVar("anabranch_task", default=None)
_LIMITS: ContextVar[frozenset[str]] = ContextVar("anabranch_limits", default=frozenset())
"""Named limits held by the task running here, and by tasks that run its flow."""
_PARENT: ContextVar[str | None] = ContextVar("anabranch_parent", default=None)
"""Id of the run whose task runs the flow that is run here."""
_ENDS: ContextVar[Callable[[], bool] | None] = ContextVar("anabranch_ends", default=None)
"""Tells whether the run of the task running here is over, so that nothing more of it should begin."""


@dataclass(slots=True)
class RunInfo:
    """What is the same for all task runs of a flow run."""

    flow_name: str
    run_id: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    date: datetime | None = None
    """The aware datetime that the run is for: its scheduled time, else its start."""
    clock: Callable[[], float] | None = None
    """Returns seconds since the epoch on a test's clock; None: the system's clock."""

    def now(self) -> datetime:
        """The time, aware."""
        return datetime.now(UTC) if self.clock is None else datetime.fromtimestamp(self.clock(), UTC)


@dataclass(slots=True)
class TaskContext:
    """One attempt of a task run, as its code sees it. Mutable: a chunk moves it from element to element."""

    run: RunInfo
    task_name: str
    task_slug: str
    tags: frozenset[str] = frozenset()
    map_index: int | None = None
    task_run_count: int = 1
    """Number of the attempt, from 1."""
    task_loop_count: int = 1
    """Number of the round of a loop, from 1."""
    task_loop_result: Any = None
    """Value that the previous round passed with ``LOOP(result=…)``; None in the first round."""
    devices: tuple[str, ...] = ()
    """Names of the GPUs of its worker that are its own while it runs, as CUDA_VISIBLE_DEVICES has them."""
    calls: list[Any] | None = field(default=None, repr=False)
    """Deferred calls that the task has made so far."""
    limits: frozenset[str] = frozenset()
    """Named limits that the task holds."""
    is_approved: bool = field(default=False, repr=False)
    """Whether the task was approved when the run was resumed."""
    is_share: bool = field(default=False, repr=False)
    """Whether a chunk's share of a reduction is computed, before the task run itself."""
    artifacts: Book | None = field(default=None, repr=False)
    """What the attempt has shown so far."""
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
        """The aware datetime that the run is for."""
        return self.run.date

    @property
    def now(self) -> datetime:
        """The present time in UTC, or that of a test's fake clock."""
        return self.run.now()

    @property
    def today(self) -> str | None:
        """Date of the run, such as ``2026-11-20``."""
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
        """Name of the task run in messages, such as ``parse[777]`` or, for a deferred call, ``crawl[3]/fetch[17]``."""
        if self.names is not None and self.map_index is not None:
            called, number = self.names[self.map_index]
            return f"{called}[{number}]"
        return self.task_slug if self.map_index is None else f"{self.task_slug}[{self.map_index}]"

    @property
    def idempotency_key(self) -> str:
        """A text, ``run_id/slug/index``, that is the same in every attempt of this task run."""
        if self.names is not None:
            return f"{self.run.run_id}/{self.task_full_name}"
        return f"{self.run.run_id}/{self.task_slug}" + ("" if self.map_index is None else f"/{self.map_index}")

    @property
    def logger(self) -> logging.Logger:
        """Logger of this task, below the ``anabranch`` logger."""
        return logger_of(self.task_name)

    @property
    def artifact(self) -> Artifacts:
        """Shows things to whoever looks at the run: tables, images, texts, links, progress and metrics."""
        return Artifacts(self)


def logger_of(task_name: str) -> logging.Logger:
    """The logger of a task."""
    return logging.getLogger(f"anabranch.task.{task_name}")


def get_logger(name: str = "") -> logging.Logger:
    """The logger of the task that runs here, elsewhere that of ``anabranch``; with a name, one of that name below it.

    Its lines go where those of tasks go: ``get_logger("etl")`` may stand in a module.
    """
    task = current()
    logger = task.logger if task is not None else logging.getLogger("anabranch")
    return logger.getChild(name) if name else logger


def is_running() -> bool:
    """Whether a task is running here."""
    return _TASK.get() is not None


def current() -> TaskContext | None:
    """The context of the task running here; None if there is none."""
    return _TASK.get()


def get(name: str, default: Any = _NO_DEFAULT) -> Any:
    """What the context has under a name; `default` (None) where there is no value.

    There is none if no task is running, no ``map_index`` if the task is not mapped, and no ``task_loop_result`` in the
    first round of a loop. A name that the context never has gives the default with a warning.

    Raises
    ------
    AttributeError
        The context never has that name, and no default is given.
    """
    try:
        value = _read(name, _TASK.get())
    except AttributeError as error:
        if default is _NO_DEFAULT:
            raise
        warnings.warn(str(error), stacklevel=2)
        return default
    return value if value is not _NO_VALUE else None if default is _NO_DEFAULT else default


_NO_VALUE: Any = object()


def _read(name: str, task: TaskContext | None) -> Any:
    """What users see under a name."""
    ours = PREFECTS.get(name, name)
    if ours not in NAMES:
        near = nearest(name, [*NAMES, *PREFECTS])
        raise AttributeError(f"the context has no {name!r}{near or f'; it has: {listed(NAMES)}'}")
    if task is None:
        return logging.getLogger("anabranch") if name == "logger" else Artifacts() if name == "artifact" else _NO_VALUE
    value = task.seen(ours)
    is_given = value is not None or (name == "task_loop_result" and task.task_loop_count > 1)
    return value if is_given else _NO_VALUE


class ContextModule(ModuleType):
    """A module that is a mapping as well: ``context["map_index"]``."""

    def __getitem__(self, name: str) -> Any:
        try:
            value = _read(name, _TASK.get())
        except AttributeError as error:
            raise KeyError(str(error)) from None
        if value is _NO_VALUE:
            raise KeyError(name)
        return value

    def __call__(self, *args: object, **kwargs: object) -> None:
        """Refuse what Prefect 1 has: ``with context(…)``."""
        from anabranch.base.prefect1 import refuse

        refuse("with context(…)")

    def __contains__(self, name: object) -> bool:
        try:
            return _read(str(name), _TASK.get()) is not _NO_VALUE
        except AttributeError:
            return False

    def __reduce__(self) -> tuple[Any, ...]:  # tasks name it, and cloudpickle knows plain modules only
        return import_module, (self.__name__,)


def held_limits() -> frozenset[str]:
    """Named limits that are held by the task running here, and by tasks that run the flow it is of."""
    return _LIMITS.get()


def parent_run_id() -> str | None:
    """Id of the run whose task runs the flow that is run here, if one does."""
    task = _TASK.get()
    return task.run_id if task is not None else _PARENT.get()


@contextmanager
def part_of(run_id: str | None) -> Iterator[None]:
    """Until the block ends, flows that are run are part of this run."""
    token = _PARENT.set(run_id)
    try:
        yield
    finally:
        _PARENT.reset(token)


def over() -> Callable[[], bool]:
    """A function that tells, in any thread, whether the task that is running here is part of a run that is over."""
    return _ENDS.get() or (lambda: False)


@contextmanager
def ending(ends: Callable[[], bool]) -> Iterator[None]:
    """Until the block ends, let code ask by `over` whether its run is over, besides the runs that it is part of."""
    outer = _ENDS.get()
    token = _ENDS.set(ends if outer is None else lambda: ends() or outer())
    try:
        yield
    finally:
        _ENDS.reset(token)


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
    if name.startswith("__"):
        raise AttributeError(name)
    value, task = _read(name, _TASK.get()), _TASK.get()
    if value is _NO_VALUE and task is None:
        raise AttributeError(f"context.{name}: no task is running here; there is a context inside a running task only")
    return None if value is _NO_VALUE else value
