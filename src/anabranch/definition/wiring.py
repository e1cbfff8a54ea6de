"""Writes nodes into graphs, with their arguments, and under whatever is open around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anabranch.base.errors import CallError, MappingError, NodeValueError, WidthError
from anabranch.base.names import short
from anabranch.base.triggers import all_finished
from anabranch.base.where import caller
from anabranch.definition import dask_objects, scope
from anabranch.definition.expressions import ATOMS, Const, Expression, Ref, as_now, evaluate, express, refs, rename
from anabranch.definition.frozen import Edge, EdgeKind
from anabranch.definition.graph import Graph, NodeLike
from anabranch.definition.lookup import holds_node, is_node, is_node_of, join, node_of, stands_for_node
from anabranch.definition.marks import Mark, flatten, mapped, unmappable, unmapped
from anabranch.definition.policies import Policies
from anabranch.definition.signature import STAR, Signature
from anabranch.definition.stowaways import find_stowaway

# Nodes ----------------------------------------------------------------------------------------------------------------


def call(
    node: NodeLike,
    arguments: Mapping[str, object],
    *,
    graphs: tuple[Graph, ...],
    is_mapped: bool = False,
    slug: str | None = None,
) -> Any:
    """Add a node with its arguments to graphs, under the gates, tags and ``apply_map`` that are open; returns it."""
    expressions, elementwise = expressed(node, arguments, graphs=graphs, is_mapped=is_mapped)
    for depth, graph in enumerate(graphs, start=1):
        graph.add(node, groups=tuple(inner.name for inner in graphs[depth:]), slug=slug)
    node.home = node.home or graphs[0]
    around = scope.current()
    if around.tags:
        node.policies = replace(node.policies, tags=node.policies.tags | around.tags)
    is_member = around.members is not None and graphs[0] is around.graphs[0]
    for graph in graphs:
        graph.bind(node, expressions, mapped=elementwise, is_map=is_member)
        for element in around.elements if is_member and not elementwise else ():
            if element in graph:
                graph.link(Edge(element, node, "order", mapped=True))
        for gate in around.gates:
            if gate in graph:
                close(gate, node, graph)
    if is_member:
        around.members.add(node)
    return node


def close(gate: NodeLike, node: NodeLike, graph: Graph) -> None:
    """Let a node run only if a condition node holds: element by element where both are maps."""
    is_elementwise = graph.entry(gate).is_map and graph.entry(node).is_map
    graph.link(Edge(gate, node, "gate", mapped=is_elementwise))


def link(upstream: NodeLike, downstream: NodeLike, kind: EdgeKind, graph: Graph) -> None:
    """Add an edge without a value to a graph, and to the graphs nested in it that have both ends."""
    for each in (upstream, downstream):
        join(each, (graph,))
    for inner in graph.family(downstream):
        if upstream in inner:
            inner.link(Edge(upstream, downstream, kind))


def bind_arguments(node: NodeLike, arguments: Mapping[str, object], graph: Graph, *, is_mapped: bool = False) -> None:
    """Bind arguments of a node that is there already."""
    check_arguments(node.signature, arguments)
    graphs = graph.family(node)
    expressions, elementwise = expressed(node, arguments, graphs=graphs, is_mapped=is_mapped)
    for each in graphs:
        each.bind(node, expressions, mapped=elementwise)


def check_arguments(signature: Signature, names: Iterable[str]) -> None:
    """Refuse names of arguments that a function does not take.

    Raises
    ------
    CallError
        It has no such parameter.
    """
    for name in names:
        try:
            signature.check_name(name)
        except CallError as error:
            raise CallError(f"{error} ({caller()})") from None


# Arguments ------------------------------------------------------------------------------------------------------------


def expressed(
    node: NodeLike, arguments: Mapping[str, object], *, graphs: tuple[Graph, ...], is_mapped: bool
) -> tuple[dict[str, Expression], frozenset[str]]:
    """Expressions for a node's arguments, and the names of those that take elements.

    Raises
    ------
    MappingError
        Something cannot be mapped over, or nothing is.
    """
    values: dict[str, Any] = {}
    elementwise: set[str] = set()
    for name, value in arguments.items():
        values[name], is_elementwise = _unmarked(value, is_mapped, name)
        if is_elementwise:
            elementwise.add(name)
    if is_mapped and not elementwise:
        raise MappingError(
            f"{node.name}.map() has no argument to map over, all are unmapped ({caller()}); "
            f"call {node.name}() for a single run"
        )
    if not node.policies.lazy:
        for name, value in values.items():
            if name in elementwise and dask_objects.is_dask(value) and type(value).__name__ == "DataFrame":
                raise MappingError(
                    f"{node.name}.map(): cannot map {name!r} over a DataFrame ({caller()}); map over frame.partitions"
                )
            if name != STAR or name not in elementwise:
                values[name] = _computed(value, node, graphs, is_elementwise=name in elementwise)
    for name, value in values.items():
        _refuse_stowaway(value, name, node, graphs[0])
    mapped_over = {name: value for name, value in values.items() if name in elementwise and name != STAR}
    check_elements(mapped_over, f"{node.name}.map()")

    is_lazy = node.policies.lazy

    def is_made(value: object) -> bool:
        return stands_for_node(value) or (not is_lazy and dask_objects.is_dask(value))

    def as_ref(value: object) -> Expression:
        value = value if is_lazy else _computed(value, node, graphs, is_elementwise=False)
        if isinstance(value, flatten):
            return Ref(_flat(value.value, node, graphs))
        if isinstance(value, Mark):
            raise MappingError(f"{node.name}: {value!r} inside a collection; mark the whole argument ({caller()})")
        found = node_of(value, graphs[0])
        join(found, graphs)
        return Ref(found)

    expressions: dict[str, Expression] = {}
    members = scope.current().members or ()
    for name, value in values.items():
        if name not in elementwise:
            expression = express(as_now(value), is_made, as_ref)
        elif name == STAR:
            expression = Ref(_tuples(value, node, graphs, is_mapped=is_mapped))
        else:
            expression = as_ref(value) if stands_for_node(value) else _freeze_elements(value, node, graphs)
        if members and any(up in members for up in refs(expression)):
            if not isinstance(expression, Ref):
                expression = Ref(_assembled(expression, node, graphs))
            elementwise.add(name)
        expressions[name] = expression
    return expressions, frozenset(elementwise)


def _computed(value: Any, node: NodeLike, graphs: tuple[Graph, ...], *, is_elementwise: bool) -> Any:
    """A node that computes an argument of Dask's, or what holds some; anything else as it is."""
    if isinstance(value, Mark):
        return value
    function: Callable[..., Any]
    arguments: dict[str, object]
    about, is_map = type(value).__name__, is_elementwise
    if stands_for_node(value):
        found = node_of(value, graphs[0])
        if not found.policies.lazy:
            return value
        function, arguments, about = dask_objects.resolved, {"value": found}, found.name
    elif is_elementwise and (elements := _elements_of_dask(value)) is not None:
        function, arguments = dask_objects.ComputeElement(elements), {"index": range(len(elements))}
    elif dask_objects.is_dask(value) or (dask_objects.holds_dask(value) and not holds_node(value)):
        function, arguments, is_map = dask_objects.Compute(value), {}, False
    else:
        return value
    policies = Policies(retry=node.policies.retry, lazy=function is dask_objects.resolved)
    helper = node.helper(f"compute({about})", function, policies=policies)
    with scope.open_scope(elements=(), members=None):
        made: NodeLike = call(helper, arguments, graphs=graphs, is_mapped=is_map)
    return made


def _elements_of_dask(value: Any) -> Sequence[Any] | None:
    """What to compute element by element; None if a value is computed as a whole, or not at all."""
    if isinstance(value, (list, tuple)) and not holds_node(value):
        return value if dask_objects.holds_dask(value) else None
    return dask_objects.parts(value)


def _refuse_stowaway(value: Any, name: str, node: NodeLike, graph: Graph) -> None:
    """Refuse nodes in places where they would not be replaced by their values."""
    if type(value) in ATOMS or is_node(value):
        return
    while isinstance(value, Mark):
        value = value.value
    if name == STAR:
        value = [each.value if isinstance(each, Mark) else each for each in value]
    found = find_stowaway(value, lambda each: is_node_of(each, graph))
    if found is not None:
        raise NodeValueError(
            f"{node.name}: argument {name!r} holds {found[0]!r} in {found[1]}, where it would stay a node "
            f"({caller()}); pass it as an argument of its own, or in a list, a dict or a dataclass"
        )


def _unmarked(value: Any, is_mapped: bool, name: str) -> tuple[Any, bool]:
    """A value without its mark, and whether it takes elements."""
    if name == STAR:
        is_elementwise = any(
            isinstance(each, mapped) or (is_mapped and not isinstance(each, unmapped)) for each in value
        )
        whole = tuple(each.value if isinstance(each, unmapped) else each for each in value)
        return value if is_elementwise else whole, is_elementwise
    if isinstance(value, unmapped):
        return value.value, False
    if isinstance(value, mapped):
        return value.value, True
    return value, is_mapped


def check_elements(values: Mapping[str, Any], what: str) -> None:
    """Refuse constants that cannot be mapped over, or not with each other.

    Raises
    ------
    MappingError
        One has no elements in order.
    WidthError
        Their widths differ.
    """
    constants = {
        name: value
        for name, value in values.items()
        if not (stands_for_node(value) or dask_objects.is_dask(value) or dask_objects.parts(value))
    }
    for name, value in constants.items():
        reason = unmappable(value)
        if reason:
            raise MappingError(f"{what}: cannot map {name!r} over {reason} ({caller()})")
    widths = {name: len(value) for name, value in constants.items()}
    if len(set(widths.values())) > 1:
        shown = ", ".join(f"{name} has {width:,}" for name, width in widths.items())
        raise WidthError(f"{what}: mapped arguments have different widths: {shown} ({caller()})")


def _freeze_elements(value: Any, node: NodeLike, graphs: tuple[Graph, ...]) -> Expression:
    """A constant to map over, as it is at this moment; with nodes in it, the list that a node makes of their values."""
    if not isinstance(value, (list, tuple)):
        return Const(value)
    if not holds_node(value):
        return Const(as_now(list(value)))
    return Ref(_collected(value, node, graphs))


def _collected(values: Sequence[Any], node: NodeLike, graphs: tuple[Graph, ...]) -> NodeLike:
    """A node that makes a list of values, some of which are nodes'."""
    helper = node.helper(f"collect({len(values)})", list, kind="collect", policies=_LENIENT)
    with scope.open_scope(elements=(), members=None):
        found: NodeLike = call(helper, {"parts": list(values)}, graphs=graphs)
    return found


def _tuples(values: tuple[Any, ...], node: NodeLike, graphs: tuple[Graph, ...], *, is_mapped: bool) -> NodeLike:
    """A map that gives an element its arguments for ``*args``, each of which may be mapped over."""
    parts = {f"part_{i}": each for i, each in enumerate(values)}
    found: NodeLike = call(node.helper(f"arguments({node.name})", _tuple_of), parts, graphs=graphs, is_mapped=is_mapped)
    return found


def _flat(value: object, node: NodeLike, graphs: tuple[Graph, ...]) -> NodeLike:
    """A node whose value is the flat list: of all elements, also inside the function of an ``apply_map``."""
    reason = "" if stands_for_node(value) else unmappable(value)
    if reason:
        raise MappingError(f"{node.name}: cannot flatten {reason} ({caller()})")
    about = getattr(value, "name", None) or short(value)
    if isinstance(value, (list, tuple)) and holds_node(value):
        value = _collected(value, node, graphs)
    helper = node.helper(f"flatten({about})", list, kind="flatten", policies=_LENIENT)
    with scope.open_scope(elements=(), members=None):
        found: NodeLike = call(helper, {"parts": value}, graphs=graphs)
    return found


# Lists of what failed and was skipped, too: their elements keep their states.
_LENIENT = Policies(trigger=all_finished, skip_on_upstream_skip=False)


def _assembled(expression: Expression, node: NodeLike, graphs: tuple[Graph, ...]) -> NodeLike:
    """A map that puts an element's collection together, for the function of an ``apply_map``."""
    needs = dict.fromkeys(refs(expression))
    names = {up: f"part_{i}" for i, up in enumerate(needs)}
    maker = _Assemble(rename(expression, names.__getitem__))
    helper = node.helper(f"collection({node.name})", maker)
    found: NodeLike = call(helper, {names[up]: up for up in needs}, graphs=graphs)
    return found


class _Assemble:
    """Evaluates an expression in which parts have the place of nodes."""

    def __init__(self, expression: Expression) -> None:
        self.expression = expression

    def __call__(self, **parts: Any) -> Any:
        return evaluate(self.expression, parts)


def _tuple_of(**parts: Any) -> tuple[Any, ...]:
    return tuple(parts.values())
