"""The process of one run: for which day the run is."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from anabranch import config
from anabranch.flows.registered import register_target
from anabranch.runs.read.lookup import date_of
from anabranch.runs.registry.backfill import slots_for
from anabranch.runs.registry.registration import read_clock, registry
from anabranch.runs.store.slots import Slot
from anabranch.service.work.messages import Job
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
