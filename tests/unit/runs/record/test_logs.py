"""Log lines on their way into the run store, whatever the store does meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from anabranch.engine.logs.lines import LogLine, Sketch
from anabranch.errors import RunStoreError
from anabranch.runs import Batch, Ownership, RunRecord
from anabranch.runs.record import logs
from anabranch.runs.record.logs import MAX_ROWS, LogKeeper
from anabranch.runs.store.sqlite import InMemoryRunStore


class Watched(InMemoryRunStore):
    """A store of which a test sees the sizes of the batches, and that does before a write what it is told."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self._before = before

    def write(self, ownership: Any, batch: Batch) -> None:
        """Write a batch."""
        self._before()
        super().write(ownership, batch)
        self.sizes.append(len(batch.logs))


def held(store: InMemoryRunStore) -> Ownership:
    return store.create_run(RunRecord("r", "etl", datetime.now(UTC)))


def line(number: int, logger: str = "anabranch.task.parse") -> LogLine:
    return LogLine(1_000.0 - number, logging.INFO, logger, f"line {number}", "parse", number, 2, "w")


def numbers_in(store: InMemoryRunStore) -> list[int]:
    rows = store.logs("r", after=(1, -1))
    assert [row.serial for row in rows] == list(range(len(rows)))
    return [int(row.text.split()[-1]) for row in rows]


def test_lines_are_written_in_the_order_in_which_they_came_and_in_batches() -> None:
    store = Watched()
    keeper = LogKeeper(store, held(store))
    for number in range(2 * MAX_ROWS + 1):
        keeper.keep(line(number))
    keeper.close()
    assert numbers_in(store) == list(range(2 * MAX_ROWS + 1))
    assert max(store.sizes) <= MAX_ROWS
    assert len(store.sizes) < 20


def test_a_line_has_the_name_of_a_logger_that_is_not_the_tasks_own() -> None:
    store = Watched()
    keeper = LogKeeper(store, held(store))
    keeper.keep(line(0))
    keeper.keep(line(1, "library.part"))
    keeper.close()
    assert [row.text for row in store.logs("r", after=(1, -1))] == ["line 0", "library.part: line 1"]
    (first, _) = store.logs("r", after=(1, -1))
    assert (first.slug, first.index, first.attempt, first.worker, first.level) == ("parse", 0, 2, "w", logging.INFO)


def test_a_run_that_logs_nothing_has_no_thread_for_it() -> None:
    store = Watched()
    before = threading.active_count()
    LogKeeper(store, held(store)).close()
    assert threading.active_count() == before
    assert store.sizes == []


def test_a_store_that_fails_for_a_while_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.runs.record.logs.EVERY_S", 0.001)
    tries: list[int] = []
    has_failed = threading.Event()

    def fail_thrice() -> None:
        tries.append(1)
        if len(tries) <= 3:
            raise RunStoreError("locked")
        has_failed.set()

    store = Watched(fail_thrice)
    keeper = LogKeeper(store, held(store))
    for number in range(10):
        keeper.keep(line(number))
    assert has_failed.wait(30)
    keeper.close()
    assert numbers_in(store) == list(range(10))


def test_what_a_store_does_not_take_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("anabranch.runs.record.logs.MAX_WAITING", 5)

    def fail() -> None:
        raise RunStoreError("no space left")

    store = Watched(fail)
    keeper = LogKeeper(store, held(store))
    for number in range(8):
        keeper.keep(line(number))
    keeper.close()
    assert "8 log lines of run r are not in the run store" in caplog.text


def test_a_former_owner_writes_nothing_more() -> None:
    store = Watched()
    keeper = LogKeeper(store, held(store))
    store.take_over("r", owner="elsewhere:1", now=datetime(2999, 1, 1, tzinfo=UTC))
    keeper.keep(line(0))
    keeper.close()
    keeper.keep(line(1))
    assert store.logs("r") == []


def sketch(number: int, text: str) -> Sketch:
    return Sketch(("parse", number, 1), "markdown 0", lambda: text, "w")


def test_of_an_artifact_the_latest_is_kept_even_if_the_store_does_not_answer_for_a_while() -> None:
    has_failed = threading.Event()

    def fail_once() -> None:
        if not has_failed.is_set():
            has_failed.set()
            raise RunStoreError("down")

    store = Watched(fail_once)
    keeper = LogKeeper(store, held(store))
    keeper.keep_sketch(sketch(1, "one"))
    assert has_failed.wait(60)
    keeper.keep_sketch(sketch(1, "two"))
    keeper.keep(sketch(2, "three").line())
    keeper.close()
    found = [(row.index, row.kind, row.body) for row in store.artifacts("r")]
    assert found == [(1, "markdown", "two"), (2, "markdown", "three")]


@pytest.mark.parametrize(("most", "most_nbytes", "kept"), [(3, 1_000, 3), (10, 10, 2)])
def test_a_run_keeps_so_many_artifacts_and_says_that_there_were_more(
    most: int, most_nbytes: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_SHOWN", most)
    monkeypatch.setattr(logs, "MAX_SHOWN_NBYTES", most_nbytes)
    store = InMemoryRunStore()
    keeper = LogKeeper(store, held(store))
    for number in range(5):
        keeper.keep_sketch(sketch(number, "text"))
    keeper.close()
    assert [row.body for row in store.artifacts("r")] == ["text"] * kept
    (told,) = store.logs("r")
    assert f"not all artifacts are kept: a run has room for {most}, of 0 MiB in all" in told.text


@pytest.mark.parametrize(("most", "most_nbytes"), [(3, 1_000), (10, 12)])
def test_what_earlier_drivers_kept_counts_and_is_replaced_all_the_same(
    most: int, most_nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_SHOWN", most)
    monkeypatch.setattr(logs, "MAX_SHOWN_NBYTES", most_nbytes)
    store = Watched()
    # given a run whose first driver has kept two artifacts
    keeper = LogKeeper(store, held(store))
    for number in range(2):
        keeper.keep_sketch(sketch(number, "text"))
    keeper.close()
    # when another one goes on, shows one of them anew, and two more
    later = LogKeeper(store, store.take_over("r", owner="elsewhere:1", now=datetime(2999, 1, 1, tzinfo=UTC)))
    for number in range(1, 4):
        later.keep_sketch(sketch(number, "next"))
    later.close()
    # then there is room for one of these
    assert [row.body for row in store.artifacts("r")] == ["text", "next", "next"]
    (told,) = store.logs("r")
    assert "not all artifacts are kept" in told.text


def test_artifacts_wait_until_those_of_earlier_drivers_can_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "EVERY_S", 0.001)
    store = Watched()
    held(store)
    ownership = store.take_over("r", owner="elsewhere:1", now=datetime(2999, 1, 1, tzinfo=UTC))
    asked = threading.Event()
    real = store.artifact_sizes

    def fail_once(run_id: str) -> Any:
        if asked.is_set():
            return real(run_id)
        asked.set()
        raise RunStoreError("down")

    monkeypatch.setattr(store, "artifact_sizes", fail_once)
    keeper = LogKeeper(store, ownership)
    keeper.keep_sketch(sketch(1, "text"))
    assert asked.wait(30)
    keeper.close()
    assert [row.body for row in store.artifacts("r")] == ["text"]
