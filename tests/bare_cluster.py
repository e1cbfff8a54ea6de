"""A Dask cluster that has nothing but Dask: neither this library, nor what only that needs, nor the user's modules."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path


def make_environment(folder: Path, *packages: str) -> Path:
    """A virtual environment with links to dask, distributed, these packages, and what they need; its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    (python,) = folder.glob("bin/python")
    (site,) = folder.glob("lib/python*/site-packages")
    for found in _with_requirements("distributed", *packages):
        for entry in sorted(
            {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
        ):
            link = site / entry
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(entry))))
    return python


def _with_requirements(*names: str) -> list[Distribution]:
    found: dict[str, Distribution] = {}
    todo = [*names]
    while todo:
        each = todo.pop()
        if each in found:
            continue
        with contextlib.suppress(PackageNotFoundError):  # for another Python or system
            found[each] = distribution(each)
            lines = [line for line in found[each].requires or () if "extra ==" not in line]
            todo += [re.split(r"[\s;<>=!~\[(]", line, maxsplit=1)[0].lower() for line in lines]
    return list(found.values())


class BareCluster:
    """A scheduler, and workers with nannies, started with another interpreter in an empty directory."""

    def __init__(self, python: Path, folder: Path, *, dashboard: bool = False) -> None:
        self.python = python
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        pages = ["--dashboard-address", "127.0.0.1:0"] if dashboard else ["--no-dashboard"]
        common = ["--host", "127.0.0.1", "--port", "0", *pages]
        self._start("scheduler", *common, "--scheduler-file", str(self.file))
        _wait_until(lambda: self.file.exists() and bool(self.file.read_text().strip()))
        known = json.loads(self.file.read_text())
        self.address: str = known["address"]
        self.dashboard = f"http://127.0.0.1:{known['services'].get('dashboard', 0)}"

    def add_worker(self, name: str, python: Path | None = None, *options: str) -> None:
        """Start a worker of one thread, and wait until the scheduler knows it."""
        from distributed import Client

        fixed = ["--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--name", name]
        self._start("worker", self.address, *fixed, *options, python=python)
        with Client(self.address, set_as_default=False) as client:
            _wait_until(lambda: name in self._names(client))

    def _names(self, client: object) -> set[object]:
        return {each["name"] for each in client.scheduler_info(n_workers=-1)["workers"].values()}  # type: ignore[attr-defined]

    def _start(self, *arguments: str, python: Path | None = None) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DASK", "COV"))}
        log = open(self.folder / f"{arguments[0]}-{len(self.processes)}.log", "wb")  # noqa: SIM115  # the child's
        command = [str(python or self.python), "-m", "dask", *arguments]
        self.processes.append(
            subprocess.Popen(command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True)
        )
        log.close()

    def close(self) -> None:
        """End all of it: workers first, which would wait for a scheduler that is gone."""
        scheduler, *workers = self.processes
        for group in (workers, [scheduler]):
            for process in group:
                process.terminate()
            for process in group:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)  # with the worker below its nanny
                    process.wait()


@contextlib.contextmanager
def bare_cluster(python: Path, folder: Path, *, workers: int = 2, dashboard: bool = False) -> Iterator[BareCluster]:
    """A cluster until the block ends."""
    cluster = BareCluster(python, folder, dashboard=dashboard)
    try:
        for number in range(workers):
            cluster.add_worker(f"bare-{number}")
        yield cluster
    finally:
        cluster.close()


def _wait_until(claim: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not claim():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError("a Dask process did not start")
        time.sleep(0.05)


if __name__ == "__main__":
    print(make_environment(Path(sys.argv[1])))
