"""What is told of runs that ended with their processes, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from anabranch import config
from anabranch.flows.registered import register_target
from anabranch.runs.registry.registration import read_clock, registry
from anabranch.runs.store.slots import Slot
from anabranch.service.work.courier import Courier

FILE = """
from pathlib import Path
from anabranch import Flow
from anabranch.notifiers import Notifier

HEARD = Path(__file__).parent / "heard"

class Told(Notifier):
    def send(self, text):
        with HEARD.open("a") as file:
            file.write(text + "\\n")

def handler(flow, old, new):
    with HEARD.open("a") as file:
        file.write(f"handler: {new.name}\\n")

etl = Flow("etl", on_failure=Told(), state_handlers=[handler])
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        (tmp_path / "jobs.py").write_text(FILE)
        register_target(f"{tmp_path}/jobs.py")
        yield tmp_path


def told(*run_ids: str) -> None:
    """Tell of runs, as of such that crashed."""
    store, _, queue = registry()
    now = read_clock(store)
    queue.add([Slot(run_id, "etl", now) for run_id in run_ids], now=now)
    for slot in queue.claim("me:1", len(run_ids), now=now, lease_s=30):
        queue.finish(slot, "Crashed", "gone", now=now)
    courier = Courier()
    for run_id in run_ids:
        courier.tell(run_id)
    courier.close(most_s=120)


def test_runs_are_told_of_one_after_another(home: Path):
    told("a", "b")
    assert (home / "heard").read_text().splitlines() == ["etl: Crashed: gone", "handler: Crashed"] * 2


def test_a_flow_that_kills_who_loads_it_is_told_of_by_what_the_registry_keeps(
    home: Path, caplog: pytest.LogCaptureFixture
):
    (home / "jobs.py").write_text("import os; os._exit(3)")
    told("a", "b")
    assert (home / "heard").read_text().splitlines() == ["etl: Crashed: gone"] * 2
    assert "not all who asked for it may have been told of run a: its process ended with 3" in caplog.text


def test_a_schedule_that_cannot_be_followed_is_told_of_once_whichever_services_find_that(home: Path):
    for _ in range(2):
        courier = Courier()
        courier.tell_of_schedule("etl", "KeyError: 'calendar'")
        courier.close(most_s=120)
    why = "its schedule cannot be followed, and is tried again: KeyError: 'calendar'"
    assert (home / "heard").read_text().splitlines() == [f"etl: Failed: {why}", "handler: Failed"]


def test_a_courier_with_nothing_to_tell_ends_at_once():
    Courier().close()
