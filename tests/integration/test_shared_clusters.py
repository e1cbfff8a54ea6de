"""What others do to a cluster while a run goes on: restart it, cancel tasks, retire, pause and add workers."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.killable_cluster import KillableCluster, killable_cluster
from tests.ledger import SINGLE, Ledger

from anabranch import Flow, config, task, unmapped
from anabranch.base.events import Event, TaskChanged
from anabranch.executors import DaskExecutor

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillableCluster]:
    options = ("--memory-limit", "0")  # nothing pauses or wakes workers but the tests
    with killable_cluster(tmp_path_factory.mktemp("cluster"), workers=2, options=options) as cluster:
        yield cluster


@pytest.fixture
def cluster(made: KillableCluster) -> KillableCluster:
    made.heal(2)
    return made


@pytest.fixture
def client(cluster: KillableCluster) -> Iterator[Any]:
    """Somebody else's."""
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as made:
        yield made


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def stand_still() -> None:
    """Return when the worker that this is called in closes: it waits for its threads then."""
    from distributed import get_worker

    while get_worker().status.name in ("running", "closing_gracefully"):
        time.sleep(0.02)


@task
def make() -> bytes:
    return bytes(100_000)  # stays on its worker


@task
def hold(ledger: Ledger, times: int) -> int:
    """Stand still as often as that, and go on the next time."""
    ledger.note()
    if len(ledger.executions()) <= times:
        stand_still()
    return 1


@task
def held(x: int, ledger: Ledger) -> bytes:
    """Stand still at one element, the first time."""
    ledger.note()
    if x == 7 and sum(each.index == 7 for each in ledger.executions()) == 1:
        stand_still()
    return bytes(50_000)


@task
def total(first: Any, *others: Any) -> int:
    return sum(map(len, first)) if isinstance(first, list) else len(first) + sum(others)


def value(ledger: Ledger) -> Any:
    return total(make(), hold(ledger, 1))


def joined(ledger: Ledger) -> Any:
    return total(held.map(range(12), unmapped(ledger)))


SHAPES = {"value": (value, 100_001), "joined": (joined, 600_000)}


def until(holds: Callable[[], Any]) -> Any:
    """What a function gives once that is true."""
    end = time.monotonic() + 30
    while not (found := holds()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def begun(ledger: Ledger) -> list[int]:
    """Process ids of the workers in which what stands still has begun."""
    return [each.pid for each in ledger.executions() if each.index in (SINGLE, 7)]


def at_work(client: Any, ledger: Ledger, times: int = 1) -> str:
    """Address of the worker in which that has begun for so many times by now."""
    until(lambda: len(begun(ledger)) >= times)
    return str(next(address for address, pid in client.run(os.getpid).items() if pid == begun(ledger)[-1]))


def standing_still(client: Any, ledger: Ledger) -> str:
    """The same, for the first time, once the scheduler knows it to be at work."""
    address = at_work(client, ledger)

    def is_known(dask_scheduler: Any, address: str = address) -> bool:
        worker = dask_scheduler.workers[address]
        return any(seconds > 0.2 and task in worker.processing for task, seconds in worker.executing.items())

    until(lambda: client.run_on_scheduler(is_known))
    return address


def run_while(flow: Flow, executor: DaskExecutor, act: Callable[[], Any]) -> Any:
    """The view of a run, and what somebody does meanwhile."""
    other = threading.Thread(target=act)
    other.start()
    view = flow.run(executor=executor)
    other.join()
    return view


@pytest.mark.parametrize("shape", SHAPES)
def test_a_restart_by_another_client_is_one_loss(
    cluster: KillableCluster, client: Any, ledger: Ledger, shape: str
) -> None:
    write, right = SHAPES[shape]
    with Flow("restarted") as flow:
        node = write(ledger)

    def restart() -> None:
        standing_still(client, ledger)
        client.restart(timeout=30)

    view = run_while(flow, DaskExecutor(cluster.address), restart)

    assert view.state.name == "Success"
    assert view.result[node].result == right


@pytest.mark.parametrize("shape", SHAPES)
def test_what_another_client_cancels_runs_again(
    cluster: KillableCluster, client: Any, ledger: Ledger, shape: str
) -> None:
    write, right = SHAPES[shape]
    with Flow("cancelled") as flow:
        node = write(ledger)

    def cancel() -> None:
        standing_still(client, ledger)

        def cancel_all(dask_scheduler: Any) -> None:
            keys = [key for key, task in dask_scheduler.tasks.items() if task.who_wants]
            mine = next(iter(dask_scheduler.tasks[keys[0]].who_wants)).client_key
            dask_scheduler.stimulus_cancel(keys, client=mine, force=True, reason="", msg="")

        client.run_on_scheduler(cancel_all)
        client.restart_workers([*client.scheduler_info()["workers"]])  # else the slots stand still for a minute

    view = run_while(flow, DaskExecutor(cluster.address), cancel)

    assert view.state.name == "Success"
    assert view.result[node].result == right


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_worker_was_at_that_leaves_in_order_runs_again(
    cluster: KillableCluster, client: Any, ledger: Ledger, shape: str
) -> None:
    write, right = SHAPES[shape]
    with Flow("retired") as flow:
        node = write(ledger)

    def retire() -> None:
        client.retire_workers([standing_still(client, ledger)])

    view = run_while(flow, DaskExecutor(cluster.address), retire)

    assert view.state.name == "Success"
    assert view.result[node].result == right
    assert len(begun(ledger)) == 2


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_worker_that_leaves_in_order_has_just_begun_is_begun_once_more(
    cluster: KillableCluster, client: Any, ledger: Ledger, shape: str
) -> None:
    write, right = SHAPES[shape]
    with Flow("retired at once") as flow:
        node = write(ledger)

    view = run_while(flow, DaskExecutor(cluster.address), lambda: client.retire_workers([at_work(client, ledger)]))

    assert view.state.name == "Success"
    assert view.result[node].result == right
    assert len(begun(ledger)) == 2


def test_workers_whose_time_is_always_over_when_a_task_has_begun_are_losses_with_a_bound(
    cluster: KillableCluster, client: Any, ledger: Ledger
) -> None:
    with Flow("short lives") as flow:
        node = hold(ledger, 100)
    has_ended = threading.Event()

    def leave(dask_worker: Any = None) -> None:
        dask_worker.loop.add_callback(dask_worker.close_gracefully, restart=True)  # as --lifetime-restart does it

    def end_lives() -> None:
        times = 0
        while not has_ended.wait(0.02):
            if len(begun(ledger)) > times:
                times = len(begun(ledger))
                client.wait_for_workers(2, timeout=60)  # a worker does not leave in order while there is no other
                client.run(leave, workers=[at_work(client, ledger, times)])

    other = threading.Thread(target=end_lives)
    other.start()
    state = flow.run(executor=DaskExecutor(cluster.address)).result[node].state
    has_ended.set()
    other.join()

    assert state.name == "Crashed"
    assert "left in good order, as at the end of its lifetime, when it had run for" in state.message
    # Of the first time the scheduler may not know that it had begun; the others were told.
    assert config.engine.max_losses + 1 <= len(begun(ledger)) <= config.engine.max_losses + 2


def test_workers_that_are_paused_for_good_end_the_run_and_are_named(
    cluster: KillableCluster, client: Any, ledger: Ledger
) -> None:
    with Flow("leaky") as flow:
        node = task(lambda x, ledger: ledger.note() or time.sleep(0.05), name="slow").map(
            range(1_000), unmapped(ledger)
        )

    def pause(status: str, dask_worker: Any = None) -> None:
        from distributed.core import Status

        dask_worker.status = Status[status]

    def pause_all() -> None:
        until(ledger.executions)
        client.run(pause, "paused")

    with config.set(engine__no_workers_timeout_s=2.0):
        view = run_while(flow, DaskExecutor(cluster.address), pause_all)
    client.run(pause, "running")

    assert view.state.name == "Crashed"
    assert re.search(r"no worker that begins anything: tcp://\S+ is paused \(\+1 other\) for 2 s", view.state.message)
    assert not view.result[node].is_successful()


def test_a_resource_that_comes_late_is_waited_for(cluster: KillableCluster, caplog: pytest.LogCaptureFixture) -> None:
    extra = []

    def add(event: Event) -> None:
        if isinstance(event, TaskChanged) and event.slug == "prepare" and event.state.is_finished():
            extra.append(cluster.add_worker("--resources", "GPU=1"))

    with Flow("gpu") as flow:
        width = task(lambda: 3, name="prepare")()
        node = task(lambda x, n: x + n, name="train", resources={"GPU": 1}).map([0, 1], unmapped(width))

    view = flow.run(executor=DaskExecutor(cluster.address), observers=[add])

    assert view.result[node].result == [3, 4]
    assert "task 'train' wants GPU=1, and no worker offers that (GPU: at most 0); it waits until one" in caplog.text
    cluster.nannies.remove(extra[0])
    extra[0].terminate()
    extra[0].wait()


def test_a_resource_that_never_comes_ends_what_wants_it_and_nothing_else(cluster: KillableCluster) -> None:
    with Flow("gpus") as flow:
        alone = task(lambda: 1, name="alone", resources={"GPU": 3})()
        each = task(lambda x: x, name="each", resources={"FPGA": 1}).map(range(200))
        plain = total([b"1"])

    with config.set(engine__no_workers_timeout_s=1.0):
        view = flow.run(executor=DaskExecutor(cluster.address))

    assert view.result[alone].state.name == "Crashed"
    assert (
        "no worker has offered GPU = 3 for 1 s; start one with `dask worker --resources`" in view.result[alone].message
    )
    assert {state.name for state in view.result[each].map_states} == {"Crashed"}
    assert view.result[plain].result == 1
