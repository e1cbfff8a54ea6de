"""The graph of a flow: its nodes, the flows nested in it, their order, and what the engine gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from anabranch.bindings import rename
from anabranch.entries import Entries, Entry, NodeLike
from anabranch.errors import DefinitionError
from anabranch.frozen import Edge, EdgeKind, FrozenGraph, FrozenNode
from anabranch.where import caller

if TYPE_CHECKING:
    import networkx

# The others are used wherever graphs are.
__all__ = ["Edge", "EdgeKind", "Entry", "FrozenGraph", "FrozenNode", "Graph", "NodeLike"]


class Graph(Entries):
    """The nodes of a flow, and its place among the flows that it is nested in."""

    def __init__(self, name: str, parent: Graph | None = None) -> None:
        super().__init__(name)
        self.parent = parent
        """The graph that this one is nested in."""
        self._children: list[Graph] = []
        if parent is not None:
            parent._children.append(self)
        self._pending: list[Callable[[], None]] = []

    @property
    def path(self) -> tuple[Graph, ...]:
        """The graphs that this one is nested in, outermost first, and itself."""
        return (*self.parent.path, self) if self.parent is not None else (self,)

    def family(self, node: NodeLike) -> tuple[Graph, ...]:
        """The graph itself, and those nested in it that have the node."""
        return (self, *(inner for child in self._children if node in child for inner in child.family(node)))

    def pend(self, action: Callable[[], None]) -> None:
        """Remember something to do once the flow is written: a declared dependency may name a task called later."""
        self._pending.append(action)

    def settle(self) -> list[DefinitionError]:
        """Do what is pending. What cannot be done stays pending; its errors are returned."""
        errors: list[DefinitionError] = []
        failed: list[Callable[[], None]] = []
        while self._pending:
            pending, self._pending = self._pending, []
            for action in pending:
                try:
                    action()
                except DefinitionError as error:
                    errors.append(error)
                    failed.append(action)
        self._pending = failed
        return errors

    # Graphs of graphs -------------------------------------------------------------------------------------------------

    def nest(self, inner: Graph) -> None:
        """Make `inner` a group of this graph; what it has already is then in this one too."""
        inner.parent = self
        self._children.append(inner)
        for depth, outer in enumerate(self.path, start=1):
            outer.include(inner, groups=tuple(graph.name for graph in inner.path[depth:]))
        self.path[0]._pending += inner._pending
        inner._pending = []

    def include(self, other: Graph, *, groups: tuple[str, ...] = ()) -> None:
        """Add the nodes, arguments and edges of another graph; slugs that are taken get a suffix."""
        fresh = [node for node in other if node not in self]
        for node in fresh:
            entry = other.entry(node)
            self.add(node, slug=entry.slug)
            self._entries[node] = replace(entry, slug=self._entries[node].slug, groups=(*groups, *entry.groups))
        for edge in other.edges():
            self.link(edge)

    def copy(self, name: str, parent: Graph | None = None) -> Graph:
        """A graph of the same nodes that can be changed without changing this one."""
        twin = Graph(name, parent)
        for child in self._children:
            child.copy(child.name, twin)
        twin._entries = dict(self._entries)
        twin._slugs = dict(self._slugs)
        twin._incoming = {node: dict(edges) for node, edges in self._incoming.items()}
        twin._outgoing = {node: dict(edges) for node, edges in self._outgoing.items()}
        twin._suffixes = dict(self._suffixes)
        return twin

    def imitate(self, old: NodeLike, new: NodeLike) -> None:
        """Give `new` what `old` has upstream: the arguments that are not bound yet, and the order."""
        entry, bound = self.entry(old), self.entry(new).arguments
        arguments = {name: each for name, each in entry.arguments.items() if name not in bound}
        self.bind(new, arguments, mapped=entry.mapped, is_map=entry.is_map, checks=entry.checks)
        for edge in self.edges_into(old):
            if edge.kind != "data":
                self.link(replace(edge, downstream=new))

    def substitute(self, old: NodeLike, new: NodeLike) -> None:
        """Let what needs `old` need `new`, another node of the graph, and remove `old`."""

        def swap(node: NodeLike) -> NodeLike:
            return new if node is old else node

        if any(edge.downstream is new for edge in self.edges_from(old)):
            what = f"{self.entry(new).slug} needs {self.entry(old).slug}, so it cannot take its place"
            raise DefinitionError(f"{what} ({caller()})")
        del self._slugs[self.entry(old).slug]
        self._calls = None
        for edge in self._incoming.pop(old):
            del self._outgoing[edge.upstream][edge]
        for edge in self._outgoing.pop(old):
            user = edge.downstream
            entry = self._entries[user]
            arguments = {name: rename(expression, swap) for name, expression in entry.arguments.items()}
            checks = tuple(rename(expression, swap) for expression in entry.checks)
            self._entries[user] = replace(entry, arguments=arguments, checks=checks)
            del self._incoming[user][edge]
            self._put(replace(edge, upstream=new))
        del self._entries[old]

    # Order ------------------------------------------------------------------------------------------------------------

    @property
    def digraph(self) -> networkx.DiGraph[NodeLike]:
        """The graph as networkx sees it: one edge where one or more lead."""
        import networkx

        digraph: networkx.DiGraph[NodeLike] = networkx.DiGraph()
        digraph.add_nodes_from(self._entries)
        digraph.add_edges_from((edge.upstream, edge.downstream) for edge in self.edges())
        return digraph

    def sorted_nodes(self) -> list[NodeLike]:
        """Nodes in topological order, in the order they were written where that leaves a choice.

        Raises
        ------
        DefinitionError
            There is a cycle.
        """
        import networkx

        order = {node: i for i, node in enumerate(self._entries)}
        try:
            return list(networkx.lexicographical_topological_sort(self.digraph, key=order.__getitem__))
        except networkx.NetworkXUnfeasible:
            message = f"flow {self.name!r} has a cycle, so its nodes have no order; flow.validate() shows it"
            raise DefinitionError(message) from None

    def freeze(self, reference: Iterable[NodeLike] = ()) -> FrozenGraph:
        """The graph as plain values; `reference` nodes default to the terminal ones."""

        def slug_of(node: NodeLike) -> str:
            return self._entries[node].slug

        nodes = {}
        for node in self.sorted_nodes():
            entry = self._entries[node]
            edges = self._incoming[node]
            nodes[entry.slug] = FrozenNode(
                slug=entry.slug,
                name=node.name,
                kind=node.kind,
                signature=node.signature,
                policies=node.policies,
                arguments={
                    name: rename(each, slug_of) for name, each in node.signature.in_order(entry.arguments).items()
                },
                mapped=entry.mapped,
                is_map=entry.is_map,
                checks=tuple(rename(each, slug_of) for each in entry.checks),
                edges=tuple(replace(edge, upstream=slug_of(edge.upstream), downstream=entry.slug) for edge in edges),
                where=str(node.where),
                feeds_map=not entry.is_map and any(edge.mapped for edge in self._outgoing[node]),
            )
        frozen = FrozenGraph(nodes, tuple(slug_of(node) for node in reference))
        return frozen if frozen.reference else replace(frozen, reference=frozen.terminal)
