"""What the driver asks while nothing happens."""

from __future__ import annotations

from datetime import timedelta

import pytest

from anabranch import Flow, task
from anabranch.engine.driver.handlers import FlowHandlers
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
