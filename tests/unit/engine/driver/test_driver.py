"""What the driver asks while nothing happens, what it tells of reports that come late, and what it sends at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest

from anabranch import Flow, task
from anabranch.base.events import TaskChanged
from anabranch.engine.driver.driver import Driver
from anabranch.engine.driver.handlers import FlowHandlers
from anabranch.engine.units.units import Report
from anabranch.executors import LocalExecutor
from anabranch.executors.base import Executor, Key, Message, Posted, Region
from anabranch.flows.running import plan_of, run_plan


def test_a_wait_for_a_retry_in_this_thread_ends_when_the_run_is_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.engine.driver.driver.TICK_S", 0.001)

    @task(max_retries=1, retry_delay=timedelta(hours=1))
    def fails() -> None:
        raise ValueError("not yet")

    with Flow("waits") as flow:
        node = fails()
    asked: list[str] = []

    def wants_end() -> str:
        asked.append("")
        return "enough" if len(asked) > 20 else ""

    plan = plan_of(flow.graph, flow.reference_tasks(), (), {})
    view = run_plan(plan, flow.graph, LocalExecutor(), handlers=FlowHandlers(), wants_end=wants_end)

    assert (view.state.name, view.state.message) == ("Cancelled", "enough")
    assert view.result[node].state.name == "Cancelled"


def test_what_has_ended_is_not_said_to_run_by_what_another_thread_tells_late(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a unit that had been asked what it is at just before it ended, which is told just after
    tell, late, told = Driver._tell_report, [], []

    def tell_and_be_late(self: Driver, report: Report, *, is_recorded: bool = False) -> None:
        tell(self, report, is_recorded=is_recorded)
        if not report.part:
            late.append(report.key)
            self._hear_beside(Report(report.key, part=1, at=(report.singles[0].slug, -1, 0.1)))

    monkeypatch.setattr(Driver, "_tell_report", tell_and_be_late)

    @task
    def first() -> int:
        return 1

    with Flow("late") as flow:
        first()
    # when
    flow.run(observers=[told.append])
    # then
    assert late
    states = [event.state.name for event in told if isinstance(event, TaskChanged) and event.slug == "first"]
    assert states[-1] == "Success"
    assert "Running" not in states


class Prompt(Executor):
    """Computes what it is sent at once, as if in another process, and has all of its reports waiting then."""

    in_process = False
    sent: list[int]
    released: set[Key]

    def start(self, token: str) -> None:
        self._outcomes: dict[Key, Any] = {}
        self._waiting: deque[Message] = deque()

    def stop(self) -> None:
        pass

    def slots(self) -> int:
        return 4

    def submit(self, region: Region) -> None:
        self.sent.append(len(region.keys))
        for key in region.keys:
            assert key not in self.released
            task = region.graph[key]
            outcome = self._outcomes[key] = task({each: self._outcomes[each] for each in task.dependencies})
            self._waiting.append(Posted(outcome.report))

    def next_message(self, timeout_s: float | None) -> Message | None:
        return self._waiting.popleft() if self._waiting else None

    def release(self, keys: Iterable[Key]) -> None:
        self.released.update(keys)

    def gather(self, keys: Iterable[Key]) -> dict[Key, Any]:
        return {key: self._outcomes[key] for key in keys}


def prompt() -> Prompt:
    executor = Prompt()
    executor.sent, executor.released = [], set()
    return executor


def test_what_can_go_out_after_reports_that_wait_together_goes_out_together() -> None:
    with Flow("together") as flow:
        node = task(lambda x: x + 1, name="plus", chunksize=1).map(range(40))
    executor = prompt()

    view = flow.run(executor=executor)

    assert view.result[node].result == list(range(1, 41))
    assert executor.sent == [12, 12, 12, 4]


def test_what_is_called_back_before_it_was_sent_is_not_sent() -> None:
    with Flow("enough") as flow:
        node = task(lambda x: x, name="one", chunksize=1, first_n=20).map(range(400))
    executor = prompt()

    view = flow.run(executor=executor)

    assert view.is_successful()
    assert view.result[node].counts.skipped == 400 - view.result[node].counts.successful
    assert sum(executor.sent) < 40
