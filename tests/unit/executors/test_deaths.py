"""What the plug-in on the scheduler keeps of a worker that leaves in good order, and gives back to the driver."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from anabranch.executors.deaths import HandBack

CLIENT, OTHER, ADDRESS = "the driver's", "another's", "tcp://127.0.0.1:1"


class Scheduler:
    """As much of a scheduler as the plug-in asks for, with one worker."""

    def __init__(self, *, nthreads: int = 1) -> None:
        self.plugins: dict[str, Any] = {}
        self.clients = {"client": CLIENT}
        self.tasks: dict[Any, Any] = {}
        self.told: list[Any] = []
        self.released: list[Any] = []
        self.worker = SimpleNamespace(
            address=ADDRESS,
            nthreads=nthreads,
            processing=set(),
            long_running=set(),
            executing={},
            last_seen=time.time(),
        )
        self.workers = {ADDRESS: self.worker}

    def add(self, number: int, *, token: str = "run", wants: Any = (CLIENT,), ran_s: float | None = None) -> Any:
        """A task that the worker has; `ran_s`: for how long it had run at the last heartbeat."""
        task = Task((f"work-{token}", number), who_wants=set(wants))
        self.tasks[task.key] = task
        self.worker.processing.add(task)
        if ran_s is not None:
            self.worker.executing[task] = ran_s
        return task

    def log_event(self, topic: str, event: Any) -> None:
        self.told.append(event)

    def client_releases_keys(self, keys: list[Any], client: str) -> None:
        self.released += keys


class Task:
    def __init__(self, key: Any, who_wants: set[Any]) -> None:
        self.key = key
        self.who_wants = who_wants
        self.dependents: set[Task] = set()
        self.worker_restrictions: set[str] | None = None


def leave(scheduler: Scheduler, *, expected: bool = True, done: tuple[Any, ...] = ()) -> list[Any]:
    """Numbers of the tasks that are given back when the worker leaves."""
    make, arguments = HandBack("run", "client").__reduce__()
    plugin = make(*arguments)
    plugin.scheduler, plugin.workers = scheduler, dict(scheduler.workers)
    plugin.done.update(done)
    del scheduler.workers[ADDRESS]
    plugin.log_event("all", {"action": "remove-worker", "worker": ADDRESS, "expected": expected})
    kept = {task.key[1] for task in scheduler.tasks.values() if task.worker_restrictions == {ADDRESS}}
    plugin.remove_worker(scheduler, ADDRESS)
    told = [number for _, number, _ in scheduler.told]
    assert sorted(told) == sorted(number for _, number in scheduler.released)
    assert kept <= {*told}, "nobody would run it"
    return sorted(told)


def test_what_ran_is_given_back_with_the_time_that_it_had_run() -> None:
    scheduler = Scheduler()
    scheduler.add(1, ran_s=7.0)

    assert leave(scheduler) == [1]
    assert scheduler.told[0][2] == {"left": ADDRESS, "ran_s": pytest.approx(7.0, abs=1.0)}


def test_what_may_have_begun_since_the_last_heartbeat_is_given_back_without_a_time() -> None:
    scheduler = Scheduler(nthreads=2)
    scheduler.add(1, ran_s=7.0)
    scheduler.add(2)

    assert leave(scheduler) == [1, 2]
    assert {number: found["ran_s"] is None for _, number, found in scheduler.told} == {1: False, 2: True}


def test_what_waited_behind_others_stays_with_dask() -> None:
    scheduler = Scheduler()
    scheduler.add(1, ran_s=7.0)
    scheduler.add(2)
    scheduler.add(3, token="another")

    assert leave(scheduler) == [1]


def test_what_has_given_up_its_slot_has_begun() -> None:
    scheduler = Scheduler()
    scheduler.add(1, ran_s=7.0)
    scheduler.worker.long_running.add(scheduler.add(2))

    assert leave(scheduler) == [1, 2]


def test_what_depends_on_it_goes_with_it() -> None:
    scheduler = Scheduler()
    cut, chunk = scheduler.add(1, wants=(), ran_s=0.1), Task(("work-run", 2), {CLIENT})
    scheduler.tasks[chunk.key] = chunk
    cut.dependents.add(chunk)

    make, arguments = HandBack("run", "client").__reduce__()
    plugin = make(*arguments)
    plugin.scheduler, plugin.workers = scheduler, dict(scheduler.workers)
    plugin.log_event("all", {"action": "remove-worker", "worker": ADDRESS, "expected": True})
    plugin.remove_worker(scheduler, ADDRESS)

    assert scheduler.released == [chunk.key]


@pytest.mark.parametrize(
    "case", [{"expected": False}, {"done": [("work-run", 1)]}], ids=["a death", "a value that is made again"]
)
def test_deaths_and_what_dask_makes_again_are_its_own(case: dict[str, Any]) -> None:
    scheduler = Scheduler()
    scheduler.add(1, ran_s=7.0)

    assert leave(scheduler, **case) == []


def test_what_another_client_wants_as_well_stays() -> None:
    scheduler = Scheduler()
    scheduler.add(1, wants=(CLIENT, OTHER), ran_s=7.0)

    assert leave(scheduler) == []


def test_other_events_and_workers_that_came_before_the_plug_in_knew_of_them_are_nothing_to_it() -> None:
    scheduler = Scheduler()
    make, arguments = HandBack("run", "client").__reduce__()
    plugin = make(*arguments)
    plugin.scheduler, plugin.workers = scheduler, {}
    for event in ("text", {"action": "add-worker"}, {"action": "remove-worker", "worker": ADDRESS, "expected": True}):
        plugin.log_event("all", event)
        plugin.log_event("run", event)

    plugin.remove_worker(scheduler, ADDRESS)

    assert not scheduler.released
