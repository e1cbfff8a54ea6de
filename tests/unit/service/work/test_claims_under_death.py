"""A run that is due runs to its end once, whichever step of a service or a process is its last, or takes too long."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.postgres_server import PostgresServer, postgres  # noqa: F401

from anabranch import Flow, config, task
from anabranch.errors import RunHeld, RunStoreError
from anabranch.runs import RunRecord
from anabranch.runs.record import recorder
from anabranch.runs.record.backlog import Backlog, Ending
from anabranch.runs.registry.registration import read_clock, registry
from anabranch.runs.store.slots import Slot
from anabranch.service.work.dispatcher import Dispatcher
from anabranch.service.work.messages import Exit, Job
from anabranch.service.work.one_run import run_job

CALLS: Counter[str] = Counter()
FLOW = "etl"
STALE = timedelta(hours=1)
"""Longer than any lease."""


class Killed(BaseException):
    """The process is gone: nothing of it happens any more."""


class Machines:
    """A store whose transactions are counted, with a clock of the test's own, and what may happen at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.flows, self.queue = registry()
        self.passed = timedelta()
        self.steps = 0
        self.at: Callable[[int, bool], None] = lambda step, is_done: None
        """Called before and after each transaction, with its number."""
        self.is_dead = False
        self.ends = 0
        """How often the run was recorded as having ended well."""
        self._state = ""
        database = self.store.database
        self._write, self._read = database.write, database.read
        now = database.now
        monkeypatch.setattr(database, "write", lambda act, *, durable=False: self._step(self._write, act, durable))
        monkeypatch.setattr(
            database, "read", lambda act: self._step(lambda each, durable: self._read(each), act, False)
        )
        monkeypatch.setattr(database, "now", lambda: now() + self.passed // timedelta(microseconds=1))

    def _step(self, transact: Callable[..., Any], act: Callable[..., Any], durable: bool) -> Any:
        if self.is_dead:
            raise Killed
        self.steps += 1
        step = self.steps
        self.at(step, False)
        found = transact(act, durable=durable)
        self._look()
        self.at(step, True)
        return found

    def _reading(self, act: Callable[..., Any], *, durable: bool) -> Any:
        return self._read(act)

    def _look(self) -> None:
        found = self._read(lambda transaction: transaction.fetch("SELECT state FROM anabranch_runs"))
        state = found[0][0] if found else ""
        self.ends += state == "Success" != self._state
        self._state = state

    def die_at(self, number: int, *, is_done: bool) -> None:
        def die(step: int, done: bool) -> None:
            if (step, done) == (number, is_done):
                self.is_dead = True
                raise Killed

        self.steps, self.at = 0, die

    def live_again(self) -> None:
        self.is_dead, self.at = False, lambda step, is_done: None

    def is_task_recorded(self) -> bool:
        query = "SELECT count(*) FROM anabranch_task_runs WHERE state = 'Success'"
        return bool(self._read(lambda transaction: transaction.fetch(query))[0][0])


class InThisThread(Backlog):
    """What is recorded is written by whoever adds it: a process has one thread here, which dies or stops as a whole."""

    def _wake(self) -> None:
        """No thread is to be woken."""

    def flush(self) -> None:
        if self.rows and self.end is None:
            self._write()

    def close(self, ending: Ending | None) -> None:
        if ending is not None:
            self._finish(ending)


class Inline:
    """Processes that run where they are started; of one that dies, its exit is told if there is a service for it."""

    def __init__(self) -> None:
        self.ended: list[Exit] = []

    def start(self, slot: Slot) -> None:
        code = 1
        with suppress(RunStoreError):  # of a process that has lost its run: it ends badly
            code = run_job(Job(slot.run_id, slot.token))
        self.ended.append(Exit(slot.run_id, slot.token, code))

    def exits(self) -> list[Exit]:
        found, self.ended = self.ended, []
        return found

    def give_back(self) -> None: ...

    def stop(self, run_id: str) -> None: ...

    def interrupt(self, run_id: str) -> None: ...

    def kill(self, run_id: str) -> None: ...


@pytest.fixture(params=["sqlite", "postgresql"])
def machines(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    url = f"sqlite:///{tmp_path}/runs.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").fresh_url()
    CALLS.clear()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    @task
    def effect() -> None:
        CALLS["effect"] += 1

    with Flow(FLOW) as flow:
        effect()
    with config.set(backend=url):
        monkeypatch.setattr("anabranch.service.work.one_run.load_registered", lambda record: Loaded(flow))
        monkeypatch.setattr(recorder, "Backlog", InThisThread)
        flow.register(storage="database")
        yield Machines(monkeypatch)
        registry()[0].close()
    for number, handler in before.items():
        signal.signal(number, handler)


class Loaded:
    """A flow as loaded, with its task here, where it counts."""

    is_file = False
    directory = Path()

    def __init__(self, flow: Flow) -> None:
        self.flow = flow


def service(machines: Machines) -> Dispatcher:
    return Dispatcher(machines.store, Inline(), owner="host:1", capacity=3, clock=lambda: read_clock(machines.store))


def fresh_slot(machines: Machines, number: int) -> Slot:
    """A run that is due, the only one there is."""

    def forget(transaction: Any) -> None:
        for table in ("slots", "runs", "run_details", "task_runs"):
            transaction.execute(f"DELETE FROM anabranch_{table}")

    machines._write(forget)
    machines._look()
    machines.ends = 0
    CALLS.clear()
    slot = Slot(f"run-{number}", FLOW, read_clock(machines.store) - timedelta(seconds=1))
    machines.queue.add([slot], now=slot.due)
    return slot


def work_off(machines: Machines, slot: Slot) -> None:
    """Let a service that nothing happens to see to it; leases run out in between."""
    for _ in range(4):
        machines.passed += STALE
        service(machines).turn()  # one that has not stood still itself
    found = machines.queue.get(slot.run_id)
    assert found is not None
    assert found.state == "Success"
    assert machines.store.get_run(slot.run_id).state == "Success"
    assert [row.state for row in machines.store.task_runs(slot.run_id)] == ["Success"]


@pytest.mark.parametrize("is_done", [False, True], ids=["before-a-commit", "after-a-commit"])
def test_a_machine_that_is_lost_at_any_step_costs_no_run_and_doubles_none(machines: Machines, is_done: bool):
    for number in range(1, 100):
        slot = fresh_slot(machines, number)
        doomed = service(machines)
        machines.die_at(number, is_done=is_done)
        try:
            doomed.turn()
        except Killed:
            had_begun, was_recorded = CALLS["effect"], machines.is_task_recorded()
            machines.live_again()
        else:
            break  # it has fewer steps
        work_off(machines, slot)
        assert machines.ends == 1, number
        assert CALLS["effect"] == 1 + (had_begun and not was_recorded), number
    assert number > 8
    assert CALLS["effect"] == machines.ends == 1


@pytest.mark.parametrize("is_done", [False, True], ids=["before-a-commit", "after-a-commit"])
def test_a_process_that_is_stopped_at_any_step_for_longer_than_its_lease_does_not_end_the_run_again(
    machines: Machines, is_done: bool
):
    for number in range(1, 100):
        slot = fresh_slot(machines, number)
        stopped = service(machines)
        told: list[RunRecord] = []

        def stop(step: int, done: bool, slot: Slot = slot, number: int = number, told: list[Any] = told) -> None:
            if (step, done) == (number, is_done):
                machines.live_again()
                work_off(machines, slot)
                told.append(machines.store.get_run(slot.run_id))

        machines.steps, machines.at = 0, stop
        stopped.turn()
        machines.live_again()
        stopped.turn()  # it hears of the end of its process
        if not told:
            break
        found = machines.queue.get(slot.run_id)
        assert found is not None
        assert found.state == "Success", number
        assert [machines.store.get_run(slot.run_id)] == told, number
        assert machines.ends == 1, number
        assert [row.state for row in machines.store.task_runs(slot.run_id)] == ["Success"]
    assert number > 8
    assert CALLS["effect"] == machines.ends == 1


def test_a_clock_of_a_machine_that_jumps_ahead_takes_no_run_from_those_that_live(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
):
    slot = fresh_slot(machines, 0)
    machines.store.create_run(RunRecord(slot.run_id, FLOW, datetime.now(UTC)))

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr("anabranch.runs.store.relational.datetime", Ahead)
    with pytest.raises(RunHeld):
        machines.store.take_over(slot.run_id)
    assert machines.store.get_run(slot.run_id).state == "Running"
