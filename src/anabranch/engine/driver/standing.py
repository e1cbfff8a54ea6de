"""How a run stands, as plain values that any process can read: what is written down on a scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from anabranch.base.events import Event
from anabranch.base.observers import Recipient
from anabranch.base.run_model import NodeModel, RunModel


def tasks_of(nodes: Iterable[NodeModel]) -> dict[str, dict[str, Any]]:
    """How nodes stand, by slug."""
    return {node.slug: _task(node) for node in nodes}


def _task(node: NodeModel) -> dict[str, Any]:
    task: dict[str, Any] = {"state": node.name, "message": node.message}
    if node.width:
        task.update(width=node.width, done=node.done(), failed=node.failed(), retrying=node.retrying())
    more = {"since": node.began, "ended": node.ended, "running": node.running_text() or None}
    return {**task, **{name: value for name, value in more.items() if value is not None}}


def tasks_in(model: RunModel[NodeModel]) -> list[NodeModel]:
    """Nodes of a run but for its parameters."""
    return [node for node in list(model.nodes.values()) if node.kind != "parameter"]


class Shown(Recipient):
    """An observer through which a run is shown elsewhere, with names, states and numbers only.

    Parameters
    ----------
    show
        Told after each event where the standing is to be had: as plain values, from any thread. Must not wait.
    """

    MAX_TASKS = 200

    def __init__(self, show: Callable[[Callable[[], Mapping[str, Any]]], object]) -> None:
        self._show = show
        self._model = RunModel(NodeModel)

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        self._model.take(event)
        self._show(self.standing)

    def standing(self) -> dict[str, Any]:
        """The flow's name, and the run's state and tasks."""
        model, nodes = self._model, tasks_in(self._model)
        tasks = tasks_of(nodes[: self.MAX_TASKS])
        for task in tasks.values():
            for text in ("message", "running"):
                task.pop(text, None)  # may have anything in it, and where this is shown nobody is asked who they are
        status = {"state": model.state.name, "more_tasks": max(0, len(nodes) - self.MAX_TASKS), "tasks": tasks}
        return {"flow": model.flow_name, "status": {"started": model.began, **status}}
