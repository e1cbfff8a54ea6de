"""The journal of a run: every report is in the run store before anything is done about it, if the store answers.

How rows get there is decided in `backlog`, and which of them hold when a run is resumed in `anabranch.runs.resume`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import is_

from anabranch.base.errors import RunStoreError, StaleOwner
from anabranch.base.events import CallsMade, ElementBegan, Event, MapAdvanced, RunStarted, TaskChanged, UnitLost
from anabranch.base.masking import mask
from anabranch.base.running_elements import RunningElements
from anabranch.base.states import (
    FIRST_FAILED_CODE,
    Attempt,
    Counts,
    Finished,
    Paused,
    Pending,
    Running,
    State,
    Submitted,
    add_attempts,
)
from anabranch.definition.frozen import FrozenGraph, FrozenNode
from anabranch.engine.machine.knowledge import NodeRun
from anabranch.engine.units.units import ColumnReport, Report, SingleReport
from anabranch.runs.record.backlog import Backlog, Ending, Rows
from anabranch.runs.record.calls import row_of
from anabranch.runs.record.reports import PARTS, batch_of, element_row, task_run_row
from anabranch.runs.store.records import Batch, ChunkRow, Ownership, RunRecord, RunStore

SERIALS_OF_AN_OWNER = 10**9
"""Units of the n-th owner of a run are numbered from n times this: no two of them may use the same key."""
MAX_LEFT_OVER = 1_000  # rows for elements that ended with the run; their chunk has the states of all of them
MAX_RETRIED = 10_000  # task runs that wait for another attempt, whose earlier ones are remembered

_log = logging.getLogger("anabranch.recording")


class Recorder:
    """The journal of a run: what it is given is in the store when it returns, as long as the store answers.

    What should be in a store that does not answer waits in a `Backlog`. It never raises: `end` says that the run must
    stop, and in which state.

    Parameters
    ----------
    store, ownership
        Where the run is, and the right to write to it.
    graph
        The flow.
    known
        States of single nodes that are in the store already, by slug, as the machine will have them.
    before
        The record of the run that goes on here, as it was: it stays so if nothing runs.
    outdated
        Rows for what is recorded and will not hold: in the store before anything runs.
    """

    def __init__(
        self,
        store: RunStore,
        ownership: Ownership,
        graph: FrozenGraph,
        *,
        known: Mapping[str, State] | None = None,
        before: RunRecord | None = None,
        outdated: Batch | None = None,
    ) -> None:
        self.store = store
        self.ownership = ownership
        self._graph = FrozenGraph(dict(graph.nodes), graph.reference)
        self._calls = 0
        """Number of times that deferred calls were made."""
        self._backlog = Backlog(store, ownership)
        self._said: dict[str, State] = dict(known or {})
        self._before = before
        self._held = Rows() if before is not None and before.end is not None else None
        """What was noted of a run that had ended, as long as nothing runs."""
        self._outdated = outdated
        self._serials: dict[str, int] = {}
        """Number of the unit by which a single node's row was written: a late report of an older one says nothing."""
        self._spans: dict[str, tuple[datetime, datetime]] = {}
        """When a map's first chunk began, and its last one ended."""
        self._attempts: dict[tuple[str, int], tuple[Attempt, ...]] = {}
        """Of task runs that are tried again, by slug and element (-1: a single node)."""
        for slug, state in self._said.items():
            self._known_attempts(slug, -1, state)
        self._running: dict[str, RunningElements] = {}
        """By map."""
        self._failed: dict[str, set[int]] = {}
        """Elements of maps that were reported as failed."""
        self._lock = threading.RLock()  # what runs in this process reports from threads

    def write(self, report: Report) -> None:
        """Record a report; it is committed when this returns, unless the store does not answer."""
        with self._lock:
            self._go_on()
            try:
                self._take(report)
            except Exception:  # a bug of ours, or a state that a user made up: not worth a run
                _log.exception("a report could not be recorded; what it says runs again if the run is resumed")
        self._backlog.flush()

    def _take(self, report: Report) -> None:
        singles = [each for each in report.singles if self._is_news(each, report.key[1])]
        told = report if len(singles) == len(report.singles) else replace(report, singles=tuple(singles))
        batch = batch_of(self._with_attempts(told), self._graph)
        self._said.update((each.slug, each.state) for each in singles)
        for row in batch.chunks:
            if row.start is not None:
                end = row.start + timedelta(seconds=row.seconds)
                first, last = self._spans.get(row.slug, (row.start, end))
                self._spans[row.slug] = (min(first, row.start), max(last, end))
        for element in batch.elements:
            if element.code >= FIRST_FAILED_CODE:
                self._failed.setdefault(element.slug, set()).add(element.index)
        self._add(batch)
        for column in report.columns:
            self._end_running(column.slug, report.indices or ())

    def _with_attempts(self, report: Report) -> Report:
        """The report with the attempts that came with earlier ones of the same task runs."""
        singles = tuple(map(self._single_with_attempts, report.singles))
        columns = tuple(map(self._column_with_attempts, report.columns))
        is_same = all(map(is_, (*singles, *columns), (*report.singles, *report.columns)))
        return report if is_same else replace(report, singles=singles, columns=columns)

    def _single_with_attempts(self, report: SingleReport) -> SingleReport:
        state = self._known_attempts(report.slug, -1, report.state)
        return report if state is report.state else replace(report, state=state)

    def _column_with_attempts(self, column: ColumnReport) -> ColumnReport:
        known = {index: self._known_attempts(column.slug, index, state) for index, state in column.records.items()}
        return replace(column, records=known) if known else column

    def _known_attempts(self, slug: str, index: int, state: State) -> State:
        known = self._attempts.get((slug, index), ())
        if not known and not state.attempts:
            return state
        attempts = add_attempts(known, state.attempts)
        if not isinstance(state, Finished) and len(self._attempts) < MAX_RETRIED:
            self._attempts[slug, index] = attempts
        return replace(state, attempts=attempts) if known else state

    def _is_news(self, report: SingleReport, serial: int) -> bool:
        if serial < self._serials.get(report.slug, 0):
            return False
        self._serials[report.slug] = serial
        return True

    def observe(self, event: Event) -> None:
        """Note what no report says: maps as a whole, and states that the driver gave.

        What runs is written at once, and all else soon, as nothing may come for long.
        """
        with self._lock:
            self._observe(event)
        if isinstance(event, (RunStarted, ElementBegan)) or (
            isinstance(event, TaskChanged) and type(event.state) is Running
        ):
            self._backlog.flush()

    def _observe(self, event: Event) -> None:
        if isinstance(event, CallsMade):
            self._note_calls(event)
        elif isinstance(event, RunStarted) and self._outdated is not None:
            self._go_on()
            self._add(self._outdated)
        elif isinstance(event, TaskChanged):
            node = self._graph.nodes[event.slug]
            is_said = self._said.get(event.slug) is event.state
            is_told = isinstance(event.state, Finished) or type(event.state) in (Pending, Submitted, Running)
            if node.kind != "parameter" and not is_said and is_told:
                self._note(node, event.state)
        elif isinstance(event, ElementBegan):
            self._running.setdefault(event.slug, RunningElements()).begin(event.state)
            self._note_map(event.slug)
        elif isinstance(event, UnitLost):
            for slug in event.nodes:
                self._end_running(slug, event.indices)
        elif isinstance(event, MapAdvanced):
            said = self._said.get(event.slug)
            if said is None or (type(said) is Running and said.counts != Counts(event.width)):
                self._said[event.slug] = Running(message=f"{event.width:,} elements", counts=Counts(event.width))
                self._note_map(event.slug)

    def _end_running(self, slug: str, indices: Sequence[int]) -> None:
        if slug in self._running and self._running[slug].end(indices):
            self._note_map(slug)

    def _note_map(self, slug: str) -> None:
        """Note how wide a map is, and which of its elements are being run."""
        said = self._said.get(slug)
        if type(said) is Running:
            self._note(self._graph.nodes[slug], said)

    def _note_calls(self, event: CallsMade) -> None:
        """Note deferred calls; they are in the store before anything that comes of them is."""
        assert isinstance(self._graph.nodes, dict)
        self._graph.nodes.update(event.nodes)
        if not event.is_new:
            return
        self._calls += 1
        try:
            row = row_of(event.record, (self.ownership.epoch * SERIALS_OF_AN_OWNER) + self._calls)
        except Exception:  # a function that cannot be pickled, where everything runs in this process
            _log.warning("deferred calls of %s cannot be recorded, and are made again by a resume", event.caller)
            return
        self._add(Batch(chunks=[row]))
        for node in event.nodes.values():
            self._note(node, Running(message="deferred calls"))

    def _note(self, node: FrozenNode, state: State) -> None:
        state = self._known_attempts(node.slug, -1, state)
        self._said[node.slug] = state
        running = self._running.get(node.slug, ()) if type(state) is Running else ()
        row = task_run_row(SingleReport(node.slug, state), node.name, "", running=running)
        if node.is_map:
            start, end = self._spans.get(node.slug, (None, None))
            width = state.counts.total if state.counts is not None else None
            row = replace(row, start=start, end=end if isinstance(state, Finished) else None, width=width)
        self._add(Batch([row]))

    def _go_on(self) -> None:
        """Something runs: what was noted of the run is news."""
        if self._held is not None:
            held, self._held = self._held, None
            self._backlog.add(held.batch())

    def _add(self, batch: Batch) -> None:
        (self._backlog if self._held is None else self._held).add(batch)

    def finish(self, state: State, runs: Mapping[str, NodeRun]) -> None:
        """Write what is left, and put the run down; as it was, if it had ended, and was only looked at."""
        with self._lock:
            if self._is_only_looked_at(state) and self._before is not None:
                state = replace(state, message=self._before.message, end_time=self._before.end)
            else:
                self._go_on()
                self._running.clear()
                for slug, run in runs.items():
                    if run.elements is not None:
                        self._add(self._left_over(slug, run))
        self.put_down(state)

    def _is_only_looked_at(self, state: State) -> bool:
        """Whether nothing ran, and all that was noted stands in the store already."""
        if self._held is None or self._before is None or self._before.state != state.name:
            return False
        try:
            recorded = {row.slug: row.code for row in self.store.task_runs(self.ownership.run_id)}
        except RunStoreError:  # then nothing can be written either
            return True
        return all(recorded.get(slug) == row.code for slug, row in self._held.task_runs.items())

    def put_down(self, state: State) -> None:
        """Let go of the run, which stands like this."""
        if self.end is not None and self.end.is_cancelled():  # it is somebody else's: what is written is refused
            self._backlog.close(None)
            return
        end = None if isinstance(state, Paused) else state.end_time or datetime.now(UTC)
        # Its message may be of a handler, or an error of this process.
        self._backlog.close(Ending(state.name, end, mask(state.message)))

    def _left_over(self, slug: str, run: NodeRun) -> Batch:
        """Elements of a map that ended with the run, or that the driver gave up."""
        elements = run.elements
        assert elements is not None
        told = self._failed.get(slug, set())
        given = {i: state for i, state in elements.settled.items() if state.code >= FIRST_FAILED_CODE and i not in told}
        if not given:
            return Batch()
        indices = tuple(sorted(given))
        codes = bytes(elements.codes[index] for index in indices)
        serial = (
            self.ownership.epoch + 1
        ) * SERIALS_OF_AN_OWNER * PARTS - 1  # later than all that this owner had reported
        first = [index for index in indices if not given[index].is_cancelled()][:MAX_LEFT_OVER]
        return Batch(
            chunks=[ChunkRow(slug, serial, indices, codes)],
            elements=[element_row(slug, index, given[index]) for index in first],
        )

    @property
    def end(self) -> State | None:
        """The state in which the run must end, because it cannot be recorded any more."""
        return self._backlog.end

    def lost(self, error: StaleOwner) -> None:
        """The run is somebody else's now: it must end here."""
        self._backlog.lose(error)
