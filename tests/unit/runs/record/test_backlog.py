"""Rows on their way into a run store that fails, hangs and comes back: what is read back is what was told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.faults import Fault, FaultyStore

from anabranch import Flow, config, task
from anabranch.base.events import Event, RunFinished
from anabranch.engine.driver.handlers import FlowHandlers
from anabranch.errors import RunStoreUnavailable, StaleOwner
from anabranch.executors import LocalDaskExecutor, LocalExecutor
from anabranch.flows.running import recorded_plan, run_plan
from anabranch.runs import Batch, RunRecord
from anabranch.runs.record import backlog
from anabranch.runs.record.backlog import Backlog, Ending
from anabranch.runs.record.recorder import Recorder
from anabranch.runs.record.reports import codes_of
from anabranch.runs.store.records import ChunkRow, ElementRow, Ownership, TaskRunRow
from anabranch.runs.store.sqlite import InMemoryRunStore
from anabranch.runs.view import FlowRunView

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
DONE = Ending("Success", NOON, "")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("PROMPT_S", "_FIRST_PAUSE_S", "_LONGEST_PAUSE_S"):
        monkeypatch.setattr(backlog, name, 0.01)
    with config.set(progress="never"):
        yield


def begun(store: Any) -> Ownership:
    ownership: Ownership = store.create_run(RunRecord("r", "flow", NOON))
    return ownership


def contents(store: InMemoryRunStore) -> Any:
    rows = sorted((row.slug, row.code, row.message, row.value) for row in store.task_runs("r"))
    return rows, store.chunks("r", "m"), store.elements("r"), store.get_run("r").state


@task
def extract() -> list[int]:
    return [1, 2, 3, 4]


@task(chunksize=2)
def clean(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


@task(trigger=lambda states: True)
def total(xs: list[Any]) -> int:
    return sum(x for x in xs if isinstance(x, int))


with Flow("corpus") as corpus:
    total(clean.map(extract()))


def run_with(store: Any, ownership: Ownership, *, observers: Any = (), executor: Any = None, **options: Any) -> Any:
    """Run the corpus, recorded in a store."""
    with config.set(backend="none"):
        plan, _ = recorded_plan(corpus.graph, corpus.reference_tasks(), (), {}, source="", run_id="r")
    return run_plan(
        plan,
        corpus.graph,
        executor or LocalExecutor(),
        handlers=FlowHandlers(),
        observers=observers,
        recorder=Recorder(store, ownership, plan.graph),
        **options,
    )


class Hanging:
    """A store that hangs at the k-th touch, until the run has ended without it."""

    def __init__(self, k: int) -> None:
        self.whole = InMemoryRunStore()
        self.answers = threading.Event()
        self.fault = Fault(k, until=self.answers)
        self.ownership = begun(self.whole)
        self.store = FaultyStore(self.whole, self.fault)

    def observe(self, event: Event) -> None:
        if isinstance(event, RunFinished):
            self.answers.set()

    def run(self, **options: Any) -> FlowRunView:
        view: FlowRunView = run_with(self.store, self.ownership, observers=[self.observe], **options)
        return view


def names(view: FlowRunView) -> dict[str, str]:
    return {slug: state.name for slug, state in view.states().items()}


@pytest.mark.parametrize("executor", [LocalExecutor, LocalDaskExecutor])
def test_a_run_whose_store_hangs_at_any_touch_goes_on_and_is_recorded_as_any_other(executor: Any):
    undisturbed = Hanging(-1)
    expected = names(undisturbed.run())
    for k in range(undisturbed.fault.touches):
        hanging = Hanging(k)

        view = hanging.run(executor=executor())

        assert names(view) == expected
        assert {row.slug: row.state for row in hanging.whole.task_runs("r")} == expected
        assert codes_of(hanging.whole.chunks("r", "clean")) == bytes([10, 10, 20, 10])
        assert [(row.index, row.code) for row in hanging.whole.elements("r")] == [(2, 20)]
        assert hanging.whole.get_run("r").state == view.state.name


def test_a_run_is_cancelled_while_its_store_hangs():
    for k in range(3):
        hanging = Hanging(k)

        view = hanging.run(wants_end=lambda fault=hanging.fault: "enough" if fault.reached.wait(0.5) else "")

        assert view.is_cancelled()
        assert hanging.whole.get_run("r").state == "Cancelled"
        assert {row.slug: row.state for row in hanging.whole.task_runs("r")}.items() <= names(view).items()


def test_an_outage_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture):
    hanging = Hanging(0)
    with caplog.at_level(logging.WARNING, "anabranch.recording"):
        hanging.run()

    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("the run goes on, and is recorded when the run store can be written to again: 0.01 s")
    assert told[1] == "the run store can be written to again; nothing is lost"


def test_a_store_that_hangs_for_ever_is_waited_for_at_the_end_and_what_is_missing_is_told(
    caplog: pytest.LogCaptureFixture,
):
    hanging = Hanging(0)
    with config.set(runs__patience_s=0.02):
        view = run_with(hanging.store, hanging.ownership)

    assert names(view) == {"extract": "Success", "clean": "Failed", "total": "Success"}
    assert "how run r ended could not be recorded (" in caplog.text
    assert "rows of it are not on record): the run store has not answered for 0.02 s" in caplog.text
    hanging.answers.set()


def test_rows_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backlog, "MAX_ROWS", 3)
    hanging = Hanging(0)
    rows = Backlog(hanging.store, hanging.ownership, patience_s=0.02)
    for n in range(1_000):
        rows.add(Batch([TaskRunRow(f"t{n}", "t", "Success", 10)]))
        rows.flush()
        if rows.end is not None:
            break

    assert rows.end is not None
    assert rows.end.is_crashed()
    assert "0.01 s were not enough for it (" in (rows.end.message or "")
    hanging.answers.set()
    rows.close(DONE)
    assert len(hanging.whole.task_runs("r")) == n + 1


class Gated:
    """A store that takes one batch at a time, when it is let."""

    def __init__(self) -> None:
        self.whole = InMemoryRunStore()
        self.is_asked = threading.Semaphore(0)
        self.may_answer = threading.Semaphore(0)

    def write(self, ownership: Ownership, batch: Batch) -> None:
        self.is_asked.release()
        assert self.may_answer.acquire(timeout=30)
        self.whole.write(ownership, batch)

    def finish_run(self, *given: Any, **options: Any) -> None:
        self.whole.finish_run(*given, **options)


def test_a_store_that_is_slow_and_answers_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backlog, "MAX_ROWS", 3)
    store, now = Gated(), [0.0]
    rows = Backlog(store, begun(store.whole), patience_s=60.0, clock=lambda: now[0])  # type: ignore[arg-type]
    for n in range(10):
        # Given more rows than may wait, and a store that takes nearly as long as it may for each batch
        now[0] += 59.0
        rows.add(Batch([TaskRunRow(f"t{n}-{i}", "t", "Success", 10) for i in range(4)]))
        rows.flush()
        # When it has answered, and is asked for what has come meanwhile
        if n:
            store.may_answer.release()
        assert store.is_asked.acquire(timeout=30)
    store.may_answer.release()
    # Then it is not taken for one that does not answer
    rows.close(DONE)
    assert rows.end is None
    assert len(store.whole.task_runs("r")) == 40


def test_nothing_is_written_for_who_has_lost_the_run():
    store = InMemoryRunStore()
    rows = Backlog(store, begun(store))
    rows.lose(StaleOwner("it was taken over"))
    rows.add(Batch([TaskRunRow("t", "t", "Success", 10)]))
    rows.flush()
    rows.close(None)

    assert rows.end is not None
    assert rows.end.is_cancelled()
    assert store.task_runs("r") == []
    assert store.get_run("r").state == "Running"


# What is read back is what was told -----------------------------------------------------------------------------------


@st.composite
def tellings(draw: st.DrawFn) -> list[Batch]:
    """Batches, some of which say something new of the same task runs, elements and chunks."""
    batches = []
    for serial in range(draw(st.integers(1, 8))):
        slugs = draw(st.sets(st.sampled_from("abc"), max_size=2))
        indices = draw(st.sets(st.integers(0, 3), max_size=2))
        singles = [TaskRunRow(slug, slug, "Success", 10, message=f"{serial}") for slug in sorted(slugs)]
        elements = [ElementRow("m", index, 20, message=f"{serial}") for index in sorted(indices)]
        chunks = [ChunkRow("m", serial, tuple(sorted(indices)), bytes([20] * len(indices)))] if indices else []
        batches.append(Batch(singles, chunks, elements))
    return batches


class Unreliable:
    """A store of whose touches some fail, some lose their answers, and that cannot take rows with a certain text."""

    def __init__(self, store: InMemoryRunStore, fails: set[int], forgets: set[int], refused: str) -> None:
        self._store = store
        self._fails = fails
        self._forgets = forgets
        self._refused = refused
        self._touches = -1

    def write(self, ownership: Ownership, batch: Batch) -> None:
        self._do(batch, lambda: self._store.write(ownership, batch))

    def finish_run(self, ownership: Ownership, state: str, **options: Any) -> None:
        self._do(options["batch"], lambda: self._store.finish_run(ownership, state, **options))

    def _do(self, batch: Batch, act: Any) -> None:
        self._touches += 1
        if self._touches in self._fails:
            raise RunStoreUnavailable("not now")
        if self._refused in [row.message for row in (*batch.task_runs, *batch.elements)]:
            raise TypeError("no text that can be kept")
        act()
        if self._touches in self._forgets:
            raise RunStoreUnavailable("whether it was done is not known")


@given(tellings(), st.sets(st.integers(0, 12)), st.sets(st.integers(0, 12)), st.sampled_from(["none", "0", "1"]))
def test_what_is_read_back_is_what_was_told(told: list[Batch], fails: set[int], forgets: set[int], refused: str):
    # given a store that takes everything, in which what cannot be kept has no text
    expected = InMemoryRunStore()
    ownership = begun(expected)
    for batch in told:
        expected.write(ownership, batch)
    expected.finish_run(ownership, "Success", end=NOON)
    # when the same is told to one that does not
    store = InMemoryRunStore()
    ownership = begun(store)
    rows = Backlog(Unreliable(store, fails, forgets, refused), ownership, patience_s=60.0)  # type: ignore[arg-type]
    for batch in told:
        rows.add(batch)
        rows.flush()
    rows.close(DONE)
    # then both have the same rows in the end
    assert rows.end is None
    assert contents(store) == _without(refused, contents(expected))


def _without(text: str, found: Any) -> Any:
    singles, chunks, elements, state = found
    singles = [(slug, code, "" if message == text else message, value) for slug, code, message, value in singles]
    elements = [replace(each, message="") if each.message == text else each for each in elements]
    return singles, chunks, elements, state
