"""A process of runs: it is forked for one, and takes the next if the one before has left nothing behind.

It is told of runs, and tells of their ends, in lines of JSON on a socket that it shares with the nursery. Without one,
as when the service is gone, it ends with the run that it has.
"""

from __future__ import annotations

import contextlib
import contextvars
import socket
import sys
import time

from anabranch.service.work.leftovers import Leftovers
from anabranch.service.work.messages import LAST, Exit, Job, from_line, to_line
from anabranch.service.work.one_run import run_job


def run_series(connection: socket.socket, job: Job, *, most: int, metrics: str) -> int:
    """Run a job, and those that follow on the connection; gives the exit code of the last one.

    Parameters
    ----------
    most
        After so many runs the process ends.
    metrics
        Directory for what runs count; empty for none.
    """
    leftovers = Leftovers() if most > 1 else None
    lines = connection.makefile("rb")
    number = 0
    while True:
        number += 1
        began = time.monotonic()
        # In a context of its own: what a run sets there, it sets for itself.
        code = contextvars.copy_context().run(run_job, job, metrics=metrics, is_new=number == 1)
        flush_prints()
        is_last = code != 0 or leftovers is None or number == most
        is_last = is_last or bool(leftovers and leftovers.clear(took_s=time.monotonic() - began))
        try:
            connection.sendall(to_line(Exit(job.run_id, job.token, 0 if code == LAST else code, is_last)))
        except OSError:  # nobody is there any more
            return code
        if is_last or not (line := lines.readline()):
            return code
        following = from_line(line)
        assert isinstance(following, Job)
        job = following


def flush_prints() -> None:
    """Write out what was printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
