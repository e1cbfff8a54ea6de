"""Whether stored values that a record speaks of are still there and whole, before a run goes on with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from anabranch.base.errors import ResultDamaged, ResultMissing
from anabranch.definition.frozen import FrozenGraph
from anabranch.engine.units.columns import result_of
from anabranch.engine.units.indices import Indices
from anabranch.results.reference import ResultRef
from anabranch.runs.resume.choice import Recorded, without

MAX_WHOLE_NBYTES = 64 << 20  # of an object that is read to its last byte; a larger one takes seconds from afar
_THREADS = 8  # stores are waited for more than they compute
_MAX_TOLD = 5  # files that are named; the rest is counted

_log = logging.getLogger("anabranch.history")


@dataclass(frozen=True, slots=True)
class _Stored:
    slug: str
    indices: Indices | None
    """Elements; None: a node's own value."""
    ref: ResultRef


def checked(graph: FrozenGraph, recorded: Recorded, *, repairs: bool = True, loads: bool = False) -> Recorded:
    """The record without what is not stored any more, or not whole; a warning names what that is.

    Parameters
    ----------
    repairs
        Whether that may run again. If not, whoever takes such a value is told.
    loads
        Whether to load the values, too: another Python wrote them.

    Raises
    ------
    ResultStoreError
        A store cannot be read.
    """
    recorded = _with_known_places(graph, recorded)
    stored = list(_stored(recorded)) if repairs else []
    if not stored:
        return recorded

    def complaint(each: _Stored) -> str | None:
        result = result_of(graph.nodes[each.slug])
        try:
            if not loads:
                result.check(each.ref, whole=each.ref.nbytes <= MAX_WHOLE_NBYTES)
            elif each.ref.width is None:
                result.read(each.ref)
            else:
                result.read_elements(each.ref, each.indices)
        except (ResultMissing, ResultDamaged) as error:
            return str(error)
        return None

    if len(stored) == 1:
        found = [complaint(stored[0])]
    else:
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(complaint, stored))
    bad = [(each, text) for each, text in zip(stored, found, strict=True) if text is not None]
    if not bad:
        return recorded
    for each, text in bad[:_MAX_TOLD]:
        _log.warning("%s runs again: %s", _name(each), text)
    if len(bad) > _MAX_TOLD:
        _log.warning("%d more stored values are missing or damaged, and are computed again", len(bad) - _MAX_TOLD)
    nodes = {each.slug for each, _ in bad if each.indices is None}
    elements: dict[str, set[int]] = {}
    for each, _ in bad:
        if each.indices is not None:
            elements.setdefault(each.slug, set()).update(each.indices)
    return without(recorded, nodes, elements)


def _name(stored: _Stored) -> str:
    if stored.indices is None:
        return stored.slug
    first, last = stored.indices[0], stored.indices[-1]
    return f"{stored.slug}[{first}]" if first == last else f"{stored.slug}[{first}] to [{last}]"


def _with_known_places(graph: FrozenGraph, recorded: Recorded) -> Recorded:
    """The record without places that the flow, as it is now, does not say how to read."""

    def is_known(slug: str) -> bool:
        return graph.nodes[slug].policies.storing is not None

    singles = {slug: each if is_known(slug) else replace(each, ref=None) for slug, each in recorded.singles.items()}
    columns = {
        slug: reports
        if is_known(slug)
        else [replace(each, columns=tuple(replace(column, refs=()) for column in each.columns)) for each in reports]
        for slug, reports in recorded.columns.items()
    }
    return Recorded(singles, columns, recorded.widths, recorded.calls)


def _stored(recorded: Recorded) -> Iterator[_Stored]:
    for slug, single in recorded.singles.items():
        if single.ref is not None:
            yield _Stored(slug, None, single.ref)
    for slug, reports in recorded.columns.items():
        for report in reports:
            for held, ref in report.columns[0].refs:
                yield _Stored(slug, held, ref)
