"""Where something is written, and what it is written about: the graphs that are meant, and the nodes in them.

What stands for nodes has a method ``nodes_in(graph)``: nodes stand for themselves, a task stands for its calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from anabranch.base.errors import (
    AmbiguousTaskError,
    DefinitionError,
    OptionError,
    OutsideFlowError,
    UnknownNodeError,
    listed,
)
from anabranch.base.names import short
from anabranch.base.where import caller
from anabranch.definition import scope
from anabranch.definition.expressions import holds
from anabranch.definition.graph import Graph, NodeLike
from anabranch.definition.marks import Mark

# Graphs ---------------------------------------------------------------------------------------------------------------


def open_graphs(what: str, flow: Any = None) -> tuple[Graph, ...]:
    """The graphs to write into: those of `flow` if one is given, else of the flow that is open.

    Raises
    ------
    OutsideFlowError
        None is open.
    """
    if flow is not None:
        graph = getattr(flow, "graph", None)
        if not isinstance(graph, Graph):
            raise OptionError(f"{what}: flow= takes a Flow, found {short(flow)} ({caller()})")
        return path_of(graph)
    graphs = scope.current().graphs
    if not graphs:
        raise OutsideFlowError(
            f"{what} was called with no flow open ({caller()}); open one (`with Flow(…) as flow:`) to make it a node, "
            f"or use {what.removesuffix('()')}.run(…) to call the function itself"
        )
    return graphs


def path_of(graph: Graph) -> tuple[Graph, ...]:
    """The graphs to write into so that a node gets into this one: those that are open, if it is the open one."""
    graphs = scope.current().graphs
    return graphs if graph in graphs[:1] else graph.path


def home_of(node: NodeLike, *others: object, flow: Any = None) -> Graph:
    """The graph that nodes have in common: the flow's that is given or open, else the one they were written in.

    Raises
    ------
    OutsideFlowError
        The node is in no flow yet.
    UnknownNodeError
        The nodes are of different flows.
    """
    nodes: list[Any] = [node, *(other for other in others if is_node(other))]
    if flow is not None:
        candidates = [open_graphs(node.name, flow)[0]]
    else:
        candidates = [*scope.current().graphs[:1], *(each.home.path[0] for each in nodes if each.home is not None)]
    for graph in candidates:
        if all(each in graph or each.kind == "parameter" for each in nodes):
            return graph
    if node.home is None:
        raise OutsideFlowError(f"{node.name!r} (written at {node.where}) is in no flow yet: use it inside one first")
    stranger = next(each for each in nodes if each not in candidates[0])
    raise UnknownNodeError(foreign(stranger, candidates[0]))


def foreign(node: NodeLike, graph: Graph) -> str:
    """A message about a node of another flow."""
    home = f"flow {node.home.name!r}" if node.home is not None else "no flow"
    return (
        f"node {node.name!r} (written at {node.where}) belongs to {home}, not to flow {graph.name!r} ({caller()}); "
        "call its task in this flow"
    )


def join(node: NodeLike, graphs: Iterable[Graph]) -> None:
    """Let a parameter be in these graphs, as it may be used anywhere; refuse any other node that is not.

    Raises
    ------
    UnknownNodeError
        The node is of another flow.
    """
    for depth, graph in enumerate(graphs):
        if node in graph:
            continue
        if node.kind == "parameter":
            graph.add(node)
            node.home = node.home or graph
        elif depth == 0:
            raise UnknownNodeError(foreign(node, graph))


# What stands for nodes ------------------------------------------------------------------------------------------------


def is_node(value: object) -> bool:
    """Whether a value is a node."""
    return hasattr(type(value), "nodes_in") and hasattr(type(value), "helper")


def is_node_of(value: Any, graph: Graph) -> bool:
    """Whether a value is a node of a flow, or of none yet: a node of another flow is known by its run, as any value."""
    return is_node(value) and (value in graph or value.home is None)


def stands_for_node(value: object) -> bool:
    """Whether a value is a node, a task or a mark, and so no constant."""
    return hasattr(type(value), "nodes_in") or isinstance(value, Mark)


def holds_node(value: object) -> bool:
    """Whether there is a node, a task or a mark in a value, at any depth."""
    return holds(value, stands_for_node)


def each_of(value: object) -> Iterator[object]:
    """Nodes and tasks in what was given for several of them: a list, also a nested one, one of them, or None."""
    if isinstance(value, Mark):
        value = value.value
    if isinstance(value, (list, tuple, set, frozenset, Iterator)):
        for part in value:
            yield from each_of(part)
    elif value is not None:
        yield value


def nodes_of(value: Any, graph: Graph) -> list[Any]:
    """The nodes that something stands for: a node itself; a task, its calls (called now if there are none)."""
    if not hasattr(type(value), "nodes_in"):
        kind = type(value).__name__
        raise DefinitionError(f"expected a node or a task, found {short(value)} of type {kind} ({caller()})")
    nodes: list[Any] = value.nodes_in(graph)
    return nodes


def node_of(value: object, graph: Graph) -> Any:
    """The one node that something stands for.

    Raises
    ------
    AmbiguousTaskError
        It is a task with several calls.
    """
    nodes = nodes_of(value, graph)
    if len(nodes) != 1:
        slugs = [graph.entry(node).slug for node in nodes]
        raise AmbiguousTaskError(
            f"{short(value)} stands for {len(nodes)} nodes in flow {graph.name!r}: {listed(slugs)}; "
            f"use the node that its call returned ({caller()})"
        )
    return nodes[0]
