"""What is told of runs that go on and say nothing."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from anabranch import Flow, LocalDaskExecutor, config, task
from anabranch.base.events import Event, Noticed
from anabranch.cli.history import _run_lines
from anabranch.monitoring.pages.library import RecordedSource
from anabranch.monitoring.pages.texts import status
from anabranch.runs import Batch, LogRow, RunRecord
from anabranch.runs.read.run import detail_data, read_run
from anabranch.runs.store.sqlite import InMemoryRunStore

MINUTE = timedelta(minutes=1)


def test_a_run_that_goes_on_says_since_when_nothing_has_happened_in_it():
    with InMemoryRunStore() as store:
        ownership = store.create_run(RunRecord("run-1", "etl", datetime.now(UTC) - MINUTE))
        held = read_run(store, "run-1").record.held_since
        assert held is not None
        assert read_run(store, "run-1").quiet_since == held
        at = held + MINUTE
        store.write(
            ownership, Batch(logs=[LogRow(0, at, 20, "here", slug="load"), LogRow(1, at + MINUTE, 30, "no report")])
        )
        found = read_run(store, "run-1")
        assert detail_data(found)["quiet_since"] == at.isoformat()
        for quiet, is_said in ((59, False), (60, True)):
            record = replace(found.record, heard=at + timedelta(seconds=quiet))
            lines = _run_lines(replace(found, record=record))
            said = [line for line in lines if "nothing has begun, ended or been logged since" in line]
            assert len(said) == is_said
        store.finish_run(ownership, "Success", end=at)
        assert read_run(store, "run-1").quiet_since is None


def test_the_page_of_a_run_says_that_nothing_happens_in_it_as_long_as_that_is_so():
    with InMemoryRunStore() as store:
        ownership = store.create_run(RunRecord("run-1", "etl", datetime.now(UTC)))
        source = RecordedSource(store, "run-1")
        began = source.model.quiet_since
        assert began is not None
        source.model.tick(began + 59)
        assert "nothing has begun" not in status(source.model)
        source.model.tick(began + 75)
        assert "its driver lives; nothing has begun, ended or been logged for 1:15 min" in status(source.model)
        store.finish_run(ownership, "Success", end=datetime.now(UTC))
        assert "nothing has begun" not in status(RecordedSource(store, "run-1").model)


def test_tasks_in_threads_that_say_nothing_are_told_of_as_on_a_cluster():
    heard = threading.Event()
    told: list[Noticed] = []

    def hear(event: Event) -> None:
        if isinstance(event, Noticed):
            told.append(event)
            heard.set()

    @task
    def wait(number: int) -> None:
        assert heard.wait(60)

    with Flow("waiting") as flow:
        wait.map([1, 2])
    with config.set(engine__watchdog_s=0.01):
        assert flow.run(executor=LocalDaskExecutor(num_workers=2), observers=[hear]).is_successful()
    assert told[0].text.startswith("no report for ")
    assert told[0].text.endswith(" s: still running here: wait (2)")
    assert told[0].silent == {"wait": 2}
