"""Starts the processes of runs through a nursery, and hears of their ends."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from operator import attrgetter

import psutil

from anabranch.base.errors import ServiceError
from anabranch.base.settings import config, environment_without_secrets
from anabranch.runs.store.slots import Slot
from anabranch.service.work.messages import FAILED, UNBORN, Exit, Job, Message, Signal, from_line, to_line

WAIT_S = 1.0
"""How long a run waits for a process; then another service may have it."""
_SETTINGS = (
    *("backend", "runs.path", "runs.lease_s", "results.key"),
    *("service.key", "service.cancel_grace_s", "service.notifiers", "service.url", "service.reload"),
)
"""Settings that the processes of runs get from this one."""
READY_S = 60.0
"""Seconds that the nursery has to begin: its imports take less than one, and ten on a busy machine."""
NURSERY = "anabranch.service.work.nursery"
_log = logging.getLogger("anabranch.service")


def settings_for_runs() -> bytes:
    """What processes of runs read first: a line of JSON with settings of this one."""
    return json.dumps({name: attrgetter(name)(config) for name in _SETTINGS}).encode() + b"\n"


def is_process_of_runs(name: str) -> bool:
    """Whether a process, given as ``host:pid``, lives on this machine and is one that runs are begun in."""
    host, _, pid = name.rpartition(":")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        return NURSERY in psutil.Process(int(pid)).cmdline()
    except psutil.Error:
        return False


class Processes:
    """A `Launcher` of forked processes.

    Parameters
    ----------
    on_exit
        Called from another thread whenever a process has ended.
    most
        How many runs may go on at a time; others wait for a moment, and are given back.
    runs_each
        How many runs a process may have, one after another.
    wait_s
        How long a run waits for a process before it is given back.
    metrics
        Directory where runs leave what they have counted; default: they count nothing.
    """

    def __init__(
        self,
        on_exit: Callable[[], object],
        *,
        most: int = 2,
        runs_each: int = 1,
        wait_s: float = WAIT_S,
        metrics: str = "",
    ) -> None:
        if not hasattr(sys, "platform") or sys.platform == "win32":
            raise ServiceError("a service needs a system with fork(), such as Linux or macOS")
        self._on_exit = on_exit
        options = {"--processes": most, "--runs-per-process": runs_each, "--wait": wait_s, "--metrics": metrics}
        self._command = [sys.executable, "-P", "-m", NURSERY]  # nothing is imported from the working directory
        self._command += [text for name, value in options.items() for text in (name, str(value))]
        self._ended: queue.SimpleQueue[Exit] = queue.SimpleQueue()
        self._running: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        """By run and token of its claim."""
        """Of each run that has not been heard of, the nursery that has it."""
        self._lock = threading.Lock()
        self._nursery: subprocess.Popen[bytes] | None = None
        self._opened = 0.0
        """When the nursery was started, by the monotonic clock."""
        self._is_ready = False
        self._has_failed = False
        """Whether the last nursery of which that is known ended before it was ready."""

    @property
    def pid(self) -> int | None:
        """Of the nursery."""
        return self._nursery.pid if self._nursery is not None else None

    @property
    def is_well(self) -> bool:
        """Whether the nursery has begun, or has still time to."""
        return not self._has_failed and not self._is_late

    @property
    def _is_late(self) -> bool:
        return not self._is_ready and time.monotonic() - self._opened > READY_S

    def start(self, slot: Slot) -> None:
        """Run a slot in a process of its own."""
        self._order(Job(slot.run_id, slot.token))

    def exits(self) -> list[Exit]:
        """Processes that ended since the last time."""
        nursery = self._nursery
        if nursery is not None and self._is_late:
            nursery.kill()
        found = []
        while not self._ended.empty():
            found.append(self._ended.get())
        return found

    def give_back(self) -> None:
        """Take back all runs that no process has begun."""
        self._order(Signal(""))

    def stop(self, run_id: str) -> None:
        """Ask a process to put its run down."""
        self._order(Signal(run_id, signal.SIGTERM))

    def interrupt(self, run_id: str) -> None:
        """Ask a process to end its run."""
        self._order(Signal(run_id, signal.SIGINT))

    def kill(self, run_id: str) -> None:
        """End a process and all that it has started, at once."""
        self._order(Signal(run_id, signal.SIGKILL))

    def open(self) -> None:
        """Start the nursery, if there is none."""
        if self._nursery is not None and self._nursery.poll() is None:
            return
        self._nursery = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the service, which tells the runs
            env=environment_without_secrets(),
        )
        self._opened, self._is_ready = time.monotonic(), False
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(settings_for_runs())
        threading.Thread(target=self._listen, args=(self._nursery,), name="anabranch-nursery", daemon=True).start()

    def close(self) -> None:
        """Let the nursery end; processes that are still there go on."""
        nursery, self._nursery = self._nursery, None
        if nursery is not None and nursery.stdin is not None:
            nursery.stdin.close()
            nursery.wait(timeout=30)

    def _order(self, order: Message) -> None:
        try:
            self.open()
            nursery = self._nursery
            assert nursery is not None
            assert nursery.stdin is not None
            if isinstance(order, Job):
                with self._lock:
                    self._running[order.run_id, order.token] = nursery
            nursery.stdin.write(to_line(order))
            nursery.stdin.flush()
        except (OSError, ValueError) as error:  # ValueError: its end was closed a moment ago
            _log.error("the process that starts runs is gone, or cannot be started: %s", error)
            if isinstance(order, Job):
                self._end(Exit(order.run_id, order.token, FAILED))

    def _listen(self, nursery: subprocess.Popen[bytes]) -> None:
        assert nursery.stdout is not None
        is_ready = False
        with nursery.stdout as lines:
            for line in lines:
                found = from_line(line)
                if isinstance(found, Exit):
                    self._end(found)
                else:
                    is_ready, self._has_failed = True, False
                    self._is_ready = self._is_ready or self._nursery is nursery
        nursery.wait()
        if nursery.stdin is not None:
            with contextlib.suppress(OSError):  # what was not sent any more
                nursery.stdin.close()
        with self._lock:
            lost = [each for each, its in self._running.items() if its is nursery]
        if not is_ready:
            self._has_failed = True
            _log.error("the process that starts runs ended with %s before it was ready", nursery.returncode)
        elif lost or self._nursery is nursery:  # its children go on, and close their slots themselves
            _log.warning(
                "the process that starts runs ended with %s; %d runs go on by themselves", nursery.returncode, len(lost)
            )
        for run_id, token in lost:
            self._end(Exit(run_id, token, 0 if is_ready else UNBORN))

    def _end(self, end: Exit) -> None:
        with self._lock:
            self._running.pop((end.run_id, end.token), None)
        self._ended.put(end)
        self._on_exit()
