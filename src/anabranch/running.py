"""One run of a flow, from its parameters to the view of what came out of it."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import cloudpickle

from anabranch.context import RunInfo
from anabranch.engine.driver import FinishedRun, RunPlan, run_flow
from anabranch.engine.failures import message_of, type_name
from anabranch.engine.knowledge import NodeRun
from anabranch.engine.static import compile_flow
from anabranch.engine.task_runner import failed_state
from anabranch.engine.units import Program
from anabranch.errors import OptionError
from anabranch.events import Observer
from anabranch.executors.base import Executor
from anabranch.graph import Graph, NodeLike
from anabranch.names import short
from anabranch.parameter import Parameter
from anabranch.parameters import resolve_parameters
from anabranch.policies import Handler
from anabranch.runview import FlowRunView
from anabranch.settings import config
from anabranch.signals import Signal
from anabranch.states import Finished, Pending, Running, State
from anabranch.where import caller

if TYPE_CHECKING:
    from dask.delayed import Delayed

_log = logging.getLogger("anabranch.flow")


def plan_of(
    graph: Graph,
    reference: Iterable[NodeLike],
    parameters: Iterable[Parameter],
    given: Mapping[str, Any],
    *,
    run_id: str | None = None,
    keep: frozenset[str] | None = frozenset(),
    approved: frozenset[str] = frozenset(),
) -> RunPlan:
    """What is to be run, with every parameter's value; `keep` None is everything.

    Raises
    ------
    ParameterError
        The parameters given do not fit.
    """
    values = resolve_parameters(graph.name, parameters, given)
    frozen = graph.freeze(reference)
    named = {node.slug: node.name for node in frozen.nodes.values() if node.kind == "parameter"}
    return RunPlan(
        graph=frozen,
        name=graph.name,
        run_id=run_id or secrets.token_hex(6),
        parameters={slug: values[name] for slug, name in named.items()},
        settings=config.snapshot()["engine"],
        keep=frozenset(frozen.nodes) if keep is None else keep,
        approved=approved,
    )


def check_executor(executor: object) -> Executor:
    """An executor, or the one there is by default.

    Raises
    ------
    OptionError
        It is something else.
    """
    if executor is None:
        from anabranch.executors.local import LocalExecutor

        return LocalExecutor()
    if isinstance(executor, type):
        raise OptionError(f"executor: expected an object, found the class {executor.__name__} ({caller()}); call it")
    if not hasattr(executor, "next_message"):
        raise OptionError(
            f"executor: expected an executor such as anabranch.executors.DaskExecutor(), found {short(executor)} "
            f"({caller()})"
        )
    checked: Any = executor
    result: Executor = checked
    return result


def run_plan(
    plan: RunPlan,
    graph: Graph,
    executor: Executor,
    *,
    flow: object,
    state_handlers: Sequence[Handler] = (),
    on_failure: Callable[[Any, Any], Any] | None = None,
    observers: Sequence[Observer] = (),
) -> FlowRunView:
    """Run a plan to its end, with the flow's handlers around it; whatever they do, the states known are returned."""
    began = handled(state_handlers, flow, Pending(), Running())
    done = run_flow(plan, executor, observers) if began.is_running() else _not_run(plan, began)
    state = handled(state_handlers, flow, Running(), done.state) if began.is_running() else began
    if on_failure is not None and state.is_failed():
        try:
            on_failure(flow, state)
        except Exception as error:  # it is told; what it does changes nothing
            _log.error("on_failure of flow %s raised %s: %s", plan.name, type_name(error), message_of(error))
    return FlowRunView(done if state is done.state else replace(done, state=state), graph)


def handled(handlers: Iterable[Handler], flow: object, old: State, new: State) -> State:
    """The state after the flow's handlers have seen the change from `old` to `new`; one that raises fails the run."""
    for handler in handlers:
        try:
            answer = handler(flow, old, new)
        except Signal as signal:
            answer = signal.state
        except Exception as error:
            answer = failed_state(error)
        if isinstance(answer, State):
            new = answer
    return new


def _not_run(plan: RunPlan, state: State) -> FinishedRun:
    """The outcome of a run that a handler ended before it began."""
    now = datetime.now(UTC)
    if not isinstance(state, Finished):
        state = replace(state, message=state.message or "a state handler did not let the flow run")
    runs = {slug: NodeRun(node, Pending()) for slug, node in plan.graph.nodes.items()}
    return FinishedRun(plan=plan, state=state, runs=runs, outcomes={}, started=now, ended=now)


def delayed_of(plan: RunPlan) -> Delayed:
    """A plan as one Dask graph.

    Raises
    ------
    DefinitionError
        The width of a map depends on a value that only a run gives.
    """
    parameters = {plan.graph.nodes[slug].name: value for slug, value in plan.parameters.items()}
    info = RunInfo(plan.name, plan.run_id, parameters, datetime.now(UTC))
    settings = {**plan.settings, "inplace_retry_delay_s": math.inf}  # no driver is there to wait elsewhere
    program = Program(info, plan.graph.nodes, plan.parameters, settings)
    return compile_flow(plan.graph, program, plan.run_id, cloudpickle.dumps(program))
