"""A recorded run as people look at it: how its tasks stand, what failed and why. Nothing of the user's is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from anabranch.base.running_elements import MAX_NAMED, RunningElements, since_text
from anabranch.base.states import (
    BY_CODE,
    FIRST_FAILED_CODE,
    Attempt,
    Cancelled,
    Counts,
    Failure,
    Running,
    State,
    TriggerFailed,
    counts_of,
)
from anabranch.runs.read.artifacts import artifact_data, short_artifacts
from anabranch.runs.read.lookup import as_it_stands, run_data
from anabranch.runs.record.reports import attempts_of, codes_of, facts_of, failure_of, running_of
from anabranch.runs.store.records import ArtifactRow, ChunkRow, ElementRow, RunQuery, RunRecord, RunStore, TaskRunRow
from anabranch.runs.store.troubles import TroubleTable

QUIET_S = 60.0  # without a sign of a task, from which on people are told
MAX_SLOWEST = 5
MAX_FAILURES = 100  # that are described; all of them are counted


@dataclass(frozen=True, slots=True)
class RecordedTask:
    """How a node stands."""

    slug: str
    state: str
    message: str = ""
    attempt: int = 1
    seconds: float | None = None
    worker: str = ""
    counts: Counts | None = None
    """Of a map's elements."""
    started: datetime | None = None
    """Since when it runs, if it does."""
    running: RunningElements = field(default_factory=RunningElements)
    """Elements of a map that workers are at."""

    @property
    def running_text(self) -> str:
        """What of it is being run, since when and where; nothing if nothing is, or nobody knows."""
        single = self.running_at(None)
        return f"running: {self.running}" if self.running else since_text(single) if single is not None else ""

    def running_at(self, index: int | None) -> State | None:
        """Since when and where an element is being run, or the task itself if it is no map; None if it is not."""
        if index is not None:
            return next((each for each in self.running if each.map_index == index), None)
        if self.state != "Running" or self.counts is not None:
            return None
        return Running(start_time=self.started, worker=self.worker, attempt=self.attempt)


@dataclass(frozen=True, slots=True)
class RecordedFailure:
    """A task run that failed by itself."""

    name: str
    """``parse[777]``."""
    state: str
    attempt: int
    failure: Failure
    worker: str = ""


@dataclass(frozen=True, slots=True)
class RecordedAttempts:
    """The attempts at a task run before its last one."""

    name: str
    """``parse[777]``."""
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True)
class RecordedChunk:
    """Elements of a map that ran one after the other, and how long they took."""

    slug: str
    first: int
    last: int
    width: int
    seconds: float
    worker: str = ""

    @property
    def name(self) -> str:
        """``parse[64–127]``."""
        return f"{self.slug}[{self.first}]" if self.width == 1 else f"{self.slug}[{self.first}–{self.last}]"


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run, its tasks in topological order, and what failed in it."""

    record: RunRecord
    tasks: Sequence[RecordedTask]
    failures: Sequence[RecordedFailure]
    """The first hundred."""
    failed: int
    """How many task runs and elements failed by themselves."""
    retried: Sequence[RecordedAttempts] = ()
    """Task runs that had several attempts, the first hundred."""
    slowest: Sequence[RecordedChunk] = ()
    """Chunks whose elements took longest on the average, the slowest first."""
    parts: Sequence[RunRecord] = ()
    """Runs that are part of it, the first hundred."""
    quiet_since: datetime | None = None
    """If it goes on: when something in it last began, ended or was logged."""
    artifacts: Sequence[ArtifactRow] = ()
    """What its tasks have shown, without what is large."""


def read_run(store: RunStore, run_id: str) -> RecordedRun:
    """A recorded run, by its id or a beginning of it.

    Raises
    ------
    RunStoreError
        There is none, or several, or its rows cannot be read.
    """
    record = as_it_stands(store.get_run(run_id))
    rows = {row.slug: row for row in store.task_runs(record.run_id)}
    elements: dict[str, list[ElementRow]] = {}
    for element in store.elements(record.run_id):
        elements.setdefault(element.slug, []).append(element)
    known = record.details.code if record.details is not None else {}
    tasks: list[RecordedTask] = []
    failures: list[RecordedFailure] = []
    failed = 0
    retried: list[RecordedAttempts] = []
    slowest: list[RecordedChunk] = []
    for slug in dict.fromkeys((*known, *rows)):
        row = rows.get(slug)
        named: list[tuple[str, ElementRow]] | list[tuple[str, TaskRunRow]]
        named = [(f"{slug}[{each.index}]", each) for each in elements.get(slug, ())] or ([(slug, row)] if row else [])
        retried += _retried(named)[: MAX_FAILURES - len(retried)]
        chunks = store.chunks(record.run_id, slug) if row is None or row.width is not None else []
        codes = codes_of(chunks)
        slowest = _slowest([*slowest, *map(_chunk, chunks)])
        tasks.append(_task(record, slug, row, codes))
        if codes:
            own = [each for each in elements.get(slug, ()) if codes[each.index] == each.code]
            failed += sum(codes.count(code) for code in BY_CODE if _is_own(code))
            failures += _failures([(f"{slug}[{each.index}]", each) for each in own])
        elif row is not None and _is_own(row.code):
            failed += 1
            failures += _failures([(slug, row)])
    found = store.list_runs(RunQuery(part_of=record.run_id, sort="start", limit=MAX_FAILURES))
    parts = [as_it_stands(each) for each in found]
    quiet, shown = quiet_since(store, record), list(short_artifacts(store, record.run_id))
    return RecordedRun(record, tasks, failures[:MAX_FAILURES], failed, retried, slowest, parts, quiet, shown)


def quiet_since(store: RunStore, record: RunRecord) -> datetime | None:
    """When something in a run last began, ended or was logged; None if the run does not go on."""
    if record.state != "Running":
        return None
    from anabranch.runs.store.relational import RelationalRunStore

    sign = TroubleTable(store.database).last_sign(record.run_id) if isinstance(store, RelationalRunStore) else None
    return max(filter(None, (record.start, record.held_since, sign)))


def _retried(named: list[tuple[str, ElementRow]] | list[tuple[str, TaskRunRow]]) -> list[RecordedAttempts]:
    found = ((name, attempts_of(facts_of(row.failure))) for name, row in named if row.failure is not None)
    return [RecordedAttempts(name, attempts) for name, attempts in found if attempts]


def _chunk(row: ChunkRow) -> RecordedChunk:
    width = len(row.indices)
    first, last = (row.indices[0], row.indices[-1]) if width else (0, 0)
    return RecordedChunk(row.slug, first, last, width, row.seconds, row.worker)


def _slowest(chunks: list[RecordedChunk]) -> list[RecordedChunk]:
    timed = [each for each in chunks if each.seconds > 0 and each.width]
    return sorted(timed, key=lambda each: -each.seconds / each.width)[:MAX_SLOWEST]


def _is_own(code: int) -> bool:
    return code >= FIRST_FAILED_CODE and code not in (TriggerFailed.code, Cancelled.code)


def _failures(named: list[tuple[str, ElementRow]] | list[tuple[str, TaskRunRow]]) -> list[RecordedFailure]:
    found: list[RecordedFailure] = []
    for name, row in named:
        if _is_own(row.code) and len(found) < MAX_FAILURES:
            state = BY_CODE[row.code].__name__
            failure = failure_of(row) or Failure(state, row.message)
            worker = row.worker if isinstance(row, TaskRunRow) else facts_of(row.failure).get("worker", "")
            found.append(RecordedFailure(name, state, row.attempt, failure, str(worker or "")))
    return found


def _task(record: RunRecord, slug: str, row: TaskRunRow | None, codes: bytearray) -> RecordedTask:
    counts = None
    if codes or (row is not None and row.width is not None):
        width = max(len(codes), (row.width if row is not None else None) or 0)
        counts = replace(counts_of(codes), total=width)
    if row is None:
        return RecordedTask(slug, "Running" if codes else "Pending", counts=counts)
    took = record.between_s(row.start, row.end) if row.start is not None and row.end is not None else None
    started = row.start if row.state == "Running" else None
    running = running_of(row) if row.state == "Running" else RunningElements()
    return RecordedTask(slug, row.state, row.message, row.attempt, took, row.worker, counts, started, running)


def detail_data(run: RecordedRun) -> dict[str, Any]:
    """A run with its tasks and failures."""
    details = run.record.details
    return {
        **run_data(run.record),
        "parameters": dict(details.parameters) if details is not None else {},
        "versions": dict(details.versions) if details is not None else {},
        "quiet_since": run.quiet_since.isoformat() if run.quiet_since is not None else None,
        "parts": [{"run_id": each.run_id, "flow": each.flow_name, "state": each.state} for each in run.parts],
        "tasks": {task.slug: _task_data(task) for task in run.tasks},
        "slowest": [
            {"elements": each.name, "width": each.width, "seconds": each.seconds, "worker": each.worker}
            for each in run.slowest
        ],
        "attempts": [
            {
                "task_run": each.name,
                "attempt": attempt.number,
                "state": attempt.state,
                "reason": attempt.reason,
                "worker": attempt.worker,
                "began": attempt.start.isoformat() if attempt.start else None,
                "ended": attempt.end.isoformat() if attempt.end else None,
            }
            for each in run.retried
            for attempt in each.attempts
        ],
        "artifacts": [artifact_data(each) for each in run.artifacts],
        "failed": run.failed,
        "failures": [
            {
                "task_run": each.name,
                "state": each.state,
                "attempt": each.attempt,
                "worker": each.worker,
                "exception": each.failure.type_name,
                "message": each.failure.message,
                "where": each.failure.line,
                "inputs": dict(each.failure.inputs),
                "traceback": each.failure.traceback,
            }
            for each in run.failures
        ],
    }


def _task_data(task: RecordedTask) -> dict[str, Any]:
    data: dict[str, Any] = {
        "state": task.state,
        "message": task.message,
        "attempt": task.attempt,
        "seconds": task.seconds,
        "worker": task.worker,
    }
    if task.started is not None:
        data["since"] = task.started.isoformat()
    if task.counts is not None:
        data["elements"] = {"total": task.counts.total, **task.counts.by_word(), "running": len(task.running)}
        data["running"] = [
            {
                "element": each.map_index,
                "since": each.start_time.isoformat() if each.start_time else None,
                "worker": each.worker,
            }
            for each in list(task.running)[:MAX_NAMED]
        ]
    return data
