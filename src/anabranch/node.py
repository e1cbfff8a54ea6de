"""Nodes, and what can be written with them: edges, items, operators, conditions, unpacking."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anabranch import scope
from anabranch.bindings import Expression, Ref, express, refs
from anabranch.errors import DefinitionError, MappingError, NodeValueError, OutsideFlowError, UnknownNodeError
from anabranch.frozen import Edge
from anabranch.graph import Graph
from anabranch.policies import Policies
from anabranch.signals import SKIP
from anabranch.signature import Signature, named
from anabranch.where import Where, caller

if TYPE_CHECKING:
    _Base = Any  # a type checker takes a Node wherever the value it stands for is wanted
else:
    _Base = object


class Node(_Base):
    """One call of a task in a flow; its place in the graph.

    Nodes are made by calling tasks. They are compared by identity.
    """

    kind: str
    """``task``, ``parameter``, or what the engine treats apart: ``condition``, ``merge``, ``flatten``, ``collect``."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        policies: Policies | None = None,
        signature: Signature | None = None,
        template: object = None,
        kind: str = "task",
        where: Where | None = None,
    ) -> None:
        self.name = name
        self.signature = signature or Signature(function, name)
        self.policies = policies or Policies()
        self.template = template
        self.kind = kind
        self.where = where or caller()
        self.graphs: tuple[Graph, ...] = ()
        self.tests: list[Callable[[Any], bool]] = []
        """Tests of the cases written for this node."""

    def __repr__(self) -> str:
        return f"<Node {self.slug!r}>"

    @property
    def slug(self) -> str:
        """Name of this node in its flow, unique there."""
        return self.graphs[0].entry(self).slug if self.graphs else self.name

    # Edges ------------------------------------------------------------------------------------------------------------

    def set_upstream(self, task: object, *, key: str | None = None, mapped: bool = False) -> Node:
        """Run after `task`; with `key`, its value is passed as that argument. Returns this node."""
        return self.set_dependencies(
            upstream_tasks=None if key else [task], keyword_tasks={key: task} if key else None, mapped=mapped
        )

    def set_downstream(self, task: object, *, key: str | None = None, mapped: bool = False) -> Node:
        """Run before `task`; with `key`, this node's value is passed as that argument. Returns this node."""
        for graph in self._home():
            resolve(task, graph, self).set_upstream(self, key=key, mapped=mapped)
            break
        return self

    def depends_on(self, *tasks: object) -> Node:
        """Run after all of `tasks`. Returns this node."""
        for dependency in tasks:
            depend = getattr(dependency, "bind_to", None)
            if depend is not None:
                depend(self)
            else:
                self.set_dependencies(upstream_tasks=[dependency])
        return self

    def set_dependencies(
        self,
        *,
        upstream_tasks: Iterable[object] | None = None,
        downstream_tasks: Iterable[object] | None = None,
        keyword_tasks: Mapping[str, object] | None = None,
        mapped: bool = False,
    ) -> Node:
        """Add edges: `upstream_tasks` before this node, `downstream_tasks` after it, values to arguments by name.

        A task that is not a node stands for its calls in this flow. Returns this node.
        """
        graph = self._home()[0]
        for upstream in upstream_tasks or ():
            for node in resolve_all(upstream, graph):
                self._link(Edge(node, self, "order"))
        for downstream in downstream_tasks or ():
            for node in resolve_all(downstream, graph):
                node._link(Edge(self, node, "order"))
        if keyword_tasks:
            bind(self, dict(keyword_tasks), mapped=frozenset(keyword_tasks) if mapped else frozenset())
        return self

    def _link(self, edge: Edge) -> None:
        for graph in self._home():
            if edge.upstream in graph and edge.downstream in graph:
                graph.link(edge)
            elif graph is self._home()[0]:
                other = edge.upstream if edge.upstream not in graph else edge.downstream
                raise UnknownNodeError(_foreign(other, graph))

    def _home(self) -> tuple[Graph, ...]:
        if not self.graphs:
            raise OutsideFlowError(f"{self.name!r} (written at {self.where}) is in no flow yet: use it inside one first")
        return self.graphs

    # What would silently be wrong -------------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        raise NodeValueError(
            f"{self.name!r} is a node, not its value, so it has no truth value while the flow is written ({caller()}); "
            "use `with node:` or case(node, value) to run tasks only under a condition"
        )

    def __len__(self) -> int:
        raise NodeValueError(
            f"{self.name!r} is a node, not its value, so it has no length while the flow is written ({caller()})"
        )

    def __iter__(self) -> Iterator[Node]:
        nout = self.policies.nout
        if nout is None or (self.graphs and self.graphs[0].entry(self).is_map):
            raise NodeValueError(
                f"{self.name!r} cannot be unpacked while the flow is written ({caller()}), because nothing says how many "
                "outputs it has; use @task(nout=2) or a return annotation such as tuple[int, str]"
            )
        return iter([self[i] for i in range(nout)])

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Node):
            return self is other
        raise NodeValueError(_comparison(self, "==", "is_equal"))

    def __ne__(self, other: object) -> bool:
        if isinstance(other, Node):
            return self is not other
        raise NodeValueError(_comparison(self, "!=", "is_not_equal"))

    def __contains__(self, value: object) -> bool:
        raise NodeValueError(f"{self.name!r} is a node, not its value: `in` has no answer yet ({caller()})")

    # Conditions -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Node:
        gate = Gate(condition(self, bool, f"if {self.name}"))
        _OPEN.append(gate)
        gate.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        _OPEN.pop().__exit__(*exc_info)

    def case(self, value: object) -> Gate:
        """A block that runs if this node's value is `value` (equal to it, or accepted by it if it is a function)."""
        test = matcher(value)
        self.tests.append(test)
        return Gate(condition(self, test, f"case({short(value)})"))

    def default(self) -> Gate:
        """A block that runs if none of the cases written for this node before holds."""
        if not self.tests:
            raise DefinitionError(f"default() of {self.name!r} without a case before it ({caller()})")
        return Gate(condition(self, FirstOf(tuple(self.tests), None), f"default({self.name})"))

    # Items and operators ----------------------------------------------------------------------------------------------

    def __getitem__(self, key: object) -> Node:
        return _operation(operator.getitem, f"{self.name}[{short(key)}]", self, key)

    def __add__(self, other: object) -> Node:
        return _operation(operator.add, "add", self, other)

    def __radd__(self, other: object) -> Node:
        return _operation(operator.add, "add", other, self)

    def __sub__(self, other: object) -> Node:
        return _operation(operator.sub, "sub", self, other)

    def __rsub__(self, other: object) -> Node:
        return _operation(operator.sub, "sub", other, self)

    def __mul__(self, other: object) -> Node:
        return _operation(operator.mul, "mul", self, other)

    def __rmul__(self, other: object) -> Node:
        return _operation(operator.mul, "mul", other, self)

    def __truediv__(self, other: object) -> Node:
        return _operation(operator.truediv, "truediv", self, other)

    def __rtruediv__(self, other: object) -> Node:
        return _operation(operator.truediv, "truediv", other, self)

    def __floordiv__(self, other: object) -> Node:
        return _operation(operator.floordiv, "floordiv", self, other)

    def __rfloordiv__(self, other: object) -> Node:
        return _operation(operator.floordiv, "floordiv", other, self)

    def __mod__(self, other: object) -> Node:
        return _operation(operator.mod, "mod", self, other)

    def __rmod__(self, other: object) -> Node:
        return _operation(operator.mod, "mod", other, self)

    def __pow__(self, other: object) -> Node:
        return _operation(operator.pow, "pow", self, other)

    def __rpow__(self, other: object) -> Node:
        return _operation(operator.pow, "pow", other, self)

    def __neg__(self) -> Node:
        return _operation(operator.neg, "neg", self)

    def __abs__(self) -> Node:
        return _operation(operator.abs, "abs", self)

    def __and__(self, other: object) -> Node:
        return _operation(_both, "and", self, other)

    def __rand__(self, other: object) -> Node:
        return _operation(_both, "and", other, self)

    def __or__(self, other: object) -> Node:
        """``a | b``: run b after a, and stand for b."""
        if isinstance(other, Node):
            return other.set_upstream(self)
        node: Node = getattr(other, "call_after", _not_a_task)(self)
        return node

    def __lt__(self, other: object) -> Node:
        return _operation(operator.lt, "lt", self, other)

    def __le__(self, other: object) -> Node:
        return _operation(operator.le, "le", self, other)

    def __gt__(self, other: object) -> Node:
        return _operation(operator.gt, "gt", self, other)

    def __ge__(self, other: object) -> Node:
        return _operation(operator.ge, "ge", self, other)

    def is_equal(self, other: object) -> Node:
        """A node whose value is whether the two values are equal."""
        return _operation(operator.eq, "is_equal", self, other)

    def is_not_equal(self, other: object) -> Node:
        """A node whose value is whether the two values differ."""
        return _operation(operator.ne, "is_not_equal", self, other)

    def not_(self) -> Node:
        """A node whose value is whether this one's is false."""
        return _operation(operator.not_, "not", self)

    def or_(self, other: object) -> Node:
        """A node whose value is whether one of the two values is true."""
        return _operation(_either, "or", self, other)

    def pipe(self, task: Callable[..., Any], /, **kwargs: object) -> Any:
        """``task(self, **kwargs)``: calls read in the order in which they run."""
        return task(self, **kwargs)


def _both(left: Any, right: Any) -> bool:
    return bool(left and right)


def _either(left: Any, right: Any) -> bool:
    return bool(left or right)


def _not_a_task(node: Node) -> Node:
    raise DefinitionError(f"{node.name!r} | …: expected a node or a task on the right; for a truth value use or_")


def _comparison(node: Node, symbol: str, method: str) -> str:
    return (
        f"{node.name!r} {symbol} … compares a node, not its value, while the flow is written ({caller()}); "
        f"use node.{method}(…) for a node with the answer"
    )


def _foreign(node: object, graph: Graph) -> str:
    name = getattr(node, "name", node)
    homes = ", ".join(repr(g.name) for g in getattr(node, "graphs", ())) or "no flow"
    return f"node {name!r} belongs to {homes}, not to flow {graph.name!r} ({caller()}); call its task in this flow"


def short(value: object, limit: int = 40) -> str:
    """A bounded one-line repr, for names."""
    try:
        text = repr(value) if not callable(value) else named(value)
    except Exception:  # a user's repr may do anything; a name is not worth an error
        text = type(value).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


# Adding nodes ---------------------------------------------------------------------------------------------------------


def open_graphs(what: str) -> tuple[Graph, ...]:
    """Graphs of the open flow.

    Raises
    ------
    OutsideFlowError
        None is open.
    """
    graphs = scope.current().graphs
    if not graphs:
        raise OutsideFlowError(
            f"{what} was called with no flow open ({caller()}); open one (`with Flow(…) as flow:`) to make it a node, "
            f"or use {what.removesuffix('()')}.run(…) to call the function itself"
        )
    return graphs


def insert(node: Node, graphs: tuple[Graph, ...], *, slug: str | None = None) -> Node:
    """Add a node without arguments to graphs, under the gates and tags that are open."""
    around = scope.current()
    groups = tuple(graph.name for graph in graphs[1:])
    for graph in graphs:
        graph.add(node, groups=groups, slug=slug)
    node.graphs = (*node.graphs, *(graph for graph in graphs if graph not in node.graphs))
    if around.tags:
        node.policies = replace(node.policies, tags=node.policies.tags | around.tags)
    return node


def call(
    node: Node,
    arguments: Mapping[str, object],
    *,
    graphs: tuple[Graph, ...],
    mapped: frozenset[str] = frozenset(),
    slug: str | None = None,
) -> Node:
    """Add a node with its arguments to graphs; what is written inside an ``apply_map`` becomes a map."""
    insert(node, graphs, slug=slug)
    bind(node, arguments, mapped=mapped)
    around = scope.current()
    if around.members is not None and graphs == around.graphs:
        if not any(edge.mapped for edge in graphs[0].edges_into(node)):
            for graph in graphs:
                graph.bind(node, {}, is_map=True)
                for element in around.elements:
                    graph.link(Edge(element, node, "order", mapped=True))
        around.members.add(node)
    if around.gates:
        gate = around.gates[-1]  # the others are gates of this one
        for graph in graphs:
            if gate in graph:
                mapped_gate = graph.entry(gate).is_map and graph.entry(node).is_map
                graph.link(Edge(gate, node, "gate", mapped=mapped_gate))
    return node


def bind(node: Node, arguments: Mapping[str, object], *, mapped: frozenset[str] = frozenset()) -> None:
    """Bind arguments of a node in all its graphs; nodes that stand in them become its upstreams."""
    graphs = node.graphs
    members = scope.current().members
    expressions: dict[str, Expression] = {}
    for name, value in arguments.items():
        expression = express(value, lambda each: as_expression(each, graphs[0]))
        for upstream in refs(expression):
            _adopt(upstream, graphs)
        expressions[name] = expression
    if members is not None:
        inside = {n for n, e in expressions.items() if any(up in members for up in refs(e))}
        for name in inside:
            if not isinstance(expressions[name], Ref):
                raise MappingError(f"{node.name}: inside apply_map, a collection cannot hold an element ({caller()})")
        mapped = mapped | inside
    for graph in graphs:
        if all(up in graph for expression in expressions.values() for up in refs(expression)):
            graph.bind(node, expressions, mapped=mapped)
        else:  # a nested flow that takes a value from the flow around it: alone, it could not run
            graph.bind(node, {n: e for n, e in expressions.items() if all(up in graph for up in refs(e))}, mapped=mapped)


def _adopt(node: Node, graphs: tuple[Graph, ...]) -> None:
    """Let a parameter join a flow by being used there; refuse nodes of other flows."""
    if node in graphs[0]:
        return
    if node.kind != "parameter":
        raise UnknownNodeError(_foreign(node, graphs[0]))
    node.graphs = (*node.graphs, *graphs)
    for graph in graphs:
        graph.add(node, slug=node.name)


def as_expression(value: object, graph: Graph) -> Expression | None:
    """The expression of a node, or of something that stands for one; None for anything else."""
    if isinstance(value, Node):
        return Ref(value)
    make = getattr(type(value), "as_expression", None)
    if make is not None:
        expression: Expression = make(value, graph)
        return expression
    return None


def resolve_all(value: object, graph: Graph) -> list[Node]:
    """The nodes that something stands for: a node itself; a task, its calls (called now if there are none)."""
    if isinstance(value, Node):
        if value not in graph and value.kind == "parameter":
            _adopt(value, (graph,))
        return [value]
    nodes = getattr(value, "nodes_in", None)
    if nodes is None:
        raise DefinitionError(
            f"expected a node or a task, found {short(value)} of type {type(value).__name__} ({caller()})"
        )
    return list(nodes(graph))


def resolve(value: object, graph: Graph, for_node: Node) -> Node:
    """The one node that something stands for."""
    nodes = resolve_all(value, graph)
    if len(nodes) != 1:
        raise DefinitionError(f"{for_node.name}: {short(value)} stands for {len(nodes)} nodes, one is needed ({caller()})")
    return nodes[0]


def _operation(function: Callable[..., Any], name: str, *operands: object) -> Node:
    """A node for an operator; element by element where an operand is a map."""
    graphs = next(node.graphs for node in operands if isinstance(node, Node) and node.graphs)
    if scope.current().graphs and graphs[0] is scope.current().graphs[0]:
        graphs = scope.current().graphs
    names = ("a", "b")[: len(operands)]
    is_map = frozenset(
        n for n, v in zip(names, operands, strict=True) if isinstance(v, Node) and graphs[0].entry(v).is_map
    )
    node = Node(name, function)
    return call(node, dict(zip(names, operands, strict=True)), graphs=graphs, mapped=is_map)


# Conditions -----------------------------------------------------------------------------------------------------------

_OPEN: list[Gate] = []  # gates opened by `with node:`; a node may be entered several times


class Gate(AbstractContextManager["Gate"]):
    """A block whose tasks run only if a condition node holds."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._opened: list[AbstractContextManager[object]] = []

    def __enter__(self) -> Gate:
        opened = scope.opened(gates=(*scope.current().gates, self.node))
        opened.__enter__()
        self._opened.append(opened)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._opened.pop().__exit__(*exc_info)


class Equals:
    """Whether a value equals another, or is the same; arrays and NaN never raise here."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __call__(self, found: object) -> bool:
        return found is self.value or bool(found == self.value)


def matcher(value: object) -> Callable[[Any], bool]:
    """The test that a case's value stands for: a function is asked, anything else is compared."""
    if isinstance(value, Node):
        raise DefinitionError(f"case({value.name!r}): compare with a node by case(node.is_equal(other), True)")
    return value if callable(value) and not isinstance(value, type) else Equals(value)


class Holds:
    """Gives True if a test holds and raises SKIP otherwise: the value of a condition node."""

    def __init__(self, test: Callable[[Any], bool]) -> None:
        self.test = test

    def __call__(self, value: Any) -> bool:
        if self.test(value):
            return True
        raise SKIP(f"the condition does not hold: {short(value)}")


class FirstOf:
    """Whether the test at `place` is the first of several that holds; None is the place after the last."""

    def __init__(self, tests: tuple[Callable[[Any], bool], ...], place: int | None) -> None:
        self.tests = tests
        self.place = place

    def __call__(self, value: Any) -> bool:
        return next((i for i, test in enumerate(self.tests) if test(value)), None) == self.place


def condition(on: Node, test: Callable[[Any], bool], name: str) -> Node:
    """A node that succeeds if `test` of another node's value holds, and is skipped otherwise."""
    graphs = scope.current().graphs or on.graphs or open_graphs(f"{on.name}.case()")
    _adopt(on, graphs)
    elementwise = frozenset(["value"]) if graphs[0].entry(on).is_map else frozenset[str]()
    return call(Node(name, Holds(test), kind="condition"), {"value": on}, graphs=graphs, mapped=elementwise)
