"""How a run stands, as plain values that any process can read: what is written down on a scheduler."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from anabranch.base.events import Event, MapAdvanced, RunFinished, RunStarted, TaskChanged


class Standing:
    """The standing of a run, kept by its events; read from any thread.

    Parameters
    ----------
    tasks
        What is known of tasks already, by slug.
    max_tasks
        Further ones are only counted.
    """

    def __init__(self, *, tasks: Mapping[str, Any] | None = None, max_tasks: int | None = None) -> None:
        self.tasks: dict[str, dict[str, Any]] = dict(tasks or {})
        self.more_tasks = 0
        self._max_tasks = max_tasks
        self._parameters: set[str] = set()
        self._lock = threading.Lock()

    def take(self, event: Event) -> None:
        """Take note of an event."""
        with self._lock:
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case RunStarted(_, _, _, nodes):
                self._parameters = {slug for slug, kind in nodes.items() if kind == "parameter"}
                slugs = [slug for slug in nodes if slug not in self._parameters]
                kept = slugs[: self._max_tasks]
                self.tasks.update({slug: {"state": "Pending"} for slug in kept})
                self.more_tasks = len(slugs) - len(kept)
            case TaskChanged(now, slug, state) if (task := self._task(slug)) is not None:
                task.update(state=state.name, message=state.message[:500])
                if state.is_running():
                    task.setdefault("since", now)
                elif state.is_finished():
                    task["ended"] = now
                    if state.counts is not None and state.counts.total:
                        counts = state.counts
                        task.update(width=counts.total, done=counts.total, failed=counts.failed, retrying=0)
            case MapAdvanced(now, slug, width, done, failed, retrying) if (task := self._task(slug)) is not None:
                task.setdefault("since", now)
                task.update(state="Running", width=width, done=done, failed=failed, retrying=retrying)

    def _task(self, slug: str) -> dict[str, Any] | None:
        """What is known of a task, if it is one that is kept."""
        if slug not in self.tasks:
            is_full = self._max_tasks is not None and len(self.tasks) >= self._max_tasks
            if is_full or slug in self._parameters:
                return None
        return self.tasks.setdefault(slug, {})

    def copy(self) -> dict[str, dict[str, Any]]:
        """The tasks as they are now."""
        with self._lock:
            return {slug: dict(each) for slug, each in self.tasks.items()}


class Shown:
    """An observer through which a run is shown elsewhere, with names, states and numbers only.

    Parameters
    ----------
    show
        Told after each event where the standing is to be had: as plain values, from any thread. Must not wait.
    """

    MAX_TASKS = 200

    def __init__(self, show: Callable[[Callable[[], Mapping[str, Any]]], object]) -> None:
        self._show = show
        self._standing = Standing(max_tasks=self.MAX_TASKS)
        self._flow = ""
        self._status: dict[str, Any] = {"state": "Running"}

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        self._standing.take(event)
        if isinstance(event, RunStarted):
            self._flow, self._status = event.flow_name, {**self._status, "started": event.now}
        elif isinstance(event, RunFinished):
            self._status = {**self._status, "state": event.state.name}
        self._show(self.standing)

    def standing(self) -> dict[str, Any]:
        """The flow's name, and the run's state and tasks."""
        tasks = self._standing.copy()
        for task in tasks.values():
            task.pop("message", None)  # may have anything in it, and where this is shown nobody is asked who they are
        return {
            "flow": self._flow,
            "status": {**self._status, "more_tasks": self._standing.more_tasks, "tasks": tasks},
        }
