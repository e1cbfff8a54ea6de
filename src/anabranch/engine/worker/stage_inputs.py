"""What one map of a chunk takes: inputs lined up with the chunk's elements, and calls of the task made of them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from anabranch.base.secret import Secret
from anabranch.base.states import BY_CODE, State, Success
from anabranch.definition.expressions import Const, Ref, evaluate
from anabranch.definition.frozen import FrozenNode
from anabranch.engine.units.columns import Aligned, Carried, held_outcome, single_outcome, stored_columns, whole_outcome
from anabranch.engine.units.indices import cut
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.units import SUCCESS, CutFrom, Held, Key, Outcome, Pieces, Sent, Stored, Unit
from anabranch.engine.units.values import ATOMS, copied, dumps
from anabranch.engine.worker.calls_in import Called

if TYPE_CHECKING:
    from anabranch.engine.worker.task_runner import Environment


class Lined(Protocol):
    """Elements of a map at the same positions as those of the chunk."""

    @property
    def codes(self) -> bytearray:
        """Codes of their states."""

    @property
    def values(self) -> Sequence[Any]:
        """Their values; an exception for each that failed."""

    @property
    def records(self) -> Mapping[int, State]:
        """States of what is not plain Success."""


class StageInputs:
    """The arguments of a map's elements: whole ones, and those that each element has of its own.

    Parameters
    ----------
    before
        The maps of the chunk above this one, by slug.
    is_first
        Whether it is the chunk's first map: the unit's calls are of that one.
    is_plain
        Whether elements may be called on the short way as far as the task is concerned.
    """

    def __init__(
        self,
        node: FrozenNode,
        unit: Unit,
        environment: Environment,
        outcomes: Mapping[Key, UnitOutcome],
        before: Mapping[str, Lined],
        *,
        is_first: bool,
        is_plain: bool,
    ) -> None:
        assert unit.indices is not None
        self._node = node
        self._program = environment.program
        self._indices = unit.indices
        self.assembles = is_first and unit.calls is not None and unit.calls.assembles
        """Whether elements are put together of the results of deferred calls."""
        whole_upstreams = () if self.assembles else node.whole_upstreams
        self.whole = {slug: whole_outcome(slug, unit, self._program, outcomes) for slug in whole_upstreams}
        self.called = Called(node.slug, unit, self._program, outcomes) if unit.calls is not None else None
        self.busy: set[int] = set()
        """Positions of deferred calls that take values of others."""
        self.elements: dict[str, Sequence[Any]] = {}
        """Elements that do not come from a map, by argument, in the order of the indices."""
        self.has_carried = False
        """Whether an element there carries a state."""
        self._lined: dict[str, Lined] = {}
        self._lists: dict[str, str] = {}
        """Slug of the upstream node for those arguments that are cut out of a list and have one."""
        if not self.assembles:
            self._line_up(unit, outcomes, before)
        self._gates = [source.codes for source in self._lined.values()]
        self.is_gated = bool(self._gates)
        """Whether there are maps above: where an element of theirs is no plain Success, the short way is closed."""
        self._template: dict[str, Any] = {}
        self._open: list[tuple[str, Sequence[Any]]] = []
        self._snapshots: dict[str, _Snapshot] = {}
        """Whole arguments that an attempt could change before the next, by name."""
        values = {**self._program.values, **{slug: outcome.value for slug, outcome in self.whole.items()}}
        if node.policies.retry.max_retries:
            self._note_whole_arguments(values)
        is_plain = is_plain and all(
            outcome.state.is_successful() and not outcome.state.is_skipped() and not _has_failures(outcome.state)
            for outcome in self.whole.values()
        )
        self.is_plain = is_plain and not self.assembles and self._prepare_calls(values)
        """Whether elements can be called on the short way."""

    # Lining up --------------------------------------------------------------------------------------------------------

    def _line_up(self, unit: Unit, outcomes: Mapping[Key, UnitOutcome], before: Mapping[str, Lined]) -> None:
        records = self.called.records if self.called is not None else {}
        if records:
            rows = [records[index] for index in self._indices]
            for number, name in enumerate(self._node.arguments):
                self.elements[name] = [row.values[number] for row in rows]
            self.busy = {position for position, row in enumerate(rows) if row.needs}
            return
        lists: dict[str, Sequence[Any]] = {}
        for slug in self._node.element_upstreams:
            if slug in before:
                self._lined[slug] = before[slug]
            elif isinstance(source := unit.elements.get(slug), Pieces):
                stored = stored_columns(self._program.nodes[slug], source.stored, self._indices)
                self._lined[slug] = Aligned(slug, source, outcomes, self._indices, stored)
            elif isinstance(source, CutFrom):
                held, cut_here = held_outcome(slug, source, outcomes), outcomes[source.key].cut
                lists[slug] = cut_here if cut_here is not None else self._cut(held.value)
            elif isinstance(source, (Held, Sent, Stored)):
                lists[slug] = self._cut(single_outcome(slug, source, outcomes, self._program).value)
            else:
                lists[slug] = self._cut(self._program.values[slug])
        for name in self._node.mapped:
            expression = self._node.arguments[name]
            if isinstance(expression, Const):
                given = unit.slices.get((self._node.slug, name))
                self.elements[name] = given if given is not None else self._cut(expression.value)
            elif isinstance(expression, Ref) and expression.node in lists:
                self.elements[name] = lists[expression.node]
                self._lists[name] = expression.node
                self.has_carried |= any(type(value) is Carried for value in lists[expression.node])

    def _cut(self, values: Sequence[Any]) -> Sequence[Any]:
        return cut(values, self._indices)

    def at(self, position: int) -> tuple[FrozenNode, dict[str, Outcome], dict[str, Any]]:
        """What one element is run with, on the long way: its node, outcomes upstream by slug, elements by argument."""
        index = self._indices[position]
        neighbours = {slug: _outcome_at(source, position, index) for slug, source in self._lined.items()}
        elements = {name: column[position] for name, column in self.elements.items()}
        for name, slug in self._lists.items():
            element = elements[name]
            neighbours[slug] = element.outcome if isinstance(element, Carried) else Outcome(Success(), element)
            elements[name] = neighbours[slug].value
        node = self._node
        if position in self.busy and self.called is not None:
            node, neighbours = self.called.upstreams(index, node)
            elements = {name: value for name, value in elements.items() if type(node.arguments[name]) is Const}
        return node, neighbours, elements

    # The short way ----------------------------------------------------------------------------------------------------

    def _prepare_calls(self, values: Mapping[str, Any]) -> bool:
        """Prepare the arguments of a call, with places left open for the elements; whether that could be done."""
        try:
            for check in self._node.checks:
                evaluate(check, values)
            for name, expression in self._node.arguments.items():
                if name in self.elements:
                    self._open.append((name, self.elements[name]))
                elif name in self._node.mapped and isinstance(expression, Ref):
                    self._open.append((name, self._lined[expression.node].values))
                self._template[name] = None if name in self._node.mapped else evaluate(expression, values)
            self._template.update((name, snapshot.own) for name, snapshot in self._snapshots.items())
            return not any(type(value) is Secret for value in self._template.values())
        except BaseException:  # the long way makes it each element's failure, with its message
            return False

    def caller(self) -> Callable[[int], Any]:
        """A function of the position that calls the task's function; positional arguments are the quickest."""
        function = self._node.signature.function
        args, kwargs = self._node.signature.split(self._template)
        names = list(self._template)
        opened = [(names.index(name), name, column) for name, column in self._open]
        if len(opened) == 1 and opened[0][0] == 0 and len(args) == 1 and not kwargs:
            column = opened[0][2]
            return lambda position: function(column[position])
        if kwargs or len(args) != len(names):

            def call_by_name(position: int) -> Any:
                arguments = dict(self._template)
                for _, name, column in opened:
                    arguments[name] = column[position]
                positional, keywords = self._node.signature.split(arguments)
                return function(*positional, **keywords)

            return call_by_name

        def call_by_position(position: int) -> Any:
            positional = args[:]
            for place, _, column in opened:
                positional[place] = column[position]
            return function(*positional)

        return call_by_position

    def arguments(self, position: int) -> dict[str, Any]:
        """Those that a call on the short way was made with."""
        return {**self._template, **{name: column[position] for name, column in self._open}}

    def is_open(self, position: int) -> bool:
        """Whether all elements upstream are plain successes."""
        return all(codes[position] == SUCCESS for codes in self._gates)

    def are_atoms(self) -> bool:
        """Whether all elements are known to be immutable."""
        columns = [column for _, column in self._open]
        given = {id(column) for column in self.elements.values()}  # those of other maps are not filled in yet
        return all(isinstance(c, range) or (id(c) in given and set(map(type, c)) <= ATOMS) for c in columns)

    def is_mutable(self, position: int) -> bool:
        """Whether the attempts of an element could change what it takes."""
        return any(type(column[position]) not in ATOMS for _, column in self._open)

    # Whole arguments --------------------------------------------------------------------------------------------------

    def evaluated(self) -> dict[str, Any]:
        """Arguments that are the same for all elements."""
        values = {**self._program.values, **{slug: each.value for slug, each in self.whole.items()}}
        names = (name for name in self._node.arguments if name not in self._node.mapped)
        return {name: evaluate(self._node.arguments[name], values) for name in names}

    def _note_whole_arguments(self, values: Mapping[str, Any]) -> None:
        """Pickle, once for all elements, the whole arguments that an attempt which is repeated could change."""
        for name, expression in self._node.arguments.items():
            if name in self._node.mapped or not isinstance(expression, (Const, Ref)):
                continue
            try:
                value = evaluate(expression, values)
                if type(value) not in ATOMS and not callable(value):
                    self._snapshots[name] = _Snapshot(value)
            except Exception:  # the long way says what is wrong with it; what does not pickle cannot be copied either
                continue

    def restore(self) -> bool:
        """Put the whole arguments back as they were before the last attempt; whether there are any to put back."""
        self._template.update((name, snapshot.renewed()) for name, snapshot in self._snapshots.items())
        return bool(self._snapshots)

    def copied(self, value: Any, attempt: int) -> Any:
        """What an attempt may work on: a copy; of whole arguments the chunk's own, new for every second attempt."""
        for snapshot in self._snapshots.values():
            if snapshot.original is value:
                return snapshot.own if attempt == 1 else snapshot.renewed()
        return copied(value)


class _Snapshot:
    """A value of which each attempt gets a copy that no failed attempt has changed."""

    def __init__(self, original: Any) -> None:
        self.original = original
        self._data = dumps(original)
        self.own = self.renewed()

    def renewed(self) -> Any:
        self.own = pickle.loads(self._data)
        return self.own


def _outcome_at(source: Lined, position: int, index: int) -> Outcome:
    state = source.records.get(position)
    if state is None:
        state = BY_CODE[source.codes[position]](map_index=index)
    return Outcome(state, source.values[position])


def _has_failures(state: State) -> bool:
    return state.counts is not None and state.counts.failed > 0
