"""Deaths and exits of workers: told at once, and with their cause.

Left to itself, Dask sends what was on a dead worker to the next one, and after the fourth death blames all of it. What
ran on a worker that leaves in good order, as at the end of its lifetime, it begins again without end. A plug-in of ours
on the scheduler, for the time of a run, makes it hand back our tasks after the first loss: the driver knows better
which of them to suspect. It travels as source text, so that the scheduler needs no anabranch. When the driver's
client leaves, however that happens, it removes itself and what the scheduler would keep of the run for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin

from anabranch.executors.sources import reduced

if TYPE_CHECKING:
    from distributed import Client

LATE_S = 60.0  # reports of what was cancelled may come after its driver has gone, and make the topic anew
NANNY_S = 3.0  # how long a nanny is given to say how its worker died

_SOURCE = """
import asyncio
import time
from distributed.diagnostics.plugin import SchedulerPlugin
class HandBack(SchedulerPlugin):
    def __init__(self, token, name, topics, client, late_s):
        self.token, self.name, self.topics, self.client, self.late_s = token, name, topics, client, late_s
        self.done = set()
        self.left = {}
    async def start(self, scheduler):
        self.scheduler = scheduler
        self.workers = dict(scheduler.workers)
    def is_ours(self, key):
        return isinstance(key, tuple) and isinstance(key[0], str) and key[0].endswith(self.token)
    def transition(self, key, start, finish, *args, **kwargs):
        if not self.is_ours(key):
            return
        if finish == "memory":
            self.done.add(key)
            task = self.scheduler.tasks.get(key)
            if task is not None and "anabranch-before" in (task.metadata or {}):
                before = {"anabranch-before": task.metadata["anabranch-before"]}
                task.annotations = {**(task.annotations or {}), **before}
        elif finish == "forgotten":
            self.done.discard(key)
        elif finish == "processing":
            task = self.scheduler.tasks.get(key)
            if task is not None and key not in self.done:
                task.suspicious = self.scheduler.allowed_failures
            elif task is not None and start == "waiting":
                task.suspicious = 0
    def add_worker(self, scheduler, worker):
        self.workers[worker] = scheduler.workers[worker]
    def log_event(self, topic, event):
        if topic == "all" and isinstance(event, dict) and event.get("action") == "remove-worker":
            worker = self.workers.pop(event["worker"], None)
            if event["expected"] and worker is not None:
                self.keep_back(worker)
    def keep_back(self, worker):
        client = self.scheduler.clients.get(self.client)
        in_threads = worker.processing - worker.long_running
        is_full = len(worker.executing.keys() & in_threads) >= worker.nthreads
        for task in worker.processing:
            ran_s = worker.executing.get(task)
            has_waited = is_full and ran_s is None and task in in_threads
            if has_waited or not self.is_ours(task.key) or task.key in self.done:
                continue
            if client is not None and (task.who_wants or set()) <= {client}:
                self.left[task.key] = None if ran_s is None else ran_s + time.time() - worker.last_seen
                task.worker_restrictions = {worker.address}
    def remove_worker(self, scheduler, worker, **kwargs):
        left, self.left = self.left, {}
        client = scheduler.clients.get(self.client)
        tasks = [scheduler.tasks[key] for key in left if key in scheduler.tasks] if client is not None else []
        found = set(tasks)
        for task in tasks:
            tasks.extend(task.dependents - found)
            found |= task.dependents
        for key in (keys := [task.key for task in tasks if client in (task.who_wants or ())]):
            scheduler.log_event(self.token, (*key, {"left": worker, "ran_s": left.get(key)}))
        if keys:
            scheduler.client_releases_keys(keys, self.client)
    def remove_client(self, scheduler, client):
        if client == self.client:
            if scheduler.plugins.get(self.name) is self:
                del scheduler.plugins[self.name]
            self.drop_topics()
            asyncio.get_running_loop().call_later(self.late_s, self.drop_topics)
    def drop_topics(self):
        known = self.scheduler._broker._topics
        for name in (*self.topics, self.client):
            if name in known:
                known[name].unsubscribe(self.client)
                if not known[name].subscribers:
                    del known[name]
"""


class HandBack(SchedulerPlugin):
    """Makes the scheduler give up a run's task when its worker dies or leaves, unless it had been computed before.

    What was computed and lost with its worker is Dask's to compute again, as often as ``allowed-failures`` allows. Who
    does so is told what had been reported of it, so that the value is made again as it was:
    `anabranch.engine.worker.arrival`.

    Parameters
    ----------
    token
        Of the run.
    client
        Id of the driver's client. With it go this plug-in, the run's topics, and the client's own, in which Dask keeps
        an event for each submission, for as long as the scheduler lives.
    """

    def __init__(self, token: str, client: str) -> None:
        self.token = token
        self.client = client

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.token, plugin_name(self.token), topics(self.token), self.client, LATE_S)
        return reduced(_SOURCE.encode(), "HandBack", arguments)


def topics(token: str) -> tuple[str, str, str]:
    """Of the scheduler's events: where a run's reports go, where its driver is told to cancel, and where logs go."""
    return token, f"{token}-control", f"{token}-logs"


def plugin_name(token: str) -> str:
    """Name under which a run's plug-in is registered."""
    return f"anabranch-{token}"


def cause_of_death(client: Client, nanny: str | None, pid: int | None) -> str:
    """How a worker process ended, as far as its nanny knows: ``killed by signal 9 (SIGKILL)``; "" if it does not."""
    if nanny is None or pid is None:
        return ""
    with contextlib.suppress(Exception):  # the nanny may be gone too, or not be reachable from here
        lines: list[str] = client.sync(_ask, client, nanny, pid, callback_timeout=NANNY_S + 1)
        return read_cause(lines, pid)
    return ""


async def _ask(client: Client, nanny: str, pid: int) -> list[str]:
    lines: list[str] = []
    for _ in range(int(NANNY_S / 0.25)):
        logs = await asyncio.wait_for(client.rpc(nanny).get_logs(), NANNY_S)
        lines = [line for _, line in logs]
        if read_cause(lines, pid):
            break
        await asyncio.sleep(0.25)  # the nanny looks after its process in its own time
    return lines


def read_cause(lines: list[str], pid: int) -> str:
    """The cause in what a nanny wrote about a process.

    >>> read_cause(["distributed.nanny - INFO - Worker process 7 was killed by signal 11"], 7)
    'killed by signal 11 (SIGSEGV)'
    """
    for line in lines:
        if f"pid={pid}) exceeded" in line:
            return f"killed for memory: {line.split(f'(pid={pid}) ')[1].split('. Restarting')[0]}"
    for line in lines:
        found = re.search(rf"Worker process {pid} (?:was )?((killed) by signal (\d+)|exited with status (\d+))", line)
        if found is None:
            continue
        if found[3]:
            with contextlib.suppress(ValueError):
                return f"killed by signal {found[3]} ({signal.Signals(int(found[3])).name})"
        return found[1]
    return ""
