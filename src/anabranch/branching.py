"""Conditions: ``case``, ``switch``, ``Switch``, ``ifelse``, ``when`` and ``merge``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from anabranch import scope
from anabranch.errors import DefinitionError
from anabranch.frozen import Edge
from anabranch.graph import Graph
from anabranch.node import FirstOf, Gate, Node, as_expression, call, condition, matcher, open_graphs, resolve, resolve_all, short
from anabranch.policies import Policies
from anabranch.triggers import not_all_skipped
from anabranch.where import caller


def case(value: object, equals: object) -> Gate:
    """A block whose tasks run if `value` (a node, a task or a plain value) equals `equals`.

    A function for `equals` is asked instead.

    Examples
    --------
    ``with case(is_large, True): shrink(image)``
    """
    return as_node(value, "case").case(equals)


def when(value: object) -> Gate:
    """A block whose tasks run if `value` (a node, a task or a plain value) is truthy."""
    node = as_node(value, "when")
    return Gate(condition(node, bool, f"if {node.name}"))


class _Value:
    """Gives a plain value where a node is needed."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __call__(self) -> object:
        return self.value


def as_node(value: object, what: str) -> Node:
    """A node for anything: nodes and tasks stand for themselves, other values get a node that gives them."""
    graphs = scope.current().graphs
    if isinstance(value, Node):
        return value
    graphs = graphs or open_graphs(f"{what}()")
    if as_expression(value, graphs[0]) is not None:
        return resolve(value, graphs[0], Node(what, bool))
    return call(Node(f"value {short(value)}", _Value(value)), {}, graphs=graphs)


class Switch(AbstractContextManager["Switch"]):
    """One branch of several, chosen by a value: the first `case` that holds, else `default`.

    Parameters
    ----------
    condition
        A node, a task or a plain value.

    Examples
    --------
    ``with Switch(kind) as s:`` then ``with s.case("a"): …`` and ``with s.default(): …``
    """

    def __init__(self, condition: object) -> None:
        self.node = as_node(condition, "Switch")
        self._tests: list[Callable[[Any], bool]] = []
        self._has_default = False

    def case(self, value: object) -> Gate:
        """A block that runs if this is the first case that holds; a function is asked, other values are compared."""
        if self._has_default:
            raise DefinitionError(f"Switch({self.node.name}): case({short(value)}) after default() ({caller()})")
        self._tests.append(matcher(value))
        place = len(self._tests) - 1
        return Gate(condition(self.node, FirstOf(tuple(self._tests), place), f"case({short(value)})"))

    def default(self) -> Gate:
        """A block that runs if no case holds."""
        if self._has_default or not self._tests:
            reason = "a second default()" if self._has_default else "default() without a case before it"
            raise DefinitionError(f"Switch({self.node.name}): {reason} ({caller()})")
        self._has_default = True
        return Gate(condition(self.node, FirstOf(tuple(self._tests), None), f"default({self.node.name})"))

    def __enter__(self) -> Switch:
        # Inside the block, `node.case(…)` means a case of this switch.
        _SWITCHED.append((self.node, self.node.__dict__.get("case"), self.node.__dict__.get("default")))
        self.node.__dict__.update(case=self.case, default=self.default)
        return self

    def __exit__(self, *exc_info: object) -> None:
        node, *before = _SWITCHED.pop()
        for name, method in zip(("case", "default"), before, strict=True):
            node.__dict__.pop(name) if method is None else node.__dict__.update({name: method})
        if not self._tests and exc_info[0] is None:
            raise DefinitionError(f"Switch({self.node.name}) has no case ({caller()})")


_SWITCHED: list[tuple[Node, Any, Any]] = []


def switch(condition: object, cases: Mapping[object, object], default: object = None) -> None:
    """Run the tasks given for the value that `condition` has; a branch is a node, a task or a list of these."""
    if not cases:
        raise DefinitionError(f"switch() without cases ({caller()})")
    chooser = Switch(condition)
    for value, branch in cases.items():
        _gate_branch(chooser.case(value), branch)
    if default is not None:
        _gate_branch(chooser.default(), default)


def ifelse(condition: object, if_true: object = None, if_false: object = None) -> None:
    """Run `if_true` if the condition is truthy, else `if_false`; each a node, a task, a list of these, or None."""
    node = as_node(condition, "ifelse")
    for branch, test, name in ((if_true, bool, f"if {node.name}"), (if_false, _is_false, f"if not {node.name}")):
        if branch is not None:
            _gate_branch(_gate(node, test, name), branch)


def _is_false(value: Any) -> bool:
    return not value


def _gate(node: Node, test: Callable[[Any], bool], name: str) -> Gate:
    return Gate(condition(node, test, name))


def _gate_branch(gate: Gate, branch: object) -> None:
    """Put the nodes of a branch behind a gate."""
    graph: Graph = gate.node.graphs[0]
    parts = branch if isinstance(branch, (list, tuple)) else [branch]
    for part in parts:
        for node in resolve_all(part, graph):
            elementwise = graph.entry(gate.node).is_map and graph.entry(node).is_map
            for home in node.graphs:
                if gate.node in home:
                    home.link(Edge(gate.node, node, "gate", mapped=elementwise))


def _first_taken(**branches: Any) -> Any:
    """The first value that is not None: a branch that was not taken gives None."""
    return next((value for value in branches.values() if value is not None), None)


def merge(*branches: object) -> Any:
    """A node with the value of the branch taken: the first that is not None, in the order given.

    Skipped if all branches were; fails if one failed.
    """
    if not branches:
        raise DefinitionError(f"merge() needs at least one branch ({caller()})")
    home = next((node.graphs for node in branches if isinstance(node, Node) and node.graphs), None)
    graphs = scope.current().graphs or home or open_graphs("merge()")
    policies = Policies(trigger=not_all_skipped, skip_on_upstream_skip=False)
    node = Node("merge", _first_taken, policies=policies, kind="merge")
    nodes = {f"branch_{i}": branch for i, branch in enumerate(branches)}
    maps = frozenset(
        name for name, each in nodes.items() if isinstance(each, Node) and each in graphs[0] and graphs[0].entry(each).is_map
    )
    return call(node, nodes, graphs=graphs, mapped=maps)
