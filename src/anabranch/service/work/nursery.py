"""Where the processes of runs come from: a process that has imported the library once, and forks them.

An import costs half a second, a fork some milliseconds. The nursery has one thread and no connections, so that its
children start clean; it speaks in lines of JSON on its standard streams. Runs for which there is no process yet wait
here for a moment. When the service is gone, it sees to these and ends, and its children go on.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import logging
import os
import selectors
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

from anabranch.base.errors import AnabranchError
from anabranch.base.settings import config
from anabranch.engine.isolation.trees import kill_tree
from anabranch.engine.units.shipment import origin
from anabranch.runs.registry.registration import registry
from anabranch.service.work.messages import (
    AGAIN,
    FAILED,
    LAST,
    RETURNED,
    Exit,
    Job,
    Message,
    Ready,
    Signal,
    from_line,
    to_line,
)
from anabranch.service.work.one_run import kill_own
from anabranch.service.work.series import flush_prints, run_series

LINGER_S = 5.0
"""Seconds that a process waits for a run: longer than a turn of a service, and than flows of every second."""

_NEEDED = (
    "anabranch.runs.resume.takeover",
    "anabranch.engine.driver.handlers",
    "anabranch.engine.driver.static",
    "anabranch.executors.local",
    "anabranch.flows.running",
    "anabranch.definition.validation",
    "networkx",
)

_log = logging.getLogger("anabranch.service")


def main() -> None:
    """Read orders from standard input until it ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--runs-per-process", type=int, required=True)
    parser.add_argument("--wait", type=float, required=True)
    parser.add_argument("--metrics", required=True)
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the service decides when it ends
    with open(0, "rb", buffering=0, closefd=False) as orders:  # of which nothing more than a line is read here
        config.set(json.loads(orders.readline() or "{}"))
    preload()
    os.write(1, to_line(Ready()))
    gc.collect()
    gc.freeze()  # or the first collection in each child would copy all pages
    series = partial(run_series, most=options.runs_per_process, metrics=options.metrics)
    Nursery(series, most=options.processes, wait_s=options.wait).serve()


def preload() -> None:
    """Import and look up what each run needs; executors of clusters, which start threads, are left to their runs."""
    # By name, so that no tool takes it for an import that nobody uses.
    library = importlib.import_module("anabranch")
    for name in library.__all__:
        getattr(library, name)  # which loads it: the user's file will ask for some of them
    for name in _NEEDED:
        importlib.import_module(name)
    origin()  # of this package, for which its files are read
    with contextlib.suppress(AnabranchError):  # a store that cannot be used is told of by the runs
        store = registry()[0]
        store.database.now()  # what is learnt of a server is kept, the connection is not: each process has its own
        store.close()


@dataclass(slots=True, eq=False)
class _Child:
    """A process of runs."""

    pid: int
    connection: socket.socket
    job: Job | None
    """What it runs; None if it waits for something to run, or ends."""
    is_leaving: bool = False
    since: float = 0.0
    """When it began to wait, by the monotonic clock."""
    rest: bytes = b""
    """The beginning of an unfinished line."""


class Nursery:
    """Processes of runs, and runs that wait for one.

    Parameters
    ----------
    series
        Is the process of a job, and of those that follow on a connection.
    most
        How many runs may go on at a time.
    wait_s
        How long a run waits for a process.
    """

    def __init__(self, series: Callable[[socket.socket, Job], object], *, most: int, wait_s: float) -> None:
        self._series = series
        self._most = most
        self._wait_s = wait_s
        self._children: dict[int, _Child] = {}
        self._waiting: deque[tuple[Job, float]] = deque()
        """Runs without a process, and when each began to wait, by the monotonic clock."""
        self._in = 0
        self._out = 1
        self._rest = b""
        self._is_alone = False
        """Whether the service is gone."""
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._wake)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._in, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def serve(self) -> None:
        """Obey until the service is gone, and nothing waits."""
        while not (self._is_alone and not self._waiting):
            ready = {key.fd: key.data for key, _ in self._selector.select(self._pause_s())}
            # What children say comes first: an order for a run that has ended must not meet the next run.
            for child in [data for data in ready.values() if data is not None]:
                self._hear(child)
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._reap()
            if self._in in ready:
                self._read()
            self._assign()
            self._look_at_clock()

    def _pause_s(self) -> float | None:
        """Seconds until a run or a process has waited for too long."""
        ends = [child.since + LINGER_S for child in self._idle()]
        if self._waiting:
            ends.append(self._waiting[0][1] + self._wait_s)
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        while self._waiting and now - self._waiting[0][1] >= self._wait_s:
            self._say(self._waiting.popleft()[0], RETURNED)
        for child in self._idle():
            if now - child.since >= LINGER_S:
                self._dismiss(child)

    # Orders -----------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        data = os.read(self._in, 65_536)
        if not data:
            self._is_alone = True
            self._selector.unregister(self._in)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._obey(from_line(line))

    def _obey(self, order: Message) -> None:
        if isinstance(order, Job):
            self._waiting.append((order, time.monotonic()))
        elif isinstance(order, Signal):
            for child in self._children.values():
                if child.job is not None and child.job.run_id == order.run_id:
                    if order.signal == signal.SIGKILL:
                        kill_tree(child.pid)
                        continue
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child.pid, order.signal)
            for each in [each for each in self._waiting if order.run_id in ("", each[0].run_id)]:
                self._waiting.remove(each)
                self._say(each[0], RETURNED)

    # Children ---------------------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        """Give waiting runs to idle processes, and to new ones."""
        busy = sum(child.job is not None for child in self._children.values())
        while self._waiting and busy < self._most:
            job = self._waiting.popleft()[0]
            busy += self._hand(job) or self._fork(job)

    def _hand(self, job: Job) -> bool:
        """Give a run to an idle process, if there is one: the one that has waited least, so that others may end."""
        if job.is_alone:
            return False
        for child in sorted(self._idle(), key=lambda child: -child.since):
            try:
                child.connection.sendall(to_line(job))
            except OSError:  # it has just died
                child.is_leaving = True
                continue
            child.job = job
            return True
        return False

    def _idle(self) -> list[_Child]:
        """Idle processes."""
        return [child for child in self._children.values() if child.job is None and not child.is_leaving]

    def _fork(self, job: Job) -> bool:
        here, there = socket.socketpair()
        try:
            pid = os.fork()
        except OSError as error:  # too many processes, no memory: the slot is tried again
            _log.error("no process for run %s: %s", job.run_id, error)
            here.close()
            there.close()
            self._say(job, FAILED)
            return False
        if pid == 0:
            here.close()
            self._become(there, job)
        there.close()
        child = self._children[pid] = _Child(pid, here, job)
        self._selector.register(here, selectors.EVENT_READ, child)
        return True

    def _become(self, connection: socket.socket, job: Job) -> NoReturn:
        """Be a process of runs until its end."""
        code = FAILED
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for descriptor in (self._woken, self._wake):
                os.close(descriptor)
            self._selector.close()
            for child in self._children.values():
                child.connection.close()  # or their ends would not be heard as long as this process lives
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, self._in)
            os.close(nothing)
            os.dup2(2, self._out)  # which was where the nursery tells of exits; now what a run prints goes to the log
            os.setpgid(0, 0)  # what it starts can be told from what others start
            if self._series(connection, job) == LAST:  # nothing of it goes on
                flush_prints()
                kill_own()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            flush_prints()
            os._exit(code)

    def _hear(self, child: _Child) -> None:
        """Read what a child says of its run."""
        while data := _receive(child.connection):
            *lines, child.rest = (child.rest + data).split(b"\n")
            for line in lines:
                self._take(child, from_line(line))
        if data == b"":
            child.is_leaving = True  # how it ended is told when it is reaped
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.connection)

    def _take(self, child: _Child, news: Message) -> None:
        assert isinstance(news, Exit)
        job, child.job, child.since = child.job, None, time.monotonic()
        child.is_leaving = news.is_last
        if job is None:
            return
        if news.code == AGAIN:
            self._waiting.appendleft((replace(job, is_alone=True), time.monotonic()))
        else:
            self._say(job, news.code)

    def _dismiss(self, child: _Child) -> None:
        """Ask an idle child to end."""
        child.is_leaving = True
        with contextlib.suppress(OSError):
            child.connection.shutdown(socket.SHUT_WR)

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.get(pid)
            if child is not None:
                self._hear(child)  # its last words
                with contextlib.suppress(KeyError):
                    self._selector.unregister(child.connection)
                child.connection.close()
                del self._children[pid]
                if child.job is not None:
                    self._say(child.job, os.waitstatus_to_exitcode(status))

    def _say(self, job: Job, code: int) -> None:
        if self._is_alone:  # nobody asks; what was not begun is taken up again when its claim is over
            return
        try:
            os.write(self._out, to_line(Exit(job.run_id, job.token, code)))
        except BrokenPipeError:
            self._is_alone = True


def _receive(connection: socket.socket) -> bytes | None:
    """Bytes that were sent and not read yet; None if there are none now, empty if none will follow."""
    try:
        return connection.recv(65_536, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


if __name__ == "__main__":
    main()
