"""A flow of three maps whose driver is killed again and again, and gone on with by other processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from anabranch.base.states import FIRST_FINAL_CODE
from anabranch.runs.record.reports import codes_of
from anabranch.runs.store.sqlite import SQLiteRunStore

MAPS = ("double", "add", "square")
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
    return list(range(int(os.environ["WIDTH"])))

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


@dataclass(frozen=True)
class Seen:
    """What there was to see of a run whose driver was killed."""

    kills: int
    again: Counter[str]
    """Task runs that ran although they were recorded as finished, and how often."""
    output: str
    complaints: list[str]
    """What the run store found wrong with itself, after each kill."""


class KilledDriver:
    """A run of the flow, in a folder that has its ledger and its run store.

    Parameters
    ----------
    folder
        An empty one.
    executor
        ``local`` or ``dask``.
    width
        Elements of each map.
    """

    def __init__(self, folder: Path, *, executor: str = "local", width: int = 500) -> None:
        self.folder = folder
        self.executor = executor
        self.width = width
        self.environment = {
            **os.environ,
            "ANABRANCH_HOME": str(folder),
            "LEDGER": str(folder / "ledger"),
            "STOP_AT": "0",
            "DELAY_S": "0",
            "WIDTH": str(width),
        }
        (folder / "killed.py").write_text(PROGRAM, encoding="ascii")

    @property
    def total(self) -> int:
        """What the run comes to."""
        return sum((2 * x + 1) ** 2 for x in range(self.width))

    @property
    def elements(self) -> set[str]:
        """Names of all elements of all maps."""
        return {f"{slug}[{x}]" for slug in MAPS for x in range(self.width)}

    def start(self, *words: str, lines: int = 0, delay_s: float = 0.0) -> subprocess.Popen[str]:
        """A driver; it is killed some time after so many more task runs have begun, if that is given."""
        path = self.folder / "ledger"
        size = path.stat().st_size if path.exists() else 0
        env = {
            **self.environment,
            "STOP_AT": str(size + lines * MEAN_NBYTES if lines else 0),
            "DELAY_S": str(delay_s),
        }
        command = [sys.executable, "killed.py", self.executor, "run-1", *words]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.folder, env=env, text=True, **streams)

    def ledger(self) -> list[str]:
        """Task runs that were begun, in order."""
        path = self.folder / "ledger"
        return path.read_text().splitlines() if path.exists() else []

    def be_killed(self, times: int, seed: int) -> Seen:
        """Kill the driver at random moments, and each time let another one go on; the last one comes to the end."""
        draw = random.Random(seed)
        recorded: set[str] = set()
        kills, again, complaints = 0, Counter[str](), []
        for _ in range(times):
            begun = len(self.ledger())
            words = ["resume"] if self._is_known() else []
            lines = draw.randrange(1, max(2, 4 * self.width // times))
            kills += was_killed(self.start(*words, lines=lines, delay_s=draw.uniform(0, 0.001)))
            again.update(name for name in self.ledger()[begun:] if name in recorded)
            with SQLiteRunStore(self.folder / "runs.db") as store:
                complaints += store.check()
                recorded = self._finished(store) if self._is_known() else set()
        last = self.start("resume")
        output, errors = last.communicate(timeout=300)
        assert last.returncode == 0, errors
        return Seen(kills, again, output.strip(), complaints)

    def _is_known(self) -> bool:
        if not (self.folder / "runs.db").exists():
            return False
        with SQLiteRunStore(self.folder / "runs.db") as store:
            return any(record.run_id == "run-1" for record in store.list_runs())

    def _finished(self, store: SQLiteRunStore) -> set[str]:
        """Task runs that are recorded as finished."""
        rows = store.task_runs("run-1")
        found = {row.slug for row in rows if row.code >= FIRST_FINAL_CODE and row.width is None}
        for slug in MAPS:
            codes = codes_of(store.chunks("run-1", slug))
            found |= {f"{slug}[{index}]" for index, code in enumerate(codes) if code >= FIRST_FINAL_CODE}
        return found


def was_killed(process: subprocess.Popen[str]) -> bool:
    """Whether a driver was killed, once it is gone."""
    process.communicate(timeout=300)
    return process.returncode == -signal.SIGKILL
