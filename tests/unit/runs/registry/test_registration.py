"""Registering flows, backfills, and their commands: what is kept, what is refused, what is asked for once."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from pydantic import BaseModel

from anabranch import Flow, Parameter, config, task
from anabranch.cli import anabranch
from anabranch.errors import (
    DefinitionError,
    FlowLoadError,
    ParameterError,
    RegistryError,
    ScheduleError,
    UnregistrableFlow,
)
from anabranch.flows.registered import load_registered
from anabranch.runs.parameters import resolve_parameters
from anabranch.runs.registry.backfill import slots_for, times_between
from anabranch.runs.registry.registration import record_of, registry
from anabranch.runs.registry.seal import schedule_of
from anabranch.schedules import CronSchedule, IntervalSchedule
from anabranch.schedules.zones import zone_of
from anabranch.service.web.actions import Actions
from anabranch.service.web.models import Refused, StartAsked
from anabranch.service.work.timetable import _make_slot
from anabranch.storage import LocalStorage

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
FILE = """
from anabranch import Flow, Parameter, task
from anabranch.schedules import CronSchedule

@task
def double(x):
    return 2 * x

with Flow("daily", schedule=CronSchedule("0 6 * * *", timezone="Europe/Berlin")) as daily:
    double(Parameter("x", default=1, type=int))

with Flow("nightly") as nightly:
    double(Parameter("date", type=str))
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etl.py").write_text(FILE)
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        yield tmp_path


@task
def double(x: int) -> int:
    return 2 * x


@task
def identity(value: Any) -> Any:
    return value


def flow_of(name: str = "etl", value: object = 1, **options: Any) -> Flow:
    with Flow(name, **options) as flow:
        double(Parameter("x", default=value, type=int))
    return flow


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(anabranch, list(arguments), prog_name="anabranch")


# Registering ----------------------------------------------------------------------------------------------------------


def test_a_flow_is_kept_with_its_graph_parameters_and_schedule():
    schedule = CronSchedule("0 6 * * *")
    record = flow_of(schedule=schedule, max_runs=2).register("sales", ["eu"])
    assert (record.version, record.project, record.labels, record.max_runs) == (1, "sales", ("eu",), 2)
    assert (record.source, record.code is not None) == ("", True)  # a flow of a function is in no file
    assert [node["slug"] for node in record.graph["nodes"]] == ["x", "double"]
    assert record.graph["edges"] == [["x", "double", "data"]]
    assert record.parameters["properties"] == {"x": {"type": "integer", "default": 1}}
    assert registry()[1].get("etl") == record


def test_the_version_changes_with_the_graph_and_not_with_the_schedule():
    assert flow_of().register().version == 1
    assert flow_of(schedule=IntervalSchedule(60)).register().version == 1
    bigger = flow_of()
    with bigger:
        double(3)
    assert bigger.register().version == 2


@pytest.mark.parametrize("place", ["database", "storage"])
def test_a_flow_without_a_file_is_pickled(place: str, tmp_path: Path):
    storage: object = "database" if place == "database" else LocalStorage(tmp_path / "flows")
    record = flow_of().register(storage=storage)
    assert record.source == ""
    assert (record.code is not None) == (place == "database")
    assert load_registered(record).flow.run(x=4).result["double"].result == 8


def test_a_stored_flow_that_was_changed_is_refused(tmp_path: Path):
    record = flow_of().register(storage=LocalStorage(tmp_path / "flows"))
    (file,) = (tmp_path / "flows").iterdir()
    file.write_bytes(pickle.dumps("planted"))
    with pytest.raises(FlowLoadError, match="is not what was stored there; register the flow again"):
        load_registered(record)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"schedule": IntervalSchedule(60, parameter_defaults={"y": 1})}, "its schedule: there is no parameter 'y'"),
        ({"schedule": IntervalSchedule(60, parameter_defaults={"x": "a"})}, "its schedule: x: expected int"),
        ({"schedule": IntervalSchedule(60, end_date=NEW_YEAR - timedelta(days=365))}, "has no times any more"),
        ({"schedule": IntervalSchedule(60, filters=[lambda moment: 1 / 0])}, "a filter raised ZeroDivisionError"),
    ],
)
def test_what_cannot_be_registered_is_not_registered_at_all(options: dict[str, Any], problem: str):
    with pytest.raises(UnregistrableFlow, match=problem):
        flow_of(**options).register()
    assert registry()[1].names() == set()


def test_all_problems_are_told_at_once():
    with pytest.raises(UnregistrableFlow) as caught:
        flow_of(schedule=IntervalSchedule(60, parameter_defaults={"y": 1})).register(labels=[""], storage="elsewhere")
    assert len(caught.value.problems) == 3


def test_a_flow_is_registered_after_its_block_and_where_there_is_a_store():
    with Flow("open") as flow, pytest.raises(DefinitionError, match="call it after the block"):
        flow.register()
    with config.set(backend="none"), pytest.raises(RegistryError, match="backend is 'none', so flows cannot"):
        flow_of().register()


def test_values_of_secret_parameters_are_kept_nowhere():
    with Flow("etl", schedule=IntervalSchedule(60, parameter_defaults={"api_key": "abc"})) as flow:
        double(Parameter("api_key", default="hidden"))
    with pytest.raises(UnregistrableFlow, match="api_key: a secret would be stored in the database"):
        flow.register()
    flow.schedule = None
    record = flow.register()
    assert record.parameters["properties"]["api_key"] == {"writeOnly": True}
    done = invoke("backfill", "etl", "--from", "2026-01-01", "--to", "2026-01-02", "--every", "1d", "-p", "api_key=abc")
    assert (done.exit_code, "api_key: a secret would be stored in the database" in done.stderr) == (2, True)
    with pytest.raises(Refused, match="api_key: a secret would be stored"):
        Actions(registry()[0]).start("etl", StartAsked(parameters={"api_key": "abc"}))


# Commands -------------------------------------------------------------------------------------------------------------


def test_the_flows_of_a_file_are_registered_listed_and_run_by_name():
    done = invoke("register", "etl.py", "--project", "sales")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "daily: version 1; At 06:00 every day (Europe/Berlin)",
        "nightly: version 1",
    ]
    listed = json.loads(invoke("flows", "--json").stdout)
    assert [(each["name"], each["project"]) for each in listed] == [("daily", "sales"), ("nightly", "sales")]
    ran = invoke("run", "daily", "--x", "21", "-q")
    assert (ran.exit_code, ran.stdout) == (0, "double = 42\n")


def test_a_file_that_cannot_be_loaded_is_told_of_and_the_others_are_registered():
    Path("broken.py").write_text("1 / 0")
    Path("half.py").write_text(f"{FILE}\nbad = Flow('bad', max_runs=0)\nwith bad:\n    double(1)\n")
    done = invoke("register", "broken.py", "half.py", "gone.py", "etl.py:daily")
    assert done.exit_code == 3
    for text in ("ZeroDivisionError", "max_runs: expected a number", "there is no file gone.py"):
        assert text in done.stderr
    assert registry()[1].names() == {"daily"}


def test_the_next_times_of_a_flow_registered_or_not():
    for name in ("etl.py:daily", "daily"):
        done = invoke("schedule", name, "--next", "3")
        assert done.exit_code == 0, done.output
        assert [line[11:19] for line in done.stdout.splitlines()] == ["06:00:00"] * 3
        invoke("register", "etl.py")
    assert invoke("schedule", "nightly").exit_code == 2
    assert "no flow 'dail'; did you mean 'daily'" in invoke("schedule", "dail").stderr


def test_a_schedule_rests_and_goes_on():
    invoke("register", "etl.py")
    assert invoke("schedule", "daily", "--pause").exit_code == 0
    assert registry()[1].get("daily").paused
    assert invoke("schedule", "daily", "--go-on").exit_code == 0
    assert not registry()[1].get("daily").paused


def test_a_service_refuses_a_wide_address_without_a_token_before_it_does_anything():
    done = invoke("serve", "etl.py", "--address", "0.0.0.0", "--port", "0")
    assert done.exit_code == 1
    assert "would let anybody who reaches it start runs" in done.stderr
    assert registry()[1].names() == set()


# Backfills ------------------------------------------------------------------------------------------------------------

BACKFILL = ("backfill", "nightly", "--from", "2026-01-01", "--to", "2026-02-01", "--every", "1d", "-p", "date={date}")


def test_a_backfill_that_is_asked_for_twice_runs_once():
    invoke("register", "etl.py")
    first = invoke(*BACKFILL, "--max-parallel", "4")
    assert first.stdout.splitlines()[0] == "nightly: 31 runs, 31 of them new"
    assert invoke(*BACKFILL).stdout.splitlines()[0] == "nightly: 31 runs, 0 of them new"
    waiting = registry()[2].all()
    assert [slot.parameters["date"] for slot in waiting[:2]] == ["2026-01-01", "2026-01-02"]
    assert {slot.group_most for slot in waiting} == {4}


def test_a_backfill_goes_on_with_what_failed_when_it_is_asked_to():
    invoke("register", "etl.py")
    invoke(*BACKFILL, "--max-parallel", "40")
    _, _, queue = registry()
    now = datetime(2027, 1, 1, tzinfo=UTC)
    for number, slot in enumerate(queue.claim("me:1", 31, now=now, lease_s=30)):
        queue.finish(slot, "Failed" if number == 7 else "Success", now=now)
    assert "0 of them new, 1 resumed" in invoke(*BACKFILL, "--again").stdout
    assert queue.counts() == {"Success": 30, "Waiting": 1}


def test_a_backfill_by_the_times_of_the_schedule_and_one_that_is_only_shown():
    invoke("register", "etl.py")
    done = invoke("backfill", "daily", "--from", "2026-01-01", "--to", "2026-01-04", "--dry-run")
    assert [line.split()[2:4] for line in done.stdout.splitlines()] == [["06:00:00", "+0100"]] * 3
    assert registry()[2].counts() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "2026-02-01", "--to", "2026-01-01", "--every", "1d"), "is not after the start"),
        (("--from", "x", "--to", "2026-01-01", "--every", "1d"), "--from: expected a time such as 2026-01-01"),
        (("--from", "2026-01-01", "--to", "2026-02-01", "--every", "0d"), "expected a step such as 1d"),
        (("--from", "2026-01-01", "--to", "2026-02-01", "--every", "1s"), "more than 100,000 runs; ask for fewer"),
        (("--from", "2026-01-01", "--to", "2026-02-01"), "has no schedule; give a step, such as --every 1d"),
        (("--from", "2026-01-01", "--to", "2026-01-02", "--every", "1d"), "needs a value for: date"),
        (("--from", "2026-01-01", "--to", "2026-01-02", "--every", "1d", "-p", "dat=1"), "there is no parameter 'dat'"),
        (
            ("--from", "2026-01-01", "--to", "2026-01-02", "--every", "1d", "-p", "date={day}"),
            "{day} stands for nothing",
        ),
        (("--from", "2026-01-01", "--to", "2026-01-02", "--every", "1d", "--timezone", "Mars"), "timezone: expected"),
    ],
)
def test_a_backfill_that_cannot_be_is_refused(arguments: tuple[str, ...], message: str):
    invoke("register", "etl.py")
    done = invoke("backfill", "nightly", *arguments)
    assert done.exit_code in (1, 2), done.output
    assert message in done.stderr
    assert registry()[2].counts() == {}


def test_days_of_a_backfill_are_days_of_the_zone():
    berlin = zone_of("Europe/Berlin")
    found = times_between(datetime(2026, 3, 28), datetime(2026, 3, 31), timedelta(days=1), zone=berlin)  # noqa: DTZ001
    assert [each.isoformat() for each in found] == [
        "2026-03-28T00:00:00+01:00",
        "2026-03-29T00:00:00+01:00",
        "2026-03-30T00:00:00+02:00",
    ]


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ((), ["2026-05-01T00:00:00+09:00 2026-05-01", "2026-05-02T00:00:00+09:00 2026-05-02"]),
        (
            ("--timezone", "Asia/Tokyo"),
            ["2026-05-01T00:00:00+09:00 2026-05-01", "2026-05-02T00:00:00+09:00 2026-05-02"],
        ),
        (("--timezone", "UTC"), ["2026-05-01T15:00:00+00:00 2026-05-01", "2026-05-02T15:00:00+00:00 2026-05-02"]),
        (("--every", "1d"), ["2026-05-01T00:00:00+09:00 2026-05-01", "2026-05-02T00:00:00+09:00 2026-05-02"]),
        (
            ("--every", "1d", "--timezone", "Pacific/Pago_Pago"),
            ["2026-05-01T00:00:00-11:00 2026-05-01", "2026-05-02T00:00:00-11:00 2026-05-02"],
        ),
    ],
)
def test_days_of_a_backfill_are_those_of_the_schedule_or_of_the_zone_asked_for(
    options: tuple[str, ...], times: list[str]
):
    flow_of(value=1, schedule=CronSchedule("0 0 * * *", timezone="Asia/Tokyo")).register()
    done = invoke("backfill", "etl", "--from", "2026-05-01", "--to", "2026-05-03", "-p", "x={date}", *options)
    assert done.exit_code == 0, done.output
    assert [f"{slot.due.isoformat()} {slot.parameters['x']}" for slot in registry()[2].all()] == times


def test_fields_are_filled_in_and_nothing_else_is_looked_into():
    (slot,) = slots_for("etl", [NEW_YEAR], {"a": "{date}T{time}", "b": 1, "c": "{datetime} {timestamp}"})
    assert slot.parameters == {"a": "2026-01-01T00:00:00", "b": 1, "c": "2026-01-01T00:00:00+00:00 1767225600"}
    with pytest.raises(ParameterError, match="stands for nothing"):
        slots_for("etl", [NEW_YEAR], {"a": "{__class__}"})


def test_a_backfill_without_an_end_in_sight_is_refused():
    with pytest.raises(ScheduleError, match="more than 100,000 runs"):
        times_between(NEW_YEAR, NEW_YEAR + timedelta(days=3650), timedelta(seconds=1))


# The same schedule ----------------------------------------------------------------------------------------------------

CLOSING = """
from datetime import UTC, datetime, timedelta
from anabranch import Flow, task
from anabranch.runs.registry.registration import record_of
from anabranch.schedules import CronClock, IntervalSchedule, Schedule

def not_on(days):
    return lambda moment: f"{moment:%a}".lower() not in days

with Flow("etl", schedule=Schedule([CronClock("0 6 * * *")], filters=[not_on({"sun", "sat", "fri", "hol"})])) as flow:
    task(lambda: 1, name="go")()
print(record_of(flow.registrable("etl.py:flow"), storage="database").schedule_text)
"""


def test_a_schedule_with_a_set_in_it_is_the_same_in_each_process():
    texts = {
        subprocess.run(
            [sys.executable, "-c", CLOSING],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(texts) == 1


def test_another_schedule_gives_up_what_was_missed_and_says_so(caplog: pytest.LogCaptureFixture):
    _, flows, _ = registry()
    first, second = (record_of(flow_of(schedule=IntervalSchedule(every)).registrable("")) for every in (60, 61))
    for record, day in ((first, 1), (first, 2), (second, 3), (second, 4)):
        flows.put(record, now=datetime(2026, 1, day, tzinfo=UTC))
    assert [each.getMessage() for each in caplog.records] == [
        "flow 'etl' has another schedule than before: what was due since 2026-01-01 00:00:00 UTC and missed is given up"
    ]
    assert flows.get("etl").scheduled_until == datetime(2026, 1, 3, tzinfo=UTC)


# Parameters -----------------------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"


class Place(BaseModel):
    name: str


@dataclass
class Point:
    x: int
    y: int = 0


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (date, date(2026, 1, 1)),
        (Path, Path("a/b")),
        (Colour, Colour.RED),
        (timedelta, timedelta(hours=2, microseconds=1)),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=5)),
        (set[int], {1, 2}),
        (frozenset[Colour], frozenset({Colour.RED})),
        (tuple[int, int], (1, 2)),
        (Place, Place(name="here")),
        (Point, Point(1)),
        (dict[Colour, timedelta], {Colour.RED: timedelta(days=1)}),
        (list[UUID] | None, [UUID(int=5)]),
        (time, time(6, 30)),
        (bytes, b"abc"),
    ],
    ids=str,
)
def test_what_the_type_of_a_parameter_writes_and_reads_may_be_in_a_schedule(kind: Any, value: object):
    with Flow("etl", schedule=IntervalSchedule(60, parameter_defaults={"value": value})) as flow:
        identity(Parameter("value", type=kind))
    record = record_of(flow.registrable(""), storage="database")
    schedule = schedule_of(record, may_load=False)  # it is data
    assert schedule is not None
    (slot,) = [_make_slot("etl", each) for each in schedule.next(1, return_events=True)]
    kept = json.loads(json.dumps(slot.parameters))
    (found,) = resolve_parameters("etl", [Parameter("value", type=kind)], kept).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("kind", "value"), [(None, {1, 2}), (None, Colour.RED), (object, {1}), (bytes, b"\xff")])
def test_what_no_type_can_read_again_is_refused(kind: Any, value: object):
    with Flow("etl", schedule=IntervalSchedule(60, parameter_defaults={"value": value})) as flow:
        identity(Parameter("value", type=kind))
    with pytest.raises(UnregistrableFlow, match="cannot be kept until the run"):
        record_of(flow.registrable(""), storage="database")
