"""What can be asked of a flow: its nodes, its edges, its parameters."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from typing import Literal, overload

from anabranch.base.errors import AmbiguousTaskError, UnknownNodeError, listed, nearest
from anabranch.base.names import short
from anabranch.base.where import caller
from anabranch.definition import scope
from anabranch.definition.frozen import Edge
from anabranch.definition.graph import Graph, NodeLike
from anabranch.definition.lookup import each_of
from anabranch.definition.node import Node
from anabranch.definition.parameter import Parameter


class Queries:
    """The half of `Flow` that only reads. A task, or a name, may stand for a node wherever one is asked about."""

    graph: Graph
    _reference: tuple[Node, ...]

    @property
    def tasks(self) -> list[Node]:
        """All nodes, in the order they were written."""
        self._settle()
        return _nodes(self.graph)

    @property
    def edges(self) -> list[Edge]:
        """All edges."""
        self._settle()
        return list(self.graph.edges())

    def _settle(self) -> None:
        """Resolve declared dependencies, unless the flow is still being written."""
        root = self.graph.path[0]
        if root not in scope.current().graphs:
            root.settle()  # what cannot be settled is validate()'s to tell

    def __iter__(self) -> Iterator[Node]:
        return iter(self.sorted_tasks())

    def __contains__(self, task: object) -> bool:
        return task in self.graph or bool(self.graph.calls_of(task))

    def __len__(self) -> int:
        return len(self.graph)

    def __bool__(self) -> bool:
        return True

    def sorted_tasks(self, root_tasks: Iterable[object] | None = None) -> list[Node]:
        """Nodes in topological order; of these nodes and all that is downstream of them, if some are given.

        Raises
        ------
        DefinitionError
            There is a cycle.
        """
        self._settle()
        nodes = _nodes(self.graph.sorted_nodes())
        reached = {node for task in each_of(root_tasks) for node in self._known(task)}
        if not reached:
            return nodes
        for node in nodes:
            if any(edge.upstream in reached for edge in self.graph.edges_into(node)):
                reached.add(node)
        return [node for node in nodes if node in reached]

    def root_tasks(self) -> list[Node]:
        """Nodes with nothing upstream."""
        return [node for node in self.tasks if not self.graph.edges_into(node)]

    def terminal_tasks(self) -> list[Node]:
        """Nodes with nothing downstream."""
        return [node for node in self.tasks if not self.graph.edges_from(node)]

    def reference_tasks(self) -> list[Node]:
        """Nodes that decide the state of a run: those chosen, else those that nothing but a cleanup follows."""
        return list(self._reference) or [
            node
            for node in self.tasks
            if node.kind != "cleanup" and all(edge.downstream.kind == "cleanup" for edge in self.graph.edges_from(node))
        ]

    def edges_to(self, task: object) -> list[Edge]:
        """Edges into a node."""
        self._settle()
        return list(self.graph.edges_into(self._known_one(task)))

    def edges_from(self, task: object) -> list[Edge]:
        """Edges out of a node."""
        self._settle()
        return list(self.graph.edges_from(self._known_one(task)))

    def upstream_tasks(self, task: object) -> list[Node]:
        """Nodes directly upstream."""
        return _nodes(dict.fromkeys(edge.upstream for edge in self.edges_to(task)))

    def downstream_tasks(self, task: object) -> list[Node]:
        """Nodes directly downstream."""
        return _nodes(dict.fromkeys(edge.downstream for edge in self.edges_from(task)))

    def get_tasks(
        self,
        name: str | None = None,
        slug: str | None = None,
        tags: Iterable[str] | None = None,
        task_type: type | None = None,
        *,
        task: object = None,
    ) -> list[Node]:
        """Nodes that have all of what is given: name, slug, tags (at least these), class of tasks, task."""
        wanted = frozenset(tags or ())
        calls = None if task is None else set(self.graph.calls_of(task))
        return [
            node
            for node in self.tasks
            if (name is None or node.name == name)
            and (slug is None or self.graph.entry(node).slug == slug)
            and wanted <= node.policies.tags
            and (calls is None or node in calls)
            and (task_type is None or isinstance(node if node.template is None else node.template, task_type))
        ]

    @overload
    def parameters(self, *, by_name: Literal[False] = False) -> set[Parameter]: ...
    @overload
    def parameters(self, *, by_name: Literal[True]) -> dict[str, Parameter]: ...
    def parameters(self, *, by_name: bool = False) -> set[Parameter] | dict[str, Parameter]:
        """The flow's parameters: a set, or a dict by name."""
        found = {node.name: node for node in self.tasks if isinstance(node, Parameter)}
        return found if by_name else set(found.values())

    def _known(self, task: object) -> list[Node]:
        """Nodes of this flow that something stands for: itself, the calls of a task, or those of that name.

        Raises
        ------
        UnknownNodeError
            There is none.
        """
        if task in self.graph:
            return [typing.cast(Node, task)]
        if isinstance(task, str):
            found = [node for node in self.tasks if self.graph.entry(node).slug == task]
            found = found or [node for node in self.tasks if node.name == task]
            known = [self.graph.entry(node).slug for node in self.graph]
            hint = f"; it has: {listed(known[:20])}{nearest(task, known)}"
        else:
            found = _nodes(self.graph.calls_of(task))
            hint = "" if isinstance(task, Node) else " as a task that is called"
        if not found:
            raise UnknownNodeError(f"flow {self.graph.name!r} does not have {short(task)}{hint} ({caller()})")
        return found

    def _known_one(self, task: object) -> Node:
        found = self._known(task)
        if len(found) > 1:
            slugs = [self.graph.entry(node).slug for node in found]
            raise AmbiguousTaskError(
                f"{short(task)} stands for {len(found)} nodes in flow {self.graph.name!r}: {listed(slugs)} ({caller()})"
            )
        return found[0]


def _nodes(nodes: Iterable[NodeLike]) -> list[Node]:
    """Nodes of a graph, which are all of this class."""
    return typing.cast("list[Node]", list(nodes))
