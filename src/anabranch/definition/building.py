"""What can be written into a flow: nodes and edges, and whole other flows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from anabranch.base.errors import DefinitionError, FlowValidationError, UnknownNodeError
from anabranch.base.names import short
from anabranch.base.prefect1 import refusing
from anabranch.base.signals import LOOP
from anabranch.base.where import Where, caller
from anabranch.definition import scope, strays
from anabranch.definition.branching import as_node
from anabranch.definition.expressions import holds
from anabranch.definition.frozen import Edge
from anabranch.definition.lookup import each_of, foreign, join, node_of, nodes_of, stands_for_node
from anabranch.definition.marks import flatten
from anabranch.definition.node import Node
from anabranch.definition.parameter import Parameter
from anabranch.definition.queries import Queries
from anabranch.definition.task import Task
from anabranch.definition.wiring import check_arguments


class Writing(Queries):
    """The part of `Flow` that changes its graph. Calls of tasks inside its ``with`` block add nodes to it."""

    name: str
    where: Where

    def __enter__(self) -> Self:
        around = scope.current().graphs
        if not around:
            scope.enter(graphs=self.graph.path, made=[])
        elif self.graph in around:
            scope.enter(graphs=around[: around.index(self.graph) + 1])
        else:
            if self.graph.parent is None:
                around[-1].nest(self.graph)
            elif self.graph.parent is not around[-1]:
                raise DefinitionError(
                    f"flow {self.name!r} is a group of flow {self.graph.parent.name!r}, so it cannot be opened inside "
                    f"{around[-1].name!r} ({caller()}); open a new Flow there"
                )
            scope.enter(graphs=(*around, self.graph))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool | None:
        made = scope.current().made
        scope.leave()
        # A plain function that raised LOOP with the nodes it made: they are in the flow already.
        is_loop = isinstance(error, LOOP) and self._has_nodes_of(error.result)
        if (kind is None or is_loop) and not scope.current().graphs:
            graph = self.graph.path[0]
            strays.call_bound(made, graph)
            errors = graph.settle()
            if len(errors) == 1:
                raise errors[0]
            if errors:
                raise self._invalid([str(each) for each in errors])
            strays.warn(made, graph)
        return is_loop

    def _has_nodes_of(self, value: object) -> bool:
        """Whether a value holds nodes of this flow, and of no other."""
        if holds(value, lambda each: isinstance(each, Node) and each not in self.graph):
            return False
        return holds(value, lambda each: isinstance(each, Node))

    def add_task(self, task: object) -> Node:
        """Add a node, a parameter, or a call of a task, which may still lack arguments. Returns the node."""
        if isinstance(task, Node):
            if task not in self.graph and not isinstance(task, Parameter):
                raise UnknownNodeError(f"{foreign(task, self.graph)}, or add the whole of it with flow.update(other)")
            join(task, self.graph.path)
            return task
        if isinstance(task, Task):
            calls: list[Any] = self.graph.calls_of(task)
            return calls[0] if calls else task._call((), {}, self.graph.path, is_partial=True)
        raise DefinitionError(f"add_task: expected a node or a task, found {short(task)} ({caller()})")

    @refusing("flow.add_edge")
    def add_edge(
        self,
        upstream_task: object,
        downstream_task: object,
        key: str | None = None,
        mapped: bool = False,
        flattened: bool = False,
    ) -> Edge:
        """Add an edge; with `key`, the upstream value (its elements, if `flattened`) is passed as that argument."""
        first, second = self._node(upstream_task), self._node(downstream_task)
        value = flatten(first) if flattened else first
        second.set_upstream(value, key=key, mapped=mapped, flow=self)
        return Edge(first, second, "data" if key else "order", key, mapped)

    @refusing("flow.set_dependencies")
    def set_dependencies(
        self,
        task: object,
        upstream_tasks: Iterable[object] | None = None,
        downstream_tasks: Iterable[object] | None = None,
        keyword_tasks: Mapping[str, object] | None = None,
        mapped: bool = False,
    ) -> Node:
        """Add edges around a node or task. Plain values in `keyword_tasks` become constants."""
        node = self._node(task)
        given = (keyword_tasks or {}).items()
        values = {name: self._node(each) if isinstance(each, Task) else each for name, each in given}
        return node.set_dependencies(
            self,
            upstream_tasks=[self._node(each) for each in each_of(upstream_tasks)],
            downstream_tasks=[self._node(each) for each in each_of(downstream_tasks)],
            keyword_tasks=values,
            mapped=mapped,
        )

    def _node(self, value: object) -> Node:
        """One node for a node or a task; a task without calls is added, and may still lack arguments."""
        if isinstance(value, (Node, Task)) and value not in self:
            return self.add_task(value)
        node: Node = node_of(value, self.graph)
        return node

    @refusing("flow.chain")
    def chain(self, *stages: object) -> None:
        """Run stages one after another; a list of nodes, tasks or lists is a parallel stage."""
        before: list[Node] = []
        for stage in stages:
            after = [node for each in each_of(stage) for node in nodes_of(each, self.graph)]
            for node in after:
                node.set_dependencies(self, upstream_tasks=before)
            before = after or before

    @refusing("flow.replace")
    def replace(self, old: object, new: object) -> Node:
        """Replace a node. Returns the node that takes its place.

        A task is called with the arguments and edges of the old node. A node or a plain value is passed to everything
        that used the old one.
        """
        node = self._known_one(old)
        graph = self.graph.path[0]
        if isinstance(new, Task) and new not in self:
            check_arguments(new._anabranch.signature, graph.entry(node).arguments)
            substitute = new._call((), {}, self.graph.path, is_partial=True)
            for each in graph.family(node):
                each.imitate(node, substitute)
        else:
            with scope.open_scope(graphs=self.graph.path, gates=(), elements=(), members=None):
                substitute = self._node(new) if stands_for_node(new) else as_node(new, "replace")
        self._put_in_place(node, substitute)
        return substitute

    def _put_in_place(self, old: Node, new: Node) -> None:
        for graph in self.graph.path[0].family(old):
            graph.substitute(old, new)
        self._reference = tuple(new if each is old else each for each in self._reference)

    @refusing("flow.update")
    def update(self, other: Writing, *, merge_parameters: bool = False, merge_reference_tasks: bool = False) -> None:
        """Add everything of another flow.

        Parameters of the same name are an error. If they are merged, that of the other flow takes the place of both.
        """
        mine = self.parameters(by_name=True)
        theirs = other.parameters(by_name=True)
        clash = [name for name in theirs if name in mine and theirs[name] is not mine[name]]
        if clash and not merge_parameters:
            raise DefinitionError(
                f"flow {self.name!r} and flow {other.name!r} both have the parameters {', '.join(map(repr, clash))} "
                f"({caller()}); pass merge_parameters=True to merge them"
            )
        reference = (*self.reference_tasks(), *other.reference_tasks()) if merge_reference_tasks else self._reference
        path = self.graph.path
        for depth, graph in enumerate(path, start=1):
            graph.include(other.graph, groups=tuple(inner.name for inner in path[depth:]))
        self._reference = tuple(node for node in reference if node in self.graph)
        for name in clash:
            for graph in path[0].family(mine[name]):
                join(theirs[name], (graph,))
            self._put_in_place(mine[name], theirs[name])

    def set_reference_tasks(self, tasks: Iterable[object] | None) -> None:
        """Choose the nodes that decide the state of a run; with an empty list, the terminal nodes."""
        self._reference = tuple(node for task in each_of(tasks) for node in self._known(task))

    def _invalid(self, problems: list[str]) -> FlowValidationError:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        return FlowValidationError(f"flow {self.name!r} ({self.where}) has {count}:", problems)
