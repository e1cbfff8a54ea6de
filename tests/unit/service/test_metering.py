"""What a service shows to Prometheus: runs of processes that have ended, go on or were killed, and its queue."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from anabranch import Flow, task
from anabranch.base.events import RunFinished, RunStarted, UnitEnded
from anabranch.base.settings import config
from anabranch.errors import RunStoreError
from anabranch.runs.registry.registration import registry
from anabranch.runs.store.slots import Slot
from anabranch.service.metering import Meter
from anabranch.service.work.spool import EVERY_S, Counted, sweep
from anabranch.states import Success

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
STANDING: Any = SimpleNamespace(running={"r": None}, capacity=4, deaths=2, problems=1, turned=7.0)


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[Meter]:
    with config.set(runs__path=str(tmp_path / "runs.db")):
        _, flows, queue = registry()
        meter = Meter(queue, flows, lambda: NOW)
        meter.open()
        yield meter
        meter.close()


def shown(meter: Meter) -> dict[str, float]:
    """Values, by name and what is in braces."""
    found = {}
    for family in text_string_to_metric_families(meter.text(STANDING)):
        for each in family.samples:
            found[" ".join([each.name, *(value for _, value in sorted(each.labels.items()))])] = each.value
    return found


def begin(counted: Counted) -> None:
    (observer,) = counted.observers
    observer(RunStarted(1.0, "etl", "r", {"parse": "task"}))
    observer(UnitEnded(2.0, "w", 1.0, 2.0, indices=range(10), codes={"parse": b"\x0a" * 10}))


def test_a_directory_that_was_cleaned_away_is_made_again_as_long_as_its_service_lives(meter: Meter):
    counted = Counted(str(meter.directory), "one")
    begin(counted)
    meter.directory.rmdir()
    counted(RunFinished(3.0, Success()))
    counted.close()
    assert meter.directory.stat().st_mode & 0o777 == 0o700
    assert shown(meter)["anabranch_flow_runs_total etl Success"] == 1


def test_what_runs_have_counted_adds_up_whoever_asks_and_however_often(meter: Meter):
    # given
    for run_id in ("one", "two"):
        counted = Counted(str(meter.directory), run_id)
        begin(counted)
        counted(RunFinished(3.0, Success()))
        counted.close()
    # when / then
    for _ in range(3):
        found = shown(meter)
        assert found["anabranch_flow_runs_total etl Success"] == 2
        assert found["anabranch_task_runs_total etl Success parse"] == 20
        assert found["anabranch_flow_runs_active etl"] == 0
        assert list(meter.directory.iterdir()) == []


def test_a_run_that_goes_on_is_shown_as_it_was_a_moment_ago(meter: Meter):
    # given
    seconds = [0.0]
    counted = Counted(str(meter.directory), "one", clock=lambda: seconds[0])
    # when
    begin(counted)
    # then
    assert "anabranch_flow_runs_active etl" not in shown(meter)
    # when
    seconds[0] = EVERY_S
    counted(UnitEnded(2.0, "w", 1.0, 2.0, indices=range(10, 20), codes={"parse": b"\x0a" * 10}))
    # then
    for _ in range(2):
        found = shown(meter)
        assert found["anabranch_flow_runs_active etl"] == 1
        assert found["anabranch_driver_resident_memory_bytes etl"] > 1 << 20
        assert found["anabranch_task_runs_total etl Success parse"] == 20


def test_a_run_whose_process_was_killed_leaves_its_counts_and_is_not_active(meter: Meter):
    # given
    program = f"""
import os
from anabranch.service.work.spool import Counted
from tests.unit.service.test_metering import begin
counted = Counted({str(meter.directory)!r}, "one")
begin(counted)
counted._write(is_over=False)
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=False, timeout=60)
    # when / then
    for _ in range(2):
        found = shown(meter)
        assert found["anabranch_task_runs_total etl Success parse"] == 10
        assert found["anabranch_flow_runs_active etl"] == 0
    assert list(meter.directory.iterdir()) == []


def test_a_run_outlives_the_directory_and_one_without_any_counts_nothing(meter: Meter, tmp_path: Path):
    meter.close()
    assert not meter.directory.exists()
    for name in ("anabranch-metrics-99999999-abc", "anabranch-metrics-x", "another"):  # of services that are gone
        counted = Counted(str(tmp_path / name), "one")
        begin(counted)
        counted.close()
    assert not list(tmp_path.glob("a*"))
    assert Counted("", "one").observers == []
    Counted("", "one").close()


def test_what_is_no_snapshot_is_passed_over(meter: Meter):
    (meter.directory / "a.json").write_text("{half", encoding="utf-8")
    (meter.directory / "b.json").write_text("{}", encoding="utf-8")
    assert shown(meter)["anabranch_service_run_store_up"] == 1


def test_directories_of_services_that_were_killed_are_removed(meter: Meter, tmp_path: Path):
    # given
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead, alive = (tmp_path / f"anabranch-metrics-{pid}-aa" for pid in (int(done.stdout), os.getpid()))
    for each in (dead, alive, tmp_path / "anabranch-metrics-x"):
        each.mkdir()
    # when
    sweep(tmp_path)
    # then
    assert not dead.exists()
    assert alive.exists()
    assert (tmp_path / "anabranch-metrics-x").exists()


@pytest.mark.parametrize("kind", ["directory", "locked directory", "file", "link to nowhere", "link to a directory"])
@pytest.mark.parametrize("name", ["99999999999999999999-x", "99999999999-x", "-1-x", "--", "٣-x", "x" * 100])
def test_whatever_has_the_name_of_a_directory_of_a_service_keeps_none_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    # given
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("")
    path = tmp_path / f"anabranch-metrics-{name}"
    if "directory" in kind and "link" not in kind:
        path.mkdir(mode=0o000 if "locked" in kind else 0o700)
    elif "link" in kind:
        path.symlink_to(tmp_path / ("no" if "nowhere" in kind else "kept"))
    else:
        path.write_text("")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with config.set(runs__path=str(tmp_path / "runs.db")):
        _, flows, queue = registry()
    meter = Meter(queue, flows, lambda: NOW)
    # when
    meter.open()
    # then
    assert meter.directory.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "kept" / "file").exists()
    meter.close()


def test_the_queue_has_its_depth_and_how_late_it_is(meter: Meter):
    # given
    with Flow("etl") as flow:
        task(lambda: 1, name="one")()
    flow.register(storage="database")
    _, _, queue = registry()
    minutes = [
        Slot("a", "etl", NOW - timedelta(minutes=5), origin="schedule"),
        Slot("b", "etl", NOW - timedelta(minutes=2), origin="schedule"),
        Slot("c", "etl", NOW + timedelta(minutes=2), origin="schedule"),
        Slot("d", "back", NOW - timedelta(days=900), origin="backfill"),
    ]
    # when
    queue.add(minutes, now=NOW - timedelta(minutes=1))
    # then
    found = shown(meter)
    assert found["anabranch_service_queue_runs etl"] == 2
    assert found["anabranch_service_queue_lateness_seconds etl"] == 300
    assert found["anabranch_service_queue_lateness_seconds back"] == 60  # since it was asked for
    assert found["anabranch_flow_runs_total etl Failed"] == 0
    # when
    queue.claim("me", 10, now=NOW, lease_s=30.0)
    # then
    assert shown(meter)["anabranch_service_queue_runs etl"] == 0
    assert shown(meter)["anabranch_service_queue_lateness_seconds etl"] == 0


def test_a_service_shows_how_it_does_also_when_its_store_is_away(meter: Meter, monkeypatch: pytest.MonkeyPatch):
    def away(*args: object, **options: object) -> None:
        raise RunStoreError("the database does not answer")

    monkeypatch.setattr(meter._queue, "waiting", away)
    found = shown(meter)
    assert found["anabranch_service_run_store_up"] == 0
    assert found["anabranch_service_runs_active"] == 1
    assert found["anabranch_service_runs_capacity"] == 4
    assert found["anabranch_service_process_deaths_total"] == 2
    assert found["anabranch_service_broken_schedules"] == 1
    assert found["anabranch_service_last_turn_timestamp_seconds"] == 7
