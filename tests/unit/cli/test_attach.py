"""What `attach` and `cancel` write of a detached run, and how recorded runs are cancelled."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anabranch import config
from anabranch.cli import anabranch as command
from anabranch.cli.attach import _write_status
from anabranch.flows.handle import RunStatus
from anabranch.runs import Ownership, RunRecord
from anabranch.runs.registry.registration import read_clock, registry
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot


def test_a_status_says_where_tasks_run():
    parse = {
        "state": "Running",
        "message": "",
        "width": 1000,
        "done": 400,
        "failed": 2,
        "running": "running: [7] on w\x1b1",
    }
    tasks = {"parse": parse, "load": {"state": "Running", "running": "on w2"}, "late": {"state": "Submitted"}}
    assert _write_status(RunStatus("r", "etl", "Running", tasks=tasks)) == [
        "etl r: Running",
        r"  parse: Running 400/1,000, 2 failed; running: [7] on w\x1b1",
        "  load: Running; on w2",
        "  late: Submitted",
    ]


# Of the run store ---------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[SlotQueue]:
    """A backfill of three runs, of which one goes on and two wait."""
    with config.set(backend=f"sqlite:///{tmp_path / 'runs.db'}"):
        store, _, queue = registry()
        now = read_clock(store)
        queue.add([Slot(f"day-{number}", "etl", now, group="days") for number in range(3)], now=now)
        queue.claim("host:1", 1, now=now, lease_s=60)
        yield queue


def call(*words: str) -> Result:
    return CliRunner().invoke(command, ["cancel", *words])


def test_a_run_that_waits_is_cancelled_with_the_name_of_who_asked(served: SlotQueue):
    found = call("day-2", "--reason", "a mistake")
    assert (found.exit_code, found.stdout) == (0, "1 cancelled, 0 asked to end\n")
    slot = served.get("day-2")
    assert slot is not None
    assert slot.state == "Cancelled"
    assert re.fullmatch(r"cancelled by \S+@\S+ \(a mistake\) before it began", slot.message)
    again = call("day-2")
    assert (again.exit_code, again.stderr) == (2, "Error: run day-2 has ended: Cancelled\n")


def test_a_backfill_is_cancelled_as_a_whole(served: SlotQueue):
    found = call("days", "--timeout", "0")
    assert (found.exit_code, found.stdout) == (0, "2 cancelled, 1 asked to end\n")
    assert found.stderr == "day-0 goes on after 0 s; its service ends it\n"
    assert served.counts() == {"Running": 1, "Cancelled": 2}
    assert [run_id for run_id, _ in served.cancelled()] == ["day-0"]


def test_a_run_that_goes_on_is_waited_for(served: SlotQueue, monkeypatch: pytest.MonkeyPatch):
    (slot,) = served.all(state="Running")
    monkeypatch.setattr("time.sleep", lambda seconds: served.finish(slot, "Cancelled", now=slot.due))
    assert call("day-0").stdout == "0 cancelled, 1 asked to end\nday-0: Cancelled\n"


class Elsewhere:
    """A run that no service was asked for, as its driver on another machine has it."""

    def __init__(self, store: RelationalRunStore, ownership: Ownership) -> None:
        self.store = store
        self.ownership = ownership

    def end(self, state: str = "Cancelled") -> None:
        self.store.finish_run(self.ownership, state, end=None if state == "Paused" else read_clock(self.store))


@pytest.fixture
def elsewhere(served: SlotQueue) -> Elsewhere:
    store, _, _ = registry()
    return Elsewhere(store, store.create_run(RunRecord("elsewhere", "etl", read_clock(store)), owner="other-host:7"))


@pytest.mark.parametrize("name", ["elsewhere", "else"])
def test_a_driver_on_another_machine_is_asked_and_waited_for(
    elsewhere: Elsewhere, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("time.sleep", lambda seconds: elsewhere.end())
    found = call(name, "--reason", "a mistake")
    assert (found.exit_code, found.stdout) == (0, "0 cancelled, 1 asked to end\nelsewhere: Cancelled\n")
    wish = elsewhere.store.find_wish(elsewhere.ownership)
    assert re.fullmatch(r"cancelled by \S+@\S+ \(a mistake\)", wish)


def test_a_driver_that_takes_its_time_is_named(elsewhere: Elsewhere):
    found = call("elsewhere", "--timeout", "0")
    assert found.stderr == "elsewhere goes on after 0 s; its driver other-host:7 ends it\n"


def test_a_run_that_is_deleted_meanwhile_is_gone(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch):
    def delete(seconds: float) -> None:
        elsewhere.end()
        elsewhere.store.delete_run("elsewhere")

    monkeypatch.setattr("time.sleep", delete)
    assert call("elsewhere").stdout.endswith("elsewhere: gone\n")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("Success", "run elsewhere has ended: Success"),
        ("Cancelled", "run elsewhere has ended: Cancelled"),
        ("Paused", "run elsewhere does not go on: Paused"),
    ],
)
def test_a_run_that_nobody_drives_is_told(elsewhere: Elsewhere, state: str, said: str):
    elsewhere.end(state)
    found = call("elsewhere")
    assert (found.exit_code, found.stderr) == (2, f"Error: {said}\n")
    assert call("nosuch").exit_code == 2


def test_a_driver_that_is_gone_is_told(elsewhere: Elsewhere):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    owner = f"{socket.gethostname()}:{gone.pid}"
    elsewhere.store.create_run(RunRecord("gone", "etl", read_clock(elsewhere.store)), owner=owner)
    found = call("gone")
    assert (found.exit_code, found.stderr) == (2, f"Error: run gone does not go on: its driver {owner} is gone\n")


def test_a_driver_that_is_not_heard_of_ends_the_run_when_it_comes_back(elsewhere: Elsewhere):
    store, long_ago = elsewhere.store, read_clock(elsewhere.store) - timedelta(days=1)
    asleep = store.create_run(RunRecord("asleep", "etl", long_ago), owner="other-host:8", now=long_ago)
    found = call("asleep")
    assert found.exit_code == 2
    assert found.stderr == (
        "Error: run asleep: other-host:8 has not been heard of since its lease ran out; "
        "should its driver come back, it ends the run as Cancelled\n"
    )
    assert store.find_wish(asleep).startswith("cancelled by ")


def test_a_run_of_a_service_that_somebody_else_goes_on_with_is_cancelled_there(served: SlotQueue):
    store, _, _ = registry()
    now = read_clock(store)
    (slot,) = served.all(state="Running")
    served.finish(slot, "Failed", now=now)  # and with it the record, if its own process had made one
    taken = [store.create_run(RunRecord(run_id, "etl", now), owner="other-host:7") for run_id in ("day-0", "day-1")]
    for each in taken:
        call(each.run_id, "--timeout", "0")
        assert store.find_wish(each).startswith("cancelled by ")
