"""A run whose driver is on the cluster: a Dask task of its own, which outlives the client that sent it.

What the driver knows is written down on the scheduler as it learns it: how the run stands, for those who ask, and the
reports, for the next driver. If the worker with the driver dies, Dask starts the driver again on another one, and it
goes on from there.
"""

from __future__ import annotations

import logging
import pickle
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from anabranch.base import origins
from anabranch.base.events import CallsMade, Event, Observer, RunStarted
from anabranch.base.run_model import NodeModel, RunModel
from anabranch.base.states import State
from anabranch.engine.driver.driver import run_flow
from anabranch.engine.driver.handlers import FlowHandlers, not_run
from anabranch.engine.driver.plan import RunPlan
from anabranch.engine.driver.reading import open_desk
from anabranch.engine.driver.standing import tasks_in, tasks_of
from anabranch.engine.logs.book import CarriedLogBook, LogBook
from anabranch.engine.logs.lines import logs_topic
from anabranch.engine.logs.outbox import whole_log_path
from anabranch.engine.units.calls import Placed
from anabranch.engine.units.units import Report
from anabranch.engine.units.values import dumps
from anabranch.engine.worker.task_runner import failed_state
from anabranch.executors.dask import DaskExecutor

if TYPE_CHECKING:
    from distributed import Client

STATUS_S = 0.5  # how often the run's standing is written down: people ask a few times a minute
MAX_JOURNAL_NBYTES = 32 << 20  # of reports on the scheduler; past that they are kept without values
KEYS_OF_A_DRIVER = 10**9  # no two drivers of a run may use the same key
ROOT = "anabranch"
"""Of our keys in the scheduler's metadata."""

_log = logging.getLogger("anabranch.detached")


def control_topic(run_id: str) -> str:
    """Topic of the scheduler's events under which a run's driver is told to cancel."""
    return f"{run_id}-control"


@dataclass(frozen=True, kw_only=True)
class DetachedRun:
    """What the driver's task is given."""

    plan: RunPlan
    handlers: FlowHandlers


def drive(data: bytes) -> bytes:
    """Be the driver of a run, on a worker; the pickled `FinishedRun`."""
    from distributed import Client, get_worker, secede

    run: DetachedRun = origins.loads(data)
    worker = get_worker()
    address, security = worker.scheduler.address, worker.security
    secede()  # the driver waits most of the time: its slot is for tasks
    with Client(address, security=security, set_as_default=False) as client:
        ledger = Ledger(run.plan, client, worker.address)
        plan = replace(run.plan, recorded=ledger.recorded(), first_serial=ledger.epoch * KEYS_OF_A_DRIVER)
        executor = DaskExecutor(address, security=security)
        executor.has_page = bool(plan.settings.get("scheduler_page", True))
        try:
            logs = _logs(plan, client, worker)
            with open_desk(plan.run_id, partial(worker.loop.add_callback, worker.loop.call_later)) as desk:
                observers: list[Observer] = [ledger.observe, desk]
                done = run_flow(plan, executor, observers, handlers=run.handlers, journal=ledger.write, logs=logs)
        except Exception as error:  # nobody is there to whom it could be raised
            _log.exception("the driver of run %s failed", plan.run_id)
            done = not_run(plan, failed_state(error))
        ledger.close(done.state)
    return origins.dumps(replace(done, plan=replace(done.plan, recorded=())))


def _logs(plan: RunPlan, client: Client, worker: Any) -> LogBook | None:
    level = plan.settings.get("log_level", logging.INFO)
    if level is None:  # nobody wants any
        return None
    scheduler: Any = client.scheduler
    loop: Any = client.loop

    def send(data: bytes) -> None:
        loop.add_callback(scheduler.log_event, topic=logs_topic(plan.run_id), msg=data)

    whole = whole_log_path(plan.settings.get("log_directory", ""), plan.run_id)
    return CarriedLogBook(level, send, address=worker.address, whole=whole)


class Ledger:
    """What is known of a detached run, on the scheduler: its standing, and its reports."""

    def __init__(self, plan: RunPlan, client: Client, worker: str) -> None:
        self._run_id = plan.run_id
        self._client = client
        self._count = 0
        self._nbytes = 0
        self._written = 0.0
        known = client.get_metadata([ROOT, plan.run_id], default=None) or {}
        self.epoch = int(known.get("epoch", 0)) + 1
        """Which driver of the run this is, from 1."""
        self._journal: dict[str, bytes] = dict(known.get("journal") or {})
        client.set_metadata([ROOT, plan.run_id, "epoch"], self.epoch)
        before = known.get("status") or {}
        self._status: dict[str, Any] = {
            "state": "Running",
            "message": "",
            "driver": worker,
            "drivers": self.epoch,
            "started": before.get("started", time.time()),
        }
        self._is_due = False
        """Whether the status will be written down in a moment."""
        self._is_closed = False
        self._before: dict[str, Any] = before.get("tasks") or {}
        """What the driver before this one had written down of tasks."""
        self._model = RunModel(NodeModel)

    def recorded(self) -> tuple[Report | Placed, ...]:
        """What an earlier driver has written down."""
        entries = sorted(self._journal.items(), key=lambda each: tuple(map(int, each[0].split("."))))
        self._nbytes = sum(len(data) for _, data in entries)
        return tuple(pickle.loads(data) for _, data in entries)

    def write(self, report: Report) -> None:
        """Write a report down, before anything is done about it."""
        if self._nbytes > MAX_JOURNAL_NBYTES:
            report = replace(
                report,
                singles=tuple(replace(each, value=None) for each in report.singles),
                columns=tuple(replace(each, values=None) for each in report.columns),
            )
        self._add(report)

    def _add(self, entry: Report | Placed) -> None:
        data = dumps(entry)
        self._nbytes += len(data)
        self._note("journal", f"{self.epoch}.{self._count}", value=data)
        self._count += 1

    def close(self, state: State) -> None:
        """Write down how the run ended; the reports have served."""
        self._is_closed = True
        self._status.update(state=state.name, message=state.message[:2_000], tasks=self._tasks(), updated=time.time())
        self._client.set_metadata([ROOT, self._run_id, "status"], self._status)
        self._client.set_metadata([ROOT, self._run_id, "journal"], {})

    def _note(self, *keys: str, value: Any) -> None:
        """Write something down without waiting for it: a journal that is a moment late costs a chunk at the most."""
        scheduler: Any = self._client.scheduler
        loop: Any = self._client.loop
        loop.add_callback(scheduler.set_metadata, keys=[ROOT, self._run_id, *keys], value=value)

    def observe(self, event: Event) -> None:
        """Keep the run's standing up to date."""
        if isinstance(event, CallsMade) and event.is_new:
            self._add(event.record)
        self._model.take(event)
        now = time.monotonic()
        if isinstance(event, RunStarted) or now - self._written > STATUS_S:
            self._note_status()
        elif not self._is_due:  # it may be long until the next event
            self._is_due = True
            loop: Any = self._client.loop
            loop.add_callback(loop.call_later, self._written + STATUS_S - now, self._note_status)

    def _note_status(self) -> None:
        self._is_due, self._written = False, time.monotonic()
        if not self._is_closed:
            self._note("status", value={**self._status, "tasks": self._tasks(), "updated": time.time()})

    def _tasks(self) -> dict[str, dict[str, Any]]:
        return {**self._before, **tasks_of(tasks_in(self._model))}
