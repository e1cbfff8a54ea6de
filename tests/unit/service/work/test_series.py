"""Processes that have several runs, one after another: what these share and what not, and what becomes of crashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from anabranch import config
from anabranch.flows.registered import register_target
from anabranch.runs.registry.registration import read_clock, registry
from anabranch.runs.store.slots import Slot
from anabranch.service.work.messages import RETURNED, Exit
from anabranch.service.work.processes import Processes

FLOWS = """
import json, os, signal, sys, time
from pathlib import Path
from anabranch import Flow, context, task
import helper

HOME = Path(__file__).parent

@task
def note():
    here = os.getpid(), helper.count, os.environ.get("LEFT"), os.getcwd() == str(HOME), context.run_id
    helper.count += 1
    os.environ["LEFT"] = "1"
    os.chdir(HOME)
    with (HOME / "notes").open("a") as file:
        file.write(json.dumps(here) + "\\n")

@task
def crash():
    os.kill(os.getpid(), signal.SIGKILL)

@task
def wait():
    (HOME / "waits").touch()
    while not (HOME / "go").exists():
        time.sleep(0.01)

@task
def modules():
    (HOME / "modules").write_text(" ".join(sys.modules))

with Flow("quick") as quick:
    note()
with Flow("looking") as looking:
    modules()
with Flow("crashing") as crashing:
    crash()
with Flow("waiting") as waiting:
    note(upstream_tasks=[wait()])
"""
SPOILT = """
import json
from flows import note
from anabranch import Flow
if hasattr(json, "spoilt"):
    raise RuntimeError("loaded twice")
json.spoilt = True
with Flow("spoilt") as spoilt:
    note()
"""


class Runs:
    """A nursery, and a store with flows that note where they run."""

    def __init__(self, home: Path, *, wait_s: float = 60.0) -> None:
        self.home = home
        self.exits: dict[str, int] = {}
        self._woken = threading.Event()
        self.store, _, self.queue = registry()
        self.processes = Processes(self._woken.set, most=1, runs_each=4, wait_s=wait_s)

    def start(self, *flows: str) -> list[str]:
        now = read_clock(self.store)
        asked = [Slot(os.urandom(4).hex(), flow, now - timedelta(seconds=9 - n)) for n, flow in enumerate(flows)]
        self.queue.add(asked, now=now)
        for slot in self.queue.claim("me:1", len(asked), now=now, lease_s=60):
            self.processes.start(slot)
        return [slot.run_id for slot in asked]

    def ends(self, run_ids: list[str]) -> list[int]:
        while not set(run_ids) <= set(self.exits):
            assert self._woken.wait(60)
            self._woken.clear()
            self.exits |= {end.run_id: end.code for end in self.processes.exits() if isinstance(end, Exit)}
        return [self.exits[run_id] for run_id in run_ids]

    def notes(self, run_ids: list[str]) -> list[list[object]]:
        """Of each run: its process, runs that the helper had seen, what the environment had, whether it had moved."""
        found = [json.loads(line) for line in (self.home / "notes").read_text().splitlines()]
        return [note for run_id in run_ids for note in found if note[-1] == run_id]

    def states(self, run_ids: list[str]) -> list[str]:
        return [slot.state for run_id in run_ids if (slot := self.queue.get(run_id)) is not None]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    home = tmp_path_factory.mktemp("series")
    (home / "flows.py").write_text(FLOWS)
    (home / "helper.py").write_text("count = 0\n")
    (home / "spoilt.py").write_text(SPOILT)
    with config.set(backend=f"sqlite:///{home}/runs.db"), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        register_target(f"{home}/flows.py")
        register_target(f"{home}/spoilt.py:spoilt")
        found = Runs(home)
        try:
            yield found
        finally:
            (home / "go").touch()
            found.processes.close()


def test_runs_share_a_process_and_neither_modules_nor_environment_nor_directory(runs: Runs):
    asked = runs.start(*["quick"] * 6)
    assert runs.ends(asked) == [0] * 6
    notes = runs.notes(asked)
    processes = [note[0] for note in notes]
    assert processes == [processes[0]] * 4 + [processes[4]] * 2
    assert processes[0] != processes[4]
    assert {tuple(note[1:4]) for note in notes} == {(0, None, False)}
    assert runs.states(asked) == ["Success"] * 6


PRELOADED = """
import sys
from anabranch.service.work.nursery import preload
preload()
print(" ".join(sys.modules))
"""


def test_the_nursery_has_imported_what_runs_need_so_that_none_does_so_again(runs: Runs):
    # Of a database that does not answer yet, the driver is there as well.
    environment = {**os.environ, "ANABRANCH__BACKEND": "postgresql://nobody@127.0.0.1:9/none"}
    command = [sys.executable, "-c", PRELOADED]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    preloaded = set(done.stdout.split())
    assert "psycopg" in preloaded
    assert runs.ends(runs.start("looking")) == [0]
    found = set((runs.home / "modules").read_text().split()) - preloaded
    heavy = ("anabranch.", "dask", "distributed", "networkx", "psycopg")
    assert [name for name in sorted(found) if name.startswith(heavy)] == ["anabranch.runs.store.sqlite"]


def test_a_run_that_kills_its_process_hurts_no_other(runs: Runs):
    first, crashing, last = asked = runs.start("quick", "crashing", "quick")
    assert runs.ends(asked) == [0, -9, 0]
    before, after = runs.notes([first, last])
    assert before[0] != after[0]
    assert runs.states([first, crashing, last]) == ["Success", "Running", "Success"]  # the service buries the second


def test_the_process_of_a_run_that_was_cancelled_has_no_other(runs: Runs):
    (runs.home / "go").unlink(missing_ok=True)
    (runs.home / "waits").unlink(missing_ok=True)
    first, cancelled, last = asked = runs.start("quick", "waiting", "quick")
    while not (runs.home / "waits").exists():
        time.sleep(0.01)
    runs.queue.cancel(cancelled, now=read_clock(runs.store))
    assert runs.ends(asked) == [0, 0, 0]
    assert runs.states(asked) == ["Success", "Cancelled", "Success"]
    before, after = runs.notes([first, last])
    assert before[0] != after[0]


def test_a_flow_that_does_not_load_after_another_run_is_begun_in_a_new_process(runs: Runs):
    asked = runs.start("spoilt", "spoilt")
    assert runs.ends(asked) == [0, 0]
    one, other = runs.notes(asked)
    assert one[0] != other[0]
    assert runs.states(asked) == ["Success", "Success"]


def test_what_waits_for_a_process_for_too_long_is_given_back_and_that_was_no_try(runs: Runs):
    hasty = Runs(runs.home, wait_s=0.01)
    try:
        asked = hasty.start("waiting", "quick")
        assert hasty.ends(asked[1:]) == [RETURNED]
        assert hasty.states(asked) == ["Running", "Running"]
        returned = [slot for slot in hasty.queue.all() if slot.run_id == asked[1]]
        hasty.queue.give_back(returned, now=read_clock(hasty.store))
        assert [(slot.state, slot.tries) for slot in hasty.queue.all() if slot.run_id == asked[1]] == [("Waiting", 0)]
        (runs.home / "go").touch()
        assert hasty.ends(asked[:1]) == [0]
    finally:
        hasty.processes.close()


def test_runs_that_wait_when_their_service_dies_are_run(runs: Runs):
    asked = runs.start("quick", "quick", "quick")
    runs.processes.close()  # as its end of the pipe is closed when it is killed
    deadline = time.monotonic() + 60
    while runs.states(asked) != ["Success"] * 3:
        assert time.monotonic() < deadline, runs.states(asked)
        time.sleep(0.01)
    assert len(runs.notes(asked)) == 3
