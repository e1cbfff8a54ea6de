"""What `attach` and `cancel` write of a detached run, and how runs of services are cancelled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anabranch import config
from anabranch.cli import anabranch as command
from anabranch.cli.attach import _write_status
from anabranch.flows.handle import RunStatus
from anabranch.runs import RunRecord
from anabranch.runs.registry.registration import read_clock, registry
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


# Of services --------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[SlotQueue]:
    """A backfill of three runs, of which one goes on and two wait, and a run that no service was asked for."""
    with config.set(backend=f"sqlite:///{tmp_path / 'runs.db'}"):
        store, _, queue = registry()
        now = read_clock(store)
        queue.add([Slot(f"day-{number}", "etl", now, group="days") for number in range(3)], now=now)
        queue.claim("host:1", 1, now=now, lease_s=60)
        store.create_run(RunRecord("elsewhere", "etl", now), owner="other-host:7")
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


def test_a_run_of_no_service_is_ended_where_it_was_started(served: SlotQueue):
    found = call("elsewhere")
    assert found.exit_code == 2
    assert "run elsewhere was not started by a service; end it where it was started: other-host:7" in found.stderr
    assert call("nosuch").exit_code == 2
