"""What a `DaskExecutor` makes of what a scheduler says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Client, LocalCluster

from anabranch.executors.dask import DaskExecutor, slots_of


def worker(status: str, **counts: int) -> dict[str, Any]:
    return {"status": status, "nthreads": 4, "metrics": {"task_counts": counts}}


@pytest.mark.parametrize(
    ("said", "slots"),
    [
        (worker("running", executing=1), 4),
        (worker("paused"), 0),
        (worker("paused", memory=9), 0),
        (worker("paused", executing=1, memory=9), 1),
        (worker("closing_gracefully", executing=1, **{"long-running": 1}), 2),
        ({"status": "paused", "nthreads": 4}, 0),
    ],
)
def test_a_worker_that_begins_nothing_has_the_slots_that_are_busy(said: dict[str, Any], slots: int) -> None:
    assert slots_of(said) == slots


def test_what_there_is_instead_of_slots_is_named() -> None:
    executor = DaskExecutor("tcp://127.0.0.1:8786")
    assert executor.shortage() == ("no workers", "start one with `dask worker`")
    executor._idle = {"tcp://127.0.0.1:1": "paused"}
    found, cure = executor.shortage()
    assert found == "no worker that begins anything: tcp://127.0.0.1:1 is paused"
    assert cure == "a paused worker lacks memory: restart it, or give it more"
    executor._idle = dict.fromkeys(["tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3"], "paused")
    assert executor.shortage()[0].endswith("tcp://127.0.0.1:1 is paused (+2 others)")


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=logging.CRITICAL
    ) as made:
        yield made


def test_values_are_brought_that_are_there_and_those_that_were_lost_are_not_waited_for(cluster: LocalCluster) -> None:
    first, second = (worker.address for worker in cluster.workers.values())
    executor = DaskExecutor(cluster.scheduler_address)
    with Client(cluster, set_as_default=False) as client:
        kept = client.submit(str, "kept", workers=[first])
        lost = client.submit(str, "lost", workers=[second])
        client.gather([kept, lost])
        executor._client, executor._futures = client, {("a", 1): kept, ("a", 2): lost}

        async def remove(dask_scheduler: Any) -> None:
            await dask_scheduler.remove_worker(second, stimulus_id="test", close=False)

        client.run_on_scheduler(remove)  # nobody else may make it again

        assert executor.gather([("a", 1), ("a", 2), ("a", 3)]) == {("a", 1): "kept"}
        assert executor.gather([("a", 2)]) == {}
