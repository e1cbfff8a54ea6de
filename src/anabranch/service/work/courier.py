"""Tells of runs that ended with their processes, one after another, each in a process of its own.

Their flows are loaded there and their handlers called, which may do anything: a service has no part in it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading

from anabranch.base import states
from anabranch.base.settings import config, environment_without_secrets
from anabranch.service.work.processes import settings_for_runs

MOST_S = 60.0
"""Seconds in which a run must be told of: to load its flow, and for its handlers."""
LEAVE_S = 10.0
"""Seconds for which a service that ends waits for what is still to be told."""

_log = logging.getLogger("anabranch.service")


class Courier:
    """Tells in the background; a run that is not told of in time is left out, which is logged."""

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, run_id: str) -> None:
        """Tell of a run whose slot is closed, soon."""
        self._wanted.put(run_id)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="anabranch-courier", daemon=True)
            self._thread.start()

    def close(self, *, most_s: float = LEAVE_S) -> None:
        """Wait a while for what is still to be told."""
        if self._thread is not None:
            self._wanted.put("")
            self._thread.join(most_s)

    def _work(self) -> None:
        while run_id := self._wanted.get():
            command = [sys.executable, "-P", "-m", "anabranch.service.work.courier", run_id]
            try:
                done = subprocess.run(
                    command,
                    input=settings_for_runs(),
                    stdout=2,  # what is printed goes to the log
                    start_new_session=True,
                    env=environment_without_secrets(),
                    timeout=MOST_S,
                    check=False,
                )
                problem = f"its process ended with {done.returncode}" if done.returncode else ""
            except (OSError, subprocess.TimeoutExpired) as error:
                problem = str(error)
            if problem:
                _log.error("the end of run %s may not have been told to all who asked for it: %s", run_id, problem)


def main() -> None:
    """Tell of the run that is named; settings are read from standard input."""
    from anabranch.flows.news import tell
    from anabranch.runs.registry.registration import registry

    config.set(json.loads(sys.stdin.readline()))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    _, flows, slots = registry()
    slot = slots.get(sys.argv[1])
    if slot is not None:
        tell(flows, slot.flow_name, getattr(states, slot.state)(slot.message))


if __name__ == "__main__":
    main()
