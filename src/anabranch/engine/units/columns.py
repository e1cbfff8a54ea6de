"""What a unit takes from others: outcomes of single nodes; elements of maps that lie in several chunks.

Elements are put together as a whole, or lined up with those of another chunk.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.base.errors import ResultReleased
from anabranch.base.states import FIRST_FINAL_CODE, Counts, Failed, State, Success, map_state, tally
from anabranch.definition.expressions import Build, Ref, evaluate
from anabranch.definition.frozen import FrozenNode
from anabranch.definition.marks import has_parts
from anabranch.engine.units.elements import Reraise, Unread
from anabranch.engine.units.failures import describe, revive
from anabranch.engine.units.indices import Indices
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.units import (
    SUCCESS,
    Column,
    CutFrom,
    Held,
    Holding,
    Key,
    Known,
    Outcome,
    Pieces,
    Program,
    Refs,
    Sent,
    Stored,
    Unit,
)
from anabranch.results.reference import ResultRef


@dataclass(frozen=True, slots=True)
class Carried:
    """Stands in a list for an element that failed or was skipped."""

    outcome: Outcome


def carry(outcome: Outcome) -> Any:
    """The value of an outcome, or what stands for it in a list if it has none."""
    state = outcome.state
    return outcome.value if state.is_successful() and not state.is_skipped() else Carried(outcome)


def uncarried(values: Iterable[Any]) -> list[Any]:
    """A list for a task that takes it whole: the exception of a failed element, None for a skipped one."""
    return [value.outcome.value if isinstance(value, Carried) else value for value in values]


def outcome_at(values: Sequence[Any], position: int, state: State) -> Outcome:
    """State and value of one element of a list; `state` is that of the ordinary ones."""
    value = values[position]
    return value.outcome if isinstance(value, Carried) else Outcome(state, value)


def gather_parts(node: FrozenNode, upstreams: Mapping[str, Outcome]) -> list[Any]:
    """The list of a ``collect`` node: the parts it was written with, in their order."""
    expression = node.arguments["parts"]
    parts = expression.parts if isinstance(expression, Build) else (expression,)
    plain = {slug: outcome.value for slug, outcome in upstreams.items()}
    return [carry(upstreams[part.node]) if isinstance(part, Ref) else evaluate(part, plain) for part in parts]


def flat(elements: Iterable[Any], reraise: Reraise) -> list[Any]:
    """One level of nesting less; what is not a list, carries a state, or cannot be read, counts as one element."""
    result: list[Any] = []
    for element in elements:
        try:
            if type(element) is Unread:
                raise element.error
            if has_parts(element):
                result.extend(list(element))
            else:
                result.append(element)
        except BaseException as error:
            reraise(error)
            failure = describe(error)
            result.append(Carried(without_value(Failed(message=failure.headline(), failure=failure))))
    return result


def counted(values: Sequence[Any]) -> State | None:
    """The state of a list some of whose elements carry states, with its counts; None if none does."""
    states = [value.outcome.state for value in values if isinstance(value, Carried)]
    if not states:
        return None
    plain = len(values) - len(states)
    counts = tally(states) + Counts(plain, plain)
    first = next((state for state in states if not state.is_successful()), None)
    failure = first.failure if first is not None else None
    cls = Failed if counts.failed else Success
    return cls(message=str(counts), counts=counts, failure=failure)


class OutcomesChanged(Exception):
    """Outcomes that a unit needs are not what was reported of them: they were lost, and made again differently."""

    def __init__(self, keys: Iterable[Key]) -> None:
        super().__init__("values were lost, and what was made again is not what they were")
        self.keys = frozenset(keys)


def whole_outcome(
    slug: str,
    unit: Unit,
    program: Program,
    outcomes: Mapping[Key, UnitOutcome],
    *,
    carrying: bool = False,
    reduce: Callable[[Pieces], list[Any]] | None = None,
) -> Outcome:
    """Outcome of an upstream node as a whole: of a map, the list of its elements' values.

    `carrying`: an element that failed or was skipped is in the list with its state, not as an exception or None.
    `reduce`: makes a shorter list, of what the values reduce to.
    """
    if slug in program.values:
        return Outcome(Success(), program.values[slug])
    source = unit.inputs[slug]
    if isinstance(source, Known):
        return without_value(source.state)
    if isinstance(source, Pieces):
        state = source.state if source.state.is_finished() else summed(program.nodes[slug], source, outcomes)
        if reduce is not None:
            return Outcome(state, reduce(source))
        return Outcome(state, joined(slug, source, state, outcomes, program, carrying=carrying))
    if isinstance(source, CutFrom):
        raise AssertionError(f"{slug} is asked for as a whole, and its elements were sent")
    outcome = single_outcome(slug, source, outcomes, program)
    return outcome if carrying else without_states(program.nodes[slug], outcome)


def without_value(state: State) -> Outcome:
    """The outcome of which the state says all: what SKIP gave, or the exception of a failure."""
    return Outcome(state, state.result if state.is_successful() else revive(state.failure, state.message))


def without_states(node: FrozenNode, outcome: Outcome) -> Outcome:
    """An outcome as a task takes it: in a list that carries states, exceptions and None instead of them."""
    if node.kind in ("collect", "flatten") and isinstance(outcome.value, list):
        return Outcome(outcome.state, uncarried(outcome.value))
    return outcome


def single_outcome(
    slug: str, source: Held | Sent | Stored, outcomes: Mapping[Key, UnitOutcome], program: Program
) -> Outcome:
    """Outcome of an upstream node that is no map, as it is."""
    if isinstance(source, Held):
        return held_outcome(slug, source, outcomes)
    if isinstance(source, Stored):
        return Outcome(source.state, stored_value(program, slug, source.ref))
    return Outcome(source.state, pickle.loads(source.value))


def held_outcome(slug: str, source: Held | CutFrom, outcomes: Mapping[Key, UnitOutcome]) -> Outcome:
    """A single node's outcome from that of its unit.

    Raises
    ------
    OutcomesChanged
        It is not what was reported.
    """
    outcome = outcomes[source.key].singles.get(slug)
    if outcome is None or source.seal not in (None, outcome.seal):
        raise OutcomesChanged([source.key])
    return outcome


def unreported_seals(unit: Unit, outcomes: Mapping[Key, UnitOutcome]) -> dict[str, bytes]:
    """Seals of what a unit has taken although nothing had been reported of it when the unit was sent."""
    found: dict[str, bytes] = {}
    for slug, source in unit.inputs.items():
        if isinstance(source, Held) and source.seal is None and slug in outcomes[source.key].singles:
            found[slug] = outcomes[source.key].singles[slug].seal
    return found


def found(
    slug: str, source: Pieces, outcomes: Mapping[Key, UnitOutcome], stored: Iterable[Column] = ()
) -> Iterator[Column]:
    """The columns of a map in several chunks, after those that travelled with the unit, or are read back.

    Raises
    ------
    OutcomesChanged
        Elements are not what was reported of them.
    """
    for indices, data in source.given:
        yield Column(indices, bytes([SUCCESS]) * len(indices), pickle.loads(data), {})
    yield from stored
    yield from held_columns(slug, source.holdings, outcomes)


def held_columns(slug: str, holdings: Iterable[Holding], outcomes: Mapping[Key, UnitOutcome]) -> list[Column]:
    """The columns of a map that are in outcomes of units.

    Raises
    ------
    OutcomesChanged
        As that of `found`.
    """
    columns: list[Column] = []
    changed: list[Key] = []
    for holding in holdings:
        column = outcomes[holding.key].columns.get(slug)
        part = column.part(holding) if column is not None else None
        if part is not None:
            columns.append(part)
        elif column is not None or holding.indices is not None:
            changed.append(holding.key)
    if changed:
        raise OutcomesChanged(changed)
    return columns


def result_of(node: FrozenNode) -> Any:  # a Result, of which what decides, and imports this, must know nothing
    """Where a node's values are stored.

    Raises
    ------
    ResultReleased
        Only the flow says where, and is not here.
    """
    if node.policies.storing is None:
        raise ResultReleased(f"the value of {node.slug} is where its flow stores it: runs.load(…, flow=flow) finds it")
    return node.policies.storing.result


_recent: list[tuple[tuple[str, str, str], Any]] = []
_MAX_RECENT = 2  # lists: each chunk of a map is cut from the same one, and would read it again


def stored_value(program: Program, slug: str, ref: ResultRef) -> Any:
    """A value that is read back from where it is stored; a list that maps are cut from is kept for the next chunk.

    Raises
    ------
    ResultError
        What is stored is missing, or not what it was.
    """
    node = program.nodes[slug]
    if not node.feeds_map:
        return result_of(node).read(ref)
    name = (program.run.run_id, slug, ref.checksum)
    for known, value in tuple(_recent):
        if known == name:
            return value
    value = result_of(node).read(ref)
    _recent[:] = [(name, value), *_recent[: _MAX_RECENT - 1]]  # at once, whichever thread looks
    return value


def stored_columns(node: FrozenNode, refs: Refs, wanted: Indices | None = None) -> Iterator[Column]:
    """Columns of elements that are read back from where they are stored; `wanted`: of these only.

    Raises
    ------
    ResultError
        What is stored is missing, or not what it was.
    """
    for held, ref in refs:
        indices = held if wanted is None else _both(held, wanted)
        if not len(indices):
            continue
        result = result_of(node)
        if ref.width is None:
            values = [result.read(ref)]
        else:
            found = result.read_elements(ref, indices)
            values = [found[index] for index in indices]
        yield Column(indices, bytes([SUCCESS]) * len(indices), values, {})


def _both(these: Indices, those: Indices) -> Indices:
    if isinstance(these, range) and isinstance(those, range):
        return range(max(these.start, those.start), min(these.stop, those.stop))
    wanted = those if isinstance(those, range) else frozenset(those)
    return tuple(index for index in these if index in wanted)


def summed(node: FrozenNode, source: Pieces, outcomes: Mapping[Key, UnitOutcome]) -> State:
    """A map's own state, seen from its chunks: where no driver has counted them."""
    columns = held_columns(node.slug, source.holdings, outcomes)
    codes = bytearray(sum(len(column.codes) for column in columns))
    records: dict[int, State] = {}
    for column in columns:
        for index, code in zip(column.indices, column.codes, strict=True):
            codes[index] = code
        records.update(column.records)
    return map_state(node.slug, codes, records, min_success=node.policies.min_success)


def joined(
    slug: str,
    source: Pieces,
    state: State,
    outcomes: Mapping[Key, UnitOutcome],
    program: Program,
    *,
    carrying: bool = False,
) -> list[Any]:
    """Values of all elements in order: the exception of a failed one, None for a skipped one.

    `carrying`: these two are in the list with their states instead.
    """
    width = state.counts.total if state.counts is not None else 0
    values: list[Any] = [None] * width
    codes = bytearray(width)
    stored = stored_columns(program.nodes[slug], source.stored)
    for column in found(slug, source, outcomes, stored):
        place(column, range(width), values, codes, carrying=carrying)
    for index, settled in source.settled.items():
        outcome = without_value(settled)
        values[index], codes[index] = Carried(outcome) if carrying else outcome.value, settled.code
    check_whole(slug, codes)
    return values


def check_whole(slug: str, codes: bytes | bytearray) -> None:
    """Make sure that each element of a map was found.

    Raises
    ------
    ResultReleased
        Some were not. Without them, a value would be wrong.
    """
    missing = codes.count(0)
    if missing:
        text = f"{missing:,} of {len(codes):,} values of {slug} are not there any more, {slug}[{codes.index(0)}] first"
        raise ResultReleased(f"{text}; resume the run to compute them again")


def place(
    column: Column, indices: Indices, values: list[Any], codes: bytearray | None = None, *, carrying: bool = False
) -> None:
    """Write a column's final elements, and their codes, into lists whose places are `indices`."""
    if isinstance(indices, range) and isinstance(column.indices, range):
        low, high = max(indices.start, column.indices.start), min(indices.stop, column.indices.stop)
        if low >= high:
            return
        first, last = low - column.indices.start, high - column.indices.start
        if min(column.codes[first:last]) >= FIRST_FINAL_CODE:
            values[low - indices.start : high - indices.start] = column.values[first:last]
            if codes is not None:
                codes[low - indices.start : high - indices.start] = column.codes[first:last]
            for index in column.records if carrying else ():
                if low <= index < high and column.codes[index - column.indices.start] != SUCCESS:
                    values[index - indices.start] = Carried(column.outcome(index - column.indices.start))
            return
    for position, at in matches(column.indices, indices):
        if column.codes[position] < FIRST_FINAL_CODE:
            continue
        if codes is not None:
            codes[at] = column.codes[position]
        if carrying and column.codes[position] != SUCCESS and column.indices[position] in column.records:
            values[at] = Carried(column.outcome(position))
        else:
            values[at] = column.values[position]


def matches(these: Indices, those: Indices) -> Iterator[tuple[int, int]]:
    """Positions in `these` and in `those` of the indices that are in both."""
    if isinstance(those, range):
        start, stop = those.start, those.stop
        for position, index in enumerate(these):
            if start <= index < stop:
                yield position, index - start
    elif isinstance(these, range):
        for at, index in enumerate(those):
            if these.start <= index < these.stop:
                yield index - these.start, at
    else:
        places = {index: at for at, index in enumerate(those)}
        for position, index in enumerate(these):
            at = places.get(index, -1)
            if at >= 0:
                yield position, at


def _places_of(some: Iterable[int], indices: Indices) -> Iterator[tuple[int, int]]:
    """Those that are among the indices, with their positions there."""
    places = {index: at for at, index in enumerate(indices)} if not isinstance(indices, range) else None
    for index in some:
        at = places.get(index, -1) if places is not None else index - indices[0] if index in indices else -1
        if at >= 0:
            yield index, at


class Aligned:
    """Elements of an upstream map, lined up with a chunk."""

    def __init__(
        self,
        slug: str,
        source: Pieces,
        outcomes: Mapping[Key, UnitOutcome],
        indices: Indices,
        stored: Iterable[Column] = (),
    ) -> None:
        self.values: list[Any] = [None] * len(indices)
        self.codes = bytearray(len(indices))
        self.records: dict[int, State] = {}
        """States by position."""
        for column in found(slug, source, outcomes, stored):
            place(column, indices, self.values, self.codes)
            records = {index: state for index, state in column.records.items() if state.code >= FIRST_FINAL_CODE}
            self.records.update((at, records[index]) for index, at in _places_of(records, indices))
        for index, state in source.settled.items():
            at = indices.index(index)
            self.codes[at], self.records[at] = state.code, state
            self.values[at] = without_value(state).value
