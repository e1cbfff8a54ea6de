"""Nodes, and what can be written with them: edges, items, operators, conditions, unpacking."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from anabranch.base.errors import DefinitionError, NodeAttributeError, NodeValueError, OptionError, nearest
from anabranch.base.names import short
from anabranch.base.where import Where, caller
from anabranch.definition import scope
from anabranch.definition.expressions import StandIn
from anabranch.definition.gates import Equals, FirstOf, Gate, Holds
from anabranch.definition.graph import Graph
from anabranch.definition.lookup import each_of, holds_node, home_of, is_node, join, nodes_of, path_of, stands_for_node
from anabranch.definition.marks import mapped
from anabranch.definition.operators import Operators
from anabranch.definition.policies import PLAIN, Policies
from anabranch.definition.signature import Signature
from anabranch.definition.stowaways import find_stowaway
from anabranch.definition.wiring import bind_arguments, call, link


class Node(Operators, StandIn):  # type: ignore[misc]  # for a type checker it stands for the value it will have
    """One call of a task in a flow; its place in the graph.

    Nodes are made by calling tasks. They are compared by identity.
    """

    kind: str
    """``task``, ``parameter``, or what is treated apart: ``condition``, ``merge``, ``flatten``, ``collect``,
    ``cleanup``."""
    home: Graph | None
    """The graph it was written in first."""

    _ATTRIBUTES = frozenset({"name", "signature", "policies", "template", "kind", "where", "home", "tests"})
    _CHANGING = frozenset({"policies", "kind", "home", "tests"})
    """Those that are set again while the flow is written."""

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
        self.signature: Signature = signature or Signature(function, name)
        self.policies: Policies = policies or PLAIN
        self.template = template
        self.kind = kind
        self.where: Where = where or caller()
        self.home = None
        self.tests: tuple[Callable[[Any], bool], ...] = ()
        """Tests of the cases that were written for this node."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self._ATTRIBUTES or (name in vars(self) and name not in self._CHANGING):
            options = Policies.options()
            raise OptionError(
                f"{self!r} is a node, and its {name} cannot be assigned ({caller()}): give options with the call, as "
                f"in task_args={{{name if name in options else 'max_retries'!r}: …}}{nearest(name, options)}"
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<Node {self.slug!r}>"

    @property
    def slug(self) -> str:
        """Unique name of this node in its flow."""
        return self.name if self.home is None else home_of(self).entry(self).slug

    def nodes_in(self, graph: Graph) -> list[Node]:
        """The node itself: what stands for nodes has this method."""
        join(self, (graph,))
        return [self]

    def helper(self, name: str, function: Callable[..., Any], **options: Any) -> Node:
        """A node of the library's own, written where this one was."""
        return Node(name, function, where=self.where, **options)

    # Edges ------------------------------------------------------------------------------------------------------------

    def set_upstream(self, task: object, *, key: str | None = None, mapped: bool = False, flow: Any = None) -> Node:
        """Run after `task`; with `key`, its value is passed as that argument. Returns this node."""
        if key is not None:
            return self.set_dependencies(flow, keyword_tasks={key: task}, mapped=mapped)
        return self.set_dependencies(flow, upstream_tasks=[task])

    def set_downstream(self, task: object, *, key: str | None = None, mapped: bool = False, flow: Any = None) -> Node:
        """Run before `task`; with `key`, this node's value is passed as that argument. Returns this node."""
        graph = home_of(self, task, flow=flow)
        after: Any = task if stands_for_node(task) else nodes_of(task, graph)  # which refuses it
        after.set_upstream(self, key=key, mapped=mapped, flow=flow)
        return self

    def depends_on(self, *tasks: object) -> Node:
        """Run after all of `tasks`: nodes, tasks, or `Dependency` objects. Returns this node."""
        for each in tasks:
            bind_to = getattr(type(each), "bind_to", None)
            if bind_to is not None:
                bind_to(each, self)
            else:
                self.set_dependencies(upstream_tasks=[each])
        return self

    def set_dependencies(
        self,
        flow: Any = None,
        *,
        upstream_tasks: Iterable[object] | None = None,
        downstream_tasks: Iterable[object] | None = None,
        keyword_tasks: Mapping[str, object] | None = None,
        mapped: bool = False,
    ) -> Node:
        """Add edges: `upstream_tasks` before this node, `downstream_tasks` after it, values to arguments by name.

        A task that is not a node means its calls in this flow. With `mapped`, the values are mapped over. Returns this
        node.
        """
        for each in each_of(upstream_tasks):
            graph = home_of(self, each, flow=flow)
            for node in nodes_of(each, graph):
                link(node, self, "order", graph)
        for each in each_of(downstream_tasks):
            graph = home_of(self, each, flow=flow)
            for node in nodes_of(each, graph):
                link(self, node, "order", graph)
        if keyword_tasks:
            graph = home_of(self, *keyword_tasks.values(), flow=flow)
            bind_arguments(self, keyword_tasks, graph, is_mapped=mapped)
        return self

    def __or__(self, other: Any) -> Any:
        """``a | b``: run b after a. Returns b."""
        after = getattr(type(other), "run_after", None)
        if after is None:
            raise DefinitionError(
                f"{self.name!r} | …: expected a node or a task on the right, found {short(other)} ({caller()}); "
                "for a truth value use node.or_(…)"
            )
        return after(other, self)

    def run_after(self, node: Node) -> Node:
        """What ``node | self`` does."""
        return self.set_upstream(node)

    def pipe(self, task: Callable[..., Any], /, **kwargs: object) -> Any:
        """Return ``task(self, **kwargs)``, so that calls read in the order in which they run."""
        return task(self, **kwargs)

    # What would silently be wrong -------------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        raise NodeValueError(
            f"{self.name!r} is a node, not its value, so it has no truth value while the flow is written "
            f"({caller()}); use `with node:` or case(node, value) to run tasks only under a condition"
        )

    def __len__(self) -> int:
        raise NodeValueError(
            f"{self.name!r} is a node, not its value, so it has no length while the flow is written ({caller()})"
        )

    def __iter__(self) -> Iterator[Node]:
        nout = self.policies.nout
        is_map = self.home is not None and home_of(self).entry(self).is_map
        if nout is None or is_map:
            reason = (
                "it is a map: take its elements apart in a task" if is_map else "nothing says how many outputs it has"
            )
            cure = "" if is_map else "; use @task(nout=2) or a return annotation such as tuple[int, str]"
            raise NodeValueError(
                f"{self.name!r} cannot be unpacked while the flow is written ({caller()}), because {reason}{cure}"
            )
        return iter([self[i] for i in range(nout)])

    def __contains__(self, value: object) -> bool:
        raise NodeValueError(f"{self.name!r} is a node, not its value: `in` has no answer yet ({caller()})")

    def __str__(self) -> str:
        raise NodeValueError(
            f"{self.name!r} is a node, not its value, so it has no text while the flow is written ({caller()}); pass "
            "it to a task that makes the text, or store results under a template; repr(…) shows the node"
        )

    def __format__(self, spec: str) -> str:
        return str(self)

    def __array__(self, *args: object, **kwargs: object) -> Any:
        raise NodeValueError(
            f"{self.name!r} is a node, not its value, and cannot be in an array while the flow is written "
            f"({caller()}); pass a list of nodes to a task that makes the array"
        )

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Node):
            return self is other
        raise NodeValueError(_comparison(self, "==", "is_equal"))

    def __ne__(self, other: object) -> bool:
        if isinstance(other, Node):
            return self is not other
        raise NodeValueError(_comparison(self, "!=", "is_not_equal"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "name" not in self.__dict__:  # copy and pickle ask for methods that are not there
            raise AttributeError(name)
        raise NodeAttributeError(
            f"{self.name!r} is a node, not its value, and has no attribute {name!r} ({caller()}); "
            f"take {name!r} from the value inside a task"
        )

    # Conditions -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Node:
        Gate(condition(self, bool, f"if {self.name}")).__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        scope.leave()

    def case(self, value: object) -> Gate:
        """A block that runs if this node's value equals `value`, or if the function `value` accepts it.

        Inside ``with Switch(node):``, it runs only if no earlier case holds.
        """
        for each in reversed(scope.current().switches):
            if each.node is self:
                gate: Gate = each.case(value)
                return gate
        test = matcher(value)
        self.tests = (*self.tests, test)
        return Gate(condition(self, test, f"case({short(value)})"))

    def default(self) -> Gate:
        """A block that runs if no earlier case of this node holds."""
        for each in reversed(scope.current().switches):
            if each.node is self:
                gate: Gate = each.default()
                return gate
        if not self.tests:
            raise DefinitionError(f"default() of {self.name!r} without a case before it ({caller()})")
        return Gate(condition(self, FirstOf(self.tests, None), f"default({self.name})"))

    # Items and operators ----------------------------------------------------------------------------------------------

    def __getitem__(self, key: object) -> Node:
        return self._operation(operator.getitem, f"{self.name}[{short(key)}]", self, key)

    def _operation(self, function: Callable[..., Any], name: str, *operands: object) -> Node:
        """A node for an operator; element by element where an operand is a map."""
        graphs = scope.current().graphs or path_of(home_of(self, *operands))
        arguments = {name: elementwise(each, graphs[0]) for name, each in zip("ab", operands, strict=False)}
        node: Node = call(Node(name, function), arguments, graphs=graphs)
        return node


def _comparison(node: Node, symbol: str, method: str) -> str:
    return (
        f"{node.name!r} {symbol} … compares a node, not its value, while the flow is written ({caller()}); "
        f"use node.{method}(…) for a node with the answer"
    )


def matcher(value: object) -> Callable[[Any], bool]:
    """The test that a case's value stands for: a function is asked, anything else is compared."""
    if isinstance(value, Node):
        raise DefinitionError(
            f"case({value.name!r}) compares with a node ({caller()}); write case(node.is_equal(other), True) instead"
        )
    if callable(value) and not isinstance(value, type):
        return value
    if holds_node(value) or find_stowaway(value, is_node):
        raise DefinitionError(
            f"case({short(value)}) holds a node, not its value ({caller()}); pass both to a task that decides, and "
            "write case(…, True) for its answer"
        )
    return Equals(value)


def elementwise(value: object, graph: Graph) -> object:
    """A value, marked to be taken element by element if it is a map."""
    return mapped(value) if isinstance(value, Node) and value in graph and graph.entry(value).is_map else value


def condition(on: Node, test: Callable[[Any], bool], name: str) -> Node:
    """A node that succeeds if `test` of another node's value holds, and is skipped otherwise."""
    graphs = scope.current().graphs or path_of(home_of(on))
    arguments = {"value": elementwise(on, graphs[0])}
    node: Node = call(Node(name, Holds(test), kind="condition"), arguments, graphs=graphs)
    return node
