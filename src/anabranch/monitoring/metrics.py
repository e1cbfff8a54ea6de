"""Metrics of runs for Prometheus: an observer that counts.

Labels are flow, task and state, never a run or an element, and there is a limit to how many of each. An element counts
as a task run; where elements are timed a chunk at a time, each has the mean of its chunk.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Mapping
from typing import Any, Literal

import psutil

from anabranch.base.events import Event, RunFinished, RunStarted, TaskChanged, UnitEnded, UnitLost
from anabranch.base.run_model import STEPS, NodeModel, RunModel, retries_of
from anabranch.base.states import BY_CODE, Cached, Finished
from anabranch.base.version import VERSION
from anabranch.monitoring.metric_families import Family, Histogram, Labels, render_families
from anabranch.monitoring.metrics_export import CONTENT_TYPE, MetricsServer, push, write_textfile

__all__ = ["CONTENT_TYPE", "MAX_FLOWS", "OTHER", "Metrics", "MetricsServer", "push", "write_textfile"]

OTHER = "other"
"""What flows and tasks are called for which there is no room any more."""
MAX_FLOWS = 100
MAX_TASKS = 200  # of all flows together; a task costs about 35 series, most of them buckets of its histograms
EXPECTED = ("Success", "Failed", "Cancelled", "Crashed")
"""States that a flow run may end in, most often."""
UNFINISHED = ("Pending", "Submitted", "Running", "Retrying")
"""States of task runs that have not ended, most often."""
RUN_BOUNDS = (1, 5, 15, 60, 300, 900, 3_600, 10_800, 21_600, 43_200, 86_400)
TASK_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120, 600, 3_600)
CHUNK_BOUNDS = (1, 8, 64, 512, 4_096, 32_768)
LATENESS_BOUNDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3_600)


class Metrics:
    """An observer that counts; one may be given to any number of runs, also at the same time.

    Parameters
    ----------
    max_tasks, max_flows
        How many have labels of their own; all others are `OTHER`.

    Examples
    --------
    >>> from anabranch import Flow, task
    >>> @task
    ... def one() -> int:
    ...     return 1
    >>> with Flow("counted") as flow:
    ...     node = one()
    >>> metrics = Metrics()
    >>> state = flow.run(observers=[metrics])
    >>> [line for line in metrics.text().splitlines() if line.startswith("anabranch_task_runs_total")]
    ['anabranch_task_runs_total{flow="counted",state="Success",task="one"} 1.0']
    """

    def __init__(self, *, max_tasks: int = MAX_TASKS, max_flows: int = MAX_FLOWS) -> None:
        self._limits = {"flow": max_flows, "task": max_tasks}
        self._known: dict[str, set[tuple[str, ...]]] = {"flow": set(), "task": set()}
        self._lock = threading.Lock()
        self._runs: dict[int, _Run] = {}
        self._watched: set[str] = set()
        """Labels of flows with runs that this has observed, and not only heard of from other processes."""
        flow, task, state = ("flow",), ("flow", "task"), ("flow", "task", "state")
        self.info = Family("anabranch_info", "gauge", "Versions.", ("version", "python"), "max")
        self.flow_runs = Family("anabranch_flow_runs_total", "counter", "Flow runs that ended.", ("flow", "state"))
        self.flow_seconds = Histogram("anabranch_flow_run_duration_seconds", "Duration of flow runs.", flow, RUN_BOUNDS)
        self.active = Family("anabranch_flow_runs_active", "gauge", "Flow runs that go on.", flow, is_lasting=False)
        self.lateness = Histogram(
            "anabranch_flow_run_lateness_seconds", "How long after it was due a run began.", flow, LATENESS_BOUNDS
        )
        self.last_success = Family(
            "anabranch_flow_run_last_success_timestamp_seconds", "gauge", "When a flow run last ended well.", flow,
            "max",
        )  # fmt: skip
        self.last_end = Family(
            "anabranch_flow_run_last_completion_timestamp_seconds", "gauge", "When a flow run last ended.", flow, "max"
        )
        self.memory = Family(
            "anabranch_driver_resident_memory_bytes", "gauge", "Memory of the process of a run, the largest of a flow.",
            flow, "max", is_lasting=False,
        )  # fmt: skip
        self.task_runs = Family(
            "anabranch_task_runs_total", "counter", "Task runs that ended; each element of a map is one.", state
        )
        self.task_seconds = Histogram(
            "anabranch_task_run_duration_seconds", "Duration of task runs; of elements, the mean of their chunk.",
            task, TASK_BOUNDS,
        )  # fmt: skip
        self.retries = Family("anabranch_task_retries_total", "counter", "Attempts beyond the first.", task)
        self.cache_hits = Family(
            "anabranch_task_cache_hits_total", "counter", "Task runs whose value was there before.", task
        )
        self.losses = Family(
            "anabranch_task_losses_total", "counter", "Task runs that did not come back, as when a worker died.", task
        )
        self.stuck = Family(
            "anabranch_task_runs_stuck", "gauge", "Task runs on their way while the watchdog hears of none.", task,
            is_lasting=False,
        )  # fmt: skip
        self.in_state = Family(
            "anabranch_task_runs_in_state", "gauge", "Task runs that have not ended; each element of a map is one.",
            ("flow", "state"), is_lasting=False,
        )  # fmt: skip
        self.chunks = Histogram("anabranch_chunk_elements", "Elements of chunks.", task, CHUNK_BOUNDS)
        self.info.put(1, VERSION, platform.python_version())

    @property
    def families(self) -> dict[str, Family | Histogram]:
        """All metrics by name."""
        return {each.name: each for each in vars(self).values() if isinstance(each, (Family, Histogram))}

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        with self._lock:
            self._take(event)

    def text(self) -> str:
        """All metrics, in Prometheus's text format."""
        with self._lock:
            self._measure()
            return render_families(self.families.values())

    # Of several processes together ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """All that was counted, as JSON has it."""
        with self._lock:
            self._measure()
            return {name: family.dump() for name, family in self.families.items() if family.values}

    def absorb(self, snapshot: Mapping[str, Any], *, is_over: bool = False) -> None:
        """Add what another process has counted; of one that is over, only what still means something."""
        with self._lock:
            for name, family in self.families.items():
                dumped = snapshot.get(name, [])
                if is_over and not family.is_lasting:
                    dumped = [[labels, 0] for labels, _ in dumped] if family is not self.memory else []
                family.absorb(dumped, self._relabelled)

    def note_end(self, flow_name: str, state: str) -> None:
        """Count a run that ended without ever having begun."""
        with self._lock:
            self.flow_runs.add(1, self._label("flow", flow_name), state)

    def note_lateness(self, flow_name: str, seconds: float) -> None:
        """Note how long after it was due a run began."""
        with self._lock:
            self.lateness.observe(max(0.0, seconds), self._label("flow", flow_name))

    def expect(self, flow_name: str, *, lateness: bool = False) -> None:
        """Have the counters of a flow's runs begin at zero: Prometheus cannot see a counter rise that begins at one."""
        with self._lock:
            flow = self._label("flow", flow_name)
            self._expect(flow)
            if lateness:
                self.lateness.expect(flow)

    def _expect(self, flow: str) -> None:
        self.flow_seconds.expect(flow)
        for state in EXPECTED:
            self.flow_runs.add(0, flow, state)

    def flow_label(self, flow_name: str) -> str:
        """What a flow is called here: by its name, as long as there is room."""
        with self._lock:
            return self._label("flow", flow_name)

    # Events -----------------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        """Runs at the same time are told apart by the thread that tells of them: each has one of its own."""
        driver = threading.get_ident()
        if isinstance(event, RunStarted):
            self._runs.pop(driver, None)  # of a thread that ended before its run did
            run = self._runs[driver] = _Run(self._label("flow", event.flow_name))
            self._expect(run.flow)
            self._watched.add(run.flow)
            self.active.add(0, run.flow)  # what gauges had once stays, at 0
            for state_name in UNFINISHED:
                self.in_state.add(0, run.flow, state_name)
        elif driver not in self._runs:
            return
        run = self._runs[driver]
        match event:
            case UnitEnded():
                self._count_unit(run, event)
            case TaskChanged(_, slug, state) if isinstance(state, Finished):
                before = run.node(slug).final()
                run.take(event)
                node = run.node(slug)
                if node.kind not in STEPS:  # what ended without a report: the engine decided it, or the run ended first
                    self._count(run, slug, state.name, node.final() - before)
                return
            case UnitLost(_, nodes, elements):
                for slug in nodes:
                    self.losses.add(elements, run.flow, self._task(run, slug))
            case RunFinished(now, state):
                del self._runs[driver]
                self.flow_runs.add(1, run.flow, state.name)
                self.flow_seconds.observe(max(0.0, run.between_s(run.began or now, now)), run.flow)
                self.last_end.put(now, run.flow)
                if state.is_successful():
                    self.last_success.put(now, run.flow)
        run.take(event)

    def _count_unit(self, run: _Run, unit: UnitEnded) -> None:
        if unit.is_recorded:
            return
        for slug, state in unit.singles.items():
            node = run.node(slug)
            if isinstance(state, Finished) and node.kind not in STEPS and not node.is_done:
                self._count(run, slug, state.name, 1)
                self._note_attempts(run, slug, state.attempt - 1)
                if state.duration_s is not None:
                    self.task_seconds.observe(state.duration_s, run.flow, self._task(run, slug))
        for slug, codes in unit.codes.items():
            indices, ended = run.node(slug).ends(unit.indices, codes)
            for code in set(ended):
                self._count(run, slug, BY_CODE[code].__name__, ended.count(code))
            if codes:
                self._note_attempts(run, slug, retries_of(unit.records.get(slug, {}), indices))
            if codes and unit.seconds:
                labels = run.flow, self._task(run, slug)
                self.chunks.observe(len(codes), *labels)
                self.task_seconds.observe(unit.seconds / len(unit.codes) / len(codes), *labels, times=len(codes))

    def _count(self, run: _Run, slug: str, state: str, times: int) -> None:
        if times > 0:
            task = self._task(run, slug)
            self.task_runs.add(times, run.flow, task, state)
            if state == Cached.__name__:
                self.cache_hits.add(times, run.flow, task)

    def _note_attempts(self, run: _Run, slug: str, again: int) -> None:
        task = self._task(run, slug)
        self.retries.add(again, run.flow, task)
        for family in (self.losses, self.cache_hits):  # these begin at zero
            family.add(0, run.flow, task)

    def _measure(self) -> None:
        """Have the gauges say how the runs stand that go on."""
        self.memory.values.clear()
        for family in (self.active, self.in_state, self.stuck):
            family.values.update({labels: 0.0 for labels in family.values if labels[0] in self._watched})
        nbytes = psutil.Process().memory_info().rss if self._runs else 0
        for run in self._runs.values():
            self.memory.put(nbytes, run.flow)
            self.active.add(1, run.flow)
            for node in run.tasks():
                if not node.is_done:
                    for code, number in node.unfinished().items():
                        self.in_state.add(number, run.flow, BY_CODE[code].__name__)
            for slug, number in run.silent.items():
                self.stuck.add(number, run.flow, self._task(run, slug))

    # Labels -----------------------------------------------------------------------------------------------------------

    def _task(self, run: _Run, slug: str) -> str:
        return self._label("task", run.flow, slug)

    def _label(self, kind: Literal["flow", "task"], *values: str) -> str:
        if kind == "task" and values[0] == OTHER:
            return OTHER
        known = self._known[kind]
        if values not in known:
            if len(known) >= self._limits[kind]:
                return OTHER
            known.add(values)
        return values[-1]

    def _relabelled(self, names: Labels, values: Labels) -> Labels:
        found = dict(zip(names, values, strict=True))
        if "flow" in found:
            found["flow"] = self._label("flow", found["flow"])
        if "task" in found:
            found["task"] = self._label("task", found["flow"], found["task"])
        return tuple(found.values())


class _Run(RunModel[NodeModel]):
    """A run that goes on."""

    def __init__(self, flow: str) -> None:
        super().__init__(NodeModel)
        self.flow = flow
        """What the flow is called here."""
