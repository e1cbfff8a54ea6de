"""What every run store must do, tried on each of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from tests.faults import Fault, FaultyDatabase, FaultyStore
from tests.postgres_server import PostgresServer, running_postgres

from anabranch import config
from anabranch.base.retention import read_rules
from anabranch.errors import (
    RunExists,
    RunHeld,
    RunNotFound,
    RunQueryError,
    RunStoreError,
    RunStoreUnavailable,
    StaleOwner,
)
from anabranch.runs import (
    INTERRUPTED,
    ArtifactRow,
    Batch,
    ChunkRow,
    ElementRow,
    Heart,
    LogQuery,
    LogRow,
    Ownership,
    RunDetails,
    RunQuery,
    RunRecord,
    TaskRunRow,
    open_store,
)
from anabranch.runs.retention import Retention, sweep
from anabranch.runs.store.codec import to_text
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.states import Failed, Retrying, Skipped, Success

LEASE_S = 30.0
NOON = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOON + timedelta(seconds=LEASE_S)
"""When a lease taken at noon has run out."""
NASTY = "x'); DROP TABLE anabranch_runs; -- %_~ \\ \0 \udc80 é \u202e 😀 <b>"
KINDS = ("memory", "sqlite", "postgresql")
Opened = Callable[[], RelationalRunStore]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as running:
        yield running


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    """Opens the same store, empty at first, each time it is called; in memory there is only one to open."""
    match request.param:
        case "memory":
            url = "memory://"
        case "sqlite":
            url = f"sqlite:///{tmp_path}/runs.db"
        case _:
            url = request.getfixturevalue("server").fresh_url()
    stores: list[RelationalRunStore] = []

    def again() -> RelationalRunStore:
        if not (stores and url.startswith("memory")):
            store = open_store(url)
            assert isinstance(store, RelationalRunStore)
            store.lease_s = LEASE_S
            stores.append(store)
        return stores[-1]

    yield again
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Opened) -> RelationalRunStore:
    return opened()


def record(run_id: str = "run-1", flow_name: str = "etl", **fields: Any) -> RunRecord:
    return RunRecord(run_id, flow_name, **{"start": NOON, **fields})


def rows(seed: int = 0) -> Batch:
    """A row of every kind, with every field set to something of its own."""
    at = NOON + timedelta(seconds=seed)
    return Batch(
        [
            TaskRunRow("load", "load", "Failed", Failed.code, 2, 3, at, at, "tcp://w", "why", b"\0f", None, None, "ab"),
            TaskRunRow("map", "map", "Mapped", 12, 1, 1, at, None, "", "", None, b"v\xff", '{"at": 1}', "cd", 7),
        ],
        [
            ChunkRow("map", 0, range(4), bytes([Success.code] * 4), b"\0values", None, "tcp://w", at, 0.25),
            ChunkRow("map", 1, (9, 5, 70_000), bytes([10, 20, 13]), None, '{"at": 2}', "", None, 1e-6),
        ],
        [
            ElementRow("map", 5, Failed.code, 3, None, "boom", b"\0failure"),
            ElementRow("map", 9, Retrying.code, 1, at + timedelta(minutes=1), "", None),
        ],
        [LogRow(0, at, 30, "line", "map", 5, 3, "tcp://w"), LogRow(1, at, 20, "another")],
    )


def seen(store: RelationalRunStore, run_id: str = "run-1") -> Batch:
    """Everything that was written about a run."""
    return Batch(store.task_runs(run_id), store.chunks(run_id, "map"), store.elements(run_id), store.logs(run_id))


# Records --------------------------------------------------------------------------------------------------------------


def test_a_run_reads_as_it_was_recorded(store: RelationalRunStore):
    details = RunDetails({"n": 3, "deep": [{"x": None}]}, b"\0pickle", {"load": "c0de"}, {"dask": "2026.8"}, b"\0plan")
    given = record(flow_version="3", message="hi", parent_run_id="run-0", labels={"team": "é"}, details=details)
    ownership = store.create_run(given, owner="here:1", now=NOON)
    found = store.get_run("run-1", now=NOON)
    held = {"owner": "here:1", "epoch": 1, "held_since": NOON, "lease_until": LATER, "heard": NOON}
    assert found == RunRecord("run-1", "etl", NOON, "3", "Running", "hi", None, "run-0", {"team": "é"}, details, **held)
    assert (ownership.run_id, ownership.owner, ownership.epoch) == ("run-1", "here:1", 1)


def test_rows_read_as_they_were_written(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    store.write(ownership, rows())
    assert seen(store) == rows()


def test_times_keep_their_moment_whatever_their_zone(store: RelationalRunStore):
    abroad = NOON.astimezone(timezone(timedelta(hours=5, minutes=45)))
    store.create_run(record(start=abroad), now=NOON)
    assert store.get_run("run-1").start == NOON
    assert store.get_run("run-1").start.tzinfo is UTC


def test_a_time_without_a_zone_is_refused(store: RelationalRunStore):
    with pytest.raises(ValueError, match="expected an aware datetime"):
        store.create_run(record(start=NOON.replace(tzinfo=None)))


def test_what_users_say_is_kept_as_text(store: RelationalRunStore):
    ownership = store.create_run(record(flow_name=NASTY, labels={NASTY: NASTY}, message=NASTY), owner=NASTY, now=NOON)
    row = TaskRunRow(NASTY, NASTY, "Failed", Failed.code, worker=NASTY, message=NASTY)
    store.write(ownership, Batch([row], logs=[LogRow(0, NOON, 20, NASTY, slug=NASTY)]))
    kept = NASTY.replace("\0", "\\x00").replace("\udc80", "\\udc80")
    found = store.get_run("run-1", now=NOON)
    assert (found.flow_name, found.message, found.owner) == (kept, kept, kept)
    assert found.labels == {NASTY: NASTY}
    assert [(row.slug, row.message) for row in store.task_runs("run-1")] == [(kept, kept)]
    assert [line.text for line in store.logs("run-1", kept)] == [kept]
    assert store.list_runs(RunQuery(flow_name=NASTY, text=NASTY), now=NOON) != []
    assert store.list_runs(RunQuery(state=NASTY), now=NOON) == []


def test_long_messages_are_cut(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    store.write(ownership, Batch([TaskRunRow("a", "a", "Failed", Failed.code, message="ä" * 100_000)]))
    (row,) = store.task_runs("run-1")
    assert len(row.message.encode()) <= 8_192
    assert row.message.endswith("ä…")


def test_a_million_elements_are_a_few_bytes(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    chunk = ChunkRow("map", 0, range(1_000_000), bytes([Success.code]) * 1_000_000)
    store.write(ownership, Batch(chunks=[chunk]))
    assert store.chunks("run-1", "map") == [chunk]


def test_a_chunk_with_a_code_too_few_is_refused(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    with pytest.raises(ValueError, match="chunk 0 of map: 3 indices, but 2 codes"):
        store.write(ownership, Batch(chunks=[ChunkRow("map", 0, range(3), b"\n\n")]))


# Writing --------------------------------------------------------------------------------------------------------------


def test_writing_a_batch_twice_changes_nothing(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    store.write(ownership, rows())
    store.write(ownership, rows())
    assert seen(store) == rows()


def test_a_row_replaces_the_one_with_its_key(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    store.write(ownership, rows())
    store.write(ownership, Batch(elements=[ElementRow("map", 9, Success.code, attempt=2)]))
    store.write(ownership, Batch([TaskRunRow("load", "load", "Success", Success.code, 3, start=NOON)]))
    assert [(row.index, row.code, row.due) for row in store.elements("run-1", "map")] == [(5, 20, None), (9, 10, None)]
    assert [(row.slug, row.state, row.failure) for row in store.task_runs("run-1")] == [
        ("load", "Success", None),
        ("map", "Mapped", None),
    ]


def test_a_batch_with_a_row_that_cannot_be_written_writes_nothing(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    wrong = LogRow(2, NOON, 20, "line", index=object())  # type: ignore[arg-type]
    with pytest.raises(RunStoreError):
        store.write(ownership, Batch(rows().task_runs, rows().chunks, rows().elements, [wrong]))
    assert seen(store) == Batch([], [], [], [])
    store.write(ownership, rows())
    assert seen(store) == rows()


def test_a_run_ends_together_with_its_last_rows(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    store.finish_run(ownership, "Failed", end=LATER, message="load failed", batch=rows())
    found = store.get_run("run-1", now=LATER)
    assert (found.state, found.message, found.end, found.lease_until) == ("Failed", "load failed", LATER, None)
    assert seen(store) == rows()


def test_two_runs_cannot_have_one_id(store: RelationalRunStore):
    store.create_run(record(details=RunDetails(plan=b"first")), now=NOON)
    with pytest.raises(RunExists, match="there is a run 'run-1' already"):
        store.create_run(record(flow_name="other", details=RunDetails(plan=b"second")), now=NOON)
    found = store.get_run("run-1")
    assert (found.flow_name, found.details and found.details.plan) == ("etl", b"first")


def test_threads_share_a_store(store: RelationalRunStore):
    def run(name: str) -> None:
        ownership = store.create_run(record(name), now=NOON)
        for second in range(20):
            store.write(ownership, rows(second))
            assert len(store.task_runs(name)) == 2
        store.finish_run(ownership, "Success", end=LATER)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, [f"run-{n}" for n in range(8)]))
    assert {found.state for found in store.list_runs()} == {"Success"}
    assert all(store.task_runs(f"run-{n}") == rows(19).task_runs for n in range(8))
    assert all(store.elements(f"run-{n}") == rows(19).elements for n in range(8))


# Owning ---------------------------------------------------------------------------------------------------------------


def test_a_run_whose_lease_ran_out_reads_as_interrupted(store: RelationalRunStore):
    store.create_run(record(), owner="there:7", now=NOON)
    assert store.get_run("run-1", now=LATER - timedelta(microseconds=1)).state == "Running"
    found = store.get_run("run-1", now=LATER)
    assert (found.state, found.message) == (INTERRUPTED, "there:7 has not been heard of since its lease ran out")
    assert [found.state for found in store.list_runs(now=LATER)] == [INTERRUPTED]


def test_a_heartbeat_renews_the_lease(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    store.heartbeat(ownership, now=NOON + timedelta(seconds=20))
    assert store.get_run("run-1", now=LATER).state == "Running"
    assert store.get_run("run-1", now=LATER + timedelta(seconds=20)).state == INTERRUPTED


def test_an_owner_that_slept_goes_on_if_nobody_took_over(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    store.heartbeat(ownership, now=NOON + timedelta(days=1))
    store.write(ownership, rows())
    assert store.get_run("run-1", now=NOON + timedelta(days=1)).state == "Running"


def test_a_run_that_is_held_cannot_be_taken_over(store: RelationalRunStore):
    ownership = store.create_run(record(), owner="there:7", now=NOON)
    with pytest.raises(RunHeld, match=r"run run-1 is held by there:7 since 2026-11-21 12:00:00 UTC"):
        store.take_over("run-1", owner="here:1", now=LATER - timedelta(seconds=1))
    store.write(ownership, rows())
    assert seen(store) == rows()


def test_taking_over_shuts_the_former_owner_out(store: RelationalRunStore):
    former = store.create_run(record(), owner="there:7", now=NOON)
    store.write(former, rows())
    present = store.take_over("run-1", owner="here:1", now=LATER)
    assert present.epoch == former.epoch + 1
    for attempt in (
        lambda: store.write(former, Batch([TaskRunRow("late", "late", "Success", Success.code)])),
        lambda: store.finish_run(former, "Success", end=LATER, batch=rows(99)),
        lambda: store.heartbeat(former, now=LATER),
    ):
        with pytest.raises(StaleOwner, match=r"run run-1 was taken over by here:1 at 2026-11-21 12:00:30 UTC"):
            attempt()
    assert seen(store) == rows()
    store.write(present, rows(1))
    assert seen(store).task_runs == rows(1).task_runs


@pytest.mark.parametrize(("state", "end"), [("Success", LATER), ("Failed", LATER), ("Paused", None)])
def test_a_run_that_was_put_down_can_be_taken_over_at_once(store: RelationalRunStore, state: str, end: datetime | None):
    former = store.create_run(record(), now=NOON)
    store.finish_run(former, state, end=end, message="so far")
    store.take_over("run-1", owner="here:1", now=NOON)
    found = store.get_run("run-1", now=NOON)
    assert (found.state, found.message, found.end, found.owner, found.epoch) == ("Running", "", None, "here:1", 2)
    assert found.start == NOON


def test_a_late_heartbeat_does_not_revive_a_finished_run(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    store.finish_run(ownership, "Success", end=LATER)
    store.heartbeat(ownership, now=LATER)
    assert store.get_run("run-1", now=LATER + timedelta(days=1)).state == "Success"


def test_one_of_six_takes_a_run_over(opened: Opened):
    opened().create_run(record(), now=NOON)
    stores = [opened() for _ in range(6)]
    gate = threading.Barrier(6)

    def take(n: int) -> Ownership | str:
        gate.wait()
        try:
            return stores[n].take_over("run-1", owner=f"here:{n}", now=LATER)
        except RunHeld as error:
            return str(error)

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(take, range(6)))
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, Ownership)]
    assert winner.epoch == 2
    losers = {outcome for outcome in outcomes if isinstance(outcome, str)}
    assert losers == {f"run run-1 is held by {winner.owner} since 2026-11-21 12:00:30 UTC"}


def test_a_run_that_is_not_there_cannot_be_taken_over(store: RelationalRunStore):
    with pytest.raises(RunNotFound, match="the run store has no run 'run-1'"):
        store.take_over("run-1")


# Wishes ---------------------------------------------------------------------------------------------------------------


def test_a_wish_reaches_whoever_holds_the_run_from_any_process(opened: Opened):
    ownership = opened().create_run(record(details=RunDetails({"n": 1})), owner="there:7", now=NOON)
    assert opened().find_wish(ownership) == ""
    found = opened().ask_end("run-1", f"cancelled by {NASTY}", now=NOON)
    assert (found.state, found.owner, found.details) == ("Running", "there:7", None)
    assert opened().find_wish(ownership) == f"cancelled by {to_text(NASTY)}"


def test_a_run_that_others_have_had_meanwhile_is_not_taken_over(store: RelationalRunStore):
    store.finish_run(store.create_run(record(), now=NOON), "Paused", end=None)
    store.finish_run(store.take_over("run-1", epoch=1, now=NOON), "Cancelled", end=NOON)
    with pytest.raises(RunHeld):
        store.take_over("run-1", epoch=1, now=LATER)
    assert store.get_run("run-1").state == "Cancelled"
    assert store.take_over("run-1", epoch=2, now=LATER).epoch == 3


def test_a_wish_holds_while_the_owner_is_not_heard_of(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    assert store.ask_end("run-1", "cancelled by ann", now=LATER).state == INTERRUPTED
    store.heartbeat(ownership, now=LATER + timedelta(days=1))
    assert store.find_wish(ownership) == "cancelled by ann"


def test_who_takes_a_run_over_is_not_asked_what_the_former_owner_was(store: RelationalRunStore):
    former = store.create_run(record(), now=NOON)
    store.ask_end("run-1", "cancelled by ann", now=NOON)
    store.finish_run(former, "Cancelled", end=NOON)
    present = store.take_over("run-1", now=NOON)
    assert store.find_wish(present) == ""
    store.ask_end("run-1", "cancelled by bob", now=NOON)
    assert (store.find_wish(present), store.find_wish(former)) == ("cancelled by bob", "")


@pytest.mark.parametrize(("state", "end"), [("Success", LATER), ("Cancelled", LATER), ("Paused", None)])
def test_nothing_is_asked_of_a_run_that_was_put_down(store: RelationalRunStore, state: str, end: datetime | None):
    ownership = store.create_run(record(), now=NOON)
    store.finish_run(ownership, state, end=end)
    assert store.ask_end("run-1", "cancelled by ann", now=NOON).state == state
    assert store.find_wish(ownership) == ""


def test_a_wish_goes_with_its_run(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    store.ask_end("run-1", "cancelled by ann", now=NOON)
    store.delete_run("run-1", now=LATER)
    assert store.find_wish(ownership) == ""
    assert store.check() == []
    with pytest.raises(RunNotFound, match="the run store has no run 'run-1'"):
        store.ask_end("run-1", "cancelled by ann", now=LATER)


def test_a_heart_hears_a_wish_between_its_beats(store: RelationalRunStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("anabranch.runs.store.heart._LOOK_S", 0.001)
    ownership = store.create_run(record())
    until = store.get_run("run-1").lease_until
    with Heart(store, ownership) as heart:
        store.ask_end("run-1", "cancelled by ann")
        while not heart.wish:
            assert not heart.lost.wait(0.001)
    assert heart.wish == "cancelled by ann"
    assert store.get_run("run-1").lease_until == until


# Hearts ---------------------------------------------------------------------------------------------------------------


def test_a_heart_keeps_a_run_and_tells_when_it_is_lost(store: RelationalRunStore):
    store.lease_s = 0.03
    ownership = store.create_run(record())
    told: list[StaleOwner] = []
    first = store.get_run("run-1").lease_until
    assert first is not None
    with Heart(store, ownership, on_lost=told.append) as heart:
        while (renewed := store.get_run("run-1").lease_until) is not None and renewed <= first:
            assert not heart.lost.wait(0.01)
        store.take_over("run-1", owner="here:1", now=datetime.now(UTC) + timedelta(days=1))
        assert heart.lost.wait(20)
    assert [str(error).split(" at ")[0] for error in told] == ["run run-1 was taken over by here:1"]


def test_a_heart_outlives_a_store_that_does_not_answer(store: RelationalRunStore, caplog: pytest.LogCaptureFixture):
    ownership = store.create_run(record())
    heart = Heart(FaultyStore(store, Fault(at=0)), ownership)  # type: ignore[arg-type]
    assert heart.beat()
    assert heart.beat()
    assert not heart.lost.is_set()
    assert [line.getMessage() for line in caplog.records] == [
        "the lease of run run-1 was not renewed: fault at touch 0"
    ]


def test_a_heart_stops_while_a_store_hangs(store: RelationalRunStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("anabranch.runs.store.heart._FAREWELL_S", 0.01)
    store.lease_s = 0.03
    ownership = store.create_run(record())
    answers = threading.Event()
    fault = Fault(at=0, until=answers)
    with Heart(FaultyStore(store, fault), ownership):  # type: ignore[arg-type]
        assert fault.reached.wait(20)
    (thread,) = [each for each in threading.enumerate() if each.name == "anabranch-heart-run-1"]
    answers.set()
    thread.join(20)


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def several(store: RelationalRunStore) -> RelationalRunStore:
    """Runs a1 to a3 of etl and b1 of report, a minute apart; a1 succeeded, a2 failed, a3 is lost, b1 goes on."""
    for n, (run_id, flow_name) in enumerate([("a1", "etl"), ("a2", "etl"), ("a3", "etl"), ("b1", "Report_100%")]):
        at = NOON + timedelta(minutes=n)
        ownership = store.create_run(record(run_id, flow_name, start=at, labels={"n": str(n)}), now=at)
        if run_id in ("a1", "a2"):
            state = "Success" if run_id == "a1" else "Failed"
            store.finish_run(ownership, state, end=NOON + timedelta(minutes=10 - n), message="see Load")
    return store


NOW = NOON + timedelta(minutes=3, seconds=1)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (RunQuery(), "b1 a3 a2 a1"),
        (RunQuery(flow_name="etl"), "a3 a2 a1"),
        (RunQuery(flow_name="et"), ""),
        (RunQuery(state="Running"), "b1"),
        (RunQuery(state=INTERRUPTED), "a3"),
        (RunQuery(state="Failed"), "a2"),
        (RunQuery(since=NOON + timedelta(minutes=2)), "b1 a3"),
        (RunQuery(text="report"), "b1"),
        (RunQuery(text="SEE LOAD"), "a2 a1"),
        (RunQuery(text="100%"), "b1"),
        (RunQuery(text="%"), "b1"),
        (RunQuery(text="_"), "b1"),
        (RunQuery(text="~"), ""),
        (RunQuery(text='"n": "2"'), "a3"),
        (RunQuery(limit=2), "b1 a3"),
        (RunQuery(limit=2, offset=1), "a3 a2"),
        (RunQuery(limit=0), ""),
        (RunQuery(sort="start"), "a1 a2 a3 b1"),
        (RunQuery(sort="end"), "a2 a1 a3 b1"),
        (RunQuery(sort="-end"), "a1 a2 b1 a3"),
        (RunQuery(sort="flow_name"), "b1 a1 a2 a3"),
        (RunQuery(sort="-run_id"), "b1 a3 a2 a1"),
        (RunQuery(sort="state"), "a2 a3 b1 a1"),
        (RunQuery(flow_name="etl", state="Success", text="a"), "a1"),
    ],
    ids=str,
)
def test_runs_are_listed_as_asked(several: RelationalRunStore, query: RunQuery, expected: str):
    assert [found.run_id for found in several.list_runs(query, now=NOW)] == expected.split()


def test_a_list_leaves_out_the_details(several: RelationalRunStore):
    assert {found.details for found in several.list_runs()} == {None}


@pytest.mark.parametrize("sort", ["started; DROP TABLE anabranch_runs", "-", "", "plan", "--start"])
def test_runs_are_sorted_by_nothing_else(several: RelationalRunStore, sort: str):
    with pytest.raises(RunQueryError, match=r"runs cannot be sorted by .*; possible are: 'start', 'end'"):
        several.list_runs(RunQuery(sort=sort))
    assert len(several.list_runs()) == 4


@pytest.mark.parametrize("query", [RunQuery(limit=-1), RunQuery(offset=-1)], ids=["limit", "offset"])
def test_negative_counts_are_refused(several: RelationalRunStore, query: RunQuery):
    with pytest.raises(RunQueryError, match="expected zero or more, found -1"):
        several.list_runs(query)


def test_the_beginning_of_an_id_is_enough_where_it_is_unique(several: RelationalRunStore):
    assert several.get_run("b").run_id == "b1"
    with pytest.raises(RunNotFound, match="several runs begin with 'a': 'a1', 'a2', 'a3'; give more of the id"):
        several.get_run("a")
    several.create_run(record("a"))
    assert several.get_run("a").run_id == "a"


@pytest.mark.parametrize("run_id", ["c", "", "%", "_1", "A1", "a1 "])
def test_a_run_that_is_not_there_is_not_found(several: RelationalRunStore, run_id: str):
    with pytest.raises(RunNotFound, match="the run store has no run"):
        several.get_run(run_id)


def test_an_unknown_run_has_no_rows(store: RelationalRunStore):
    assert seen(store, "nobody") == Batch([], [], [], [])


def test_task_runs_come_in_the_order_of_their_start(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    starts = {"c": NOON, "a": LATER, "waiting": None, "b": NOON}
    store.write(ownership, Batch([TaskRunRow(slug, slug, "", 0, start=start) for slug, start in starts.items()]))
    assert [row.slug for row in store.task_runs("run-1")] == ["b", "c", "a", "waiting"]


def test_logs_can_be_asked_for_by_task_element_and_level(store: RelationalRunStore):
    lines = [
        LogRow(0, LATER, 20, "last"),
        LogRow(1, NOON, 40, "first", "map", 7),
        LogRow(2, NOON, 10, "second", "map", 8),
        LogRow(3, NOON, 20, "third", "load"),
    ]
    store.write(store.create_run(record(), now=NOON), Batch(logs=lines))

    def texts(*args: Any, **kwargs: Any) -> list[str]:
        return [line.text for line in store.logs("run-1", *args, **kwargs)]

    assert texts() == ["first", "second", "third", "last"]
    assert texts("map") == ["first", "second"]
    assert texts("map", index=8) == ["second"]
    assert texts(level=20) == ["first", "third", "last"]
    assert texts(limit=2, offset=1) == ["second", "third"]
    assert texts(offset=3) == ["last"]


def test_the_last_lines_are_found_by_task_level_and_text_in_the_order_in_which_they_came(store: RelationalRunStore):
    lines = [
        LogRow(0, LATER, 20, "One 100% sure", "map", 7),
        LogRow(1, NOON, 40, "two", "load"),
        LogRow(2, NOON, 20, "three, one_less", "map", 8),
    ]
    store.write(store.create_run(record(), now=NOON), Batch(logs=lines))
    store.write(store.take_over("run-1", now=LATER), Batch(logs=[LogRow(0, LATER, 30, "four")]))

    def texts(limit: int = 9, **query: Any) -> list[str]:
        return [line.text for line in store.last_logs("run-1", LogQuery(**query), limit=limit)]

    assert texts() == ["One 100% sure", "two", "three, one_less", "four"]
    assert texts(2) == ["three, one_less", "four"]
    assert texts(slug="map") == ["One 100% sure", "three, one_less"]
    assert texts(slug="map", index=8) == ["three, one_less"]
    assert texts(level=30) == ["two", "four"]
    assert texts(text="ONE") == ["One 100% sure", "three, one_less"]
    assert texts(text="0% s") == ["One 100% sure"]
    assert texts(text="e_l") == ["three, one_less"]
    assert texts(text="e_x") == texts(text="'") == []
    assert texts(after=(1, 1)) == ["three, one_less", "four"]
    assert texts(after=(1, 2), level=40) == texts(after=(2, 0)) == []
    assert [line.text for line in store.logs("run-1", after=(1, 0), limit=2)] == ["two", "three, one_less"]
    assert [line.place for line in store.logs("run-1", after=(1, 1))] == [(1, 2), (2, 0)]


def test_a_second_owner_counts_its_lines_anew(store: RelationalRunStore):
    store.write(store.create_run(record(), now=NOON), Batch(logs=[LogRow(0, NOON, 20, "one")]))
    store.write(store.take_over("run-1", now=LATER), Batch(logs=[LogRow(0, LATER, 20, "two")]))
    assert [line.text for line in store.logs("run-1")] == ["one", "two"]


def test_lines_that_came_after_another_come_in_their_own_order(store: RelationalRunStore):
    lines = [
        LogRow(0, LATER, 20, "one", "map"),
        LogRow(1, NOON, 40, "two", "load"),
        LogRow(2, NOON, 20, "three", "map"),
    ]
    store.write(store.create_run(record(), now=NOON), Batch(logs=lines))
    store.write(store.take_over("run-1", now=LATER), Batch(logs=[LogRow(0, LATER, 20, "four", "map")]))

    def texts(*args: Any, **kwargs: Any) -> list[str]:
        return [line.text for line in store.logs("run-1", *args, **kwargs)]

    assert texts(after=(1, -1)) == ["one", "two", "three", "four"]
    assert texts(after=(1, 0)) == ["two", "three", "four"]
    assert texts("map", after=(1, 0), level=20, limit=1) == ["three"]
    assert texts(after=(1, 2)) == texts(after=(2, -1)) == ["four"]
    assert texts(after=(2, 0)) == []


# Keeping house --------------------------------------------------------------------------------------------------------


def test_a_run_is_deleted_with_all_about_it(store: RelationalRunStore):
    for run_id in ("run-1", "run-2"):
        ownership = store.create_run(record(run_id), now=NOON)
        store.finish_run(ownership, "Success", end=NOON, batch=rows())
    store.delete_run("run-1")
    assert seen(store) == Batch([], [], [], [])
    assert seen(store, "run-2") == rows()
    assert store.check() == []
    with pytest.raises(RunNotFound, match="has no run 'run-1'"):
        store.delete_run("run-1")


def test_a_run_that_goes_on_is_not_deleted(store: RelationalRunStore):
    store.create_run(record(), owner="there:7", now=NOON)
    with pytest.raises(RunHeld, match="held by there:7 since"):
        store.delete_run("run-1", now=NOON)
    store.delete_run("run-1", now=LATER)
    assert store.list_runs() == []


def test_the_owner_of_a_deleted_run_is_told(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    store.delete_run("run-1", now=LATER)
    with pytest.raises(StaleOwner, match="run run-1 has been deleted from the run store"):
        store.write(ownership, rows())
    assert seen(store) == Batch([], [], [], [])


@pytest.mark.parametrize(
    ("options", "pruned"),
    [
        ({"older_than": NOON + timedelta(minutes=1)}, "a1"),
        ({"older_than": NOON + timedelta(minutes=9)}, "a1 a2 a3"),
        ({"keep_last": 1}, "a1 a2"),
        ({"keep_last": 2}, "a1"),
        ({"keep_last": 0}, "a1 a2 a3"),
        ({"keep_last": 2, "older_than": NOON}, ""),
        ({"keep_last": 1, "older_than": NOON + timedelta(minutes=1)}, "a1"),
    ],
)
def test_old_runs_are_pruned_but_none_that_goes_on(several: RelationalRunStore, options: dict[str, Any], pruned: str):
    assert several.prune(**options, now=NOW) == pruned.split()
    left = [found.run_id for found in several.list_runs(RunQuery(sort="run_id"))]
    assert left == [run_id for run_id in ("a1", "a2", "a3", "b1") if run_id not in pruned.split()]


def test_what_rules_leave_is_swept(several: RelationalRunStore):
    """On each database; what rules are is tested without one."""
    held = several.create_run(record("b0", details=RunDetails(stores=("host:/results",))), now=NOON)
    text = json.dumps(["etl/b0/map", 7, "c0de", "pickle", "int", "7", None])
    several.finish_run(held, "Success", end=NOON, batch=Batch([TaskRunRow("map", "map", "Success", 10, result=text)]))
    part = several.create_run(record("b0-part", parent_run_id="b0"), now=NOON)
    several.finish_run(part, "Success", end=NOON)
    kept = Retention(logs=read_rules("1 kB"), results=read_rules("1 kB"), runs=read_rules("1 GB"))
    assert not sweep(several, kept, now=NOW)
    assert several.removal.sizes(["b0"])["b0"] > 0
    swept = sweep(several, Retention(results=read_rules("0 runs"), caches=read_rules("1d")), now=NOW)
    assert swept.values == 1
    assert [location for _, location, _ in several.removal.files()] == ["etl/b0/map"]
    assert several.task_runs("b0")[0].result is None
    swept = sweep(several, Retention(runs=read_rules("0 runs"), logs=read_rules("0 runs")), now=NOW)
    assert sorted(swept.runs) == ["a1", "a2", "a3", "b0", "b0-part"]
    assert [found.run_id for found in several.list_runs()] == ["b1"]
    assert several.check() == []


def test_pruning_without_a_limit_is_refused(several: RelationalRunStore):
    with pytest.raises(RunQueryError, match="prune needs older_than=, keep_last= or both"):
        several.prune()
    assert len(several.list_runs()) == 4


def test_a_store_that_was_closed_opens_again(store: RelationalRunStore):
    ownership = store.create_run(record(), now=NOON)
    store.close()
    store.write(ownership, rows())
    assert seen(store) == rows()


def test_a_store_tells_what_it_is(store: RelationalRunStore):
    facts = store.describe()
    assert {"kind", "location", "library"} <= set(facts)
    assert "secret" not in repr(store) + repr(facts)


# Faults ---------------------------------------------------------------------------------------------------------------


def story(store: RelationalRunStore, ownership: Ownership | None = None) -> None:
    """A run from beginning to end; with an ownership, from its beginning again after somebody broke off."""
    ownership = ownership or store.create_run(record(), now=NOON)
    store.write(ownership, Batch(rows().task_runs[:1], logs=rows().logs))
    store.heartbeat(ownership, now=NOON)
    store.write(ownership, Batch(chunks=rows().chunks, elements=rows().elements))
    store.finish_run(ownership, "Success", end=LATER, batch=Batch(rows().task_runs[1:], elements=[_DONE]))


_DONE = ElementRow("map", 9, Skipped.code)


def told(store: RelationalRunStore) -> tuple[Any, ...]:
    """What a run came to, whoever wrote it."""
    found = store.get_run("run-1", now=LATER)
    logged = sorted({line.text for line in store.logs("run-1")})
    return (
        found.state,
        found.end,
        store.task_runs("run-1"),
        store.chunks("run-1", "map"),
        store.elements("run-1"),
        logged,
    )


def recovered(store: RelationalRunStore) -> tuple[Any, ...]:
    """What a run comes to, of which another process goes on with what is left."""
    try:
        found = store.get_run("run-1", now=LATER)
    except RunNotFound:
        story(store)
    else:
        assert found.state in (INTERRUPTED, "Success")
        story(store, store.take_over("run-1", now=LATER))
    assert store.check() == []
    return told(store)


@pytest.fixture(scope="module")
def undisturbed() -> tuple[Any, ...]:
    with open_store("memory://") as store:
        assert isinstance(store, RelationalRunStore)
        story(store)
        return told(store)


def test_an_owner_that_hangs_until_its_run_is_taken_over_writes_nothing(opened: Opened):
    passing = threading.Event()
    fault = Fault(at=0, until=passing)
    ownership = opened().create_run(record(), now=NOON)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(FaultyStore(opened(), fault).write, ownership, rows())  # type: ignore[arg-type]
        assert fault.reached.wait(20)
        opened().take_over("run-1", owner="here:1", now=LATER)
        passing.set()
        with pytest.raises(StaleOwner, match="taken over by here:1"):
            hanging.result(20)
    assert seen(opened()) == Batch([], [], [], [])


@pytest.mark.parametrize("opened", ["sqlite", "postgresql"], indirect=True)
def test_a_run_is_not_taken_over_in_the_middle_of_a_batch(opened: Opened):
    passing = threading.Event()
    fault = Fault(at=1, until=passing)  # between the look at the epoch and the first row
    store = opened()
    with config.set(runs__patience_s=0.05):
        hasty = opened()
    slow = RelationalRunStore(FaultyDatabase(store._database, fault), lease_s=LEASE_S)  # type: ignore[arg-type]
    ownership = store.create_run(record(), now=NOON)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(slow.write, ownership, rows())
        assert fault.reached.wait(20)
        with pytest.raises(RunStoreUnavailable):
            hasty.take_over("run-1", owner="here:1", now=LATER)
        passing.set()
        writing.result(20)
    assert hasty.take_over("run-1", owner="here:1", now=LATER).epoch == 2
    assert seen(store) == rows()


@pytest.mark.parametrize("after", [False, True], ids=["before", "answer lost"])
def test_a_run_whose_kth_call_fails_can_be_gone_on_with(store: RelationalRunStore, undisturbed: Any, after: bool):
    k, failed = 0, True
    while failed:
        fault = Fault(at=k)
        with suppress(RunStoreUnavailable):
            story(FaultyStore(store, fault, after=after))  # type: ignore[arg-type]
        failed = fault.reached.is_set()
        assert recovered(store) == undisturbed, f"call {k}"
        store.delete_run("run-1", now=LATER)
        k += 1
    assert k - 1 == 5  # calls of the story


def test_a_run_whose_kth_statement_fails_can_be_gone_on_with(opened: Opened, undisturbed: Any):
    store, faulty = opened(), RelationalRunStore(opened()._database, lease_s=LEASE_S)
    database = faulty._database
    k, failed = 0, True
    while failed:
        fault = Fault(at=k)
        faulty._database = FaultyDatabase(database, fault)
        with suppress(RunStoreUnavailable):
            story(faulty)
        failed = fault.reached.is_set()
        assert store.check() == []
        assert recovered(store) == undisturbed, f"statement {k}"
        store.delete_run("run-1", now=LATER)
        k += 1
    assert k > 15


# How long a run took --------------------------------------------------------------------------------------------------


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_time_in_which_nobody_was_at_a_run_is_no_part_of_how_long_it_took(opened: Opened):
    # given a run that failed after ten seconds, and was looked at, but not gone on with, after a minute
    store = opened()
    store.finish_run(store.create_run(RunRecord("run-1", "etl", NOON), now=NOON), "Failed", end=at(10))
    store.finish_run(store.take_over("run-1", now=at(60)), "Failed", end=at(10))
    assert store.get_run("run-1").took_s == pytest.approx(10)
    # when it goes on after an hour, and ends five seconds later
    store.finish_run(store.take_over("run-1", now=at(3_600)), "Success", end=at(3_605))
    # then
    (listed,) = store.list_runs()
    assert listed.took_s == store.get_run("run-1").took_s == pytest.approx(15)
    assert listed.between_s(at(5), at(20)) == pytest.approx(5)
    assert listed.rests == ((at(10).timestamp(), at(3_600).timestamp()),)


def test_a_run_rests_from_the_last_sign_of_a_process_that_died(opened: Opened):
    # given one that was heard of after 10 s; a task ended after 12 s, and a chunk after 14 s
    store = opened()
    first = store.create_run(RunRecord("run-1", "etl", NOON), now=NOON)
    store.heartbeat(first, now=at(10))
    ended = TaskRunRow("a", "a", "Success", Success.code, start=at(11), end=at(12))
    chunk = ChunkRow("b", 1, range(2), bytes([Success.code] * 2), start=at(11.5), seconds=2.5)
    store.write(first, Batch(task_runs=[ended], chunks=[chunk]))
    # when
    second = store.take_over("run-1", now=at(100))
    # then
    assert store.get_run("run-1").rests == ((at(14).timestamp(), at(100).timestamp()),)
    # and a clock of a worker's that is ahead of all others makes no time
    store.write(second, Batch(task_runs=[replace(ended, end=at(9_000))]))
    store.take_over("run-1", now=at(200))
    assert store.get_run("run-1").rests == ((at(14).timestamp(), at(100).timestamp()),)


def test_a_run_rests_while_it_is_put_down(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    # given
    store = opened()
    held = store.create_run(RunRecord("run-1", "etl", NOON), now=NOON)
    monkeypatch.setattr(store.database, "now", lambda: round(at(20).timestamp() * 1e6))
    store.finish_run(held, "Paused", end=None)
    assert (store.get_run("run-1").heard, store.get_run("run-1").took_s) == (at(20), None)
    # when
    monkeypatch.setattr(store.database, "now", lambda: round(at(500).timestamp() * 1e6))
    store.finish_run(store.take_over("run-1"), "Success", end=at(501))
    # then
    assert store.get_run("run-1").took_s == pytest.approx(21)


def test_a_run_that_was_taken_up_very_often_keeps_its_sum(opened: Opened):
    # given a run that works for one second of ten
    store = opened()
    held = store.create_run(RunRecord("run-1", "etl", NOON), now=NOON)
    # when
    for n in range(130):
        store.finish_run(held, "Failed", end=at(10 * n + 1))
        held = store.take_over("run-1", now=at(10 * n + 10))
    store.finish_run(held, "Success", end=at(1_301))
    # then
    record = store.get_run("run-1")
    assert record.took_s == pytest.approx(131)
    assert len(record.rests) == 100


# Artifacts ------------------------------------------------------------------------------------------------------------


def test_artifacts_are_replaced_by_later_ones_of_the_same_attempt_and_number(opened: Opened):
    # given
    store = opened()
    held = store.create_run(RunRecord("run-1", "etl", NOON), now=NOON)
    rows = [
        ArtifactRow("a", None, 1, 0, "markdown", NOON, '{"text": "é"}', "w"),
        ArtifactRow("b", 7, 1, 1, "metric", NOON, "{}"),
        ArtifactRow("b", 7, 2, 1, "metric", NOON, "{}"),
    ]
    store.write(held, Batch(artifacts=rows))
    assert store.artifacts("run-1") == rows
    # when
    again = replace(rows[1], body='{"count": 2}', time=at(5))
    store.write(held, Batch(artifacts=[again]))
    # then
    assert store.artifacts("run-1") == [rows[0], again, rows[2]]
    assert store.artifacts("run-1", since=at(1)) == [again]
    assert store.artifacts("run-1", "a") == rows[:1]
    # and they are read a page at a time, and their sizes without them
    assert store.artifacts("run-1", limit=2) == [rows[0], again]
    assert store.artifacts("run-1", after=rows[0], limit=1) == [again]
    assert store.artifacts("run-1", after=rows[2]) == []
    sizes = {("a", None, 1, 0): len(rows[0].body), ("b", 7, 1, 1): len(again.body), ("b", 7, 2, 1): 2}
    assert store.artifact_sizes("run-1") == sizes
    # and they go with the run
    store.finish_run(held, "Success", end=NOON)
    store.delete_run("run-1", now=LATER)
    assert store.artifacts("run-1") == []
