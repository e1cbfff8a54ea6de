"""A run's permits: what it is told of sizes and losses, a store that does not answer, and runs that need none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults import Fault, FaultyDatabase

from anabranch import Flow, config, task
from anabranch.engine.machine.permits import Claim, Grant
from anabranch.errors import RunStoreUnavailable
from anabranch.runs import Ownership
from anabranch.runs.store import run_permits
from anabranch.runs.store.database import Database
from anabranch.runs.store.opening import current_store
from anabranch.runs.store.permit_table import PermitTable
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.run_permits import RunPermits
from anabranch.runs.store.sqlite import InMemoryRunStore
from anabranch.triggers import manual_only


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Away:
    """A database that does not answer while it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.is_away = False

    def __getattr__(self, name: str) -> Any:
        if self.is_away:
            raise RunStoreUnavailable("nobody answers")
        return getattr(self._database, name)


def leaving() -> tuple[RelationalRunStore, Away]:
    database = Away(InMemoryRunStore().database)
    return RelationalRunStore(database, lease_s=30.0), database


@pytest.fixture
def store() -> InMemoryRunStore:
    return InMemoryRunStore(lease_s=30.0)


def permits(store: RelationalRunStore, name: str = "a", clock: Clock | None = None) -> RunPermits:
    return RunPermits(
        store, Ownership(f"run-{name}", f"host:{name}", 1, f"token-{name}"), "etl", clock=clock or Clock()
    )


def claim(*, size: int = 2, in_use: int = 0, wants: int = 0) -> Claim:
    return Claim({"db": size}, {"db": in_use} if in_use else {}, ((("db",), wants),) if wants else ())


def test_a_run_learns_who_has_what_it_waits_for(store: InMemoryRunStore):
    permits(store, "a").settle(claim(wants=2))

    grant = permits(store, "b").settle(claim(wants=1))

    assert grant.may_use == {}
    assert grant.waits_for == "db (2 of 2, held by run-a (etl, host:a))"


def test_a_store_that_hangs_holds_up_neither_the_driver_nor_what_runs(store: InMemoryRunStore, monkeypatch: Any):
    # Given a run that has two permits, and uses one, and a store that hangs when it is asked again
    answers = threading.Event()
    fault = Fault(until=answers)
    run = permits(RelationalRunStore(FaultyDatabase(store.database, fault), lease_s=30.0))
    monkeypatch.setattr(run_permits, "_PROMPT_S", 30.0)
    assert run.settle(claim(wants=2)).may_use == {"db": 2}
    monkeypatch.setattr(run_permits, "_PROMPT_S", 0.01)
    fault.at = fault.touches
    # When it asks, then it goes on with what it uses: the other permit may be given back at any time
    asked = claim(in_use=1)
    assert run.settle(asked) == Grant(may_use={"db": 1}, is_answered=False)
    # And nothing is asked meanwhile
    touches = fault.touches
    assert run.settle(claim(in_use=1, wants=1)) == Grant(may_use={"db": 1}, is_answered=False)
    assert fault.touches == touches
    # When the store has answered, then it is asked again
    answers.set()
    monkeypatch.setattr(run_permits, "_PROMPT_S", 30.0)
    grant = run.settle(claim(in_use=1, wants=1))
    while not grant.is_answered:
        grant = run.settle(claim(in_use=1, wants=1))
    assert grant.may_use == {"db": 2}
    run.close()
    assert PermitTable(store.database).all() == []


def test_each_run_is_told_once_that_another_one_says_a_lower_size(store: InMemoryRunStore):
    first, second = permits(store, "a"), permits(store, "b")
    first.settle(claim(size=4, wants=1))
    assert second.settle(claim(size=2, wants=1)).notes == ()

    told = first.settle(claim(size=4, in_use=1)).notes

    assert told == (
        "limit 'db': this run says 4, and run run-b of flow 'etl' says 2; 2 holds for both while both use it. "
        "Give them the same size, or set one for all: anabranch limits db --set N",
    )
    assert first.settle(claim(size=4, in_use=1)).notes == ()


def test_a_run_is_told_of_a_size_that_was_set(store: InMemoryRunStore):
    PermitTable(store.database).fix("db", 1)
    assert permits(store).settle(claim(size=4, wants=1)).notes == (
        "limit 'db': this run says 4; 1 holds, which was set by anabranch limits",
    )


def test_a_run_is_told_that_its_permits_are_gone(store: InMemoryRunStore):
    mine = permits(store)
    mine.settle(claim(wants=2))
    PermitTable(store.database).release("run-a", ["db"])

    grant = mine.settle(claim(in_use=2))

    assert grant.lost == {"db"}
    assert grant.notes[0].startswith("permits of limit 'db' are not this run's any more")


def test_a_store_that_does_not_answer_is_no_reason_to_stop_until_the_lease_is_over(caplog: pytest.LogCaptureFixture):
    (store, database), clock = leaving(), Clock()
    mine = permits(store, clock=clock)
    assert mine.settle(claim(wants=1)).may_use == {"db": 1}

    database.is_away = True
    clock.now += 29
    grant = mine.settle(claim(in_use=1))
    assert (grant.may_use, grant.is_answered) == ({"db": 1}, False)
    clock.now += 1
    assert mine.settle(claim(in_use=1)).may_use == {}
    assert len(caplog.records) == 1

    database.is_away = False
    assert mine.settle(claim(in_use=1)).may_use == {"db": 1}


def test_signs_of_life_make_the_lease_longer():
    (store, database), clock = leaving(), Clock()
    mine = permits(store, clock=clock)
    mine.renew()  # there is nothing to renew
    mine.settle(claim(wants=1))
    clock.now += 20
    mine.renew()

    database.is_away = True
    clock.now += 20

    assert mine.settle(claim(in_use=1)).may_use == {"db": 1}


@pytest.mark.parametrize("at", range(7))
def test_a_transaction_that_fails_anywhere_changes_nothing_and_may_be_tried_again(store: InMemoryRunStore, at: int):
    from anabranch.runs.store.permit_table import Holder

    mine, other = Holder("token-a", "run-a", "etl", "host:a"), Holder("token-b", "run-b", "etl", "host:b")
    table = PermitTable(store.database)
    table.settle(other, claim(wants=1), ["db"], lease_s=30.0)
    before = table.all()
    fault = Fault(at)
    faulty = PermitTable(FaultyDatabase(store.database, fault))  # type: ignore[arg-type]  # it delegates the rest

    try:
        faulty.settle(mine, claim(wants=1), ["db"], lease_s=30.0)
    except RunStoreUnavailable:
        assert table.all() == before
    else:
        assert fault.touches <= at
    found = table.settle(mine, claim(wants=1), ["db"], lease_s=30.0).verdict

    assert found.held == {"db": 1}
    assert sum(each.held for each in table.all()[0].holders) == 2


# Whole runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[PermitTable]:
    with config.set(backend=f"sqlite:///{tmp_path / 'runs.db'}", progress="never"):
        store = current_store()
        assert isinstance(store, RelationalRunStore)
        yield PermitTable(store.database)


def test_a_run_holds_its_limits_while_its_tasks_run_and_not_after(recorded: PermitTable):
    seen = []

    @task(concurrency={"db": 2})
    def query(x: int) -> int:
        seen.append([(each.name, [one.held for one in each.holders]) for each in recorded.all()])
        return x

    with Flow("limited") as flow:
        query.map([1, 2, 3])

    assert flow.run().is_successful()
    assert seen == [[("db", [1])]] * 3
    assert recorded.all() == []


def test_a_paused_run_holds_nothing(recorded: PermitTable):
    @task(concurrency={"db": 1})
    def query() -> int:
        return 1

    @task(concurrency={"db": 1}, trigger=manual_only)
    def store(x: int) -> int:
        return x

    with Flow("paused") as flow:
        store(query())

    state = flow.run()
    assert state.state.name == "Paused"
    assert recorded.all() == []
    assert flow.run(resume=state.run_id, approve=["store"]).is_successful()


def test_a_failed_and_a_cancelled_run_hold_nothing(recorded: PermitTable):
    @task(concurrency={"db": 1})
    def query(x: int) -> int:
        if x:
            raise KeyboardInterrupt
        raise ValueError

    for x in range(2):
        with Flow("failed") as flow:
            query(x)
        assert not flow.run().is_successful()
        assert recorded.all() == []


@pytest.mark.parametrize("as_task", [True, False])
def test_a_flow_that_a_limited_task_runs_does_not_wait_for_that_task(recorded: PermitTable, as_task: bool):
    seen = []

    @task(concurrency={"db": 1, "api": 1})
    def query(x: int) -> int:
        seen.append({each.name: sum(one.held for one in each.holders) for each in recorded.all()})
        return x

    with Flow("inner") as inner:
        query.map([1, 2])
    with Flow("outer") as outer:
        if as_task:
            inner.as_task(concurrency={"db": 1})()
        else:
            task(lambda: inner.run().state.name, name="run", concurrency={"db": 1})()

    assert outer.run().is_successful()
    assert seen == [{"api": 1, "db": 1}] * 2
    assert recorded.all() == []


def test_a_run_without_limits_never_speaks_of_them(recorded: PermitTable, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the table of permits was asked")

    for name in ("settle", "renew", "drop"):
        monkeypatch.setattr(PermitTable, name, refuse)
    with Flow("free") as flow:
        task(lambda x: x).map([1, 2, 3])

    assert flow.run().is_successful()


def test_without_a_run_store_a_limit_holds_within_the_run():
    with Flow("alone") as flow:
        task(lambda x: x, concurrency={"db": 1}).map([1, 2, 3])
    with config.set(backend="none", progress="never"):
        assert flow.run().is_successful()
