"""Futures and collections of a cluster as arguments, elements and values of tasks that run on it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from anabranch import Flow, task, unmapped
from anabranch.executors import DaskExecutor

pytestmark = pytest.mark.cluster


@task
def total(x: Any) -> float:
    return float(sum(x))


@task
def plus(i: int, x: Any) -> float:
    return i + float(sum(x))


def made() -> LocalCluster:
    return LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of a cluster with one slot."""
    with made() as cluster, Client(cluster, set_as_default=False) as found:
        yield found


def executor(client: Client) -> DaskExecutor:
    return DaskExecutor(client.scheduler.address)


def put(client: Client, value: Any) -> Any:
    return client.scatter({"value": value})["value"]


def test_a_future_is_the_value_that_the_cluster_has(client: Client) -> None:
    with Flow("futures") as flow:
        nodes = (
            total(put(client, [1, 2, 3])),
            total(client.submit(list, (4, 5))),
            total([client.submit(sum, (1, 2)), 4]),
            plus.map([10, 20], unmapped(put(client, [1, 2, 3]))),
            total.map([client.submit(list, (1, 2)), client.submit(list, (3, 4))]),
            total(client.persist(da.ones(6, chunks=2))),
        )

    state = flow.run(executor=executor(client))

    assert state.is_successful(), state.message
    assert [state[node].result for node in nodes] == [6.0, 9.0, 7.0, [16.0, 26.0], [3.0, 7.0], 6.0]


def test_a_future_that_a_task_gives_is_its_value(client: Client) -> None:
    @task
    def submits(x: int) -> Any:
        from distributed import get_client

        return get_client().submit(sum, [x, 2])

    with Flow("given") as flow:
        nodes = submits(1), submits.map([2, 3])

    state = flow.run(executor=executor(client))

    assert [state[node].result for node in nodes] == [3, [4, 5]]


def test_a_future_that_the_cluster_does_not_have_is_refused(client: Client) -> None:
    with made() as cluster, Client(cluster, set_as_default=False) as stranger:
        cancelled = client.submit(list, (7, 8))
        with Flow("strangers") as flow:
            nodes = (
                total(cancelled),
                total(stranger.submit(list, (8, 9))),
                total(stranger.persist(da.ones(7, chunks=3))),
            )
        client.cancel([cancelled], force=True)

        state = flow.run(executor=executor(client))

    for node in nodes:
        assert (
            "is not known to the cluster that the task runs on: it was cancelled, or is of another cluster; make it "
            "there, and keep it until the run has ended" in state[node].message
        )


def test_one_partition_of_a_frame_fails_and_goes_on_alone(client: Client, tmp_path: Path) -> None:
    log, broken = tmp_path / "log", tmp_path / "broken"
    broken.touch()

    @task
    def added(part: pd.DataFrame) -> int:
        with log.open("a") as file:
            file.write(f"{part.index[0]}\n")
        if part.index[0] == 30 and broken.exists():
            raise OSError("no such row")
        return int(part["x"].sum())

    with Flow("frame") as flow:
        node = added.map(dd.from_pandas(pd.DataFrame({"x": range(100)}), npartitions=20).partitions)
    first = flow.run(executor=executor(client))
    found = first[node].map_states
    assert [each.is_successful() for each in found] == [index != 6 for index in range(20)]
    assert found[6].message == "OSError: no such row"

    broken.unlink()
    second = flow.run(executor=executor(client), resume=first.run_id)

    assert second.is_successful(), second.message
    assert second[node].result[6] == sum(range(30, 35))
    assert sorted(map(int, log.read_text().split())) == sorted([*range(0, 100, 5), 30])


def part_of(n: int) -> pd.DataFrame:
    return pd.DataFrame({"x": np.full(100_000, n)})  # 800 kB


def test_two_hundred_partitions_that_workers_make_do_not_come_to_the_driver(client: Client, tmp_path: Path) -> None:
    ran, broken = tmp_path / "ran", tmp_path / "broken"
    broken.touch()

    @task
    def largest(part: pd.DataFrame) -> int:
        n = int(part["x"].max())
        with ran.open("a") as file:
            file.write(f"{n}\n")
        if n == 77 and broken.exists():
            raise OSError("no such row")
        return n

    with Flow("frame") as flow:
        node = largest.map(dd.from_map(part_of, range(200)).partitions)
    tracemalloc.start()
    try:
        first = flow.run(executor=executor(client))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [each.is_successful() for each in first[node].map_states] == [n != 77 for n in range(200)]
    assert peak < 40_000_000, "of 160 MB"

    broken.unlink()
    second = flow.run(executor=executor(client), resume=first.run_id)

    assert second[node].result == list(range(200))
    assert sorted(map(int, ran.read_text().split())) == sorted([*range(200), 77])
