"""Running a task once per element: ``map``, ``apply_map``, and the marks on arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anabranch import scope
from anabranch.errors import DefinitionError, MappingError
from anabranch.graph import Graph
from anabranch.node import Node, as_expression, call, open_graphs, resolve, short
from anabranch.task import Task, flatten, mappable, mapped, unmapped
from anabranch.where import caller

__all__ = ["apply_map", "flatten", "map", "mapped", "unmapped"]


def map(task: Task[..., Any]) -> Callable[..., Any]:
    """``map(t)(xs)`` is ``t.map(xs)``."""
    if not isinstance(task, Task):
        raise DefinitionError(f"map() takes a task, found {short(task)} ({caller()}); decorate the function with @task")
    return task.map


def _element(value: Any) -> Any:
    """What the node does that stands for one element."""
    return value


def apply_map(function: Callable[..., Any], *args: object, flow: Any = None, **kwargs: object) -> Any:
    """Write the tasks of `function` once and run them for every element of the arguments.

    Parameters
    ----------
    function
        Calls tasks (conditions too) and returns a node or a tuple of nodes. Each argument stands for one element.
    *args, **kwargs
        Lists or nodes to map over; `unmapped` ones go whole to every element.

    Returns
    -------
    What `function` returned: mapped nodes.

    Raises
    ------
    MappingError
        Something cannot be mapped over, or nothing is.
    """
    graphs = (flow.graph,) if flow is not None else open_graphs("apply_map()")
    if scope.current().members is not None:
        raise MappingError(f"apply_map() inside the function of another one ({caller()}); use flatten between two maps")
    elements: list[Node] = []

    def stand_in(value: object, name: str) -> object:
        if isinstance(value, unmapped):
            return value.value
        element = _element_of(value, name, graphs)
        elements.append(element)
        return element

    positional = [stand_in(value, f"argument {i}") for i, value in enumerate(args)]
    keywords = {name: stand_in(value, name) for name, value in kwargs.items()}
    if not elements:
        raise MappingError(f"apply_map() has no argument to map over ({caller()})")
    with scope.opened(graphs=graphs, elements=tuple(elements), members=set(elements)):
        return function(*positional, **keywords)


def _element_of(value: object, name: str, graphs: tuple[Graph, ...]) -> Node:
    source = mappable(value.value if isinstance(value, mapped) else value, "apply_map", name, graphs[0])
    if as_expression(source, graphs[0]) is not None and not isinstance(source, flatten):
        node = resolve(source, graphs[0], source if isinstance(source, Node) else Node("apply_map", _element))
        if node in graphs[0] and graphs[0].entry(node).is_map:
            return node
    return call(Node("element", _element), {"value": source}, graphs=graphs, mapped=frozenset(["value"]))
