"""Runs whose driver is killed, and gone on with by another process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from anabranch.report_rows import codes_of
from anabranch.runs.sqlite import SQLiteRunStore
from anabranch.states import FIRST_FINAL_CODE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has other signals")

WIDTH = 500
MEAN_NBYTES = 11  # of a line in the ledger
PROGRAM = '''
import os, signal, sys, threading
from anabranch import Flow, config, task
from anabranch.executors import DaskExecutor, LocalExecutor

LEDGER, STOP_AT, DELAY_S = os.environ["LEDGER"], int(os.environ["STOP_AT"]), float(os.environ["DELAY_S"])
stopping = []


def note(name):
    """One write is one line, whoever else writes. A while after so many bytes, the driver is killed."""
    ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{name}\\n".encode())
    size = os.fstat(ledger).st_size
    os.close(ledger)
    if STOP_AT and size >= STOP_AT and not stopping:
        stopping.append(threading.Timer(DELAY_S, os.kill, [int(os.environ["DRIVER"]), signal.SIGKILL]))
        stopping[0].start()


@task
def numbers():
    note("numbers")
    return list(range(%WIDTH%))

@task(chunksize=20)
def double(x):
    note(f"double[{x}]")
    return 2 * x

@task(chunksize=25)
def add(x):
    note(f"add[{x // 2}]")
    return x + 1

@task
def spread(xs):
    note("spread")
    return xs

@task(chunksize=20)
def square(x):
    note(f"square[{(x - 1) // 2}]")
    return x * x

@task
def total(xs):
    note("total")
    return sum(xs)

with Flow("killed") as flow:
    total(square.map(spread(add.map(double.map(numbers())))))

if __name__ == "__main__":
    os.environ["DRIVER"] = str(os.getpid())
    kind, run_id = sys.argv[1:3]
    resume = {"resume": run_id} if sys.argv[3:] else {"run_id": run_id}
    kwargs = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    executor = DaskExecutor(cluster_kwargs=kwargs) if kind == "dask" else LocalExecutor()
    with config.set(progress="never"):
        state = flow.run(executor=executor, **resume)
    print(state.state.name, state["total"].result if state else state.state.message)
'''


def start(tmp_path: Path, kind: str, *words: str, lines: int = 0, delay_s: float = 0.0) -> subprocess.Popen[str]:
    """A driver; it is killed some time after it has begun so many task runs, if that is given."""
    (tmp_path / "killed.py").write_text(PROGRAM.replace("%WIDTH%", str(WIDTH)))
    path = tmp_path / "ledger"
    size = path.stat().st_size if path.exists() else 0
    env = {
        **environment(tmp_path),
        "STOP_AT": str(size + lines * MEAN_NBYTES if lines else 0),
        "DELAY_S": str(delay_s),
    }
    command = [sys.executable, "killed.py", kind, "run-1", *words]
    return subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of the program and of the command line."""
    return {
        **os.environ,
        "ANABRANCH_HOME": str(tmp_path),
        "LEDGER": str(tmp_path / "ledger"),
        "STOP_AT": "0",
        "DELAY_S": "0",
    }


def ledger(tmp_path: Path) -> list[str]:
    """Task runs that were begun, in order."""
    path = tmp_path / "ledger"
    return path.read_text().splitlines() if path.exists() else []


def finished(store: SQLiteRunStore) -> set[str]:
    """Task runs that are recorded as finished."""
    rows = store.task_runs("run-1")
    found = {row.slug for row in rows if row.code >= FIRST_FINAL_CODE and row.width is None}
    for slug in ("double", "add", "square"):
        codes = codes_of(store.chunks("run-1", slug))
        found |= {f"{slug}[{index}]" for index, code in enumerate(codes) if code >= FIRST_FINAL_CODE}
    return found


def was_killed(process: subprocess.Popen[str]) -> bool:
    """Whether a driver was killed, once it is gone."""
    process.communicate(timeout=100)
    return process.returncode == -signal.SIGKILL


def be_killed_often(tmp_path: Path, kind: str, times: int, seed: int) -> dict[str, Any]:
    """Kill the driver of a run at random moments, and each time let another one go on; what was seen."""
    draw = random.Random(seed)
    recorded: set[str] = set()
    kills, again = 0, Counter[str]()
    for turn in range(times):
        begun = len(ledger(tmp_path))
        words = ["resume"] if turn and _is_known(tmp_path) else []
        lines = draw.randrange(1, 2 * WIDTH // times)
        kills += was_killed(start(tmp_path, kind, *words, lines=lines, delay_s=draw.uniform(0, 0.001)))
        again.update(name for name in ledger(tmp_path)[begun:] if name in recorded)
        with SQLiteRunStore(tmp_path / "runs.db") as store:
            assert store.check() == []
            recorded = finished(store) if _is_known(tmp_path) else set()
    last = start(tmp_path, kind, "resume")
    output, errors = last.communicate(timeout=100)
    assert last.returncode == 0, errors
    return {"kills": kills, "again": again, "output": output.strip(), "errors": errors}


def _is_known(tmp_path: Path) -> bool:
    with SQLiteRunStore(tmp_path / "runs.db") as store:
        return any(record.run_id == "run-1" for record in store.list_runs())


def test_a_driver_that_is_killed_fifteen_times_in_a_row_loses_nothing_and_repeats_nothing(tmp_path: Path):
    seen = be_killed_often(tmp_path, "local", times=15, seed=1)
    assert seen["kills"] >= 10
    assert seen["output"] == f"Success {sum((2 * x + 1) ** 2 for x in range(WIDTH))}"
    assert not seen["again"]
    counts = Counter(ledger(tmp_path))
    assert {f"{slug}[{x}]" for slug in ("double", "add", "square") for x in range(WIDTH)} <= set(counts)


@pytest.mark.cluster
def test_a_driver_with_a_cluster_that_is_killed_in_a_row_loses_nothing_and_repeats_nothing(tmp_path: Path):
    seen = be_killed_often(tmp_path, "dask", times=4, seed=2)
    assert seen["kills"] >= 2
    assert seen["output"] == f"Success {sum((2 * x + 1) ** 2 for x in range(WIDTH))}"
    assert not seen["again"]


def test_of_two_that_resume_a_run_at_once_one_wins_and_the_other_is_told(tmp_path: Path):
    assert was_killed(start(tmp_path, "local", lines=300))
    both = [start(tmp_path, "local", "resume") for _ in range(2)]
    ends = [each.communicate(timeout=100) for each in both]
    told = [errors for (_, errors), each in zip(ends, both, strict=True) if each.returncode]
    won = [output for (output, _), each in zip(ends, both, strict=True) if not each.returncode]
    assert won
    assert all(output.startswith("Success") for output in won)
    assert all("is held by" in errors for errors in told)
    counts = Counter(name for name in ledger(tmp_path) if name == "total")
    assert counts == {"total": 1}


def test_an_interrupted_run_shows_as_such_and_is_resumed_from_the_command_line(tmp_path: Path):
    assert was_killed(start(tmp_path, "local", lines=300))
    env = environment(tmp_path)

    def anabranch(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "anabranch", *words]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)

    (listed,) = json.loads(anabranch("ls", "--json").stdout)
    assert (listed["run_id"], listed["state"]) == ("run-1", "Interrupted")
    resumed = anabranch("resume", "run-1", "killed.py")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip() == f"total = {sum((2 * x + 1) ** 2 for x in range(WIDTH))}"
    assert Counter(ledger(tmp_path)).most_common(1)[0][1] <= 2
