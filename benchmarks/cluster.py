"""A Dask cluster of real processes on loopback, whose memory can be looked at."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Cluster:
    """A scheduler and its workers, each a process of its own."""

    address: str
    scheduler_pid: int

    def scheduler_nbytes(self) -> int:
        """Resident memory of the scheduler."""
        return psutil.Process(self.scheduler_pid).memory_info().rss


@contextlib.contextmanager
def started(*, workers: int = 2, saturation: str | None = None) -> Iterator[Cluster]:
    """A scheduler and one-thread workers until the block ends; `saturation` is Dask's ``worker-saturation``."""
    with tempfile.TemporaryDirectory(prefix="anabranch-bench-") as folder:
        file = Path(folder, "scheduler.json")
        # Bare Dask's scheduler and workers must be able to import what they are sent.
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        if saturation is not None:
            env["DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION"] = saturation
        where = ["--scheduler-file", str(file)]
        common = {"env": env, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        dask = [sys.executable, "-m", "dask"]
        scheduler = subprocess.Popen(
            [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *where], **common
        )
        children = [scheduler]
        try:
            _wait_for(file)
            address = json.loads(file.read_text())["address"]
            worker = [*dask, "worker", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", *where]
            children += [subprocess.Popen(worker, **common) for _ in range(workers)]
            if workers:
                _wait_for_workers(address, workers)
            yield Cluster(address, scheduler.pid)
        finally:
            for child in reversed(children):
                child.terminate()
            for child in children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(10)
                child.kill()


@contextlib.contextmanager
def simulated(address: str, slots: int, *, threads: int) -> Iterator[list[float]]:
    """Slots that only seem to work, of workers with `threads` each; after the block, seconds that each has worked."""
    busy_s: list[float] = []
    command = [sys.executable, "-m", "benchmarks.simulated", "--slots", str(slots), "--threads", str(threads), address]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as workers:
        try:
            assert workers.stdout is not None
            assert workers.stdout.readline() == b"ready\n"
            yield busy_s
            busy_s += json.loads(workers.communicate(timeout=60)[0])
        finally:
            workers.kill()


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not file.exists() or not file.read_text().strip():
        if time.monotonic() > deadline:
            raise TimeoutError("the scheduler did not start within 30 s")
        time.sleep(0.05)


def _wait_for_workers(address: str, workers: int) -> None:
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=60)
