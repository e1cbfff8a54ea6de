"""Records as rows of the run store's tables, and rows as records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from anabranch.base.errors import RunHeld
from anabranch.base.rests import Rests
from anabranch.runs.store.codec import (
    LOG_NBYTES,
    MESSAGE_NBYTES,
    decode_codes,
    decode_indices,
    encode_codes,
    encode_indices,
    from_json,
    from_microseconds,
    read_json,
    to_json,
    to_microseconds,
    to_text,
)
from anabranch.runs.store.records import (
    INTERRUPTED,
    ArtifactRow,
    Batch,
    ChunkRow,
    ElementRow,
    LogRow,
    Ownership,
    RunDetails,
    RunRecord,
    TaskRunRow,
)
from anabranch.runs.store.schema import ARTIFACTS, CHUNKS, ELEMENTS, LOGS, TASK_RUNS

Row: TypeAlias = Sequence[Any]
"""Values of a row's columns, in the order of `schema`."""
MAX_RESTS = 100  # of a run; each is about forty bytes, in every list of runs


# ---------------------------------------------------------------------------------------------------------------------
# Records to rows


def run_row(record: RunRecord, held: Ownership, moment: int, until: int, born: str) -> Row:
    """Row of a run that begins, with a lease from one moment until another, in a process that was born so."""
    return (
        held.run_id,
        to_text(record.flow_name),
        to_text(record.flow_version),
        to_text(record.state),
        to_text(record.message, MESSAGE_NBYTES),
        to_microseconds(record.start),
        to_microseconds(record.end),
        record.parent_run_id and to_text(record.parent_run_id),
        to_json(record.labels),
        held.owner,
        held.epoch,
        held.token,
        moment,
        until,
        born,
        moment,
        "",
    )


def read_rests(text: str) -> Rests:
    """Times in which nobody was at a run, in seconds since the epoch."""
    return tuple((since / 1e6, until / 1e6) for since, until in read_json(text, list) or ())


def add_rest(text: str, since: int, until: int) -> str:
    """The column of a run's rests with another one: what overlaps is one, and of many the first two become one."""
    rests = read_json(text, list) or []
    while rests and rests[-1][1] >= since:
        since = min(since, rests.pop()[0])
    if until > since:
        rests.append([since, until])
    if len(rests) > MAX_RESTS:
        (first, until), (then, last) = rests[:2]
        rests[:2] = [[then - (until - first), last]]
    return json.dumps(rests, separators=(",", ":"))


def held_by(run_id: str, owner: str, held_since: int) -> RunHeld:
    """What is told of a run that somebody holds."""
    return RunHeld(f"run {run_id} is held by {owner} since {render_moment(held_since)}")


def render_moment(moment: int) -> str:
    """A moment of a row, for people."""
    return f"{from_microseconds(moment):%Y-%m-%d %H:%M:%S} UTC"


def details_row(run_id: str, details: RunDetails) -> Row:
    """Row of a run's details."""
    return (
        run_id,
        to_json(details.parameters),
        details.parameters_pickle,
        to_json(details.code),
        to_json(details.versions),
        details.plan,
    )


def changes_of(ownership: Ownership, batch: Batch) -> Iterator[tuple[str, list[Row]]]:
    """Statements that write a batch, with their rows."""
    run_id = ownership.run_id
    if batch.task_runs:
        yield _PUT_TASK_RUN, [_write_task_run(run_id, each) for each in batch.task_runs]
    if batch.chunks:
        yield _PUT_CHUNK, [_write_chunk(run_id, each) for each in batch.chunks]
    if batch.elements:
        yield _PUT_ELEMENT, [_write_element(run_id, each) for each in batch.elements]
    if batch.logs:
        yield _PUT_LOG, [_write_log(run_id, ownership.epoch, each) for each in batch.logs]
    if batch.artifacts:
        yield ARTIFACTS.upsert(), [write_artifact(run_id, each) for each in batch.artifacts]


_PUT_TASK_RUN, _PUT_CHUNK, _PUT_ELEMENT, _PUT_LOG = (
    TASK_RUNS.upsert(),
    CHUNKS.upsert(),
    ELEMENTS.upsert(),
    LOGS.insert(),  # a line does not change
)


def _write_task_run(run_id: str, row: TaskRunRow) -> Row:
    return (
        run_id,
        to_text(row.slug),
        to_text(row.task_name),
        row.state,
        row.code,
        row.attempt,
        row.loop_count,
        to_microseconds(row.start),
        to_microseconds(row.end),
        to_text(row.worker),
        to_text(row.message, MESSAGE_NBYTES),
        row.failure,
        row.value,
        row.result and to_text(row.result),
        row.fingerprint,
        row.width,
    )


def _write_chunk(run_id: str, row: ChunkRow) -> Row:
    if len(row.codes) != len(row.indices):
        raise ValueError(f"chunk {row.serial} of {row.slug}: {len(row.indices)} indices, but {len(row.codes)} codes")
    return (
        run_id,
        to_text(row.slug),
        row.serial,
        encode_indices(row.indices),
        encode_codes(row.codes),
        row.values,
        row.result and to_text(row.result),
        to_text(row.worker),
        to_microseconds(row.start),
        row.seconds,
    )


def _write_element(run_id: str, row: ElementRow) -> Row:
    return (
        run_id,
        to_text(row.slug),
        row.index,
        row.code,
        row.attempt,
        to_microseconds(row.due),
        to_text(row.message, MESSAGE_NBYTES),
        row.failure,
    )


def _write_log(run_id: str, epoch: int, row: LogRow) -> Row:
    return (
        run_id,
        epoch,
        row.serial,
        to_microseconds(row.time),
        row.level,
        to_text(row.text, LOG_NBYTES),
        row.slug and to_text(row.slug),
        row.index,
        row.attempt,
        to_text(row.worker),
    )


def write_artifact(run_id: str, row: ArtifactRow) -> Row:
    """An artifact as the values of a row."""
    return (
        run_id,
        to_text(row.slug),
        -1 if row.index is None else row.index,
        row.attempt,
        row.number,
        row.kind,
        to_microseconds(row.time),
        to_text(row.body),
        to_text(row.worker),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Rows to records


def run_of(row: Row, moment: int, details: Row | None = None) -> RunRecord:
    """A run as it stands at a moment."""
    run_id, flow_name, version, state, message, started, ended, parent, labels, owner, epoch, _, held, until, *more = (
        row
    )
    born, heard, rests = more
    interrupted = until is not None and until <= moment
    return RunRecord(
        run_id=run_id,
        flow_name=flow_name,
        start=from_microseconds(started),
        flow_version=version,
        state=INTERRUPTED if interrupted else state,
        message=f"{owner} has not been heard of since its lease ran out" if interrupted else message,
        end=from_microseconds(ended),
        parent_run_id=parent,
        labels=read_json(labels, dict) or {},
        details=None if details is None else _read_details(details),
        owner=owner,
        epoch=epoch,
        held_since=from_microseconds(held),
        lease_until=from_microseconds(until),
        born=born,
        heard=from_microseconds(heard),
        rests=read_rests(rests),
    )


def _read_details(row: Row) -> RunDetails:
    _, parameters, pickled, code, versions, plan = row
    return RunDetails(from_json(parameters), pickled, from_json(code), from_json(versions), plan)


def read_task_run(row: Row) -> TaskRunRow:
    """A task run."""
    _, slug, name, state, code, attempt, loop_count, started, ended, *rest = row
    return TaskRunRow(
        slug, name, state, code, attempt, loop_count, from_microseconds(started), from_microseconds(ended), *rest
    )


def read_chunk(row: Row) -> ChunkRow:
    """A chunk; raises `RunStoreDamaged` where its bytes do not decode."""
    _, slug, serial, packed, codes, values, result, worker, started, seconds = row
    indices = decode_indices(packed)
    return ChunkRow(
        slug,
        serial,
        indices,
        decode_codes(codes, len(indices)),
        values,
        result,
        worker,
        from_microseconds(started),
        seconds,
    )


def read_element(row: Row) -> ElementRow:
    """An element."""
    _, slug, element, code, attempt, due, message, failure = row
    return ElementRow(slug, element, code, attempt, from_microseconds(due), message, failure)


def read_artifact(row: Row) -> ArtifactRow:
    """An artifact."""
    _, slug, element, attempt, number, kind, made, body, worker = row
    return ArtifactRow(
        slug, None if element < 0 else element, attempt, number, kind, from_microseconds(made), body, worker
    )


def read_log(row: Row) -> LogRow:
    """A log line."""
    _, epoch, serial, logged, level, line, slug, element, attempt, worker = row
    return LogRow(serial, from_microseconds(logged), level, line, slug, element, attempt, worker, epoch)
