"""Run one attempt of a recorded run again, here, with its inputs: to look at it, with pdb if wanted.

Nothing is recorded, and there are no retries, no timeout and no separate process.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from anabranch.base import context, known_secrets, masking
from anabranch.base.context import RunInfo, TaskContext
from anabranch.base.errors import ReplayError, listed, nearest
from anabranch.base.names import short
from anabranch.base.secret import revealed
from anabranch.base.settings import config
from anabranch.base.states import BY_CODE, FIRST_FAILED_CODE, State
from anabranch.definition.fingerprints import changes, fingerprints
from anabranch.definition.frozen import FrozenGraph, FrozenNode
from anabranch.definition.parameter_values import is_secret, validated
from anabranch.engine.units.loops import run_call
from anabranch.flows.loading import load_flow
from anabranch.runs import RunRecord, RunStore
from anabranch.runs.read.lookup import date_of, facts_of, find, source_of
from anabranch.runs.record.reports import codes_of
from anabranch.runs.resume.choice import Recorded
from anabranch.runs.resume.inputs import InputMissing, inputs_of, loaded
from anabranch.runs.resume.recorded import load

if TYPE_CHECKING:
    from anabranch.flows.flow import Flow


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A recorded attempt that can be run here."""

    name: str
    """``parse[137]``."""
    node: FrozenNode
    state: State | None
    """The recorded state; None if it has not ended."""
    inputs: Mapping[str, Any]
    """Arguments by name, as far as they are available."""
    missing: Mapping[str, str]
    """Why the others are not available, by name."""
    context: TaskContext
    is_changed: bool
    """Whether the code of the task has changed."""
    secrets: tuple[Any, ...] = field(default=(), repr=False)

    def call(self, *, pdb: bool = False) -> Any:
        """Call the task's function with these inputs. Returns its value, or raises its exception.

        Parameters
        ----------
        pdb
            Stop in the debugger at the function's first line, and again where it raises.

        Raises
        ------
        ReplayError
            An input is not available.
        """
        if self.missing:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.missing.items())
            raise ReplayError(
                f"{self.name} cannot be replayed without all of its inputs; give them with inputs={{…}}: {reasons}"
            )
        function = self.node.signature.function
        known_secrets.learn(f"replay-{self.context.run_id}", self.secrets)
        try:
            with context.entered(self.context):
                args, kwargs = revealed(*self.node.signature.split(self.inputs))
                if self.node.signature.is_async:
                    function = partial(_run_async, function)  # alone: nothing else is on its loop
                return _debugged(function, args, kwargs) if pdb else function(*args, **kwargs)
        finally:
            known_secrets.forget(f"replay-{self.context.run_id}")


def replay(
    run: str,
    task: object,
    index: int | None = None,
    *,
    flow: Flow | None = None,
    parameters: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    pdb: bool = False,
) -> Any:
    """Run one attempt of a recorded run again, in this process and with its inputs. Returns its value.

    Exceptions of the task are raised as they are. Nothing is recorded.

    Parameters
    ----------
    run
        Id of the run, or the beginning of it.
    task
        The task, its name, or the task run: ``"parse[137]"``.
    index
        Index of an element of a map.
    flow
        The flow; default: load it from its file.
    parameters
        Values of parameters that were not recorded, because they are secret.
    inputs
        Arguments to use instead of the recorded ones.
    pdb
        Stop in the debugger at the function's first line, and again where it raises.

    Raises
    ------
    ReplayError
        There is no such task run, the flow cannot be found, or an input is not available; the message says which.
    RunStoreError
        There is no such run.
    """
    return find_replay(run, task, index, flow=flow, parameters=parameters, inputs=inputs).call(pdb=pdb)


def find_replay(
    run: str,
    task: object,
    index: int | None = None,
    *,
    flow: Flow | None = None,
    parameters: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Replay:
    """A recorded attempt with its inputs; arguments and errors as for `replay`."""
    store, record = find(run)
    flow = flow or _recorded_flow(record)
    if flow.name != record.flow_name:
        raise ReplayError(f"run {record.run_id} is one of flow {record.flow_name!r}, found flow {flow.name!r}")
    graph = flow.graph.freeze(flow.reference_tasks())
    slug, index = _choose_task_run(flow, graph, task, index)
    node = graph.nodes[slug]
    near = {up: graph.nodes[up] for up in (*node.whole_upstreams, *node.element_upstreams)}
    recorded = load(store, record.run_id, FrozenGraph({**near, slug: node}, ()))
    index, state = _state_of(store, record, recorded, node, index)
    values, secret, lost = _choose_parameters(record, flow, graph, parameters or {})
    found, missing = inputs_of(node, index, recorded, values, lost)
    unknown = [name for name in inputs or {} if name not in node.arguments]
    if unknown:
        raise ReplayError(f"{slug} has no input {unknown[0]!r}; it has: {listed(node.arguments)}")
    found.update(inputs or {})
    named = {graph.nodes[each].name: value for each, value in values.items()}
    about = TaskContext(
        RunInfo(record.flow_name, record.run_id, named, date_of(record)),
        node.name,
        slug,
        node.policies.tags,
        map_index=index,
        task_run_count=state.attempt if state is not None else 1,
    )
    before = record.details.code if record.details is not None else {}
    return Replay(
        name=about.task_full_name,
        node=node,
        state=state,
        inputs={name: found[name] for name in node.arguments if name in found},
        missing={name: reason for name, reason in missing.items() if name not in found},
        context=about,
        is_changed=slug in changes(before, fingerprints(graph)),
        secrets=tuple(secret),
    )


# Which one ------------------------------------------------------------------------------------------------------------


def _recorded_flow(record: RunRecord) -> Flow:
    source = source_of(record)
    if not source:
        raise ReplayError(
            f"the file of flow {record.flow_name!r} has moved since run {record.run_id} began: "
            "give the flow (replay(…, flow=flow), anabranch replay RUN TASK FILE)"
        )
    return load_flow(source).flow


def _choose_task_run(flow: Flow, graph: FrozenGraph, task: object, index: int | None) -> tuple[str, int | None]:
    if isinstance(task, str):
        found = re.fullmatch(r"(.+)\[(\d+)\]", task)
        if found is not None and task not in graph.nodes:
            if index is not None and index != int(found[2]):
                raise ReplayError(f"which element: {task} or {index}? Name it once")
            task, index = found[1], int(found[2])
        slugs = [task] if task in graph.nodes else [s for s, node in graph.nodes.items() if node.name == task]
        known = [s for s, node in graph.nodes.items() if node.kind == "task"]
        if not slugs:
            raise ReplayError(f"flow {flow.name!r} has no task {task!r}; it has: {listed(known)}{nearest(task, known)}")
    else:
        slugs = sorted(flow._slugs(task))
    if len(slugs) != 1:
        raise ReplayError(f"{task!r} stands for {len(slugs)} nodes: {listed(slugs)}; name one of these")
    if graph.nodes[slugs[0]].kind != "task":
        raise ReplayError(
            f"{slugs[0]} is a {graph.nodes[slugs[0]].kind} of the flow, not a task, so there is nothing to run"
        )
    return slugs[0], index


def _state_of(
    store: RunStore, record: RunRecord, recorded: Recorded, node: FrozenNode, index: int | None
) -> tuple[int | None, State | None]:
    """The element, and what it came to. Without an index, the first element that failed is meant."""
    slug = node.slug
    if not node.is_map:
        if index is not None:
            raise ReplayError(f"{slug} is no map, found element {index}; name it without an index")
        single = recorded.singles.get(slug)
        return None, single.state if single is not None else None
    codes = codes_of(store.chunks(record.run_id, slug))
    width = max(len(codes), recorded.widths.get(slug) or 0)
    if index is None:
        index = next((at for at, code in enumerate(codes) if code >= FIRST_FAILED_CODE), None)
        if index is None:
            raise ReplayError(f"{slug} is a map of {width:,} elements, none of which failed: say which, as {slug}[0]")
    if not 0 <= index < width:
        raise ReplayError(f"{slug}[{index}] is no element of run {record.run_id}: it has {width:,} elements")
    for report in recorded.columns.get(slug, ()):
        if report.indices is not None and index in report.indices:
            state = report.columns[0].records.get(index)
            return index, state or BY_CODE[codes[index]](map_index=index)
    return index, None


# Parameters -----------------------------------------------------------------------------------------------------------


def _choose_parameters(
    record: RunRecord, flow: Flow, graph: FrozenGraph, given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Any], dict[str, str]]:
    """Values of parameters by slug, those among them that are secret, and why others are missing."""
    data = record.details.parameters_pickle if record.details is not None else None
    pickled = pickle.loads(data) if data is not None else {}
    known = flow.parameters(by_name=True)
    by_default = facts_of(record).get("by_default", ())
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ReplayError(f"flow {flow.name!r} has no parameter {unknown[0]!r}; it has: {listed(known)}")
    values: dict[str, Any] = {}
    secret: list[Any] = []
    lost: dict[str, str] = {}
    for slug, node in graph.nodes.items():
        if node.kind != "parameter":
            continue
        parameter = known[node.name]
        try:
            if node.name in given:
                values[slug] = validated(parameter, given[node.name])
            elif node.name in pickled:
                values[slug] = loaded(pickled[node.name], f"parameter {node.name}")
            elif node.name in by_default:
                values[slug] = parameter.default_value
            else:
                raise InputMissing(
                    f"parameter {node.name} was not recorded; give it again (parameters={{…}}, -p {node.name}=…)"
                )
        except ValueError as error:
            raise ReplayError(f"parameter {node.name}: {error}") from None
        except InputMissing as reason:
            lost[slug] = str(reason)
        if slug in values and is_secret(parameter):
            secret.append(values[slug])
    return values, secret, lost


# Debugging ------------------------------------------------------------------------------------------------------------


def _run_async(function: Any, *args: Any, **kwargs: Any) -> Any:
    return run_call(function(*args, **kwargs), config.engine.max_width)


def _debugged(function: Any, args: list[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call under pdb: it stops at the first line, and where an exception comes out."""
    import pdb

    class Debugger(pdb.Pdb):
        was_quit = False  # `runcall` gives None for it

        def set_quit(self) -> None:
            self.was_quit = True
            super().set_quit()

    debugger = Debugger(skip=["anabranch.*", "asyncio.*"]) if isinstance(function, partial) else Debugger()
    value: Any = None
    try:
        value = debugger.runcall(function, *args, **kwargs)
    except Exception as error:
        if not debugger.was_quit:
            after = pdb.Pdb()
            after.reset()
            after.interaction(None, error.__traceback__)
            raise
    if debugger.was_quit:
        raise ReplayError("the debugger was quit, so the attempt did not end; replay it again to see its end")
    return value


def shown_inputs(replay: Replay) -> list[str]:
    """A line for each input, for people; secrets are masked."""
    known_secrets.learn(f"show-{replay.context.run_id}", replay.secrets)
    try:
        lines = [f"{name} = {masking.mask(short(value, 200))}" for name, value in replay.inputs.items()]
    finally:
        known_secrets.forget(f"show-{replay.context.run_id}")
    return [*lines, *(f"{name}: missing: {reason}" for name, reason in replay.missing.items())]
