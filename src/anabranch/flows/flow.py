"""Flows: the façade over graph, validation, pictures and the engine."""

from __future__ import annotations

import inspect
import logging
import re
import secrets
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal, overload

from anabranch.base import context
from anabranch.base.errors import DefinitionError, OptionError, ParameterError, listed, nearest
from anabranch.base.names import check_name, named, short
from anabranch.base.prefect1 import refuse, refusing
from anabranch.base.signatures import signature_of
from anabranch.base.where import caller
from anabranch.definition import scope
from anabranch.definition.building import Writing
from anabranch.definition.frozen import Edge
from anabranch.definition.graph import Graph
from anabranch.definition.lookup import each_of
from anabranch.definition.parameter import Parameter
from anabranch.definition.policies import Handler
from anabranch.definition.signature import Signature
from anabranch.definition.task import Task
from anabranch.flows.options import CHECKS, choose_executor

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from anabranch.base.events import Observer
    from anabranch.definition.task import FunctionTask
    from anabranch.engine.driver.handlers import FlowHandlers
    from anabranch.engine.driver.plan import FinishedRun
    from anabranch.executors.base import Executor
    from anabranch.flows.handle import RunHandle
    from anabranch.flows.stream import Stream
    from anabranch.results.result import Result
    from anabranch.runs.registry.registration import Registrable
    from anabranch.runs.resume.takeover import Request
    from anabranch.runs.store.flows import FlowRecord
    from anabranch.runs.view import FlowResults, FlowRunView
    from anabranch.schedules import Schedule


class Flow(Writing):
    """A named graph of nodes.

    Open it (``with Flow("name") as flow:``) and call tasks to add nodes. A flow opened inside another is a named group
    of it: its nodes are in both, and the outer flow runs them.

    Parameters
    ----------
    name
        1 to 200 characters.
    executor
        Where runs are executed; default: `LocalExecutor`.
    state_handlers
        Functions ``(flow, old, new) -> new | None``, called when a run begins and ends.
    on_failure
        Function ``(flow, state)``, called when a run ends Failed.
    tasks, edges
        Initial contents.
    reference_tasks
        Nodes that decide the state of runs; default: the terminal nodes, without cleanups of resources.
    result, result_handler
        Where values of tasks without a result of their own are stored; both mean the same.
    schedule
        When services run the flow after it was registered; one of `anabranch.schedules`.
    max_runs
        Maximum number of its runs at a time, over all services; default: no maximum.
    timeout
        Seconds or timedelta after which a run ends as `TimedOut`; default: never.
    """

    timeout: Any = None  # of flows, too, that were pickled before there was one

    @refusing("Flow")
    def __init__(
        self,
        name: str,
        schedule: Schedule | None = None,
        *,
        max_runs: int | None = None,
        timeout: float | timedelta | None = None,
        executor: Executor | None = None,
        state_handlers: Sequence[Handler] | None = None,
        on_failure: Callable[[Any, Any], Any] | None = None,
        tasks: Iterable[object] | None = None,
        edges: Iterable[Edge] | None = None,
        reference_tasks: Iterable[object] | None = None,
        result: Result | None = None,
        result_handler: Result | None = None,
    ) -> None:
        self.name = check_name(name, "flow name")
        self.where = caller()
        self.graph: Graph = Graph(self.name)
        self.executor = executor
        self.schedule = schedule
        self.max_runs = max_runs
        self.timeout = timeout
        self.state_handlers: Sequence[Handler] = () if state_handlers is None else state_handlers
        self.on_failure = on_failure
        if result is not None and result_handler is not None:
            raise OptionError(f"flow {name!r}: result and result_handler are both given; give one ({self.where})")
        self.result: Result | None = result if result is not None else result_handler
        self._reference = ()
        for each in tasks or ():
            self.add_task(each)
        for edge in edges or ():
            self.add_edge(edge.upstream, edge.downstream, key=edge.key, mapped=edge.mapped)
        self.set_reference_tasks(reference_tasks)

    def __setattr__(self, name: str, value: object) -> None:
        is_own = name.startswith("_") or (name in ("name", "where", "graph") and name not in vars(self))
        if name in CHECKS:
            try:
                value = CHECKS[name](value)
            except OptionError as error:
                raise OptionError(f"flow {self.name!r}: {error}") from None
        elif type(self) is Flow and not is_own:
            raise OptionError(
                f"flow {self.name!r}: {name} cannot be assigned, as the options {listed(CHECKS)} can ({caller()})"
                f"{nearest(name, CHECKS)}"
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<Flow {self.name!r}: {len(self.graph)} nodes>"

    def __dask_tokenize__(self) -> object:
        """What decides over the values of its tasks, for tasks whose code names it."""
        nodes = self.graph.freeze().nodes.values()
        return [(node.slug, node.kind, node.signature.function, node.edges, dict(node.arguments)) for node in nodes]

    # Looking at it ----------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check that the flow is well formed.

        Raises
        ------
        FlowValidationError
            It is not; ``problems`` lists all problems, each with its line.
        """
        from anabranch.definition.validation import problems_of

        problems = [str(error) for error in self.graph.path[0].settle()]
        problems += problems_of(self.graph, self._reference, self.result)
        if problems:
            raise self._invalid(problems)

    def copy(self, name: str | None = None) -> Flow:
        """A flow with the same nodes; adding to one does not change the other."""
        self._settle()
        twin = Flow(
            name or self.name,
            executor=self.executor,
            schedule=self.schedule,
            max_runs=self.max_runs,
            timeout=self.timeout,
            state_handlers=self.state_handlers,
            on_failure=self.on_failure,
            result=self.result,
        )
        vars(twin)["graph"] = self.graph.copy(twin.name)
        twin._reference = self._reference
        return twin

    @refusing("flow.visualize")
    def visualize(
        self,
        state: FlowRunView | None = None,
        *,
        format: Literal["dot", "mermaid", "svg", "png"] | None = None,
        filename: str | Path | None = None,
    ) -> str:
        """Draw the flow, coloured by the states of a run if one is given. Returns the text, or the file's path."""
        from anabranch.monitoring.pictures.draw import draw

        self._settle()
        return draw(self.graph, format=format, states=state.states() if state is not None else None, filename=filename)

    def _repr_html_(self) -> str:
        """The flow in a notebook: its picture if Graphviz is installed, else its text for Mermaid."""
        from anabranch.base.errors import DrawingError
        from anabranch.base.html import escaped

        try:
            return f"<div>{self.visualize(format='svg')}</div>"
        except DrawingError:
            lines = self.visualize(format="mermaid").split("\n")
            return f"<p>{escaped(self)}</p><pre>{'<br>'.join(escaped(line) for line in lines)}</pre>"

    # Running ----------------------------------------------------------------------------------------------------------

    def run(
        self,
        parameters: Mapping[str, Any] | None = None,
        *,
        executor: Executor | None = None,
        raise_on_failure: bool = False,
        keep: Iterable[object] | Literal["all", "small"] = (),
        approve: Iterable[object] = (),
        observers: Sequence[Observer] = (),
        run_id: str | None = None,
        resume: str | None = None,
        resume_only: Literal["failed"] | None = None,
        resume_from: object = (),
        resume_element: str | None = None,
        rerun_changed: bool = False,
        dashboard: bool | Callable[[str], object] = False,
        run_date: datetime | None = None,
        **kwargs: Any,
    ) -> FlowRunView:
        """Run the flow to its end, or resume one of its runs.

        The run is recorded in the run store (``config.backend``). A resumed run keeps its id and parameters. What had
        succeeded is not run again, unless it used something that failed, or its value is needed and was not recorded.

        Parameters
        ----------
        parameters, **kwargs
            Values of the flow's parameters. To resume, give only secret ones, because they were not recorded.
        executor
            Where to run; default: the flow's, else in this thread.
        raise_on_failure
            Raise the user's own exception if the run fails.
        keep
            Nodes whose values to keep even if they are large and not terminal; or ``"all"``; or ``"small"``: no value
            larger than ``engine.inline_nbytes`` is fetched from the workers, not even of terminal nodes.
        approve
            Nodes that may run although they have the trigger ``manual_only``, or pause.
        observers
            Functions that are called with each `Event`; one that fails never changes the run.
        run_id
            Id of the run; default: a random one.
        resume
            Id of the run to resume, or the beginning of it.
        resume_only
            ``"failed"``: run what failed, and what is downstream. What was cancelled or had not begun does not run.
        resume_from
            Nodes to run again, whatever their states, with all that is downstream.
        resume_element
            Element to run again (``"parse[7]"``), with all that is downstream, as well as what had not ended.
        rerun_changed
            Run nodes again whose code has changed since, with all that is downstream. Default: only warn about them.
        dashboard
            Serve a live page of the run on this machine. Its address is written to standard error, or passed to a
            function. Anybody with the address can see and cancel the runs of this process.
        run_date
            The aware datetime that the run is for (``context.date``); default: its start.

        Returns
        -------
        FlowRunView
            The final state, or Paused. ``state.result[node]`` is the state of a node.

        Raises
        ------
        FlowValidationError, ParameterError, RunStoreError
            Nothing was run.
        ExecutorError
            The executor cannot run anything.
        """
        from anabranch.flows.running import recorded_plan, run_plan
        from anabranch.schedules.zones import local_time

        if scope.current().graphs:
            raise DefinitionError(
                f"flow {self.name!r}: run() inside a `with Flow` block ({caller()}); run it after the block"
            )
        self.validate()
        place = choose_executor(executor, self.executor).for_run()
        given = self._given(parameters, kwargs)
        request = self._request(resume, given, resume_only, resume_from, resume_element, rerun_changed)
        if request is not None and run_id is not None:
            raise OptionError(f"flow {self.name!r}: run_id= is for a new run, found resume={resume!r} ({caller()})")
        plan, recorder = recorded_plan(
            self.graph,
            self.reference_tasks(),
            self.parameters(by_name=True).values(),
            given,
            source=f"{self.where.file}:{self.name}",
            request=request,
            run_id=run_id,
            keep=self._kept(keep),
            approved=self._slugs(approve),
            result=self.result,
            timeout_s=self.timeout,
            date=local_time(run_date) if run_date is not None and run_date.tzinfo is not None else run_date,
            doubles=place.doubles,
        )
        wants_end: Callable[[], str] = str
        if dashboard:
            from anabranch.monitoring.pages.live_page import live_page

            page = live_page(plan, self.graph, self.parameters(by_name=True).values(), place, dashboard)
            observers, wants_end = [*observers, *page.observers], page.wants_end
        view = run_plan(
            plan,
            self.graph,
            place,
            handlers=self._handlers(),
            observers=observers,
            recorder=recorder,
            wants_end=wants_end,
        )
        if raise_on_failure:
            view.raise_failure()
        return view

    async def arun(self, parameters: Mapping[str, Any] | None = None, **options: Any) -> FlowRunView:
        """Await a run: it has a thread of its own, and the loop goes on. Takes what `run` takes.

        Who cancels the await cancels the run, and gets the cancel when that has ended.
        """
        import asyncio
        import threading

        over = threading.Event()
        with context.ending(over.is_set):
            run = asyncio.ensure_future(asyncio.to_thread(self.run, parameters, **options))
        try:
            return await asyncio.shield(run)
        except asyncio.CancelledError:
            over.set()
            await asyncio.wait({run})
            raise

    def stream(
        self,
        *nodes: object,
        parameters: Mapping[str, Any] | None = None,
        on_break: Literal["cancel", "continue"] = "cancel",
        **options: Any,
    ) -> Stream:
        """Begin a run, in a thread of its own, and give the task runs of some nodes as they end.

        Of a map, each element is given once, in the order in which they end, in its final state: also if it failed,
        was left out or cancelled, or had ended before a run that is resumed. Of any other node, and of a map that got
        no elements, its own state is given. The stream ends when the run has ended.

        The run does not wait for who reads the stream. What has not been read waits in memory, and beyond 16 MiB in a
        temporary file.

        Parameters
        ----------
        *nodes
            Nodes, or tasks or names of nodes.
        parameters
            Values of the flow's parameters.
        on_break
            What becomes of the run if the stream is closed, or nobody has it any more, before its end: ``"cancel"`` or
            ``"continue"``. With the program, or by Ctrl-C while it waits for the next task run, it is cancelled.
        **options
            As for `run`. Values of streamed maps that nothing else takes are kept for `Stream.wait` only if ``keep=``
            names them.

        Returns
        -------
        Stream
            Iterate over it with ``for`` or ``async for``. What `run` raises is raised there.

        Raises
        ------
        FlowValidationError, UnknownNodeError, OptionError
            Nothing was run.
        """
        from anabranch.flows.stream import Inflow, Stream, start

        self.validate()
        slugs = self._slugs(nodes)
        if not slugs:
            raise OptionError(f"flow {self.name!r}: stream() takes the nodes to be given, found none ({caller()})")
        if on_break not in ("cancel", "continue"):
            raise OptionError(f"on_break: expected 'cancel' or 'continue', found {short(on_break)} ({caller()})")
        if options.get("resume") is None:
            options["run_id"] = options.get("run_id") or secrets.token_hex(6)
        inflow = Inflow(slugs, options.get("run_id") or "")
        options["observers"] = [*options.get("observers", ()), inflow]
        start(lambda: self.run(parameters, **options), inflow)
        return Stream(inflow, self.graph, on_break)

    def to_delayed(self, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> Delayed:
        """The flow as one `dask.delayed.Delayed`, which any Dask scheduler computes.

        Its value is a dict from slugs of the reference nodes to their values. A reference node that failed raises its
        exception.

        Raises
        ------
        DefinitionError
            The width of a map depends on a value that is not known before the run.
        """
        from anabranch.flows.running import delayed_of, plan_of

        self.validate()
        known = self.parameters(by_name=True).values()
        given = self._given(parameters, kwargs)
        return delayed_of(plan_of(self.graph, self.reference_tasks(), known, given, result=self.result))

    def as_task(self, *, executor: Executor | None = None, **options: Any) -> FunctionTask[..., Any]:
        """A task that runs this flow, for use in another flow: called, mapped or deferred, with parameters by name.

        Each run of the task is a recorded run of the flow. The task's value is that of the reference task, or a dict of
        several by name. If the run fails, the task fails with its exception.

        Parameters
        ----------
        executor
            Where each run of the flow is executed; default: in the slot of the task.
        **options
            Options of the task, see `anabranch.task`.
        """
        from anabranch.flows.subflows import task_of

        return task_of(self, executor=executor, **options)

    def submit(
        self,
        parameters: Mapping[str, Any] | None = None,
        *,
        executor: object = None,
        keep: object = (),
        approve: object = (),
        run_id: str | None = None,
        **kwargs: Any,
    ) -> RunHandle:
        """Run the flow with its driver on the cluster, and return at once. The run does not need this process.

        Parameters
        ----------
        parameters, keep, approve, run_id
            As for `run`.
        executor
            A ``DaskExecutor`` with the address of a cluster that outlives the run.

        Returns
        -------
        RunHandle
            Has the run's status and result; can wait for it and cancel it. So can ``anabranch attach``.

        Raises
        ------
        FlowValidationError, ParameterError
            Nothing was run.
        ExecutorError
            There is no such cluster, or it has no workers.
        """
        from anabranch.flows.handle import submit_run
        from anabranch.flows.running import plan_of

        self.validate()
        plan = plan_of(
            self.graph,
            self.reference_tasks(),
            self.parameters(by_name=True).values(),
            self._given(parameters, kwargs),
            run_id=run_id,
            keep=self._kept(keep),
            approved=self._slugs(approve),
            timeout_s=self.timeout,
            result=self.result,
        )
        place = choose_executor(executor, self.executor).for_run()
        return submit_run(plan, self.graph, place, self._handlers())

    def _kept(self, keep: object) -> frozenset[str] | Literal["all", "small"]:
        if isinstance(keep, str):
            for word in ("all", "small"):
                if keep == word:
                    return word
        return self._slugs(keep)

    @property
    def logger(self) -> logging.Logger:
        """For handlers: the flow's logger, below the ``anabranch`` logger."""
        return logging.getLogger(f"anabranch.flow.{self.name}")

    def _handlers(self) -> FlowHandlers:
        from anabranch.engine.driver.handlers import FlowHandlers

        return FlowHandlers(self, self.state_handlers, self.on_failure, self._results_of)

    def _results_of(self, done: FinishedRun) -> FlowResults:
        from anabranch.runs.view import FlowResults

        return FlowResults(done, self.graph)

    def _request(
        self,
        run_id: str | None,
        given: Mapping[str, Any],
        only: str | None,
        start: object,
        element: str | None,
        rerun_changed: bool,
    ) -> Request | None:
        """Which run to resume, and how; None for a new run."""
        from anabranch.runs.resume.takeover import Request

        again = self._slugs(start)
        choices = {
            "resume_only": only is not None,
            "resume_from": bool(again),
            "resume_element": element is not None,
            "rerun_changed": rerun_changed,
        }
        named = [name for name, is_chosen in choices.items() if is_chosen]
        if run_id is None:
            if named:
                raise OptionError(f"flow {self.name!r}: {named[0]}= goes with resume=RUN ({caller()})")
            return None
        if not isinstance(run_id, str) or not run_id:
            raise OptionError(f"resume: expected the id of a run, found {short(run_id)} ({caller()})")
        if only not in (None, "failed"):
            raise OptionError(f"resume_only: expected 'failed', found {short(only)} ({caller()})")
        if element is not None and (len(named) > 1 or not isinstance(element, str)):
            raise OptionError(
                f"resume_element: expected one element such as 'parse[7]' and no other choice ({caller()})"
            )
        return Request(
            run_id=run_id,
            only_failed=only == "failed",
            start=again,
            element=self._element(element) if element is not None else None,
            rerun_changed=rerun_changed,
            given=given,
        )

    def _element(self, name: str) -> tuple[str, int]:
        found = re.fullmatch(r"(.+)\[(\d+)\]", name)
        slugs = self._slugs(found[1]) if found is not None else frozenset[str]()
        if found is None or len(slugs) != 1 or not self.graph.entry(self.graph.by_slug(min(slugs))).is_map:
            raise OptionError(f"resume_element: expected an element of a map such as 'parse[7]', found {short(name)}")
        return min(slugs), int(found[2])

    def _given(self, parameters: object, by_name: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in by_name.keys() - self.parameters(by_name=True):
            refuse(f"flow.run({name}=)")
        if parameters is None:
            return by_name
        if not isinstance(parameters, Mapping):
            problem = f"parameters= takes a dict of values by name, found {short(parameters)}"
            raise ParameterError(f"the parameters do not fit flow {self.name!r}", [problem])
        twice = [f"{name}: given twice, in parameters= and by name" for name in parameters if name in by_name]
        if twice:
            raise ParameterError(f"the parameters do not fit flow {self.name!r}", twice)
        return {**parameters, **by_name}

    def _slugs(self, tasks: object) -> frozenset[str]:
        return frozenset(self.graph.entry(node).slug for each in each_of(tasks) for node in self._known(each))

    # Running by itself ------------------------------------------------------------------------------------------------

    @refusing("flow.register")
    def register(
        self,
        project: str = "",
        labels: Iterable[str] = (),
        *,
        storage: object = None,
        replace: bool = False,
        project_name: str | None = None,
    ) -> FlowRecord:
        """Put the flow into the registry, so that services run it on its schedule and on request.

        Parameters
        ----------
        project, labels
            For lists of flows.
        storage
            Where runs find the code: ``"source"``, its file; ``"database"``, a pickle in the registry; or a pickle in a
            `anabranch.storage.LocalStorage` or ``S3Storage``. Default: its file, if it loads back from there in another
            process, else the registry.
        replace
            Whether to replace a flow of the same name that is registered from another file or project.
        project_name
            Another name of `project`.

        Returns
        -------
        FlowRecord
            Has the version, which increases only if the flow's code or graph changes.

        Raises
        ------
        FlowValidationError, UnregistrableFlow, RegistryError
            Nothing was registered.
        """
        # By its name: the module loads flows.
        register_flows = resolve_name("anabranch.flows.registered:register_flows")
        if scope.current().graphs:
            raise DefinitionError(
                f"flow {self.name!r}: register() inside a `with Flow` block ({caller()}); call it after the block"
            )
        project = project or project_name or ""
        (record,) = register_flows([self], project=project, labels=labels or (), storage=storage, replaces=replace)
        return typing.cast("FlowRecord", record)

    def serve(
        self,
        *others: Flow,
        project: str = "",
        labels: Iterable[str] = (),
        storage: object = None,
        **options: Any,
    ) -> None:
        """Register the flow and be a service in this process until SIGTERM or Ctrl-C, for use in scripts.

        The service runs all registered flows on their schedules and on request, each run in a process of its own. These
        processes load the script again: call this below ``if __name__ == "__main__":``.

        Parameters
        ----------
        *others
            Further flows.
        project, labels, storage
            As for `register`.
        **options
            ``address, port, token, view_token, hosts, tls_cert, tls_key, max_runs, pages, drain_s``; default: the
            settings (``service`` in `anabranch.config`). Without a token, a random one is made and printed.

        Raises
        ------
        ServiceError
            A service cannot start like this.
        FlowValidationError, UnregistrableFlow, RegistryError
            A flow cannot be registered; nothing is served.
        """
        if scope.current().graphs:
            raise DefinitionError(
                f"flow {self.name!r}: serve() inside a `with Flow` block ({caller()}); call it after the block"
            )
        # By its name: the service loads flows, so that it is above them, and a flow must not know it.
        serve_flows = resolve_name("anabranch.service.starting:serve_flows")
        serve_flows((self, *others), project=project, labels=labels, storage=storage, options=options)

    def registrable(self, source: str) -> Registrable:
        """What the registry needs of this flow; `source` is where it can be loaded from."""
        from anabranch.base.origins import dumps_to_keep
        from anabranch.flows.news import pack_notifiers
        from anabranch.runs.registry.registration import Registrable

        self.validate()
        return Registrable(
            name=self.name,
            graph=self.graph.freeze(self.reference_tasks()),
            parameters=list(self.parameters(by_name=True).values()),
            schedule=self.schedule,
            max_runs=self.max_runs,
            timeout_s=self.timeout,
            source=source,
            pickled=lambda: dumps_to_keep(self),
            notifiers=pack_notifiers(self),
        )

    # Keeping ----------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the flow to a file with cloudpickle. Returns the path."""
        from anabranch.flows.saving import save

        self.validate()
        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Flow:
        """Read a flow from a file that `save` wrote. Loading runs code from the file: it must be trusted."""
        from anabranch.flows.saving import load

        return typing.cast(Flow, load(path, Flow))


class FlowRunner:
    """A run of a flow as an object: ``FlowRunner(flow).run(executor=…)``."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def run(self, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> FlowRunView:
        """As `Flow.run`."""
        return self.flow.run(parameters, **kwargs)


@overload
def flow(function: Callable[..., Any], /) -> Flow: ...
@overload
def flow(
    *,
    name: str | None = ...,
    schedule: Schedule | None = ...,
    max_runs: int | None = ...,
    timeout: float | timedelta | None = ...,
    executor: Executor | None = ...,
    state_handlers: Sequence[Handler] = ...,
    on_failure: Callable[[Any, Any], Any] | None = ...,
    result: Result | None = ...,
    result_handler: Result | None = ...,
) -> Callable[[Callable[..., Any]], Flow]: ...
def flow(function: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Make a `Flow` of a function: parameters from its signature (typed, validated), the graph from its body.

    Examples
    --------
    >>> from anabranch import task, flow
    >>> @task
    ... def double(x):
    ...     return 2 * x
    >>> @flow
    ... def doubling(x: int = 4):
    ...     double(x)
    >>> doubling.run(x=5).result["double"].result
    10
    """
    if function is None:
        return lambda decorated: _flow_of(decorated, name, options)
    return _flow_of(function, name, options)


def _flow_of(function: Callable[..., Any], name: str | None, options: Mapping[str, Any]) -> Flow:
    if not callable(function) or isinstance(function, (Flow, Task)) or inspect.iscoroutinefunction(function):
        raise DefinitionError(f"@flow needs a plain function that calls tasks, found {short(function)} ({caller()})")
    result = Flow(name or named(function).strip("<>"), **options)
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # names that only a type checker can see
        hints = {}
    with result:
        parameters = {}
        for each in signature_of(function).parameters.values():
            if each.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
                what = f"@flow {result.name!r}: a flow's parameters have names, found {each}"
                raise DefinitionError(f"{what} ({caller()})")
            options_of = {} if each.default is inspect.Parameter.empty else {"default": each.default}
            hint = hints.get(each.name)
            parameters[each.name] = Parameter(each.name, type=None if hint is Parameter else hint, **options_of)
        arguments, keywords = Signature(function, result.name).split(parameters)
        function(*arguments, **keywords)
    result.__doc__ = getattr(function, "__doc__", None)
    return result
