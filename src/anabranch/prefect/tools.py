"""Helpers of Prefect 1: ``prefect.utilities``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from anabranch import config
from anabranch.base import context
from anabranch.base.prefect1 import refuse
from anabranch.definition.branching import as_node
from anabranch.definition.task import Task
from anabranch.signals import PAUSE

RAISES: ContextVar[bool] = ContextVar("anabranch_prefect_raises", default=False)
"""Whether runs raise what their tasks raised."""


@contextmanager
def raise_on_exception() -> Iterator[None]:
    """Within it, a run that fails raises the exception of its task, at its end."""
    token = RAISES.set(True)
    try:
        yield
    finally:
        RAISES.reset(token)


def set_temporary_config(settings: Mapping[str, Any]) -> AbstractContextManager[object]:
    """Within it, the settings have these values, by dotted names of anabranch's."""
    return config.set(dict(settings))


def is_serializable(value: Any, raise_on_error: bool = False) -> bool:
    """Whether a value can be pickled, and loaded again."""
    import cloudpickle

    try:
        cloudpickle.loads(cloudpickle.dumps(value))
    except Exception:
        if raise_on_error:
            raise
        return False
    return True


def as_task(value: object, flow: Any = None) -> Any:
    """A node or task itself; a node that gives any other value."""
    return value if isinstance(value, Task) else as_node(value, "as_task")


def pause_task(message: str | None = None, duration: timedelta | None = None) -> None:
    """End the task run as `Paused`, unless the run was resumed with an approval of the task, which then goes on.

    Raises
    ------
    PAUSE
        There is no approval yet.
    OptionError
        A duration is given.
    """
    if duration is not None:
        refuse("pause_task(duration=)")
    task = context.current()
    if task is None or not task.is_approved:
        raise PAUSE(message or "Pause signal raised during task execution.")
