"""What the driver asks while nothing happens, and what it tells of reports that come late."""

from __future__ import annotations

from datetime import timedelta

import pytest

from anabranch import Flow, task
from anabranch.base.events import TaskChanged
from anabranch.engine.driver.driver import Driver
from anabranch.engine.driver.handlers import FlowHandlers
from anabranch.engine.units.units import Report
from anabranch.executors import LocalExecutor
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
