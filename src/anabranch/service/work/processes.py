"""Starts the processes of runs through a nursery, and hears of their ends."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from operator import attrgetter

from anabranch.base.errors import ServiceError
from anabranch.base.settings import config, environment_without_secrets
from anabranch.runs.store.slots import Slot
from anabranch.service.work.messages import FAILED, Exit, Job, Message, Signal, from_line, to_line

WAIT_S = 1.0
"""How long a run waits for a process; then another service may have it."""
_SETTINGS = ("backend", "runs.path", "runs.lease_s", "service.key", "results.key")
"""Settings that the processes of runs get from this one."""
_log = logging.getLogger("anabranch.service")


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
        self._command = [sys.executable, "-m", "anabranch.service.work.nursery"]
        self._command += [text for name, value in options.items() for text in (name, str(value))]
        self._ended: queue.SimpleQueue[Exit] = queue.SimpleQueue()
        self._running: set[str] = set()
        self._lock = threading.Lock()
        self._nursery: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the nursery."""
        return self._nursery.pid if self._nursery is not None else None

    def start(self, slot: Slot) -> None:
        """Run a slot in a process of its own."""
        with self._lock:
            self._running.add(slot.run_id)
        self._order(Job(slot.run_id, slot.token))

    def exits(self) -> list[Exit]:
        """Processes that ended since the last time."""
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

    def kill(self, run_id: str) -> None:
        """End a process at once."""
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
        assert self._nursery.stdin is not None
        settings = {name: attrgetter(name)(config) for name in _SETTINGS}
        self._nursery.stdin.write(json.dumps(settings).encode() + b"\n")
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
            nursery.stdin.write(to_line(order))
            nursery.stdin.flush()
        except OSError as error:
            _log.error("the process that starts runs is gone, or cannot be started: %s", error)
            if isinstance(order, Job):
                self._end(Exit(order.run_id, FAILED))

    def _listen(self, nursery: subprocess.Popen[bytes]) -> None:
        assert nursery.stdout is not None
        with nursery.stdout as lines:
            for line in lines:
                found = from_line(line)
                assert isinstance(found, Exit)
                self._end(found)
        nursery.wait()
        if nursery.stdin is not None:
            with contextlib.suppress(OSError):  # what was not sent any more
                nursery.stdin.close()
        if self._nursery is nursery:  # it died; its children go on, and close their slots themselves
            with self._lock:
                lost = list(self._running)
            _log.warning(
                "the process that starts runs ended with %s; %d runs go on by themselves", nursery.returncode, len(lost)
            )
            for run_id in lost:
                self._end(Exit(run_id, 0))

    def _end(self, end: Exit) -> None:
        with self._lock:
            self._running.discard(end.run_id)
        self._ended.put(end)
        self._on_exit()
