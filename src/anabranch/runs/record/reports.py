"""Reports as rows of the run store, and rows as reports.

Nothing of the user's is loaded unless a report is asked for: whoever only shows history has nothing to fear from it.
"""

from __future__ import annotations

import io
import logging
import pickle
from array import array
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, repeat
from typing import Any

from anabranch.base import origins
from anabranch.base.errors import RunStoreDamaged
from anabranch.base.masking import without_secrets
from anabranch.base.running_elements import MAX_NAMED, RunningElements
from anabranch.base.states import (
    BY_CODE,
    FIRST_FINAL_CODE,
    Attempt,
    Counts,
    Deferred,
    Failure,
    Finished,
    Paused,
    Pending,
    Retrying,
    Running,
    State,
    Success,
)
from anabranch.definition.frozen import FrozenGraph
from anabranch.engine.units.indices import Indices
from anabranch.engine.units.units import ColumnReport, Refs, Report, SingleReport
from anabranch.runs.record.refs import dump_note, dump_ref, dump_stored, load_enough, load_note, load_ref, load_stored
from anabranch.runs.store.codec import from_microseconds, to_microseconds
from anabranch.runs.store.records import Batch, ChunkRow, ElementRow, TaskRunRow

PARTS = 10**6
"""Chunks are numbered by this and the number of their unit: interim reports of a unit have rows of their own."""

_log = logging.getLogger("anabranch.recording")


# ---------------------------------------------------------------------------------------------------------------------
# Reports to rows


def batch_of(report: Report, graph: FrozenGraph) -> Batch:
    """Rows of a report. What was handed back, or does not belong to the graph, has none."""
    singles = (each for each in report.singles if each.slug in graph.nodes and _says_something(each.state))
    chunks: list[ChunkRow] = []
    elements: list[ElementRow] = []
    for column in report.columns:
        if column.slug in graph.nodes and report.indices is not None and len(report.indices):
            chunks.append(_chunk_row(report, report.indices, column))
            elements += (element_row(column.slug, index, state) for index, state in column.records.items())
    return Batch(
        task_runs=[task_run_row(each, graph.nodes[each.slug].name, report.worker) for each in singles],
        chunks=chunks,
        elements=elements,
    )


def _says_something(state: State) -> bool:
    return isinstance(state, (Finished, Retrying, Paused, Deferred))


def task_run_row(report: SingleReport, task_name: str, worker: str, *, running: Iterable[State] = ()) -> TaskRunRow:
    """Row of a node's own report; of a map, with those of its elements that workers are at."""
    state = report.state
    is_between = isinstance(state, (Pending, Running)) and not isinstance(state, Paused)
    looped = state.result if is_between and isinstance(state.result, tuple) else None
    return TaskRunRow(
        slug=report.slug,
        task_name=task_name,
        state=state.name,
        code=state.code,
        attempt=state.attempt,
        loop_count=looped[0] if looped else report.loop_count,
        start=state.start_time,
        end=state.end_time,
        worker=state.worker or worker,
        message=state.message,
        failure=_packed(state, width=report.width, unmappable=report.unmappable, running=_pack_running(running)),
        value=report.value,
        result=dump_ref(report.ref),
        fingerprint=dump_note(report.note),
    )


def _chunk_row(report: Report, indices: Indices, column: ColumnReport) -> ChunkRow:
    return ChunkRow(
        slug=column.slug,
        serial=report.key[1] * PARTS + (report.part or PARTS - 1),
        indices=indices,
        codes=column.codes,
        values=column.values,
        result=dump_stored(column.refs, column.notes, is_enough=column.slug in report.enough),
        worker=report.worker,
        start=datetime.fromtimestamp(report.started, UTC) if report.started else None,
        seconds=report.seconds,
    )


def element_row(slug: str, index: int, state: State) -> ElementRow:
    """Row of an element that is more than plain Success."""
    is_waiting = isinstance(state, Retrying)
    times = (None if is_waiting else to_microseconds(state.start_time), to_microseconds(state.end_time))
    return ElementRow(
        slug=slug,
        index=index,
        code=state.code,
        attempt=state.attempt,
        due=state.start_time if is_waiting else None,
        message=state.message,
        failure=_packed(state, times=times if any(times) else None, worker=state.worker),
    )


def _pack_running(running: Iterable[State]) -> tuple[bytes, list[tuple[str, int | None]]] | None:
    """Elements that are being run, and of the first ones their workers and since when."""
    states = list(running)
    if not states:
        return None
    indices = array("Q", (state.map_index or 0 for state in states))
    return indices.tobytes(), [(each.worker or "", to_microseconds(each.start_time)) for each in states[:MAX_NAMED]]


def _packed(state: State, **more: Any) -> bytes | None:
    """What the columns of a row do not say of a state; only classes of this library are in the pickle."""
    facts = more
    if state.failure is not None:
        failure = state.failure
        is_plain = type(failure.inputs) is dict  # as workers make it; a map of failures has thousands of them
        facts["failure"] = failure if is_plain else replace(failure, inputs=dict(failure.inputs))
    if state.counts is not None:
        facts["counts"] = state.counts
    if state.attempts:
        facts["attempts"] = [
            (each.number, each.state, each.reason, each.worker, to_microseconds(each.start), to_microseconds(each.end))
            for each in state.attempts
        ]
    if state.result is not None:
        try:
            facts["result"] = without_secrets(origins.dumps(state.result))
        except Exception:  # the user's; a state without it is still the state
            _log.debug("the result of a state cannot be pickled, so it is not recorded", exc_info=True)
    facts = {name: value for name, value in facts.items() if value not in (None, "")}
    return pickle.dumps(facts, protocol=5) if facts else None


# ---------------------------------------------------------------------------------------------------------------------
# Rows to reports


def facts_of(data: bytes | None) -> dict[str, Any]:
    """What a row's `failure` column says: ``failure``, ``counts``, and what else its columns have no place for.

    Nothing of the user's is loaded.

    Raises
    ------
    RunStoreDamaged
        No recorder wrote it.
    """
    if data is None:
        return {}
    try:
        facts = _Unpickler(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle may raise anything
        raise RunStoreDamaged(
            f"the run store has a failure that cannot be read: {error}; see: anabranch doctor"
        ) from error
    if not isinstance(facts, dict):
        raise RunStoreDamaged(
            f"the run store has a failure that is a {type(facts).__name__}, not a dict; see: anabranch doctor"
        )
    return facts


def failure_of(row: TaskRunRow | ElementRow) -> Failure | None:
    """Why a recorded task run or element failed."""
    failure = facts_of(row.failure).get("failure")
    return failure if isinstance(failure, Failure) else None


def attempts_of(facts: Mapping[str, Any]) -> tuple[Attempt, ...]:
    """Attempts before the one that a row is about, from what its `failure` column says."""
    return tuple(
        Attempt(number, state, reason, worker, from_microseconds(start), from_microseconds(end))
        for number, state, reason, worker, start, end in facts.get("attempts", ())
    )


def running_of(row: TaskRunRow) -> RunningElements:
    """Elements of a map that workers were at when its row was written."""
    indices, named = facts_of(row.failure).get("running") or (b"", [])
    states = (Running(map_index=index) for index in array("Q", indices))
    about = chain(named, repeat(("", None)))
    return RunningElements(
        replace(state, worker=worker or None, start_time=from_microseconds(start))
        for state, (worker, start) in zip(states, about, strict=False)
    )


class _Unpickler(pickle.Unpickler):
    """Loads what `_packed` made and nothing else, whoever wrote the bytes."""

    def find_class(self, module: str, name: str) -> Any:
        found = {"Failure": Failure, "Counts": Counts}.get(name)
        if found is None or module != Failure.__module__:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return found


def single_of(row: TaskRunRow) -> SingleReport:
    """The report of a single node.

    Raises
    ------
    RunStoreDamaged
        Its row cannot be read.
    """
    facts = facts_of(row.failure)
    state = replace(single_state(row, facts), result=_result(facts))
    ref, note = load_ref(row.result), load_note(row.fingerprint)
    loops = row.loop_count
    return SingleReport(
        row.slug, state, row.value, facts.get("width"), facts.get("unmappable", ""), ref, note, loop_count=loops
    )


def single_state(row: TaskRunRow, facts: Mapping[str, Any]) -> State:
    """State of a node by its row, and by what its `failure` column says; without a result, which is the user's."""
    return BY_CODE[row.code](
        message=row.message,
        start_time=row.start,
        end_time=row.end,
        attempt=row.attempt,
        worker=row.worker or None,
        failure=facts.get("failure"),
        counts=facts.get("counts"),
        attempts=attempts_of(facts),
    )


def codes_of(chunks: Iterable[ChunkRow]) -> bytearray:
    """State of each element up to the highest that is known, by the latest chunk with it; 0 where there is none."""
    codes = bytearray()
    for chunk in chunks:
        indices: Any = chunk.indices
        if not len(indices):
            continue
        codes.extend(bytes(max(0, indices[-1] + 1 - len(codes))))
        if isinstance(indices, range):
            codes[indices.start : indices.stop] = chunk.codes
            continue
        for index, code in zip(indices, chunk.codes, strict=True):
            codes[index] = code
    return codes


def columns_of(chunks: Sequence[ChunkRow], elements: Iterable[ElementRow]) -> list[Report]:
    """Reports of a map's chunks, oldest first, in which each element is once: what the latest chunk says of it holds.

    If that says that it is Pending again, it is in none.

    Raises
    ------
    RunStoreDamaged
        A row cannot be read.
    """
    known = {row.index: row for row in elements}
    seen = bytearray(max((each.indices[-1] + 1 for each in chunks if len(each.indices)), default=0))
    reports = []
    for chunk in reversed(chunks):
        indices: Any = chunk.indices
        if not any(chunk.codes):
            left = []
            for index in indices:
                seen[index] = 1
        elif not isinstance(indices, range):
            left = [position for position, index in enumerate(indices) if not seen[index]]
        elif any(seen[indices.start : indices.stop]):
            left = [position for position in range(len(indices)) if not seen[indices.start + position]]
        else:
            seen[indices.start : indices.stop] = b"\1" * len(indices)
            reports.append(_report_of(chunk, known))
            continue
        for position in left:
            seen[indices[position]] = 1
        if left:
            reports.append(picked(_report_of(chunk, known), left))
    reports.reverse()
    return reports


def _report_of(chunk: ChunkRow, known: Mapping[int, ElementRow]) -> Report:
    indices: Any = chunk.indices
    plain = chunk.codes.count(Success.code) == len(chunk.codes)
    records = {}
    for index, code in zip(indices, chunk.codes, strict=True) if known or not plain else ():
        row = known.get(index)
        if row is not None and row.code == code:
            facts = facts_of(row.failure)
            records[index] = replace(element_state(row, facts), result=_result(facts))
        elif code != Success.code:
            records[index] = BY_CODE[code](map_index=index)
    refs, notes = load_stored(chunk.result)
    return Report(
        (chunk.slug, chunk.serial // PARTS),
        columns=(ColumnReport(chunk.slug, chunk.codes, records, chunk.values, refs, notes),),
        indices=indices,
        seconds=chunk.seconds,
        worker=chunk.worker,
        started=chunk.start.timestamp() if chunk.start else 0.0,
        enough=(chunk.slug,) if load_enough(chunk.result) else (),
    )


def element_state(row: ElementRow, facts: Mapping[str, Any]) -> State:
    """State of an element by its row, and by what its `failure` column says; without a result, which is the user's."""
    start, end = facts.get("times") or (None, None)
    return BY_CODE[row.code](
        message=row.message,
        start_time=row.due or from_microseconds(start),
        end_time=from_microseconds(end),
        attempt=row.attempt,
        map_index=row.index,
        worker=facts.get("worker"),
        failure=facts.get("failure"),
        counts=facts.get("counts"),
        attempts=attempts_of(facts),
    )


def _result(facts: Mapping[str, Any]) -> Any:
    data = facts.get("result")
    if data is None:
        return None
    try:
        return pickle.loads(data)
    except Exception as error:
        raise RunStoreDamaged(f"a recorded state has a result that does not load here: {error}") from error


def _refs_of(refs: Refs, inside: Container[int]) -> Refs:
    """The stored objects with these elements only."""
    found = []
    for held, ref in refs:
        left = tuple(index for index in held if index in inside)
        if left:
            found.append((range(left[0], left[-1] + 1) if left[-1] - left[0] + 1 == len(left) else left, ref))
    return tuple(found)


def picked(report: Report, positions: Sequence[int]) -> Report:
    """The report of a chunk with these of its elements only, given by their places in it."""
    assert report.indices is not None
    indices = tuple(report.indices[position] for position in positions)
    inside = frozenset(indices)
    columns = []
    for column in report.columns:
        final = [at for at, code in enumerate(column.codes) if code >= FIRST_FINAL_CODE]
        places = {at: number for number, at in enumerate(final)}
        values = column.values
        if values is not None:
            try:
                there = pickle.loads(values)
                values = origins.dumps([there[places[at]] for at in positions if at in places])
            except Exception:  # a class that this process does not have: without values they are as large ones are
                values = None
        columns.append(
            ColumnReport(
                column.slug,
                bytes(column.codes[at] for at in positions),
                {index: state for index, state in column.records.items() if index in inside},
                values,
                _refs_of(column.refs, inside),
                {index: note for index, note in column.notes.items() if index in inside},
            )
        )
    return replace(report, columns=tuple(columns), indices=indices)
