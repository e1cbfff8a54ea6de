"""What a task gave that made deferred calls: the calls taken out of it, numbered, grouped by task, ready to travel."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from types import MethodType
from typing import Any

from anabranch.base.errors import DeferDepthError, DefinitionError, NodeValueError, UnstorableValueError
from anabranch.base.texts import headline_of
from anabranch.definition.deferred import DeferredCall, DeferredMap
from anabranch.definition.expressions import MAX_SHOWN, Build, Const, Expression, Ref, express, holds
from anabranch.definition.frozen import FrozenNode
from anabranch.definition.policies import Policies
from anabranch.definition.signature import Signature
from anabranch.definition.stowaways import find_stowaway
from anabranch.engine.units.calls import (
    BLOCK_NBYTES,
    CALLER,
    RECORDS_IN_BLOCK,
    CallGroup,
    Expansion,
    Link,
    Need,
    Record,
    RecordBlock,
)
from anabranch.engine.units.elements import read
from anabranch.engine.units.indices import Indices, compact
from anabranch.engine.units.loans import CONSTANT, NODE, PARAMETER, PARCEL, Lender, Lent, Loan
from anabranch.engine.units.units import Held, Outcome, Program, Stored, Unit
from anabranch.engine.units.values import dumps
from anabranch.engine.worker.call_storing import choose_storing, storing_to_read

MAX_GROWTH = 1.5  # of records that are pickled apart: if they weigh so much more, each has a copy of what they share
MIN_RUN = 2  # calls in a row of a list that become one need


def is_call(value: object) -> bool:
    """Whether a value is a deferred call."""
    return isinstance(value, DeferredCall)


def makes_calls(value: object) -> bool:
    """Whether there is a deferred call in a value."""
    return holds(value, is_call)


def refuse_hidden_calls(value: object, *, hider: str = "") -> None:
    """Refuse deferred calls in places where they would stay calls.

    Raises
    ------
    NodeValueError
        There is one.
    """
    found = find_stowaway(value, is_call, hider=hider)
    if found is not None:
        raise NodeValueError(
            f"{found[0]!r} is in {found[1]}, where it would stay a call; return it by itself, or in a list, a dict or "
            f"a dataclass, or use {found[0].name}.run(…) to call the function itself"
        )


def expanded(
    node: FrozenNode,
    indices: Indices,
    given: Sequence[tuple[str, Any]],
    program: Program,
    *,
    there: Mapping[Loan, Any],
    in_process: bool,
) -> Expansion:
    """The expansion of elements that made calls: for each its name, and what it returned.

    Parameters
    ----------
    there
        What they were given that need not travel with the calls.

    Raises
    ------
    OptionError
        Values of calls cannot be stored as their tasks say.
    UnstorableValueError
        An argument cannot travel, or they are too large or too many.
    DeferDepthError
        A chain of callers has become too long.
    """
    settings = program.settings
    if node.depth + 1 > settings["max_defer_depth"]:
        raise DeferDepthError(
            f"{short_path(given[0][0])} makes deferred calls {node.depth + 1:,} callers deep, and "
            f"engine.max_defer_depth allows {settings['max_defer_depth']:,}: does the recursion end? If so, raise "
            "the setting"
        )
    expander = _Expander(node, settings["max_width"], Lender(there, settings["inline_nbytes"]))
    for position, (name, value) in enumerate(given):
        expander.add(position, name, value)
    return expander.done(indices, program, in_process=in_process)


def things_there(node: FrozenNode, given: Mapping[str, Outcome], unit: Unit, program: Program) -> dict[Loan, Any]:
    """What a task is given that calls which it makes can name; `given`: outcomes of what is upstream, as a whole."""
    found: dict[Loan, Any] = {
        (CONSTANT, node.slug, name): expression.value
        for name, expression in node.arguments.items()
        if type(expression) is Const and name not in node.mapped
    }
    for slug, outcome in given.items():
        source = unit.inputs.get(slug)
        is_large = isinstance(source, (Held, Stored))
        if slug in unit.nodes:
            is_large = outcome.nbytes > program.settings["inline_nbytes"]
        if slug in program.values:
            found[PARAMETER, slug] = outcome.value
        elif is_large and outcome.state.is_successful() and not outcome.state.is_skipped():
            found[NODE, slug] = outcome.value
    return found


def short_path(name: str) -> str:
    """A long chain of callers, without its middle.

    Examples
    --------
    >>> short_path("a[0]/b[1]")
    'a[0]/b[1]'
    """
    parts = name.split("/")
    return name if len(parts) <= 6 else "/".join([*parts[:3], "…", *parts[-2:]])


_IDENTITIES: dict[tuple[int, int, str, tuple[str, ...]], tuple[Any, Any, str]] = {}
"""Of calls that were made lately, with what they are of, so that no other thing has its id."""
MAX_IDENTITIES = 256


@dataclass(slots=True)
class _Group:
    """Calls to one task, in the making."""

    number: int
    call: DeferredCall | None
    names: tuple[str, ...]
    lender: Lender
    width: int = 0
    records: list[Record] = field(default_factory=list)
    blocks: list[RecordBlock] = field(default_factory=list)

    def add(self, record: Record) -> None:
        self.records.append(record)
        if len(self.records) >= RECORDS_IN_BLOCK:
            self.flush()

    def flush(self) -> None:
        if self.records:
            for width, lent in _blocks(self.records, self.lender):
                named = {kind: tuple({loan[1] for loan in lent.loans if loan[0] == kind}) for kind in (PARCEL, NODE)}
                self.blocks.append(RecordBlock(width, lent.data, named[PARCEL], named[NODE]))
            self.records = []


class _OpenLink:
    """A link in the making."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.ends: list[int] = []
        self.waiters: list[int] = []


class _Expander:
    """Numbers calls as they are met, the caller's own first, then those among their arguments."""

    def __init__(self, node: FrozenNode, max_width: int, lender: Lender) -> None:
        self._node = node
        self._lender = lender
        self._max_width = max_width
        self._groups: list[_Group] = []
        self._by_function: dict[tuple[Any, ...], list[tuple[Policies, _Group]]] = {}
        self._by_identity: dict[str, _Group] = {}
        self._functions: list[Any] = []
        """Those that groups are known by, so that no other has the identity of one."""
        self._places: dict[int, Need] = {}
        """Of each call that was met, by its identity; a need without its key."""
        self._counts: dict[str, int] = {}
        self._queue: deque[tuple[DeferredCall, Need]] = deque()
        self._alive: list[DeferredCall] = []
        self._open: dict[tuple[int, int], _OpenLink] = {}
        self._links: list[Link] = []
        self._own = _Group(CALLER, None, ("value",), lender)
        self._caller = ""
        self._takes: dict[int, set[int]] = {}
        """Calls that each call needs, by their identities."""
        self._taken: set[int] = set()
        """Those of the call that is recorded now."""
        self._is_shared = False
        """Whether a call was met twice, without which there is no ring."""

    def add(self, position: int, name: str, value: Any) -> None:
        """Take the calls out of what an element returned, and what they take in turn."""
        self._caller = name
        self._counts, self._places, self._takes, self._is_shared = {}, {}, {}, False
        needs: list[Need] = []
        expression = self._expressed(value, "value", needs)
        self._own.add(Record(name, 0, (None,), {"value": expression}, tuple(needs)))
        self._note_needs(CALLER, position, needs)
        while self._queue:
            call, need = self._queue.popleft()
            self._taken = set()
            self._record(call, need)
            if self._taken:
                self._takes[id(call)] = self._taken
        if self._is_shared:
            self._refuse_rings()
        self._alive = []

    def _met(self, call: DeferredCall, key: str | None) -> Need:
        """The need for a call; it gets its numbers when it is met first."""
        known = self._places.get(id(call))
        self._taken.add(id(call))
        if known is not None:
            self._is_shared = True
        else:
            group = self._group_of(call)
            width = call.width if isinstance(call, DeferredMap) else 1
            called = f"{self._caller}/{call.name}"
            number = self._counts.get(called, 0)
            self._counts[called] = number + width
            is_map = isinstance(call, DeferredMap)
            known = Need(called, number, group.number, group.width, group.width + width, None, is_map)
            group.width += width
            if group.width > self._max_width:
                raise UnstorableValueError(
                    f"{self._caller} and its neighbours make more than {self._max_width:,} deferred calls of "
                    f"{call.name} (engine.max_width)"
                )
            self._places[id(call)] = known
            self._alive.append(call)
            self._queue.append((call, known))
        return known._replace(key=key)

    def _refuse_rings(self) -> None:
        try:
            TopologicalSorter(self._takes).prepare()
        except CycleError as error:
            names = {id(call): call.name for call in self._alive}
            ring = " → ".join(names[each] for each in error.args[1][:MAX_SHOWN])
            raise DefinitionError(
                f"{self._caller} makes deferred calls of which each needs the next, and the last the first: {ring}; "
                "give a call its arguments when it is made, and do not change them afterwards"
            ) from None

    def _group_of(self, call: DeferredCall) -> _Group:
        names = tuple(call.arguments)
        known = self._by_function.setdefault((_identity(call.signature.function), call.name, names), [])
        for policies, group in known:
            if policies == call.policies:
                return group
        # What comes from another process has a function of its own in each call.
        identity = identity_of(call.signature.function, call.policies, call.name, names)
        group = self._by_identity.setdefault(identity, _Group(len(self._groups), call, names, self._lender))
        if group.number == len(self._groups):
            self._groups.append(group)
        known.append((call.policies, group))
        self._functions.append(call.signature.function)
        return group

    def _record(self, call: DeferredCall, place: Need) -> None:
        """Make the records of a call, or of the elements of a map."""
        group = self._groups[place.group]
        whole: list[Need] = [self._met(each, None) for each in call.upstreams]
        elementwise = call.elementwise if isinstance(call, DeferredMap) else frozenset()
        columns: dict[str, Any] = {}
        fixed: dict[str, Expression] = {}
        arguments = call.arguments
        for name, value in arguments.items():
            if name in elementwise:
                if isinstance(value, DeferredMap):
                    columns[name] = (value, True)
                else:
                    is_busy = isinstance(value, (list, tuple)) and makes_calls(value)
                    columns[name] = (read(value, range(place.stop - place.start)), is_busy)
            elif makes_calls(value):
                fixed[name] = self._expressed(value, name, whole)
        plain = {name: value for name, value in arguments.items() if name not in columns and name not in fixed}
        for position in range(place.stop - place.start):
            needs, late = list(whole), dict(fixed)
            values = dict(plain)
            for name, (column, is_busy) in columns.items():
                if isinstance(column, DeferredMap):
                    source = self._met(column, name)
                    late[name] = Ref(len(needs))
                    at = source.start + position
                    needs.append(source._replace(number=source.number + position, start=at, stop=at + 1, is_map=False))
                elif is_busy and makes_calls(column[position]):
                    late[name] = self._expressed(column[position], name, needs)
                else:
                    values[name] = column[position]
            given = tuple(values.get(name) for name in group.names)
            group.add(
                Record(place.called, place.number + position, given, late if needs else None, tuple(needs))
                if needs
                else Record(place.called, place.number + position, given)
            )
            self._note_needs(place.group, place.start + position, needs)

    def _expressed(self, value: Any, key: str, needs: list[Need]) -> Expression:
        """The expression of a value with calls in it, whose needs are appended."""
        if type(value) in (list, tuple):
            run = self._row(value, key, needs)
            if run is not None:
                return run

        def as_ref(call: Any) -> Expression:
            needs.append(self._met(call, key))
            return Ref(len(needs) - 1)

        return express(value, is_call, as_ref)

    def _row(self, value: Sequence[Any], key: str, needs: list[Need]) -> Expression | None:
        """A list of nothing but calls that follow each other, as one need: there may be a million."""
        if len(value) < MIN_RUN or not all(type(each) is DeferredCall for each in value):
            return None
        places = [self._met(each, key) for each in value]
        first = places[0]
        if any(each.group != first.group or each.start != first.start + i for i, each in enumerate(places)):
            return None
        needs.append(first._replace(stop=first.start + len(places), is_row=True))
        row: Expression = Ref(len(needs) - 1)
        return row if type(value) is list else Build(_as_tuple, (row,))

    def _note_needs(self, waiting: int, waiter: int, needs: Sequence[Need]) -> None:
        for need in needs:
            if need.start == need.stop:
                continue
            key = (waiting, need.group)
            link = self._open.get(key)
            if link is None or link.ends[-1] != need.start:
                self._close(key)
                link = self._open[key] = _OpenLink(need.start)
            link.ends.append(need.stop)
            link.waiters.append(waiter)

    def _close(self, key: tuple[int, int]) -> None:
        link = self._open.pop(key, None)
        if link is not None:
            self._links.append(Link(key[1], link.start, compact(link.ends), key[0], compact(link.waiters)))

    def done(self, indices: Indices, program: Program, *, in_process: bool) -> Expansion:
        """All of it, ready to travel."""
        limit = program.settings["calls_nbytes"]
        for key in list(self._open):
            self._close(key)
        self._own.flush()
        for group in self._groups:
            group.flush()
        groups = tuple(_finished(group, self._node, program, in_process=in_process) for group in self._groups)
        expansion = Expansion(
            self._node.slug,
            indices,
            groups,
            tuple(self._own.blocks),
            tuple(self._links),
            self._lender.parcels,
        )
        if expansion.nbytes > limit:
            raise UnstorableValueError(
                f"the arguments of {expansion.width:,} deferred calls made by {self._node.slug} weigh "
                f"{expansion.nbytes:,} bytes, and engine.calls_nbytes allows {limit:,}: have another task make what "
                "is large, and pass on what that gave, or pass paths or keys instead of data"
            )
        return expansion


def _identity(function: Any) -> object:
    """The same for functions that do the same, as far as that is known."""
    if isinstance(function, MethodType):  # which is made each time that it is asked for
        return _identity(function.__func__), id(function.__self__)
    return getattr(function, "identity", None) or id(function)


def _as_tuple(parts: list[Any]) -> tuple[Any, ...]:
    return tuple(parts[0])


def _blocks(records: list[Record], lender: Lender, lent: Lent | None = None) -> list[tuple[int, Lent]]:
    """Records, pickled together where they are small, or share what is large; `lent`: the pickle of all of them."""
    if lent is None:
        try:
            lent = lender.dumps(records)
        except BaseException as error:  # pickling runs the user's code
            if len(records) > 1:
                return [block for record in records for block in _blocks([record], lender)]
            (record,) = records
            raise UnstorableValueError(
                f"an argument of the deferred call {record.called}[{record.number}] cannot leave the process it was "
                f"made in: {headline_of(error)}"
            ) from None
    if len(lent.data) > BLOCK_NBYTES and len(records) > 1:
        middle = len(records) // 2
        halves = [(half, lender.dumps(half)) for half in (records[:middle], records[middle:])]
        if sum(len(part.data) for _, part in halves) < MAX_GROWTH * len(lent.data):
            return [block for half, part in halves for block in _blocks(half, lender, part)]
    return [(len(records), lent)]


def _finished(group: _Group, caller: FrozenNode, program: Program, *, in_process: bool) -> CallGroup:
    call = group.call
    assert call is not None
    policies = call.policies
    is_many = group.width > 1 or caller.is_map
    storing = choose_storing(policies.storing, call.name, group.names, caller, program, is_many=is_many)
    node = FrozenNode(
        slug="",
        name=call.name,
        kind="task",
        signature=call.signature,
        policies=replace(policies, storing=storing),
        arguments={name: Const(None) for name in group.names},
        mapped=frozenset(group.names),
        is_map=True,
        checks=(),
        edges=(),
        where=call.where,
        depth=caller.depth + 1,
    )
    # What the driver decides by, without functions of the user's: it must not need their code.
    plain = Policies(
        isolation=policies.isolation,
        memory_limit=policies.memory_limit,
        tags=policies.tags,
        log_stdout=policies.log_stdout,
        chunksize=policies.chunksize,
        resources=policies.resources,
        priority=policies.priority,
        concurrency=policies.concurrency,
        rate=policies.rate,
        storing=storing_to_read(storing) if storing is not None else None,
    )
    shape = replace(node, policies=plain, signature=Signature(_not_here, call.name))
    definition = node if in_process else dumps(node)
    identity = identity_of(call.signature.function, call.policies, call.name, group.names)
    return CallGroup(call.name, identity, shape, definition, group.width, tuple(group.blocks))


def identity_of(function: Callable[..., Any], policies: Policies, name: str, arguments: tuple[str, ...]) -> str:
    """What calls have in common that may be one map: the same in every process, as far as their code can travel."""
    key = id(function), id(policies), name, arguments
    known = _IDENTITIES.get(key)
    if known is not None:
        return known[-1]
    # Apart, as a pickle of both would depend on which of their strings are one object.
    identity = f"{_hash(function)}-{_hash(policies, repr((name, arguments)))}"
    _IDENTITIES[key] = function, policies, identity
    while len(_IDENTITIES) > MAX_IDENTITIES:
        _IDENTITIES.pop(next(iter(_IDENTITIES)), None)
    return identity


def renewed_identity(identity: str, function: Callable[..., Any]) -> str:
    """The identity of calls whose function was mended, and nothing else."""
    return f"{_hash(function)}-{identity.rpartition('-')[2]}"


def _hash(value: Any, more: str = "") -> str:
    try:
        data = dumps(value)
    except BaseException:  # pickling runs the user's code; what cannot travel stays in this process
        data = str(_identity(value)).encode()
    return hashlib.sha256(data + more.encode(errors="surrogatepass")).hexdigest()[:16]


def _not_here(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a deferred call is run where its code is, never by the driver")


def loaded(definition: Any, slug: str) -> FrozenNode:
    """The node of a group, with its code."""
    node: FrozenNode = pickle.loads(definition) if isinstance(definition, bytes) else definition
    return dataclasses.replace(node, slug=slug)
