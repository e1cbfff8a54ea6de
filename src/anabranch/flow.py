"""Flows: the façade over graph, validation, pictures and the engine."""

from __future__ import annotations

import inspect
import secrets
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from anabranch import scope
from anabranch.errors import (
    DefinitionError,
    FlowLoadError,
    FlowValidationError,
    OptionError,
    UnknownNodeError,
)
from anabranch.frozen import Edge
from anabranch.graph import Graph
from anabranch.node import Node, call, resolve, resolve_all
from anabranch.policies import Handler
from anabranch.settings import config
from anabranch.signals import LOOP
from anabranch.task import Parameter, Task, check_name
from anabranch.where import caller

if TYPE_CHECKING:
    from anabranch.events import Observer
    from anabranch.executors.base import Executor
    from anabranch.runview import FlowRunView
    from anabranch.states import State


class Flow:
    """A named graph of nodes.

    Open it (``with Flow("name") as flow:``) and call tasks to add nodes. A flow opened inside another is a named group
    of it: its nodes are in both, and the outer flow runs them.

    Parameters
    ----------
    name
        1 to 200 characters.
    executor
        Where runs take place; default: `LocalExecutor`.
    state_handlers
        Functions ``(flow, old, new) -> new | None``, called when a run begins and ends.
    on_failure
        Function ``(flow, state)``, called when a run ends Failed.
    tasks, edges
        What is in it from the start.
    reference_tasks
        Nodes that decide the state of runs; default: the terminal ones.
    """

    def __init__(
        self,
        name: str,
        *,
        executor: Executor | None = None,
        state_handlers: Sequence[Handler] = (),
        on_failure: Callable[[Any, Any], Any] | None = None,
        tasks: Iterable[object] = (),
        edges: Iterable[Edge] = (),
        reference_tasks: Iterable[object] = (),
    ) -> None:
        self.name = check_name(name, "flow name")
        self.graph = Graph(self.name)
        self.executor = executor
        if isinstance(state_handlers, (str, bytes)) or not isinstance(state_handlers, Collection):
            raise OptionError(f"flow {name!r}: state_handlers takes a list of functions, found {state_handlers!r}")
        self.state_handlers = tuple(state_handlers)
        self.on_failure = on_failure
        self.where = caller()
        self._reference: tuple[Node, ...] = ()
        self._opened: list[AbstractContextManager[Any]] = []
        for each in tasks:
            self.add_task(each)
        for edge in edges:
            self.add_edge(edge.upstream, edge.downstream, key=edge.key, mapped=edge.mapped)
        if reference_tasks:
            self.set_reference_tasks(reference_tasks)

    def __repr__(self) -> str:
        return f"<Flow {self.name!r}: {len(self.graph)} nodes>"

    # Building ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        around = scope.current()
        graphs = (*around.graphs, self.graph) if self.graph not in around.graphs else around.graphs
        opened = scope.opened(graphs=graphs) if around.graphs else scope.opened(graphs=graphs, gates=(), elements=())
        opened.__enter__()
        self._opened.append(opened)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        ended = isinstance(error, LOOP) and self._holds(error.result)
        try:
            if (kind is None or ended) and not scope.current().graphs[:-1]:
                self.graph.settle()
        finally:
            self._opened.pop().__exit__(kind, error, trace)
        # A plain function that raised LOOP with the nodes it made: they are in the flow already.
        return ended

    def _holds(self, value: object) -> bool:
        nodes = value if isinstance(value, (list, tuple)) else [value]
        return bool(nodes) and all(isinstance(node, Node) and node in self.graph for node in nodes)

    def _inside(self) -> AbstractContextManager[Any]:
        around = scope.current()
        if around.graphs[:1] == (self.graph,):
            return scope.opened()
        return scope.opened(graphs=(self.graph,), gates=(), elements=(), members=None)

    def add_task(self, task: object) -> Node:
        """Add a node, a parameter, or a call of a task that may still lack arguments. Returns the node."""
        if isinstance(task, Parameter):
            if task not in self.graph:
                task._join((self.graph,))
            return task
        if isinstance(task, Node):
            if task not in self.graph:
                raise UnknownNodeError(f"node {task.name!r} belongs to another flow ({caller()}); use flow.update(other)")
            return task
        if isinstance(task, Task):
            calls = self.graph.calls_of(task)
            if calls:
                return typing.cast(Node, calls[0])
            with self._inside():
                return call(task._node({}), {n: v for n, v in task.fixed.items()}, graphs=(self.graph,), slug=task.slug)
        raise DefinitionError(f"add_task: expected a node or a task, found {task!r} ({caller()})")

    def add_edge(self, upstream: object, downstream: object, *, key: str | None = None, mapped: bool = False) -> Edge:
        """Add an edge; with `key`, the upstream value is passed as that argument."""
        first, second = self._node(upstream), self._node(downstream)
        second.set_upstream(first, key=key, mapped=mapped)
        return Edge(first, second, "data" if key else "order", key, mapped)

    def set_dependencies(
        self,
        task: object,
        *,
        upstream_tasks: Iterable[object] | None = None,
        downstream_tasks: Iterable[object] | None = None,
        keyword_tasks: Mapping[str, object] | None = None,
        mapped: bool = False,
    ) -> Node:
        """Add edges around a node or task; plain values in `keyword_tasks` are bound as constants."""
        node = self._node(task)
        with self._inside():
            for upstream in upstream_tasks or ():
                self._node(upstream)
            for downstream in downstream_tasks or ():
                self._node(downstream)
            return node.set_dependencies(
                upstream_tasks=upstream_tasks, downstream_tasks=downstream_tasks, keyword_tasks=keyword_tasks, mapped=mapped
            )

    def _node(self, value: object) -> Node:
        if isinstance(value, Task) and not self.graph.calls_of(value):
            return self.add_task(value)
        if isinstance(value, Node) and value not in self.graph:
            return self.add_task(value)
        return resolve(value, self.graph, value if isinstance(value, Node) else Node("flow", _nothing))

    def chain(self, *stages: object) -> None:
        """Run the stages one after the other; a list (of nodes, tasks or lists) is a parallel stage."""
        with self._inside():
            groups = [self._stage(stage) for stage in stages]
            for before, after in zip(groups, groups[1:], strict=False):
                for node in after:
                    node.set_dependencies(upstream_tasks=before)

    def _stage(self, stage: object) -> list[Node]:
        if isinstance(stage, (list, tuple, set)):
            return [node for each in stage for node in self._stage(each)]
        if isinstance(stage, Node):
            return [self.add_task(stage)]
        return resolve_all(stage, self.graph)

    def update(self, other: Flow, *, merge_parameters: bool = False) -> None:
        """Add everything of another flow. Parameters of one name clash unless they are to be merged."""
        mine = self.parameters(by_name=True)
        theirs = other.parameters(by_name=True)
        clash = [name for name in theirs if name in mine and theirs[name] is not mine[name]]
        if clash and not merge_parameters:
            raise DefinitionError(
                f"flow {self.name!r} and flow {other.name!r} both have the parameters {', '.join(map(repr, clash))}; "
                "pass merge_parameters=True to make each pair one"
            )
        other.graph.settle()
        self.graph.include(other.graph)
        for name in clash:
            self.graph.substitute(theirs[name], mine[name])

    def copy(self, name: str | None = None) -> Flow:
        """A flow of the same nodes; adding to one does not change the other."""
        self.graph.settle()
        twin = Flow(name or self.name, executor=self.executor, state_handlers=self.state_handlers, on_failure=self.on_failure)
        twin.graph = self.graph.copy(twin.name)
        twin._reference = self._reference
        return twin

    # Asking -----------------------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> list[Node]:
        """All nodes, in the order they were written."""
        self._settle()
        return [typing.cast(Node, node) for node in self.graph]

    @property
    def edges(self) -> list[Edge]:
        """All edges."""
        self._settle()
        return list(self.graph.edges())

    def _settle(self) -> None:
        if self.graph not in scope.current().graphs:
            self.graph.settle()

    def __iter__(self) -> typing.Iterator[Node]:
        return iter(self.sorted_tasks())

    def __contains__(self, task: object) -> bool:
        return task in self.graph or bool(isinstance(task, Task) and self.graph.calls_of(task))

    def __len__(self) -> int:
        return len(self.graph)

    def __bool__(self) -> bool:
        return True

    def sorted_tasks(self) -> list[Node]:
        """Nodes in topological order."""
        self._settle()
        return [typing.cast(Node, node) for node in self.graph.sorted_nodes()]

    def root_tasks(self) -> list[Node]:
        """Nodes with nothing upstream."""
        return [node for node in self.tasks if not self.graph.edges_into(node)]

    def terminal_tasks(self) -> list[Node]:
        """Nodes with nothing downstream."""
        upstream = {edge.upstream for edge in self.edges}
        return [node for node in self.tasks if node not in upstream]

    def reference_tasks(self) -> list[Node]:
        """Nodes that decide the state of a run."""
        return list(self._reference) or self.terminal_tasks()

    def set_reference_tasks(self, tasks: Iterable[object]) -> None:
        """Choose the nodes that decide the state of a run; an empty list restores the terminal ones."""
        self._settle()
        self._reference = tuple(node for task in tasks for node in self._known(task))

    def _known(self, task: object) -> list[Node]:
        nodes = self.graph.calls_of(task) if isinstance(task, Task) else [task]
        if not nodes:
            raise UnknownNodeError(f"task {task!r} is not called in flow {self.name!r} ({caller()})")
        for node in nodes:
            self.graph.entry(node)  # type: ignore[arg-type]  # raises for what is no node of this flow
        return typing.cast("list[Node]", nodes)

    def upstream_tasks(self, task: object) -> list[Node]:
        """Nodes directly upstream."""
        (node,) = self._known(task)
        return list(dict.fromkeys(edge.upstream for edge in self.graph.edges_into(node)))

    def downstream_tasks(self, task: object) -> list[Node]:
        """Nodes directly downstream."""
        (node,) = self._known(task)
        return list(dict.fromkeys(edge.downstream for edge in self.edges if edge.upstream is node))

    def edges_to(self, task: object) -> list[Edge]:
        """Edges into a node."""
        (node,) = self._known(task)
        return list(self.graph.edges_into(node))

    def edges_from(self, task: object) -> list[Edge]:
        """Edges out of a node."""
        (node,) = self._known(task)
        return [edge for edge in self.edges if edge.upstream is node]

    def get_tasks(
        self, name: str | None = None, *, slug: str | None = None, tags: Iterable[str] = (), task: Task[..., Any] | None = None
    ) -> list[Node]:
        """Nodes that have all of what is given: name, slug, tags (at least these), task."""
        wanted = frozenset(tags)
        return [
            node
            for node in self.tasks
            if (name is None or node.name == name)
            and (slug is None or node.slug == slug)
            and wanted <= node.policies.tags
            and (task is None or node.template is task)
        ]

    def parameters(self, *, by_name: bool = False) -> Any:
        """The flow's parameters: a set, or a dict by name."""
        found = {node.name: node for node in self.tasks if isinstance(node, Parameter)}
        return found if by_name else set(found.values())

    def validate(self) -> None:
        """Check that the flow is well formed.

        Raises
        ------
        FlowValidationError
            It is not; ``problems`` lists everything, with the lines where it was written.
        """
        from anabranch.validation import problems_of

        problems: list[str] = []
        try:
            self.graph.settle()
        except DefinitionError as error:
            problems.append(str(error))
        problems += problems_of(self.graph, self._reference)
        if problems:
            word = "problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise FlowValidationError(f"flow {self.name!r} ({self.where}) has {'a ' if len(problems) == 1 else ''}{word}:", problems)

    def visualize(
        self,
        state: FlowRunView | None = None,
        *,
        format: Literal["dot", "mermaid", "svg", "png"] = "dot",
        filename: str | Path | None = None,
    ) -> str:
        """The flow as a picture, coloured by the states of a run if one is given. Text, or the path of the file."""
        from anabranch.drawing import draw

        self._settle()
        states = {slug: run.state for slug, run in state._whole.runs.items()} if state is not None else None
        return draw(self.graph, format=format, states=states, filename=filename)

    # Running ----------------------------------------------------------------------------------------------------------

    def run(
        self,
        parameters: Mapping[str, Any] | None = None,
        *,
        executor: Executor | None = None,
        raise_on_failure: bool = False,
        keep: Iterable[object] | Literal["all"] = (),
        approve: Iterable[object] = (),
        observers: Sequence[Observer] = (),
        run_id: str | None = None,
        **kwargs: Any,
    ) -> FlowRunView:
        """Run the flow to its end.

        Parameters
        ----------
        parameters, **kwargs
            Values of the flow's parameters.
        executor
            Where to run; default: the flow's, else in this thread.
        raise_on_failure
            Raise the user's own exception if the run fails.
        keep
            Nodes whose values are wanted afterwards although they are large and not terminal; or ``"all"``.
        approve
            Nodes with trigger ``manual_only``, or that pause, that may run.
        observers
            Functions of an `Event`, told what happens; one that fails never changes the run.
        run_id
            Id of the run; made up by default.

        Returns
        -------
        FlowRunView
            The finished state, or Paused; ``state.result[node]`` is a node's state.

        Raises
        ------
        FlowValidationError, ParameterError
            Nothing was run.
        ExecutorError
            The executor cannot run anything.
        """
        from anabranch.engine.driver import RunPlan, run_flow
        from anabranch.parameters import resolve_parameters
        from anabranch.runview import FlowRunView

        if scope.current().graphs:
            raise DefinitionError(f"flow {self.name!r}: run() inside a `with Flow` block ({caller()}); run it after the block")
        self.validate()
        clash = sorted(set(parameters or {}) & set(kwargs))
        if clash:
            raise DefinitionError(f"flow {self.name!r}: parameter {clash[0]!r} is given twice, in parameters= and by name")
        values = resolve_parameters(self.name, self.parameters(), {**(parameters or {}), **kwargs})
        graph = self.graph.freeze(self._reference)
        named = {node.slug: node.name for node in graph.nodes.values() if node.kind == "parameter"}
        plan = RunPlan(
            graph=graph,
            name=self.name,
            run_id=run_id or secrets.token_hex(6),
            parameters={slug: values[name] for slug, name in named.items()},
            settings=config.snapshot()["engine"],
            keep=frozenset(graph.nodes) if isinstance(keep, str) and keep == "all" else self._slugs(keep),
            approved=self._slugs(approve),
        )
        place = executor or self.executor or _default_executor()
        self._call_handlers("Pending", "Running")
        view = FlowRunView(run_flow(plan, place, observers), self.graph)
        view = self._call_final_handlers(view)
        if raise_on_failure:
            view.raise_failure()
        return view

    def _slugs(self, tasks: object) -> frozenset[str]:
        given = tasks if isinstance(tasks, (list, tuple, set, frozenset)) else [tasks]
        slugs: list[str] = []
        for task in given:
            if isinstance(task, str):
                slugs += [node.slug for node in self.tasks if task in (node.slug, node.name)]
            else:
                slugs += [self.graph.entry(node).slug for node in self._known(task)]
        return frozenset(slugs)

    def _call_handlers(self, old: str, new: str) -> None:
        from anabranch import states

        for handler in self.state_handlers:
            handler(self, getattr(states, old)(), getattr(states, new)())

    def _call_final_handlers(self, view: FlowRunView) -> FlowRunView:
        """Let handlers see, and perhaps replace, the final state; one that raises fails the run."""
        from dataclasses import replace

        from anabranch.engine.task_runner import failed_state
        from anabranch.runview import FlowRunView
        from anabranch.states import Running, State

        state: State = view.state
        for handler in self.state_handlers:
            try:
                answer = handler(self, Running(), state)
            except Exception as error:
                answer = failed_state(error)
            state = answer if isinstance(answer, State) else state
        if self.on_failure is not None and state.is_failed():
            self.on_failure(self, state)
        return view if state is view.state else FlowRunView(replace(view._whole, state=state), self.graph)

    # Keeping ----------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the flow to a file with cloudpickle. Returns the path."""
        import cloudpickle

        self.validate()
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        temporary.write_bytes(cloudpickle.dumps(self))
        temporary.replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Flow:
        """Read a flow from a file that `save` wrote. Loading runs what the file says: trust it first."""
        import pickle

        try:
            flow = pickle.loads(Path(path).read_bytes())
        except OSError:
            raise
        except Exception as error:
            raise FlowLoadError(f"{path} does not hold a flow that loads here: {type(error).__name__}: {error}") from error
        if not isinstance(flow, Flow):
            raise FlowLoadError(f"{path} holds a {type(flow).__name__}, not a flow")
        return flow

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return {**self.__dict__, "_opened": []}


def _nothing() -> None:
    """Stands for a function that is never called."""


def _default_executor() -> Executor:
    from anabranch.executors.local import LocalExecutor

    return LocalExecutor()


class FlowRunner:
    """A run of a flow as an object: ``FlowRunner(flow).run(executor=…)``."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def run(self, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> FlowRunView:
        """As `Flow.run`."""
        return self.flow.run(parameters, **kwargs)


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
        return lambda decorated: flow(decorated, name=name, **options)
    result = Flow(name or getattr(function, "__name__", "flow"), **options)
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # names that only a type checker can see
        hints = {}
    with result:
        parameters = {}
        for each in inspect.signature(function).parameters.values():
            if each.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
                raise DefinitionError(f"@flow {result.name!r}: a flow's parameters have names, found {each} ({caller()})")
            options_of = {} if each.default is inspect.Parameter.empty else {"default": each.default}
            annotation = hints.get(each.name)
            parameters[each.name] = Parameter(each.name, type=None if annotation is Parameter else annotation, **options_of)
        function(**parameters)
    result.__doc__ = getattr(function, "__doc__", None)
    return result
