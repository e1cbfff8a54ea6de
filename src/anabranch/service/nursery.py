"""Where the processes of runs come from: a process that has imported the library once, and forks one for each run.

An import costs half a second, a fork five milliseconds. The nursery has one thread and no connections, so that its
children start clean; it speaks in lines of JSON on its standard streams. When the service is gone it ends, and its
children go on.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import signal
import sys
import traceback
from typing import Any, NoReturn

FAILED = 70
"""Exit code of a process that could not even fail as a run (EX_SOFTWARE)."""


def main() -> None:
    """Read orders from standard input until it ends."""
    # Whatever a run needs; executors of clusters are imported by the runs that have them, as they start threads.

    with contextlib.suppress(ImportError):
        import psycopg  # noqa: F401
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the service decides when it ends
    gc.collect()
    gc.freeze()  # or the first collection in each child would copy all pages
    _Nursery().serve()


class _Nursery:
    def __init__(self) -> None:
        self._children: dict[int, str] = {}
        self._in = 0
        self._out = 1
        wake_in, self._wake = os.pipe()
        self._woken = wake_in
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_in, False)
        signal.set_wakeup_fd(self._wake)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def serve(self) -> None:
        rest = b""
        while True:
            ready, _, _ = select.select([self._in, self._woken], [], [])
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._reap()
            if self._in in ready:
                data = os.read(self._in, 65_536)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))

    def _obey(self, order: dict[str, Any]) -> None:
        if "job" in order:
            self._fork(order["job"])
            return
        for pid, run_id in self._children.items():
            if run_id == order["run_id"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, order["signal"])

    def _fork(self, job: dict[str, Any]) -> None:
        try:
            pid = os.fork()
        except OSError as error:  # too many processes, no memory: the slot is tried again
            logging.getLogger("anabranch.service").error("no process for run %s: %s", job["run_id"], error)
            self._say({"run_id": job["run_id"], "code": FAILED})
            return
        if pid == 0:
            self._become(job)
        self._children[pid] = job["run_id"]

    def _become(self, job: dict[str, Any]) -> NoReturn:
        """Be the process of a run, from its beginning to its end."""
        code = FAILED
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for descriptor in (self._woken, self._wake):
                os.close(descriptor)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, self._in)
            if log := job.get("log"):
                with contextlib.suppress(OSError):  # then its words go where the nursery's do
                    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
            os.dup2(2, self._out)  # which was where the nursery tells of exits; now what a run prints goes to the log
            os.setpgid(0, 0)  # what it starts can be told from what others start
            gc.unfreeze()
            from anabranch.service.child import run_job

            code = run_job(job)
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(code)

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            run_id = self._children.pop(pid, None)
            if run_id is not None:
                self._say({"run_id": run_id, "code": os.waitstatus_to_exitcode(status)})

    def _say(self, news: dict[str, Any]) -> None:
        try:
            os.write(self._out, json.dumps(news).encode() + b"\n")
        except BrokenPipeError:  # the service is gone; its children go on
            os._exit(0)


if __name__ == "__main__":
    main()
