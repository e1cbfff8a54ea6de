"""Runs what deferred calls need beside their functions: opens their records, and puts callers' values together."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anabranch.base.errors import UnstorableValueError
from anabranch.base.states import BY_CODE, State, Success, TriggerFailed, map_state
from anabranch.base.triggers import EdgeName, Upstreams, verdict
from anabranch.definition.expressions import Const, Expression, evaluate, rename
from anabranch.definition.frozen import Edge, FrozenNode
from anabranch.engine.units.blame import blamed
from anabranch.engine.units.calls import Need, Record
from anabranch.engine.units.columns import Aligned, stored_columns, whole_outcome
from anabranch.engine.units.indices import Indices, union
from anabranch.engine.units.loans import CONSTANT, PARAMETER, PARCEL, Loan, loads
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.units import SUCCESS, Key, Outcome, Pieces, Program, Unit


class Called:
    """The records of a node in a unit, and the outcomes of the calls that they need."""

    def __init__(self, slug: str, unit: Unit, program: Program, outcomes: Mapping[Key, UnitOutcome]) -> None:
        wanted = set(unit.indices) if unit.indices is not None else {-1}
        self._unit, self._program, self._outcomes = unit, program, outcomes
        self.lent: dict[Loan, Any] = {}
        """What the records name."""
        self.records: dict[int, Record] = {}
        """By element; -1 of a single node."""
        self._places: dict[int, tuple[tuple[str, int], ...]] = {}
        calls = unit.calls
        for block in calls.blocks.get(slug, ()) if calls is not None else ():
            if wanted.isdisjoint(block.indices):
                continue
            for index, record in zip(block.indices, loads(block.data, self._lent), strict=True):
                if index in wanted:
                    self.records[index] = Record(*record)
                    self._places[index] = block.places
        self._found: dict[str, Aligned] = {}
        self._at: dict[str, Callable[[int], int]] = {}
        for group, indices in self._needed().items():
            source = unit.elements[group]
            assert isinstance(source, Pieces)
            stored = stored_columns(program.nodes[group], source.stored, indices) if source.stored else ()
            self._found[group] = Aligned(group, source, outcomes, indices, stored)
            if isinstance(indices, range):
                self._at[group] = (-indices.start).__add__
            else:
                self._at[group] = {index: at for at, index in enumerate(indices)}.__getitem__

    def _lent(self, loan: Loan) -> Any:
        """What a record names."""
        if loan not in self.lent:
            self.lent[loan] = _value_of(loan, self._unit, self._program, self._outcomes)
        return self.lent[loan]

    def _needed(self) -> dict[str, Indices]:
        needed: dict[str, set[tuple[int, int]]] = {}
        for index, record in self.records.items():
            for need in record.needs:
                if need.start < need.stop:
                    slug, base = self._places[index][need.group]
                    needed.setdefault(slug, set()).add((base + need.start, base + need.stop))
        return {slug: union(spans) for slug, spans in needed.items()}

    def outcomes(self, index: int, need: Need) -> Iterator[Outcome]:
        """Outcomes of the calls that a record of this element needs."""
        if need.start == need.stop:
            return
        slug, base = self._places[index][need.group]
        found, at = self._found[slug], self._at[slug]
        for each in range(base + need.start, base + need.stop):
            place = at(each)
            state = found.records.get(place)
            if state is None:
                state = BY_CODE[found.codes[place]](map_index=each)
            yield Outcome(state, found.values[place])

    def _codes(self, index: int, need: Need) -> bytes:
        return bytes(self._column(index, need)[0])

    def values(self, index: int, need: Need) -> list[Any]:
        """Values of the calls that a record of this element needs."""
        return list(self._column(index, need)[1])

    def _column(self, index: int, need: Need) -> tuple[Sequence[int], Sequence[Any]]:
        if need.start == need.stop:
            return b"", ()
        slug, base = self._places[index][need.group]
        found, at = self._found[slug], self._at[slug]
        low = at(base + need.start)
        if need.stop - need.start == at(base + need.stop - 1) + 1 - low:
            high = low + need.stop - need.start
            return found.codes[low:high], found.values[low:high]
        places = [at(each) for each in range(base + need.start, base + need.stop)]
        return [found.codes[place] for place in places], [found.values[place] for place in places]

    def value_of(self, index: int) -> Any:
        """What a caller returned, with values in place of the calls."""
        record = self.records[index]
        assert record.late is not None
        return evaluate(record.late["value"], _Values(self, index, record.needs))

    def refusal(self, index: int, node: FrozenNode) -> State | None:
        """The state of a caller whose trigger does not let its value be put together; None if it does.

        All its calls together are upstream of it as one map is.
        """
        record = self.records[index]
        codes = b"".join(self._codes(index, need) for need in record.needs)
        named: list[tuple[str, State]] = []
        if codes.count(SUCCESS) < len(codes):
            named = [
                (need.name(position), outcome.state)
                for need in record.needs
                for position, outcome in enumerate(self.outcomes(index, need))
            ]
        state = map_state("", codes, {position: state for position, (_, state) in enumerate(named)})
        called = record.needs[0].called
        found = verdict(
            Upstreams({EdgeName(called, "data", "calls"): state}),
            trigger=node.policies.trigger,
            skip_on_upstream_skip=node.policies.skip_on_upstream_skip,
            is_approved=True,
        )
        if isinstance(found, TriggerFailed):
            return blamed(found, {name: state for name, state in named if not state.is_successful()})
        return found

    def upstreams(self, index: int, node: FrozenNode) -> tuple[FrozenNode, dict[str, Outcome]]:
        """The node of an element that takes values of other calls, as one with edges; their outcomes by name."""
        record = self.records[index]
        near: dict[str, Outcome] = {}
        edges, names = [], []
        for need in record.needs:
            last = need.number + need.stop - need.start
            name = f"{need.called}[{need.number}:{last}]" if need.is_map or need.is_row else need.name()
            names.append(name)
            if need.is_row and (codes := self._codes(index, need)).count(SUCCESS) < len(codes):
                near[name] = Outcome(Success(), self.values(index, need))
                each = {need.name(position): outcome for position, outcome in enumerate(self.outcomes(index, need))}
                near.update(each)
                edges += [Edge(one, node.slug, "data", need.key, mapped=True) for one in each]
                continue
            near[name] = self._as_one(need, index)
            kind = "data" if need.key is not None else "order"
            edges.append(Edge(name, node.slug, kind, need.key, mapped=True))  # type: ignore[arg-type]  # one of the two
        late = {name: _named(expression, names) for name, expression in (record.late or {}).items()}
        return replace(node, edges=tuple(edges), arguments={**node.arguments, **late}), near

    def _as_one(self, need: Need, index: int) -> Outcome:
        if not (need.is_map or need.is_row):
            return next(self.outcomes(index, need))
        codes = self._codes(index, need)
        records: dict[int, State] = {}
        if codes.count(SUCCESS) < len(codes):
            records = {position: outcome.state for position, outcome in enumerate(self.outcomes(index, need))}
        return Outcome(map_state(need.called, codes, records), self.values(index, need))


def _value_of(loan: Loan, unit: Unit, program: Program, outcomes: Mapping[Key, UnitOutcome]) -> Any:
    kind, name = loan[:2]
    if kind == PARCEL:
        assert unit.calls is not None
        return pickle.loads(unit.calls.parcels[name])
    if kind == CONSTANT:
        node = program.nodes.get(name)
        expression = node.arguments.get(loan[2]) if node is not None else None
        if type(expression) is Const:
            return expression.value
        raise UnstorableValueError(f"{name} has no constant argument {loan[2]!r} any more, which this call was given")
    if kind == PARAMETER and name not in program.values:
        raise UnstorableValueError(f"the flow has no parameter {name!r} any more, whose value this call was given")
    outcome = whole_outcome(name, unit, program, outcomes)
    if not outcome.state.is_successful() or outcome.state.is_skipped():
        state = outcome.state.name
        raise UnstorableValueError(f"this call was given the value of {name}, which was lost, and made again: {state}")
    return outcome.value


class _Values(Mapping[Any, Any]):
    """Values of a record's needs, by their positions."""

    def __init__(self, called: Called, index: int, needs: Sequence[Need]) -> None:
        self._called = called
        self._index = index
        self._needs = needs

    def __getitem__(self, position: int) -> Any:
        need = self._needs[position]
        values = self._called.values(self._index, need)
        return values if need.is_map or need.is_row else values[0]

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._needs)))

    def __len__(self) -> int:
        return len(self._needs)


def _named(expression: Expression, names: Sequence[str]) -> Expression:
    return rename(expression, lambda position: names[position])
