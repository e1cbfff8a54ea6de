"""What one map of a chunk takes: inputs lined up with the chunk's elements, and calls of the task made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from anabranch.base.secret import Secret
from anabranch.base.states import BY_CODE, State, Success
from anabranch.definition.expressions import Build, Const, Expression, Ref, evaluate
from anabranch.definition.frozen import FrozenNode
from anabranch.definition.signature import STAR
from anabranch.engine.units.columns import Aligned, Carried, held_outcome, single_outcome, stored_columns, whole_outcome
from anabranch.engine.units.copies import copied, copier, is_immutable
from anabranch.engine.units.elements import Unread, read
from anabranch.engine.units.loans import Loan
from anabranch.engine.units.outcomes import UnitOutcome
from anabranch.engine.units.units import SUCCESS, CutFrom, Held, Key, Outcome, Pieces, Sent, Stored, Unit
from anabranch.engine.units.values import ATOMS
from anabranch.engine.worker.calls_in import Called
from anabranch.engine.worker.calls_out import things_there
from anabranch.engine.worker.task_runner import copied_nbytes

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
        self._environment = environment
        self._program = environment.program
        self._indices = unit.indices
        self.assembles = is_first and unit.calls is not None and unit.calls.assembles
        """Whether elements are put together of the results of deferred calls."""
        whole_upstreams = () if self.assembles else node.whole_upstreams
        self.whole = {slug: whole_outcome(slug, unit, self._program, outcomes) for slug in whole_upstreams}
        self._unit = unit
        self.called = Called(node.slug, unit, self._program, outcomes) if unit.calls is not None else None
        self.busy: set[int] = set()
        """Positions of deferred calls that take values of others."""
        self.elements: dict[str, Sequence[Any]] = {}
        """Elements that do not come from a map, by argument, in the order of the indices."""
        self.has_stand_ins = False
        """Whether an element there stands for something else: a state, a secret, an error."""
        self._of_atoms: set[str] = set()
        """Arguments whose elements are known to be immutable."""
        self._lined: dict[str, Lined] = {}
        self._lists: dict[str, str] = {}
        """Slug of the upstream node for those arguments that are cut out of a list and have one."""
        if not self.assembles:
            self._line_up(unit, outcomes, before)
        self._gates = [source.codes for source in self._lined.values()]
        self.is_gated = bool(self._gates)
        """Whether there are maps above: where an element of theirs is no plain Success, the short way is closed."""
        self._copied_nbytes = copied_nbytes(node, environment)
        self._inline_nbytes: int = environment.setting("inline_nbytes")
        self._shared: dict[int, _Shared] = {}
        """What elements are given of whole values that they could change, by the identity of these."""
        self._template: dict[str, Any] = {}
        self._open: list[tuple[str, Sequence[Any]]] = []
        self._values = {**self._program.values, **{slug: outcome.value for slug, outcome in self.whole.items()}}
        is_prepared = not self.assembles and self._prepare_calls()
        is_plain = is_plain and all(
            outcome.state.is_successful() and not outcome.state.is_skipped() and not _has_failures(outcome.state)
            for outcome in self.whole.values()
        )
        self.is_plain = is_plain and is_prepared
        """Whether elements can be called on the short way."""

    # Lining up --------------------------------------------------------------------------------------------------------

    def _line_up(self, unit: Unit, outcomes: Mapping[Key, UnitOutcome], before: Mapping[str, Lined]) -> None:
        records = self.called.records if self.called is not None else {}
        if records:
            rows = [records[index] for index in self._indices]
            for number, name in enumerate(self._node.arguments):
                self._take_elements(name, [row.values[number] for row in rows])
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
                self._take_elements(name, given if given is not None else self._cut(expression.value))
            elif isinstance(expression, Ref) and expression.node in lists:
                self._take_elements(name, lists[expression.node])
                self._lists[name] = expression.node

    def _take_elements(self, name: str, elements: Sequence[Any]) -> None:
        self.elements[name] = elements
        kinds = {int} if type(elements) is range else set(map(type, elements))
        if kinds <= ATOMS:
            self._of_atoms.add(name)
        self.has_stand_ins |= not _STAND_INS.isdisjoint(kinds)

    def _cut(self, values: Sequence[Any]) -> Sequence[Any]:
        return read(values, self._indices, self._environment.reraise_interrupt)

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

    def _prepare_calls(self) -> bool:
        """Prepare the arguments of a call, with places left open for the elements; whether that could be done."""
        try:
            for check in self._node.checks:
                evaluate(check, self._values)
            for name, expression in self._node.arguments.items():
                if name in self.elements:
                    self._open.append((name, self.elements[name]))
                elif name in self._node.mapped and isinstance(expression, Ref):
                    self._open.append((name, self._lined[expression.node].values))
                self._template[name] = None if name in self._node.mapped else self._noted(name, expression)
            return not any(isinstance(value, Secret) for value in self._template.values())
        except BaseException as error:  # the long way makes it each element's failure, with its message
            self._environment.reraise_interrupt(error)
            return False

    def _noted(self, name: str, expression: Expression) -> Any:
        """A whole argument; of what elements could change of it, it is noted what they are given."""

        def note(value: Any) -> Any:
            for each in value if name == STAR and type(expression) is Const else (value,):
                if not is_immutable(each) and id(each) not in self._shared:
                    self._shared[id(each)] = _Shared(each, self._inline_nbytes, self._copied_nbytes)
            return value

        return evaluate(expression, self._values, note)

    def caller(self) -> Callable[[int], Any]:
        """A function of the position that calls the task's function; positional arguments are the quickest."""
        function, limit = self._node.signature.function, self._copied_nbytes
        args, kwargs = self._node.signature.split(self._template)
        names = list(self._template)
        if names == [name for name, _ in self._open] and len(args) == 1 and not kwargs and STAR not in names:
            column = self._open[0][1]
            if names[0] in self._of_atoms:
                return lambda position: function(column[position])

            def call_with_own(position: int) -> Any:
                value = column[position]
                return function(value if type(value) in ATOMS else copied(value, limit))

            return call_with_own
        getters = [(names.index(name), name, get) for name, get in self._getters()]
        if kwargs or len(args) != len(names) or STAR in names:

            def call_by_name(position: int) -> Any:
                arguments = dict(self._template)
                for _, name, get in getters:
                    arguments[name] = get(position)
                positional, keywords = self._node.signature.split(arguments)
                return function(*positional, **keywords)

            return call_by_name

        def call_by_position(position: int) -> Any:
            positional = args[:]
            for place, _, get in getters:
                positional[place] = get(position)
            return function(*positional)

        return call_by_position

    def _getters(self) -> Iterator[tuple[str, Callable[[int], Any]]]:
        """Functions of the position, by argument, that give an element what is its own."""
        limit, first = self._copied_nbytes, partial(self.own_value, attempt=1)

        def of_element(column: Sequence[Any]) -> Callable[[int], Any]:
            return lambda position: copied(column[position], limit)

        def of_star(column: Sequence[Any]) -> Callable[[int], Any]:
            return lambda position: tuple(copied(each, limit) for each in column[position])

        for name, column in self._open:
            if name in self._of_atoms:
                yield name, column.__getitem__
            else:
                yield name, of_star(column) if name == STAR else of_element(column)

        def of_whole(name: str, value: Any) -> Callable[[int], Any]:
            expression = self._node.arguments[name]
            if type(expression) is Build:
                return lambda _: evaluate(expression, self._values, first)
            return lambda _: tuple(map(first, value)) if name == STAR else first(value)

        for name, value in self._template.items():
            if name not in self._node.mapped and not is_immutable(value):
                yield name, of_whole(name, value)

    def arguments(self, position: int) -> dict[str, Any]:
        """Those that a call on the short way was made with."""
        return {**self._template, **{name: column[position] for name, column in self._open}}

    def is_open(self, position: int) -> bool:
        """Whether all elements upstream are plain successes."""
        return all(codes[position] == SUCCESS for codes in self._gates)

    # Whole arguments --------------------------------------------------------------------------------------------------

    def evaluated(self) -> dict[str, Any]:
        """Arguments that are the same for all elements."""
        values = {**self._program.values, **{slug: each.value for slug, each in self.whole.items()}}
        names = (name for name in self._node.arguments if name not in self._node.mapped)
        return {name: evaluate(self._node.arguments[name], values) for name in names}

    def there(self) -> dict[Loan, Any]:
        """What deferred calls that elements make can name."""
        lent = self.called.lent if self.called is not None else {}
        return {**things_there(self._node, self.whole, self._unit, self._program), **lent}

    def renew(self) -> None:
        """Make new copies of the large whole values, after an attempt that may have changed those that there are."""
        for shared in self._shared.values():
            shared.renew()

    def own_value(self, value: Any, attempt: int) -> Any:
        """What an attempt is given of a value, by its number."""
        shared = self._shared.get(id(value))
        if shared is None:
            return copied(value, self._copied_nbytes)
        if attempt > 1:
            shared.renew()
        return shared.own()


class _Shared:
    """A value that a chunk's elements have in common.

    A small one each attempt gets a copy of. Of a large one the chunk has a copy where attempts may be repeated, which
    is renewed after each that failed.
    """

    def __init__(self, value: Any, small_nbytes: int, copied_nbytes: int | None) -> None:
        self._original = self._value = value  # the original, so that its identity stays its own
        self._make = copier(value, small_nbytes)
        self._make_large = copier(value) if self._make is None and copied_nbytes is None else None
        self.renew()

    def own(self) -> Any:
        return self._value if self._make is None else self._make()

    def renew(self) -> None:
        if self._make_large is not None:
            self._value = self._make_large()


_STAND_INS = frozenset({Carried, Secret, Unread})


def _outcome_at(source: Lined, position: int, index: int) -> Outcome:
    state = source.records.get(position)
    if state is None:
        state = BY_CODE[source.codes[position]](map_index=index)
    return Outcome(state, source.values[position])


def _has_failures(state: State) -> bool:
    return state.counts is not None and state.counts.failed > 0
