"""A flow's own handlers around a run of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anabranch.base.events import Observer
from anabranch.base.signals import Signal
from anabranch.base.states import Finished, Pending, Running, State
from anabranch.definition.policies import Handler
from anabranch.engine.driver.driver import run_flow
from anabranch.engine.driver.plan import FinishedRun, Journal, RunPlan
from anabranch.engine.logs.book import LogBook
from anabranch.engine.machine.knowledge import NodeRun
from anabranch.engine.machine.permits import Permits
from anabranch.engine.units.failures import message_of, type_name
from anabranch.engine.worker.task_runner import failed_state
from anabranch.executors.base import Executor

_log = logging.getLogger("anabranch.flow")


@dataclass(frozen=True, slots=True)
class FlowHandlers:
    """What a flow wants to be told of its runs."""

    flow: Any = None
    """The flow, as handlers get it."""
    state_handlers: Sequence[Handler] = ()
    on_failure: Callable[[Any, Any], Any] | None = None

    def __bool__(self) -> bool:
        return bool(self.state_handlers) or self.on_failure is not None


def run_handled(
    plan: RunPlan,
    executor: Executor,
    handlers: FlowHandlers,
    observers: Sequence[Observer] = (),
    *,
    journal: Journal | None = None,
    logs: LogBook | None = None,
    permits: Permits | None = None,
) -> FinishedRun:
    """Run a plan to its end, with the flow's handlers around it; whatever they do, the states known are returned."""
    began = handled(handlers.state_handlers, handlers.flow, Pending(), Running())
    if not began.is_running():
        return not_run(plan, began)
    done = run_flow(plan, executor, observers, journal=journal, logs=logs, permits=permits)
    state = handled(handlers.state_handlers, handlers.flow, Running(), done.state)
    if handlers.on_failure is not None and state.is_failed():
        try:
            handlers.on_failure(handlers.flow, state)
        except Exception as error:  # it is told; what it does changes nothing
            _log.error("on_failure of flow %s raised %s: %s", plan.name, type_name(error), message_of(error))
    return done if state is done.state else replace(done, state=state)


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


def not_run(plan: RunPlan, state: State) -> FinishedRun:
    """The outcome of a run that ended before it began."""
    now = plan.now()
    if not isinstance(state, Finished):
        state = replace(state, message=state.message or "a state handler did not let the flow run")
    runs = {slug: NodeRun(node, Pending()) for slug, node in plan.graph.nodes.items()}
    return FinishedRun(plan=plan, state=state, runs=runs, outcomes={}, started=now, ended=now)
