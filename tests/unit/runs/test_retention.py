"""What is deleted by rules, what stays, and that a sweep may be broken off anywhere; without a cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, config, task
from anabranch.base.retention import read_rules
from anabranch.errors import ResultReleased, RunHeld
from anabranch.results import JSONSerializer, LocalResult
from anabranch.runs import Batch, ChunkRow, LogRow, RunDetails, RunRecord, TaskRunRow, open_store
from anabranch.runs.record.refs import locations_in
from anabranch.runs.retention import KEPT, Retention, Sweep, sweep
from anabranch.runs.store.opening import current_store
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.removal import BITE
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
LARGE = 40_000


def rules(**texts: str) -> Retention:
    return Retention(**{name: read_rules(text) for name, text in texts.items()})


@pytest.fixture
def store() -> RelationalRunStore:
    found = open_store("memory://")
    assert isinstance(found, RelationalRunStore)
    return found


def put(
    store: RelationalRunStore, run_id: str, days: float = 0, state: str | None = "Success", **fields: Any
) -> RunRecord:
    """A run of some days ago, with rows of every kind; it goes on if it has no state."""
    began = NOON - days * DAY
    record = RunRecord(run_id, **{"flow_name": "etl", "start": began, **fields})
    held = store.create_run(record, now=NOON)
    batch = Batch(
        [TaskRunRow("a", "a", "Success", 10)],
        [ChunkRow("m", 0, range(4), bytes([10] * 4))],
        [],
        [LogRow(number, began, 20, f"line {number}") for number in range(3)],
    )
    store.write(held, batch)
    if state is not None:
        store.finish_run(held, state, end=None if state == "Paused" else began)
    return record


def ids(store: RelationalRunStore) -> list[str]:
    return sorted(each.run_id for each in store.list_runs(now=NOON))


# Runs and log lines ---------------------------------------------------------------------------------------------------


def test_what_is_old_goes_and_what_goes_on_or_waits_stays(store: RelationalRunStore):
    for run_id, state in (("new", "Success"), ("old", "Success"), ("failed", "Failed"), ("paused", "Paused")):
        put(store, run_id, 1 if run_id == "new" else 50, state)
    put(store, "goes-on", 50, None)
    put(store, "waits", 50, "Failed")
    SlotQueue(store.database).again(Slot("waits", "etl", NOON), now=NOON)
    kept = rules(runs="30d; /Failed: 60d")
    planned = Sweep(store, kept, now=NOON).plan()
    assert planned.runs == ["old"]
    assert sweep(store, kept, now=NOON) == planned
    assert sweep(store, rules(runs="30d"), now=NOON).runs == ["failed"]
    assert ids(store) == ["goes-on", "new", "paused", "waits"]
    assert store.check() == []
    assert sweep(store, rules(runs="30d"), now=NOON).runs == []


def test_nothing_goes_without_rules(store: RelationalRunStore):
    put(store, "old", 5_000)
    assert not sweep(store, now=NOON)
    assert ids(store) == ["old"]
    assert len(store.logs("old")) == 3


def test_log_lines_go_before_their_runs(store: RelationalRunStore):
    put(store, "new", 1)
    put(store, "old", 50)
    put(store, "failed", 50, "Failed")
    kept = rules(logs="14d; /Failed: 90d")
    assert Sweep(store, kept, now=NOON).plan().logs == 1
    assert sweep(store, kept, now=NOON).logs == 1
    assert [len(store.logs(run_id)) for run_id in ("new", "old", "failed")] == [3, 0, 3]
    assert store.task_runs("old")
    assert not sweep(store, kept, now=NOON)


def test_sizes_of_rows_count(store: RelationalRunStore):
    for days in (1, 2, 3):
        held = store.create_run(RunRecord(f"run-{days}", "etl", NOON - days * DAY), now=NOON)
        rows = [TaskRunRow("a", "a", "Success", 10, value=b"v" * 1_000)]
        store.finish_run(held, "Success", end=NOON, batch=Batch(rows, logs=[LogRow(0, NOON, 20, "x" * 1_000)]))
    assert sweep(store, rules(logs="2 kB"), now=NOON).logs == 2
    assert sweep(store, rules(runs="4 kB"), now=NOON).runs == ["run-3"]


def test_runs_that_are_part_of_others_go_with_them_and_only_so(store: RelationalRunStore):
    put(store, "whole", 50)
    put(store, "part", 49, parent_run_id="whole")
    put(store, "deep", 48, parent_run_id="part")
    put(store, "kept", 2)
    put(store, "its-part", 40, parent_run_id="kept")
    put(store, "busy", 50)
    put(store, "busy-part", 49, None, parent_run_id="busy")
    put(store, "orphan", 40, parent_run_id="gone-long-ago")
    kept = rules(runs="30d")
    planned = Sweep(store, kept, now=NOON).plan()
    assert planned.runs == ["whole", "part", "deep", "orphan"]
    assert sorted(sweep(store, kept, now=NOON).runs) == sorted(planned.runs)
    assert ids(store) == ["busy", "busy-part", "its-part", "kept"]
    with pytest.raises(RunHeld, match="run busy-part is held by"):
        store.delete_run("busy", now=NOON)


def test_a_run_that_waits_in_a_queue_is_not_deleted_by_hand(store: RelationalRunStore):
    put(store, "waits", 50, "Failed")
    SlotQueue(store.database).again(Slot("waits", "etl", NOON), now=NOON)
    with pytest.raises(RunHeld, match="run waits waits in the queue of a service"):
        store.delete_run("waits", now=NOON)
    assert store.prune(older_than=NOON, now=NOON) == []


def test_slots_of_runs_that_ended_long_ago_are_forgotten(store: RelationalRunStore):
    queue = SlotQueue(store.database)
    queue.add([Slot(name, "etl", NOON - KEPT) for name in ("over", "waits", "fresh")], now=NOON - KEPT)
    claimed = {slot.run_id: slot for slot in queue.claim("me:1", 3, now=NOON, lease_s=9)}
    queue.finish(claimed["over"], "Success", now=NOON - KEPT - DAY)
    queue.finish(claimed["fresh"], "Success", now=NOON - KEPT + DAY)
    sweep(store, now=NOON)
    assert sorted(slot.run_id for slot in queue.all()) == ["fresh", "waits"]


def test_a_sweep_takes_short_steps_and_may_be_broken_off_at_each(store: RelationalRunStore):
    for number in range(3):
        put(store, f"old-{number}", 50)
    held = store.create_run(RunRecord("long", "etl", NOON - 50 * DAY), now=NOON)
    lines = [LogRow(number, NOON, 20, "line") for number in range(2 * BITE)]
    store.finish_run(held, "Success", end=NOON, batch=Batch(logs=lines))
    put(store, "new")
    for taken in range(100):
        for step, _ in enumerate(Sweep(store, rules(runs="30d"), now=NOON).steps()):
            assert store.check() == []
            assert "new" in ids(store)
            if step == taken:
                break
        else:
            break
    assert ids(store) == ["new"]
    assert store.removal.leaving() == []
    assert store.check() == []


def test_a_run_begins_again_only_when_nothing_of_the_deleted_one_is_left(store: RelationalRunStore):
    put(store, "old", 50)
    steps = Sweep(store, rules(runs="30d"), now=NOON).steps()
    while "old" in ids(store):
        next(steps)
    with pytest.raises(RunHeld, match="run old is being deleted, so none of its id can begin; try again in a moment"):
        put(store, "old")
    for _ in steps:
        pass
    put(store, "old")
    assert len(store.logs("old")) == 3


# Stored values --------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept_store(tmp_path: Path) -> Iterator[RelationalRunStore]:
    with config.set(backend=f"sqlite:///{tmp_path / 'runs.db'}"):
        found = current_store()
        assert isinstance(found, RelationalRunStore)
        yield found


def etl(root: Path) -> Flow:
    """Values of tasks, of maps in chunks and by element, a plain file, targets, a cache, a place of the user's."""
    result = LocalResult(root)

    @task(checkpoint=True)
    def large() -> bytes:
        return b"x" * LARGE

    @task
    def double(x: int) -> list[int]:
        return [x] * LARGE

    @task(target="target.pkl")
    def target() -> int:
        return 1

    @task(target="of/{run_id}.pkl")
    def target_of_run() -> int:
        return 1

    @task(cache_for=DAY, cache_key="cached")
    def cached() -> int:
        return 2

    @task(location="latest.pkl")
    def latest() -> int:
        return 3

    @task(result=LocalResult(root, serializer=JSONSerializer(), location="{run_id}/{task_name}.json"))
    def plain() -> int:
        return 4

    @task(location="{flow_name}/{run_id}/{task_name}/{map_index}")
    def single(x: int) -> int:
        return x

    with Flow("etl", result=result) as flow:
        large()
        double.map([1, 2, 3])
        single.map([1, 2])
        target()
        target_of_run()
        cached()
        latest()
        plain()
    return flow


USERS = {"target.pkl", "latest.pkl"}


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_values_go_with_their_runs_where_values_are_to_go(kept_store: RelationalRunStore, tmp_path: Path):
    flow = etl(tmp_path / "results")
    first, second = flow.run(), flow.run()
    before = files(tmp_path / "results")
    assert kept_store.removal.stores() == [f"{socket.gethostname()}:{tmp_path / 'results'}"]
    later = datetime.now(UTC) + DAY
    assert not sweep(kept_store, rules(runs="2d", results="2d"), now=later)
    assert sweep(kept_store, rules(runs="1 run", results="2d"), now=later).runs == [first.run_id]
    left = files(tmp_path / "results")
    of_first = {each for each in before if first.run_id in each}
    assert before - left == of_first - {f"of/{first.run_id}.pkl"}
    assert len(before - left) >= 5
    assert not (tmp_path / "results" / "etl" / first.run_id).exists()
    assert flow.run(resume=second.run_id).is_successful()
    sweep(kept_store, rules(runs="0 runs"), now=later)
    assert files(tmp_path / "results") == left  # nobody wants values to go


def test_a_run_whose_values_are_gone_says_so_and_computes_them_again(kept_store: RelationalRunStore, tmp_path: Path):
    flow = etl(tmp_path / "results")
    run_id = flow.run().run_id
    later = datetime.now(UTC) + DAY
    kept = rules(results="1h")
    assert Sweep(kept_store, kept, now=later).plan().values == 1
    assert sweep(kept_store, kept, now=later).values == 1
    assert not sweep(kept_store, kept, now=later)
    left = files(tmp_path / "results")
    assert {each for each in left if run_id in each} == {f"of/{run_id}.pkl"}
    assert left >= USERS
    resumed = flow.run(resume=run_id, keep=["large", "double"])
    assert resumed.is_successful()
    assert resumed["large"].result == b"x" * LARGE
    assert [len(each.result) for each in resumed["double"].map_states] == [LARGE] * 3
    sweep(kept_store, kept, now=later)
    again = flow.run(resume=run_id)
    with pytest.raises(ResultReleased):
        _ = again["large"].result


def test_no_row_names_a_file_that_is_gone_wherever_a_sweep_is_broken_off(
    kept_store: RelationalRunStore, tmp_path: Path
):
    root = tmp_path / "results"
    flow = etl(root)
    old, new = flow.run().run_id, flow.run().run_id
    later = datetime.now(UTC) + DAY
    for taken in range(200):
        is_over = True
        for number, _ in enumerate(Sweep(kept_store, rules(runs="1 run", results="1h, keep 1"), now=later).steps()):
            named = {
                place
                for each in kept_store.removal.stored([old, new])
                for place in locations_in(each.text, each.key[0])
            }
            assert named <= files(root)
            if number == taken:
                is_over = False
                break
        if is_over:
            break
    assert {each for each in files(root) if old in each} == {f"of/{old}.pkl"}
    assert {each for each in files(root) if new in each} > {f"of/{new}.pkl"}
    assert (kept_store.removal.files(), kept_store.removal.leaving()) == ([], [])


def test_values_that_were_stored_again_meanwhile_stay(kept_store: RelationalRunStore, tmp_path: Path):
    flow = etl(tmp_path / "results")
    run_id = flow.run().run_id
    steps = Sweep(kept_store, rules(results="1h"), now=datetime.now(UTC) + DAY).steps()
    while kept_store.removal.stored([run_id]) or not kept_store.removal.files():
        next(steps)
    flow.run(resume=run_id, keep=["large"])
    for _ in steps:
        pass
    assert f"etl/{run_id}/large" in files(tmp_path / "results")
    assert kept_store.removal.files() == []


def test_files_of_another_machine_wait_for_it(kept_store: RelationalRunStore, tmp_path: Path):
    etl(tmp_path / "results").run()
    put(kept_store, "elsewhere", details=RunDetails(stores=("elsewhere:/results",)))
    later = datetime.now(UTC) + DAY
    kept = rules(runs="0 runs", results="1h")
    (tmp_path / "results").rename(tmp_path / "away")  # as it is for this machine
    sweep(kept_store, kept, now=later)
    assert kept_store.removal.files() != []
    assert kept_store.removal.stores() == ["elsewhere:/results"]
    sweep(kept_store, kept, now=later + KEPT + DAY)
    assert kept_store.removal.files() == []


# Caches ---------------------------------------------------------------------------------------------------------------


def test_entries_of_caches_go_if_no_run_that_is_kept_names_them(
    kept_store: RelationalRunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))  # its results are looked at as well
    root = tmp_path / "results"
    etl(root).run()
    LocalResult(root).write("cache/cached/ab/abcd", 1, {"cache": "cached", "key": "abcd"})
    LocalResult(root).write("cache/other", 1, {"target of": "other"})
    (root / "cache" / "notes.txt").write_text("mine")
    entries = {each for each in files(root) if each.startswith("cache/")}
    later = datetime.now(UTC) + 3 * DAY
    assert sweep(kept_store, rules(caches="4d"), now=later).caches == 0
    assert Sweep(kept_store, rules(caches="2d"), now=later).plan().caches >= 1
    assert sweep(kept_store, rules(caches="2d"), now=later).caches == 1
    assert entries - files(root) == {"cache/cached/ab/abcd"}
    assert sweep(kept_store, rules(caches="2d", runs="0 runs"), now=later).caches == 1
    assert {each for each in files(root) if each.startswith("cache/")} == {"cache/other", "cache/notes.txt"}


def test_the_oldest_entries_go_when_caches_are_too_large(kept_store: RelationalRunStore, tmp_path: Path):
    root = tmp_path / "home" / "results"
    for number in range(4):
        LocalResult(root).write(f"cache/x/{number}", b"x" * 1_000, {"cache": "x", "key": number})
        os.utime(root / f"cache/x/{number}", (number, number))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
        assert sweep(kept_store, rules(caches="4 kB"), now=NOON).caches == 2
    assert files(root) == {"cache/x/2", "cache/x/3"}
