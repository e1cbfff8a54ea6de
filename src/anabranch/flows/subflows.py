"""A whole flow as a task: each run of the task is a run of the flow, with parameters and a record of its own.

Its run id is made of the task run's: whatever becomes of drivers and workers, the task run goes on with the run it had.

Flows are above this module, which knows them by their methods.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any

from anabranch.base import context
from anabranch.base.errors import FlowRunFailed, RunHeld, RunNotFound
from anabranch.definition.fingerprints import describe_value
from anabranch.definition.parameter import Parameter
from anabranch.definition.task import FunctionTask
from anabranch.executors.base import Executor
from anabranch.runs.store.opening import current_store

HELD_S = 0.5  # between looks at a run whose former driver may live: its lease is some seconds


def task_of(flow: Any, *, executor: Executor | None = None, **options: Any) -> FunctionTask[..., Any]:
    """A task that runs a flow; its arguments are the flow's parameters. See `Flow.as_task`."""
    options.setdefault("name", flow.name)
    return FunctionTask(_Run(flow, executor), **options)


class _Run:
    """A function that runs a flow."""

    def __init__(self, flow: Any, executor: Executor | None) -> None:
        self.flow = flow
        self.executor = executor
        parameters = flow.parameters(by_name=True).values()
        self.__signature__ = inspect.Signature([_argument(parameter) for parameter in parameters])

    def __dask_tokenize__(self) -> object:
        return self.flow  # where it runs says nothing of its values

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        view = child_run(self.flow, self.__signature__.bind(*args, **kwargs).arguments, self.executor, raises=True)
        if not view.is_finished():
            raise FlowRunFailed(f"flow {self.flow.name!r}, run {view.run_id}, did not end: {view.state}")
        slugs = view._whole.plan.graph.reference
        values = {slug: view[slug].result for slug in slugs}
        return values[slugs[0]] if len(slugs) == 1 else values


def child_run(flow: Any, given: Mapping[str, Any], executor: Executor | None = None, *, raises: bool = False) -> Any:
    """The ended run of a flow for the task run that is running here: begun, or gone on with if it has one.

    While another driver of it may live, that is waited for. With `raises`, its failure is raised.
    """
    outer, is_over = context.current(), context.over()
    run_id = None if outer is None else id_of(outer, given)
    options: dict[str, Any] = {"executor": executor, "raise_on_failure": raises}
    # The tasks of the flow are no part of the task that runs it.
    with context.entered(None), context.part_of(outer.run_id if outer is not None else None):
        while True:
            try:
                if run_id is None or not is_recorded(run_id):
                    return flow.run(given, run_id=run_id, **options)
                return flow.run(given, resume=run_id, keep=flow.reference_tasks(), **options)
            except RunHeld:
                if is_over():
                    raise
                time.sleep(HELD_S)


def id_of(task: context.TaskContext, given: Mapping[str, Any]) -> str:
    """Id of the run of a flow that a task run is: the same whenever, and wherever, the task run runs again.

    With other parameters, as what is upstream may give other ones in a resumed run, it is another run.
    """
    found = describe_value(dict(given))
    key = f"{task.idempotency_key}/{task.task_loop_count}/{'' if found.gap else found.text}"
    return f"{task.run_id[:40]}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def is_recorded(run_id: str) -> bool:
    """Whether there is a run of exactly this id."""
    store = current_store()
    try:
        return store is not None and store.get_run(run_id).run_id == run_id
    except RunNotFound:
        return False


def run_in(function: object, executor: Executor) -> Callable[..., Any] | None:
    """The function of a task of a flow, with its runs on another executor; None if it is no such function."""
    return _Run(function.flow, executor) if isinstance(function, _Run) else None


def _argument(parameter: Parameter) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    if parameter.required:
        return inspect.Parameter(parameter.name, kind)
    return inspect.Parameter(parameter.name, kind, default=parameter.default_value)
