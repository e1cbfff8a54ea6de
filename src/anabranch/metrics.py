"""Metrics of runs for Prometheus: an observer that counts, and ways to hand over what it counted.

Labels are flow, task and state, never a run or an element, and there is a limit to how many of each. An element counts
as a task run; where elements are timed a chunk at a time, each has the mean of its chunk.
"""

from __future__ import annotations

import os
import platform
import tempfile
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.parse import quote, urlsplit

from anabranch.errors import MetricsError
from anabranch.events import Event, MapAdvanced, RunFinished, RunStarted, TaskChanged, UnitEnded
from anabranch.exposition import Family, Histogram, text_of
from anabranch.states import BY_CODE, FIRST_FINAL_CODE, Cached, Finished, State
from anabranch.version import VERSION

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
MAX_FLOWS = 200
MAX_TASKS = 200  # of all flows together; a label set costs a series of each of six metrics
STEPS = frozenset({"parameter", "condition", "merge", "collect", "flatten"})  # nodes that nobody wrote as tasks
RUN_BOUNDS = (1, 5, 15, 60, 300, 900, 3_600, 10_800, 21_600, 43_200, 86_400)
TASK_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120, 600, 3_600)
CHUNK_BOUNDS = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536)
PUSH_S = 5.0  # for a gateway to answer: it is on the way out of a short run


class Metrics:
    """An observer that counts; one may be given to any number of runs, also at the same time.

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
    >>> [line for line in metrics.text().splitlines() if line.startswith("anabranch_flow_runs_total")]
    ['anabranch_flow_runs_total{flow="counted",state="Success"} 1']
    """

    def __init__(self, *, max_tasks: int = MAX_TASKS, max_flows: int = MAX_FLOWS) -> None:
        self._limits = {"flow": max_flows, "task": max_tasks}
        self._known: dict[str, set[tuple[str, ...]]] = {"flow": set(), "task": set()}
        self._lock = threading.Lock()
        self._runs: dict[int, _Run] = {}
        flow, task, state = ("flow",), ("flow", "task"), ("flow", "task", "state")
        self.flow_runs = Family("anabranch_flow_runs_total", "counter", "Flow runs that ended.", ("flow", "state"))
        self.flow_seconds = Histogram("anabranch_flow_run_duration_seconds", "Duration of flow runs.", flow, RUN_BOUNDS)
        self.active = Family("anabranch_flow_runs_active", "gauge", "Flow runs that go on.", flow)
        self.last_success = Family(
            "anabranch_flow_run_last_success_timestamp_seconds", "gauge", "When a flow run last ended well.", flow
        )
        self.last_end = Family(
            "anabranch_flow_run_last_completion_timestamp_seconds", "gauge", "When a flow run last ended.", flow
        )
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
        self.in_state = Family(
            "anabranch_task_runs_in_state", "gauge", "Elements of maps that wait, by state.", ("flow", "state")
        )
        self.chunks = Histogram("anabranch_chunk_elements", "Elements of chunks.", task, CHUNK_BOUNDS)
        self.info = Family("anabranch_info", "gauge", "Versions.", ("version", "python"))
        self.info.put(1, VERSION, platform.python_version())

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        with self._lock:
            self._take(event)

    def text(self) -> str:
        """All metrics, in Prometheus's text format."""
        with self._lock:
            return text_of([
                self.info, self.flow_runs, self.flow_seconds, self.active, self.last_success, self.last_end,
                self.task_runs, self.task_seconds, self.retries, self.cache_hits, self.in_state, self.chunks,
            ])  # fmt: skip

    # Events -----------------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        """Runs at the same time are told apart by the thread that tells of them: each has a driver of its own."""
        driver = threading.get_ident()
        if isinstance(event, RunStarted):
            run = self._runs[driver] = _Run(self._label("flow", event.flow_name), event)
            self.active.add(1, run.flow)
            return
        run_or_none = self._runs.get(driver)
        if run_or_none is None:
            return
        run = run_or_none
        match event:
            case UnitEnded():
                self._count_unit(run, event)
            case TaskChanged(_, slug, state) if isinstance(state, Finished):
                self._count_rest(run, slug, state)
            case MapAdvanced(_, slug, width, done, _, retrying):
                run.waiting[slug] = (max(0, width - done - retrying), retrying)
                self._show_waiting(run.flow)
            case RunFinished(now, state):
                del self._runs[driver]
                self._finish(run, now, state)

    def _count_unit(self, run: _Run, unit: UnitEnded) -> None:
        for slug, state in unit.singles.items():
            if isinstance(state, Finished):
                run.counted[slug] += 1
                if unit.is_recorded or slug in run.steps:
                    continue
                task = self._task(run, slug)
                self._count(run.flow, task, state.name, 1)
                self.retries.add(state.attempt - 1, run.flow, task)
                if state.duration_s is not None:
                    self.task_seconds.observe(state.duration_s, run.flow, task)
        for slug, codes in unit.codes.items():
            task, ended = self._task(run, slug), 0
            for code in set(codes):
                if code >= FIRST_FINAL_CODE:
                    times = codes.count(code)
                    ended += times
                    if not unit.is_recorded:
                        self._count(run.flow, task, BY_CODE[code].__name__, times)
            run.counted[slug] += ended
            if unit.is_recorded or not codes:
                continue
            again = sum(each.attempt - 1 for each in unit.records.get(slug, {}).values() if each.is_finished())
            self.retries.add(again, run.flow, task)
            self.chunks.observe(len(codes), run.flow, task)
            self.task_seconds.observe(unit.seconds / len(unit.codes) / len(codes), run.flow, task, times=len(codes))

    def _count(self, flow: str, task: str, state: str, times: int) -> None:
        self.task_runs.add(times, flow, task, state)
        if state == Cached.__name__:
            self.cache_hits.add(times, flow, task)

    def _count_rest(self, run: _Run, slug: str, state: State) -> None:
        """What ended without a report: the engine decided it, or the run ended first."""
        if run.waiting.pop(slug, None) is not None:
            self._show_waiting(run.flow)
        expected = state.counts.total if state.counts is not None and state.counts.total else 1
        rest = expected - run.counted[slug]
        if rest > 0 and slug not in run.steps:
            run.counted[slug] += rest
            self._count(run.flow, self._task(run, slug), state.name, rest)

    def _finish(self, run: _Run, now: float, state: State) -> None:
        self.active.add(-1, run.flow)
        self._show_waiting(run.flow)
        self.flow_runs.add(1, run.flow, state.name)
        self.flow_seconds.observe(max(0.0, now - run.began), run.flow)
        self.last_end.put(now, run.flow)
        if state.is_successful():
            self.last_success.put(now, run.flow)

    def _show_waiting(self, flow: str) -> None:
        parts = [each for run in self._runs.values() if run.flow == flow for each in run.waiting.values()]
        self.in_state.put(sum(pending for pending, _ in parts), flow, "Pending")
        self.in_state.put(sum(retrying for _, retrying in parts), flow, "Retrying")

    def _task(self, run: _Run, slug: str) -> str:
        return self._label("task", run.flow, slug)

    def _label(self, kind: str, *values: str) -> str:
        known = self._known[kind]
        if values not in known:
            if len(known) >= self._limits[kind]:
                return OTHER
            known.add(values)
        return values[-1]


class _Run:
    """A run that goes on."""

    def __init__(self, flow: str, event: RunStarted) -> None:
        self.flow = flow
        self.began = event.now
        self.steps = frozenset(slug for slug, kind in event.nodes.items() if kind in STEPS)
        self.counted: Counter[str] = Counter()
        self.waiting: dict[str, tuple[int, int]] = {}


# Handing over ---------------------------------------------------------------------------------------------------------


def write_textfile(metrics: Metrics, path: str | os.PathLike[str]) -> None:
    """Write the metrics to a file for node_exporter's textfile collector; it is there as a whole or not at all.

    Raises
    ------
    MetricsError
        It cannot be written.
    """
    file = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name[:100]}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(metrics.text())
            Path(name).chmod(0o644)  # the collector is another user
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise MetricsError(f"metrics cannot be written to {str(file)!r}: {error.strerror or error}") from error


def push(metrics: Metrics, gateway: str, flow_name: str, *, timeout_s: float = PUSH_S) -> None:
    """Send the metrics to a Pushgateway, in the place of what it has of the flow.

    Parameters
    ----------
    gateway
        ``host:port``, or an address with ``http://`` or ``https://``.

    Raises
    ------
    MetricsError
        It does not take them.
    """
    base = gateway if "://" in gateway else f"http://{gateway}"
    if not _is_address(base):
        raise MetricsError(f"pushgateway: expected host:port or an http address, found {gateway!r}")
    url = f"{base.rstrip('/')}/metrics/job/anabranch/flow/{quote(flow_name, safe='')}"
    request = urllib.request.Request(
        url, data=metrics.text().encode(), method="POST", headers={"Content-Type": CONTENT_TYPE}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s):
            pass
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise MetricsError(f"the pushgateway at {gateway} did not take the metrics: {error}") from error


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
