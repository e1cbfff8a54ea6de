"""What is recorded and will not hold, as rows that say so: they are in the store before anything runs again.

A run that goes on may die again at any moment. By then something may have succeeded on which a value was based that had
seen it fail, and nothing but these rows would tell that the value is of before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from anabranch.base.states import FIRST_FAILED_CODE, Counts, Pending, Running, State
from anabranch.definition.frozen import FrozenGraph
from anabranch.engine.units.indices import as_range
from anabranch.engine.units.units import Key, Report, SingleReport
from anabranch.runs.record.calls import row_of_void
from anabranch.runs.record.reports import PARTS, task_run_row
from anabranch.runs.resume.choice import Recorded
from anabranch.runs.store.records import Batch, ChunkRow, TaskRunRow


def outdated(graph: FrozenGraph, recorded: Recorded, kept: Recorded, serial: int) -> Batch | None:
    """Rows for what is recorded and not kept; None if all is.

    What failed stays so until it runs: that is why it will.

    Parameters
    ----------
    serial
        A number below those of units that will run, and above those of all that have.
    """
    task_runs: list[TaskRunRow] = []
    chunks: list[ChunkRow] = []

    def note(slug: str, state: State, width: int | None = None) -> None:
        row = task_run_row(SingleReport(slug, state), graph.nodes[slug].name, "")
        task_runs.append(replace(row, width=width))

    for slug, single in recorded.singles.items():
        if slug not in kept.singles and single.state.code < FIRST_FAILED_CODE:
            note(slug, Pending())
    for slug, reports in recorded.columns.items():
        left = kept.columns.get(slug, [])
        gone = sorted(_gone(reports, left))
        if not gone:
            continue
        chunks.append(ChunkRow(slug, serial * PARTS, as_range(gone), bytes(len(gone))))
        width = recorded.widths.get(slug)
        if left and width is not None:
            note(slug, Running(message=f"{width:,} elements", counts=Counts(width)), width)
        else:
            note(slug, Pending())
    chunks += _void_calls(recorded, kept, serial)
    return Batch(task_runs, chunks) if task_runs or chunks else None


def _gone(reports: Collection[Report], left: Collection[Report]) -> Iterator[int]:
    """Elements that have not failed and are in no report that is left."""
    less = _widths(reports) - _widths(left)
    still = {index for report in left if report.key in less for index in report.indices or ()}
    for report in reports:
        if report.key in less:
            codes = report.columns[0].codes
            pairs = zip(report.indices or (), codes, strict=True)
            yield from (index for index, code in pairs if code < FIRST_FAILED_CODE and index not in still)


def _widths(reports: Iterable[Report]) -> Counter[Key]:
    """How many elements there are of each unit."""
    widths = Counter[Key]()
    for report in reports:
        widths[report.key] += len(report.indices or ())
    return widths


def _void_calls(recorded: Recorded, kept: Recorded, serial: int) -> Iterator[ChunkRow]:
    """Rows for deferred calls that do not count any more, as their callers are called again."""
    void = {placed.expansion.slug: set[int]() for placed in kept.calls}
    for placed in kept.calls:
        void[placed.expansion.slug].update(placed.void)
    for caller in dict.fromkeys(placed.expansion.slug for placed in recorded.calls):
        if caller not in void:
            yield row_of_void(caller, serial)
        elif void[caller]:
            yield row_of_void(caller, serial, sorted(void[caller]))
