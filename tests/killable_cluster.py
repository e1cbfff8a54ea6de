"""A Dask cluster of real processes on loopback, each part of which can be killed, stopped and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

# Nothing may outlive the process that started it, however that ends.
_WATCH = """
import os, threading, time
def _watch(parent=os.getppid()):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
threading.Thread(target=_watch, daemon=True).start()
"""


class KillableCluster:
    """A scheduler, and workers below nannies.

    Parameters
    ----------
    folder
        For the logs.
    workers, threads
        How many workers, and threads of each.
    options
        Further options of ``dask worker``.
    config
        Of Dask, for all of its processes: ``{"distributed.scheduler.worker-ttl": "10s"}``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        threads: int = 1,
        options: tuple[str, ...] = (),
        config: dict[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.port = _free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._threads = threads
        self._options = options
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("COV")},
            **{_variable(name): str(value) for name, value in (config or {}).items()},
        }
        self._watch = folder / "watch_parent.py"
        self._watch.write_text(_WATCH, encoding="ascii")
        self._log = folder / "cluster.log"
        self.nannies: list[subprocess.Popen[bytes]] = []
        self.start_scheduler()
        for _ in range(workers):
            self.add_worker()
        if workers:
            self.wait_for_workers(workers)

    def start_scheduler(self) -> None:
        """Start one on the port; it returns when the port answers."""
        self.scheduler = self._start(
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--no-dashboard",
            "--preload",
            str(self._watch),
        )
        _wait_until(lambda: _answers(self.port), "the scheduler answers")

    def kill_scheduler(self) -> None:
        """End it as the kernel would for want of memory."""
        self.scheduler.kill()
        self.scheduler.wait()

    def add_worker(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a worker below its nanny, with further options, and do not wait for it."""
        fixed = ["--nthreads", str(self._threads), "--no-dashboard", "--host", "127.0.0.1"]
        nanny = self._start(
            "worker", self.address, *fixed, *self._options, *options, "--preload-nanny", str(self._watch)
        )
        self.nannies.append(nanny)
        return nanny

    def replace_lost_nannies(self) -> None:
        """What a service manager does: a worker that dies while it starts takes its nanny along."""
        for nanny in list(self.nannies):
            if nanny.poll() is not None:
                self.nannies.remove(nanny)
                self.add_worker()

    def wait_for_workers(self, number: int) -> None:
        """Wait until the scheduler knows so many."""
        from distributed import Client

        with Client(self.address, set_as_default=False, timeout=30) as client:
            client.wait_for_workers(number, timeout=60)

    def heal(self, number: int) -> None:
        """Replace what is lost until the scheduler knows so many workers."""
        from distributed import Client

        with Client(self.address, set_as_default=False, timeout=30) as client:

            def is_whole() -> bool:
                self.replace_lost_nannies()
                return len(client.scheduler_info(n_workers=-1)["workers"]) >= number

            _wait_until(is_whole, f"there are {number} workers")

    def worker_pids(self) -> list[int]:
        """Of the worker processes that are alive, in the order of their nannies."""
        found = []
        for nanny in self.nannies:
            with contextlib.suppress(psutil.Error):
                found += [each.pid for each in psutil.Process(nanny.pid).children() if _is_worker(each)]
        return found

    def close(self) -> None:
        """End all of it, at once: nobody needs an orderly end."""
        everything = [self.scheduler, *self.nannies]
        trees = []
        for process in everything:
            with contextlib.suppress(psutil.Error):
                trees += psutil.Process(process.pid).children(recursive=True)
        for process in everything:
            process.kill()
            process.wait()
        for each in trees:
            with contextlib.suppress(psutil.Error):
                each.kill()
        psutil.wait_procs(trees, timeout=10)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                cwd=self.folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the driver
            )


@contextlib.contextmanager
def killable_cluster(folder: Path, **options: Any) -> Iterator[KillableCluster]:
    """A cluster until the block ends."""
    cluster = KillableCluster(folder, **options)
    try:
        yield cluster
    finally:
        cluster.close()


class Proxy:
    """Passes bytes to a port on loopback; cut, it holds them back in both directions, and lets nobody in."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on nothing passes."""
        self._open.clear()

    def mend(self) -> None:
        """What was held back passes."""
        self._open.set()

    def reset(self) -> None:
        """Break the connections that there are, as a router does that has forgotten them."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._sockets.clear()

    def close(self) -> None:
        """Stop, and break what there is."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.mend()
        self.reset()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                self._open.wait()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._sockets += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._open.wait()
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def left_behind(address: str) -> list[str]:
    """What a scheduler has of runs: keys, plug-ins of ours, and topics that are not Dask's own."""
    from distributed import Client

    def look(dask_scheduler: Any) -> list[str]:
        topics = [topic for topic in dask_scheduler._broker._topics if topic.endswith("-control")]
        runs = {topic.removesuffix("-control") for topic in topics}
        topics += [topic for topic in dask_scheduler._broker._topics if topic in runs]
        plugins = [name for name in dask_scheduler.plugins if name.startswith("anabranch")]
        return [*map(str, dask_scheduler.tasks), *plugins, *topics]

    with Client(address, set_as_default=False) as client:
        found: list[str] = client.run_on_scheduler(look)
        return found


def kill(pid: int) -> None:
    """Kill a process that may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _is_worker(process: psutil.Process) -> bool:
    # A nanny has another child, which looks after the semaphores of multiprocessing.
    return "spawn_main" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE


def kill_and_wait(pid: int) -> None:
    """Kill a process, and wait until it has ended."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        process.kill()
        process.wait(10)


def _variable(name: str) -> str:
    return "DASK_" + name.upper().replace(".", "__").replace("-", "_")


def _free_port() -> int:
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _wait_until(claim: Any, what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s until {what}")
        time.sleep(0.02)
