"""The shape of a flow as plain data: what pages draw, and what the record keeps so that they can draw it later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anabranch.definition.graph import Graph


@dataclass(frozen=True, slots=True)
class ShapeNode:
    """A node as far as it is drawn."""

    slug: str
    kind: str = "task"
    is_map: bool = False
    groups: tuple[str, ...] = ()
    """Names of the nested flows that it is in, outermost first."""


@dataclass(frozen=True, slots=True)
class ShapeEdge:
    """An edge as far as it is drawn; both ends by slug."""

    upstream: str
    downstream: str
    kind: str = "data"
    mapped: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """Nodes in topological order, and the edges between them."""

    nodes: tuple[ShapeNode, ...] = ()
    edges: tuple[ShapeEdge, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """The shape as JSON can hold it; edges by the places of their ends, which is half as long."""
        places = {node.slug: place for place, node in enumerate(self.nodes)}
        return {
            "nodes": [[node.slug, node.kind, int(node.is_map), list(node.groups)] for node in self.nodes],
            "edges": [[places[e.upstream], places[e.downstream], e.kind, int(e.mapped)] for e in self.edges],
        }


def shape_of(graph: Graph) -> Shape:
    """The shape of a flow's graph; edges that differ only in the argument they feed are one."""
    nodes: list[ShapeNode] = []
    edges: dict[ShapeEdge, None] = {}
    for node in graph:
        entry = graph.entry(node)
        nodes.append(ShapeNode(entry.slug, node.kind, entry.is_map, tuple(entry.groups)))
        for edge in graph.edges_into(node):
            edges[ShapeEdge(graph.entry(edge.upstream).slug, entry.slug, edge.kind, edge.mapped)] = None
    return Shape(tuple(nodes), tuple(edges))


def shape_from(data: object) -> Shape:
    """The shape that `Shape.as_data` gave; an empty one for anything else, as another version may have written it."""
    try:
        return _read_shape(data)
    except (TypeError, ValueError, KeyError, IndexError):
        return Shape()


def _read_shape(data: object) -> Shape:
    if not isinstance(data, Mapping):
        return Shape()
    nodes = tuple(
        ShapeNode(str(slug), str(kind), bool(is_map), tuple(map(str, groups)))
        for slug, kind, is_map, groups in data["nodes"]
    )
    edges = tuple(
        ShapeEdge(nodes[tail].slug, nodes[head].slug, str(kind), bool(mapped))
        for tail, head, kind, mapped in data["edges"]
    )
    return Shape(nodes, edges)
