"""What is recorded of a run, as its machine had it."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from anabranch.base.errors import RunStoreDamaged
from anabranch.base.states import (
    FIRST_FAILED_CODE,
    FIRST_FINAL_CODE,
    Deferred,
    Mapped,
    Pending,
    Retrying,
    Running,
    Submitted,
)
from anabranch.definition.frozen import FrozenGraph, FrozenNode
from anabranch.engine.units.units import Report, SingleReport
from anabranch.runs.record.calls import calls_of, with_calls
from anabranch.runs.record.reports import columns_of, picked, single_of
from anabranch.runs.resume.choice import Recorded
from anabranch.runs.store.records import RunStore

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)  # it is due at once, by any clock

_log = logging.getLogger("anabranch.history")


def load(store: RunStore, run_id: str, graph: FrozenGraph) -> Recorded:
    """What is recorded of the nodes of a graph, and of those that deferred calls have added.

    A row that cannot be read is told of, and counts for nothing.
    """
    recorded = Recorded(widths={})
    by_slug: dict[str, list[Any]] = {}
    for element in store.elements(run_id):
        by_slug.setdefault(element.slug, []).append(element)
    rows = {row.slug: row for row in store.task_runs(run_id)}
    recorded.calls = calls_of(store, run_id, rows, graph)
    graph = with_calls(graph, recorded.calls)
    widths: dict[str, int] = {}
    for slug, node in graph.nodes.items():
        row = rows.get(slug)
        try:
            if node.is_map:
                columns = columns_of(store.chunks(run_id, slug), by_slug.get(slug, ()))
                if row is not None and row.state == Mapped.__name__ and node.policies.may_stop_early:
                    columns = _without_rest(node, columns)
                if columns:
                    recorded.columns[slug] = columns
                if row is not None and row.width is not None:
                    widths[slug] = row.width
            elif row is not None and row.width is None and row.state not in _SAY_NOTHING:
                single = _interrupted(single_of(row))
                if single is not None and not _lacks_width(node, single):
                    recorded.singles[slug] = single
        except RunStoreDamaged as error:  # a store that does not answer is no reason to run anything again
            _log.warning("%s runs again, because what is recorded of it cannot be used: %s", slug, error)
    for placed in recorded.calls:
        for slug, base, group in zip(placed.slugs, placed.bases, placed.expansion.groups, strict=True):
            widths[slug] = base + group.width
    return replace(recorded, widths=widths)


def _without_rest(node: FrozenNode, columns: list[Report]) -> list[Report]:
    """The chunks of a map that had enough, without what was left out then, and may have failed or waited before."""
    if node.policies.first_n is None and node.policies.stop_when is None:
        return columns
    kept = []
    for report in columns:
        codes = report.columns[0].codes
        left = [position for position, code in enumerate(codes) if FIRST_FINAL_CODE <= code < FIRST_FAILED_CODE]
        if left:
            kept.append(report if len(left) == len(codes) else picked(report, left))
    return kept


def _lacks_width(node: FrozenNode, single: SingleReport) -> bool:
    """Whether a map takes its elements from a value of which nothing is known but that it had been there.

    Such a row is of a run that was cancelled while the value was made again.
    """
    has_value = single.state.is_successful() and not single.state.is_skipped()
    return node.feeds_map and has_value and single.width is None and not single.unmappable


_SAY_NOTHING = ("Looped", "Scheduled")


def _interrupted(report: SingleReport) -> SingleReport | None:
    """What holds of a task that ran, was to, or made calls: the number of its attempt, and the round of its loop."""
    state = report.state
    if type(state) not in (Pending, Submitted, Running, Deferred):
        return report
    loop = state.result if isinstance(state.result, tuple) else None
    if state.attempt <= 1 and loop is None:
        return None
    again = Retrying(message=state.message, attempt=max(0, state.attempt - 1), start_time=LONG_AGO, result=loop)
    return replace(report, state=again)
