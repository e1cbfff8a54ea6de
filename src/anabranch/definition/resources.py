"""``resource_manager``: what is set up before the tasks of a block, and always cleaned up after them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, overload

from anabranch.base.errors import DefinitionError
from anabranch.base.names import short
from anabranch.base.signals import SKIP
from anabranch.base.triggers import Upstreams
from anabranch.base.where import caller
from anabranch.definition import scope
from anabranch.definition.frozen import Edge
from anabranch.definition.graph import Graph
from anabranch.definition.lookup import open_graphs
from anabranch.definition.task import FunctionTask


@overload
def resource_manager(cls: type, /) -> ResourceManager: ...
@overload
def resource_manager(
    *,
    name: str | None = ...,
    init_task_kwargs: Mapping[str, Any] | None = ...,
    setup_task_kwargs: Mapping[str, Any] | None = ...,
    cleanup_task_kwargs: Mapping[str, Any] | None = ...,
) -> Callable[[type], ResourceManager]: ...
def resource_manager(cls: Any = None, /, **options: Any) -> Any:
    """Turn a class with ``cleanup(resource)`` and usually ``setup()`` into a block.

    Inside ``with Database(url) as connection:``, `connection` stands for what ``setup`` returned. Tasks of the block
    run after ``setup`` and before ``cleanup``. ``cleanup`` runs if ``setup`` succeeded, however the block ended, and
    finds on ``self`` what ``setup`` has put there. A cleanup that fails does not fail the flow; the message of the run
    tells it. Both methods may be ``async def``.

    Parameters
    ----------
    cls
        The class. Its instances travel between workers, with what ``setup`` puts on them, so they must be picklable.
    name
        Name of its tasks; default: the class's.
    init_task_kwargs, setup_task_kwargs, cleanup_task_kwargs
        Options of these tasks, see `anabranch.task`.

    Raises
    ------
    DefinitionError
        It is not a class, or has no method ``cleanup``.
    """
    if cls is None:
        return lambda decorated: ResourceManager(decorated, **options)
    return ResourceManager(cls, **options)


_AT_HAND = {"checkpoint": False}  # a connection or a cluster: not what a flow's result is for


class ResourceManager:
    """A class whose calls are blocks; made by `resource_manager`."""

    def __init__(
        self,
        cls: type,
        *,
        name: str | None = None,
        init_task_kwargs: Mapping[str, Any] | None = None,
        setup_task_kwargs: Mapping[str, Any] | None = None,
        cleanup_task_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(cls, type) or not callable(getattr(cls, "cleanup", None)):
            what = "@resource_manager needs a class with a method cleanup(self, resource)"
            raise DefinitionError(f"{what}, found {short(cls)} ({caller()})")
        self.name: str = name or cls.__name__
        self.cls = cls
        # The module's name for the class is ours now; pickle finds the class where it says that it is.
        cls.__qualname__ = f"{cls.__qualname__}.cls"
        self.init: FunctionTask[..., Any] = FunctionTask(
            cls, **{"name": self.name, **_AT_HAND, **(init_task_kwargs or {})}
        )
        is_async = {name: inspect.iscoroutinefunction(getattr(cls, name, None)) for name in ("setup", "cleanup")}
        self.setup: FunctionTask[..., Any] = FunctionTask(
            _setup_awaited if is_async["setup"] else _setup,
            **{"name": f"{self.name}.setup", **_AT_HAND, **(setup_task_kwargs or {})},
        )
        self.resource: FunctionTask[..., Any] = FunctionTask(_resource, name=f"{self.name}.resource", **_AT_HAND)
        last = {"name": f"{self.name}.cleanup", "trigger": _if_set_up, "skip_on_upstream_skip": False, **_AT_HAND}
        self.cleanup: FunctionTask[..., Any] = FunctionTask(
            _cleanup_awaited if is_async["cleanup"] else _cleanup, **{**last, **(cleanup_task_kwargs or {})}
        )

    def __call__(self, *args: Any, flow: Any = None, **kwargs: Any) -> Resource:
        """A block with a resource made from these arguments, which may be nodes."""
        return Resource(self, args, kwargs, flow)

    def __repr__(self) -> str:
        return f"<ResourceManager {self.name!r}>"


class Resource(AbstractContextManager[Any]):
    """One block of a `ResourceManager`."""

    def __init__(self, manager: ResourceManager, args: tuple[Any, ...], kwargs: dict[str, Any], flow: Any) -> None:
        self._manager, self._args, self._kwargs, self._flow = manager, args, kwargs, flow
        self._before: set[Any] = set()

    def __enter__(self) -> Any:
        graphs = open_graphs(f"{self._manager.name}()", self._flow)
        self._init: Any = self._manager.init._call(self._args, self._kwargs, graphs)
        self._setup: Any = self._manager.setup._call((self._init,), {}, graphs)
        self._resource: Any = self._manager.resource._call((self._setup,), {}, graphs)
        self._graphs = graphs
        self._before = set(graphs[0])
        return self._resource

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is not None:
            return
        root = self._graphs[0]
        written = [node for node in root if node not in self._before and node.kind != "parameter"]
        cleanup = self._manager.cleanup._call((self._init, self._setup), {}, self._graphs)
        cleanup.kind = "cleanup"
        inside = set(written)
        for node in written:
            if not any(edge.upstream in inside for edge in root.edges_into(node)):
                _add_order(self._resource, node, root)
            if not any(edge.downstream in inside for edge in root.edges_from(node)):
                _add_order(node, cleanup, root)


def _add_order(upstream: Any, downstream: Any, root: Graph) -> None:
    """An order edge, element by element inside the function of an ``apply_map``."""
    members = scope.current().members or ()
    is_elementwise = upstream in members and downstream in members
    for graph in root.family(downstream):
        if upstream in graph:
            graph.link(Edge(upstream, downstream, "order", mapped=is_elementwise))


@dataclass(frozen=True)
class SetUp:
    """What ``setup`` leaves for ``cleanup``: its object, which it may have changed, and what it returned."""

    manager: Any
    resource: Any


def _setup(manager: Any) -> SetUp:
    return SetUp(manager, manager.setup() if hasattr(manager, "setup") else None)


async def _setup_awaited(manager: Any) -> SetUp:
    return SetUp(manager, await manager.setup())


def _resource(setup: Any) -> Any:
    return setup.resource if isinstance(setup, SetUp) else setup  # a test may have given the resource itself


def _cleanup(manager: Any, setup: Any) -> Any:
    return (setup.manager if isinstance(setup, SetUp) else manager).cleanup(_resource(setup))


async def _cleanup_awaited(manager: Any, setup: Any) -> Any:
    return await _cleanup(manager, setup)


def _if_set_up(upstreams: Upstreams) -> bool:
    """Whatever became of the block: run if there is something to clean up."""
    for edge, state in upstreams.items():
        if edge.key is not None and (not state.is_successful() or state.is_skipped()):
            raise SKIP(f"{edge.upstream} gave nothing to clean up")
    return True
