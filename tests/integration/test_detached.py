"""Runs whose driver is on the cluster: they need nobody, are found by name, and survive the worker that drives them."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from tests.killable_cluster import KillableCluster, kill_and_wait, killable_cluster, left_behind
from tests.ledger import Ledger, complaints

from anabranch import Flow, Parameter, task, unmapped
from anabranch.errors import ExecutorError, OptionError, RunHandleError, UnknownNodeError, UnsendableError
from anabranch.executors import DaskExecutor, LocalExecutor
from anabranch.flows.handle import RunHandle, attach
from anabranch.flows.stream import Stream
from anabranch.triggers import all_finished

pytestmark = pytest.mark.cluster

WIDTH = 400


@task
def square(x: int, ledger: Ledger) -> int:
    import time

    ledger.note()
    time.sleep(0.004)
    return x * x


@task
def total(xs: list[int]) -> int:
    return sum(xs)


def squares(ledger: Ledger) -> Flow:
    with Flow("squares") as flow:
        total(square.map(range(WIDTH), unmapped(ledger)))
    return flow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillableCluster]:
    with killable_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as cluster:
        yield cluster


@pytest.fixture
def cluster(made: KillableCluster) -> Iterator[KillableCluster]:
    """Two workers, and nothing of a run afterwards."""
    made.heal(2)
    yield made
    wait_until(lambda: left_behind(made.address) == [])


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def wait_until(claim: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "it does not become true"
        time.sleep(0.02)


# ----------------------------------------------------------------------------------------------------------------------


def test_a_run_is_sent_followed_and_read(cluster: KillableCluster, ledger: Ledger) -> None:
    flow = squares(ledger)

    with flow.submit(executor=DaskExecutor(cluster.address), run_id="followed-1") as handle:
        begun = handle.status()
        with pytest.raises(TimeoutError, match=r"run followed-1 is \w+ after 0 s; it goes on"):
            handle.wait(0)
        ended = handle.wait(30)
        view = handle.result()

        assert begun.state == "Running"
        assert (begun.flow_name, begun.drivers) == ("squares", 1)
        assert ended.state == "Success"
        assert ended.tasks["square"]["state"] == "Mapped"
        assert view.run_id == "followed-1"
        assert view.result["total"].result == sum(x * x for x in range(WIDTH))
        assert view.result[flow.get_tasks(name="square")[0]].map_states[3].result == 9
        assert len(ledger.executions()) == WIDTH
        handle.forget()
        with pytest.raises(RunHandleError, match="knows no run 'followed-1'"):
            handle.status()


def test_a_failed_run_tells_its_failure_to_who_asks(cluster: KillableCluster) -> None:
    def bad(x: int) -> int:
        return x // 0

    with Flow("fails") as flow:
        task(bad).map([1, 2])

    with flow.submit(executor=DaskExecutor(cluster.address)) as handle:
        status = handle.wait(30)
        view = handle.result()
        handle.forget()

    assert status.state == "Failed"
    assert "ZeroDivisionError" in status.message
    assert isinstance(view.result["bad"].map_states[0].result, ZeroDivisionError)


CLIENT = """
import sys
from tests.integration.test_detached import squares
from tests.ledger import Ledger
from anabranch.executors import DaskExecutor
handle = squares(Ledger(sys.argv[1])).submit(executor=DaskExecutor(sys.argv[2]), run_id="orphan-7")
print(handle.run_id, flush=True)
sys.stdin.read()
"""


def test_a_run_goes_on_when_its_client_is_killed_and_is_found_by_name(cluster: KillableCluster, ledger: Ledger) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, ledger.path, cluster.address],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as client:
        assert client.stdout is not None
        sent = client.stdout.readline().decode().strip()
        client.kill()

    with attach(cluster.address, "orph") as handle:
        status = handle.wait(30)
        view = handle.result()
        handle.forget()

    assert (sent, handle.run_id) == ("orphan-7", "orphan-7")
    assert (status.state, status.drivers) == ("Success", 1)
    assert view.result["total"].result == sum(x * x for x in range(WIDTH))
    assert len(ledger.executions()) == WIDTH


def test_what_tasks_log_reaches_who_attaches_from_all_workers_and_from_before(
    cluster: KillableCluster, tmp_path: Path
) -> None:
    def talk(x: int, gate: str, after: object = None) -> None:
        import logging
        import time
        from pathlib import Path

        while x >= 20 and not Path(gate).exists():
            time.sleep(0.01)
        logging.getLogger("talk").warning("this is %d", x)
        Path(gate).with_name(f"{x}.said").touch()

    said = task(talk, chunksize=1)
    with Flow("talks") as flow:
        gate = unmapped(str(tmp_path / "go"))
        first = said.map(range(20), gate)  # all of them before those that wait: these might have every slot
        said.map(range(20, 40), gate, unmapped(first))

    with flow.submit(executor=DaskExecutor(cluster.address), run_id="talks-1") as handle:
        wait_until(lambda: len(list(tmp_path.glob("*.said"))) == 20)
        lines: list[Any] = []
        with handle.follow_logs(lambda batch: lines.extend(batch.lines)) as catch_up:
            wait_until(lambda: len(lines) == 20)
            (tmp_path / "go").touch()
            handle.wait(30)
            catch_up()
            wait_until(lambda: len(lines) >= 40)
        handle.forget()

    assert sorted(line.text for line in lines) == sorted(f"this is {x}" for x in range(40))
    assert {line.task_run for line in lines} == {f"{slug}[{x}]" for slug in ("talk", "talk-1") for x in range(20)}
    assert len({line.worker for line in lines}) == 2  # one of them has the driver


def test_another_driver_goes_on_when_the_worker_with_the_first_is_killed(
    cluster: KillableCluster, ledger: Ledger
) -> None:
    with squares(ledger).submit(executor=DaskExecutor(cluster.address)) as handle:
        with Client(cluster.address, set_as_default=False) as client:
            pids = client.run(os.getpid)
        wait_until(lambda: handle.status().tasks.get("square", {}).get("done", 0) >= WIDTH // 4)
        known = handle.status().tasks["square"]["done"]
        victim = pids[handle.status().driver]

        kill_and_wait(victim)
        status = handle.wait(60)
        view = handle.result()
        handle.forget()

    assert (status.state, status.drivers) == ("Success", 2)
    assert view.result["square"].result == [x * x for x in range(WIDTH)]
    assert view.result["total"].result == sum(x * x for x in range(WIDTH))
    executions = ledger.executions()
    # The reports that nobody took when the driver had died are of chunks of the other worker.
    assert complaints(executions, dead={victim}, reported={}, allowed=WIDTH - known) == []


def test_a_run_needs_a_cluster_that_outlives_its_client(ledger: Ledger) -> None:
    for executor in (None, LocalExecutor(), DaskExecutor()):
        with pytest.raises(OptionError, match="expected executor=DaskExecutor"):
            squares(ledger).submit(executor=executor)


def test_code_that_cannot_travel_is_refused_before_anything_is_sent(cluster: KillableCluster) -> None:
    import threading

    lock = threading.Lock()
    with Flow("closure") as flow:
        task(lambda: lock.locked(), name="locked")()

    with pytest.raises(UnsendableError, match="lock"):
        flow.submit(executor=DaskExecutor(cluster.address))


def test_runs_that_a_scheduler_does_not_know_are_told_from_those_it_does(
    cluster: KillableCluster, ledger: Ledger
) -> None:
    with squares(ledger).submit(executor=DaskExecutor(cluster.address), run_id="known-1") as handle:
        with pytest.raises(RunHandleError, match=r"knows no run 'other'; it knows known-1 \(squares\)"):
            attach(cluster.address, "other")
        with RunHandle(cluster.address, "gone") as other:
            with pytest.raises(RunHandleError, match="knows no run 'gone'"):
                other.status()
            with pytest.raises(RunHandleError, match="has no result of run 'gone'"):
                other.wait(1)
        handle.wait(30)
        handle.forget()


def test_a_cluster_without_workers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.flows.handle.START_S", 0.5)
    with killable_cluster(tmp_path, workers=0) as empty, pytest.raises(ExecutorError, match="no worker at"):
        squares(Ledger(tmp_path / "ledger")).submit(executor=DaskExecutor(empty.address))


# Streams --------------------------------------------------------------------------------------------------------------


@task(chunksize=10)
def stretched(x: int, gate: str) -> bytes:
    """Large values, one failure, and a last chunk that waits for a file."""
    wait_until(lambda: x < 90 or Path(gate).exists(), 60)
    if x == 7:
        raise ValueError("not 7")
    return bytes([x]) * 20_000


@task
def lengths(xs: list[bytes]) -> int:
    return sum(len(x) for x in xs if isinstance(x, bytes))


@pytest.fixture
def gated(tmp_path: Path) -> tuple[Flow, Path]:
    """A flow whose last chunk waits until a file is there."""
    gate = tmp_path / "gate"
    with Flow("gated") as flow:
        mapped = stretched.map(range(100), unmapped(Parameter("gate", default=str(gate))))
        lengths(mapped, task_args={"trigger": all_finished})
    return flow, gate


def read(stream: Stream, count: int = 10**9) -> dict[tuple[str, int | None], Any]:
    """What a stream gives next, each once: the first byte of values, and names of what failed."""
    found: dict[tuple[str, int | None], Any] = {}
    for state in itertools.islice(stream, count):
        name = (state.node if isinstance(state.node, str) else state.node.slug, state.map_index)
        assert name not in found
        value = state.result
        found[name] = value[0] if isinstance(value, bytes) else str(value)
    return found


def expected_of(*indices: int) -> dict[tuple[str, int | None], Any]:
    return {("stretched", i): "not 7" if i == 7 else i for i in indices}


def test_a_stream_of_a_submitted_run_gives_what_has_ended_and_what_ends(
    cluster: KillableCluster, gated: tuple[Flow, Path]
) -> None:
    flow, gate = gated
    mapped = flow.get_tasks(name="stretched")[0]

    with flow.submit(executor=DaskExecutor(cluster.address), keep=[mapped]) as handle:
        stream = handle.stream(mapped, lengths, "gate")
        first = read(stream, 91)
        with attach(cluster.address, handle.run_id) as other, other.stream("stretched") as late:
            assert read(late, 90) == expected_of(*range(90))
            gate.touch()
            rest = read(stream)
            assert read(late) == expected_of(*range(90, 100))
        assert first | rest == {
            **expected_of(*range(100)),
            ("gate", None): str(gate),
            ("lengths", None): str(99 * 20_000),
        }
        assert all(index is None or index < 90 for _, index in first)
        assert stream.wait(30).result[mapped].map_states[99].result == bytes([99]) * 20_000
        assert read(handle.stream(mapped)) == expected_of(*range(100))
        with pytest.raises(UnknownNodeError, match="knows no node 'nothing'; its nodes are: 'gate', 'stretched'"):
            handle.stream("nothing")
        with pytest.raises(OptionError, match="name the nodes of which the stream should give the states"):
            handle.stream()
        with pytest.raises(OptionError, match="on_break: expected 'cancel' or 'continue', found 'stop'"):
            handle.stream(mapped, on_break="stop")  # type: ignore[arg-type]
        handle.forget()


@pytest.mark.parametrize("on_break", ["cancel", "continue"])
def test_who_leaves_the_stream_of_a_submitted_run_says_what_becomes_of_it(
    cluster: KillableCluster, gated: tuple[Flow, Path], on_break: Any
) -> None:
    flow, gate = gated

    async def leave(handle: RunHandle) -> None:
        async with handle.stream("stretched", on_break=on_break) as stream:
            async for state in stream:
                assert state.map_index < 90
                break

    with flow.submit(executor=DaskExecutor(cluster.address)) as handle:
        asyncio.run(leave(handle))
        if on_break == "continue":
            assert handle.status().state == "Running"
            gate.touch()
        status = handle.wait(30)
        handle.forget()

    assert status.state == ("Cancelled" if on_break == "cancel" else "Success")
    gate.touch()


def test_a_stream_goes_on_with_the_next_driver(cluster: KillableCluster, gated: tuple[Flow, Path]) -> None:
    flow, gate = gated

    with flow.submit(executor=DaskExecutor(cluster.address), keep=[stretched]) as handle:
        stream = handle.stream("stretched")
        first = read(stream, 90)
        with Client(cluster.address, set_as_default=False) as client:
            pids = client.run(os.getpid)
        kill_and_wait(pids[handle.status().driver])
        gate.touch()
        rest = read(stream)
        handle.forget()

    assert first | rest == expected_of(*range(100))
