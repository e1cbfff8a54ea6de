"""Tells of runs that ended with their processes, of schedules that cannot be followed, and of what a `Watch` has seen.

Each is told in a process of its own, where the flow is loaded and its handlers are called, which may do anything: a
service has no part in it.
"""

from __future__ import annotations

import json
import logging
import os
import pkgutil
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from anabranch.base import states
from anabranch.base.settings import config, environment_without_secrets
from anabranch.base.states import Failed
from anabranch.base.texts import type_name
from anabranch.flows.news import tell, tell_notifiers
from anabranch.monitoring.bulletins import Bulletin, bulletin_of, telling_of
from anabranch.monitoring.notifiers import Notifier, WebhookNotifier
from anabranch.runs.registry.registration import registry
from anabranch.runs.store.notices import admit
from anabranch.service.work.processes import settings_for_runs

MOST_S = 60.0
"""Seconds in which something must be told: to load the flow, and for its handlers."""
LEAVE_S = 10.0
"""Seconds for which a service that ends waits for what is still to be told."""

_MOST = 100
"""Messages of a webhook of the settings, about a flow in a minute: how many there are is decided before."""
_ONCE_S = 3_600.0
"""Seconds in which a schedule is told of once, by whichever service: each of them finds that it cannot be followed."""

_log = logging.getLogger("anabranch.service")


class Courier:
    """Tells one thing after another, in the background; what is not told in time is left out, which is logged."""

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, run_id: str) -> None:
        """Tell a flow of a run whose slot is closed, soon."""
        self._put({"run": run_id})

    def tell_of_runs(self, left_out: Mapping[str, int]) -> None:
        """Tell the service's own notifiers of runs whose slots are closed; of each, how many were left out before."""
        self._put({"runs": dict(left_out)})

    def tell_news(self, news: Bulletin) -> None:
        """Tell the notifiers of a flow, and the service's own."""
        self._put({"news": asdict(news)})

    def tell_of_schedule(self, flow_name: str, problem: str) -> None:
        """Tell that the schedule of a flow cannot be followed, soon."""
        self._put({"flow": flow_name, "problem": problem})

    def close(self, *, most_s: float = LEAVE_S) -> None:
        """Wait a while for what is still to be told."""
        if self._thread is not None:
            self._wanted.put({})
            self._thread.join(most_s)

    def _put(self, news: dict[str, Any]) -> None:
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
                _log.error("not all who asked for it may have been told of %s: %s", _in_words(news), problem)


def main() -> None:
    """Tell what is on standard input, behind a line of settings."""
    config.set(json.loads(sys.stdin.readline()))
    news = json.loads(sys.stdin.readline())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    store, flows, slots = registry()
    if "run" in news and (slot := slots.get(news["run"])) is not None:
        tell(flows, slot.flow_name, getattr(states, slot.state)(slot.message), run_id=slot.run_id)
    for run_id, left_out in news.get("runs", {}).items():
        if (slot := slots.get(run_id)) is not None:
            with telling_of(run_id):
                bulletin = bulletin_of(slot.flow_name, getattr(states, slot.state)(slot.message))
            _tell_own(replace(bulletin, left_out=left_out))
    if "news" in news:
        bulletin = Bulletin(**news["news"])
        _tell_own(bulletin)
        tell_notifiers(flows, bulletin)
    if "problem" in news:
        name, text = news["flow"], f"its schedule cannot be followed, and is tried again: {news['problem']}"
        if admit(store.database, f"schedule of {name}", most=1, per_s=_ONCE_S) is not None:
            _tell_own(bulletin_of(name, Failed(text)))
            tell(flows, name, Failed(text))


def _tell_own(news: Bulletin) -> None:
    for each in own_notifiers():
        each.tell(news)


@cache
def own_notifiers() -> list[Notifier]:
    """The service's own notifiers, as the setting names them; those that cannot be had are told of in the log."""
    found: list[Notifier] = []
    for name in config.service.notifiers.replace(",", " ").split():
        try:
            each = pkgutil.resolve_name(name) if ":" in name else WebhookNotifier(env=name, most=_MOST)
        except Exception as error:  # an import may raise anything
            _log.error("service.notifiers: %s cannot be imported: %s", name, type_name(error))
            continue
        if isinstance(each, Notifier):
            found.append(each)
        else:
            _log.error(
                "service.notifiers: %s is no notifier of anabranch.notifiers, but a %s", name, type(each).__name__
            )
    return found


def _in_words(news: Mapping[str, Any]) -> str:
    if "news" in news:
        return f"flow {news['news']['flow']}, which is {news['news']['state']}"
    if "runs" in news:
        return f"runs {', '.join(news['runs'])}"[:200]
    return f"run {news['run']}" if "run" in news else f"the schedule of flow {news['flow']}"


if __name__ == "__main__":
    main()
