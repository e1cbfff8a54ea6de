"""A flow's own handlers around a run of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anabranch.base.signals import Signal
from anabranch.base.states import Finished, Pending, Running, State
from anabranch.base.texts import message_of, type_name
from anabranch.definition.policies import Handler
from anabranch.engine.driver.plan import FinishedRun, RunPlan
from anabranch.engine.machine.knowledge import NodeRun
from anabranch.engine.worker.task_runner import failed_state

_log = logging.getLogger("anabranch.flow")


@dataclass(frozen=True, slots=True)
class FlowHandlers:
    """What a flow wants to be told of its runs."""

    flow: Any = None
    """The flow, as handlers get it."""
    state_handlers: Sequence[Handler] = ()
    on_failure: Callable[[Any, Any], Any] | None = None
    results_of: Callable[[FinishedRun], Any] | None = None
    """Gives the states of a run's nodes, with their values: what they see as its result."""

    def __bool__(self) -> bool:
        return bool(self.state_handlers) or self.on_failure is not None

    def tell(self, old: State, new: State) -> State:
        """The state after the handlers have seen the change from `old` to `new`; one that raises fails the run."""
        for handler in self.state_handlers:
            try:
                answer = handler(self.flow, old, new)
            except Signal as signal:
                answer = signal.state
            except Exception as error:
                answer = failed_state(error)
            if isinstance(answer, State):
                new = replace(answer, result=new.result)
        return new

    def tell_end(self, done: FinishedRun) -> State:
        """The state of a run that has ended, after all of them have seen it."""
        result = self.results_of(done) if self and self.results_of is not None else None
        return replace(self.tell_last(replace(done.state, result=result)), result=None)

    def tell_last(self, state: State) -> State:
        """The state that a run ends with, after all of them have seen it."""
        state = self.tell(Running(), state)
        if self.on_failure is not None and state.is_failed():
            try:
                self.on_failure(self.flow, state)
            except Exception as error:  # it is told; what it does changes nothing
                name = getattr(self.flow, "name", "")
                _log.error("on_failure of flow %s raised %s: %s", name, type_name(error), message_of(error))
        return state


NO_HANDLERS = FlowHandlers()


def not_run(plan: RunPlan, state: State) -> FinishedRun:
    """The outcome of a run that ended before it began."""
    now = plan.now()
    if not isinstance(state, Finished):
        state = replace(state, message=state.message or "a state handler did not let the flow run")
    runs = {slug: NodeRun(node, Pending()) for slug, node in plan.graph.nodes.items()}
    return FinishedRun(plan=plan, state=state, runs=runs, outcomes={}, started=now, ended=now)
