"""What is said when no report comes."""

from __future__ import annotations

from typing import Any

from anabranch.engine.driver.waiting import Watchdog
from anabranch.executors.situation import situation

A, B = "tcp://10.0.0.1:4001", "tcp://10.0.0.2:4002"
GIB = 2**30


def worker(**facts: Any) -> dict[str, Any]:
    return {"status": "running", "memory_limit": 4 * GIB, "metrics": {"memory": GIB}, "last_seen": 100.0, **facts}


def test_it_speaks_after_its_limit_and_then_less_and_less_often() -> None:
    said: list[str] = []
    watchdog = Watchdog(30, lambda: ["2 tasks of etl.load with tcp://a"], said.append)

    for now in range(1000, 1300):
        watchdog.look(now)

    assert said == [f"no report for {waited} s: 2 tasks of etl.load with tcp://a" for waited in (30, 60, 120, 240)]


def test_a_report_begins_the_wait_again() -> None:
    said: list[str] = []
    watchdog = Watchdog(30, lambda: ["something"], said.append)

    for now in range(200):
        watchdog.look(now)
        if now % 29 == 0:
            watchdog.calm()

    assert said == []


def test_it_is_silent_where_nothing_is_expected() -> None:
    said: list[str] = []
    watchdog = Watchdog(30, list, said.append)

    for now in (0, 30, 60, 90):
        watchdog.look(now)

    assert said == []


def test_tasks_that_run_are_told_with_their_workers() -> None:
    keys = [("etl.load-7f3a", 1), ("etl.load-7f3a", 2), ("other-99", 1)]

    said = situation(
        {A: worker(), B: worker()}, dict.fromkeys(keys[:2], "processing"), {A: keys[:1], B: keys[1:]}, {}, 100
    )

    assert said == [f"2 tasks of etl.load with {A}, {B}"]


def test_what_no_worker_offers_is_named() -> None:
    key = ("etl.train-7f3a", 1)

    said = situation({A: worker(resources={"GPU": 0.0})}, {key: "no-worker"}, {A: []}, {key: {"GPU": 1.0}}, 100)

    assert said == ["1 task waiting: no worker offers GPU = 1 (start one with `dask worker --resources`)"]


def test_a_queue_and_values_of_others_are_told_apart() -> None:
    states = {("t-1", 1): "queued", ("t-1", 2): "waiting", ("t-1", 3): None}

    said = situation({A: worker()}, states, {A: []}, {}, 100)

    assert said == [
        "1 task waiting for a free slot",
        "1 task waiting for the values of others",
        "1 task not known to the scheduler any more",
    ]


def test_paused_and_silent_workers_are_named() -> None:
    key = ("t-1", 1)
    paused = worker(status="paused", metrics={"memory": 3.4 * GIB})

    said = situation({A: paused, B: worker(last_seen=60.0)}, {key: "processing"}, {A: [key]}, {}, 100)

    assert said == [
        f"1 task of t with {A}",
        f"worker {A} is paused at 85% of its memory: it starts nothing until it has let go of some",
        f"worker {B} has not been heard of for 40 s",
    ]


def test_a_hundred_workers_in_trouble_are_three_and_a_count() -> None:
    workers = {f"tcp://10.0.0.{number}:1": worker(status="paused") for number in range(100)}

    said = situation(workers, {("t-1", 1): "queued"}, {}, {}, 100)

    assert len(said) == 5
    assert said[-1] == "97 more like these"


def test_without_workers_that_is_what_is_said() -> None:
    assert situation({}, {("t-1", 1): "no-worker"}, {}, {}, 100) == ["1 task waiting: there are no workers"]
