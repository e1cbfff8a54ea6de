"""Why a recorded task run or element ran, was found in a cache, was skipped, failed or waits. Nothing is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from anabranch.base.errors import RunQueryError, RunStoreError, listed, nearest
from anabranch.base.running_elements import since_text
from anabranch.base.states import (
    BY_CODE,
    FIRST_FINAL_CODE,
    Cached,
    Retrying,
    Skipped,
    State,
    Submitted,
    Success,
    TriggerFailed,
)
from anabranch.engine.machine.permits import name_of
from anabranch.engine.units.units import Note
from anabranch.results.reference import ResultRef
from anabranch.runs.read.lookup import as_it_stands
from anabranch.runs.read.run import RecordedTask, read_run
from anabranch.runs.record.refs import load_note, load_ref, load_stored
from anabranch.runs.record.reports import attempts_of, facts_of, failure_of
from anabranch.runs.store.records import ChunkRow, ElementRow, RunQuery, RunRecord, RunStore, TaskRunRow

MAX_LIMITS = 5  # that are named
MAX_EARLIER = 50  # runs of the flow that are looked through for one with the same task run

_VERDICTS = {
    "hit": "a stored value was found, so it was not run",
    "miss": "it ran, as no value was stored for its key",
    "expired": "it ran, as the stored value was too old (cache_for)",
    "refused": "it ran, as the cache_validator refused the stored value",
    "damaged": "it ran, as the stored value was damaged",
    "never": "it ran, as its cache_validator is never_use",
    "no key": "it ran, as a part of its key cannot be told from another: a warning of the run says which",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task run stands as it does."""

    name: str
    """``parse[7]``."""
    state: str
    reasons: Sequence[str]
    """Sentences, the most important first."""
    changed: Sequence[str] = ()
    """Parts of the key, such as ``input x``, that differ from those of the run it is compared with."""
    compared_with: str | None = None
    """Id of that run: the last one before in which the same task run had a key."""
    digests: Mapping[str, str] | None = None
    """Of the parts of the key."""
    location: str | None = None
    """Where the value is stored."""


def explain(store: RunStore, run_id: str, name: str) -> Explanation:
    """Why a task run, such as ``total`` or ``parse[7]``, stands as it does.

    Raises
    ------
    RunQueryError
        The run has no such task, or the task no such element.
    RunStoreError
        There is no such run, or its rows cannot be read.
    """
    run = read_run(store, run_id)
    slug, index = _parsed(name)
    tasks = {task.slug: task for task in run.tasks}
    if slug not in tasks:
        raise RunQueryError(
            f"run {run.record.run_id} has no task {slug!r}; it has: {listed(tasks)}{nearest(slug, tasks)}"
        )
    task = tasks[slug]
    if index is None and task.counts is not None:
        hint = f"; ask about an element: {slug}[0]" if task.counts.total else ""
        return Explanation(slug, task.state, [f"it is a map of {task.counts}{hint}"])
    record = as_it_stands(run.record)
    found = _Single(store, record.run_id, slug) if index is None else _Element(store, record.run_id, slug, index)
    if index is not None and task.counts is None:
        raise RunQueryError(f"{slug} is no map that has begun, so there is no {name}")
    if index is not None and task.counts is not None and index >= task.counts.total:
        raise RunQueryError(f"{slug} has {task.counts.total:,} elements, found {name}")
    if found.code is None or found.code < FIRST_FINAL_CODE:
        at = task.running_at(index)
        state = BY_CODE[found.code or 0].__name__ if at is None else at.name
        reasons = list(_waiting(found, at, record, run.tasks, slug))
        if at is None and found.code != Submitted.code and record.state == "Running":
            reasons += _full_limits(store, record.run_id)
        found_so_far = Explanation(name, state, reasons)
    else:
        found_so_far = _ended(store, record, name, slug, index, found)
    attempts = attempts_of(facts_of(found.row.failure)) if found.row is not None else ()
    return replace(found_so_far, reasons=[*found_so_far.reasons, *map(str, attempts)])


def _parsed(name: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"(.+)\[(\d+)\]", name)
    return (found[1], int(found[2])) if found else (name, None)


class _Single:
    """What is recorded of a task run."""

    def __init__(self, store: RunStore, run_id: str, slug: str) -> None:
        row = next((row for row in store.task_runs(run_id) if row.slug == slug), None)
        self.row: TaskRunRow | ElementRow | None = row
        self.code = row.code if row is not None else None
        self.note = load_note(row.fingerprint) if row is not None else None
        self.ref = load_ref(row.result) if row is not None else None
        self.worker = row.worker if row is not None else ""


class _Element:
    """What is recorded of an element."""

    def __init__(self, store: RunStore, run_id: str, slug: str, index: int) -> None:
        self.code: int | None = None
        self.note: Note | None = None
        self.ref: ResultRef | None = None
        self.worker = ""
        for chunk in store.chunks(run_id, slug):  # oldest first: the last word holds
            if index in chunk.indices:
                self._take(chunk, index)
        rows = (row for row in store.elements(run_id, slug) if row.index == index)
        row = next(rows, None)
        self.row: TaskRunRow | ElementRow | None = row if row is not None and row.code == self.code else None

    def _take(self, chunk: ChunkRow, index: int) -> None:
        refs, notes = load_stored(chunk.result)
        self.code = chunk.codes[list(chunk.indices).index(index)]
        self.note, self.worker = notes.get(index), chunk.worker
        self.ref = next((ref for held, ref in refs if index in held), None)


def _waiting(
    found: _Single | _Element, at: State | None, record: RunRecord, tasks: Sequence[RecordedTask], slug: str
) -> Iterator[str]:
    row = found.row
    if at is not None:
        yield f"it has been running {since_text(at)}"
    elif found.code == Submitted.code:
        yield "it waits for a worker"
    elif row is not None and found.code == Retrying.code:
        due = (
            f", and is tried again at {row.due:%Y-%m-%d %H:%M:%S %Z}" if isinstance(row, ElementRow) and row.due else ""
        )
        yield f"{row.message}{due}"
    elif row is not None and row.message:
        yield row.message
    else:
        yield "nothing of it is recorded, so it has not ended"
    if record.state not in ("Running", "Paused"):
        yield f"the run is {record.state}; go on with it: anabranch resume {record.run_id}"
    before: list[str] = []
    for task in tasks:
        if task.slug == slug:
            break
        if task.state in ("Pending", "Submitted", "Running", "Retrying", "Paused"):
            before.append(f"{task.slug} ({task.state})")
    if before:
        yield f"before it in the flow, these have not ended: {', '.join(before[:10])}"


def _full_limits(store: RunStore, run_id: str) -> list[str]:
    """Limits and rates that a run uses or waits for, and that have no room."""
    from anabranch.runs.store.permit_table import PermitTable
    from anabranch.runs.store.relational import RelationalRunStore

    found = []
    for limit in PermitTable(store.database).all() if isinstance(store, RelationalRunStore) else ():
        held = sum(each.held for each in limit.holders)
        mine = sum(each.held for each in limit.holders if each.run_id == run_id and not each.is_spent)
        is_waiting = any(each.run_id == run_id for each in limit.waiters)
        if is_waiting or (mine and held >= limit.size):
            name, whose = name_of(limit.name), f"{held:,} of {limit.size:,} are held, {mine:,} of them by this run"
            found.append(f"if it needs a permit of {name!r}, it waits for one: {whose}")
    return found[:MAX_LIMITS]


def _ended(
    store: RunStore, record: RunRecord, name: str, slug: str, index: int | None, found: _Single | _Element
) -> Explanation:
    assert found.code is not None
    state = BY_CODE[found.code]
    message = found.row.message if found.row is not None else ""
    location = found.ref.location if found.ref is not None else None
    where = f" on {found.worker}" if found.worker else ""
    if found.note is None:
        reasons = [_plain(state, message, where)]
        failure = failure_of(found.row) if found.row is not None else None
        if failure is not None and failure.root and failure.root != name and failure.root not in message:
            reasons.append(f"it began with {failure.root}: {failure.headline()}")
        if issubclass(state, Success) and state not in (Skipped, Cached):
            reasons.append("no cache or target is set for it, so that it runs in each run")
        return Explanation(name, state.__name__, reasons, location=location)
    verdict, digests = found.note
    reasons = [_VERDICTS.get(verdict, verdict)]
    if not issubclass(state, Success):
        reasons.append(message)
    changed: list[str] = []
    earlier = _earlier(store, record, slug, index)
    if earlier is not None:
        before = earlier[1][1]
        changed = sorted(part for part in {*before, *digests} if before.get(part) != digests.get(part))
    if verdict == "miss" and earlier is None:
        reasons.append("no earlier run of the flow has a key for it")
    elif verdict == "miss" and earlier is not None:
        what = listed(changed) if changed else "nothing in the key"
        reasons.append(f"since run {earlier[0]}, {what} changed")
        if not changed:
            reasons.append("what that run had stored is not there any more, or is stored elsewhere")
    return Explanation(
        name, state.__name__, reasons, changed, earlier[0] if earlier is not None else None, digests, location
    )


def _plain(state: type, message: str, where: str) -> str:
    if state is Skipped:
        return f"it was skipped: {message}"
    if state is TriggerFailed:
        return f"it did not run, as its trigger did not allow it: {message}"
    if state is Cached:
        return f"a stored value was found, so it was not run: {message}"
    return f"it ran{where}" if issubclass(state, Success) else f"it ended as {state.__name__}{where}: {message}"


def _earlier(store: RunStore, record: RunRecord, slug: str, index: int | None) -> tuple[str, Note] | None:
    """The last run before in which the same task run had a key, and what was noted of that."""
    for other in store.list_runs(RunQuery(flow_name=record.flow_name, limit=MAX_EARLIER)):
        if other.run_id == record.run_id or other.start >= record.start:
            continue
        try:
            found = _Single(store, other.run_id, slug) if index is None else _Element(store, other.run_id, slug, index)
        except RunStoreError:  # another version wrote it
            continue
        if found.note is not None and found.note[1]:
            return other.run_id, found.note
    return None
