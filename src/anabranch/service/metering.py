"""What a service shows to Prometheus: what the processes of its runs have counted, its queue, and how it does."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

import psutil

from anabranch.base.errors import RunStoreError
from anabranch.monitoring.metric_families import Family, render_families
from anabranch.monitoring.metrics import MAX_FLOWS, Metrics
from anabranch.runs.store.flows import FlowTable
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.service.work.spool import EVERY_S, choose_directory, collect, sweep

_log = logging.getLogger("anabranch.service")


class Standing(Protocol):
    """How a service does; what a dispatcher knows."""

    running: dict[str, Any]
    """Runs that go on here."""
    capacity: int
    deaths: int
    """Processes of runs that ended badly."""
    turned: float
    """When it last looked for something to do, in seconds since the epoch."""

    @property
    def problems(self) -> int:
        """Flows whose schedules cannot be followed."""


class Meter:
    """Metrics of a service.

    Parameters
    ----------
    queue
        Of which the service runs what is due.
    flows
        Those that are registered: their counters are there before they have run.
    clock
        What time it is, for all services alike.
    """

    def __init__(self, queue: SlotQueue, flows: FlowTable, clock: Callable[[], datetime]) -> None:
        self.directory = choose_directory()
        """Where the processes of runs leave what they have counted, once it is open."""
        self._queue = queue
        self._flows = flows
        self._clock = clock
        self._totals = Metrics()
        self._lock = threading.Lock()
        flow = ("flow",)
        self._waiting = Family("anabranch_service_queue_runs", "gauge", "Runs that are due and have not begun.", flow)
        self._lateness = Family(
            "anabranch_service_queue_lateness_seconds", "gauge", "How late the run is that has waited longest.", flow
        )

    def open(self) -> None:
        """Make the directory, and remove those of services that were killed."""
        try:
            sweep(self.directory.parent)
            self.directory.mkdir(mode=0o700)
        except OSError as error:
            _log.warning("runs will not be counted: %s", error)

    def close(self) -> None:
        """Remove the directory; runs that go on leave nothing more."""
        shutil.rmtree(self.directory, ignore_errors=True)

    async def keep_up(self) -> None:
        """Add up what processes leave, as long as the service lives."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await asyncio.get_running_loop().run_in_executor(None, self._collect)
            except Exception:  # of what it is there is no telling; counts are not worth a service
                _log.exception("what runs have counted could not be added up")

    def note_end(self, flow_name: str, state: str) -> None:
        """Count a run that was given up."""
        self._totals.note_end(flow_name, state)

    def text(self, standing: Standing) -> str:
        """All metrics, in Prometheus's text format."""
        of_the_queue = self._of_the_queue()
        return render_families([*self._collect().families.values(), *of_the_queue, *_of_the_service(standing)])

    def _collect(self) -> Metrics:
        """What all processes have counted, those that are over and those that go on."""
        shown = Metrics()
        with self._lock:
            for left in collect(self.directory):
                (self._totals if left.is_over else shown).absorb(left.counted, is_over=left.is_over)
            shown.absorb(self._totals.snapshot())
        return shown

    def _of_the_queue(self) -> Sequence[Family]:
        store_up = Family("anabranch_service_run_store_up", "gauge", "Whether the run store answers.")
        store_up.put(1)
        with self._lock:
            for family in (self._waiting, self._lateness):
                family.values.update(dict.fromkeys(family.values, 0.0))
            try:
                now = self._clock()
                waiting = self._queue.waiting(now=now)
                names = self._flows.names()
                for name in names if len(names) <= MAX_FLOWS else ():  # else those that run get the labels
                    self._totals.expect(name, lateness=True)
                    for family in (self._waiting, self._lateness):
                        family.values.setdefault((self._totals.flow_label(name),), 0.0)
            except RunStoreError:
                store_up.put(0)
                return [store_up]
            for name, number, since in waiting:
                flow = self._totals.flow_label(name)
                late_s = max(0.0, (now - since).total_seconds())
                self._waiting.add(number, flow)
                self._lateness.put(max(late_s, self._lateness.values.get((flow,), 0.0)), flow)
            return [store_up, _copy_family(self._waiting), _copy_family(self._lateness)]


def _copy_family(family: Family) -> Family:
    """The family as it is now: another scrape may come meanwhile."""
    return Family(family.name, family.kind, family.help, family.labels, values=dict(family.values))


def _of_the_service(standing: Standing) -> Sequence[Family]:
    found = []
    for name, kind, text, value in (
        ("runs_active", "gauge", "Runs that go on in processes of this service.", len(standing.running)),
        ("runs_capacity", "gauge", "Runs that may go on at a time.", standing.capacity),
        ("process_deaths_total", "counter", "Processes of runs that ended badly.", standing.deaths),
        ("broken_schedules", "gauge", "Flows whose schedules cannot be followed.", standing.problems),
        ("last_turn_timestamp_seconds", "gauge", "When it last looked for something to do.", standing.turned),
        ("resident_memory_bytes", "gauge", "Memory of the service.", psutil.Process().memory_info().rss),
    ):
        family = Family(f"anabranch_service_{name}", kind, text)  # type: ignore[arg-type]  # mypy joins the tuples
        family.put(value)
        found.append(family)
    return found
