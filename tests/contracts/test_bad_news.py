"""What a service finds to tell, in every run store: each thing once, whichever service looks, and not too much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.postgres_server import PostgresServer, postgres  # noqa: F401

from anabranch import config
from anabranch.monitoring.bulletins import Bulletin
from anabranch.runs import Batch, ChunkRow, LogRow, Ownership, RunRecord, TaskRunRow, open_store
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot
from anabranch.runs.store.troubles import TroubleTable
from anabranch.service.work.watch import Watch
from anabranch.states import Running

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class Heard:
    """Whom a watch tells."""

    def __init__(self) -> None:
        self.runs: dict[str, int] = {}
        self.news: list[Bulletin] = []

    def tell_of_runs(self, left_out: Mapping[str, int]) -> None:
        self.runs |= left_out

    def tell_news(self, news: Bulletin) -> None:
        self.news.append(news)

    @property
    def kinds(self) -> list[tuple[str, str, str]]:
        return [(each.flow, each.state, each.run_id) for each in self.news]


class World:
    """A store with a queue, a clock, and two services that look."""

    def __init__(self, store: RelationalRunStore) -> None:
        self.store = store
        self.queue = SlotQueue(store.database)
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.heard = Heard()
        self.watches = [Watch(store.database, lambda: self.now, self.heard) for _ in range(2)]

    def look(self, after: timedelta = timedelta(0)) -> None:
        self.now += after
        for each in self.watches:
            each.look()

    def ask(self, *names: str, flow: str = "etl", group: str = "", at: datetime | None = None) -> None:
        at = at or self.now
        slots = [Slot(name, flow, at, origin="backfill" if group else "manual", group=group) for name in names]
        self.queue.add(slots, now=self.now)

    def begin(self, name: str, *, flow: str = "etl", parent: str | None = None, lease_s: float = 1e6) -> Ownership:
        """A run of a service that goes on."""
        self.ask(name, flow=flow)
        (slot,) = self.queue.claim("me:1", 1, now=self.now, lease_s=lease_s)
        self.queue.begin(slot.run_id, slot.token, now=self.now, lease_s=lease_s)
        return self.store.create_run(RunRecord(name, flow, self.now, parent_run_id=parent))

    def end(self, name: str, state: str = "Failed", *, flow: str = "etl") -> None:
        ownership = self.begin(name, flow=flow)
        self.store.finish_run(ownership, state, end=self.now)
        slot = self.queue.get(name)
        assert slot is not None
        assert self.queue.finish(slot, state, "why", now=self.now)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/runs.db"}.get(request.param)
    if url is None:
        url = request.getfixturevalue("postgres").fresh_url()
    with open_store(url) as store, config.set(service__notifiers="HOOK"):
        assert isinstance(store, RelationalRunStore)
        yield World(store)


@pytest.mark.parametrize("state", ["Failed", "Crashed", "TimedOut", "Cancelled"])
def test_a_run_that_has_not_ended_well_is_told_of_once_and_again_if_it_goes_on_and_fails_again(
    world: World, state: str
):
    world.end("a", state)
    world.look(MINUTE)
    world.look(MINUTE)
    assert world.heard.runs == {"a": 0}
    world.heard.runs.clear()
    slot = world.queue.get("a")
    assert slot is not None
    world.queue.again(Slot("a", "etl", world.now), now=world.now)
    (slot,) = world.queue.claim("me:1", 1, now=world.now, lease_s=30)
    world.queue.finish(slot, state, "why", now=world.now)
    world.look(MINUTE)
    assert world.heard.runs == {"a": 0}


def test_a_run_that_ended_well_or_long_ago_or_goes_on_is_not_told_of(world: World):
    world.end("old")
    world.now += 2 * HOUR
    world.end("well", "Success")
    world.begin("on")
    world.ask("later", at=world.now + HOUR)
    world.look()
    assert (world.heard.runs, world.heard.news) == ({}, [])


def test_a_flow_is_told_of_so_often_in_an_hour_and_then_how_much_was_left_out(world: World):
    with config.set(service__notices_per_hour=2):
        for number in range(5):
            world.end(f"run{number}")
        world.end("other", flow="other")
        world.look()
    assert sorted(world.heard.runs) == ["other", "run0", "run1"]
    world.end("last")
    with config.set(service__notices_per_hour=3):
        world.look()
    assert world.heard.runs["last"] == 3


def test_a_flow_that_does_well_again_is_told_of_once_if_bad_news_were(world: World):
    world.end("fine", "Success", flow="other")
    world.end("a")
    world.look(MINUTE)
    world.end("b", "Cancelled")
    world.look(MINUTE)
    assert world.heard.news == []
    world.now += MINUTE
    world.end("c", "Success")
    world.look(MINUTE)
    world.end("d", "Success")
    world.look(MINUTE)
    assert world.heard.kinds == [("etl", "Recovered", "c")]
    world.end("e")
    world.look(MINUTE)
    world.end("f", "Success")
    world.look(MINUTE)
    assert world.heard.kinds[1:] == [("etl", "Recovered", "f")]


def test_a_run_that_succeeds_when_it_is_resumed_is_a_recovery_and_one_that_began_before_is_none(world: World):
    before = world.begin("before")
    world.now += MINUTE
    world.end("a")
    world.look(MINUTE)
    world.store.finish_run(before, "Success", end=world.now)
    world.look(MINUTE)
    assert world.heard.news == []
    world.store.finish_run(world.store.take_over("a"), "Success", end=world.now)
    world.look(MINUTE)
    assert world.heard.kinds == [("etl", "Recovered", "a")]


def test_runs_that_are_due_and_do_not_begin_are_told_of_once_an_hour_and_those_of_backfills_are_not(world: World):
    world.ask("first")
    world.ask("early", at=world.now + HOUR)
    world.ask("filled", group="backfill", flow="filled")
    world.look(5 * MINUTE)
    assert world.heard.news == []
    world.ask("second")
    world.look(6 * MINUTE)
    world.look(MINUTE)
    (news,) = world.heard.news
    assert (news.state, news.run_id, news.flow) == ("Late", "first", "etl")
    since = f"{world.now - 12 * MINUTE:%Y-%m-%d %H:%M:%S} UTC"
    assert news.message == f"2 runs of it are due and have not begun, the first since {since} (11:00 min)"


def test_one_run_that_does_not_begin_is_told_of_in_so_many_words(world: World):
    since = f"{world.now:%Y-%m-%d %H:%M:%S} UTC"
    world.ask("first")
    world.look(10 * MINUTE)
    assert [each.message for each in world.heard.news] == [f"a run is due and has not begun since {since} (10:00 min)"]


def test_a_backlog_is_told_of_from_its_bound_on(world: World):
    with config.set(service__backlog=3, service__late_s=0):
        world.ask("a", "b")
        world.look(HOUR)
        assert world.heard.news == []
        world.ask("c")
        world.look()
        assert [(each.state, each.message[:6]) for each in world.heard.news] == [("Backlog", "3 runs")]


def test_a_run_that_lives_and_says_nothing_is_told_of_once_for_each_silence(world: World):
    ownership = world.begin("a")
    world.store.write(ownership, Batch([TaskRunRow("load", "load", "Running", Running.code, start=world.now)]))
    world.look(59 * MINUTE)
    assert world.heard.news == []
    world.look(2 * MINUTE)
    world.look(HOUR)
    (news,) = world.heard.news
    assert (news.state, news.run_id, news.task) == ("Stuck", "a", "load")
    assert "nothing has begun, ended or been logged since" in news.message
    assert news.message.endswith("(1:01:00 h); running: load")
    world.store.write(ownership, Batch(logs=[LogRow(0, world.now, 20, "go on", slug="load")]))
    world.look(59 * MINUTE)
    assert len(world.heard.news) == 1
    world.look(2 * MINUTE)
    assert world.heard.kinds == [("etl", "Stuck", "a")] * 2


def test_what_a_run_does_ends_its_silence_and_what_is_noted_of_it_does_not(world: World):
    ownership = world.begin("a")
    table, began = TroubleTable(world.store.database), world.now
    signs: list[Batch] = [
        Batch([TaskRunRow("load", "load", "Running", Running.code, start=began + MINUTE)]),
        Batch([TaskRunRow("load", "load", "Success", 10, start=began + MINUTE, end=began + 2 * MINUTE)]),
        Batch(chunks=[ChunkRow("parse", 1, range(2), b"\x0a\x0a", start=began + 2 * MINUTE, seconds=60.0)]),
        Batch(logs=[LogRow(0, began + 4 * MINUTE, 20, "here", slug="load")]),
    ]
    for number, batch in enumerate(signs):
        world.store.write(ownership, batch)
        assert table.last_sign("a") == began + (number + 1) * MINUTE
    world.store.write(ownership, Batch(logs=[LogRow(1, began + HOUR, 30, "no report for 60 s")]))
    assert table.last_sign("a") == began + 4 * MINUTE
    part = world.store.create_run(RunRecord("part", "inner", world.now, parent_run_id="a"))
    world.store.write(part, Batch(logs=[LogRow(0, began + 5 * MINUTE, 20, "a part", slug="x")]))
    assert table.last_sign("a") == began + 5 * MINUTE


def test_a_run_whose_process_is_gone_is_not_silent_but_lost(world: World):
    world.begin("a", lease_s=30)
    world.look(2 * HOUR)
    assert world.heard.news == []


def test_what_is_set_to_zero_is_never_told(world: World):
    world.begin("silent")
    world.ask(*map(str, range(5)))
    with config.set(service__late_s=0, service__silent_s=0, service__backlog=0):
        world.look(2 * HOUR)
    assert world.heard.news == []


def test_what_was_told_is_forgotten_after_a_week_but_not_who_does_badly(world: World):
    table = TroubleTable(world.store.database)
    table.claim("a", "End", world.now)
    table.note_trouble("etl", "a", world.now)
    table.forget(before=world.now + MINUTE)
    assert table.claim("a", "End", world.now)
    world.now += MINUTE
    world.end("b", "Success")
    assert table.take_recovered() == [("etl", "b")]
