"""How a run stands, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anabranch.base.events import ElementBegan, Event, MapAdvanced, RunStarted, TaskChanged
from anabranch.base.run_model import NodeModel, RunModel
from anabranch.engine.driver.standing import Shown, tasks_in, tasks_of
from anabranch.states import Running, Submitted

EVENTS: list[Event] = [
    RunStarted(1.0, "etl", "r", {"date": "parameter", "parse": "task", "load": "task", "late": "task"}),
    MapAdvanced(2.0, "parse", 10, 4, 1, 0),
    ElementBegan(3.0, "parse", Running(map_index=7, worker="w1")),
    TaskChanged(4.0, "load", Running(message="secret", worker="w2")),
    TaskChanged(5.0, "late", Submitted()),
]


def test_what_runs_is_named_with_its_worker():
    model = RunModel(NodeModel)
    for event in EVENTS:
        model.take(event)
    assert tasks_of(tasks_in(model)) == {
        "parse": {
            "state": "Running", "message": "", "width": 10, "done": 4, "failed": 1, "retrying": 0, "since": 2.0,
            "running": "running: [7] on w1",
        },
        "load": {"state": "Running", "message": "secret", "since": 4.0, "running": "on w2"},
        "late": {"state": "Submitted", "message": ""},
    }  # fmt: skip


def test_no_text_is_shown_where_anybody_may_look():
    told: list[Callable[[], Mapping[str, Any]]] = []
    shown = Shown(told.append)
    for event in EVENTS:
        shown(event)
    assert told[-1]()["status"]["tasks"]["load"] == {"state": "Running", "since": 4.0}
