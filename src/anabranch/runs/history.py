"""Recorded runs for Python: `find` lists them, and `load` gives one as ``flow.run`` returned it.

Nothing is run, and nothing changes. Parameters are unpickled with the run, other values when they are asked for: trust
the run store as you trust the flow's own file.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from anabranch.base.errors import OptionError, ResumeError, nearest
from anabranch.base.states import BY_CODE, Pending, Running, State, Success
from anabranch.base.twins import of_this_process
from anabranch.definition.frozen import FrozenGraph, FrozenNode
from anabranch.definition.graph import Graph
from anabranch.definition.policies import Policies
from anabranch.definition.signature import Signature
from anabranch.engine.driver.plan import FinishedRun, RunPlan
from anabranch.engine.machine.knowledge import NodeRun
from anabranch.engine.machine.maps import MapRun
from anabranch.runs.read.lines import lines_by_time
from anabranch.runs.read.lookup import as_it_stands, facts_of
from anabranch.runs.read.lookup import find as find_one
from anabranch.runs.record.reports import columns_of, single_of
from anabranch.runs.store.opening import store_to_show
from anabranch.runs.store.records import INTERRUPTED, LogRow, RunQuery, RunRecord, RunStore, TaskRunRow
from anabranch.runs.stored_values import with_storing
from anabranch.runs.view import FlowRunView

COLUMNS = (
    *("run_id", "flow", "task", "slug", "map_index", "state", "attempt"),
    *("start", "end", "seconds", "worker", "message", "error"),
)
"""Of a table of task runs."""
_PAGE = 200  # runs that are read at a time


class _Flow(Protocol):
    """What is needed of a flow; flows are defined above this."""

    graph: Graph
    result: Any

    def reference_tasks(self) -> Any:
        """Nodes that decide on the state of a run."""


# Finding runs ---------------------------------------------------------------------------------------------------------


def find(
    *,
    flow: str | None = None,
    state: str | type[State] | None = None,
    since: datetime | timedelta | None = None,
    parameters: Mapping[str, Any] | None = None,
    limit: int = 50,
) -> list[RunRecord]:
    """Recorded runs, newest first.

    Parameters
    ----------
    flow
        Name of their flow.
    state
        Their state, by name or class; ``"Interrupted"`` is one whose driver is gone.
    since
        When they began at the earliest; a naive time is one of this machine's zone, and a duration ends now.
    parameters
        Values of some of their parameters.
    limit
        How many there may be at most.

    Returns
    -------
    list of RunRecord
        Records with ``run_id``, ``flow_name``, ``state``, ``message``, ``start``, ``end`` and more.

    Raises
    ------
    OptionError
        There is no such state.
    RunStoreError
        The run store cannot be read.
    """
    store = store_to_show()
    if store is None:
        return []
    query = RunQuery(flow_name=flow, state=_state_name(state), since=_moment(since))
    found: list[RunRecord] = []
    for record in _all_runs(store, query):
        if len(found) >= limit:
            break
        if not parameters or _has(store.get_run(record.run_id), parameters):
            found.append(as_it_stands(record))
    return found


def _all_runs(store: RunStore, query: RunQuery) -> Iterator[RunRecord]:
    offset = 0
    while rows := store.list_runs(replace(query, limit=_PAGE, offset=offset)):
        yield from rows
        offset += len(rows)


def _state_name(state: str | type[State] | None) -> str | None:
    if state is None:
        return None
    name = state if isinstance(state, str) else state.__name__
    names = {each.casefold(): each for each in (*(each.__name__ for each in BY_CODE.values()), INTERRUPTED)}
    if name.casefold() not in names:
        raise OptionError(f"there is no state {name!r}{nearest(name, names.values())}")
    return names[name.casefold()]


def _moment(since: datetime | timedelta | None) -> datetime | None:
    if isinstance(since, timedelta):
        return datetime.now(UTC) - since
    return since.astimezone() if since is not None else None


def _has(record: RunRecord, parameters: Mapping[str, Any]) -> bool:
    values = _parameters(record)
    return all(name in values and _is_same(values[name], value) for name, value in parameters.items())


def _is_same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other) or str(one) == str(other)  # of a class that has gone, there is the text
    except Exception:  # an array, say
        return False


def _parameters(record: RunRecord) -> dict[str, Any]:
    """Values by name; a text where the value was not recorded or does not load."""
    details = record.details
    if details is None:
        return {}
    values = dict(details.parameters)
    for name, data in (pickle.loads(details.parameters_pickle) if details.parameters_pickle else {}).items():
        with suppress(Exception):  # a class that is not here any more
            values[name] = of_this_process(pickle.loads(data))
    return values


# A run ----------------------------------------------------------------------------------------------------------------


def load(run: str = "last", *, flow: _Flow | None = None) -> LoadedRun:
    """A recorded run as ``flow.run`` returned it, or as it stands if it goes on.

    Parameters
    ----------
    run
        Its id, or the beginning of it; ``"last"`` is the run that began last.
    flow
        Its flow. With it, tasks are keys as well as names are, and values are read from where they are stored; small
        ones are in the run store.

    Raises
    ------
    RunNotFound
        There is no such run, or there are several.
    ResumeError
        It is a run of another flow, or no runs are recorded.
    RunStoreError
        The run store cannot be read.

    Examples
    --------
    >>> from anabranch import Flow, runs, task
    >>> @task
    ... def double(x):
    ...     return 2 * x
    >>> with Flow("doubling") as flow:
    ...     doubled = double.map([1, 2, 3])
    >>> state = flow.run()
    >>> run = runs.load("last")
    >>> run["double"].result
    [2, 4, 6]
    """
    store, record = find_one(run)
    if flow is not None and flow.graph.name != record.flow_name:
        raise ResumeError(f"run {record.run_id} is one of flow {record.flow_name!r}, found flow {flow.graph.name!r}")
    record = as_it_stands(record)
    rows = {row.slug: row for row in store.task_runs(record.run_id)}
    parameters = _parameters(record)
    nodes = _nodes(record, rows, parameters, flow)
    runs = {slug: _node_run(store, record, node, rows.get(slug), parameters) for slug, node in nodes.items()}
    plan = RunPlan(
        graph=FrozenGraph(nodes, ()),
        name=record.flow_name,
        run_id=record.run_id,
        parameters={slug: parameters.get(node.name) for slug, node in nodes.items() if node.kind == "parameter"},
        settings={},
    )
    state = _state_of(record)
    done = FinishedRun(
        plan=plan, state=state, runs=runs, outcomes={}, started=record.start, ended=record.end or datetime.now(UTC)
    )
    return LoadedRun(done, flow.graph if flow is not None else None, store, record)


def _nodes(
    record: RunRecord, rows: Mapping[str, TaskRunRow], parameters: Iterable[str], flow: _Flow | None
) -> dict[str, FrozenNode]:
    """Nodes by slug: those of the flow, if it is there, and those of which there is a record."""
    nodes: dict[str, FrozenNode] = {}
    if flow is not None:
        graph = flow.graph.freeze(flow.reference_tasks())
        nodes |= with_storing(graph, flow.result, checkpointing=bool(facts_of(record).get("checkpointing"))).nodes
    else:
        nodes |= {name: _node(name, name, "parameter") for name in parameters if name not in rows}
    known = record.details.code if record.details is not None else {}
    names = {**dict.fromkeys(known, ""), **{slug: row.task_name for slug, row in rows.items()}}
    return nodes | {slug: _node(slug, name or slug, "task") for slug, name in names.items() if slug not in nodes}


def _node(slug: str, name: str, kind: str) -> FrozenNode:
    """A node of which no more is known than its names."""
    return FrozenNode(
        slug=slug,
        name=name,
        kind=kind,
        signature=Signature(str, name),
        policies=Policies(),
        arguments={},
        mapped=frozenset(),
        is_map=False,
        checks=(),
        edges=(),
        where="",
        depth=slug.count("/"),
    )


def _node_run(
    store: RunStore, record: RunRecord, node: FrozenNode, row: TaskRunRow | None, parameters: Mapping[str, Any]
) -> NodeRun:
    if node.kind == "parameter":
        return NodeRun(node, Success(message="given") if node.name in parameters else Pending())
    chunks = store.chunks(record.run_id, node.slug) if row is None or row.width is not None else []
    state: State = Running() if chunks else Pending()
    run = NodeRun(node, state)
    if row is not None:
        report = single_of(row)
        run.state, run.value, run.ref, run.width = report.state, report.value, report.ref, row.width
    if chunks or run.width is not None:
        last = max((each.indices[-1] + 1 for each in chunks if len(each.indices)), default=0)
        run.node = replace(node, is_map=True)
        run.elements = MapRun(node.slug, max(run.width or 0, last), max_tracebacks=sys.maxsize)
        for part in columns_of(chunks, store.elements(record.run_id, node.slug)):
            assert part.indices is not None
            run.elements.take(None, part.indices, part.columns[0])
    return run


def _state_of(record: RunRecord) -> State:
    """The state of a run; one whose driver is gone counts as running, and its message tells the rest."""
    cls = next((each for each in BY_CODE.values() if each.__name__ == record.state), Running)
    message = record.message or ("its driver is gone" if record.state == INTERRUPTED else "")
    return cls(message=message, start_time=record.start, end_time=record.end)


class LoadedRun(FlowRunView):
    """A recorded run: what ``flow.run`` returns, with what it logged and a table of its task runs."""

    record: RunRecord
    """As the run store has it: ``flow_name``, ``start``, ``end``, ``parent_run_id``, ``labels``, ``owner``."""

    def __init__(self, whole: FinishedRun, graph: Graph | None, store: RunStore, record: RunRecord) -> None:
        super().__init__(whole, graph)
        self._store = store
        self.record = record

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Values of the flow's parameters, by name; a text where the value is secret or does not load here."""
        return _parameters(self.record)

    def logs(self, task: Any = None, map_index: int | None = None, *, level: int = 0) -> Iterator[LogRow]:
        """What the run logged, by time: all of it, or what one task or element did.

        Parameters
        ----------
        task
            A task, or its name.
        map_index
            Index of an element.
        level
            Lowest level, as in `logging`.
        """
        slug = self.result._slug_of(task) if task is not None else None
        return lines_by_time(self._store, self.run_id, slug=slug, index=map_index, level=level)

    def table(self) -> dict[str, list[Any]]:
        """Its task runs, and all elements of its maps, as columns of one length.

        Returns
        -------
        dict
            Lists by name (`COLUMNS`). ``map_index`` is None in the row of a map as a whole. ``start`` and ``end`` are
            aware times; ``seconds`` is the time of the last attempt, and of an element that ran in a chunk without
            any incident, the mean of that chunk. ``error`` is the class of the exception.
        """
        columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for slug, run in self._whole.runs.items():
            if run.node.kind == "parameter":
                continue
            for name, values in self._columns_of(slug, run).items():
                columns[name] += values
        n = len(columns["slug"])
        return {**columns, "run_id": [self.run_id] * n, "flow": [self.record.flow_name] * n}

    def _columns_of(self, slug: str, run: NodeRun) -> dict[str, list[Any]]:
        """Columns for a node, and for its elements."""
        elements = run.elements
        n = elements.width if elements is not None else 0
        columns: dict[str, list[Any]] = {
            "task": [run.node.name] * (n + 1),
            "slug": [slug] * (n + 1),
            "map_index": [None, *range(n)],
            "state": [run.state.name, *(_NAMES[code] for code in elements.codes)] if elements else [run.state.name],
            "attempt": [1] * (n + 1),
            **{name: [None] * (n + 1) for name in ("start", "end", "seconds", "error")},
            **{name: [""] * (n + 1) for name in ("worker", "message")},
        }
        for chunk in self._store.chunks(self.run_id, slug) if n else ():
            for index in chunk.indices:
                columns["start"][index + 1] = chunk.start
                columns["seconds"][index + 1] = chunk.seconds / len(chunk.indices)
                columns["worker"][index + 1] = chunk.worker
        records = elements.records.items() if elements is not None else ()
        for row, state in [(0, run.state), *((index + 1, state) for index, state in records)]:
            for name, value in _facts(state).items():
                if value is not None:
                    columns[name][row] = value
        return columns

    def to_pandas(self) -> Any:
        """The `table` as a ``pandas.DataFrame``; pandas must be installed."""
        import pandas

        return pandas.DataFrame(self.table()).astype({"map_index": "Int64"})

    def to_arrow(self) -> Any:
        """The `table` as a ``pyarrow.Table``; pyarrow must be installed."""
        import pyarrow

        return pyarrow.table(self.table(), schema=pyarrow.schema(list(_arrow_types(pyarrow))))


_NAMES = {0: Pending.__name__, **{code: cls.__name__ for code, cls in BY_CODE.items()}}


def _facts(state: State) -> dict[str, Any]:
    took = state.end_time - state.start_time if state.start_time is not None and state.end_time is not None else None
    return {
        "attempt": state.attempt,
        "start": state.start_time,
        "end": state.end_time,
        "seconds": took.total_seconds() if took is not None else None,
        "worker": state.worker,
        "message": state.message,
        "error": state.failure.type_name if state.failure is not None else None,
    }


def _arrow_types(pyarrow: Any) -> Iterator[tuple[str, Any]]:
    of_numbers = {"map_index": pyarrow.int64(), "attempt": pyarrow.int64(), "seconds": pyarrow.float64()}
    of_times = dict.fromkeys(("start", "end"), pyarrow.timestamp("us", "UTC"))
    return ((name, {**of_numbers, **of_times}.get(name, pyarrow.string())) for name in COLUMNS)
