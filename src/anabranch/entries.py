"""The nodes of a graph: their slugs, what is bound to their arguments, and the edges that follow from it.

Nodes are only identities here (`anabranch.node.Node`, seen through `NodeLike`), so that one node can stand in several
graphs: a flow's, its copy's, and those of flows nested in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from anabranch.bindings import Expression, refs
from anabranch.errors import DefinitionError, UnknownNodeError, listed
from anabranch.frozen import Edge
from anabranch.policies import Policies
from anabranch.signature import Signature
from anabranch.where import Where


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
                f"{slug} cannot depend on itself (node of {where}); take the edge away, or name another task"
            )
        if edge.downstream.kind == "parameter":
            name, where = edge.downstream.name, edge.downstream.where
            raise DefinitionError(f"parameter {name!r} cannot have anything upstream (written at {where})")

    def _put(self, edge: Edge) -> None:
        self._incoming[edge.downstream][edge] = None
        self._outgoing[edge.upstream][edge] = None
