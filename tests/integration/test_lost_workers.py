"""Workers that die or leave while a run goes on: the lost runs again, the guilty is found, others are unharmed."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.killable_cluster import KillableCluster, kill_and_wait, killable_cluster
from tests.ledger import SINGLE, Ledger, WatchedExecutor, complaints, lost_unreported, repeated

from anabranch import Flow, config, context, task, triggers, unmapped
from anabranch.base.events import Event, MapAdvanced, Noticed, TaskChanged
from anabranch.executors import DaskExecutor
from anabranch.monitoring.metrics import Metrics
from anabranch.monitoring.pages.recorded_run import read_model
from anabranch.runs.store.opening import current_store

pytestmark = pytest.mark.cluster

WIDTH = 300
ELEMENT_S = 0.004


@task
def square(x: int, ledger: Ledger) -> int:
    ledger.note()
    time.sleep(ELEMENT_S)
    return x * x


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task(trigger=triggers.all_finished)
def kinds(xs: list[Any]) -> list[str]:
    return [type(x).__name__ for x in xs]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillableCluster]:
    with killable_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as cluster:
        yield cluster


@pytest.fixture
def cluster(made: KillableCluster) -> KillableCluster:
    """Two workers, whatever the test before has done to them."""
    made.heal(2)
    return made


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


class Once:
    """An observer that acts at the first event that it is for, while the driver waits for it."""

    def __init__(self, when: Callable[[Event], bool], act: Callable[[], None]) -> None:
        self._when = when
        self._act = act
        self.has_acted = False

    def __call__(self, event: Event) -> None:
        if not self.has_acted and self._when(event):
            self.has_acted = True
            self._act()


def half_done(event: Event) -> bool:
    return isinstance(event, MapAdvanced) and event.slug == "square" and event.done >= WIDTH // 3


def squares(ledger: Ledger) -> Flow:
    with Flow("squares") as flow:
        total(square.map(range(WIDTH), unmapped(ledger)))
    return flow


# Innocents ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2], ids=["one", "all"])
def test_workers_that_are_killed_cost_what_they_had_not_reported(
    cluster: KillableCluster, ledger: Ledger, number: int
) -> None:
    deaths: list[tuple[float, int]] = []

    def strike() -> None:
        for pid in cluster.worker_pids()[:number]:
            deaths.append((time.time(), pid))
            kill_and_wait(pid)

    strikes = Once(half_done, strike)
    executor, metrics = WatchedExecutor(cluster.address), Metrics()

    view = squares(ledger).run(executor=executor, observers=[strikes, metrics])

    assert strikes.has_acted
    assert len(deaths) == number
    assert number == 1 or metrics.losses.values["squares", "square"] > 0
    assert view.state.name == "Success"
    assert view.result["square"].result == [x * x for x in range(WIDTH)]
    assert view.result["total"].result == sum(x * x for x in range(WIDTH))
    executions = ledger.executions(view.run_id)
    assert complaints(executions, dead={pid for _, pid in deaths}, reported=executor.reported) == []
    assert repeated(executions) <= lost_unreported(executions, deaths, executor.reported)


def test_a_worker_that_leaves_in_order_costs_what_it_was_at(cluster: KillableCluster, ledger: Ledger) -> None:
    from distributed import Client

    left: list[tuple[float, int]] = []
    executor = WatchedExecutor(cluster.address)
    with Client(cluster.address, set_as_default=False) as client:
        address, pid = min(client.run(os.getpid).items())

        def retire() -> None:
            left.append((time.time(), pid))
            client.retire_workers([address])

        view = squares(ledger).run(executor=executor, observers=[Once(half_done, retire)])

    assert view.result["square"].result == [x * x for x in range(WIDTH)]
    executions = ledger.executions()
    assert complaints(executions, dead={pid}, reported=executor.reported) == []
    assert repeated(executions) <= lost_unreported(executions, left, executor.reported)


def test_losing_a_worker_is_no_attempt(cluster: KillableCluster, ledger: Ledger) -> None:
    @task(max_retries=1)
    def unlucky(x: int, ledger: Ledger) -> tuple[int, int]:
        ledger.note()
        mine = [each for each in ledger.executions() if each.index == x]
        if x == 3 and len(mine) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if x == 3 and context.task_run_count == 1:
            raise ValueError("its only retry is still there")
        return x, context.task_run_count

    with Flow("unlucky") as flow:
        node = unlucky.map(range(6), unmapped(ledger))

    view = flow.run(executor=WatchedExecutor(cluster.address))

    assert view.result[node].result == [(x, 2 if x == 3 else 1) for x in range(6)]
    assert sum(each.index == 3 for each in ledger.executions()) == 3


def test_elements_that_wait_for_a_retry_do_not_notice_that_workers_die(
    cluster: KillableCluster, ledger: Ledger
) -> None:
    @task(max_retries=1, retry_delay=1.0)
    def second_time(x: int, ledger: Ledger) -> int:
        ledger.note()
        if context.task_run_count == 1:
            raise ConnectionError("not yet")
        return context.task_run_count

    with Flow("waiting") as flow:
        node = second_time.map(range(20), unmapped(ledger))

    def all_wait(event: Event) -> bool:
        return isinstance(event, MapAdvanced) and event.retrying == 20

    def strike() -> None:
        for pid in cluster.worker_pids():
            kill_and_wait(pid)

    strikes = Once(all_wait, strike)

    view = flow.run(executor=WatchedExecutor(cluster.address), observers=[strikes])

    assert strikes.has_acted
    assert view.result[node].result == [2] * 20
    executions = ledger.executions()
    assert len(executions) == 40
    first = {each.index: each.time for each in executions if each.attempt == 1}
    assert all(each.time - first[each.index] >= 1.0 for each in executions if each.attempt == 2)


def test_a_value_that_died_with_its_worker_is_made_again_for_who_needs_it(
    cluster: KillableCluster, ledger: Ledger
) -> None:
    @task
    def large(ledger: Ledger) -> bytes:
        ledger.note()
        return b"x" * 100_000  # more than travels with a report

    @task
    def size(value: bytes, more: int) -> int:
        return len(value) + more

    with Flow("large") as flow:
        value = large(ledger)
        sizes = [size(value, more) for more in range(3)]

    def is_made(event: Event) -> bool:
        return isinstance(event, TaskChanged) and event.slug == "large" and event.state.is_successful()

    strikes = Once(is_made, lambda: kill_and_wait(ledger.executions()[0].pid))

    view = flow.run(executor=WatchedExecutor(cluster.address), observers=[strikes])

    assert strikes.has_acted
    assert [view.result[each].result for each in sizes] == [100_000, 100_001, 100_002]
    assert [each.index for each in ledger.executions()] == [SINGLE, SINGLE]


# The guilty -----------------------------------------------------------------------------------------------------------


def leave() -> None:
    os._exit(3)


def fault() -> None:
    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("die", "cause"),
    [(leave, "exited with status 3"), (fault, "killed by signal 11 (SIGSEGV)")],
    ids=["os._exit", "SIGSEGV"],
)
def test_the_element_that_kills_its_workers_is_found_and_the_others_are_unharmed(
    cluster: KillableCluster, ledger: Ledger, die: Callable[[], None], cause: str
) -> None:
    def poisoned(x: int, ledger: Ledger) -> int:
        ledger.note()
        if x == 17:
            die()
        return x

    with Flow("poison") as flow:
        elements = task(poisoned).map(range(40), unmapped(ledger))
        after = task(poisoned, name="after").map(elements, unmapped(ledger))
        seen = kinds(elements)
        refused = total(elements)
        apart = total([1, 2])

    view = flow.run(executor=WatchedExecutor(cluster.address))

    states = [each.state for each in view.result[elements].map_states]
    assert [state.name for state in states] == ["Success"] * 17 + ["Crashed"] + ["Success"] * 22
    assert "while poisoned[17] ran alone" in states[17].message
    assert cause in states[17].message
    assert [each.state.name for each in view.result[after].map_states] == (
        ["Success"] * 17 + ["TriggerFailed"] + ["Success"] * 22
    )
    assert view.result[seen].result.count("int") == 39
    assert view.result[refused].state.name == "TriggerFailed"
    assert view.result[apart].result == 3
    assert view.state.name == "Failed"


def test_a_single_task_that_kills_its_workers_crashes_alone(cluster: KillableCluster) -> None:
    with Flow("single") as flow:
        bad = task(leave)()
        seen = task(lambda x: type(x).__name__, name="seen", trigger=triggers.all_finished)(bad)
        apart = total([1, 2])

    view = flow.run(executor=WatchedExecutor(cluster.address))

    assert view.result[bad].state.name == "Crashed"
    assert "exited with status 3" in view.result[bad].message
    assert view.result[seen].state.name == "Success"
    assert view.result[apart].result == 3


def test_a_run_without_news_says_what_it_waits_for(cluster: KillableCluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    notices: list[str] = []
    silent: list[Mapping[str, int]] = []

    @task
    def wait(path: Path) -> None:
        while not path.exists():
            time.sleep(0.01)

    def open_gate(event: Event) -> None:
        if isinstance(event, Noticed):
            notices.append(event.text)
            silent.append(event.silent)
            gate.touch()

    with Flow("waiting") as flow:
        wait(gate)

    with config.set(engine__watchdog_s=0.5):
        view = flow.run(executor=DaskExecutor(cluster.address), observers=[open_gate])

    assert view.is_successful()
    assert re.fullmatch(r"no report for \d s: 1 task of waiting\.wait with tcp://127\.0\.0\.1:\d+", notices[0])
    store = current_store()
    assert store is not None
    _, model = read_model(store, view.run_id)  # as pages in other processes see it
    assert [text for _, text in model.notices] == notices
    assert silent[0] == {"wait": 1}
