"""The page of Dask's dashboard without a dashboard: what it says of runs, whatever was written down about them."""

from __future__ import annotations

import asyncio
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from tests.hostile_names import CONTROL, CORPUS

from anabranch.base.events import MapAdvanced, RunFinished, RunStarted, TaskChanged
from anabranch.engine.driver.standing import Shown
from anabranch.executors.scheduler_page import (
    DETACHED,
    MAX_ROWS,
    MAX_RUNS,
    OWN,
    Page,
    runs_of,
    text_of,
)
from anabranch.states import Counts, Failed, Running, Success

NOW = 100.0


def page(*runs: tuple[str, dict[str, Any]]) -> str:
    return text_of({f"r{number}": run for number, run in enumerate(runs)}, NOW)


def standing(events: list[Any], **options: Any) -> dict[str, Any]:
    found: list[Any] = []
    shown = Shown(found.append, **options)
    for event in events:
        shown(event)
    told: dict[str, Any] = found[-1]()
    return told


def test_what_a_run_tells_is_what_the_page_says():
    # given
    told = standing(
        [
            RunStarted(50.0, "etl", "r", {"date": "parameter", "paths": "task", "parse": "task"}),
            TaskChanged(51.0, "date", Success()),
            TaskChanged(51.0, "paths", Running()),
            TaskChanged(60.0, "paths", Success(message="hunter2")),
            MapAdvanced(60.0, "parse", width=10_000, done=10, failed=0, retrying=0),
            MapAdvanced(90.0, "parse", width=10_000, done=4_000, failed=7, retrying=3),
        ]
    )
    # when
    text = page((told["flow"], told["status"]))
    # then
    assert "<span>etl</span>" in text
    assert "Running" in text
    assert "hunter2" not in repr(told)
    assert "date" not in told["status"]["tasks"]
    for cell in ("4,000", "10,000", "7", "3", "100.0/s"):  # since 60, until now
        assert f'<td class="n">{cell}</td>' in text, cell


def test_a_map_that_has_ended_has_its_counts_and_the_pace_that_it_had():
    told = standing(
        [
            RunStarted(0.0, "etl", "r", {"parse": "task"}),
            MapAdvanced(10.0, "parse", width=1_000, done=1, failed=0, retrying=0),
            TaskChanged(20.0, "parse", Failed(counts=Counts(total=1_000, successful=990, failed=10))),
            RunFinished(20.0, Failed()),
        ]
    )
    text = page((told["flow"], told["status"]))
    assert '<td class="n">100.0/s</td>' in text
    assert '<td class="n">10</td>' in text
    assert told["status"]["state"] == "Failed"


@pytest.mark.parametrize("name", [*CORPUS, *CONTROL])
def test_names_are_text_wherever_they_are(name: str):
    text = page((name, {"state": name, "tasks": {name: {"state": name, "done": 1, "width": 2}}}))
    for tag in ("<script", "<img", "<svg", "<iframe", "<style", "<a ", "<!--", "</details"):
        assert tag not in text
    assert all(character.isprintable() for character in text)


@pytest.mark.parametrize(
    "status",
    [
        {"tasks": None},
        {"tasks": {"a": 3}},
        {"tasks": {"a": {"state": None, "done": "<b>", "width": float("nan"), "since": "x", "ended": {}}}},
        {"tasks": {"a": {"done": 10**400, "width": -1, "since": float("inf")}}},
        {"started": "never", "state": ["<b>"], "more_tasks": "many"},
    ],
    ids=repr,
)
def test_what_is_not_as_it_should_be_is_shown_as_far_as_it_goes(status: dict[str, Any]):
    text = page(("etl", status))
    assert "etl" in text
    assert "<b>" not in text


def test_the_page_is_bounded_and_says_what_it_leaves_out():
    tasks = {f"task {number}": {"state": "Pending"} for number in range(300)}
    text = page(*((f"flow {number}", {"tasks": tasks, "started": float(number)}) for number in range(MAX_RUNS + 5)))
    assert text.count("<tr><td>") == MAX_ROWS
    assert text.count("<h2>") == MAX_RUNS
    assert "5 runs more" in text
    assert "250 tasks more" in text
    assert text.index(f"flow {MAX_RUNS + 4}<") < text.index("flow 10<"), "the newest first"
    assert len(text) < 300_000


def test_a_run_of_very_many_tasks_tells_of_some_and_counts_the_rest():
    told = standing([RunStarted(0.0, "wide", "r", {f"task {number}": "task" for number in range(5_000)})])
    assert len(told["status"]["tasks"]) == Shown.MAX_TASKS
    assert told["status"]["more_tasks"] == 5_000 - Shown.MAX_TASKS
    assert list(told["status"]["tasks"])[-1] == f"task {Shown.MAX_TASKS - 1}"


def test_runs_of_drivers_here_and_there_are_shown_alike():
    metadata = {
        OWN: {"a": {"flow": "here", "status": {"state": "Running"}}, "b": {}, "e": {"flow": "gone", "status": {}}},
        DETACHED: {"b": {"flow": "there", "status": {"state": "Running"}, "journal": {}}, "c": None, "d": {"sent": 1}},
    }
    found = runs_of(SimpleNamespace(task_metadata=metadata), {"a", "b"})
    assert {run_id: flow for run_id, (flow, _) in found.items()} == {"a": "here", "b": "there"}
    assert runs_of(SimpleNamespace(task_metadata={OWN: 3}), ()) == {}


class FakeScheduler:
    """As much of a scheduler as the page touches."""

    def __init__(self) -> None:
        self.clients = {"client": object()}
        self.task_metadata: dict[str, Any] = {}
        self.plugins: dict[str, Any] = {}
        self.http_application: Any = None


def started(plugin: Page, scheduler: FakeScheduler) -> None:
    with pytest.raises(StopIteration):
        plugin.start(scheduler).send(None)


def test_what_travels_is_text_and_a_scheduler_that_will_not_have_it_is_left_as_it_was():
    # given
    data = pickle.dumps(Page("token", "client"))
    plugin, scheduler = pickle.loads(data), FakeScheduler()
    assert type(plugin).__module__.startswith("_anabranch_page_")
    assert b"anabranch.executors" not in data
    # when
    started(plugin, scheduler)
    # then
    assert scheduler.task_metadata[OWN]["token"] == {"refused": ""}  # without a dashboard there is nothing to say
    with pytest.raises(RuntimeError, match="has gone"):
        Page("late", "another client").start(scheduler).send(None)


def test_a_dashboard_that_is_not_as_it_is_known_is_left_as_it_was_with_the_reason():
    plugin, scheduler = Page("token", "client"), FakeScheduler()
    scheduler.http_application = SimpleNamespace(applications=[SimpleNamespace(app_paths=[])])
    started(plugin, scheduler)
    assert "AttributeError" in scheduler.task_metadata[OWN]["token"]["refused"]


def test_what_was_written_down_goes_with_the_drivers_client():
    # given
    plugin, scheduler = Page("token", "client"), FakeScheduler()
    started(plugin, scheduler)
    scheduler.plugins["anabranch-page-token"] = plugin

    async def leave(client: str) -> None:
        plugin.remove_client(scheduler, client)

    # when / then
    asyncio.run(leave("another"))
    assert scheduler.plugins
    assert "token" in scheduler.task_metadata[OWN]
    asyncio.run(leave("client"))
    assert scheduler.plugins == {}
    assert scheduler.task_metadata == {}
