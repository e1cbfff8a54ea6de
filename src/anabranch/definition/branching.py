"""Conditions: ``case``, ``switch``, ``Switch``, ``ifelse``, ``when`` and ``merge``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from anabranch.base.errors import DefinitionError
from anabranch.base.names import check_name, short
from anabranch.base.prefect1 import refusing
from anabranch.base.triggers import all_successful, not_all_skipped
from anabranch.base.where import caller
from anabranch.definition import scope
from anabranch.definition.gates import FirstOf, Gate
from anabranch.definition.lookup import each_of, home_of, node_of, nodes_of, open_graphs, path_of, stands_for_node
from anabranch.definition.node import Node, elementwise, matcher
from anabranch.definition.node import condition as condition_node
from anabranch.definition.task import policies_of
from anabranch.definition.wiring import call, close


def case(value: object, equals: object) -> Gate:
    """A block whose tasks run if `value` (a node, a task or a plain value) equals `equals`.

    If `equals` is a function, it is called with the value, and decides.

    Examples
    --------
    ``with case(is_large, True): shrink(image)``
    """
    return as_node(value, "case").case(equals)


def when(value: object) -> Gate:
    """A block whose tasks run if `value` (a node, a task or a plain value) is true."""
    node = as_node(value, "when")
    return Gate(condition_node(node, bool, f"if {node.name}"))


class _Value:
    """Gives a plain value where a node is needed."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __call__(self) -> object:
        return self.value


def as_node(value: object, what: str) -> Node:
    """A node for anything: nodes and tasks stand for themselves, other values get a node that gives them."""
    if isinstance(value, Node):
        return value
    graphs = open_graphs(f"{what}()")
    if stands_for_node(value):
        found: Node = node_of(value, graphs[0])
        return found
    made: Node = call(Node(f"value {short(value)}", _Value(value)), {}, graphs=graphs)
    return made


class Switch(AbstractContextManager["Switch"]):
    """One of several branches, chosen by a value: the first `case` that holds, else `default`.

    Parameters
    ----------
    condition
        A node, a task or a plain value.

    Examples
    --------
    ``with Switch(kind) as s:`` then ``with s.case("a"): …`` and ``with s.default(): …``. Inside the block,
    ``kind.case("a")`` and ``kind.default()`` are the same.
    """

    def __init__(self, condition: object) -> None:
        self.node: Node = as_node(condition, "Switch")
        self._tests: tuple[Callable[[Any], bool], ...] = ()
        self._has_default = False

    def case(self, value: object) -> Gate:
        """A block that runs if this is the first case that holds. A function decides; other values are compared."""
        if self._has_default:
            raise DefinitionError(f"Switch({self.node.name}): case({short(value)}) after default() ({caller()})")
        self._tests = (*self._tests, matcher(value))
        return Gate(condition_node(self.node, FirstOf(self._tests, len(self._tests) - 1), f"case({short(value)})"))

    def default(self) -> Gate:
        """A block that runs if no case holds."""
        if self._has_default or not self._tests:
            reason = "a second default()" if self._has_default else "default() without a case before it"
            raise DefinitionError(f"Switch({self.node.name}): {reason} ({caller()})")
        self._has_default = True
        return Gate(condition_node(self.node, FirstOf(self._tests, None), f"default({self.node.name})"))

    def __enter__(self) -> Switch:
        scope.enter(switches=(*scope.current().switches, self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        scope.leave()
        if kind is None and not self._tests:
            raise DefinitionError(
                f"Switch({self.node.name}) has no case ({caller()}); write `with switch.case(value):` in its block"
            )


@refusing("switch")
def switch(condition: object, cases: Mapping[Any, object], default: object = None) -> None:
    """Run the tasks of the case that equals the value of `condition`. A branch is a node, a task or a list of these."""
    if not cases:
        raise DefinitionError(f"switch() needs at least one case ({caller()})")
    chooser = Switch(condition)
    for value, branch in cases.items():
        _gate_branch(chooser.case(value), branch)
    if default is not None:
        _gate_branch(chooser.default(), default)


@refusing("ifelse")
def ifelse(
    condition: object,
    if_true: object = None,
    if_false: object = None,
    *,
    true_task: object = None,
    false_task: object = None,
) -> None:
    """Run `if_true` if the condition is true, else `if_false`: each a node, a task, a list of these, or None.

    `true_task` and `false_task` are other names of them.
    """
    node = as_node(condition, "ifelse")
    if_true = true_task if if_true is None else if_true
    if_false = false_task if if_false is None else if_false
    if if_true is not None:
        _gate_branch(when(node), if_true)
    if if_false is not None:
        _gate_branch(Gate(condition_node(node, _is_false, f"if not {node.name}")), if_false)


def _is_false(value: Any) -> bool:
    return not value


def _gate_branch(gate: Gate, branch: object) -> None:
    """Put the nodes of a branch behind a gate."""
    graph = home_of(gate.node)
    for each in each_of(branch):
        for node in nodes_of(each, graph):
            for inner in graph.family(node):
                if gate.node in inner:
                    close(gate.node, node, inner)


def _first_taken(**branches: Any) -> Any:
    """The first value that is not None: a branch that was not taken gives None."""
    return next((value for value in branches.values() if value is not None), None)


@refusing("merge")
def merge(*branches: object, flow: Any = None, name: str = "merge", **options: Any) -> Any:
    """A node with the value of the branch that was taken: the first value that is not None.

    It is skipped if all branches were skipped, unless one is a plain value, which it then takes. It fails if a branch
    failed. `options` are those of a task, such as ``checkpoint=False``.
    """
    if not branches:
        raise DefinitionError(f"merge() needs at least one branch ({caller()})")
    nodes = [each for each in branches if isinstance(each, Node)]
    graphs = scope.current().graphs if flow is None else open_graphs("merge()", flow)
    graphs = graphs or (path_of(home_of(*nodes)) if nodes else open_graphs("merge()"))
    has_constant = any(not stands_for_node(each) for each in branches)
    trigger = all_successful if has_constant else not_all_skipped
    policies = policies_of({"trigger": trigger, **options, "skip_on_upstream_skip": False})
    arguments = {f"branch_{i}": elementwise(each, graphs[0]) for i, each in enumerate(branches)}
    node = Node(check_name(name, "task name"), _first_taken, policies=policies, kind="merge")
    return call(node, arguments, graphs=graphs)
