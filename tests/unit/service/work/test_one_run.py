"""The process of one run: for which day the run is, and who is told of its end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from anabranch import config
from anabranch.errors import RunStoreUnavailable
from anabranch.flows.loading import LoadedFlow
from anabranch.flows.registered import register_target
from anabranch.runs import RunRecord
from anabranch.runs.read.lookup import date_of
from anabranch.runs.registry.backfill import slots_for
from anabranch.runs.registry.registration import read_clock, registry
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.slots import Slot
from anabranch.service.work import one_run
from anabranch.service.work.messages import AGAIN, Job
from anabranch.service.work.one_run import run_job

FILE = """
from pathlib import Path
from anabranch import Flow, context, task
from anabranch.schedules import CronSchedule

@task
def day():
    assert not HAS_TO_FAIL, "asked for"
    Path("day").write_text(f"{context.date.isoformat()} {context.today}")

with Flow("tokyo", schedule=CronSchedule("0 0 * * *", timezone="Asia/Tokyo")) as tokyo:
    day()
with Flow("plain") as plain:
    day()
"""
MIDNIGHT = datetime(2026, 5, 1, tzinfo=ZoneInfo("Asia/Tokyo"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        write_flows()
        register_target("days.py")
        yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def write_flows(*, has_to_fail: bool = False) -> None:
    Path("days.py").write_text(f"HAS_TO_FAIL = {has_to_fail}\n{FILE}")


def day_of(slot: Slot) -> str:
    """What the task of the run of a slot takes for its day."""
    store, _, queue = registry()
    now = read_clock(store)
    assert queue.add([slot], now=now) or queue.again(slot, now=now)
    (claimed,) = queue.claim("me:1", 1, now=now, lease_s=30)
    run_job(Job(claimed.run_id, claimed.token))
    ended = queue.get(slot.run_id)
    assert ended is not None
    return Path("day").read_text() if ended.state == "Success" else ended.state


@pytest.mark.parametrize(
    ("flow", "due", "origin", "day"),
    [
        ("tokyo", MIDNIGHT, "schedule", "2026-05-01T00:00:00+09:00 2026-05-01"),
        ("tokyo", MIDNIGHT.astimezone(UTC), "manual", "2026-05-01T00:00:00+09:00 2026-05-01"),
        ("tokyo", MIDNIGHT.astimezone(UTC), "backfill", "2026-04-30T15:00:00+00:00 2026-04-30"),  # by --timezone UTC
        (
            "tokyo",
            MIDNIGHT.astimezone(ZoneInfo("Pacific/Pago_Pago")),
            "backfill",
            "2026-04-30T04:00:00-11:00 2026-04-30",
        ),
        ("plain", MIDNIGHT, "backfill", "2026-05-01T00:00:00+09:00 2026-05-01"),
        ("plain", MIDNIGHT.astimezone(timezone(timedelta(hours=9))), "manual", "2026-05-01T00:00:00+09:00 2026-05-01"),
    ],
)
def test_a_run_is_for_the_day_of_the_zone_that_was_meant(flow: str, due: datetime, origin: str, day: str):
    assert day_of(Slot("a", flow, due, origin=origin)) == day


def test_a_backfilled_run_takes_itself_for_what_its_parameters_say():
    (slot,) = slots_for("plain", [MIDNIGHT], {})
    assert day_of(slot).endswith("2026-05-01")


def test_a_resumed_run_is_for_the_day_that_it_was_begun_for(home: Path):
    write_flows(has_to_fail=True)
    slot = Slot("a", "plain", MIDNIGHT, origin="backfill")
    assert day_of(slot) == "Failed"
    write_flows()
    # As the API asks for it of a run that no slot is known of any more.
    later = Slot("a", "plain", MIDNIGHT + timedelta(days=90), origin="resume")
    assert day_of(later) == "2026-05-01T00:00:00+09:00 2026-05-01"
    assert str(date_of(registry()[0].get_run("a")).tzinfo) == "Asia/Tokyo"


TOLD = """
from anabranch import Flow, Parameter, task
from anabranch.notifiers import Notifier

class Told(Notifier):
    def send(self, text):
        with open("told", "a") as file:
            file.write(text.splitlines()[0] + "\\n")

def handler(flow, old, new):
    with open("told", "a") as file:
        file.write(f"handler: {old.name} {new.name}\\n")

@task
def fail(number):
    raise ValueError(number)

with Flow("told", on_failure=Told(), state_handlers=[handler]) as told:
    fail(Parameter("number", type=int))
"""


@pytest.mark.parametrize(
    ("parameters", "lines"),
    [
        ({"number": 1}, ["handler: Pending Running", "handler: Running Failed", "told: Failed: fail failed with"]),
        ({"number": "many"}, ["handler: Running Failed", "told: Failed: the parameters do not fit flow 'told'"]),
        ({}, ["handler: Running Failed", "told: Failed: the parameters do not fit flow 'told'"]),
    ],
)
def test_a_run_that_fails_is_told_of_once_whether_it_has_begun_or_not(parameters: dict[str, Any], lines: list[str]):
    Path("told.py").write_text(TOLD)
    register_target("told.py")
    run_slot("told", parameters)
    found = Path("told").read_text().splitlines()
    assert [line[: len(known)] for line, known in zip(found, lines, strict=True)] == lines


def test_a_run_whose_file_does_not_load_is_told_of_in_a_new_process_only():
    Path("told.py").write_text(TOLD)
    register_target("told.py")
    Path("told.py").write_text("import no_such_module")
    assert run_slot("told", {}, is_new=False) == AGAIN
    assert not Path("told").exists()
    assert run_slot("told", {}) == 0
    (line,) = Path("told").read_text().splitlines()
    assert line.startswith("told: Failed: flow 'told', registered from")


def test_a_run_store_that_does_not_answer_when_the_flow_is_looked_up_fails_no_run(monkeypatch: pytest.MonkeyPatch):
    def down(self: FlowTable, name: str) -> FlowRecord:
        raise RunStoreUnavailable("the database does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(FlowTable, "get", down)
        with pytest.raises(RunStoreUnavailable):
            run_slot("plain", {})
    found = registry()[2].get("a")
    assert found is not None
    assert found.state == "Running"  # its service lets it wait, as the process has ended badly


def test_a_process_that_stood_still_while_its_run_came_to_an_end_does_not_go_on_with_it(
    monkeypatch: pytest.MonkeyPatch,
):
    store, _, queue = registry()
    now = read_clock(store)
    store.finish_run(store.create_run(RunRecord("a", "plain", now)), "Paused", end=None)
    queue.add([Slot("a", "plain", now)], now=now)
    (slot,) = queue.claim("me:1", 1, now=now, lease_s=30)
    usual = one_run.load_registered

    def stand_still(record: FlowRecord) -> LoadedFlow:
        assert queue.release(slot, now=now)
        assert len(queue.claim("another:1", 1, now=now, lease_s=30)) == 1
        store.finish_run(store.take_over("a"), "Cancelled", end=now, message="asked for")
        return usual(record)

    monkeypatch.setattr(one_run, "load_registered", stand_still)
    assert run_job(Job("a", slot.token)) == 0
    record = store.get_run("a")
    assert (record.state, record.message) == ("Cancelled", "asked for")
    assert not Path("day").exists()


def test_a_run_whose_slot_cannot_be_read_is_told_of_with_the_flow_loaded():
    Path("told.py").write_text(TOLD)
    register_target("told.py")
    store, _, queue = registry()
    queue.add([Slot("a", "told", read_clock(store))], now=read_clock(store))
    store.database.write(lambda transaction: transaction.execute("UPDATE anabranch_slots SET parameters = '{'", ()))
    run_slot("told", {})
    assert [line[:28] for line in Path("told").read_text().splitlines()] == [
        "told: Failed: its parameters",
        "handler: Running Failed",
    ]


LOST = TOLD.replace(
    "def fail(number):",
    """def fail(number):
    import time
    from datetime import UTC, datetime, timedelta
    from anabranch.runs.registry.registration import registry
    from anabranch.service.work.one_run import CANCEL_POLL_S
    store, _, queue = registry()
    now = datetime.now(UTC)
    slot = queue.get("a")
    if number != 1:
        store.take_over("a", owner="another:1", now=now + timedelta(days=1))
    if number != 2:
        assert queue.release(slot, now=now)
        assert len(queue.claim("another:1", 1, now=now, lease_s=30)) == 1
        while True:
            time.sleep(0.01)
""",
)


@pytest.mark.parametrize(("number", "held"), [(1, "slot"), (2, "run"), (3, "both")])
def test_a_process_that_has_lost_its_run_tells_nobody_of_an_end(
    monkeypatch: pytest.MonkeyPatch, number: int, held: str
):
    monkeypatch.setattr(one_run, "CANCEL_POLL_S", 0.01)
    Path("told.py").write_text(LOST)
    register_target("told.py")
    store, _, queue = registry()
    tomorrow = read_clock(store) + timedelta(days=1)
    queue.add([Slot("part", "plain", tomorrow, parent="a", bond=True)], now=read_clock(store))
    run_slot("told", {"number": number})
    assert Path("told").read_text() == "handler: Pending Running\n"
    slot, part = queue.get("a"), queue.get("part")
    assert slot is not None
    assert part is not None
    assert (slot.state, part.state) == ("Waiting" if held == "run" else "Running", "Waiting")


def run_slot(name: str, parameters: dict[str, Any], *, is_new: bool = True) -> int:
    """The exit code of a run of a flow, begun again if it is there already."""
    store, _, queue = registry()
    now = read_clock(store)
    queue.add([Slot("a", name, now, parameters)], now=now)
    for slot in queue.all(state="Running"):
        queue.release(slot, now=now)
    (claimed,) = queue.claim("me:1", 1, now=now, lease_s=30)
    return run_job(Job(claimed.run_id, claimed.token), is_new=is_new)
