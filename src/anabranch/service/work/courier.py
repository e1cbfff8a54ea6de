"""Tells of runs that ended with their processes, and of schedules that cannot be followed.

Each is told in a process of its own, where the flow is loaded and its handlers are called, which may do anything: a
service has no part in it.
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
from anabranch.base.states import Failed
from anabranch.flows.news import tell
from anabranch.runs.registry.registration import registry
from anabranch.runs.store.notices import admit
from anabranch.service.work.processes import settings_for_runs

MOST_S = 60.0
"""Seconds in which something must be told: to load the flow, and for its handlers."""
LEAVE_S = 10.0
"""Seconds for which a service that ends waits for what is still to be told."""

_ONCE_S = 3_600.0
"""Seconds in which a schedule is told of once, by whichever service: each of them finds that it cannot be followed."""

_log = logging.getLogger("anabranch.service")


class Courier:
    """Tells one thing after another, in the background; what is not told in time is left out, which is logged."""

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, run_id: str) -> None:
        """Tell of a run whose slot is closed, soon."""
        self._put({"run": run_id})

    def tell_of_schedule(self, flow_name: str, problem: str) -> None:
        """Tell that the schedule of a flow cannot be followed, soon."""
        self._put({"flow": flow_name, "problem": problem})

    def close(self, *, most_s: float = LEAVE_S) -> None:
        """Wait a while for what is still to be told."""
        if self._thread is not None:
            self._wanted.put({})
            self._thread.join(most_s)

    def _put(self, news: dict[str, str]) -> None:
        self._wanted.put(news)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="anabranch-courier", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while news := self._wanted.get():
            try:
                done = subprocess.run(
                    [sys.executable, "-P", "-m", "anabranch.service.work.courier"],
                    input=settings_for_runs() + json.dumps(news).encode(),
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
                what = f"run {news['run']}" if "run" in news else f"the schedule of flow {news['flow']}"
                _log.error("not all who asked for it may have been told of %s: %s", what, problem)


def main() -> None:
    """Tell what is on standard input, behind a line of settings."""
    config.set(json.loads(sys.stdin.readline()))
    news = json.loads(sys.stdin.readline())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    store, flows, slots = registry()
    if "run" not in news:
        name, text = news["flow"], f"its schedule cannot be followed, and is tried again: {news['problem']}"
        if admit(store.database, f"schedule of {name}", most=1, per_s=_ONCE_S) is not None:
            tell(flows, name, Failed(text))
    elif (slot := slots.get(news["run"])) is not None:
        tell(flows, slot.flow_name, getattr(states, slot.state)(slot.message))


if __name__ == "__main__":
    main()
