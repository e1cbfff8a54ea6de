"""Schedulers that die, and networks that break: a run goes on where it can, and ends within bounds where it cannot."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.killable_cluster import KillableCluster, Proxy, kill_and_wait, killable_cluster
from tests.ledger import Ledger, WatchedExecutor, complaints, lost_unreported, repeated

from anabranch import Flow, config, task, unmapped
from anabranch.base.events import Event, MapAdvanced, Noticed
from anabranch.executors import DaskExecutor

WIDTH = 300
ELEMENT_S = 0.004

pytestmark = pytest.mark.cluster


@task
def square(x: int, ledger: Ledger) -> int:
    import time

    ledger.note()
    time.sleep(ELEMENT_S)
    return x * x


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[KillableCluster]:
    with killable_cluster(tmp_path, workers=2) as made:
        yield made


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def squares(ledger: Ledger) -> Flow:
    with Flow("squares") as flow:
        total(square.map(range(WIDTH), unmapped(ledger)))
    return flow


class Watch:
    """Acts once a third of a map is done, while the driver waits for it; keeps what the run says."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act
        self.has_acted = False
        self.notices: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Noticed):
            self.notices.append(event.text)
        if not self.has_acted and isinstance(event, MapAdvanced) and event.done >= WIDTH // 3:
            self.has_acted = True
            self._act()


def test_a_run_goes_on_at_a_scheduler_that_was_started_again(cluster: KillableCluster, ledger: Ledger) -> None:
    deaths: list[tuple[float, int]] = []

    def restart() -> None:
        deaths.extend((time.time(), pid) for pid in cluster.worker_pids())  # they end without their scheduler
        cluster.kill_scheduler()
        cluster.start_scheduler()
        cluster.add_worker()

    watch = Watch(restart)
    executor = WatchedExecutor(cluster.address)

    view = squares(ledger).run(executor=executor, observers=[watch])

    assert watch.has_acted
    assert view.state.name == "Success"
    assert view.result["square"].result == [x * x for x in range(WIDTH)]
    assert view.result["total"].result == sum(x * x for x in range(WIDTH))
    executions = ledger.executions()
    assert complaints(executions, dead={pid for _, pid in deaths}, reported=executor.reported) == []
    assert repeated(executions) <= lost_unreported(executions, deaths, executor.reported)
    assert any("is interrupted" in each for each in watch.notices)
    assert any("waiting up to 300 s" in each for each in watch.notices)
    assert watch.notices[-1] == f"the scheduler at {cluster.address} is back"


def test_a_client_that_is_given_up_does_not_log_its_end_as_an_error(
    cluster: KillableCluster, caplog: pytest.LogCaptureFixture
) -> None:
    executor = DaskExecutor(cluster.address)
    executor.start("given-up")
    cluster.kill_scheduler()
    executor.stop()

    dask = logging.getLogger("distributed.client")
    dask.error("", exc_info=asyncio.CancelledError())  # as it does when its reconnection is cancelled, late
    dask.error("", exc_info=OSError("refused"))

    logged = [type(record.exc_info[1]) for record in caplog.records if record.name == dask.name and record.exc_info]
    assert OSError in logged
    assert asyncio.CancelledError not in logged


def test_a_run_without_another_scheduler_ends_within_the_time_that_it_said(
    cluster: KillableCluster, ledger: Ledger
) -> None:
    watch = Watch(cluster.kill_scheduler)

    with config.set(engine__reconnect_timeout_s=1.0, engine__connect_timeout_s=1.0):
        view = squares(ledger).run(executor=WatchedExecutor(cluster.address), observers=[watch])

    assert view.state.name == "Crashed"
    state = view.result["square"].state
    assert state.name == "Crashed"
    assert "there is no other to go on with" in state.message
    assert f"anabranch resume {view.run_id}" in view.state.message
    assert any("waiting up to 1 s" in each for each in watch.notices)


def test_a_cluster_of_the_runs_own_is_made_again(ledger: Ledger) -> None:
    executor = WatchedExecutor(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1})
    deaths: list[tuple[float, int]] = []

    def close_scheduler() -> None:
        assert executor._latest is not None
        assert executor._latest._made is not None
        cluster = executor._latest._made.cluster
        deaths.extend((time.time(), worker.pid) for worker in cluster.workers.values())
        cluster.sync(cluster.scheduler.close)

    watch = Watch(close_scheduler)

    view = squares(ledger).run(executor=executor, observers=[watch])

    assert watch.has_acted
    assert view.state.name == "Success"
    assert view.result["square"].result == [x * x for x in range(WIDTH)]
    executions = ledger.executions()
    assert complaints(executions, dead={pid for _, pid in deaths}, reported=executor.reported) == []
    assert any("another one is started" in each for each in watch.notices)


def test_a_run_goes_on_after_its_connection_broke(cluster: KillableCluster, ledger: Ledger) -> None:
    proxy = Proxy(cluster.port)
    watch = Watch(proxy.reset)

    try:
        view = squares(ledger).run(executor=WatchedExecutor(f"tcp://127.0.0.1:{proxy.port}"), observers=[watch])
    finally:
        proxy.close()

    assert watch.has_acted
    assert view.state.name == "Success"
    assert view.result["square"].result == [x * x for x in range(WIDTH)]
    assert watch.notices[-1].endswith("is back")


def test_a_run_whose_workers_have_all_left_ends_as_crashed_and_says_so(
    cluster: KillableCluster, ledger: Ledger
) -> None:
    def end_workers() -> None:
        for nanny in cluster.nannies:
            kill_and_wait(nanny.pid)

    watch = Watch(end_workers)

    with config.set(engine__no_workers_timeout_s=1.0):
        view = squares(ledger).run(executor=WatchedExecutor(cluster.address), observers=[watch])

    state = view.result["square"].state
    assert state.name == "Crashed"
    assert "no workers for 1 s" in state.message
    assert view.result["total"].state.name == "Crashed"
