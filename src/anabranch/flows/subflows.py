"""A whole flow as a task: each run of the task is a run of the flow, with parameters and a record of its own.

Flows are above this module, which knows them by their methods.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from anabranch.base import context
from anabranch.base.errors import FlowRunFailed
from anabranch.definition.parameter import Parameter
from anabranch.definition.task import FunctionTask
from anabranch.executors.base import Executor


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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self.__signature__.bind(*args, **kwargs).arguments
        with context.entered(None):  # the tasks of the flow are no part of the task that runs it
            view = self.flow.run(given, executor=self.executor, raise_on_failure=True)
        if not view.is_finished():
            raise FlowRunFailed(f"flow {self.flow.name!r}, run {view.run_id}, did not end: {view.state}")
        slugs = view._whole.plan.graph.reference
        values = {slug: view[slug].result for slug in slugs}
        return values[slugs[0]] if len(slugs) == 1 else values


def run_in(function: object, executor: Executor) -> Callable[..., Any] | None:
    """The function of a task of a flow, with its runs on another executor; None if it is no such function."""
    return _Run(function.flow, executor) if isinstance(function, _Run) else None


def _argument(parameter: Parameter) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    if parameter.required:
        return inspect.Parameter(parameter.name, kind)
    return inspect.Parameter(parameter.name, kind, default=parameter.default_value)
