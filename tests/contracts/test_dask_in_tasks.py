"""What Dask offers to code in a task works there, on one slot: with a deadline and without, alone and in a chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import dask
import pytest

from anabranch import Flow, Parameter, task
from anabranch.executors import DaskExecutor

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of one slot, which is free afterwards."""
    from distributed import Client, LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as made:
        yield made.scheduler_address
        with Client(made, set_as_default=False) as client:
            assert client.submit(sum, [1, 2]).result(timeout=20) == 3
            threads = client.run(lambda dask_worker: [each.is_alive() for each in dask_worker.executor._threads])
            assert list(threads.values()) == [[True]]


def computes(x: int) -> int:
    return int(dask.delayed(sum)([x, 2, 5]).compute())


def has_a_client(x: int) -> int:
    from distributed import get_client

    client = get_client()
    return int(client.get({f"own-{x}": (sum, [x, 7])}, f"own-{x}"))


def has_a_worker_client(x: int) -> int:
    from distributed import worker_client

    with worker_client() as client:
        return int(client.submit(sum, [x, 7]).result())


def secedes(x: int) -> int:
    from distributed import get_client, secede

    future = get_client().submit(sum, [x, 7])
    secede()
    return int(future.result())


def secedes_and_rejoins(x: int) -> int:
    from distributed import get_client, rejoin, secede

    future = get_client().submit(sum, [x, 7])
    secede()
    value = int(future.result())
    rejoin()
    return value


CALLS = [computes, has_a_client, has_a_worker_client, secedes, secedes_and_rejoins]


@pytest.mark.parametrize("options", [{}, {"timeout": 60.0}, {"max_retries": 1}], ids=["plain", "timeout", "retries"])
@pytest.mark.parametrize("function", CALLS)
def test_a_task_does_with_dask_what_a_task_of_dask_may(
    function: Callable[[int], int], options: dict[str, Any], address: str
) -> None:
    calls = task(function, **options)
    with Flow("within") as flow:
        single, elements = calls(1), calls.map([1, 2, 3])

    state = flow.run(executor=DaskExecutor(address))

    assert state.is_successful(), state.message
    assert (state[single].result, state[elements].result) == (8, [8, 9, 10])


def test_a_deadline_that_passes_while_dask_computes_leaves_the_slot_to_others(address: str) -> None:
    @task(timeout=0.3)
    def waits() -> Any:
        return dask.delayed(time.sleep)(1.0).compute()

    @task
    def after() -> int:
        return 7

    with Flow("late") as flow:
        late, node = waits(), after()

    state = flow.run(executor=DaskExecutor(address))

    assert (state[late].name, state[node].result) == ("TimedOut", 7)


@pytest.mark.parametrize("options", [{}, {"timeout": 60.0}], ids=["plain", "timeout"])
def test_a_run_within_a_task_has_the_slot_of_the_task(options: dict[str, Any], address: str) -> None:
    @task
    def square(x: int) -> int:
        return x * x

    with Flow("inner") as inner:
        node = square(Parameter("x"))

    @task(**options)
    def runs(x: int) -> Any:
        return inner.run(x=x, executor=DaskExecutor(address))[node].result

    with Flow("outer") as outer:
        all_of_them = runs.map([1, 2, 3])

    state = outer.run(executor=DaskExecutor(address))

    assert state.is_successful(), state.message
    assert state[all_of_them].result == [1, 4, 9]


@pytest.mark.parametrize("function", [has_a_client, has_a_worker_client, secedes])
def test_a_task_in_a_process_of_its_own_says_that_no_worker_is_there(
    function: Callable[[int], int], address: str
) -> None:
    with Flow("isolated") as flow:
        node = task(function, isolation="process")(1)

    state = flow.run(executor=DaskExecutor(address))

    assert state[node].message.startswith(
        "OptionError: isolation='process': Dask's get_client, worker_client, secede and joblib's dask backend find no "
        "worker in a task's own process; use isolation='thread', or distributed.Client with the scheduler's address"
    )
