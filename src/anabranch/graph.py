"""The graph of a flow: add, bind, check, walk, groups, freeze.

A `Graph` holds, for each node, its slug and what is bound to its arguments; networkx holds the edges. Nodes are only
identities here (`anabranch.node.Node`, seen through `NodeLike`), so that one node can stand in several graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from anabranch.bindings import Expression, refs, rename
from anabranch.errors import DefinitionError, UnknownNodeError, listed
from anabranch.frozen import Edge, EdgeKind, FrozenGraph, FrozenNode
from anabranch.policies import Policies
from anabranch.signature import Signature

if TYPE_CHECKING:
    import networkx

    from anabranch.where import Where


class NodeLike(Protocol):
    """What a graph asks of a node."""

    name: str
    signature: Signature
    policies: Policies
    template: Any  # the Task this is a call of; tasks are above this module
    where: Where
    kind: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What a graph knows of one of its nodes."""

    slug: str
    arguments: Mapping[str, Expression] = field(default_factory=dict)
    mapped: frozenset[str] = frozenset()
    """Arguments that take elements."""
    is_map: bool = False
    checks: tuple[Expression, ...] = ()
    """Evaluated before the call and not passed: outputs that must exist."""
    groups: tuple[str, ...] = ()
    """Names of the nested flows the node was written in, outermost first."""


class Graph:
    """Nodes, what is bound to them, and the edges that follow from it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._entries: dict[NodeLike, Entry] = {}
        self._slugs: dict[str, NodeLike] = {}
        self._incoming: dict[NodeLike, dict[Edge, None]] = {}
        self._suffixes: dict[str, int] = {}
        self._pending: list[Callable[[], None]] = []

    def __contains__(self, node: object) -> bool:
        return node in self._entries

    def __iter__(self) -> Iterator[NodeLike]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, node: NodeLike) -> Entry:
        """What is known of a node.

        Raises
        ------
        UnknownNodeError
            The node is not in this graph.
        """
        try:
            return self._entries[node]
        except KeyError:
            message = f"node {node.name!r} (written at {node.where}) is not in flow {self.name!r}"
            raise UnknownNodeError(message) from None

    def by_slug(self, slug: str) -> NodeLike:
        """The node of that slug."""
        return self._slugs[slug]

    def calls_of(self, template: object) -> list[NodeLike]:
        """Nodes that are calls of a task, or of an instance of a task class."""
        if isinstance(template, type):
            return [node for node in self._entries if isinstance(node.template, template)]
        return [node for node in self._entries if node.template is template]

    def add(self, node: NodeLike, *, groups: tuple[str, ...] = (), slug: str | None = None) -> None:
        """Add a node without arguments; adding it again does nothing."""
        if node in self._entries:
            return
        slug = self._free_slug(slug or node.name)
        self._entries[node] = Entry(slug, groups=groups)
        self._slugs[slug] = node
        self._incoming[node] = {}

    def _free_slug(self, name: str) -> str:
        if name not in self._slugs:
            return name
        # The counter makes a thousand calls of one task linear; the loop skips names the user has given.
        n = self._suffixes.get(name, 0) + 1
        while f"{name}-{n}" in self._slugs:
            n += 1
        self._suffixes[name] = n
        return f"{name}-{n}"

    def bind(
        self,
        node: NodeLike,
        arguments: Mapping[str, Expression],
        *,
        mapped: Iterable[str] = (),
        is_map: bool | None = None,
        checks: Iterable[Expression] = (),
    ) -> None:
        """Bind arguments of a node, adding the edges they need.

        Raises
        ------
        DefinitionError
            An argument is bound already.
        """
        entry = self.entry(node)
        twice = [name for name in arguments if name in entry.arguments]
        if twice:
            raise DefinitionError(f"{entry.slug}: argument {listed(twice)} is bound already (node of {node.where})")
        mapped, checks = frozenset(mapped), tuple(checks)
        self._entries[node] = replace(
            entry,
            arguments={**entry.arguments, **arguments},
            mapped=entry.mapped | mapped,
            is_map=entry.is_map or bool(mapped) if is_map is None else is_map,
            checks=(*entry.checks, *checks),
        )
        for name, expression in arguments.items():
            for upstream in refs(expression):
                self.link(Edge(upstream, node, "data", name, mapped=name in mapped))
        for expression in checks:
            for upstream in refs(expression):
                self.link(Edge(upstream, node, "data"))

    def link(self, edge: Edge) -> None:
        """Add an edge; adding it again does nothing."""
        for end in (edge.upstream, edge.downstream):
            self.entry(end)
        if edge.upstream is edge.downstream:
            raise DefinitionError(f"{self.entry(edge.upstream).slug} cannot depend on itself")
        if edge.downstream.kind == "parameter":
            raise DefinitionError(f"parameter {edge.downstream.name!r} cannot have anything upstream")
        self._incoming[edge.downstream][edge] = None

    def pend(self, action: Callable[[], None]) -> None:
        """Remember something to do once the flow is written: a declared dependency may name a task called later."""
        self._pending.append(action)

    def settle(self) -> None:
        """Do what is pending."""
        while self._pending:
            self._pending.pop(0)()

    def edges(self) -> Iterator[Edge]:
        """All edges."""
        for edges in self._incoming.values():
            yield from edges

    def edges_into(self, node: NodeLike) -> tuple[Edge, ...]:
        """Edges whose downstream end is `node`."""
        self.entry(node)
        return tuple(self._incoming[node])

    @property
    def digraph(self) -> networkx.DiGraph[NodeLike]:
        """The graph as networkx sees it: one edge where one or more lead."""
        import networkx

        digraph: networkx.DiGraph[NodeLike] = networkx.DiGraph()
        digraph.add_nodes_from(self._entries)
        digraph.add_edges_from((edge.upstream, edge.downstream) for edge in self.edges())
        return digraph

    def copy(self, name: str) -> Graph:
        """A graph of the same nodes that can be changed without changing this one."""
        twin = Graph(name)
        twin._entries = dict(self._entries)
        twin._slugs = dict(self._slugs)
        twin._incoming = {node: dict(edges) for node, edges in self._incoming.items()}
        twin._suffixes = dict(self._suffixes)
        return twin

    def include(self, other: Graph) -> None:
        """Add the nodes, arguments and edges of another graph; slugs that are taken get a suffix."""
        for node in other:
            if node in self:
                continue
            entry = other.entry(node)
            self.add(node, groups=entry.groups, slug=entry.slug)
            self._entries[node] = replace(entry, slug=self._entries[node].slug)
        for edge in other.edges():
            self.link(edge)

    def substitute(self, old: NodeLike, new: NodeLike) -> None:
        """Put another node of the graph in the place that `old` has as an upstream, and remove `old`."""

        def swap(node: NodeLike) -> NodeLike:
            return new if node is old else node

        del self._slugs[self.entry(old).slug]
        del self._entries[old]
        for node, entry in self._entries.items():
            arguments = {name: rename(expression, swap) for name, expression in entry.arguments.items()}
            checks = tuple(rename(expression, swap) for expression in entry.checks)
            self._entries[node] = replace(entry, arguments=arguments, checks=checks)
        del self._incoming[old]
        for node, edges in self._incoming.items():
            self._incoming[node] = {replace(edge, upstream=swap(edge.upstream)): None for edge in edges}

    def sorted_nodes(self) -> list[NodeLike]:
        """Nodes in topological order, in the order they were written where that leaves a choice."""
        import networkx

        order = {node: i for i, node in enumerate(self._entries)}
        return list(networkx.lexicographical_topological_sort(self.digraph, key=order.__getitem__))

    def freeze(self, reference: Iterable[NodeLike] = ()) -> FrozenGraph:
        """The graph as plain values; `reference` nodes default to the terminal ones."""

        def slug_of(node: NodeLike) -> str:
            return self._entries[node].slug

        feeding = {
            edge.upstream for edge in self.edges() if edge.mapped and not self._entries[edge.upstream].is_map
        }
        nodes = {}
        for node in self.sorted_nodes():
            entry = self._entries[node]
            nodes[entry.slug] = FrozenNode(
                slug=entry.slug,
                name=node.name,
                kind=node.kind,
                signature=node.signature,
                policies=node.policies,
                arguments={name: rename(expr, slug_of) for name, expr in entry.arguments.items()},
                mapped=entry.mapped,
                is_map=entry.is_map,
                checks=tuple(rename(expr, slug_of) for expr in entry.checks),
                edges=tuple(
                    replace(edge, upstream=slug_of(edge.upstream), downstream=entry.slug) for edge in self._incoming[node]
                ),
                where=str(node.where),
                feeds_map=node in feeding,
            )
        frozen = FrozenGraph(nodes, tuple(slug_of(node) for node in reference))
        return frozen if frozen.reference else replace(frozen, reference=frozen.terminal)

