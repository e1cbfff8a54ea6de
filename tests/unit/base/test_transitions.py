"""The table of states, of which the documentation's diagram is made, is what tasks do."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from docs import state_diagram

from anabranch import (
    CANCEL,
    LOOP,
    PAUSE,
    RETRY,
    SKIP,
    TRIGGERFAIL,
    VALIDATIONFAIL,
    Flow,
    Task,
    context,
    task,
)
from anabranch.base.transitions import TRANSITIONS
from anabranch.results import LocalResult
from anabranch.states import Finished, State
from anabranch.triggers import manual_only

Seen = set[tuple[str, str]]
TOLD = {
    (first.__name__, then.__name__)
    for first, following in TRANSITIONS.items()
    for then, when in following.items()
    if not when.by_driver
}


def raising(signal: type[Exception], told: Any) -> Task:
    @task(name=signal.__name__.lower(), state_handlers=[told])
    def raises() -> None:
        raise signal

    return raises


def flow_of_all_fates(told: Any, folder: Path) -> Flow:
    """Tasks that come to every state, each of which tells `told`."""

    @task(state_handlers=[told])
    def one() -> int:
        return 1

    @task(state_handlers=[told])
    def unhashable() -> list[int]:
        return []

    @task(state_handlers=[told])
    def fails() -> None:
        raise ValueError

    @task(state_handlers=[told], max_retries=1, retry_delay=0)
    def fails_once() -> None:
        if context.task_run_count == 1:
            raise ValueError

    @task(state_handlers=[told], max_retries=1, retry_delay=0, timeout=0.05)
    def slow_once() -> None:
        while context.task_run_count == 1:
            time.sleep(0.001)  # the timeout needs something to interrupt

    @task(state_handlers=[told], isolation="process")
    def takes_its_process_along() -> None:
        os._exit(3)

    @task(state_handlers=[told])
    def tries_again() -> None:
        if context.task_run_count == 1:
            raise RETRY

    @task(state_handlers=[told])
    def two_rounds() -> None:
        if context.task_loop_count == 1:
            raise LOOP(result=1)

    @task(state_handlers=[told])
    def calls(called: str) -> object:
        made = {"one": one, "fails": fails, "unhashable": unhashable, "skip": skips}[called]()
        return {made} if called == "unhashable" else [made]

    @task(state_handlers=[told])
    def takes(values: object) -> None: ...

    @task(state_handlers=[told], trigger=manual_only)
    def asks() -> None: ...

    @task(state_handlers=[told], result=LocalResult(folder), target="there")
    def stored() -> int:
        return 1

    skips = raising(SKIP, told)
    with Flow("fates") as flow:
        for each in (one, fails_once, slow_once, takes_its_process_along, tries_again, two_rounds, stored):
            each()
        for called in ("one", "fails", "unhashable", "skip"):
            calls(called)
        for signal in (PAUSE, TRIGGERFAIL, VALIDATIONFAIL, CANCEL):
            raising(signal, told)()
        takes({unhashable()})
        takes(fails())
        takes(skips())
        asks(upstream_tasks=[one()])
    return flow


def test_tasks_go_through_all_changes_of_the_table_and_no_others(tmp_path: Path):
    seen: Seen = set()

    def told(task: object, old: State, new: State) -> None:
        seen.add((type(old).__name__, type(new).__name__))

    flow = flow_of_all_fates(told, tmp_path)

    flow.run()
    flow.run()  # the second time, what is stored is there

    assert seen - TOLD == set()
    assert TOLD - seen == set()


def test_only_what_is_not_final_is_followed_by_something_that_handlers_did_not_see():
    again = {first for first in TRANSITIONS if issubclass(first, Finished)}
    assert {each.__name__ for each in again} == {"Failed", "TimedOut"}
    assert all({then.__name__ for then in TRANSITIONS[first]} == {"Retrying"} for first in again)


def test_the_page_has_the_table_of_the_code():
    page = (state_diagram.DOCS / "states.md").read_text(encoding="utf-8")
    assert state_diagram.BEGIN + state_diagram.table() + state_diagram.END in page, "run python docs/state_diagram.py"


def test_the_picture_has_the_states_and_arrows_of_the_code():
    picture = (state_diagram.DOCS / "images" / "states.svg").read_text(encoding="utf-8")
    arrows = {tuple(each.split("&#45;&gt;")) for each in re.findall(r"<title>(\w+&#45;&gt;\w+)</title>", picture)}
    table = {(first.__name__, then.__name__) for first, following in TRANSITIONS.items() for then in following}
    assert arrows == table, "run python docs/state_diagram.py"


@pytest.mark.parametrize("first", TRANSITIONS, ids=lambda each: each.__name__)
def test_nothing_follows_itself(first: type[State]):
    assert first not in TRANSITIONS[first]
