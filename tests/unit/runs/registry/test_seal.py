"""What is code in the registry: sealed with a key where there is one, and not loaded without its seal."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests import holidays

from anabranch import Flow, config, task
from anabranch.errors import ScheduleError, SealError
from anabranch.flows.registered import load_registered
from anabranch.monitoring.pages.flow_page import registration
from anabranch.runs.registry.registration import record_of, registry
from anabranch.runs.registry.seal import schedule_of
from anabranch.runs.store.flows import FlowRecord
from anabranch.schedules import CronSchedule, IntervalSchedule, Schedule
from anabranch.service.work.timetable import Timetable
from anabranch.storage import LocalStorage

KEY = "a key that nobody else has"
OTHER = "another key, of somebody else"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    with config.set({"backend": f"sqlite:///{tmp_path}/runs.db"}):
        yield tmp_path


@task
def one() -> int:
    return 1


def flow_of(name: str = "etl", schedule: Schedule | None = None) -> Flow:
    with Flow(name, schedule=schedule) as flow:
        one()
    return flow


class Planted:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


def kept(record: FlowRecord) -> FlowRecord:
    """What the registry has when somebody has written this into it."""
    return registry()[1].put(record, now=NOON)


def registered(flow: Flow, storage: Any) -> FlowRecord:
    """A flow as it is registered, also from a file that does not have it: nobody gets so far as to load it."""
    if storage != "source":
        return flow.register(storage=storage)
    return kept(record_of(flow.registrable(f"{__file__}:etl")))


def test_a_schedule_is_data_and_no_pickle():
    record = flow_of(schedule=CronSchedule("0 6 * * *", timezone="Europe/Berlin")).register()
    assert record.schedule is not None
    assert record.schedule.startswith(b'{"catch_up"')
    schedule = schedule_of(record)
    assert schedule is not None
    assert schedule.next(1, after=NOON)[0].isoformat() == "2026-01-02T06:00:00+01:00"


def test_registering_the_same_schedule_again_changes_nothing():
    first = flow_of(schedule=CronSchedule("0 6 * * *")).register()
    assert flow_of(schedule=CronSchedule("0 6 * * *")).register().schedule_text == first.schedule_text
    assert flow_of(schedule=CronSchedule("0 7 * * *")).register().schedule_text != first.schedule_text


@pytest.mark.parametrize("place", ["source", "database", "storage"])
def test_what_was_registered_with_the_key_is_loaded_with_it(place: str, home: Path):
    storage: Any = LocalStorage(home / "flows") if place == "storage" else place
    with config.set({"service.key": KEY}):
        flow = flow_of(schedule=IntervalSchedule(60, filters=[lambda moment: True]))
        record = registered(flow, storage)
        if place != "source":
            assert load_registered(record).flow.name == "etl"
        assert schedule_of(record) is not None
    with config.set({"service.key": OTHER}):
        with pytest.raises(SealError, match="flow 'etl' has another key's seal, or was changed since; register it"):
            load_registered(record)
        with pytest.raises(SealError, match="flow 'etl' has another key's seal"):
            schedule_of(record)
    for load in (load_registered, schedule_of):
        with pytest.raises(SealError, match="flow 'etl' is sealed, and this process has no"):
            load(record)


@pytest.mark.parametrize("place", ["source", "database", "storage"])
def test_what_was_registered_without_the_key_is_not_loaded(place: str, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(holidays.__file__).parents[1]))  # where a process loads the filter back
    storage: Any = LocalStorage(home / "flows") if place == "storage" else place
    record = registered(flow_of(schedule=IntervalSchedule(60, not_filters=[holidays.is_holiday])), storage)
    with config.set({"service.key": KEY}):
        with pytest.raises(SealError, match="flow 'etl' has no seal; register it again, with the key"):
            load_registered(record)
        with pytest.raises(SealError, match="flow 'etl' has no seal"):
            schedule_of(record)
        assert schedule_of(flow_of(schedule=CronSchedule("@daily")).register()) is not None


def test_who_writes_to_the_registry_can_neither_change_nor_move_what_is_sealed(home: Path):
    mark = home / "mark"
    with config.set({"service.key": KEY}):
        good = flow_of(schedule=IntervalSchedule(60, filters=[lambda moment: True])).register(storage="database")
        evil = pickle.dumps(Planted(mark))
        for changed in (
            replace(good, code=evil),
            replace(good, code=None, source=str(home / "evil.py") + ":flow"),
            replace(good, name="other"),
            replace(good, seal=""),
        ):
            with pytest.raises(SealError):
                load_registered(changed)
        for changed in (replace(good, schedule=evil), replace(good, name="other"), replace(good, seal="é" * 128)):
            with pytest.raises(SealError):
                schedule_of(changed)
    assert not mark.exists()


@pytest.mark.parametrize("place", ["database", "storage"])
def test_no_part_of_an_older_version_can_be_put_back(place: str, home: Path):
    storage: Any = LocalStorage(home / "flows") if place == "storage" else place
    with config.set({"service.key": KEY}):
        older = flow_of(schedule=IntervalSchedule(60, filters=[lambda moment: True])).register(storage=storage)
        with Flow("etl", schedule=IntervalSchedule(60, filters=[lambda moment: moment.year])) as flow:
            one()
            one()
        newer = flow.register(storage=storage)
        for changed in (
            replace(newer, code=older.code, storage=older.storage),
            replace(newer, schedule=older.schedule),
            replace(newer, seal=older.seal),
        ):
            with pytest.raises(SealError, match="was changed since"):
                load_registered(changed)
        for changed in (replace(newer, schedule=older.schedule), replace(newer, seal=older.seal)):
            with pytest.raises(SealError, match="was changed since"):
                schedule_of(replace(changed, code=None))  # as lists have it


def test_a_stored_flow_that_was_changed_with_its_checksum_is_not_loaded(home: Path):
    import hashlib
    import json

    mark = home / "mark"
    with config.set({"service.key": KEY}):
        record = flow_of().register(storage=LocalStorage(home / "flows"))
        place = json.loads(record.storage or "")
        (file,) = (home / "flows").iterdir()
        file.write_bytes(pickle.dumps(Planted(mark)))
        place["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        with pytest.raises(SealError):
            load_registered(replace(record, storage=json.dumps(place)))
    assert not mark.exists()


def test_a_flow_whose_schedule_is_not_sealed_rests_and_the_others_go_on():
    flow_of("theirs", IntervalSchedule(60, filters=[lambda moment: True])).register()
    with config.set({"service.key": KEY}):
        flow_of("ours", IntervalSchedule(60, filters=[lambda moment: True])).register()
        flow_of("plain", IntervalSchedule(60)).register()
        table = Timetable(registry()[1])
        table.refresh(NOON)
        assert list(table.problems) == ["theirs"]
        assert "no seal" in table.problems["theirs"]


def test_pages_load_no_code_to_tell_times(home: Path):
    mark = home / "mark"
    record = kept(FlowRecord("etl", "code", schedule=pickle.dumps(Planted(mark)), schedule_text="sometimes"))
    assert "only code knows the times of this schedule" in registration(record, NOON)
    assert not mark.exists()
    with pytest.raises(ScheduleError, match="expected a schedule, found a NoneType"):
        schedule_of(record)
    assert mark.exists()  # so the mark would have been seen


def test_a_schedule_that_is_not_whole_is_refused():
    with pytest.raises(ScheduleError, match="is incomplete"):
        schedule_of(FlowRecord("etl", "code", schedule=b'{"format": 1'))
    with pytest.raises(ScheduleError, match="does not load here: UnpicklingError"):
        schedule_of(FlowRecord("etl", "code", schedule=b"\x80\x05nonsense"))
