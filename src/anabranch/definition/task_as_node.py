"""A task where a node is expected: it stands for its calls in a flow."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from anabranch.base.errors import AmbiguousTaskError, DefinitionError, listed
from anabranch.base.where import Where, caller
from anabranch.definition import scope
from anabranch.definition.dependency import Dependency
from anabranch.definition.gates import Gate
from anabranch.definition.graph import Graph
from anabranch.definition.lookup import each_of, home_of, node_of, path_of
from anabranch.definition.node import Node
from anabranch.definition.policies import Policies
from anabranch.definition.signature import Signature


@dataclass(eq=False)
class Definition:
    """What the library knows of a task. The attributes of the task are the user's, but for this one."""

    where: Where
    policies: Policies
    signature: Signature
    storing: Mapping[str, object] = field(default_factory=dict)
    """Options about storing, as they were given."""
    dependencies: tuple[Dependency, ...] = ()
    fixed: Mapping[str, object] = field(default_factory=dict)
    """Arguments that are bound."""
    by_position: frozenset[str] = frozenset()
    """Those of them that later positional ones come after."""
    is_unused: bool = False
    """Whether it was made by `bind` while a flow was written, and neither called nor bound since."""
    called_in: weakref.WeakSet[Graph] = field(default_factory=weakref.WeakSet)
    bound_in: weakref.WeakKeyDictionary[Graph, list[Template]] = field(default_factory=weakref.WeakKeyDictionary)
    """Tasks that `bind` has made of this one while the flow was written."""

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies: graphs are of this process, and of the task that was called in them."""
        return {name: value for name, value in vars(self).items() if name not in ("called_in", "bound_in")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, called_in=weakref.WeakSet(), bound_in=weakref.WeakKeyDictionary())


class Template:
    """What a task can be asked in place of a node; `Task` adds what it is itself.

    In a flow it stands for its calls there: for one call, that node; for none, a call without arguments, made now; for
    several, all of them where the order is meant, and nothing where a value is.
    """

    name: str
    _anabranch: Definition

    def _graphs(self, flow: Any) -> tuple[Graph, ...]:
        raise NotImplementedError

    def _call(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        graphs: tuple[Graph, ...],
        *,
        upstream_tasks: Any = None,
        is_partial: bool = False,
    ) -> Node:
        raise NotImplementedError

    def nodes_in(self, graph: Graph) -> list[Node]:
        """The nodes that stand for this task in a flow: its calls there; called now, if there are none."""
        nodes = self._calls_in(graph)
        if nodes:
            return nodes
        missing = self._anabranch.signature.missing(self._anabranch.fixed)
        if missing:
            raise DefinitionError(
                f"task {self.name!r} is named as a dependency but not called in flow {graph.name!r}, and cannot be "
                f"called without its arguments {listed(missing)} ({caller()}): call it in the flow first"
            )
        return [self._call((), {}, path_of(graph))]

    def _calls_in(self, graph: Graph) -> list[Node]:
        """Calls of this task in a flow, and of the tasks that it was bound to be there."""
        if self._anabranch.is_unused and not self._anabranch.signature.missing(self._anabranch.fixed):
            self._call((), {}, path_of(graph))
        nodes: list[Any] = graph.calls_of(self)
        return [*nodes, *(node for twin in self._anabranch.bound_in.get(graph, ()) for node in twin._calls_in(graph))]

    def _home(self, flow: Any = None, *others: object) -> Graph:
        """The flow that is meant: given, open, that of the other nodes, or the only one this task is called in."""
        if flow is not None or scope.current().graphs:
            return self._graphs(flow)[0]
        nodes = [node for other in others for node in each_of(other) if isinstance(node, Node)]
        if len(self._homes(nodes)) > 1:
            gc.collect()  # a flow that was written again, as in notebooks, is there until somebody looks
        homes = self._homes(nodes)
        if len(homes) > 1:
            names = listed(sorted(graph.name for graph in homes))
            raise AmbiguousTaskError(
                f"task {self.name!r} is called in {len(homes)} flows, {names} ({caller()}): say which one with flow=…"
            )
        if homes:
            return homes[0]
        return home_of(*nodes) if nodes else self._graphs(None)[0]

    def _homes(self, nodes: list[Node]) -> list[Graph]:
        return [graph for graph in self._anabranch.called_in if all(node in graph for node in nodes)]

    def _own(self, flow: Any, *others: object) -> list[Node]:
        """The calls of this task that get edges from others or to them; further edges may bring what they need."""
        graph = self._home(flow, *others)
        for each in (self, *each_of(others)):
            if isinstance(each, Template) and not each._calls_in(graph):
                each._call((), {}, path_of(graph), is_partial=True)
        return self._calls_in(graph)

    def _only(self) -> Node:
        node: Node = node_of(self, self._home())
        return node

    def set_upstream(self, task: object, *, key: str | None = None, mapped: bool = False, flow: Any = None) -> Self:
        """As `Node.set_upstream`, for each call of this task in the flow. Returns this task."""
        for node in self._own(flow, task):
            node.set_upstream(task, key=key, mapped=mapped, flow=flow)
        return self

    def set_downstream(self, task: object, *, key: str | None = None, mapped: bool = False, flow: Any = None) -> Self:
        """As `Node.set_downstream`, for each call of this task in the flow. Returns this task."""
        for node in self._own(flow, task):
            node.set_downstream(task, key=key, mapped=mapped, flow=flow)
        return self

    def set_dependencies(
        self,
        flow: Any = None,
        *,
        upstream_tasks: Iterable[object] | None = None,
        downstream_tasks: Iterable[object] | None = None,
        keyword_tasks: Mapping[str, object] | None = None,
        mapped: bool = False,
    ) -> Self:
        """As `Node.set_dependencies`, for each call of this task in the flow. Returns this task."""
        for node in self._own(flow, upstream_tasks, downstream_tasks, *(keyword_tasks or {}).values()):
            node.set_dependencies(
                flow,
                upstream_tasks=upstream_tasks,
                downstream_tasks=downstream_tasks,
                keyword_tasks=keyword_tasks,
                mapped=mapped,
            )
        return self

    def depends_on(self, *dependencies: object) -> Self:
        """Declare that every call of this task, in any flow, runs after these. Returns this task.

        Calls that are in the open flow already get the dependency too.
        """
        declared = tuple(Dependency.of(each) for each in dependencies)
        if any(each.task is self for each in declared):
            raise DefinitionError(f"task {self.name!r} cannot depend on itself ({caller()})")
        self._anabranch.dependencies = (*self._anabranch.dependencies, *declared)
        for graph in scope.current().graphs[:1]:
            nodes: list[Any] = graph.calls_of(self)
            for node in nodes:
                for dependency in declared:
                    dependency.declare(node, graph)
        return self

    def __or__(self, other: Any) -> Any:
        """``a | b``: run b after a, and stand for b."""
        return self._only() | other

    def run_after(self, node: Node) -> Node:
        """Call without arguments, after `node`: what ``node | task`` does."""
        return self._call((), {}, path_of(home_of(node)), upstream_tasks=[node])

    def __enter__(self) -> Node:
        """A block that runs if the value of this task's one call is truthy."""
        return self._only().__enter__()

    def __exit__(self, *exc_info: object) -> None:
        scope.leave()

    def case(self, value: object) -> Gate:
        """As `Node.case`, for this task's one call in the flow."""
        return self._only().case(value)

    def default(self) -> Gate:
        """As `Node.default`, for this task's one call in the flow."""
        return self._only().default()
