"""What of a recorded run holds when it is resumed, as pure functions on reports.

What failed runs again, and with it everything that has seen it fail. The rest holds: a value that is not there any more
is made again if something that runs takes it, and otherwise is not missed.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from anabranch.base.errors import ResultReleased
from anabranch.base.states import (
    FIRST_FAILED_CODE,
    FIRST_FINAL_CODE,
    Cancelled,
    Finished,
    Paused,
    Skipped,
    State,
    counts_of,
)
from anabranch.definition.frozen import FrozenGraph
from anabranch.engine.units.calls import Placed
from anabranch.engine.units.indices import as_range
from anabranch.engine.units.units import ColumnReport, Report, SingleReport
from anabranch.runs.record.reports import picked

_FINAL_CODES = range(FIRST_FINAL_CODE, FIRST_FAILED_CODE)
LEFT_OUT = "left out: only what had failed was resumed"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is to run again of what is recorded; everything by slug."""

    only_failed: bool = False
    """Whether what has not begun, or was cancelled, stays undone."""
    start: frozenset[str] = frozenset()
    """Nodes that run again whatever they came to, with all that is below."""
    element: tuple[str, int] | None = None
    """An element that runs again, with all that is below it; then nothing else does that has ended."""
    approved: frozenset[str] = frozenset()
    """Nodes that may run although they wait for an approval."""
    keep: frozenset[str] = frozenset()
    """Nodes whose values the caller wants, if they have to be made again for it."""


@dataclass(slots=True)
class Recorded:
    """What is recorded of a run: a report for each single node, and for each chunk; no element is in two of them."""

    singles: dict[str, SingleReport] = field(default_factory=dict)
    columns: dict[str, list[Report]] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    """Of maps."""
    calls: list[Placed] = field(default_factory=list)
    """Deferred calls, in the order in which they were made."""

    def reports(self) -> tuple[Report | Placed, ...]:
        """Reports in the order in which a machine can take them, if the nodes came in topological order."""
        singles = [Report(("", 0), singles=(each,)) for each in self.singles.values()]
        called = {slug for placed in self.calls for slug in placed.slugs}
        written = [report for slug, reports in self.columns.items() if slug not in called for report in reports]
        made = [report for slug, reports in self.columns.items() if slug in called for report in reports]
        return (*singles, *written, *self.calls, *made)


def without(recorded: Recorded, nodes: Container[str], elements: Mapping[str, Collection[int]]) -> Recorded:
    """The record without these nodes and elements: they run again, and what had taken their values need not."""
    singles = {slug: each for slug, each in recorded.singles.items() if slug not in nodes}
    columns = dict(recorded.columns)
    for slug, indices in elements.items():
        left = (_without(report, indices) for report in columns.get(slug, ()))
        columns[slug] = [report for report in left if report is not None]
    return Recorded(singles, {slug: each for slug, each in columns.items() if each}, recorded.widths, recorded.calls)


def held(graph: FrozenGraph, recorded: Recorded, choice: Choice) -> Recorded:
    """What holds of the record; everything that is not in it will run."""
    again = _Again(graph, recorded, choice)
    kept = Recorded(widths=recorded.widths)
    for slug in graph.nodes:
        single = recorded.singles.get(slug)
        if single is not None and slug not in again.nodes:
            kept.singles[slug] = single
        columns = [] if slug in again.nodes else recorded.columns.get(slug, [])
        left = [_without(report, again.elements.get(slug, ())) for report in columns]
        if any(left):
            kept.columns[slug] = [report for report in left if report is not None]
    _drop_skips(graph, kept)
    _keep_calls(kept, recorded, again)
    if choice.only_failed:
        _leave_out(graph, kept, again)
    return _released(graph, kept, choice.keep)


def _drop_skips(graph: FrozenGraph, kept: Recorded) -> None:
    """Let elements be skipped anew below those that have not ended: a map that had enough may end otherwise now."""
    for slug, node in graph.nodes.items():
        skipped = {index for report in kept.columns.get(slug, ()) for index in _skipped_unseen(report.columns[0])}
        if not skipped:
            continue
        above = [each.upstream for each in node.edges if each.mapped and graph.nodes[each.upstream].is_map]
        firm = skipped.intersection(*(_ended(kept.columns.get(each, ())) for each in above))
        left = [_without(report, skipped - firm) for report in kept.columns[slug]]
        kept.columns[slug] = [report for report in left if report is not None]


def _skipped_unseen(column: ColumnReport) -> Iterator[int]:
    """Elements that were skipped without a look at them by their task."""
    if Skipped.code in column.codes:
        for index, state in column.records.items():
            if state.is_skipped() and state.start_time is None:
                yield index


def _ended(reports: Iterable[Report]) -> set[int]:
    return {
        index
        for report in reports
        for index, code in zip(report.indices or (), report.columns[0].codes, strict=True)
        if code >= FIRST_FINAL_CODE
    }


def _keep_calls(kept: Recorded, recorded: Recorded, again: _Again) -> None:
    """Keep the deferred calls of what is not called again itself; those of the rest are made anew."""
    dropped = set(again.anew)
    for placed in recorded.calls:
        caller = placed.expansion.slug
        if caller in dropped:
            dropped.update(placed.slugs)
        else:
            void = frozenset(again.anew_elements.get(caller, ())).intersection(placed.expansion.indices)
            kept.calls.append(replace(placed, void=placed.void | void))
    for slug in dropped - again.anew:
        kept.columns.pop(slug, None)


class _Again:
    """Nodes and elements that run again although they are recorded."""

    def __init__(self, graph: FrozenGraph, recorded: Recorded, choice: Choice) -> None:
        self.nodes: set[str] = set(choice.start)
        self.elements: dict[str, set[int]] = {}
        self.anew: set[str] = set(choice.start)
        """Nodes whose tasks are called again, not only what they have called."""
        self.anew_elements: dict[str, set[int]] = {}
        if choice.element is not None:
            self.anew_elements[choice.element[0]] = {choice.element[1]}
        for slug, node in graph.nodes.items():
            for edge in node.edges:
                if edge.upstream in self.nodes or (edge.upstream in self.elements and not edge.mapped):
                    self.nodes.add(slug)
                    self.anew.add(slug)
                elif edge.upstream in self.elements:
                    self._add(slug, self.elements[edge.upstream])
                    self.anew_elements.setdefault(slug, set()).update(self.elements[edge.upstream])
            self._add_own(slug, recorded, choice)

    def _add(self, slug: str, indices: Iterable[int]) -> None:
        self.elements.setdefault(slug, set()).update(indices)

    def _add_own(self, slug: str, recorded: Recorded, choice: Choice) -> None:
        if choice.element is not None:
            if slug == choice.element[0]:
                self._add(slug, [choice.element[1]])
            return
        single = recorded.singles.get(slug)
        if single is not None and _runs_again(single.state.code, slug, choice):
            self.nodes.add(slug)
        for report in recorded.columns.get(slug, ()):
            codes = report.columns[0].codes
            if any(_runs_again(code, slug, choice) for code in set(codes)):
                assert report.indices is not None
                pairs = zip(report.indices, codes, strict=True)
                self._add(slug, (index for index, code in pairs if _runs_again(code, slug, choice)))


def _runs_again(code: int, slug: str, choice: Choice) -> bool:
    if code == Paused.code:
        return slug in choice.approved
    return code >= FIRST_FAILED_CODE and not (choice.only_failed and code == Cancelled.code)


def _without(report: Report, indices: Collection[int]) -> Report | None:
    """The report of a chunk without these elements; None if nothing is left of it."""
    assert report.indices is not None
    if not indices:
        return report
    left = [position for position, index in enumerate(report.indices) if index not in indices]
    if len(left) == len(report.indices):
        return report
    return picked(report, left) if left else None


def _leave_out(graph: FrozenGraph, kept: Recorded, again: _Again) -> None:
    """Cancel what has not ended and does not run because of a failure."""
    state = Cancelled(message=LEFT_OUT)
    for slug, node in graph.nodes.items():
        if node.kind == "parameter" or slug in again.nodes or _is_unfinished_below(graph, slug, kept, again):
            continue
        if slug in kept.columns or again.elements.get(slug):
            done = {index for report in kept.columns.get(slug, ()) for index in report.indices or ()}
            missing = [
                index
                for index in range(kept.widths.get(slug, 0))
                if index not in done and index not in again.elements.get(slug, ())
            ]
            if missing:
                kept.columns.setdefault(slug, []).append(_cancelled(slug, missing, state))
        elif slug not in kept.singles and not (node.is_map and kept.widths.get(slug) == 0):
            kept.singles[slug] = SingleReport(slug, state)


def _is_unfinished_below(graph: FrozenGraph, slug: str, kept: Recorded, again: _Again) -> bool:
    """Whether a node that is not recorded at all is below something that runs again: then it runs, too."""
    if slug in kept.singles or slug in kept.columns:
        return False
    ups = {edge.upstream for edge in graph.nodes[slug].edges}
    return any(up in again.nodes or again.elements.get(up) for up in ups)


def _cancelled(slug: str, indices: Sequence[int], state: State) -> Report:
    records = {index: replace(state, map_index=index) for index in indices}
    column = ColumnReport(slug, bytes([state.code]) * len(indices), records)
    return Report((slug, 0), columns=(column,), indices=as_range(indices))


# Values that are not there any more -----------------------------------------------------------------------------------


class _Released:
    """Stands for a value that was not recorded, and that nobody takes: whoever loads it is told."""

    def __init__(self, slug: str) -> None:
        self.slug = slug

    def __reduce__(self) -> tuple[Any, ...]:
        return _tell_released, (self.slug,)


def _tell_released(slug: str) -> NoReturn:
    raise ResultReleased(
        f"{slug} was not run again when the run was resumed, and its value was too large for the record "
        f"(engine.inline_nbytes); compute it again with flow.run(resume=…, resume_from={slug!r}), or give the task "
        "a result"
    )


def _released(graph: FrozenGraph, kept: Recorded, wanted: Container[str]) -> Recorded:
    """The same, in which nothing is missing that only a caller could ask for: the engine would make it again."""
    running: set[str] = set()
    called = {slug for placed in kept.calls for slug in placed.slugs}  # what callers lack is made again for them
    singles, columns = dict(kept.singles), dict(kept.columns)
    for slug in reversed(tuple(graph.nodes)):
        is_needed = slug in wanted or any(down in running for down in graph.downstream[slug])
        if not _has_ended(graph, kept, slug) or (is_needed and _lacks_values(kept, slug)):
            running.add(slug)
        if is_needed or slug in called:
            continue
        data = pickle.dumps(_Released(slug))
        if slug in singles and _lacks_value(singles[slug]):
            singles[slug] = replace(singles[slug], value=data)
        if slug in columns:
            columns[slug] = [_given(report, data) for report in columns[slug]]
    return Recorded(singles, columns, kept.widths, kept.calls)


def _has_ended(graph: FrozenGraph, kept: Recorded, slug: str) -> bool:
    if graph.nodes[slug].kind == "parameter":
        return True
    if slug in kept.singles:
        return isinstance(kept.singles[slug].state, Finished)
    counts = (counts_of(report.columns[0].codes) for report in kept.columns.get(slug, ()))
    done = sum(each.successful + each.skipped + each.failed for each in counts)
    return slug in kept.columns and done == kept.widths.get(slug)


def _lacks_values(kept: Recorded, slug: str) -> bool:
    if slug in kept.singles:
        return _lacks_value(kept.singles[slug])
    return any(_lacks_column(report.columns[0]) for report in kept.columns.get(slug, ()))


def _lacks_value(report: SingleReport) -> bool:
    state = report.state
    has_value = state.counts is not None or (state.is_successful() and not state.is_skipped())
    return report.value is None and report.ref is None and has_value


def _lacks_column(column: ColumnReport) -> bool:
    has_none = column.values is None and not column.refs  # what is stored of a chunk is all of it
    return has_none and any(code in _FINAL_CODES for code in set(column.codes))


def _given(report: Report, data: bytes) -> Report:
    column = report.columns[0]
    is_final = min(column.codes, default=0) >= FIRST_FINAL_CODE
    if not is_final or not _lacks_column(column):
        return report
    return replace(report, columns=(replace(column, values=data),))
