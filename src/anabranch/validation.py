"""Whether a flow is well formed: every problem, with where it was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from anabranch.graph import Graph, NodeLike


def problems_of(graph: Graph, reference: Iterable[NodeLike] = ()) -> list[str]:
    """Everything that is wrong with a graph, one line each; empty if nothing is."""
    return [*_cycles(graph), *_arguments(graph), *_edges(graph), *_parameters(graph), *_references(graph, reference)]


def _shown(graph: Graph, node: NodeLike) -> str:
    slug = graph.entry(node).slug if node in graph else node.name
    return f"{slug} ({node.where})"


def _cycles(graph: Graph) -> Iterator[str]:
    import networkx

    digraph = graph.digraph
    if networkx.is_directed_acyclic_graph(digraph):
        return
    for component in networkx.strongly_connected_components(digraph):
        if len(component) > 1:
            cycle = networkx.find_cycle(digraph.subgraph(component))
            path = " → ".join(graph.entry(up).slug for up, _ in cycle)
            first = graph.entry(cycle[0][0]).slug
            yield f"cycle: {path} → {first}; remove one of these edges ({cycle[0][0].where})"


def _arguments(graph: Graph) -> Iterator[str]:
    for node in graph:
        if node.kind == "parameter":
            continue
        entry = graph.entry(node)
        missing = node.signature.missing(entry.arguments)
        if missing:
            names = ", ".join(map(repr, missing))
            yield f"{_shown(graph, node)}: argument {names} is not bound; pass a value or an upstream node"
        if entry.is_map and not any(edge.mapped for edge in graph.edges_into(node)) and not entry.mapped:
            yield f"{_shown(graph, node)}: a map with nothing to map over"


def _edges(graph: Graph) -> Iterator[str]:
    for edge in graph.edges():
        for end in (edge.upstream, edge.downstream):
            if end not in graph:
                yield f"{_shown(graph, end)} is used by {_shown(graph, edge.downstream)} but is not in flow {graph.name!r}"
    used = {edge.upstream for edge in graph.edges()}
    for node in graph:
        if node.kind == "condition" and node not in used:
            yield f"{_shown(graph, node)}: a case without branches: no task was written in its block"


def _parameters(graph: Graph) -> Iterator[str]:
    names = Counter(node.name for node in graph if node.kind == "parameter")
    for name, count in names.items():
        if count > 1:
            places = ", ".join(str(node.where) for node in graph if node.kind == "parameter" and node.name == name)
            yield f"parameter {name!r} is there {count} times ({places}); use one Parameter object"


def _references(graph: Graph, reference: Iterable[NodeLike]) -> Iterator[str]:
    for node in reference:
        if node not in graph:
            yield f"reference task {node.name!r} ({node.where}) is not in flow {graph.name!r}"
