"""Stored values and caches with real processes: workers and drivers that die, and runs side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.bare_cluster import bare_cluster, make_environment
from tests.contracts.test_stored_runs import LARGE, Ledger

from anabranch import Flow, task
from anabranch.errors import PreflightError
from anabranch.executors import DaskExecutor
from anabranch.results import InMemoryResult, LocalResult, Result

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has other signals")


def one_worker() -> DaskExecutor:
    return DaskExecutor(cluster_kwargs={"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"})


@pytest.mark.cluster
def test_a_value_that_is_lost_with_its_worker_is_read_back_and_not_computed_again(tmp_path: Path):
    ledger, flag = Ledger(tmp_path / "ledger"), tmp_path / "died"

    def die_once(*args: Any) -> None:
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def large(x: int = 7) -> bytes:
        ledger.note(f"large{x}")
        return bytes([x]) * LARGE

    with Flow("etl", result=LocalResult(tmp_path / "results")) as flow:
        one = task(large)()
        many = task(large, name="many", chunksize=2).map([1, 2, 3, 4])
        died = task(die_once, checkpoint=False)(upstream_tasks=[one, many])
        total = task(lambda one, many, died: len(one) + sum(map(len, many)), name="total")(one, many, died)
    view = flow.run(executor=one_worker())

    assert view.is_successful(), view.state
    assert view.result[total].result == 5 * LARGE
    assert Counter(ledger.names()) == Counter(["large7", "large1", "large2", "large3", "large4"])
    # The cluster is gone by now.
    assert view.result[one].result == bytes([7]) * LARGE
    assert view.result[many].map_states[2].result == bytes([3]) * LARGE


@pytest.mark.cluster
def test_results_in_memory_are_refused_where_tasks_run_in_other_processes():
    with Flow("etl", result=InMemoryResult()) as flow:
        task(lambda: 1, name="one")()
    with pytest.raises(PreflightError, match="results in memory are those of one process"):
        flow.run(executor=one_worker())


def test_values_of_processes_that_can_be_killed_are_stored_as_well(tmp_path: Path):
    result = LocalResult(tmp_path)
    with Flow("etl", result=result) as flow:
        one = task(lambda: os.getpid(), name="one", isolation="process")()
        many = task(lambda x: x + 1, name="many", isolation="process").map([1, 2])
    view = flow.run()
    assert view.is_successful(), view.state
    assert result.read(view.result[one].ref) != os.getpid()
    assert [result.read_elements(state.ref, [i]) for i, state in enumerate(view.result[many].map_states)] == [
        {0: 2},
        {1: 3},
    ]


# Drivers --------------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, time
from anabranch import Flow, config, task
from anabranch.executors import LocalDaskExecutor
from anabranch.results import LocalResult

ROOT = os.environ["ROOT"]


def note(name):
    ledger = os.open(f"{ROOT}/ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{name}\\n".encode())
    size = os.fstat(ledger).st_size
    os.close(ledger)
    return size

"""


def program(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM + textwrap.dedent(body))
    return path


def start(path: Path, tmp_path: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(path), *arguments],
        env={**os.environ, "ROOT": str(tmp_path), "ANABRANCH_HOME": str(tmp_path / "home"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output + errors


def names_of(tmp_path: Path) -> Counter[str]:
    return Counter((tmp_path / "ledger").read_text().split())


def test_two_processes_that_want_one_key_at_once_compute_it_once(tmp_path: Path):
    path = program(
        tmp_path,
        """
        def slow(x):
            note("slow")
            while not os.path.exists(f"{ROOT}/both"):
                time.sleep(0.01)
            return x

        with Flow(sys.argv[1], result=LocalResult(f"{ROOT}/results")) as flow:
            task(slow, cache_for=600)(5)
            task(lambda x: x, name="each", cache_for=600).map([1, 2, 3])
        open(f"{ROOT}/{sys.argv[1]}", "w").close()
        view = flow.run()
        print(view.state.name, view.result["slow"].result)
        """,
    )
    processes = [start(path, tmp_path, name) for name in ("first", "second")]
    try:
        while not all((tmp_path / name).exists() for name in ("first", "second", "ledger")):
            assert all(process.poll() is None for process in processes), processes[0].communicate()
        (tmp_path / "both").touch()
        for process in processes:
            code, text = ended(process)
            assert (code, text.split()[:2]) == (0, ["Success", "5"]), text
    finally:
        for process in processes:
            process.kill()
    assert names_of(tmp_path) == Counter(["slow"])


def test_a_key_of_a_process_that_was_killed_is_free_at_once(tmp_path: Path):
    path = program(
        tmp_path,
        """
        def deadly(x):
            if note("deadly") < 8:
                os.kill(os.getpid(), signal.SIGKILL)
            return x

        with Flow("etl", result=LocalResult(f"{ROOT}/results")) as flow:
            task(deadly, cache_for=600)(5)
        view = flow.run()
        print(view.state.name, view.result["deadly"].result)
        """,
    )
    assert ended(start(path, tmp_path))[0] == -signal.SIGKILL
    assert list((tmp_path / "results").rglob("*claim*"))
    code, text = ended(start(path, tmp_path))
    assert (code, text.split()[:2]) == (0, ["Success", "5"]), text
    assert names_of(tmp_path) == Counter({"deadly": 2})
    assert not list((tmp_path / "results").rglob("*claim*"))


def test_a_driver_that_is_killed_again_and_again_loses_no_stored_value(tmp_path: Path):
    width, chunk, slots, window = 60, 3, 2, 3
    path = program(
        tmp_path,
        f"""
        def large(x):
            if note(f"large{{x}}") > int(os.environ["LIMIT"]):
                os.kill(os.getpid(), signal.SIGKILL)
            return bytes([x]) * {LARGE}

        with Flow("etl", result=LocalResult(f"{{ROOT}}/results")) as flow:
            many = task(large, chunksize={chunk}).map(list(range({width})))
            task(lambda parts: sum(map(len, parts)), name="total")(many)
        known = sys.argv[1:]
        which = {{"resume": known[0]}} if known else {{"run_id": "run1"}}
        view = flow.run(executor=LocalDaskExecutor(num_workers={slots}), **which)
        print(view.state.name, view.result["total"].result)
        """,
    )
    kills = 0
    for limit in (60, 130, 220, 300, 10**6):
        known = ["run1"] if kills else []
        code, text = ended(start(path, tmp_path, *known, LIMIT=str(limit)))
        if code == 0:
            break
        assert code == -signal.SIGKILL, text
        kills += 1

    assert text.split()[:2] == ["Success", str(width * LARGE)], text
    assert kills == 4
    counts = names_of(tmp_path)
    assert len(counts) == width
    # What had not been recorded when the driver died: the chunks that ran, and those whose reports were on their way.
    assert counts.total() - width <= kills * chunk * slots * (window + 1)
    folder = tmp_path / "results" / "etl" / "run1" / "large"
    objects = [file for file in folder.iterdir() if not file.name.startswith(".anabranch-tmp-")]
    assert min(file.stat().st_size for file in objects) > LARGE  # no torn one


@pytest.mark.cluster
def test_a_run_without_a_client_and_a_delayed_flow_store_their_values_as_well(tmp_path: Path):
    from distributed import LocalCluster

    result = LocalResult(tmp_path)
    with Flow("etl", result=result) as flow:
        one = task(lambda: bytes(LARGE), name="one", location="{flow_name}/one")()
        many = task(lambda x: x + 1, name="many", cache_for=60).map([1, 2])
        task(lambda one, many: len(one) + sum(many), name="total")(one, many)
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with (
        LocalCluster(**options) as cluster,
        flow.submit(executor=DaskExecutor(cluster.scheduler_address)) as handle,
    ):
        view = handle.result(timeout=60)
        handle.forget()
    assert view.is_successful(), view.state
    assert view.result["total"].result == LARGE + 5
    assert view.result["one"].result == bytes(LARGE)
    assert view.result["many"].map_states[1].result == 3

    (tmp_path / "etl" / "one").unlink()
    assert flow.to_delayed().compute(scheduler="threads") == {"total": LARGE + 5}
    assert result.read("etl/one") == bytes(LARGE)


# Workers that have nothing but Dask -----------------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning")
def test_workers_that_have_nothing_but_dask_store_values_or_say_what_they_lack(tmp_path: Path):
    python = make_environment(tmp_path / "environment")
    (tmp_path / "cluster").mkdir()

    def run(result: Result) -> Any:
        with Flow("etl", result=result) as flow:
            one = task(lambda: bytes(LARGE), name="one")()
            task(lambda x: x + 1, name="many", cache_for=60).map([1, 2])
            task(len, name="size", checkpoint=False)(one)
        return flow.run(executor=DaskExecutor(cluster.address))

    with bare_cluster(python, tmp_path / "cluster") as cluster:
        local = LocalResult(tmp_path / "results")
        stored = run(local)
        assert stored.is_successful(), stored.state
        assert stored.result["one"].result == bytes(LARGE)
        assert stored.result["many"].result == [2, 3]
        assert run(local).result["many"].map_states[1].is_cached()
        with pytest.raises(PreflightError, match=r"one, many: .* needs the package s3fs, which 2 of 2 workers do not"):
            run(_s3())


def _s3() -> Result:
    from anabranch.results import S3Result

    return S3Result("bucket", key="tester", secret="secret", endpoint_url="http://127.0.0.1:9")
