"""A run that takes longer than its flow's timeout: the same on every executor."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client

from anabranch import Flow, Parameter, config, task
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor
from anabranch.runs import open_store
from anabranch.testing import FlowTester

TIMEOUT_S = 3.0
LONG_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as made:
        yield made


@pytest.fixture(
    params=["local", "threads", pytest.param("dask", marks=pytest.mark.cluster)],
)
def executor(request: pytest.FixtureRequest) -> Any:
    if request.param == "local":
        return LocalExecutor()
    if request.param == "threads":
        return LocalDaskExecutor(num_workers=2)
    cluster = request.getfixturevalue("cluster")
    with Client(cluster, set_as_default=False) as client:  # threads that could not be stopped have their slots still
        while any(client.run(lambda dask_worker: len(dask_worker.active_threads)).values()):
            time.sleep(0.1)
    return DaskExecutor(cluster.scheduler_address)


@task
def note(value: object = None, after: object = None) -> str:
    return "noted"


@task
def nap(folder: str, after: object = None) -> str:
    path = Path(folder, "awake")
    if not path.exists():
        path.touch()
        until = time.monotonic() + 9
        while time.monotonic() < until:  # in steps, so that no thread is left behind for long
            time.sleep(0.05)
    return "slept"


@task
async def wait(folder: str, after: object = None) -> None:
    await asyncio.sleep(LONG_S)


@task(isolation="process")
def child(folder: str, after: object = None) -> None:
    process = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LONG_S})"])
    Path(folder, "pid").write_text(str(process.pid))
    process.wait()


@task(max_retries=3, retry_delay=LONG_S)
def refuse(folder: str, after: object = None) -> None:
    raise OSError("the server is away")


@task(timeout=LONG_S)
def bounded(folder: str, after: object = None) -> None:
    nap.run(folder)


@pytest.mark.parametrize("slow", [nap, wait, child, refuse, bounded], ids=lambda each: each.name)
def test_a_run_that_takes_too_long_ends_as_timed_out_and_names_what_ran(executor: Any, slow: Any, tmp_path: Path):
    told: list[str] = []
    with Flow("late", timeout=TIMEOUT_S, on_failure=lambda flow, state: told.append(state.name)) as flow:
        first = note()
        late = slow(Parameter("folder"), after=first)
        last = note(late)
    began = time.monotonic()

    view = flow.run(executor=executor, folder=str(tmp_path))

    assert time.monotonic() - began < LONG_S / 2  # what is not ended takes for ever
    assert (view.state.name, view.state.is_failed(), told) == ("TimedOut", True, ["TimedOut"])
    at_work = "" if slow is refuse else f"; at work: '{slow.name}'"
    assert view.state.message == f"the run took longer than its timeout of {TIMEOUT_S:g} s{at_work}"
    states = [view.result[node].state.name for node in (first, late, last)]
    assert states == ["Success", "Cancelled", "Cancelled"]
    with open_store() as store:
        assert store.get_run(view.run_id).state == "TimedOut"
    if slow is child:
        psutil.wait_procs([psutil.Process(int((tmp_path / "pid").read_text()))] if _is_left(tmp_path) else [], 10)
        assert not _is_left(tmp_path)


def _is_left(folder: Path) -> bool:
    return psutil.pid_exists(int((folder / "pid").read_text()))


def test_a_run_that_took_too_long_goes_on_when_it_is_resumed_with_all_its_time(executor: Any, tmp_path: Path):
    with Flow("late", timeout=timedelta(seconds=TIMEOUT_S)) as flow:
        first = note()
        late = nap(Parameter("folder"), after=first)
    run_id = flow.run(executor=executor, folder=str(tmp_path)).run_id
    flow.timeout = LONG_S

    view = flow.run(executor=executor, resume=run_id)

    assert (view.state.name, view.result[late].result) == ("Success", "slept")


def test_what_is_in_time_succeeds(executor: Any):
    with Flow("quick", timeout=LONG_S) as flow:
        node = note()
    assert flow.run(executor=executor).result[node].result == "noted"


def test_a_map_that_takes_too_long_keeps_the_elements_that_ended(executor: Any, tmp_path: Path):
    @task(chunksize=1)
    def each(folder: str, number: int) -> int:
        if number:
            nap.run(folder)
        return number

    with Flow("late", timeout=TIMEOUT_S) as flow:
        node = each.map([str(tmp_path)] * 2, [0, 1])
    (tmp_path / "awake").unlink(missing_ok=True)
    view = flow.run(executor=executor)
    assert view.state.name == "TimedOut"
    assert view.result[node].map_states[0].state.name == "Success"


def test_in_another_thread_a_run_ends_with_its_task(tmp_path: Path):
    with Flow("late", timeout=0.2) as flow:
        nap(str(tmp_path))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(flow.run()))
    thread.start()
    thread.join(LONG_S)
    assert [view.state.name for view in found] == ["TimedOut"]


def test_a_flow_in_a_flow_ends_by_the_time_of_either(tmp_path: Path):
    with Flow("inner", timeout=0.2) as inner:
        nap(Parameter("folder"))
    with Flow("outer") as outer:
        node = inner.as_task()(folder=str(tmp_path))
    view = outer.run()
    assert view.state.name == "Failed"
    assert "took longer than its timeout of 0.2 s" in view.result[node].state.message

    (tmp_path / "awake").unlink()
    inner.timeout, outer.timeout = None, 0.2
    view = outer.run()
    assert (view.state.name, view.result[node].state.name) == ("TimedOut", "Cancelled")


def test_time_passes_on_the_clock_of_a_test():
    with Flow("late", timeout=timedelta(hours=1)) as flow:
        refuse("here", task_args={"retry_delay": 7200})
    view = FlowTester().run(flow)
    assert view.state.name == "TimedOut"
    assert view.state.message == "the run took longer than its timeout of 3600 s"


def test_a_twin_has_the_timeout_and_a_pickle_of_an_older_version_has_none():
    flow = Flow("late", timeout=timedelta(minutes=1))
    assert (flow.timeout, flow.copy().timeout) == (60.0, 60.0)
    older = Flow("older")
    del vars(older)["timeout"]
    assert older.timeout is None


def test_the_command_line_ends_with_the_code_for_what_timed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "late.py").write_text(
        "import time\nfrom anabranch import Flow, task\n"
        "@task\ndef nap():\n    time.sleep(60)\n"
        "with Flow('late', timeout=0.3) as flow:\n    nap()\n"
    )
    command = [sys.executable, "-m", "anabranch", "run", "late.py"]
    environment = {"ANABRANCH__BACKEND": config.backend}
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done.stderr
    assert re.search("TimedOut.*the run took longer than its timeout of 0.3 s; at work: 'nap'", done.stderr)
