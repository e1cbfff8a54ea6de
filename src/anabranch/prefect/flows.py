"""Flows with the options that they have in Prefect 1."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import anabranch
from anabranch.base.errors import PrefectNameError
from anabranch.base.prefect1 import refuse, row_of
from anabranch.base.where import caller
from anabranch.prefect.code_places import Storage
from anabranch.prefect.machines import RunConfig
from anabranch.prefect.modules import OLD, ROOT
from anabranch.prefect.stored_values import as_result
from anabranch.prefect.tools import RAISES

if TYPE_CHECKING:
    from pathlib import Path

    from anabranch.definition.frozen import Edge
    from anabranch.definition.node import Node
    from anabranch.executors.base import Executor
    from anabranch.runs.store.flows import FlowRecord
    from anabranch.runs.view import FlowRunView


T = TypeVar("T")


class Flow(anabranch.Flow):
    """As `anabranch.Flow`, with what only Prefect 1 has, or has otherwise.

    Parameters
    ----------
    run_config, environment
        Where runs are executed if no executor is given; may be assigned later, as `storage`.
    storage
        Where the code is, once the flow is registered.
    validate
        Whether to validate the flow once more.
    terminal_state_handler
        Function ``(flow, state, reference_states) -> state | None``, which has the last word on the state of a run.
    **options
        As for `anabranch.Flow`.
    """

    def __init__(
        self,
        name: str,
        schedule: Any = None,
        executor: Any = None,
        run_config: RunConfig | None = None,
        storage: Storage | None = None,
        tasks: Iterable[object] | None = None,
        edges: Iterable[Edge] | None = None,
        reference_tasks: Iterable[object] | None = None,
        state_handlers: Any = None,
        on_failure: Callable[[Any, Any], Any] | None = None,
        validate: bool | None = None,
        result: Any = None,
        terminal_state_handler: Callable[[Any, Any, Any], Any] | None = None,
        environment: RunConfig | None = None,
        **options: Any,
    ) -> None:
        self.run_config = run_config if run_config is not None else environment
        self.storage = storage
        self.terminal_state_handler = terminal_state_handler
        super().__init__(
            name,
            schedule,
            executor=executor,
            tasks=tasks,
            edges=edges,
            reference_tasks=reference_tasks,
            state_handlers=state_handlers,
            on_failure=on_failure,
            result=as_result(result),
            **options,
        )
        if validate:
            self.validate()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or (row := row_of(f"flow.{name}")) is None or row.way == "same":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise PrefectNameError(f"flow.{name} is a method that only Prefect 1 has ({caller()}); {row}")

    @property
    def executor(self) -> Executor | None:
        """The one that was given, else the one that the run configuration means."""
        if self._executor is None and self.run_config is not None:
            return self.run_config.executor()
        return self._executor

    @executor.setter
    def executor(self, value: Executor | None) -> None:
        self._executor = value

    @property
    def environment(self) -> RunConfig | None:
        """The run configuration, as 0.x calls it."""
        return self.run_config

    @environment.setter
    def environment(self, value: RunConfig | None) -> None:
        self.run_config = value

    def copy(self, name: str | None = None) -> Flow:
        """A flow with the same nodes and options."""
        twin = Flow(
            name or self.name,
            self.schedule,
            self._executor,
            self.run_config,
            self.storage,
            state_handlers=self.state_handlers,
            on_failure=self.on_failure,
            result=self.result,
            terminal_state_handler=self.terminal_state_handler,
            max_runs=self.max_runs,
            timeout=self.timeout,
        )
        vars(twin)["graph"] = super().copy(twin.name).graph
        twin._reference = self._reference
        return twin

    def run(
        self,
        parameters: Mapping[str, Any] | None = None,
        run_on_schedule: bool | None = None,
        runner_cls: type | None = None,
        **options: Any,
    ) -> FlowRunView:
        """As `anabranch.Flow.run`; once, now, whatever the schedule."""
        if run_on_schedule:
            refuse("flow.run(run_on_schedule=)")
        if runner_cls is not None:
            refuse("flow.run(runner_cls=)")
        if RAISES.get():
            options.setdefault("raise_on_failure", True)
        with ExitStack() as stack:
            if self.run_config is not None:
                stack.enter_context(self.run_config.entered())
            return super().run(parameters, **options)

    def _handlers(self) -> Any:
        found = super()._handlers()
        if self.terminal_state_handler is None:
            return found
        return type(found)(self, (*self.state_handlers, self._decide), self.on_failure, self._results_of)

    def _decide(self, flow: Any, old: Any, new: Any) -> Any:
        """Let the terminal state handler have its word at the end of a run."""
        if not new.is_finished() or self.terminal_state_handler is None:
            return None
        states = {new.result[node] for node in self.reference_tasks()} if new.result is not None else set()
        return self.terminal_state_handler(flow, new, states)

    def register(  # type: ignore[override]  # with what Prefect has by position
        self,
        project_name: str | None = None,
        build: bool = True,
        labels: Iterable[str] | None = None,
        set_schedule_active: bool = True,
        version_group_id: str | None = None,
        no_url: bool = False,
        idempotency_key: str | None = None,
        add_default_labels: bool | None = None,
        *,
        project: str = "",
        storage: object = None,
        replace: bool = False,
    ) -> FlowRecord | None:
        """As `anabranch.Flow.register`, with the labels and storage that the flow has.

        The version increases only if the code or graph changes, so that no key is needed. A file that is run with
        ``--prefect`` is stored as a pickle, because services cannot load it.

        Raises
        ------
        PrefectNameError
            The storage or the run configuration is not here. While a file is loaded with ``--prefect``, this is a
            warning, and None is returned.
        """
        is_loading = getattr(sys.modules.get(OLD), "__name__", "") == ROOT
        named = [*(labels or ())]
        try:
            if self.run_config is not None:
                self.run_config.check()
                named += self.run_config.labels
            if self.storage is not None:
                named += self.storage.labels
                storage = self.storage.of_ours() if storage is None else storage
        except PrefectNameError as error:
            if not is_loading:
                raise
            warnings.warn(f"flow {self.name!r} is not registered: {error}", stacklevel=2)
            return None
        if is_loading and storage in (None, "source"):
            storage = "database"
        schedule, self.schedule = self.schedule, self.schedule if set_schedule_active else None
        try:
            return super().register(
                project or project_name or "", dict.fromkeys(named), storage=storage, replace=replace
            )
        finally:
            self.schedule = schedule

    # What has `validate=` there: a run validates, in any case.

    def add_edge(
        self,
        upstream_task: object,
        downstream_task: object,
        key: str | None = None,
        mapped: bool = False,
        flattened: bool = False,
        validate: bool | None = None,
    ) -> Edge:
        """As `anabranch.Flow.add_edge`."""
        edge = super().add_edge(upstream_task, downstream_task, key, mapped, flattened)
        return self._checked(edge, validate)

    def set_dependencies(self, task: object, *args: Any, validate: bool | None = None, **options: Any) -> Node:
        """As `anabranch.Flow.set_dependencies`."""
        return self._checked(super().set_dependencies(task, *args, **options), validate)

    def chain(self, *stages: object, validate: bool | None = None) -> None:
        """As `anabranch.Flow.chain`."""
        self._checked(super().chain(*stages), validate)

    def replace(self, old: object, new: object, validate: bool | None = None) -> Node:
        """As `anabranch.Flow.replace`."""
        return self._checked(super().replace(old, new), validate)

    def update(  # type: ignore[override]  # with what Prefect has by position
        self,
        flow: anabranch.Flow,
        merge_parameters: bool = False,
        validate: bool | None = None,
        merge_reference_tasks: bool = False,
    ) -> None:
        """As `anabranch.Flow.update`."""
        super().update(flow, merge_parameters=merge_parameters, merge_reference_tasks=merge_reference_tasks)
        self._checked(None, validate)

    def _checked(self, value: T, validate: bool | None) -> T:
        if validate:
            self.validate()
        return value

    def visualize(
        self,
        flow_state: Any = None,
        filename: str | Path | None = None,
        format: Any = None,
        horizontal: bool = False,
    ) -> str:
        """As `anabranch.Flow.visualize`."""
        return super().visualize(flow_state, filename=filename, format=format)
