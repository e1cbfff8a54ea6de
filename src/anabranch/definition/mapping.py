"""Running tasks once per element: ``map`` as a function, and ``apply_map``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anabranch.base.errors import DefinitionError, MappingError
from anabranch.base.names import short
from anabranch.base.where import caller
from anabranch.definition import scope
from anabranch.definition.graph import Graph
from anabranch.definition.lookup import node_of, open_graphs, stands_for_node
from anabranch.definition.marks import Mark, flatten, mapped, unmapped
from anabranch.definition.node import Node
from anabranch.definition.task import Task
from anabranch.definition.wiring import call, check_elements

__all__ = ["apply_map", "flatten", "map", "mapped", "unmapped"]


def map(task: Task[..., Any]) -> Callable[..., Any]:
    """``map(t)(xs)`` is ``t.map(xs)``."""
    if not isinstance(task, Task):
        raise DefinitionError(f"map() takes a task, found {short(task)} ({caller()}); decorate the function with @task")
    return task.map


def apply_map(function: Callable[..., Any], *args: object, flow: Any = None, **kwargs: object) -> Any:
    """Call `function` once to write tasks that run for every element of the arguments.

    Parameters
    ----------
    function
        Calls tasks and conditions, and returns a node or a tuple of nodes. Each argument stands for one element.
    *args, **kwargs
        Lists or nodes to map over; every element gets the whole of an `unmapped` one.

    Returns
    -------
    What `function` returned, as mapped nodes.

    Raises
    ------
    MappingError
        Something cannot be mapped over, or nothing is mapped over.
    """
    if not callable(function):
        raise MappingError(f"apply_map(): expected a function that calls tasks, found {short(function)} ({caller()})")
    graphs = open_graphs("apply_map()", flow)
    if scope.current().members is not None:
        raise MappingError(f"apply_map() inside the function of another one ({caller()}); use flatten between two maps")
    given = {**{f"argument {i}": value for i, value in enumerate(args)}, **kwargs}
    mapped_over = {name: value for name, value in given.items() if not isinstance(value, unmapped)}
    if not mapped_over:
        raise MappingError(f"apply_map() has no argument to map over ({caller()})")
    check_elements(mapped_over, "apply_map()")
    elements: list[Node] = []

    def stand_in(value: object) -> object:
        if isinstance(value, unmapped):
            return value.value
        elements.append(_element_of(value, graphs))
        return elements[-1]

    positional = [stand_in(value) for value in args]
    keywords = {name: stand_in(value) for name, value in kwargs.items()}
    with scope.open_scope(graphs=graphs, elements=tuple(elements), members=set(elements)):
        return function(*positional, **keywords)


def _element_of(value: object, graphs: tuple[Graph, ...]) -> Node:
    """The map that gives the elements of a value: itself, or one made for it."""
    if isinstance(value, mapped):
        value = value.value
    if stands_for_node(value) and not isinstance(value, Mark):
        node: Node = node_of(value, graphs[0])
        if node in graphs[0] and graphs[0].entry(node).is_map:
            return node
    made: Node = call(Node("element", _element), {"value": value}, graphs=graphs, is_mapped=True)
    return made


def _element(value: Any) -> Any:
    """What the node does that stands for one element."""
    return value
