"""Tasks with ``isolation="process"`` in flows: what they do to their process is their own state, and nobody else's."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.contracts.misbehaviour import RAISES, RETURNS

from anabranch import LOOP, RETRY, SKIP, Flow, config, context, task, triggers
from anabranch.engine.isolation import calling, pool
from anabranch.errors import OptionError
from anabranch.executors import DaskExecutor, LocalDaskExecutor, LocalExecutor

HANGS_S = 600


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[psutil.Process]]]:
    """Each test leaves no process; gives a function that finds those of the test."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("ANABRANCH_TEST_MARK", mark)

    def found() -> list[psutil.Process]:
        ours = []
        for each in psutil.process_iter():
            try:
                variables = each.environ()
                if variables.get("ANABRANCH_TEST_MARK") == mark and pool.MARK in variables:
                    ours.append(each)
            except (psutil.Error, OSError):
                continue
        return ours

    yield found
    calling._POOL.close()
    assert not left_of(found())


def left_of(those: list[psutil.Process], timeout_s: float = 10) -> list[psutil.Process]:
    """Processes that do not end in time; one whose parent does not care that it has ended has ended."""
    end, left = time.monotonic() + timeout_s, []
    for each in those:
        try:
            descriptor = os.pidfd_open(each.pid)
        except ProcessLookupError:
            continue
        if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
            left.append(each)
        os.close(descriptor)
    return left


def cluster(workers: int = 1) -> DaskExecutor:
    return DaskExecutor(cluster_kwargs={"n_workers": workers, "threads_per_worker": 2})


EXECUTORS = [
    pytest.param(LocalExecutor, id="local"),
    pytest.param(lambda: LocalDaskExecutor(num_workers=2), id="threads"),
    pytest.param(cluster, id="dask", marks=pytest.mark.cluster),
]


def parse(x: int) -> int:
    """Does something else for a few elements."""
    match x:
        case 2:
            subprocess.Popen(["sleep", str(HANGS_S)], start_new_session=True)
            time.sleep(HANGS_S)
        case 3:
            os._exit(3)
        case 4:
            raise ValueError("four")
        case 5:
            raise SKIP("five")
        case 6:
            os.kill(os.getpid(), signal.SIGKILL)
    return 10 * x


@pytest.mark.parametrize("make", EXECUTORS)
def test_elements_that_hang_or_die_are_the_only_ones_that_fail(make: Callable[[], Any]):
    @task(trigger=triggers.all_finished, skip_on_upstream_skip=False)
    def count(values: list[Any]) -> int:
        return len(values)

    with Flow("etl") as flow:
        elements = task(isolation="process", timeout=1.0)(parse).map(list(range(9)))
        total = count(elements)

    view = flow.run(executor=make())

    states = [each.state for each in view[elements].map_states]
    assert [state.name for state in states] == [
        "Success", "Success", "TimedOut", "Crashed", "Failed", "Skipped", "Crashed", "Success", "Success",
    ]  # fmt: skip
    assert [each.result for each in view[elements].map_states if each.state.name == "Success"] == [0, 10, 70, 80]
    assert states[2].message == "TaskTimeout: ran longer than its timeout of 1 s; its process was killed"
    assert states[3].message == "ProcessDied: its process ended with exit code 3"
    assert "killed by SIGKILL" in states[6].message
    assert states[4].failure is not None
    assert 'raise ValueError("four")' in states[4].failure.traceback
    assert states[4].failure.line.endswith("in parse")
    assert view[total].result == 9


@pytest.mark.parametrize("make", EXECUTORS)
def test_what_is_printed_in_the_process_arrives_at_the_driver(
    make: Callable[[], Any], capsys: pytest.CaptureFixture[str]
):
    @task(isolation="process")
    def talk(x: int) -> int:
        print(f"element {context.map_index}: {x}")
        return x

    with Flow("talks") as flow:
        talk.map([5, 6, 7])

    flow.run(executor=make())

    lines = capsys.readouterr().out.splitlines()
    assert sorted(line for line in lines if line.startswith("element")) == [
        "element 0: 5",
        "element 1: 6",
        "element 2: 7",
    ]


def test_an_attempt_that_died_is_repeated_as_often_as_others():
    @task(isolation="process", max_retries=2)
    def third() -> int:
        if context.task_run_count == 1:
            os._exit(1)
        if context.task_run_count == 2:
            raise OSError("again")
        return context.task_run_count

    @task(isolation="process", max_retries=1)
    def never() -> None:
        os._exit(1)

    with Flow("retries") as flow:
        good, bad = third(), never()

    view = flow.run()

    assert view[good].result == 3
    assert (view[bad].state.name, view[bad].state.attempt) == ("Crashed", 2)


class Refused(Exception):
    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port}")


def test_retry_on_sees_the_class_that_was_raised():
    @task(isolation="process", max_retries=3, retry_on=Refused)
    def connect() -> int:
        if context.task_run_count == 1:
            raise Refused("localhost", 1)
        raise KeyError("no more")

    with Flow("classes") as flow:
        node = connect()

    state = flow.run()[node].state

    assert (state.failure.type_name, state.attempt) == ("KeyError", 2)


def test_signals_do_what_they_do_elsewhere():
    @task(isolation="process")
    def loops() -> int:
        if context.task_loop_count < 4:
            raise LOOP(result=(context.task_loop_result or 0) + 10)
        return context.task_loop_result + context.task_loop_count

    @task(isolation="process")
    def retries() -> int:
        if context.task_run_count == 1:
            raise RETRY("once more")
        return context.task_run_count

    with Flow("signals") as flow:
        looped, retried = loops(), retries()

    view = flow.run()

    assert (view[looped].result, view[retried].result) == (34, 2)


def test_a_memory_limit_ends_the_attempt_as_crashed():
    @task(isolation="process", memory_limit="200 MB")
    def hog() -> None:
        held = b"x" * 400_000_000
        time.sleep(HANGS_S)
        print(len(held))

    with Flow("hog") as flow:
        node = hog()

    state = flow.run()[node].state

    assert state.name == "Crashed"
    assert "more than memory_limit 191 MiB" in state.message


@pytest.mark.parametrize("name", [name for name in RAISES if "KeyboardInterrupt" not in name])
def test_whatever_a_task_raises_is_told_as_from_a_thread(name: str):
    act, type_name, text = RAISES[name]
    with Flow("raises") as flow:
        bad = task(act, name="bad", isolation="process")()

    state = flow.run()[bad].state

    assert state.failure is not None
    assert state.failure.type_name.rpartition(".")[2] == type_name
    assert text in state.failure.message
    assert "misbehaviour.py" in state.failure.traceback
    assert len(state.failure.traceback) < 50_000


@pytest.mark.parametrize("name", RETURNS)
def test_whatever_a_task_returns_is_judged_as_from_a_thread(name: str):
    act, type_name, text = RETURNS[name]
    with Flow("returns") as flow:
        bad = task(act, name="bad", isolation="process")()

    state = flow.run()[bad].state

    assert state.failure is not None
    assert state.failure.type_name == type_name
    assert text in state.failure.message


def test_ctrl_c_kills_the_process_and_cancels_the_run(nothing_is_left: Any):
    @task(isolation="process")
    def hang() -> None:
        print("begun")
        time.sleep(HANGS_S)

    class Interrupts:
        """Stands for the user's hand, who sees the print."""

        def write(self, text: str) -> None:
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()

        def flush(self) -> None: ...

    with Flow("interrupted") as flow:
        node = hang()
    before, sys.stdout = sys.stdout, Interrupts()  # type: ignore[assignment]
    try:
        view = flow.run()
    finally:
        sys.stdout = before

    assert view.was_interrupted
    assert view[node].state.name == "Cancelled"
    assert not left_of(nothing_is_left())


SCRIPT = """
import os, sys
from anabranch import Flow, context, task
from anabranch.executors import DaskExecutor, LocalExecutor

class Point:
    def __init__(self, x):
        self.x = x

class Wrong(Exception):
    pass

def shifted(point):
    return Point(point.x + 1)

@task(isolation="process", max_retries=1, retry_on=Wrong)
def move(point):
    if context.task_run_count == 1:
        raise Wrong("not yet")
    return shifted(point)

with Flow("script") as flow:
    moved = move(Point(1))

if __name__ == "__main__":
    executor = DaskExecutor(cluster_kwargs={"n_workers": 1}) if sys.argv[1:] else LocalExecutor()
    view = flow.run(executor=executor)
    print(view.state.name, view[moved].result.x, isinstance(view[moved].result, Point))
"""


@pytest.mark.parametrize("arguments", [[], pytest.param(["dask"], marks=pytest.mark.cluster)], ids=["local", "dask"])
def test_code_of_a_script_runs_in_the_process_and_its_classes_stay_themselves(arguments: list[str], tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    ran = subprocess.run(
        [sys.executable, "-W", "error", script, *arguments], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )

    assert ran.stdout == "Success 2 True\n", ran.stderr
    assert ran.stderr == ""


@pytest.mark.cluster
def test_a_worker_that_is_killed_takes_its_processes_along(tmp_path: Path, nothing_is_left: Any):
    from distributed import LocalCluster

    begun = tmp_path / "begun"
    os.mkfifo(begun)

    @task(isolation="process")
    def hang(path: str) -> None:
        subprocess.Popen(["sleep", str(HANGS_S)], start_new_session=True)
        with open(path, "w") as pipe:
            pipe.write(str(os.getpid()))
        time.sleep(HANGS_S)

    with Flow("killed") as flow:
        hang(str(begun))
    views = []
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", processes=True) as made:
        run = lambda: views.append(flow.run(executor=DaskExecutor(made.scheduler_address)))  # noqa: E731
        running = threading.Thread(target=run, daemon=True)
        running.start()
        with os.fdopen(os.open(begun, os.O_RDONLY | os.O_NONBLOCK)) as pipe:
            assert select.select([pipe], [], [], 20)[0], views
            child = psutil.Process(int(pipe.read()))
        tree = [child, *child.children(recursive=True)]
        made.scale(0)  # its nanny does not start it again
        worker = child.parent()
        assert worker is not None
        worker.kill()

        assert len(tree) >= 2
        assert not left_of(tree)
    with config.set(engine__reconnect_timeout_s=0.5):  # the run notices within a second that the cluster is gone
        running.join(30)
    assert not running.is_alive()


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isolation": "container"}, "expected 'thread' or 'process', found 'container'"),
        ({"memory_limit": "500 MB"}, "memory_limit needs isolation='process'"),
        ({"memory_limit": "much", "isolation": "process"}, "expected bytes, or a text such as '500 MB', found 'much'"),
        ({"memory_limit": 1.5, "isolation": "process"}, "expected bytes, or a text such as '500 MB', found 1.5"),
        ({"memory_limit": 500, "isolation": "process"}, "expected at least 64,000,000 bytes"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(OptionError, match=message):
        task(**options)(parse)


def test_a_memory_limit_may_be_a_text():
    limited = task(isolation="process", memory_limit="1.5 GiB")(parse)

    assert limited.memory_limit == 3 * 2**29
    assert not limited._anabranch.policies.is_plain
