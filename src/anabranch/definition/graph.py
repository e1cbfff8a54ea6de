"""The nodes of a graph: their slugs, what is bound to their arguments, and the edges that follow from it.

Nodes are only identities here (`anabranch.definition.node.Node`, seen through `NodeLike`), so that one node can stand
in several graphs: a flow's, its copy's, and those of flows nested in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from anabranch.base.errors import DefinitionError, UnknownNodeError, listed
from anabranch.base.where import Where, caller
from anabranch.definition.expressions import Expression, refs, rename
from anabranch.definition.frozen import Edge, EdgeKind, FrozenGraph, FrozenNode
from anabranch.definition.policies import Policies
from anabranch.definition.signature import Signature

if TYPE_CHECKING:
    import networkx

# The others are used wherever graphs are.
__all__ = ["Edge", "EdgeKind", "Entry", "FrozenGraph", "FrozenNode", "Graph", "NodeLike"]


class NodeLike(Protocol):
    """What a graph, and those who write into it, ask of a node."""

    name: str
    signature: Signature
    policies: Policies
    template: Any  # the Task this is a call of; tasks are above this module
    where: Where
    kind: str
    home: Any  # the Graph it was written in first, which is above this module, or None

    def __hash__(self) -> int: ...

    def helper(self, name: str, function: Callable[..., Any], **options: Any) -> NodeLike:
        """A node of the library's own, written where this one was."""
        ...


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
    outside: tuple[str, ...] = ()
    """In a nested flow: arguments that take their value from around it."""


class Entries:
    """Nodes, what is bound to them, and their edges, seen from both ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._entries: dict[NodeLike, Entry] = {}
        self._slugs: dict[str, NodeLike] = {}
        self._incoming: dict[NodeLike, dict[Edge, None]] = {}
        self._outgoing: dict[NodeLike, dict[Edge, None]] = {}
        self._suffixes: dict[str, int] = {}
        self._calls: dict[int, list[NodeLike]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_calls": None}  # its keys are ids, which mean nothing elsewhere

    # Asking -----------------------------------------------------------------------------------------------------------

    def __contains__(self, node: object) -> bool:
        try:
            return node in self._entries
        except TypeError:  # anything may be asked for, a list too
            return False

    def __iter__(self) -> Iterator[NodeLike]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __bool__(self) -> bool:
        return True

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

    def find(self, slug: str) -> NodeLike | None:
        """The node of that slug, or None if there is none."""
        return self._slugs.get(slug)

    def calls_of(self, template: object) -> list[NodeLike]:
        """Nodes that are calls of a task, or of an instance of a task class."""
        if isinstance(template, type):
            return [node for node in self._entries if isinstance(node.template, template)]
        if self._calls is None:
            self._calls = {}
            for node in self._entries:
                self._calls.setdefault(id(node.template), []).append(node)
        return list(self._calls.get(id(template), ()))

    def edges(self) -> Iterator[Edge]:
        """All edges."""
        for edges in self._incoming.values():
            yield from edges

    def edges_into(self, node: NodeLike) -> tuple[Edge, ...]:
        """Edges whose downstream end is `node`."""
        self.entry(node)
        return tuple(self._incoming[node])

    def edges_from(self, node: NodeLike) -> tuple[Edge, ...]:
        """Edges whose upstream end is `node`."""
        self.entry(node)
        return tuple(self._outgoing[node])

    # Writing ----------------------------------------------------------------------------------------------------------

    def add(self, node: NodeLike, *, groups: tuple[str, ...] = (), slug: str | None = None) -> None:
        """Add a node without arguments; adding it again does nothing."""
        if node in self._entries:
            return
        slug = self._free_slug(slug or node.name)
        self._entries[node] = Entry(slug, groups=groups)
        self._slugs[slug] = node
        self._incoming[node] = {}
        self._outgoing[node] = {}
        if self._calls is not None:
            self._calls.setdefault(id(node.template), []).append(node)

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
        is_map: bool = False,
        checks: Iterable[Expression] = (),
    ) -> None:
        """Bind arguments of a node, adding the edges they need.

        A nested flow leaves out what takes values from around it.

        Raises
        ------
        DefinitionError
            An argument is bound already, or the node would need itself.
        """
        entry = self.entry(node)
        twice = [name for name in arguments if name in entry.arguments]
        if twice:
            raise DefinitionError(f"{entry.slug}: argument {listed(twice)} is bound already (node of {node.where})")
        mapped = frozenset(mapped)
        inside = {name: each for name, each in arguments.items() if self._has_all(each)}
        edges = [Edge(up, node, "data", name, name in mapped) for name, each in inside.items() for up in refs(each)]
        checked = [each for each in checks if self._has_all(each)]
        edges += [Edge(up, node, "data") for each in checked for up in refs(each)]
        for edge in edges:
            self._check_ends(edge)
        self._entries[node] = replace(
            entry,
            arguments={**entry.arguments, **inside},
            mapped=entry.mapped | mapped,
            is_map=entry.is_map or bool(mapped) or is_map,
            checks=(*entry.checks, *checked),
            outside=(*entry.outside, *(name for name in arguments if name not in inside)),
        )
        for edge in edges:
            self._put(edge)

    def _has_all(self, expression: Expression) -> bool:
        return all(up in self._entries for up in refs(expression))

    def link(self, edge: Edge) -> None:
        """Add an edge; adding it again does nothing."""
        self._check_ends(edge)
        self._put(edge)

    def _check_ends(self, edge: Edge) -> None:
        for end in (edge.upstream, edge.downstream):
            self.entry(end)
        if edge.upstream is edge.downstream:
            slug, where = self.entry(edge.upstream).slug, edge.upstream.where
            raise DefinitionError(
                f"{slug} cannot depend on itself (node of {where}); remove the edge, or name another task"
            )
        if edge.downstream.kind == "parameter":
            name, where = edge.downstream.name, edge.downstream.where
            raise DefinitionError(f"parameter {name!r} cannot have anything upstream (written at {where})")

    def _put(self, edge: Edge) -> None:
        self._incoming[edge.downstream][edge] = None
        self._outgoing[edge.upstream][edge] = None


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
        if new.kind == "parameter" and new.name not in self._slugs:  # `old` had the name until now
            del self._slugs[self._entries[new].slug]
            self._slugs[new.name] = new
            self._entries[new] = replace(self._entries[new], slug=new.name)

    # Order ------------------------------------------------------------------------------------------------------------

    @property
    def digraph(self) -> networkx.DiGraph[NodeLike]:
        """The graph as networkx sees it: one edge where one or more lead."""
        import networkx

        digraph: networkx.DiGraph[NodeLike] = networkx.DiGraph()
        digraph.add_nodes_from(self._entries)
        digraph.add_edges_from((edge.upstream, edge.downstream) for edge in self.edges())
        return digraph

    @property
    def is_in_order(self) -> bool:
        """Whether each node was written after all that leads to it; then there is no cycle."""
        order = self._written_order
        return all(order[edge.upstream] < order[edge.downstream] for edge in self.edges())

    @property
    def _written_order(self) -> dict[NodeLike, int]:
        return {node: i for i, node in enumerate(self._entries)}

    def sorted_nodes(self) -> list[NodeLike]:
        """Nodes in topological order, in the order they were written where that leaves a choice.

        Raises
        ------
        DefinitionError
            There is a cycle.
        """
        if self.is_in_order:
            return list(self._entries)
        import networkx

        order = self._written_order
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
                edges=tuple(Edge(slug_of(e.upstream), entry.slug, e.kind, e.key, e.mapped) for e in edges),
                where=str(node.where),
                feeds_map=not entry.is_map and any(edge.mapped for edge in self._outgoing[node]),
            )
        frozen = FrozenGraph(nodes, tuple(slug_of(node) for node in reference))
        return frozen if frozen.reference else replace(frozen, reference=frozen.terminal)
