"""Tasks: definitions of what nodes run; parameters; declared dependencies."""

from __future__ import annotations

import copy
import functools
import inspect
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

from anabranch import context, scope
from anabranch.bindings import Expression, Output, Ref, express, refs
from anabranch.errors import (
    AmbiguousTaskError,
    CallError,
    DefinitionError,
    MappingError,
    OptionError,
    OutsideFlowError,
    WidthError,
    listed,
    nearest,
)
from anabranch.frozen import Edge
from anabranch.graph import Graph
from anabranch.node import Node, as_expression, call, open_graphs, resolve_all, short
from anabranch.policies import Delay, Handler, Policies, RetryOn, Seconds, retry_from
from anabranch.signature import RESERVED, Signature, named
from anabranch.triggers import Trigger, all_finished
from anabranch.where import caller

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
F = TypeVar("F")

MAX_NAME = 200  # characters: longer names are data that went astray
_RETRY_NAMES = ("max_retries", "retry_delay", "retry_backoff", "retry_jitter", "retry_max_delay", "retry_on", "retry_kwargs")
_POLICY_NAMES = tuple(f.name for f in fields(Policies) if f.name not in ("retry", "timeout_s"))


def check_name(name: object, what: str) -> str:
    """A name that can be shown and stored: 1 to 200 characters, none of them control characters or surrogates."""
    if not isinstance(name, str):
        raise OptionError(f"{what}: expected a name as a string, found {name!r} ({caller()})")
    if not name.strip() or len(name) > MAX_NAME:
        raise OptionError(f"{what}: expected a name of 1 to {MAX_NAME} characters, found {len(name)} ({caller()})")
    bad = [c for c in name if not c.isprintable() or c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"]
    if bad:
        raise OptionError(f"{what}: {name[:60]!a} has a character that cannot be shown: {bad[0]!a} ({caller()})")
    return name


def policies_from(options: Mapping[str, Any], base: Policies | None = None) -> Policies:
    """The policies that a task's options describe; options that are None are left as they are in `base`."""
    base = base or Policies()
    known = (*_RETRY_NAMES, *_POLICY_NAMES, "timeout")
    unknown = [name for name in options if name not in known]
    if unknown:
        raise OptionError(f"unknown task option {listed(unknown)}; there are: {', '.join(known)}{nearest(unknown[0], known)}")
    changes = {name: options[name] for name in _POLICY_NAMES if options.get(name) is not None}
    if options.get("timeout") is not None:
        changes["timeout_s"] = options["timeout"]
    retry_options = {name: options[name] for name in _RETRY_NAMES if options.get(name) is not None}
    if retry_options:
        changes["retry"] = retry_from(retry_options)
    return replace(base, **changes)


class Task(Generic[P, R]):
    """A definition: a function with policies. Calling it in an open flow adds a node.

    Make one with `task`, or subclass it and define ``run``. Arguments of the constructor are the options of `task`.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        slug: str | None = None,
        depends_on: object = (),
        parameters: Mapping[str, object] | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        self.name = check_name(name if name is not None else type(self).__name__, "task name")
        self.slug = check_name(slug, "task slug") if slug is not None else None
        self.where = caller()
        try:
            self.policies = policies_from(options)
        except OptionError as error:
            raise OptionError(f"task {self.name!r} ({self.where}): {error}") from None
        self.signature: Signature = Signature(self._function(), self.name)
        self.signature.check_reserved()
        if self.policies.nout is None:
            self.policies = replace(self.policies, nout=_annotated_nout(self._function()))
        self.fixed: dict[str, object] = self._fixed_from(parameters)
        self.dependencies: tuple[Dependency, ...] = tuple(Dependency.of(each) for each in _as_list(depends_on))
        self._check_function()

    def _function(self) -> Callable[..., Any]:
        return self.run

    def _check_function(self) -> None:
        function = self._function()
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise DefinitionError(
                f"task {self.name!r} ({self.where}) is an async function; tasks are plain functions, "
                "so call asyncio.run(…) inside one"
            )

    def _fixed_from(self, parameters: Mapping[str, object] | Sequence[str] | None) -> dict[str, object]:
        if parameters is None:
            return {}
        if isinstance(parameters, str):
            raise OptionError(f"task {self.name!r}: parameters takes a dict of arguments or a list of names, found a string")
        if isinstance(parameters, Mapping):
            return self.signature.bind((), dict(parameters))
        return {name: _FlowParameter(name) for name in parameters}

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The plain function."""
        raise NotImplementedError(f"{type(self).__name__} needs a method run(self, …)")

    # Calls ------------------------------------------------------------------------------------------------------------

    # A call is typed as the value it will have, so that wiring is checked; the reserved keywords have overloads of
    # their own because a ParamSpec cannot be extended by keywords.
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, *args: Any, upstream_tasks: Iterable[object], **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *args: Any, task_args: Mapping[str, Any], **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *args: Any, mapped: Literal[True], **kwargs: Any) -> list[R]: ...  # type: ignore[overload-cannot-match]  # a ParamSpec never takes `mapped`
    @overload
    def __call__(self, *args: Any, flow: Any, **kwargs: Any) -> R: ...
    def __call__(
        self,
        *args: Any,
        upstream_tasks: Iterable[object] | None = None,
        task_args: Mapping[str, Any] | None = None,
        mapped: bool = False,
        flow: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Add a node to the open flow (or to `flow`) and return it.

        Raises
        ------
        CallError
            The arguments do not fit the signature.
        OutsideFlowError
            No flow is open.
        """
        return self._call(
            args, kwargs, upstream_tasks=upstream_tasks, task_args=task_args, mapped=mapped, graphs=_graphs(self, flow)
        )

    def map(
        self,
        *args: Any,
        upstream_tasks: Iterable[object] | None = None,
        task_args: Mapping[str, Any] | None = None,
        flow: Any = None,
        **kwargs: Any,
    ) -> list[R]:
        """Add a node that runs once per element of the arguments; wrap in `unmapped` what every element gets whole."""
        node: Any = self._call(
            args, kwargs, upstream_tasks=upstream_tasks, task_args=task_args, mapped=True, graphs=_graphs(self, flow)
        )
        result: list[R] = node
        return result

    def bind(self, *args: Any, upstream_tasks: Iterable[object] | None = None, **kwargs: Any) -> Any:
        """A task with these arguments fixed; in an open flow, with nodes among the arguments, a call."""
        bound = self._bind_arguments(args, kwargs)
        graphs = scope.current().graphs
        if graphs and (upstream_tasks or any(_holds_node(value, graphs[0]) for value in bound.values())):
            return self._call(args, kwargs, upstream_tasks=upstream_tasks, graphs=graphs)
        twin = copy.copy(self)
        twin.fixed = {**self.fixed, **bound}
        function = self._function()
        positional, keywords = self.signature.split(twin.fixed)
        if not any(isinstance(value, _FlowParameter) for value in twin.fixed.values()):
            if positional and not self.signature.parameters:
                twin.run = functools.partial(function, *positional, **keywords)  # type: ignore[method-assign]
            else:
                by_name = {name: value for name, value in twin.fixed.items() if not name.startswith("*")}
                twin.run = functools.partial(function, **by_name)  # type: ignore[method-assign]
        return twin

    def _bind_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self.signature.bind(args, kwargs)
        except CallError as error:
            raise CallError(f"{error} (call at {caller()}; task of {self.where})") from None

    def _call(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        graphs: tuple[Graph, ...],
        upstream_tasks: Iterable[object] | None = None,
        task_args: Mapping[str, Any] | None = None,
        mapped: bool = False,
    ) -> Node:
        if isinstance(upstream_tasks, (str, bytes)) or not isinstance(upstream_tasks or (), Iterable):
            raise CallError(f"{self.name}(): upstream_tasks takes a list of nodes or tasks, found {upstream_tasks!r}")
        bound = self._bind_arguments(args, kwargs)
        fixed = {
            name: value.parameter_in(graphs[0]) if isinstance(value, _FlowParameter) else unmapped(value)
            for name, value in self.fixed.items()
            if name not in bound
        }
        wanting = [d for d in self.dependencies if d.key is not None]
        missing = self.signature.missing({**bound, **fixed})
        if missing and len(missing) > len(wanting):
            raise CallError(
                f"{self.name}() is missing {listed(missing)} (call at {caller()}; task of {self.where}): "
                "pass a value or another task's node"
            )
        node = self._node(task_args or {})
        plain, mapped_names = _split_mapped({**fixed, **bound}, mapped, self.name, graphs)
        call(node, plain, graphs=graphs, mapped=mapped_names, slug=self._slug(task_args or {}))
        for upstream in upstream_tasks or ():
            for each in _order_upstreams(upstream, graphs[0]):
                node._link(Edge(each, node, "order"))
        for dependency in self.dependencies:
            dependency.declare(node, graphs[0])
        return node

    def _slug(self, task_args: Mapping[str, Any]) -> str | None:
        return task_args.get("slug", self.slug)

    def _node(self, task_args: Mapping[str, Any]) -> Node:
        options = {name: value for name, value in task_args.items() if name not in ("name", "slug")}
        try:
            policies = policies_from(options, self.policies)
        except OptionError as error:
            raise OptionError(f"{self.name}(task_args=…): {error} ({caller()})") from None
        name = check_name(task_args.get("name", self.name), "task name")
        signature = Signature(self._function(), name)
        return Node(name, self._function(), policies=policies, signature=signature, template=self)

    # A task where a node is expected ----------------------------------------------------------------------------------

    def nodes_in(self, graph: Graph) -> list[Node]:
        """The nodes this task stands for in a flow: its calls there; called now, without arguments, if there are none."""
        nodes = graph.calls_of(self)
        if nodes:
            return typing.cast("list[Node]", nodes)
        missing = self.signature.missing(self.fixed)
        if missing:
            raise DefinitionError(
                f"task {self.name!r} is named as a dependency but not called in flow {graph.name!r}, and cannot be called "
                f"without its arguments {listed(missing)} ({caller()}): call it in the flow first"
            )
        return [self._call((), {}, graphs=_graphs_with(graph))]

    def as_expression(self, graph: Graph) -> Expression:
        """This task's one node in a flow, as an argument."""
        nodes = self.nodes_in(graph)
        if len(nodes) > 1:
            slugs = [graph.entry(node).slug for node in nodes]
            raise AmbiguousTaskError(
                f"task {self.name!r} stands for {len(nodes)} nodes in flow {graph.name!r}: {listed(slugs)}; "
                f"pass the node that its call returned ({caller()})"
            )
        return Ref(nodes[0])

    def _own(self, flow: Any) -> tuple[list[Node], Graph]:
        graphs = _graphs(self, flow)
        return self.nodes_in(graphs[0]), graphs[0]

    def set_upstream(self, task: object, *, key: str | None = None, mapped: bool = False, flow: Any = None) -> Task[P, R]:
        """As `Node.set_upstream`, for each call of this task in the flow. Returns this task."""
        for node in self._own(flow)[0]:
            node.set_upstream(task, key=key, mapped=mapped)
        return self

    def set_downstream(self, task: object, *, key: str | None = None, mapped: bool = False, flow: Any = None) -> Task[P, R]:
        """As `Node.set_downstream`, for each call of this task in the flow. Returns this task."""
        for node in self._own(flow)[0]:
            node.set_downstream(task, key=key, mapped=mapped)
        return self

    def set_dependencies(
        self,
        flow: Any = None,
        *,
        upstream_tasks: Iterable[object] | None = None,
        downstream_tasks: Iterable[object] | None = None,
        keyword_tasks: Mapping[str, object] | None = None,
        mapped: bool = False,
    ) -> Task[P, R]:
        """As `Node.set_dependencies`, for each call of this task in the flow. Returns this task."""
        for node in self._own(flow)[0]:
            node.set_dependencies(
                upstream_tasks=upstream_tasks, downstream_tasks=downstream_tasks, keyword_tasks=keyword_tasks, mapped=mapped
            )
        return self

    def depends_on(self, *dependencies: object) -> Task[P, R]:
        """Declare that every call of this task, in any flow, runs after these. Returns this task.

        Calls that are in the open flow already get the dependency too.
        """
        declared = tuple(Dependency.of(each) for each in dependencies)
        self.dependencies = (*self.dependencies, *declared)
        for graph in scope.current().graphs[:1]:
            for node in graph.calls_of(self):
                for dependency in declared:
                    dependency.declare(typing.cast(Node, node), graph)
        return self

    def call_after(self, node: Node) -> Node:
        """Call without arguments, after `node`: what ``node | task`` does."""
        called: Node = self._call((), {}, graphs=_graphs(self, None), upstream_tasks=[node])
        return called

    def __or__(self, other: Any) -> Any:
        """``a | b``: run b after a, and stand for b."""
        (first,) = self._own(None)[0][:1]
        return first | other

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Task {self.name!r}>"


class FunctionTask(Task[P, R]):
    """A task made from a function; made by `task`."""

    def __init__(self, function: Callable[P, R], *, name: str | None = None, **options: Any) -> None:
        if isinstance(function, Task):
            raise DefinitionError(f"{function.name!r} is a task already: @task was applied twice ({caller()})")
        if not callable(function):
            raise DefinitionError(f"@task needs a function, found {function!r} ({caller()})")
        self.function = function
        super().__init__(name=name if name is not None else _safe_name(function), **options)
        self.run = function  # type: ignore[method-assign]  # `t.run` is the plain function, not a method
        for attribute in ("__doc__", "__module__", "__qualname__"):
            if hasattr(function, attribute):
                setattr(self, attribute, getattr(function, attribute))
        self.__wrapped__ = function

    def _function(self) -> Callable[..., Any]:
        return self.function

    def bind(self, *args: Any, upstream_tasks: Iterable[object] | None = None, **kwargs: Any) -> Any:
        return super().bind(*args, upstream_tasks=upstream_tasks, **kwargs)


def _safe_name(function: Callable[..., Any]) -> str:
    name = named(function)
    return "lambda" if name == "<lambda>" else name


@overload
def task(function: Callable[P, R], /) -> FunctionTask[P, R]: ...
@overload
def task(
    *,
    name: str | None = ...,
    slug: str | None = ...,
    tags: Collection[str] | None = ...,
    max_retries: int | None = ...,
    retry_delay: Delay | None = ...,
    retry_backoff: float | None = ...,
    retry_jitter: float | None = ...,
    retry_max_delay: Seconds | None = ...,
    retry_on: RetryOn | list[type[BaseException]] | None = ...,
    retry_kwargs: Mapping[str, Any] | None = ...,
    timeout: Seconds | None = ...,
    isolation: Literal["thread"] | None = ...,
    trigger: Trigger | None = ...,
    skip_on_upstream_skip: bool | None = ...,
    nout: int | None = ...,
    log_stdout: bool | None = ...,
    state_handlers: Sequence[Handler] | None = ...,
    on_failure: Callable[[Any, Any], Any] | None = ...,
    depends_on: object = ...,
    parameters: Mapping[str, object] | Sequence[str] | None = ...,
    chunksize: int | Literal["auto"] | None = ...,
    resources: Mapping[str, float] | None = ...,
    priority: int | None = ...,
) -> Callable[[Callable[P, R]], FunctionTask[P, R]]: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a task of a function.

    Parameters
    ----------
    function
        The function; its signature and types are kept.
    name, slug, tags
        How the task's runs are called, and words to find them by. Default name: the function's.
    max_retries, retry_delay, retry_backoff, retry_jitter, retry_max_delay, retry_on, retry_kwargs
        See `anabranch.policies.Retry`; `retry_kwargs` is a dict of the others. Delays are seconds or timedeltas.
    timeout
        Seconds or timedelta after which an attempt ends as `TimedOut`.
    trigger, skip_on_upstream_skip
        When to run, seen from upstream states; see `anabranch.triggers`.
    nout
        Number of outputs, to unpack a call; read from a ``tuple[…]`` annotation if that has a fixed length.
    log_stdout
        Whether prints become log records.
    state_handlers, on_failure
        Functions ``(task, old, new) -> new | None`` and ``(task, state)``, called where the task runs.
    depends_on
        Tasks, or `Dependency` objects, that every call runs after.
    parameters
        Arguments fixed in advance (dict), or names of arguments that become parameters of the flow (list).
    chunksize
        Elements of a map in one Dask task, or "auto".
    resources, priority
        Dask worker resources, and priority (larger first).

    Raises
    ------
    OptionError
        An option is unknown or cannot have that value.

    Examples
    --------
    >>> @task(max_retries=3, retry_delay=2.0)
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> double.run(4)
    8
    """
    if function is None:
        return lambda decorated: FunctionTask(decorated, **options)
    return FunctionTask(function, **options)


def _annotated_nout(function: Callable[..., Any]) -> int | None:
    """Number of outputs that a ``tuple[int, str]`` return annotation gives, or None."""
    annotation = getattr(function, "__annotations__", {}).get("return")
    if annotation is None:
        return None
    try:
        annotation = typing.get_type_hints(function)["return"]
    except Exception:  # annotations may name anything, importable here or not; they are only a hint
        return None
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and arguments and Ellipsis not in arguments:
        return len(arguments)
    return None


def _as_list(value: object) -> list[object]:
    if isinstance(value, (list, tuple, set)):
        return list(value)
    return [value]


def _graphs(what: Task[..., Any], flow: Any) -> tuple[Graph, ...]:
    if flow is not None:
        return _graphs_with(flow.graph)
    if not scope.current().graphs and context.is_running():
        raise OutsideFlowError(
            f"task {what.name!r} was called inside a running task ({caller()}); calls made while a flow runs are not "
            f"there yet: use {what.name}.run(…) to call the function itself"
        )
    return open_graphs(f"{what.name}()")


def _graphs_with(graph: Graph) -> tuple[Graph, ...]:
    graphs = scope.current().graphs
    return graphs if graph in graphs[:1] else (graph,)


def _holds_node(value: object, graph: Graph) -> bool:
    expression = express(value, lambda each: as_expression(each, graph) if isinstance(each, (Node, Task)) else None)
    return any(True for _ in refs(expression))


def _order_upstreams(value: object, graph: Graph) -> list[Node]:
    if isinstance(value, unmapped):
        value = value.value
    if isinstance(value, (list, tuple)):
        return [node for each in value for node in _order_upstreams(each, graph)]
    return resolve_all(value, graph)


# Mapped arguments -----------------------------------------------------------------------------------------------------


class unmapped:
    """Marks an argument of a map that every element gets whole.

    Examples
    --------
    >>> unmapped([1, 2])
    unmapped([1, 2])
    """

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"unmapped({short(self.value)})"


class mapped:
    """Marks an argument of a call that is mapped over."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class flatten:
    """Marks an argument whose nesting is taken away by one level: elements of its elements.

    An element that failed, was skipped or is not a list counts as one element; the first two keep their state.
    """

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def as_expression(self, graph: Graph) -> Expression:
        """A node that makes the flat list."""
        return Ref(collected(self.value, graph, kind="flatten"))


def collected(value: object, graph: Graph, *, kind: str) -> Node:
    """A node whose value is a list of the parts of `value`, failed and skipped ones with their states."""
    node = Node(f"{kind}({short(value)})" if not isinstance(value, Node) else f"{kind}({value.name})", list, kind=kind,
                policies=Policies(trigger=all_finished, skip_on_upstream_skip=False))  # fmt: skip
    parts = list(value) if kind == "collect" and isinstance(value, (list, tuple)) else value
    with scope.opened(elements=(), members=None):
        return call(node, {"parts": parts}, graphs=_graphs_with(graph))


def _split_mapped(
    arguments: Mapping[str, object], is_mapped: bool, name: str, graphs: tuple[Graph, ...]
) -> tuple[dict[str, object], frozenset[str]]:
    """Arguments without their marks, and the names of those that are mapped over."""
    values: dict[str, object] = {}
    names = set()
    for argument, value in arguments.items():
        if isinstance(value, unmapped):
            values[argument] = value.value
        elif isinstance(value, mapped):
            values[argument], _ = mappable(value.value, name, argument, graphs[0]), names.add(argument)
        elif is_mapped:
            values[argument], _ = mappable(value, name, argument, graphs[0]), names.add(argument)
        else:
            values[argument] = value
    if is_mapped and not names:
        raise MappingError(
            f"{name}.map() has no argument to map over, all are unmapped ({caller()}); call {name}() for a single run"
        )
    widths = {n: len(v) for n, v in values.items() if n in names and isinstance(v, (list, tuple, range))}
    if len(set(widths.values())) > 1:
        shown = ", ".join(f"{n} has {w}" for n, w in widths.items())
        raise WidthError(f"{name}.map(): mapped arguments have different widths: {shown} ({caller()})")
    return values, frozenset(names)


def mappable(value: object, name: str, argument: str, graph: Graph) -> object:
    """What can be mapped over in place of `value`: a node, a sequence, or a copy of the list at this moment."""
    if isinstance(value, (Node, Task, flatten)) or hasattr(type(value), "as_expression"):
        return value
    reason = unmappable(value)
    if reason:
        raise MappingError(f"{name}.map(): cannot map {argument!r} over {reason} ({caller()})")
    if isinstance(value, (list, tuple)):
        if any(_holds_node(each, graph) for each in value if not isinstance(each, (int, str, float, bytes))):
            return collected(value, graph, kind="collect")
        return list(value)  # what the caller does with the list later does not matter
    return value


def unmappable(value: object) -> str:
    """Why a value cannot be mapped over, with the cure; empty if it can."""
    kind = type(value).__name__
    if isinstance(value, (str, bytes, bytearray)):
        return f"a {kind}: that would be one run per character; wrap it in a list"
    if isinstance(value, Mapping):
        return f"a {kind}: use .items(), .keys() or .values() in a list"
    if isinstance(value, (set, frozenset)):
        return f"a {kind}: its order is not stable; use sorted(…)"
    if kind == "DataFrame":
        return "a DataFrame: say what its elements are, such as list(frame.itertuples())"
    if isinstance(value, Iterable) and not hasattr(value, "__getitem__"):
        return f"a {kind} while the flow is written: make it a list"
    if value is None or isinstance(value, (bool, int, float, complex)) or callable(value):
        return f"{short(value)} of type {kind}: it has no elements"
    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        return f"a {kind}: it has no length and no elements in order"
    return ""


# Declared dependencies ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dependency:
    """Something a task runs after, and perhaps one output of it that the task needs.

    Parameters
    ----------
    task
        A task, a task class, or a node.
    key
        One output of its value: a mapping's key, an index or an attribute. None: ordering only.
    arg
        Argument that takes the output. Default: the parameter named like `key`, else the one unbound parameter; where
        the call has bound them all, the output is only checked to exist.
    """

    task: Any  # a Task, a Task class or a Node
    key: Any = None  # a mapping key, an index or an attribute's name
    arg: str | None = None

    @classmethod
    def of(cls, value: object) -> Dependency:
        """`value` itself, or a dependency on the task or node that it is."""
        if isinstance(value, Dependency):
            return value
        if not isinstance(value, (Task, Node)) and not (isinstance(value, type) and issubclass(value, Task)):
            raise DefinitionError(f"depends_on: expected a task, a node or a Dependency, found {value!r} ({caller()})")
        return cls(value)

    def declare(self, node: Node, graph: Graph) -> None:
        """Let `node` have this dependency once it is known which calls of the task there are."""
        graph.pend(lambda: self.bind_to(node, graph))

    def bind_to(self, node: Node, graph: Graph | None = None) -> None:
        """Add the edges of this dependency to a node."""
        graph = graph or node._home()[0]
        if self.key is None:
            for upstream in self._nodes(graph):
                if not any(edge.upstream is upstream for edge in graph.edges_into(node)):
                    node._link(Edge(upstream, node, "order"))
            return
        nodes = self._nodes(graph)
        if len(nodes) > 1:
            slugs = [graph.entry(each).slug for each in nodes]
            raise AmbiguousTaskError(
                f"{node.name}: Dependency({self.task!r}, key={self.key!r}) stands for {len(nodes)} nodes: {listed(slugs)}"
            )
        output = Output(nodes[0], self.key)
        argument = self._argument(node, graph)
        for each in node.graphs:
            if argument is None:
                each.bind(node, {}, checks=[output])
            else:
                each.bind(node, {argument: output})

    def _nodes(self, graph: Graph) -> list[Node]:
        if isinstance(self.task, type):
            nodes = typing.cast("list[Node]", graph.calls_of(self.task))
            return nodes or self.task().nodes_in(graph)
        return resolve_all(self.task, graph)

    def _argument(self, node: Node, graph: Graph) -> str | None:
        bound = graph.entry(node).arguments
        if self.arg is not None:
            if self.arg in bound:
                raise DefinitionError(f"{node.name}: Dependency(arg={self.arg!r}) names an argument that the call has bound")
            return self.arg
        free = [name for name in (node.signature.parameters or {}) if name not in bound]
        if self.key in free:
            return str(self.key)
        missing = node.signature.missing(bound)
        return missing[0] if len(missing) == 1 else free[0] if len(free) == 1 and not missing else None


# Parameters -----------------------------------------------------------------------------------------------------------

_NOT_GIVEN: Any = object()


class Parameter(Node):
    """A named input of a flow; a node, usable anywhere.

    Parameters
    ----------
    name
        A Python identifier.
    default
        Value of runs that do not give one; each run gets a copy. Without it the parameter is required.
    required
        Whether runs must give a value, whatever the default.
    type
        Values are validated, and strings converted, by pydantic.
    choices
        Values there are.

    Raises
    ------
    OptionError
        The name, default or choices cannot be.
    """

    def __init__(
        self,
        name: str,
        default: Any = _NOT_GIVEN,
        *,
        required: bool | None = None,
        type: Any = None,  # any annotation
        choices: Sequence[Any] | None = None,
        tags: Collection[str] = (),
    ) -> None:
        check_name(name, "parameter name")
        if not name.isidentifier() or name.startswith("__") or name in RESERVED or _is_keyword(name):
            raise OptionError(f"parameter name: expected a Python identifier, found {name!r} ({caller()})")
        if isinstance(default, (Node, Task)):
            raise OptionError(f"parameter {name!r}: the default cannot be a node or task, found {default!r} ({caller()})")
        super().__init__(name, _no_function, kind="parameter", policies=Policies(tags=frozenset(tags)))
        self.default = None if default is _NOT_GIVEN else default
        self.required = default is _NOT_GIVEN if required is None else required
        self.type = type
        self.choices = tuple(choices) if choices is not None else None
        if self.choices is not None and not self.required and self.default not in self.choices:
            raise OptionError(f"parameter {name!r}: the default {default!r} is not among its choices {self.choices!r}")
        graphs = scope.current().graphs
        if graphs:
            self._join(graphs)

    def __call__(self) -> Parameter:
        """Add the parameter to the open flow."""
        self._join(open_graphs(f"Parameter({self.name!r})"))
        return self

    def _join(self, graphs: tuple[Graph, ...]) -> None:
        for graph in graphs:
            if self not in graph:
                graph.add(self, slug=self.name)
        self.graphs = (*self.graphs, *(graph for graph in graphs if graph not in self.graphs))

    def __repr__(self) -> str:
        return f"<Parameter {self.name!r}>"


def _no_function() -> None:
    """Stands for the function that a parameter does not have."""


def _is_keyword(name: str) -> bool:
    import keyword

    return keyword.iskeyword(name)


@dataclass(frozen=True)
class _FlowParameter:
    """Marks an argument that becomes a parameter of the flow."""

    name: str

    def parameter_in(self, graph: Graph) -> object:
        for node in graph:
            if isinstance(node, Parameter) and node.name == self.name:
                return node
        return Parameter(self.name)

