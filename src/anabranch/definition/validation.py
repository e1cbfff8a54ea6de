"""Whether a flow is well formed: every problem, with where it was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from anabranch.base.errors import listed
from anabranch.base.secret import Secret
from anabranch.definition.expressions import Expression
from anabranch.definition.graph import Graph, NodeLike
from anabranch.definition.lookup import is_node_of, stands_for_node
from anabranch.definition.parameter import Parameter
from anabranch.definition.stowaways import find_stowaway, names_in_globals

if TYPE_CHECKING:
    from anabranch.results.result import Result


def problems_of(graph: Graph, reference: Iterable[NodeLike] = (), result: Result | None = None) -> list[str]:
    """Everything that is wrong with a graph, and with a flow's `result` for it, one line each; empty if nothing is."""
    return [
        *_cycles(graph),
        *_arguments(graph),
        *_functions(graph),
        *_conditions(graph),
        *_check_parameters(graph),
        *_references(graph, reference),
        *_storing(graph, result),
    ]


def _storing(graph: Graph, result: Result | None) -> Iterator[str]:
    """What is wrong with how values are to be stored, as far as that shows before a run."""
    if result is None and all(node.policies.storing is None for node in graph):
        return
    from anabranch.definition import storing as stores  # only flows that store need it

    parameters = [node.name for node in graph if node.kind == "parameter"]
    for node in graph:
        if node.kind != "task" or (result is None and node.policies.storing is None):
            continue
        entry = graph.entry(node)
        storing = stores.completed(node.policies.storing, flow_result=result, checkpointing=False, default=_no_place)
        if storing is not None:
            mapped = entry.mapped if entry.is_map else None
            for problem in stores.find_storing_problems(
                storing, inputs=list(entry.arguments), parameters=parameters, mapped=mapped
            ):
                yield f"{_label(graph, node)}: {problem}"
            if names := sorted(storing.template.fields & _secret_fields(graph, entry.arguments)):
                what = f"{storing.template.what} {storing.template.source!r}: everybody sees names of files"
                yield f"{_label(graph, node)}: {what}, and these fields are secret: {listed(names)}"


def _secret_fields(graph: Graph, arguments: Mapping[str, Expression]) -> set[str]:
    """Fields of a task's templates whose values are secret."""
    secret = {node.name for node in graph if _is_secret(node)} - arguments.keys()
    values = {name: getattr(each, "node", getattr(each, "value", None)) for name, each in arguments.items()}
    return secret | {name for name, value in values.items() if _is_secret(value)}


def _is_secret(value: Any) -> bool:  # of an argument
    return isinstance(value, Secret) or (isinstance(value, Parameter) and value.secret)


def _no_place() -> Result:
    from anabranch.results.local import LocalResult

    return LocalResult()


def _label(graph: Graph, node: NodeLike) -> str:
    return f"{graph.entry(node).slug} ({node.where})"


def _cycles(graph: Graph) -> Iterator[str]:
    if graph.is_in_order:
        return
    import networkx  # takes a moment, and most flows are written in order

    digraph = graph.digraph
    for component in networkx.strongly_connected_components(digraph):
        if len(component) > 1:
            cycle = networkx.find_cycle(digraph.subgraph(component))
            path = " → ".join(graph.entry(up).slug for up, _ in cycle)
            first = graph.entry(cycle[0][0]).slug
            places = ", ".join(dict.fromkeys(str(up.where) for up, _ in cycle[:10]))
            yield f"cycle: {path} → {first}; remove one of these edges (between nodes written at {places})"


def _arguments(graph: Graph) -> Iterator[str]:
    for node in graph:
        if node.kind == "parameter":
            continue
        entry = graph.entry(node)
        if entry.outside:
            yield (
                f"{_label(graph, node)}: {listed(entry.outside)} takes its value from outside of flow {graph.name!r}; "
                f"run the flow around it, {graph.path[0].name!r}"
            )
        missing = node.signature.missing([*entry.arguments, *entry.outside])
        if missing:
            yield f"{_label(graph, node)}: argument {listed(missing)} is not bound; pass a value or an upstream node"
        if entry.is_map and not entry.outside and not any(edge.mapped for edge in graph.edges_into(node)):
            if not entry.mapped:
                yield f"{_label(graph, node)}: a map with nothing to map over"


def _functions(graph: Graph) -> Iterator[str]:
    """Functions that would get a node from around them, where they were to get its value."""
    checked: dict[int, str] = {}
    for node in graph:
        function = node.signature.function
        if id(function) not in checked:
            checked[id(function)] = _what_it_takes(function, graph)
        if checked[id(function)]:
            yield f"{_label(graph, node)}: {checked[id(function)]}; pass it as an argument, to get its value"


def _what_it_takes(function: Any, graph: Graph) -> str:
    def is_wanted(value: object) -> bool:
        return is_node_of(value, graph)

    name = names_in_globals(function, is_wanted)
    if name is not None:
        return f"its function uses the variable {name!r}, which is a node"
    owner = getattr(function, "__self__", None)
    if stands_for_node(owner):
        attributes = [value for key, value in vars(owner).items() if key != "fixed"]
        found = find_stowaway(attributes, is_wanted, hider=f"an attribute of {owner!r}")
    else:
        found = find_stowaway(function, is_wanted)
    return f"its function uses {found[0]!r} of {found[1]}, which is a node" if found is not None else ""


def _conditions(graph: Graph) -> Iterator[str]:
    for node in graph:
        if graph.entry(node).is_map or node.kind in ("collect", "flatten"):
            continue
        for edge in graph.edges_into(node):
            if edge.kind == "gate" and graph.entry(edge.upstream).is_map:
                yield (
                    f"{_label(graph, node)}: runs once, but its condition {graph.entry(edge.upstream).slug} "
                    f"({edge.upstream.where}) is a map, with an answer for each element; map it as well "
                    f"({node.name}.map(…)), or give the condition one value, such as that of a task that takes the list"
                )


def _check_parameters(graph: Graph) -> Iterator[str]:
    by_name: dict[str, list[NodeLike]] = {}
    for node in graph:
        if node.kind == "parameter":
            by_name.setdefault(node.name, []).append(node)
    for name, nodes in by_name.items():
        if len(nodes) > 1:
            places = ", ".join(str(node.where) for node in nodes)
            yield f"parameter {name!r} is there {len(nodes)} times ({places}); use one Parameter object"


def _references(graph: Graph, reference: Iterable[NodeLike]) -> Iterator[str]:
    for node in reference:
        if node not in graph:
            yield f"reference task {node.name!r} ({node.where}) is not in flow {graph.name!r}"
