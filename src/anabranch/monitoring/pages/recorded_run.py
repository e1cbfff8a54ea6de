"""Recorded runs as events, so that pages of finished runs are made just as those of running ones."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b

from anabranch.base.events import (
    ElementBegan,
    Event,
    MapAdvanced,
    Noticed,
    RunFinished,
    RunStarted,
    TaskChanged,
    UnitEnded,
)
from anabranch.base.states import BY_CODE, Cancelled, Crashed, Finished, Paused, Retrying, State, counts_of
from anabranch.definition.shape import shape_from
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.runs import INTERRUPTED, ChunkRow, ElementRow, LogRow, RunRecord, RunStore, TaskRunRow
from anabranch.runs.read import lookup
from anabranch.runs.record.reports import codes_of, element_state, facts_of, running_of, single_state

MAX_NOTICES = 50  # of the run itself: one each half minute or less

_BY_NAME: Mapping[str, type[State]] = {cls.__name__: cls for cls in BY_CODE.values()}

LOG_LINES = 500
LOG_PAGES = 10


def read_model(store: RunStore, run_id: str) -> tuple[RunRecord, PageModel]:
    """A recorded run, by its id or a beginning of it, as pages show it. Nothing of the user's is loaded.

    Raises
    ------
    RunStoreError
        There is none, or several, or its rows cannot be read.
    """
    record = lookup.as_it_stands(store.get_run(run_id))
    return record, make_model(record, read_rows(store, record))


@dataclass(frozen=True, slots=True)
class RecordedRows:
    """What is recorded of a run beside its own row."""

    task_runs: Mapping[str, TaskRunRow]
    chunks: Mapping[str, Sequence[ChunkRow]]
    """Of maps, and of what may be one; all slugs of the flow are in one of these two."""
    elements: Sequence[ElementRow]
    notices: Sequence[LogRow]
    """Warnings of the run itself."""

    def digest(self) -> bytes:
        """A digest, so that it can be told whether anything has changed; it may change though nothing has."""
        return blake2b(pickle.dumps((self.task_runs, self.chunks, self.elements, self.notices))).digest()


def read_rows(store: RunStore, record: RunRecord) -> RecordedRows:
    """What is recorded of a run.

    Raises
    ------
    RunStoreError
        It cannot be read.
    """
    run_id, known = record.run_id, record.details.code if record.details is not None else {}
    rows = {row.slug: row for row in store.task_runs(run_id)}
    chunks = {
        slug: store.chunks(run_id, slug)
        for slug in dict.fromkeys((*known, *rows))
        if slug not in rows or rows[slug].width is not None
    }
    notices = store.logs(run_id, "", level=logging.WARNING, limit=MAX_NOTICES)  # of the run, and of no task
    return RecordedRows(rows, chunks, store.elements(run_id), notices)


def make_model(record: RunRecord, rows: RecordedRows) -> PageModel:
    """A recorded run as pages show it."""
    model = PageModel(shape_from(lookup.facts_of(record).get("shape")))
    model.parameters = dict(record.details.parameters) if record.details is not None else {}
    for event in _events(record, rows):
        model.take(event)
    return model


def _events(record: RunRecord, rows: RecordedRows) -> Iterator[Event]:
    """What happened in a recorded run, chunk by chunk, as observers would have been told."""
    known = record.details.code if record.details is not None else {}
    elements: dict[str, dict[int, ElementRow]] = {}
    for element in rows.elements:
        elements.setdefault(element.slug, {})[element.index] = element
    began = record.start.timestamp()
    slugs = dict.fromkeys((*known, *rows.task_runs), "task")
    yield RunStarted(began, record.flow_name, record.run_id, slugs)
    for unit in _units(rows.chunks):
        first = unit[0][1]
        yield UnitEnded(
            now=_seconds_or(first.start, began) + first.seconds,
            worker=first.worker,
            started=first.start.timestamp() if first.start else 0.0,
            seconds=first.seconds,
            indices=first.indices,
            codes={slug: chunk.codes for slug, chunk in unit},
            records={slug: _records(chunk, elements.get(slug, {})) for slug, chunk in unit},
        )
    for slug in slugs:
        if (row := rows.task_runs.get(slug)) is not None:
            yield from _task_events(row, codes_of(rows.chunks.get(slug, ())), began)
    for line in rows.notices:
        yield Noticed(line.time.timestamp(), line.text)
    ended = record.end.timestamp() if record.end else None
    if record.state == "Running":
        return
    state = _run_state(record)
    yield RunFinished(ended or _seconds_or(record.lease_until, began), state)


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


def _task_events(row: TaskRunRow, codes: bytearray, began: float) -> Iterator[Event]:
    counts, state = counts_of(codes), single_state(row, facts_of(row.failure))
    if row.width is not None:
        state = replace(state, counts=replace(counts, total=row.width) if codes else None)
    now = _seconds_or(row.end or row.start, began)
    if row.state == "Running" and row.width is not None:
        done = counts.successful + counts.skipped + counts.failed
        yield MapAdvanced(now, row.slug, row.width, done, counts.by_word()["failed"], codes.count(Retrying.code))
        for state in running_of(row):
            yield ElementBegan(now, row.slug, state)
        return
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


def _seconds_or(moment: datetime | None, default: float) -> float:
    return moment.timestamp() if moment is not None else default


def last_lines(store: RunStore, run_id: str) -> list[LogRow]:
    """The last log lines of a run; of more than ten pages of them, the last of the first ten pages."""
    found: list[LogRow] = []
    for page in range(LOG_PAGES):
        rows = store.logs(run_id, limit=LOG_LINES, offset=page * LOG_LINES)
        found = [*found, *rows][-LOG_LINES:]
        if len(rows) < LOG_LINES:
            break
    return found
