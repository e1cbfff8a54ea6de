"""A run that only waits is put down, where somebody takes it up again; it goes on as if it had waited."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from anabranch import Flow, config, signals, task, triggers
from anabranch.engine.driver.rest import may_rest, rest_of
from anabranch.engine.machine.permits import Claim
from anabranch.runs.store.opening import current_store
from anabranch.runs.store.permit_table import Holder, PermitTable
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.testing import FlowTester

CALLS: Counter[str] = Counter()
HOUR_S = 3_600


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> Iterator[None]:
    CALLS.clear()
    with config.set(backend=f"sqlite:///{tmp_path}/runs.db"):
        yield


def fail_first(name: str) -> None:
    CALLS[name] += 1
    if CALLS[name] == 1:
        raise OSError("the server is away")


@task(max_retries=1, retry_delay=HOUR_S)
def flaky(after: Any = None) -> str:
    fail_first("flaky")
    return "done"


@task(max_retries=1, retry_delay=HOUR_S)
def flaky_element(index: int) -> int:
    CALLS[f"element {index}"] += 1
    if index == 1:
        fail_first("flaky_element")
    return index


@task
def tomorrow() -> None:
    CALLS["tomorrow"] += 1
    raise signals.RETRY("the file is not there yet", start_time=datetime.now(UTC) + timedelta(hours=12))


@task
def small() -> list[int]:
    CALLS["small"] += 1
    return [1, 2]


@task
def large() -> bytes:
    return bytes(2 * config.engine.inline_nbytes)


@task(trigger=triggers.manual_only)
def approved() -> None: ...


def flow_of(*calls: Any) -> Flow:
    with Flow("etl") as flow:
        for call in calls:
            call()
    return flow


@pytest.mark.parametrize(
    ("calls", "hours"),
    [
        ([flaky], 1),
        ([lambda: flaky_element.map([0, 1, 2])], 1),
        ([tomorrow], 12),
        ([tomorrow, flaky, small], 1),
        ([flaky, approved], 1),
        ([lambda: flaky(small())], 1),
    ],
)
def test_a_run_that_only_waits_is_put_down_until_it_is_due(calls: list[Any], hours: int):
    flow = flow_of(*calls)
    before = datetime.now(UTC)
    with may_rest("run-1", 5.0) as rest:
        state = flow.run(run_id="run-1")
    assert state.is_paused()
    assert rest.until is not None
    assert state.message == f"waits until {datetime.fromtimestamp(rest.until, UTC):%Y-%m-%d %H:%M:%S} UTC for a retry"
    assert 0 <= rest.until - before.timestamp() - hours * HOUR_S < 60
    store = current_store()
    assert store is not None
    assert store.get_run("run-1").state == "Paused"
    calls_before = dict(CALLS)
    with may_rest("run-1", 5.0) as again:  # too early
        assert flow.run(resume="run-1").is_paused()
    assert again.until == pytest.approx(rest.until)
    assert calls_before == CALLS


@task(concurrency={"gate": 1})
def limited(index: int = 0) -> int:
    CALLS["limited"] += 1
    return index


@task(rate={"api": "1/min"})
def paced(index: int) -> int:
    CALLS["paced"] += 1
    return index


def permits() -> PermitTable:
    store = current_store()
    assert isinstance(store, RelationalRunStore)
    return PermitTable(store.database)


@pytest.mark.parametrize("call", [limited, lambda: limited.map([0, 1])], ids=["a task", "a map"])
def test_a_run_that_waits_for_room_in_a_limit_is_put_down_and_keeps_its_place(call: Any):
    flow = flow_of(small, call)
    other = Holder("token", "other", "etl", "host:1")
    permits().settle(other, Claim({"gate": 1}, {}, ((("gate",), 1),)), ["gate"], lease_s=600.0)
    before = time.time()
    with may_rest("run-1", 0.05) as rest:
        state = flow.run(run_id="run-1")
    assert state.is_paused()
    assert state.message == "waits for room in a limit: gate (1 of 1, held by other (etl, host:1))"
    assert rest.until is not None
    assert 590 < rest.until - before < 660
    assert CALLS == {"small": 1}
    (limit,) = permits().all()
    assert [each.run_id for each in limit.waiters] == ["run-1"]
    permits().drop("token")
    with may_rest("run-1", 0.05) as again:
        assert flow.run(resume="run-1").is_successful()
    assert again.until is None
    assert CALLS["small"] == 1
    assert permits().all() == []


def test_a_run_that_waits_for_its_own_rate_is_put_down_until_its_window_is_over():
    flow = flow_of(lambda: paced.map([0, 1]))
    with may_rest("run-1", 0.05) as rest:
        state = flow.run(run_id="run-1")
    assert state.is_paused()
    assert state.message == "waits for room in a limit: api per min"
    assert rest.until is not None
    assert 30 < rest.until - time.time() < 62
    assert CALLS == {"paced": 1}


@pytest.mark.parametrize("least_s", [HOUR_S, 5.0])
def test_a_run_is_not_put_down_for_room_that_comes_soon(least_s: float):
    other = Holder("token", "other", "etl", "host:1")
    permits().settle(other, Claim({"gate": 1}, {}, ((("gate",), 1),)), ["gate"], lease_s=0.3)
    with may_rest("run-1", least_s) as rest:
        assert flow_of(limited).run(run_id="run-1").is_successful()
    assert rest.until is None


def test_what_is_due_is_tried_again_and_nothing_else():
    flow = flow_of(lambda: flaky(small()), lambda: flaky_element.map([0, 1, 2]))
    tester = FlowTester(recorded=True)
    with may_rest("run-1", 5.0):
        assert tester.run(flow, run_id="run-1").is_paused()
    state = tester.run(flow, resume="run-1")
    assert state.is_successful()
    assert CALLS == {"small": 1, "flaky": 2, "flaky_element": 2, "element 0": 1, "element 1": 2, "element 2": 1}
    assert state.result["flaky"].attempt == 2


@pytest.mark.parametrize(
    ("calls", "least_s"),
    [([lambda: flaky(large())], 5.0), ([flaky], 2.0 * HOUR_S)],
    ids=["a value would be lost", "it is not worth it"],
)
def test_a_run_is_not_put_down_when_that_costs_more_than_it_gives(calls: list[Any], least_s: float):
    flow = flow_of(*calls)
    with may_rest("run-1", least_s) as rest:
        state = FlowTester(recorded=True).run(flow, run_id="run-1")
    assert state.is_successful()
    assert rest.until is None


def test_a_run_that_is_not_recorded_waits_itself():
    with may_rest("run-1", 5.0) as rest:
        assert FlowTester().run(flow_of(flaky), run_id="run-1").is_successful()
    assert rest.until is None


def test_runs_within_the_run_do_not_rest():
    with may_rest("run-1", 5.0) as rest:
        assert rest_of("run-1") is rest
        assert rest_of("run-2") is None
    assert rest_of("run-1") is None
