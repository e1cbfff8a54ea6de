"""Recorded runs as events, so that pages of finished runs are made just as those of running ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain

from anabranch.base.events import (
    ElementBegan,
    Event,
    MapAdvanced,
    Noticed,
    RunFinished,
    RunStarted,
    TaskChanged,
    UnitEnded,
    UnitLost,
)
from anabranch.base.states import (
    BY_CODE,
    FIRST_FINAL_CODE,
    Cancelled,
    Crashed,
    Finished,
    Paused,
    Retrying,
    State,
    counts_of,
)
from anabranch.definition.shape import shape_from
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.runs import (
    INTERRUPTED,
    ArtifactRow,
    ChunkRow,
    ElementRow,
    LogQuery,
    LogRow,
    RunQuery,
    RunRecord,
    RunStore,
    TaskRunRow,
)
from anabranch.runs.read import lookup
from anabranch.runs.record.reports import codes_of, element_state, facts_of, running_of, single_state

MAX_NOTICES = 50  # of the run itself: one each half minute or less

_BY_NAME: Mapping[str, type[State]] = {cls.__name__: cls for cls in BY_CODE.values()}

MAX_EARLIER = 10  # runs that one is compared with
LINES_OF_ONE = 200
LOG_LINES = 500
SETTLE_S = 5.0  # a transaction takes less


def read_model(store: RunStore, run_id: str) -> tuple[RunRecord, PageModel]:
    """A recorded run, by its id or a beginning of it, as pages show it. Nothing of the user's is loaded.

    Raises
    ------
    RunStoreError
        There is none, or several, or its rows cannot be read.
    """
    follower = RunFollower(store, run_id)
    return follower.record, follower.model


class RunFollower:
    """A recorded run and its model, which is told what is recorded later.

    Parameters
    ----------
    store
        Where the run is.
    run_id
        Its id, or a beginning of it.
    clock
        Seconds since the epoch, by which the time of a run that goes on passes.

    Raises
    ------
    RunStoreError
        There is no such run, or several, or its rows cannot be read.
    """

    def __init__(self, store: RunStore, run_id: str, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self.record = lookup.as_it_stands(store.get_run(run_id))
        self._begin()

    def _begin(self) -> None:
        """Make a model, of all that is recorded."""
        record = self.record
        self.model = PageModel(shape_from(lookup.facts_of(record).get("shape")))
        self.model.parameters = dict(record.details.parameters) if record.details is not None else {}
        began = record.start.timestamp()
        self.model.take(RunStarted(began, record.flow_name, record.run_id, _kinds(record), began, record.rests))
        self._rows = _Rows()
        self._read("Running")

    def follow(self) -> None:
        """Tell the model what has been recorded since; it is another one if somebody has taken the run up again."""
        before, self.record = self.record, lookup.as_it_stands(self._store.get_run(self.record.run_id))
        if self.record.epoch != before.epoch or before.state not in ("Running", self.record.state):
            self._begin()
        else:
            self._read(before.state)

    def tick(self) -> None:
        """Let time pass in a run that goes on."""
        if self.record.state == "Running":
            self.model.tick(self._clock())

    def _read(self, before: str) -> None:
        now = self._clock() if self.record.state == "Running" else _end_of(self.record)
        rows = _read_rows(self._store, self.record, self._rows)
        for event in _news(self.record, rows, self._rows, now):
            self.model.take(event)
        self._rows = rows
        if self.record.state not in ("Running", before):
            self.model.take(RunFinished(now, _run_state(self.record)))


@dataclass(frozen=True, slots=True)
class _Rows:
    """What is recorded of a run beside its own row."""

    task_runs: Mapping[str, TaskRunRow] = field(default_factory=dict)
    chunks: Mapping[str, Sequence[ChunkRow]] = field(default_factory=dict)
    """Of maps, and of what may be one; all slugs of the flow are in one of these two."""
    notices: Sequence[LogRow] = ()
    """Warnings of the run itself."""
    heard: tuple[int, int] = (0, -1)
    """Place of the last log line when they were read."""
    elements: Mapping[str, Mapping[int, ElementRow]] = field(default_factory=dict)
    """Of maps with chunks that were not read before."""
    new: Mapping[str, Sequence[ChunkRow]] = field(default_factory=dict)
    """Chunks that were not read before."""


def _kinds(record: RunRecord) -> Mapping[str, str]:
    return dict.fromkeys(record.details.code if record.details is not None else {}, "task")


def _read_rows(store: RunStore, record: RunRecord, before: _Rows) -> _Rows:
    """What is recorded of a run; of maps that had ended when they were read last, nothing is read again."""
    run_id = record.run_id
    rows = {row.slug: row for row in store.task_runs(run_id)}
    chunks: dict[str, Sequence[ChunkRow]] = {}
    new: dict[str, list[ChunkRow]] = {}
    for slug in dict.fromkeys((*_kinds(record), *rows)):
        row = rows.get(slug)
        if row is not None and row.width is None:
            continue
        had = before.chunks.get(slug)
        if had is not None and row is not None and row.code >= FIRST_FINAL_CODE and row == before.task_runs.get(slug):
            chunks[slug] = had
            continue
        chunks[slug] = store.chunks(run_id, slug)
        known = {chunk.serial: chunk for chunk in had or ()}
        if found := [chunk for chunk in chunks[slug] if known.get(chunk.serial) != chunk]:
            new[slug] = found
    last, notices = store.last_logs(run_id, LogQuery(after=before.heard), limit=1), before.notices
    heard = last[-1].place if last else before.heard
    if last and len(notices) < MAX_NOTICES:  # of the run, and of no task
        new_ones = store.logs(run_id, "", level=logging.WARNING, limit=MAX_NOTICES - len(notices), after=before.heard)
        notices = [*notices, *(each for each in new_ones if each.place <= heard)]
    elements: dict[str, dict[int, ElementRow]] = {}
    for element in chain.from_iterable(store.elements(run_id, slug) for slug in new):
        elements.setdefault(element.slug, {})[element.index] = element
    return _Rows(rows, chunks, notices, heard, elements, new)


def _news(record: RunRecord, rows: _Rows, before: _Rows, now: float) -> Iterator[Event]:
    """What is new, chunk by chunk, as observers would have been told."""
    began = record.start.timestamp()
    for unit in _units(rows.new):
        first = unit[0][1]
        yield UnitEnded(
            now=_seconds_or(first.start, began) + first.seconds,
            worker=first.worker,
            started=first.start.timestamp() if first.start else 0.0,
            seconds=first.seconds,
            indices=first.indices,
            codes={slug: chunk.codes for slug, chunk in unit},
            records={slug: _records(chunk, rows.elements.get(slug, {})) for slug, chunk in unit},
        )
    for slug, row in rows.task_runs.items():
        if slug in rows.new or row != before.task_runs.get(slug):
            codes = codes_of(rows.chunks.get(slug, ()))
            if row.state == "Running" and row.width is not None:
                yield from _map_events(row, codes, before.task_runs.get(slug), now)
            else:
                yield from _task_events(row, codes, began)
    for line in rows.notices[len(before.notices) :]:
        yield Noticed(line.time.timestamp(), line.text)


def _units(chunks: Mapping[str, Sequence[ChunkRow]]) -> list[list[tuple[str, ChunkRow]]]:
    """Chunks with their slugs, as they were reported: those of a chain of maps together, as their time is one."""
    found: dict[tuple[object, ...], list[tuple[str, ChunkRow]]] = {}
    for slug, each in chunks.items():
        for chunk in each:
            extent = (len(chunk.indices), *chunk.indices[:1], *chunk.indices[-1:])
            found.setdefault((chunk.serial, chunk.start, chunk.worker, *extent), []).append((slug, chunk))
    return sorted(found.values(), key=lambda unit: unit[0][1].serial)


def _records(chunk: ChunkRow, own: Mapping[int, ElementRow]) -> dict[int, State]:
    """States of a chunk's elements that have rows of the same states."""
    if not own:
        return {}
    return {
        index: element_state(own[index], facts_of(own[index].failure))
        for index, code in zip(chunk.indices, chunk.codes, strict=True)
        if index in own and own[index].code == code
    }


def _map_events(row: TaskRunRow, codes: bytearray, before: TaskRunRow | None, now: float) -> Iterator[Event]:
    """How far a map is that goes on, and which of its elements are being run."""
    assert row.width is not None
    counts = counts_of(codes)
    done = counts.successful + counts.skipped + counts.failed
    yield MapAdvanced(now, row.slug, row.width, done, counts.by_word()["failed"], codes.count(Retrying.code))
    ran, runs = ({each.map_index: each for each in (running_of(r) if r is not None else ())} for r in (before, row))
    if gone := [index for index in ran if index is not None and index not in runs]:
        yield UnitLost(now, [row.slug], len(gone), "", gone)
    for index, state in runs.items():
        if state != ran.get(index):
            yield ElementBegan(now, row.slug, state)


def _task_events(row: TaskRunRow, codes: bytearray, began: float) -> Iterator[Event]:
    """How a task that is no map stands, or one that has ended."""
    counts, state = counts_of(codes), single_state(row, facts_of(row.failure))
    if row.width is not None:
        state = replace(state, counts=replace(counts, total=row.width) if codes else None)
    now = _seconds_or(row.end or row.start, began)
    if row.width is None and row.start is not None and row.end is not None:
        took = (row.end - row.start).total_seconds()
        yield UnitEnded(now, row.worker, row.start.timestamp(), took, singles={row.slug: state})
    yield TaskChanged(now, row.slug, state)


def _run_state(record: RunRecord) -> State:
    """State of a run that is not running; one whose driver is gone reads as crashed, with that message."""
    if record.state == INTERRUPTED:
        return Crashed(message=f"{INTERRUPTED}: {record.message}")
    found = _BY_NAME.get(record.state, Cancelled)
    end = record.end if issubclass(found, (Finished, Paused)) else None
    return found(message=record.message, start_time=record.start, end_time=end)


def _end_of(record: RunRecord) -> float:
    return _seconds_or(record.end or record.heard or record.lease_until, record.start.timestamp())


def _seconds_or(moment: datetime | None, default: float) -> float:
    return moment.timestamp() if moment is not None else default


def earlier_seconds(store: RunStore, model: PageModel) -> list[float]:
    """Seconds that the last successful runs of a flow took before this one, the newest first."""
    records = store.list_runs(RunQuery(flow_name=model.flow_name, state="Success", limit=MAX_EARLIER + 1))
    began = model.began or time.time()
    return [
        each.took_s
        for each in records
        if each.took_s is not None and each.run_id != model.run_id and each.start.timestamp() < began
    ][:MAX_EARLIER]


class ArtifactReader:
    """Reads what the tasks of a run have shown: all of it once, and then what is new."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int, int, int], ArtifactRow] = {}
        self._since: datetime | None = None

    def read(self, store: RunStore, run_id: str) -> list[ArtifactRow]:
        """All of it, by slug, element, attempt and number."""
        found = store.artifacts(run_id, since=self._since)
        for row in found:
            self._rows[row.slug, -1 if row.index is None else row.index, row.attempt, row.number] = row
        if found:  # what is written in a moment may be a little older
            self._since = max(row.time for row in found) - timedelta(seconds=SETTLE_S)
        return [self._rows[key] for key in sorted(self._rows)]


def lines_of(store: RunStore, run_id: str, slug: str, index: int | None) -> list[LogRow]:
    """The first log lines of a task run."""
    return store.logs(run_id, slug, index=index, limit=LINES_OF_ONE)


def last_lines(store: RunStore, run_id: str, query: LogQuery | None = None) -> list[LogRow]:
    """The last log lines of a run."""
    return store.last_logs(run_id, query or LogQuery(), limit=LOG_LINES)
