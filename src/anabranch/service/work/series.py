"""The process of runs: it is forked for one, and takes the next when it has one and is as clean as it was.

It is told of runs, and tells of their ends, in lines of JSON on a socket that it shares with the nursery. Without one,
as when the service is gone, it ends with the run that it has.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from anabranch.base.settings import config
from anabranch.service.work.leftovers import Leftovers
from anabranch.service.work.one_run import LAST, run_job


def run_series(connection: socket.socket, job: Mapping[str, Any], *, most: int) -> int:
    """Run a job, and those that follow on the connection; gives the exit code of the process.

    Parameters
    ----------
    most
        After so many runs the process ends.
    """
    config.set(job["settings"])
    leftovers = Leftovers() if most > 1 else None
    lines = connection.makefile("rb")
    for number in range(1, most + 1):
        _log_to(job.get("log"))
        began = time.monotonic()
        # In a context of its own: what a run sets there, it sets for itself.
        code = contextvars.copy_context().run(run_job, job, is_new=number == 1)
        _flush()
        is_last = code != 0 or leftovers is None or number == most
        is_last = is_last or bool(leftovers and leftovers.clear(took_s=time.monotonic() - began))
        news = {"run_id": job["run_id"], "code": 0 if code == LAST else code, "is_last": is_last}
        if not _say(connection, news) or is_last:
            return 0
        if not (line := lines.readline()):
            return 0
        job = json.loads(line)
    return 0


def _say(connection: socket.socket, news: Mapping[str, Any]) -> bool:
    try:
        connection.sendall(json.dumps(news).encode() + b"\n")
    except OSError:  # nobody is there any more
        return False
    return True


def _log_to(path: str | None) -> None:
    """Let what is printed and logged go to a file, which may be another than before: logs are begun anew."""
    if path:
        with contextlib.suppress(OSError):  # then its words go where they went
            log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 2)
            os.dup2(log, 1)
            os.close(log)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
