"""Runs that are cancelled on a cluster: nothing more begins, what can be stopped is, and nothing stays there."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from tests.killable_cluster import KillableCluster, killable_cluster, left_behind
from tests.ledger import Ledger

from anabranch import Flow, task, unmapped
from anabranch.base.events import Event, MapAdvanced
from anabranch.cli import anabranch
from anabranch.executors import DaskExecutor

pytestmark = pytest.mark.cluster

WIDTH = 100_000
HANGS_S = 600


@task
def slow(x: int, ledger: Ledger) -> int:
    import time

    ledger.note()
    time.sleep(0.005)
    return x


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task(isolation="process")
def hang(path: str) -> None:
    child = subprocess.Popen(["sleep", str(HANGS_S)], start_new_session=True)
    Path(f"{path}.part").write_text(f"{os.getpid()} {child.pid}", encoding="ascii")
    os.rename(f"{path}.part", path)
    child.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillableCluster]:
    with killable_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as made:
        yield made


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def many(ledger: Ledger) -> Flow:
    with Flow("many") as flow:
        total(slow.map(range(WIDTH), unmapped(ledger)))
    return flow


def wait_until(claim: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "it does not become true"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_ctrl_c_cancels_what_has_not_ended_and_leaves_the_cluster_clean(
    cluster: KillableCluster, ledger: Ledger
) -> None:
    pressed = []

    def press(event: Event) -> None:
        if not pressed and isinstance(event, MapAdvanced) and event.done:
            pressed.append(event)
            signal.raise_signal(signal.SIGINT)

    view = many(ledger).run(executor=DaskExecutor(cluster.address), observers=[press])

    assert view.was_interrupted
    assert view.state.name == "Cancelled"
    names = {each.state.name for each in view.result["slow"].map_states}
    assert names == {"Success", "Cancelled"}
    assert view.result["total"].state.name == "Cancelled"
    assert len(ledger.executions()) < WIDTH
    wait_until(lambda: left_behind(cluster.address) == [])


def test_a_handle_cancels_a_run_whose_driver_is_elsewhere(cluster: KillableCluster, ledger: Ledger) -> None:
    with many(ledger).submit(executor=DaskExecutor(cluster.address)) as handle:
        wait_until(lambda: handle.status().tasks["slow"].get("done", 0) > 0)

        handle.cancel("enough")
        status = handle.wait(30)
        view = handle.result()
        handle.forget()

    assert status.state == "Cancelled"
    assert "enough" in status.message
    assert view.result["slow"].map_states[0].state.name == "Success"
    assert view.result["slow"].map_states[WIDTH - 1].state.name == "Cancelled"
    wait_until(lambda: left_behind(cluster.address) == [])


def test_the_command_cancels_a_run_by_the_beginning_of_its_name(cluster: KillableCluster, ledger: Ledger) -> None:
    with many(ledger).submit(executor=DaskExecutor(cluster.address), run_id="to-be-ended") as handle:
        outcome = CliRunner().invoke(anabranch, ["cancel", cluster.address, "to-be", "--reason", "it rains"])
        status = handle.status()
        handle.forget()

    assert outcome.exit_code == 0, outcome.output
    assert "many to-be-ended: Cancelled: cancelled: it rains" in outcome.output
    assert status.state == "Cancelled"


@pytest.mark.parametrize("detached", [False, True], ids=["ctrl-c", "handle"])
def test_attempts_in_processes_of_their_own_are_killed_with_all_they_started(
    cluster: KillableCluster, ledger: Ledger, tmp_path: Path, detached: bool
) -> None:
    path = tmp_path / "pids"
    with Flow("hangs") as flow:
        node = hang(str(path))
    executor = DaskExecutor(cluster.address)

    if detached:
        with flow.submit(executor=executor) as handle:
            wait_until(path.exists)
            handle.cancel()
            name = handle.wait(30).state
            handle.forget()
    else:

        def press() -> None:
            wait_until(path.exists)
            os.kill(os.getpid(), signal.SIGINT)

        presser = threading.Thread(target=press)
        presser.start()
        name = flow.run(executor=executor).result[node].state.name
        presser.join()

    pids = [int(word) for word in path.read_text(encoding="ascii").split()]
    assert name == "Cancelled"
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_alive, pids)))
    wait_until(lambda: left_behind(cluster.address) == [])
