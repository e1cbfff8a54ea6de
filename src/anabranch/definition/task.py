"""What a task is, ``@task``, and what a call of a task does."""

from __future__ import annotations

import copy
import inspect
import typing
import weakref
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

from dask.utils import parse_bytes

from anabranch.base import context
from anabranch.base.errors import CallError, DefinitionError, MappingError, OptionError, listed, nearest
from anabranch.base.names import check_name, named, short
from anabranch.base.prefect1 import refuse
from anabranch.base.triggers import Trigger
from anabranch.base.where import caller
from anabranch.definition import dask_objects, scope
from anabranch.definition.deferred import DeferredCall, deferred
from anabranch.definition.dependency import Dependency
from anabranch.definition.graph import Graph
from anabranch.definition.limit_names import fields_of
from anabranch.definition.lookup import each_of, holds_node, nodes_of, open_graphs
from anabranch.definition.marks import flatten, mapped, unmapped
from anabranch.definition.node import Node
from anabranch.definition.parameter import FlowParameter, Parameter
from anabranch.definition.policies import STORING_OPTIONS, Delay, Handler, Policies, RetryOn, Seconds
from anabranch.definition.signature import RESERVED, STAR, Signature
from anabranch.definition.strays import note
from anabranch.definition.task_as_node import Definition, Template
from anabranch.definition.wiring import call, link

if TYPE_CHECKING:
    from anabranch.definition.caching import CacheKey
    from anabranch.results.result import Result

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", covariant=True)

# The others are used wherever tasks are.
__all__ = ["Dependency", "FunctionTask", "Parameter", "Task", "flatten", "mapped", "task", "unmapped"]


class Task(Template, Generic[P, R]):
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
        # A task's attributes are its class's and the user's: this is all that the library keeps there.
        self._keep("name", check_name(name if name is not None else type(self).__name__, "task name"))
        self._keep("__name__", self.name)
        self._keep("slug", check_name(slug, "task slug") if slug is not None else None)
        where = caller()
        try:
            policies = policies_of(options)
        except OptionError as error:
            raise OptionError(f"task {self.name!r} ({where}): {error}") from None
        function = self._function()
        nout = _annotated_nout(function) if policies.nout is None else None
        if nout is not None:
            policies = replace(policies, nout=nout)
        storing = {option: options[option] for option in STORING_OPTIONS if option in options}
        signature = Signature(function, self.name)
        try:
            _check_awaited(signature, policies)
            _check_names(signature, policies)
        except OptionError as error:
            raise OptionError(f"task {self.name!r} ({where}): {error}") from None
        self._keep("_anabranch", Definition(where, policies, signature, storing))
        self._check_reserved()
        self.depends_on(*each_of(depends_on))
        if parameters is not None:
            self._fix(self._bound((), self._given(parameters)), frozenset())
        note(self)

    def _keep(self, name: str, value: object) -> None:
        """Set an attribute that users cannot assign."""
        object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        if name in _OPTIONS:
            raise OptionError(
                f"{name} is an option of tasks, which cannot be assigned ({caller()}): write @task({name}=…), "
                f"super().__init__({name}=…) in a class of tasks, or task_args={{{name!r}: …}} in a call"
            )
        if name in _METHODS:
            raise DefinitionError(
                f"{type(self).__name__}.{name} is what tasks have themselves, and cannot be assigned ({caller()}): "
                "give the attribute another name"
            )
        object.__setattr__(self, name, value)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        clash = [name for name in vars(cls) if name in _METHODS and name.startswith("_")]
        if clash and cls.__module__ != __name__:
            raise DefinitionError(
                f"{cls.__name__}.{clash[0]} is what tasks have themselves ({caller()}): give it another name"
            )

    def _given(self, parameters: Mapping[str, object] | Sequence[str]) -> dict[str, object]:
        if isinstance(parameters, Mapping):
            return dict(parameters)
        if isinstance(parameters, str) or not all(isinstance(name, str) for name in parameters):
            raise OptionError(
                f"task {self.name!r} ({self._anabranch.where}): parameters takes a dict of arguments, or a list of "
                f"names that become parameters of the flow; found {short(parameters)}"
            )
        return {name: FlowParameter(name) for name in parameters}

    def _check_reserved(self) -> None:
        clash = [name for name in (self._anabranch.signature.parameters or {}) if name in RESERVED]
        if clash:
            raise DefinitionError(
                f"task {self.name!r} ({self._anabranch.where}): a parameter cannot be named {listed(clash)}, because "
                f"calls of a task use {listed(RESERVED)} themselves; rename it"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_anabranch": copy.copy(self._anabranch)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __dask_tokenize__(self) -> object:
        """What decides over the values of calls: the function, what is fixed, and attributes of the user's own."""
        own = {name: value for name, value in self.__dict__.items() if name not in _ATTRIBUTES}
        return self._function(), self._anabranch.fixed, own

    def __getattr__(self, name: str) -> Any:
        if name == "logger":  # here, so that a class may have an attribute of that name
            return context.logger_of(self.name)
        if name in _OPTIONS and "_anabranch" in vars(self):
            known = self._anabranch
            return known.storing.get(name) if name in STORING_OPTIONS else known.policies.option(name)
        if name in ("name", "_anabranch"):
            cls = type(self).__name__
            raise DefinitionError(f"{cls}.__init__ does not call super().__init__(): a task class has to ({caller()})")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _function(self) -> Callable[..., Any]:
        run = inspect.getattr_static(type(self), "run")
        function: Callable[..., Any] = run.__get__(self, type(self)) if hasattr(run, "__get__") else run
        return function

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function, with the fixed arguments; what is a `Task` and nothing more does nothing."""
        if type(self) is Task:
            return typing.cast(R, None)
        raise NotImplementedError(f"{type(self).__name__} needs a method run(self, …)")

    # Calls ------------------------------------------------------------------------------------------------------------

    # A call is typed as the value it will have, so that wiring is checked; the reserved keywords have overloads of
    # their own because a ParamSpec cannot be extended by keywords.
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, *args: Any, mapped: Literal[True], **kwargs: Any) -> list[R]: ...
    @overload
    def __call__(self, *args: Any, upstream_tasks: Iterable[object], **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *args: Any, task_args: Mapping[str, Any], **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *args: Any, flow: Any, **kwargs: Any) -> R: ...
    def __call__(  # type: ignore[misc]  # P has none of the reserved names: see _check_reserved
        self,
        *args: Any,
        upstream_tasks: Iterable[object] | None = None,
        task_args: Mapping[str, Any] | None = None,
        mapped: bool = False,
        flow: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Add a node to the open flow (or to `flow`) and return it; in a running task, make a deferred call.

        Raises
        ------
        CallError
            The arguments do not fit the signature.
        OutsideFlowError
            No flow is open, and no task is running.
        """
        if _is_deferred(flow):
            return self._defer(args, kwargs, upstream_tasks, task_args, is_mapped=mapped)
        return self._call(
            args, kwargs, self._graphs(flow), upstream_tasks=upstream_tasks, task_args=task_args, is_mapped=mapped
        )

    def map(
        self,
        *args: Any,
        upstream_tasks: Iterable[object] | None = None,
        task_args: Mapping[str, Any] | None = None,
        flow: Any = None,
        **kwargs: Any,
    ) -> list[R]:
        """Add a node that runs once per element of the arguments. Mark arguments for all elements with `unmapped`."""
        if _is_deferred(flow):
            calls: Any = self._defer(args, kwargs, upstream_tasks, task_args, is_mapped=True)
            made: list[R] = calls
            return made
        node: Any = self._call(
            args, kwargs, self._graphs(flow), upstream_tasks=upstream_tasks, task_args=task_args, is_mapped=True
        )
        result: list[R] = node
        return result

    def bind(
        self,
        *args: Any,
        upstream_tasks: Iterable[object] | None = None,
        mapped: bool = False,
        flow: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Fix arguments: return a task with them or, in an open flow with nodes among the arguments, add a call.

        Later calls may replace them by name; positional arguments of later calls come after the fixed ones. A task that
        was bound in the block of a flow and not called there is called at its end. With `flow` or `mapped`, a call (of
        a map) is added.
        """
        graphs = scope.current().graphs
        if flow is not None or mapped or (graphs and (upstream_tasks or holds_node([*args, *kwargs.values()]))):
            return self._call(args, kwargs, self._graphs(flow), upstream_tasks=upstream_tasks, is_mapped=mapped)
        twin = copy.copy(self)
        by_position = self._anabranch.by_position | self._bound(args, {}).keys()
        twin._fix(self._with_fixed(self._bound(args, kwargs)), by_position)
        self._anabranch.is_unused, twin._anabranch.is_unused = False, bool(graphs)
        if graphs:
            self._anabranch.called_in.add(graphs[0])
            self._anabranch.bound_in.setdefault(graphs[0], []).append(twin)
            note(twin)
        return twin

    def _fix(self, arguments: Mapping[str, object], by_position: Collection[str]) -> None:
        self._anabranch.fixed, self._anabranch.by_position = arguments, frozenset(by_position)
        self._keep("run", _Run(self))  # the fixed arguments hold for a plain call too

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name, without the fixed ones."""
        self._check_class(args)
        try:
            return self._anabranch.signature.bind(args, kwargs, taken=self._anabranch.by_position)
        except CallError as error:
            raise CallError(f"{error} (call at {caller()}; task of {self._anabranch.where})") from None

    def _check_class(self, args: tuple[Any, ...]) -> None:
        """Refuse values in the place of a class: from Python 3.13, @classmethod over a task binds its calls only."""
        place = getattr(self._anabranch.signature.function, "__qualname__", "").rpartition(".")[0]
        first = next(iter(self._anabranch.signature.parameters or ()), None)
        is_method = first == "cls" and place and not place.endswith("<locals>")
        if is_method and args and not isinstance(args[0], (type, unmapped)):
            raise CallError(
                f"{self.name}() is a class method of {place}, found {short(args[0])} in the place of the class "
                f"({caller()}; task of {self._anabranch.where}): write @task above @classmethod"
            )

    def _with_fixed(self, bound: Mapping[str, Any], mark: Callable[[Any], Any] | None = None) -> dict[str, Any]:
        """Arguments with the fixed ones that they do not replace; of ``*args``, the fixed ones come first."""
        mark = mark or (lambda value: value)
        star: Any = self._anabranch.fixed.get(STAR, ())
        fixed = {
            name: mark(value) for name, value in self._anabranch.fixed.items() if name not in bound and name != STAR
        }
        return fixed | dict(bound) | ({STAR: (*map(mark, star), *bound.get(STAR, ()))} if star else {})

    def _call(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        graphs: tuple[Graph, ...],
        *,
        upstream_tasks: Iterable[object] | None = None,
        task_args: Mapping[str, Any] | None = None,
        is_mapped: bool = False,
        is_partial: bool = False,
    ) -> Node:
        if is_mapped and scope.current().members is not None:
            raise MappingError(
                f"{self.name}.map() inside the function of apply_map ({caller()}): each of its tasks runs per element "
                f"already, so call {self.name}(…)"
            )
        # What is fixed is the same for all elements of a map.
        arguments = self._with_fixed(self._bound(args, kwargs), unmapped)
        upstreams = [node for each in each_of(upstream_tasks) for node in nodes_of(each, graphs[0])]
        self._check_complete(arguments, is_partial=is_partial)
        options = dict(task_args or {})
        slug = check_name(options.pop("slug"), "task slug") if "slug" in options else self.slug
        node = self._node(options)
        call(node, arguments, graphs=graphs, is_mapped=is_mapped, slug=slug)
        self._anabranch.called_in.add(graphs[0])
        self._anabranch.is_unused = False
        for upstream in upstreams:
            link(upstream, node, "order", graphs[0])
        for dependency in self._anabranch.dependencies:
            dependency.declare(node, graphs[0])
        return node

    def _check_complete(self, arguments: Mapping[str, object], *, is_partial: bool) -> None:
        missing = self._anabranch.signature.missing(arguments)
        # A declared dependency on an output may bring an argument later.
        declared = sum(dependency.key is not None for dependency in self._anabranch.dependencies)
        if missing and not is_partial and len(missing) > declared:
            raise CallError(
                f"{self.name}() is missing {listed(missing)} (call at {caller()}; task of {self._anabranch.where}): "
                "pass a value or another task's node"
            )

    def _defer(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        upstream_tasks: Iterable[object] | None,
        task_args: Mapping[str, Any] | None,
        *,
        is_mapped: bool,
    ) -> DeferredCall:
        """Make a call in a running task, with values in place of the flow's parameters."""
        arguments = self._with_fixed(self._bound(args, kwargs), unmapped)
        if not self._anabranch.policies.lazy:
            arguments = {name: dask_objects.resolved_argument(value) for name, value in arguments.items()}
        parameters = context.get("parameters", {}) if self._anabranch.fixed else {}
        for name, value in list(arguments.items()) if self._anabranch.fixed else ():
            meant = value.value if isinstance(value, unmapped) else value
            if isinstance(meant, FlowParameter):
                del arguments[name]
                if meant.name in parameters:
                    arguments[name] = unmapped(parameters[meant.name])
        self._check_complete(arguments, is_partial=False)
        if self._anabranch.dependencies:
            raise DefinitionError(
                f"task {self.name!r} ({self._anabranch.where}) depends on other tasks, whose calls are in a flow, and "
                f"was called inside a running task ({caller()}): give its upstream tasks there, with upstream_tasks=[…]"
            )
        after = tuple(each_of(upstream_tasks)) if upstream_tasks is not None else ()
        upstreams = tuple(each for each in after if isinstance(each, DeferredCall))
        strangers = [each for each in after if not isinstance(each, DeferredCall)]
        if strangers:
            raise DefinitionError(
                f"{self.name}(upstream_tasks=…) inside a running task takes calls that were made there, found "
                f"{short(strangers[0])} ({caller()})"
            )
        name, policies, signature = self.name, self._anabranch.policies, self._anabranch.signature
        if task_args:
            name, policies, signature = self._call_options(dict(task_args))
        return deferred(
            name,
            signature,
            policies,
            arguments,
            is_mapped=is_mapped,
            upstreams=upstreams,
            where=str(self._anabranch.where),
        )

    def _call_options(self, options: dict[str, Any]) -> tuple[str, Policies, Signature]:
        """Name, policies and signature of a call with these options of its own."""
        options.pop("slug", None)
        name = check_name(options.pop("name", self.name), "task name")
        try:
            policies = policies_of(options, self._anabranch.policies) if options else self._anabranch.policies
            _check_awaited(self._anabranch.signature, policies)
            _check_names(self._anabranch.signature, policies)
        except OptionError as error:
            raise OptionError(f"{self.name}(task_args=…): {error} ({caller()})") from None
        # One Signature for all calls: looking at a function is slow, and it travels to workers once.
        signature = (
            self._anabranch.signature if name == self.name else Signature(self._anabranch.signature.function, name)
        )
        return name, policies, signature

    def _node(self, options: dict[str, Any]) -> Node:
        name, policies, signature = self._call_options(options)
        return Node(name, signature.function, policies=policies, signature=signature, template=self)

    def _graphs(self, flow: Any) -> tuple[Graph, ...]:
        return open_graphs(f"{self.name}()", flow)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Task {self.name!r}>"


def _is_deferred(flow: Any) -> bool:
    """Whether a call is written inside a running task."""
    return flow is None and context.is_running() and not scope.current().graphs


class _Run:
    """What ``t.run`` is for a task with fixed arguments."""

    def __init__(self, task: Task[..., Any]) -> None:
        self.task = task

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self.task._with_fixed(self.task._bound(args, kwargs))
        given = {name: value for name, value in bound.items() if not isinstance(value, FlowParameter)}
        positional, keywords = self.task._anabranch.signature.split(given)
        return self.task._function()(*positional, **keywords)


def policies_of(options: Mapping[str, Any], base: Policies | None = None) -> Policies:
    """The policies that options describe, as changes of others."""
    storing = {name: value for name, value in options.items() if name in STORING_OPTIONS}
    rest = {name: value for name, value in options.items() if name not in storing}
    for name in rest.keys() - Policies.options():
        refuse(f"{name}=")
    policies = Policies.from_options(_with_nbytes(rest), base)
    if all(value is None for value in storing.values()):
        return policies
    from anabranch.definition.storing import storing_of  # which few tasks need, and which takes a while to load

    return replace(policies, storing=storing_of(storing, policies.storing))


def _check_names(signature: Signature, policies: Policies) -> None:
    """Refuse names of limits that are made of what is no argument."""
    for template in policies.templates if signature.parameters is not None and not signature.takes_any_keyword else ():
        for name in fields_of(template):
            if name not in signature.named_parameters:
                raise OptionError(
                    f"limit {template!r} is made of {name!r}, which is no argument; there are: "
                    f"{listed(signature.named_parameters)}"
                )


def _check_awaited(signature: Signature, policies: Policies) -> None:
    """Refuse options that do not go with a function that is, or is not, async."""
    if signature.is_async:
        if policies.reduce:
            raise OptionError("reduce needs a plain function, and this one is async: gather in a task of its own")
    elif policies.concurrency_per_slot is not None:
        raise OptionError("concurrency_per_slot needs an async function: others run one after the other in a slot")


def _with_nbytes(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options with the memory limit in bytes; Dask reads such texts, and the policies do not know Dask."""
    limit = options.get("memory_limit")
    if not isinstance(limit, str):
        return options
    try:
        return {**options, "memory_limit": parse_bytes(limit)}
    except ValueError as error:
        raise OptionError(f"memory_limit: expected bytes, or a text such as '500 MB', found {limit!r}") from error


def _annotated_nout(function: Callable[..., Any]) -> int | None:
    """Number of outputs that a ``tuple[int, str]`` return annotation gives, or None."""
    try:
        if "return" not in getattr(function, "__annotations__", ()):
            return None
        annotation = typing.get_type_hints(function)["return"]
    except Exception:  # annotations may name anything, importable here or not; they are only a hint
        return None
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and arguments and Ellipsis not in arguments:
        return len(arguments)
    return None


_OPTIONS = frozenset({"name", "slug", *Policies.options()})
_METHODS = frozenset(
    name for cls in (Template, Task) for name in vars(cls) if not name.startswith("__") and name != "run"
) | {"_anabranch"}


class FunctionTask(Task[P, R]):
    """A task made from a function; made by `task`."""

    function: Callable[P, R]

    def __init__(self, function: Callable[P, R], *, name: str | None = None, **options: Any) -> None:
        if isinstance(function, Task):
            raise DefinitionError(f"{function.name!r} is a task already: @task was applied twice ({caller()})")
        self._descriptor: Any = function  # which binds it to what it is a method of
        if isinstance(function, (classmethod, staticmethod)):
            function = function.__func__
        if not callable(function):
            raise DefinitionError(f"@task needs a function, found {short(function)} ({caller()})")
        self._keep("function", function)
        self._keep("run", function)  # `t.run` is the plain function, not a method
        super().__init__(name=name if name is not None else named(function).strip("<>"), **options)
        for attribute in ("__doc__", "__module__", "__qualname__"):
            if hasattr(function, attribute):
                self._keep(attribute, getattr(function, attribute))
        self._keep("__wrapped__", function)
        self._methods: weakref.WeakValueDictionary[int, FunctionTask[..., R]] = weakref.WeakValueDictionary()

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> FunctionTask[P, R]: ...
    @overload
    def __get__(
        self: FunctionTask[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> FunctionTask[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> FunctionTask[..., R]:
        """The task of a method, bound to its object or class as the function would be: one as long as it is used."""
        if not hasattr(self._descriptor, "__get__"):
            return self
        function = self._descriptor.__get__(instance, owner)
        if function is self.function:
            return self
        key = id(getattr(function, "__self__", instance))  # which the twin keeps alive
        twin = self._methods.get(key)
        if twin is None:
            twin = self._methods[key] = copy.copy(self)
            for attribute in ("_descriptor", "function", "run", "__wrapped__"):
                twin._keep(attribute, function)
            kept = twin._anabranch
            kept.signature = Signature(function, self.name)
            if kept.fixed:
                twin._fix(kept.fixed, kept.by_position)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_methods"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._methods = weakref.WeakValueDictionary()

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and name != "run" and name not in _OPTIONS | _METHODS:
            raise OptionError(
                f"task {self.name!r} has no option {name!r} ({caller()}); options are written as @task(option=…)"
                f"{nearest(name, _OPTIONS)}"
            )
        super().__setattr__(name, value)

    def _function(self) -> Callable[..., Any]:
        return self.function


if TYPE_CHECKING:

    class AwaitedTask(FunctionTask[P, R]):
        """What a type checker makes of a task whose function is async: a call is typed as the awaited value."""

        function: Callable[P, Coroutine[Any, Any, R]]  # type: ignore[assignment]  # see `run`

        def run(  # type: ignore[override]  # the plain function, whose calls are awaited by whoever makes them
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R]: ...

    class Decorator(Protocol):
        """What ``task(…)`` with options gives."""

        @overload
        def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AwaitedTask[P, R]: ...
        @overload
        def __call__(self, function: Callable[P, R], /) -> FunctionTask[P, R]: ...


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> AwaitedTask[P, R]: ...
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
    isolation: Literal["thread", "process"] | None = ...,
    memory_limit: int | str | None = ...,
    trigger: Trigger | None = ...,
    skip_on_upstream_skip: bool | None = ...,
    nout: int | None = ...,
    log_stdout: bool | None = ...,
    lazy: bool | None = ...,
    state_handlers: Sequence[Handler] | None = ...,
    on_failure: Callable[[Any, Any], Any] | None = ...,
    depends_on: object = ...,
    parameters: Mapping[str, object] | Sequence[str] | None = ...,
    chunksize: int | Literal["auto"] | None = ...,
    concurrency_per_slot: int | None = ...,
    resources: Mapping[str, float] | None = ...,
    concurrency: Mapping[str, int] | None = ...,
    rate: Mapping[str, str | tuple[int, Seconds]] | None = ...,
    priority: int | None = ...,
    min_success: float | None = ...,
    first_n: int | None = ...,
    stop_when: Callable[[Any], object] | None = ...,
    reduce: bool | None = ...,
    result: Result | None = ...,
    result_handler: Result | None = ...,
    target: str | Callable[..., str] | None = ...,
    location: str | Callable[..., str] | None = ...,
    checkpoint: bool | None = ...,
    cache_for: Seconds | None = ...,
    cache_key: CacheKey | str | Callable[..., Any] | None = ...,
    cache_validator: CacheKey | Callable[..., Any] | None = ...,
) -> Decorator: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a task of a function.

    Parameters
    ----------
    function
        The function; its signature and types are kept. It may be ``async def``.
    name, slug, tags
        Name of the task (default: the function's), its name in a flow, and words to find it by.
    max_retries, retry_delay, retry_backoff, retry_jitter, retry_max_delay, retry_on, retry_kwargs
        See `anabranch.definition.policies.Retry`. Delays are seconds or timedeltas. `retry_kwargs` is a dict of the
        other options.
    timeout
        Seconds or timedelta after which an attempt ends as `TimedOut`.
    isolation, memory_limit
        With "process", attempts run in a child process of the worker. At the timeout, or when it uses more memory than
        `memory_limit` (bytes, or a text such as ``"500 MB"``), it is killed with everything that it has started.
    trigger, skip_on_upstream_skip
        Whether the task runs, given the states upstream; see `anabranch.triggers`.
    nout
        Number of outputs, so that a call can be unpacked; default: the length of a ``tuple[…]`` annotation.
    log_stdout
        Whether prints become log records.
    lazy
        Whether futures, `Delayed` and collections of Dask's are arguments and values as they are. Default: they are
        computed, on the cluster, before the task is called, and after it has returned.
    state_handlers, on_failure
        Functions ``(task, old, new) -> new | None`` and ``(task, state)``, called where the task runs.
    depends_on
        Tasks, or `Dependency` objects, that every call runs after.
    parameters
        Arguments to fix in advance (dict), or names of arguments that become parameters of the flow (list).
    chunksize
        Number of elements of a map in one Dask task, or "auto".
    concurrency_per_slot
        Number of elements that one worker slot awaits side by side, if the function is async; default: the setting
        ``engine.concurrency_per_slot``.
    resources, priority
        Dask worker resources, and priority (larger first).
    concurrency
        Named limits, such as ``{"db": 4}``: how many task runs with this name may run at the same time, over all runs
        of a run store. A waiting task takes no worker slot. If sizes of a name differ, the lowest applies. Names may be
        made of arguments: ``{"host:{host}": 4}``.
    rate
        Named rates, such as ``{"api": "100/min"}`` or ``"5/10s"``: how many attempts with this name there may be in any
        window of that length, over all runs of a run store. A retry is another attempt. What waits takes no slot.
    min_success, first_n, stop_when
        For maps. `min_success` is the share of elements that must succeed (0.95). After `first_n` successful elements,
        or after a value for which the predicate `stop_when` is true, the rest is skipped. Tasks downstream get what
        there is.
    reduce
        Whether the function is associative on a list, ``f([f(a), f(b)]) == f(a + b)``. On a whole map it is then
        applied to each chunk where that was made, then to the results.
    result, result_handler
        Where values are stored, such as ``LocalResult("results")``; both mean the same. Default: the flow's, if any.
    location, target
        Template of the name under which a value is stored, or a function that returns it. If a `target` exists, the
        task ends as `Cached` and does not run.
    checkpoint
        Whether values are stored; default: if there is a result, a target or a cache, or if ``config.checkpointing`` is
        on.
    cache_for, cache_key, cache_validator
        Use a value of any run with the same key that is not older than `cache_for` (seconds or timedelta). The key is
        made of inputs and code by default, or of parts of `anabranch.definition.caching`, or by a function of the
        inputs; a text names a cache that tasks share. A validator is one of Prefect 1's, or a function
        ``(value, inputs, parameters)`` that says whether a value may be used.

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


_ATTRIBUTES = frozenset(vars(FunctionTask(short)))
"""What every task has; other attributes are the user's."""
