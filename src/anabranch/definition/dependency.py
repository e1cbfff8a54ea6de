"""Declared dependencies: what every call of a task runs after, in any flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anabranch.base.errors import CallError, DefinitionError, listed
from anabranch.base.names import short
from anabranch.base.where import caller
from anabranch.definition.expressions import Output
from anabranch.definition.graph import Graph
from anabranch.definition.lookup import home_of, node_of, nodes_of, stands_for_node
from anabranch.definition.node import Node
from anabranch.definition.wiring import link


@dataclass(frozen=True)
class Dependency:
    """Something that a task runs after and, with `key`, one output of it that the task needs.

    Parameters
    ----------
    task
        A task, a task class, or a node.
    key
        One output of its value: a key of a mapping, an index or an attribute. None: only the order matters.
    arg
        Argument that gets the output. Default: the parameter named like `key`, else the only unbound parameter. If the
        call has bound all of them, it is only checked that the output exists.

    Examples
    --------
    ``load.depends_on(Dependency(fetch, key="rows"))`` passes ``fetch()["rows"]`` to the parameter ``rows`` of ``load``.
    """

    task: Any  # a Task, a Task class or a Node
    key: Any = None  # a mapping key, an index or an attribute's name
    arg: str | None = None

    def __post_init__(self) -> None:
        if not stands_for_node(self.task) and not hasattr(self.task, "nodes_in"):
            raise DefinitionError(f"Dependency: expected a task or a node, found {short(self.task)} ({caller()})")
        if self.arg is not None and self.key is None:
            raise DefinitionError(
                f"Dependency(arg={self.arg!r}) without a key ({caller()}): say which output of the value it takes, "
                "or pass the whole value in the call"
            )

    @classmethod
    def of(cls, value: object) -> Dependency:
        """`value` itself, or a dependency on the task or node that it is."""
        return value if isinstance(value, Dependency) else cls(value)

    def declare(self, node: Node, graph: Graph) -> None:
        """Let `node` have this dependency once it is known which calls of the task there are."""

        def settle() -> None:
            try:
                self.bind_to(node, graph.path[0])
            except DefinitionError as error:
                raise type(error)(f"{node.name} (written at {node.where}): {error}") from None

        graph.path[0].pend(settle)

    def bind_to(self, node: Node, graph: Graph | None = None) -> None:
        """Add the edges of this dependency to a node.

        Raises
        ------
        DefinitionError
            The task stands for no node, or an output for no argument.
        """
        graph = graph or home_of(node, self.task)
        if self.key is None:
            there = {edge.upstream for edge in graph.edges_into(node)}
            for upstream in self._nodes(graph):
                if upstream not in there:
                    link(upstream, node, "order", graph)
            return
        nodes = self._nodes(graph)
        output = Output(nodes[0] if len(nodes) == 1 else node_of(self.task, graph), self.key)
        argument = self._argument(node, graph)
        for each in graph.family(node):
            if argument is None:
                each.bind(node, {}, checks=[output])
            else:
                each.bind(node, {argument: output})

    def _nodes(self, graph: Graph) -> list[Node]:
        if not isinstance(self.task, type):
            return nodes_of(self.task, graph)
        nodes: list[Any] = graph.calls_of(self.task)
        return nodes or nodes_of(self.task(), graph)

    def _argument(self, node: Node, graph: Graph) -> str | None:
        """The argument that takes the output; None if the call has bound them all."""
        bound = graph.entry(node).arguments
        if self.arg is not None:
            node.signature.check_name(self.arg)
            if self.arg in bound:
                raise CallError(f"Dependency(arg={self.arg!r}) names an argument that the call has bound")
            return self.arg
        free = [name for name in node.signature.named_parameters if name not in bound]
        if self.key in free:
            return str(self.key)
        missing = node.signature.missing(bound)
        if len(missing) > 1:
            raise CallError(
                f"Dependency(key={self.key!r}) does not say which of {listed(missing)} takes the output; add arg=…"
            )
        return missing[0] if missing else free[0] if len(free) == 1 else None
