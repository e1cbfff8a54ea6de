"""What ``flow.run`` returns: states with their values, looked up when they are asked for."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from anabranch.base.errors import AmbiguousTaskError, FlowRunFailed, ResultReleased, UnknownNodeError, listed, nearest
from anabranch.base.states import BY_CODE, Failed, Pending, Skipped, State, Success
from anabranch.base.tracebacks import LED
from anabranch.definition.graph import Graph
from anabranch.engine.driver.plan import FinishedRun
from anabranch.engine.machine.knowledge import NodeRun
from anabranch.engine.machine.maps import MapRun
from anabranch.engine.units.columns import place, result_of, stored_columns, uncarried
from anabranch.engine.units.failures import restore
from anabranch.engine.units.indices import Indices
from anabranch.engine.units.units import Column
from anabranch.results.reference import ResultRef

MAX_SHOWN = 30  # lines of a table in a notebook
_MISSING: Any = object()

if TYPE_CHECKING:
    Delegate = State  # a view answers everything that its state does
else:

    class Delegate:
        """Answers what its state does."""

        # By this, isinstance, match and singledispatch take a view for what its state is.
        __class__ = property(lambda self: type(self.state))

        def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:  # pickle and copy trust `__class__`
            return object.__new__, (type(self),), self.__dict__

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or name == "state":  # copy and pickle ask before there is one
                raise AttributeError(name)
            return getattr(self.state, name)


class TaskRunView(Delegate):
    """State of a task run, with its value.

    It answers everything that a `State` does (``is_successful()``, ``message``, ``start_time`` …).
    """

    _whole: FinishedRun
    _run: NodeRun
    state: State

    def __init__(self, whole: FinishedRun, run: NodeRun) -> None:
        self._whole = whole
        self._run = run
        self.state = run.state

    @property
    def result(self) -> Any:
        """The value; of a map, the list of its elements' values. The exception of a failed run. Of a skipped one,
        what ``SKIP(result=…)`` gave.

        Raises
        ------
        ResultReleased
            The value was not kept.
        """
        run = self._run
        if run.node.kind == "parameter":
            return self._whole.plan.parameters[run.node.slug]
        if run.elements is not None:
            return self.map_states._values()
        if run.state.is_skipped():
            return run.state.result
        if run.node.is_map and run.state.is_mapped():
            return []
        if not run.state.is_successful() and run.state.counts is None:
            return restore(run.state.failure, run.state.message) if run.state.is_finished() else None
        return _plain(run, self._value())

    def _value(self) -> Any:
        run = self._run
        if run.value is not None:
            return pickle.loads(run.value)
        outcome = self._whole.outcomes.get(run.key) if run.key is not None else None
        if outcome is None and run.ref is not None:
            return result_of(run.node).read(run.ref)
        if outcome is None:
            raise ResultReleased(_released(run.node.slug))
        found = outcome.singles.get(run.node.slug)
        if found is None or found.seal != run.seal:
            raise ResultReleased(_changed(run.node.slug))
        return found.value

    @property
    def ref(self) -> ResultRef | None:
        """Where the value is stored; None if it is not, or if it is a map's."""
        return self._run.ref

    @property
    def map_states(self) -> ElementStates:
        """States of a map's elements, in order; empty if it is no map."""
        return ElementStates(self._whole, self._run)

    def __repr__(self) -> str:
        return f"<{self._run.node.slug}: {self.state}>"

    def _repr_html_(self) -> str:
        """The task run in a notebook; a map with its elements, those first that say more than that all is well."""
        from anabranch.base.html import states_html

        elements = self._run.elements
        told = sorted(elements.records.items())[:MAX_SHOWN] if elements is not None else []
        rest = (elements.width if elements is not None else 0) - len(told)
        return states_html(self._run.node.slug, self.state, [(f"[{i}]", each) for i, each in told], more=rest)


def _plain(run: NodeRun, value: Any) -> Any:
    return uncarried(value) if run.node.kind in ("flatten", "collect") and isinstance(value, list) else value


def _released(name: str) -> str:
    return (
        f"the value of {name} was not kept after the run: it is larger than engine.inline_nbytes, and neither of a "
        "terminal nor of a reference task, or only small ones were to be kept. Name it in flow.run(keep=[…]), or have "
        "it made by a terminal task"
    )


def _given(name: str) -> str:
    return (
        f"the value of {name} was given to the stream of the run and not kept; to have it afterwards as well, name the "
        "node in flow.stream(keep=[…])"
    )


class ElementView(Delegate):
    """State of one element of a map, with its value."""

    _states: ElementStates
    state: State

    def __init__(self, states: ElementStates, state: State) -> None:
        self._states = states
        self.state = state

    @property
    def result(self) -> Any:
        """The element's value; the exception of a failed one; of a skipped one, what ``SKIP(result=…)`` gave.

        Raises
        ------
        ResultReleased
            The value was not kept.
        """
        assert self.state.map_index is not None
        return self._states._value(self.state.map_index)

    @property
    def ref(self) -> ResultRef | None:
        """Where the value is stored, perhaps with those of other elements; None if it is not."""
        assert self.state.map_index is not None
        return self._states._ref(self.state.map_index)

    def __repr__(self) -> str:
        return f"<[{self.state.map_index}] {self.state}>"


class ElementStates(Sequence[ElementView]):
    """States of a map's elements: a sequence that makes an element's state when it is asked for."""

    def __init__(self, whole: FinishedRun, run: NodeRun) -> None:
        self._whole = whole
        self._run = run
        self._chunk: tuple[Any, list[Any]] | None = None

    @property
    def _elements(self) -> MapRun:
        assert self._run.elements is not None
        return self._run.elements

    def __len__(self) -> int:
        return self._run.elements.width if self._run.elements is not None else 0

    @overload
    def __getitem__(self, index: int) -> ElementView: ...
    @overload
    def __getitem__(self, index: slice) -> list[ElementView]: ...
    def __getitem__(self, index: int | slice) -> ElementView | list[ElementView]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self._run.node.slug} has {len(self):,} elements, found index {index}")
        return ElementView(self, self._state(index % len(self)))

    def __iter__(self) -> Iterator[ElementView]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<states of {len(self):,} elements of {self._run.node.slug}>"

    def _repr_html_(self) -> str:
        """The elements in a notebook."""
        return TaskRunView(self._whole, self._run)._repr_html_()

    def _state(self, index: int) -> State:
        record = self._elements.records.get(index)
        if record is None:
            code = self._elements.codes[index]
            return BY_CODE[code](message="done", map_index=index) if code else Pending(map_index=index)
        # What did not run because its map had ended has one state for all.
        return record if record.map_index == index else replace(record, map_index=index)

    def _values(self) -> list[Any]:
        """Values of all elements."""
        elements, slug = self._elements, self._run.node.slug
        values = [_MISSING] * elements.width
        for indices, data in elements.values:
            for index, value in zip(indices, pickle.loads(data), strict=True):
                if elements.codes[index] < Skipped.code:
                    values[index] = value
        missing = [index for index, value in enumerate(values) if value is _MISSING and self._has_value(index)]
        for column in self._stored(tuple(missing)) if missing else ():
            place(column, range(elements.width), values)
        for part in self._brought(range(elements.width)):
            place(part, range(elements.width), values)
        for index, state in elements.records.items():
            if not state.is_successful() or state.is_skipped():
                values[index] = state.result if state.is_skipped() else restore(state.failure, state.message)
        if any(value is _MISSING for value in values):
            if not self._run.is_final:
                return [None if value is _MISSING else value for value in values]
            raise ResultReleased(_given(slug) if elements.is_fleeting else _released(slug))
        return values

    def _has_value(self, index: int) -> bool:
        return Success.code <= self._elements.codes[index] < Skipped.code

    def _stored(self, wanted: tuple[int, ...]) -> Iterator[Column]:
        """Columns that hold these elements, read from where they are stored; of elements stored twice, the last."""
        latest = {index: number for number, (held, _) in enumerate(self._elements.refs) for index in held}
        needed = dict.fromkeys(latest[index] for index in wanted if index in latest)
        refs = [self._elements.refs[number] for number in needed]
        return stored_columns(self._run.node, tuple(refs))

    def _brought(self, wanted: Indices) -> Iterator[Column]:
        """Columns of outcomes that were brought here."""
        slug = self._run.node.slug
        for holding in self._elements.holdings_of(wanted):
            outcome = self._whole.outcomes.get(holding.key)
            if outcome is None:
                continue
            column = outcome.columns.get(slug)
            part = column.part(holding) if column is not None else None
            if part is None:
                raise ResultReleased(_changed(slug))
            yield part

    def _ref(self, index: int) -> ResultRef | None:
        found = (ref for held, ref in reversed(self._elements.refs) if index in held)
        return next(found, None) if self._has_value(index) else None

    def _value(self, index: int) -> Any:
        code = self._elements.codes[index]
        if code == Skipped.code:
            return self._state(index).result
        if code >= Failed.code:
            state = self._state(index)
            return restore(state.failure, state.message)
        if self._chunk is not None:
            indices, values = self._chunk
            if index in indices:
                return values[indices.index(index)]
        for indices, data in self._elements.values:
            if index in indices:
                self._chunk = (indices, pickle.loads(data))
                return self._chunk[1][indices.index(index)]
        for stored in self._stored((index,)):
            self._chunk = (stored.indices, stored.values)
            return stored.values[stored.indices.index(index)]
        for part in self._brought((index,)):
            return part.values[0]
        name = f"{self._run.node.slug}[{index}]"
        raise ResultReleased(_given(name) if self._elements.is_fleeting else _released(name))


class FlowResults(Mapping[Any, TaskRunView]):
    """States of a run's nodes by node; a task, or a name, works as the key where it is one node."""

    def __init__(self, whole: FinishedRun, graph: Graph | None) -> None:
        self._whole = whole
        self._graph = graph
        """None in a process that does not have the flow: nodes are known by their names only."""

    def __getitem__(self, key: Any) -> TaskRunView:
        return TaskRunView(self._whole, self._whole.runs[self._slug_of(key)])

    def _slug_of(self, key: Any) -> str:
        runs = self._whole.runs
        if isinstance(key, str):
            if key in runs:
                return key
            called = [slug for slug, run in runs.items() if run.node.name == key]
            slugs = [slug for slug in called if not runs[slug].node.depth] or called
            if not slugs:
                raise UnknownNodeError(f"no node is called {key!r}; there are: {listed(runs)}{nearest(key, runs)}")
        elif self._graph is None:
            raise UnknownNodeError(f"this process does not have the flow of the run; ask by name: {listed(runs)}")
        elif key in self._graph:
            return self._graph.entry(key).slug
        else:
            slugs = [self._graph.entry(node).slug for node in self._graph.calls_of(key)]
            if not slugs:
                raise UnknownNodeError(
                    f"{key!r} is not a node of flow {self._graph.name!r}, nor a task that is called in it"
                )
        if len(slugs) > 1:
            raise AmbiguousTaskError(f"{key!r} stands for {len(slugs)} nodes: {listed(slugs)}; use one of these")
        return slugs[0]

    def __iter__(self) -> Iterator[Any]:
        runs = self._whole.runs
        return (
            self._graph.by_slug(slug) if self._graph is not None and not runs[slug].node.depth else slug
            for slug in runs
        )

    def __len__(self) -> int:
        return len(self._whole.runs)

    def __contains__(self, key: object) -> bool:
        try:
            self._slug_of(key)
        except (UnknownNodeError, AmbiguousTaskError):
            return False
        return True


class FlowRunView(Delegate):
    """A finished (or paused) flow run: its state, with the states of its nodes as ``result``.

    It answers everything that a `State` does; it is true if the run was successful; ``run["name"]`` is a node's state.
    """

    _whole: FinishedRun
    _graph: Graph | None
    state: State

    def __init__(self, whole: FinishedRun, graph: Graph | None) -> None:
        self._whole = whole
        self._graph = graph
        self.state = whole.state

    @property
    def result(self) -> FlowResults:
        """States of all nodes, by node."""
        return FlowResults(self._whole, self._graph)

    def states(self) -> dict[str, State]:
        """States of all nodes, by slug."""
        return {slug: run.state for slug, run in self._whole.runs.items()}

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self._whole.plan.run_id

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Values of the flow's parameters in this run, by name."""
        plan = self._whole.plan
        return {plan.graph.nodes[slug].name: value for slug, value in plan.parameters.items()}

    @property
    def was_interrupted(self) -> bool:
        """Whether it was cancelled by Ctrl-C."""
        return self._whole.was_interrupted

    def failures(self) -> list[tuple[str, State]]:
        """Task runs that failed by themselves, with their names: ``parse[777]``; what they stopped is left out."""
        found: list[tuple[str, State]] = []
        for slug, run in self._whole.runs.items():
            if run.elements is not None:
                found += [
                    (f"{slug}[{index}]", state)
                    for index, state in sorted(run.elements.records.items())
                    if _is_root(state)
                ]
            elif _is_root(run.state):
                found.append((slug, run.state))
        return found

    def raise_failure(self) -> None:
        """Raise the exception of the task run that failed first; nothing if none did."""
        if not (self.state.is_failed() or self.state.is_cancelled()):
            return
        failures = self.failures()
        for name, state in failures:
            failure = state.failure
            if failure is not None and not failure.traceback:  # that is kept for one of a kind
                kin = (each.failure for _, each in failures if each.failure is not None and each.failure.traceback)
                kind = failure.type_name, failure.line
                alike = next((each for each in kin if (each.type_name, each.line) == kind), failure)
                failure = replace(failure, traceback=alike.traceback)
            exception = restore(failure, state.message)
            cause, led, _ = failure.traceback.partition(LED) if failure is not None else ("", "", "")
            if led:
                exception.add_note(f"caused by {cause}")
            exception.add_note(f"task run {name}, attempt {state.attempt}")
            raise exception
        raise FlowRunFailed(f"flow run {self.run_id}: {self.state}")

    def __getitem__(self, key: Any) -> TaskRunView:
        return self.result[key]

    def __bool__(self) -> bool:
        return self.state.is_successful()

    def __repr__(self) -> str:
        return f"<run {self.run_id}: {self.state}>"

    def _repr_html_(self) -> str:
        """The run in a notebook, with its tasks."""
        from anabranch.base.html import states_html

        named = [(slug, run.state) for slug, run in self._whole.runs.items() if run.node.kind == "task"]
        title = f"{self._whole.plan.name}: run {self.run_id}"
        return states_html(title, self.state, named[:MAX_SHOWN], more=max(0, len(named) - MAX_SHOWN))

    __str__ = __repr__


def _is_root(state: State) -> bool:
    if not state.is_failed():
        return False
    return state.failure is None or state.failure.type_name != "UpstreamFailure"


def _changed(name: str) -> str:
    return (
        f"the value of {name} was lost with its worker as the run ended, and what was made again is not what had been "
        "reported; have it stored (result=…), so that it does not depend on workers"
    )
