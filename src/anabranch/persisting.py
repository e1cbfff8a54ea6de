"""Which nodes of a flow store their values in a run, and where: the last word, put into their policies."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from anabranch.fingerprints import code_of
from anabranch.frozen import FrozenGraph, FrozenNode
from anabranch.results.base import Result
from anabranch.results.files import LocalResult
from anabranch.storing import Storing, completed


def with_storing(graph: FrozenGraph, result: Result | None, *, checkpointing: bool) -> FrozenGraph:
    """The graph with what is to be done about each node's value.

    Parameters
    ----------
    result
        The flow's.
    checkpointing
        Whether tasks store their values that say nothing of it.
    """
    default = cache(LocalResult)  # one store for all nodes that need one

    def planned(node: FrozenNode) -> FrozenNode:
        own: Storing | None = node.policies.storing
        if node.kind != "task" or (own is None and _is_ours(node)):
            return node
        storing = completed(own, flow_result=result, checkpointing=checkpointing, default=default)
        if storing is not None and storing.is_cached:
            storing = replace(storing, code=code_of(node.signature.function))
        return replace(node, policies=replace(node.policies, storing=storing))

    return FrozenGraph({slug: planned(node) for slug, node in graph.nodes.items()}, graph.reference)


def going_on(graph: FrozenGraph) -> FrozenGraph:
    """The graph for a run that goes on: what is stored again takes the place of what it stored before."""

    def again(node: FrozenNode) -> FrozenNode:
        storing: Storing | None = node.policies.storing
        if storing is None:
            return node
        return replace(node, policies=replace(node.policies, storing=replace(storing, is_resumed=True)))

    return FrozenGraph({slug: again(node) for slug, node in graph.nodes.items()}, graph.reference)


def _is_ours(node: FrozenNode) -> bool:
    """Whether it is a helper of this package's, such as an item of a value or a sum of two: these are made at once."""
    module = getattr(node.signature.function, "__module__", None) or ""
    return module.partition(".")[0] in ("anabranch", "_operator", "operator")
